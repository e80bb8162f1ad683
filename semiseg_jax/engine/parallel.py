"""Maps a per-device step over all devices of all processes.

A step sees its own rows and the axis name "data". State is replicated, batches are split by rows. `shard_map` works on
global arrays; `pmap` on host-local ones, which `to_global` makes global before they are saved.
"""

import contextlib
import ctypes
import dataclasses
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from semiseg_jax.options import Options, option

AXIS = "data"
# Options of glibc's mallopt: one heap, which also serves large requests, and is never trimmed.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
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

    @classmethod
    def create(cls, mapper: str = "shard_map", count: int = 0) -> "Devices":
        devices = jax.devices()
        if count:
            if jax.process_count() > 1:
                raise ValueError("config.devices limits the devices of a single process; leave it 0 with several")
            if count > len(devices):
                raise ValueError(f"config.devices asks for {count} devices but there are {len(devices)}")
            devices = devices[:count]
        mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
        return cls(mesh, mapper)

    @property
    def count(self) -> int:
        return self.mesh.size

    @property
    def local_count(self) -> int:
        return len(self.mesh.local_devices)

    def replicate(self, tree: Any) -> Any:
        """Host arrays -> the state that `map`ped steps take."""
        if self.mapper == "pmap":
            return jax.tree.map(np.asarray, tree)
        sharding = NamedSharding(self.mesh, P())
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)

    def split(self, rows: Mapping[str, np.ndarray]) -> Any:
        """The rows of this process -> the batch that `map`ped steps take."""
        if self.mapper == "pmap":
            return {key: value.reshape(self.local_count, -1, *value.shape[1:]) for key, value in rows.items()}
        sharding = NamedSharding(self.mesh, P(AXIS))
        return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in rows.items()}

    def like(self, tree: Any) -> Any:
        """Shapes, dtypes and devices of the state, for reading a checkpoint that other devices may have written."""
        sharding = NamedSharding(self.mesh, P())
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), tree)

    def map(self, step: Step) -> Step:
        """`step(state, batch) -> (state, metrics)`, compiled over all devices; the old state is given up."""
        if self.mapper == "pmap":
            devices = None if jax.process_count() > 1 else list(self.mesh.devices.flat)
            return jax.pmap(step, AXIS, in_axes=(None, 0), out_axes=None, devices=devices)
        mapped = jax.shard_map(step, mesh=self.mesh, in_specs=(P(), P(AXIS)), out_specs=(P(), P()))
        return jax.jit(mapped, donate_argnums=0)

    def to_global(self, tree: Any) -> Any:
        """State as arrays that every process can save together."""
        if self.mapper == "pmap" and jax.process_count() > 1:
            local = jax.tree.map(np.asarray, tree)
            return multihost_utils.host_local_array_to_global_array(local, self.mesh, P())
        return tree


def fetch(tree: Any) -> Any:
    """Replicated device arrays -> host arrays of this process."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)) if isinstance(x, jax.Array) else x, tree)


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


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Gives a function to call after each step, which tells the signal that asks to save and stop, or 0.

    SIGTERM and the first Ctrl-C ask; the second Ctrl-C raises. Several processes, which call it equally often, agree on
    the call through JAX, which watches for SIGTERM itself, and for no Ctrl-C.
    """
    if jax.process_count() > 1:
        # JAX counts on a number that grows at each call; steps start again with each stage.
        calls = itertools.count(1)
        yield lambda: signal.SIGTERM if multihost_utils.reached_preemption_sync_point(next(calls)) else 0
        return
    if threading.current_thread() is not threading.main_thread():  # signals only reach the main thread
        yield lambda: 0
        return
    received: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0] if received else 0
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
