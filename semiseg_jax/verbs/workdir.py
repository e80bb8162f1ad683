"""The workdir of a run: its config, its dataset's description, its checkpoints; and a trained model read back."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from ml_collections import ConfigDict

from semiseg_jax import config as config_lib
from semiseg_jax.data.datasets import Dataset, open_dataset
from semiseg_jax.data.fields import Data
from semiseg_jax.data.records import DatasetInfo
from semiseg_jax.data.remote import address_of
from semiseg_jax.data.types import IGNORE, Batch
from semiseg_jax.engine import inference, mirror, processes
from semiseg_jax.engine.checkpoints import CheckpointError, Checkpoints, write_json
from semiseg_jax.engine.parallel import barrier, fetch, is_main
from semiseg_jax.engine.postprocess import make_post
from semiseg_jax.engine.settings import Settings
from semiseg_jax.methods import Method, Stage, make_method

logger = logging.getLogger("semiseg_jax")

FIRST_DEVICES = "devices_at_first"  # in versions.json: how many the run began on

_PACKAGES = (
    "semiseg-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
)


def check(config: ConfigDict, workdir: Path) -> int:
    """Raises if the workdir holds checkpoints of a run with another config, or is no folder.

    A run may be made longer -> the steps that it was for until now; 0 where that has not changed.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"workdir {workdir} is a file")
    if not (workdir / "config.json").exists() or not _holds_steps(workdir / "checkpoints", "*/*"):
        return 0
    old = read_config(workdir)
    changed = config_lib.differences(old, config)
    if not changed:
        return 0
    if len(changed) == 1 and config.steps > old.steps:
        return int(old.steps)
    raise ValueError(
        f"{mirror.shown(workdir)} holds a run of another config:\n  " + "\n  ".join(changed)
        + "\nUse another --workdir, or the old values to go on with that run (only its steps may grow)."
    )  # fmt: skip


def anchored(config: ConfigDict) -> ConfigDict:
    """The config with absolute paths of what is read again later, wherever that is done from."""
    config = ConfigDict(config.to_dict())
    for name in ("path", "data_dir", "made_labels"):
        if config.data[name]:
            config.data[name] = absolute(config.data[name], config.data.name if name == "path" else "")
    return config


def absolute(path: str, name: str = "") -> str:
    """The path of a dataset, or those of a joined one, wherever one stands."""
    paths = path.split("+") if "+" in name else [path]
    return "+".join(address_of(one) or os.path.abspath(os.path.expanduser(one)) if one else "" for one in paths)


def claim(config: ConfigDict, workdir: Path, command: str, first_devices: int) -> None:
    """Writes config and versions into the workdir; everything has been checked before."""
    if is_main():
        write_json(workdir / "config.json", config_lib.to_json(config))
        write_json(workdir / "versions.json", versions() | {"command": command, FIRST_DEVICES: first_devices})
    barrier("workdir written")


def first_devices(workdir: Path, count: int) -> int:
    """How many devices the run of this workdir began on: `count`, where it begins now or does not say."""
    path = workdir / "versions.json"
    if not path.exists() or not _holds_steps(workdir / "checkpoints", "*/*"):
        return count
    return int(json.loads(path.read_text()).get(FIRST_DEVICES, count))


