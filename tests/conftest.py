"""Two virtual devices, one small dataset of each kind, and tiny configs that train in seconds."""

import gc
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from semiseg_jax.config import default_config
from semiseg_jax.data import shapes
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.data.fields import Data
from semiseg_jax.data.folder import Folder

os.environ["JAX_PLATFORMS"] = "cpu"  # of processes that tests start
jax.config.update("jax_platforms", "cpu")


def _accepted(flags: str) -> bool:
    """Whether this jaxlib knows these flags: one that it does not know ends the process."""
    environment = os.environ | {"XLA_FLAGS": flags}
    return not subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True
    ).returncode


# Flags for PCs. The first shortens compilation to a half and changes no speed. Without AVX2 there are no fused
# multiply-adds, with which the last bit would depend on how a program is cut into loops. Workers inherit what is found.
if platform.machine() in ("x86_64", "AMD64") and "PYTEST_XDIST_WORKER" not in os.environ:
    for flag in ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_max_isa=AVX"):
        if _accepted(flag):
            os.environ["XLA_FLAGS"] = f"{flag} {os.environ.get('XLA_FLAGS', '')}"
# As many devices as CI has cores: more of them deadlock in collectives.
jax.config.update("jax_num_cpu_devices", 2)
# With hardly any optimisation programs compile three times as fast; most tests run theirs once.
jax.config.update("jax_disable_most_optimizations", True)


def pytest_collection_finish():
    """Tracing makes many objects that live long: looking for garbage as often as usual takes a tenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def _compilation_cache(tmp_path_factory):
    """Programs compiled by one test serve the next, in other workers and processes too; the user's cache is left alone.

    Two runs share the folder that SEMISEG_TEST_CACHE names.
    """
    base = tmp_path_factory.getbasetemp()
    own = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    cache = os.environ.get("SEMISEG_TEST_CACHE") or str(own / "xla")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture
def fully_optimised():
    """Programs as users run them, for a test that depends on how they are compiled."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="module")
def _runs_share_programs(request):
    """In the room of the verbs, runs of one config trace and compile its step once."""
    if request.path.parent.name != "verbs":
        yield
        return
    from shared_programs import shared_programs  # loads all of the package, which other rooms do without

    with shared_programs():
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> str:
    """Where the session's datasets are built."""
    return str(tmp_path_factory.mktemp("datasets"))


def make_tiny_config(data_dir: str) -> ConfigDict:
    """A run on a small `shapes` set with a small network: a step takes milliseconds."""
    config = default_config()
    config.steps = 6
    config.data.data_dir = data_dir
    config.data.quota = {"dense": 1, "scribble": 1}
    config.data.assign = {"dense": 0.25, "scribble": 0.5, "unlabeled": 0.25}
    config.data.threads = 1
    config.augment.crop = (32, 32)
    config.augment.scale = (0.5, 1.0)
    config.model = ConfigDict({"name": "unet", "widths": (8, 8)})
    config.eval.every = 3
    config.eval.batch_size = 2
    config.eval.max_images = 2
    config.log.every = 2
    config.log.tensorboard = False
    config.log.panel_rows = 0
    return config


@pytest.fixture(scope="module")
def few_shapes():
    """The `shapes` set has 30 images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SIZES", {"train": 24, "val": 6})
        yield


@pytest.fixture
def tiny_config(data_dir, few_shapes) -> ConfigDict:
    return make_tiny_config(data_dir)


class FolderMaker:
    """Writes a dataset folder: six 40x48 images of a bright square, with every optional file on request."""

    classes = ("background", "square", "other")

    def __init__(self, root: Path):
        self.root = root
        self.ids = [f"im{i}" for i in range(6)]

    def __call__(self, *, masks=True, scribbles=False, points=False, boxes=False, tags=False, splits=True) -> Path:
        rng = np.random.default_rng(0)
        for folder in ("images", "masks", "scribbles", "splits"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "dataset.json").write_text(json.dumps({"classes": self.classes}))
        for i, id in enumerate(self.ids):
            mask = np.zeros((40, 48), np.uint8)
            mask[10 + i : 26 + i, 12:30] = 1
            image = np.where(mask[..., None] > 0, 220, 40) + rng.integers(0, 20, (40, 48, 3))
            Image.fromarray(image.astype(np.uint8)).save(self.root / "images" / f"{id}.png")
            if masks:
                Image.fromarray(mask).save(self.root / "masks" / f"{id}.png")
            if scribbles:
                scribble = np.full((40, 48), 255, np.uint8)
                scribble[2, 4:40] = 0
                scribble[18, 14:28] = 1
                Image.fromarray(scribble).save(self.root / "scribbles" / f"{id}.png")
        if points:
            self.write_json("points.json", {id: [[18, 20, 1], [3, 3, 0]] for id in self.ids})
        if tags:
            self.write_json("tags.json", {id: [1] for id in self.ids})
        if boxes:
            self.write_json(
                "boxes.json",
                {
                    "images": [{"id": i, "file_name": f"{id}.png"} for i, id in enumerate(self.ids)],
                    "annotations": [
                        {"image_id": i, "bbox": [12, 10 + i, 18, 16], "category_id": 7} for i in range(len(self.ids))
                    ],
                    "categories": [{"id": 7, "name": "square"}],
                },
            )
        if splits:
            (self.root / "splits" / "train.txt").write_text("\n".join(self.ids[:4]))
            (self.root / "splits" / "val.txt").write_text("\n".join(self.ids[4:]))
        return self.root

    def write_json(self, name: str, content) -> None:
        (self.root / name).write_text(json.dumps(content))


@pytest.fixture
def make_folder(tmp_path) -> FolderMaker:
    return FolderMaker(tmp_path / "source")


@pytest.fixture
def open_set(tmp_path):
    """path, options -> a folder that is built and open, with labels drawn as `simulate` asks."""
    return lambda path, **options: open_dataset(
        Data(name="folder", path=str(path), data_dir=str(tmp_path / "built"), **options)
    )


@pytest.fixture
def open_folder(tmp_path):
    """path, options -> a builder that writes below the test's own directory."""
    return lambda path, **options: Folder(
        Data(name="folder", path=str(path), data_dir=str(tmp_path / "built"), **options)
    )
