"""Maps a per-device step over all devices of all processes.

A step sees its own rows and the axis name "data". Batches are split by rows. Each device has the whole state, or with
`shard_state` its shards of it (`engine/shards.py`). `shard_map` works on global arrays; `pmap` on host-local ones,
which `to_global` makes global before they are saved.
"""

import contextlib
import ctypes
import dataclasses
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from semiseg_jax.options import Options, option

AXIS = "data"
# Channels that go in: they are multiples of 8 more often than those that go out, which a TPU would also pad to 128.
SHARD_AXIS = -2
_SMALL = 1024  # numbers; what has fewer of them is not worth a message of its own
# Options of glibc's mallopt: one heap, which also serves large requests, and is never trimmed.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_TICK = 0.5  # seconds of host work that count as one call
Step = Callable[[Any, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Distributed(Options):
    """Several processes that train together."""

    enabled: bool = option(False, "join the other processes of the run; Slurm, GKE and TPU pods need no more")
    coordinator: str = option("", "HOST:PORT of the first process, elsewhere")
    processes: int = option(0, "how many there are, elsewhere", low=0)
    process: int = option(-1, "which one this is, elsewhere", low=-1)


def initialize(distributed: Distributed) -> None:
    """Joins the processes of one run. Slurm, GKE and TPU pods need no address; other clusters give all three."""
    if not distributed.enabled or jax.distributed.is_initialized():
        return
    if getattr(jax.config, "jax_platforms", None) == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator_address=distributed.coordinator or None,
        num_processes=distributed.processes or None,
        process_id=distributed.process if distributed.process >= 0 else None,
    )


def keep_memory() -> None:
    """Lets the process keep the memory that it frees, on machines without an accelerator whose C library is glibc.

    XLA asks for the buffers of a step anew at each step; where the system has to map them again each time, that takes a
    good part of the step. It helps threads that start later: call it before JAX is used.
    """
    accelerators = ("nvidia0", "kfd", "accel0", "vfio/0")
    if sys.platform != "linux" or any(Path("/dev", name).exists() for name in accelerators):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for which, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
        mallopt(which, value)


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run and the way steps are mapped over them."""

    mesh: Mesh
    mapper: str
    shard_state: bool = False

    @classmethod
    def create(cls, mapper: str = "shard_map", count: int = 0, shard_state: bool = False) -> "Devices":
        devices = jax.devices()
        if count:
            if jax.process_count() > 1:
                raise ValueError("config.devices limits the devices of a single process; leave it 0 with several")
            if count > len(devices):
                raise ValueError(f"config.devices asks for {count} devices but there are {len(devices)}")
            devices = devices[:count]
        mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
        return cls(mesh, mapper, shard_state)

    @property
    def count(self) -> int:
        return self.mesh.size

    @property
    def local_count(self) -> int:
        return len(self.mesh.local_devices)

    def spec(self, x: Any) -> P:
        """How an array of the state is divided among the devices."""
        large = self.shard_state and len(x.shape) > 1 and math.prod(x.shape) >= _SMALL
        if not large or x.shape[SHARD_AXIS] % self.count or not jnp.issubdtype(x.dtype, jnp.floating):
            return P()
        return P(*[None] * (len(x.shape) + SHARD_AXIS), AXIS)

    def replicate(self, tree: Any) -> Any:
        """Host arrays, the same in all processes -> the state that `map`ped steps take."""
        if self.mapper == "pmap":
            return jax.tree.map(np.asarray, tree)

        def put(x: Any) -> jax.Array:
            array = np.asarray(x)
            sharding = NamedSharding(self.mesh, self.spec(array))
            return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

        return jax.tree.map(put, tree)

    def split(self, rows: Mapping[str, np.ndarray]) -> Any:
        """The rows of this process -> the batch that `map`ped steps take."""
        if self.mapper == "pmap":
            return {key: value.reshape(self.local_count, -1, *value.shape[1:]) for key, value in rows.items()}
        sharding = NamedSharding(self.mesh, P(AXIS))
        return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in rows.items()}

    def like(self, tree: Any) -> Any:
        """Shapes, dtypes and devices of the state, for reading a checkpoint that other devices may have written."""

        def like(x: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.mesh, self.spec(x)))

        return jax.tree.map(like, tree)

    def map(self, step: Step) -> Step:
        """`step(state, batch) -> (state, metrics)`, compiled over all devices. The old state is given up."""
        if self.mapper == "pmap":
            devices = None if jax.process_count() > 1 else list(self.mesh.devices.flat)
            return jax.pmap(step, AXIS, in_axes=(None, 0), out_axes=None, devices=devices, donate_argnums=0)

        def mapped(state: Any, batch: Any) -> tuple[Any, Any]:
            specs = jax.tree.map(self.spec, state)
            run = jax.shard_map(step, mesh=self.mesh, in_specs=(specs, P(AXIS)), out_specs=(specs, P()))
            return run(state, batch)

        return jax.jit(mapped, donate_argnums=0)

    def to_global(self, tree: Any) -> Any:
        """State as arrays that every process can save together."""
        if self.mapper == "pmap" and jax.process_count() > 1:
            local = jax.tree.map(np.asarray, tree)
            return multihost_utils.host_local_array_to_global_array(local, self.mesh, P())
        return tree


def fetch(tree: Any) -> Any:
    """Device arrays -> host arrays of this process. All processes call it together: shards come from all of them."""

    def host(x: Any) -> Any:
        if not isinstance(x, jax.Array):
            return x
        if x.is_fully_replicated:
            return np.asarray(x.addressable_data(0))
        return np.asarray(x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(host, tree)


def rows_per_device(batch_size: int, quota_rows: int, devices: int, accumulate: int) -> int:
    """Rows of one micro-batch on one device; 0 asks for one quota."""
    if not batch_size:
        return quota_rows
    if batch_size % devices:
        raise ValueError(f"batch_size {batch_size} is not divisible by {devices} devices")
    per_device = batch_size // devices
    if per_device % accumulate:
        raise ValueError(f"batch_size {batch_size} on {devices} devices is not divisible by accumulate {accumulate}")
    rows = per_device // accumulate
    if rows < quota_rows:
        raise ValueError(
            f"data.quota asks for {quota_rows} rows but a micro-batch of one device has {rows} "
            f"(batch_size {batch_size} / {devices} devices / accumulate {accumulate})"
        )
    if rows % quota_rows:
        raise ValueError(
            f"a micro-batch of one device has {rows} rows, which is no multiple of the quota's {quota_rows}"
        )
    return rows


class StopSignal:
    """Tells the signal that asks to save and stop, or 0. This one hears of none."""

    def __call__(self) -> int:
        """To be called after each step: several processes call it equally often."""
        return 0

    def in_host_work(self) -> int:
        """The same for work between steps, of which processes do different amounts. `agree` comes after it."""
        return self()

    def agree(self) -> int:
        """Waits for all processes, which did host work -> the signal that all of them know of."""
        return self()


class _Received(StopSignal):
    """What the handlers of one process heard."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self) -> int:
        return self.numbers[0] if self.numbers else 0

    def hear(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.numbers:
            raise KeyboardInterrupt
        self.numbers.append(number)


class _Agreed(StopSignal):
    """JAX watches for SIGTERM. Processes stop at the same call: one above the highest that any had made by then.

    JAX counts on a number that grows at each call; steps start again with each stage.
    """

    def __init__(self) -> None:
        self.calls, self.found = 0, 0
        self.started: float | None = None  # when the host work began, and the calls made for it
        self.ticks = 0

    def __call__(self) -> int:
        self.calls += 1
        if multihost_utils.reached_preemption_sync_point(self.calls):
            self.found = signal.SIGTERM
        return self.found

    def in_host_work(self) -> int:
        """Counts by the clock, so that the counts of the processes stay close."""
        now = time.monotonic()
        if self.started is None:
            self.started, self.ticks = now, 0
        while self.ticks < (now - self.started) / _TICK and not self.found:
            self.ticks += 1
            self()
        return self.found

    def agree(self) -> int:
        most = int(np.max(multihost_utils.process_allgather(np.int32(self.calls))))
        while self.calls < most:
            self()
        self.started = None
        return self.found


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignal]:
    """Gives what tells the signal that asks to save and stop.

    SIGTERM and the first Ctrl-C ask; the second Ctrl-C raises. Several processes hear of SIGTERM, and of no Ctrl-C.
    """
    if jax.process_count() > 1:
        yield _Agreed()
        return
    if threading.current_thread() is not threading.main_thread():  # signals only reach the main thread
        yield StopSignal()
        return
    received = _Received()
    before = {number: signal.signal(number, received.hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def sum_over_processes(array: np.ndarray) -> np.ndarray:
    """Adds host arrays of all processes; int64 and float64 stay exact."""
    if jax.process_count() == 1:
        return array
    as_bytes = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(as_bytes))
    parts = [np.frombuffer(part.tobytes(), array.dtype).reshape(array.shape) for part in gathered]
    return np.sum(parts, axis=0, dtype=array.dtype)


def barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def is_main() -> bool:
    return jax.process_index() == 0
