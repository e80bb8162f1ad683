"""Joins the processes of one run, and shares work between them."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import logging
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from semiseg_jax.engine.clusters import Cluster, cluster_from, left_alone, own_devices, place_of
from semiseg_jax.engine.lifeline import Lifeline, end, shielded, tie
from semiseg_jax.options import Options, option

logger = logging.getLogger("semiseg_jax")
P = ParamSpec("P")
R = TypeVar("R")

HEARTBEAT = 50  # seconds after which JAX holds a silent process for dead
WAIT = 300  # seconds for processes that are not there yet
_tied: list[Lifeline] = []


@dataclasses.dataclass(frozen=True)
class Distributed(Options):
    """Several processes that work together."""

    enabled: str = option(
        "auto",
        "join the other processes of the run: auto = those that a launcher started with this one, yes = there must be "
        "some, no = never",
        choices=("auto", "yes", "no"),
    )
    coordinator: str = option("", "HOST:PORT of the first process, where no launcher says it")
    processes: int = option(0, "how many there are, where no launcher says it", low=0)
    process: int = option(-1, "which one this is, from 0, where no launcher says it", low=-1)

    def __post_init__(self) -> None:
        words = {"true": "yes", "false": "no"}  # as it was once written
        object.__setattr__(self, "enabled", words.get(str(self.enabled).lower(), self.enabled))
        super().__post_init__()


def join(distributed: Distributed) -> None:
    """Joins the processes of one run, if there are several. To be called before JAX is used."""
    if distributed.enabled == "no" or jax.distributed.is_initialized():
        return
    cluster = _cluster(distributed)
    if cluster is None:
        if not (_may_be_tpu_pod() and _joined_as_jax_finds_them()):
            if distributed.enabled == "yes":
                raise ValueError(
                    "config.distributed.enabled is yes, but no launcher started several processes (srun, mpirun, "
                    "torchrun, SkyPilot, a JobSet, a TPU pod); give coordinator, processes and process there"
                )
            if text := left_alone(os.environ):
                logger.warning(text)
            return
    elif cluster.processes > 1:
        with _patience(cluster):
            _initialize(
                coordinator_address=cluster.coordinator if cluster.process == 0 else shielded(cluster.coordinator),
                num_processes=cluster.processes,
                process_id=cluster.process,
                local_device_ids=own_devices(cluster, visible_gpus(os.environ)),
                cluster_detection_method="deactivate",  # of Slurm's tasks it would give each one GPU
            )
    if jax.process_count() > 1 and (lifeline := tie(cluster.coordinator if cluster else "")):
        _tied.append(lifeline)


def _cluster(distributed: Distributed) -> Cluster | None:
    """As the config says, and where it says nothing as a launcher does."""
    given: dict[str, Any] = {
        name: value
        for name in ("coordinator", "processes", "process")
        if (value := getattr(distributed, name)) not in ("", -1) and (name, value) != ("processes", 0)
    }
    if len(given) == 3:
        return Cluster(
            "config.distributed", given["coordinator"], given["processes"], given["process"], *place_of(os.environ)
        )
    found = cluster_from(os.environ)
    if given and found is None:
        missing = [name for name in ("coordinator", "processes", "process") if name not in given]
        raise ValueError(
            f"config.distributed gives {' and '.join(given)} but not {' and '.join(missing)}, and no launcher says it"
        )
    return dataclasses.replace(found, **given) if found and given else found


def _initialize(**how: Any) -> None:
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT, initialization_timeout=2 * WAIT, **how)
    except RuntimeError as error:
        if "before any JAX calls" in str(error):
            raise RuntimeError(
                "several processes were started, but JAX was used here before they could be joined; "
                "--config.distributed.enabled=no lets this process run alone"
            ) from error
        raise RuntimeError(f"the processes cannot be joined: {str(error).strip().splitlines()[0]}") from error


@contextlib.contextmanager
def _patience(cluster: Cluster) -> Iterator[None]:
    """Says so where other processes do not come, and ends this one after a while; JAX would abort it."""
    which = f"process {cluster.process} of {cluster.processes} ({cluster.launcher})"

    def tell() -> None:
        logger.warning("%s waits for the others at %s", which, cluster.coordinator)

    def give_up() -> None:
        where = f"at {cluster.coordinator} within {WAIT} seconds"
        end(f"{which} did not find the others {where}: start all of them, where each can reach that address")

    timers = [threading.Timer(WAIT / 10, tell), threading.Timer(WAIT, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _joined_as_jax_finds_them() -> bool:
    """Whether JAX knows of the hosts of this TPU, by the metadata server of Google's cloud."""
    try:
        _initialize()
    except (ValueError, OSError):  # no such server
        return False
    return True


def _may_be_tpu_pod() -> bool:
    asked = os.environ.get("JAX_PLATFORMS") or getattr(jax.config, "jax_platforms", None) or "tpu"
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return "tpu" in asked and bool(chips) and importlib.util.find_spec("libtpu") is not None


def visible_gpus(environ: Mapping[str, str], dev: Path = Path("/dev")) -> int:
    """GPUs that this process sees."""
    if environ.get("JAX_PLATFORMS") == "cpu":
        return 0
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        if name in environ:
            listed = [part for part in environ[name].split(",") if part.strip()]
            return 0 if listed[:1] in (["-1"], ["NoDevFiles"]) else len(listed)
    return len(list(dev.glob("nvidia[0-9]*")))


def gather(value: Any) -> list[Any]:
    """Values of all processes, in the order of the processes; each is pickled."""
    if jax.process_count() == 1:
        return [value]
    content = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(content))))
    room = 1 << int(sizes.max() - 1).bit_length()  # few sizes, so that few programs are compiled
    rows = np.asarray(multihost_utils.process_allgather(np.pad(content, (0, room - len(content)))))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def share(items: Sequence[R]) -> Sequence[R]:
    """Those of the items that this process works on."""
    return items[jax.process_index() :: jax.process_count()]


def check_same(items: Sequence[str], what: str) -> None:
    """Raises if processes that are to share the items see others, as on machines with different files."""
    seen = gather(hashlib.sha256("\n".join(items).encode()).digest())
    other = next((number for number, digest in enumerate(seen) if digest != seen[0]), 0)
    if other:
        raise ValueError(f"process {other} sees other {what} than process 0; all of them must see the same files")


def together(verb: Callable[P, R]) -> Callable[P, R]:
    """What processes do together: when it fails in one of them, all others hear why, and end."""

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except BaseException as error:
            for lifeline in _tied:
                lifeline.fail(error)
            raise

    return run