def open_together(data: Data, *, planned: bool = False) -> Dataset:
    """The dataset, which the first process builds, if need be, while the others wait."""
    if is_main():
        dataset = open_dataset(data, planned=planned)
    barrier("dataset built")
    dataset = dataset if is_main() else open_dataset(data)
    if jax.process_count() > 1:  # hosts may each have a copy of their own
        processes.check_same([dataset.info.index_digest()], "images or labels of the dataset")
    return dataset


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Keeps a second run out of the workdir; the lock goes with the process, however it ends."""
    if not is_main():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is going on in {workdir}; use another --workdir") from None
        except OSError as error:  # some network filesystems have no locks
            logger.warning("%s cannot be locked (%s): do not start two runs in it", workdir, error)
        yield


def versions() -> dict[str, Any]:
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "unknown"
    devices = [f"{device.device_kind} x{jax.device_count()}" for device in jax.devices()[:1]]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "devices": devices,
        "packages": packages,
    }


def read_config(workdir: str | Path) -> ConfigDict:
    workdir = mirror.reading(workdir)
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"{mirror.shown(workdir)} is not a workdir of `semiseg train`: {path.name} is missing")
    config = config_lib.from_json(path.read_text())
    config.distributed = config_lib.default_config().distributed  # of the processes that trained
    return config


def write_dataset(workdir: Path, info: DatasetInfo, canvas: tuple[int, int]) -> None:
    """What prediction needs to know of the training data."""
    if is_main():
        content = {
            "name": info.name,
            "classes": info.classes,
            "colors": info.colors,
            "background": info.background,
            "canvas": canvas,
        }
        write_json(workdir / "dataset.json", content)


def use_compilation_cache() -> None:
    """Compiled programs are kept on disk, so that a second start is quick. JAX_COMPILATION_CACHE_DIR moves them."""
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "semiseg_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def checkpoint_dir(workdir: Path, stage: Stage) -> Path:
    return workdir / "checkpoints" / stage.name


def has_checkpoint(workdir: Path, stage: Stage) -> bool:
    return _holds_steps(checkpoint_dir(workdir, stage), "*")


def _holds_steps(directory: Path, pattern: str) -> bool:
    """Whether a checkpoint was finished; one that a kill cut short is named 10.orbax-checkpoint-tmp."""
    return any(path.name.isdigit() for path in directory.glob(pattern))


def dummy_batch(crop: Sequence[int], num_classes: int) -> Batch:
    """One row of the right shapes, to initialise networks with."""
    height, width = crop
    batch = {
        "image": np.zeros((1, height, width, 3), np.float32),
        "label": np.full((1, height, width), IGNORE, np.int32),
        "valid": np.ones((1, height, width), bool),
        "boxes": np.zeros((1, 1, 4), np.float32),
        "box_class": np.full((1, 1), -1, np.int32),
        "tags": np.full((1, num_classes), -1, np.int8),
        "kind": np.zeros((1,), np.int32),
        "id": np.zeros((1, 2), np.int32),
        "seed": np.zeros((1,), np.uint32),
    }
    return cast(Batch, batch)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model: everything that evaluation and prediction need."""

    config: Settings
    method: Method
    variables: Any
    info: DatasetInfo
    canvas: tuple[int, int]
    step: int

    def predictor(self, options: inference.Inference | None = None) -> inference.Predictor:
        """`options` are those of the config by default."""
        options = options or inference_options(self.config, self.canvas)
        return inference.Predictor(self.method.predict, self.variables, options, self.info.num_classes)


def join(workdir: str | Path, config: ConfigDict | None) -> None:
    """Joins the processes that are to share a trained model's work; `config` as in `load`."""
    processes.join(config_lib.settings(config or read_config(workdir)).distributed)


def load(workdir: str | Path, *, checkpoint: str = "best", config: ConfigDict | None = None) -> Trained:
    """Reads the model of a workdir; `config` (its own by default) may change how it is evaluated."""
    workdir = mirror.reading(workdir)
    settings = config_lib.settings(config or read_config(workdir))
    use_compilation_cache()
    path = workdir / "dataset.json"
    if not path.is_file():
        raise CheckpointError(f"{mirror.shown(workdir)} holds no trained model yet: {path.name} is missing")
    data = json.loads(path.read_text())
    info = DatasetInfo(data["name"], tuple(data["classes"]), tuple(map(tuple, data["colors"])), data["background"], {})
    method = make_method(settings, info.num_classes)
    stage = method.stages()[-1]
    directory = checkpoint_dir(workdir, stage)
    mirror.fetch_checkpoints(directory)
    shared = mirror.is_shared(workdir)
    checkpoints = Checkpoints(directory, settings.checkpoint.metric, read_only=True, shared=shared)
    try:
        step = checkpoints.choose(checkpoint)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.eval_shape(
            stage.init, jax.random.PRNGKey(0), dummy_batch(stage.config.augment.crop, info.num_classes)
        )
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)
        state, _ = checkpoints.restore(step, like)
    finally:
        checkpoints.close()
    logger.info("read checkpoint %d of %s", step, mirror.shown(workdir))
    variables = fetch(method.eval_variables(state, settings.eval.weights))
    canvas = (int(data["canvas"][0]), int(data["canvas"][1]))
    return Trained(settings, method, variables, info, canvas, step)


def inference_options(config: Settings, canvas: tuple[int, int]) -> inference.Inference:
    return inference.Inference(
        canvas=canvas,
        window=config.eval.window if any(config.eval.window) else config.augment.crop,
        mode=config.eval.mode,
        batch_size=config.eval.batch_size,
        flip=config.eval.flip,
        scales=config.eval.scales,
        overlap=config.eval.overlap,
        post=make_post(config.eval.post),
    )


def as_json(results: Mapping[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """Metrics with vectors as {class: value}, matrices as lists of rows; a value that does not exist is null."""

    def plain(value: Any) -> Any:
        if np.ndim(value) == 2:
            return np.asarray(value).tolist()
        if np.ndim(value) == 1:
            return {name: plain(float(item)) for name, item in zip(classes, value, strict=True)}
        return None if isinstance(value, float) and value != value else value

    return {name: plain(value) for name, value in results.items()}
