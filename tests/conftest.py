"""Two virtual devices, one small dataset of each kind, and tiny configs that train in seconds."""

import json
import os
import platform

os.environ["JAX_PLATFORMS"] = "cpu"
# As many devices as CI has cores: more of them deadlock in collectives. The flags for PCs halve the time of compilation
# and change no speed; without AVX2 there are no fused multiply-adds, with which the last bit would depend on how a
# program is cut into loops. What users run: XLA_FLAGS="--xla_cpu_use_fusion_emitters=true --xla_cpu_max_isa=AVX512",
# and the tests of two processes.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=2 "
    + ("--xla_cpu_use_fusion_emitters=false --xla_cpu_max_isa=AVX " * (platform.machine() in ("x86_64", "AMD64")))
    + os.environ.get("XLA_FLAGS", "")
)

from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from semiseg_jax.config import default_config
from semiseg_jax.data import shapes
from semiseg_jax.data.folder import Folder


@pytest.fixture(scope="session", autouse=True)
def _compilation_cache(tmp_path_factory):
    """Programs compiled by one test serve the next, and nothing is written to the user's cache."""
    cache = tmp_path_factory.mktemp("xla")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    jax.config.update("jax_compilation_cache_dir", str(cache))


@pytest.fixture
def fast_compilation():
    """Programs that compile fast, with hardly any optimisation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def _fast_where_programs_are_many_and_small(request):
    if request.path.parent.name in ("methods", "verbs"):
        request.getfixturevalue("fast_compilation")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> str:
    """Where the session's datasets are built."""
    return str(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def tiny_config(data_dir, monkeypatch) -> ConfigDict:
    """A run on a small `shapes` set with a small network: a step takes milliseconds."""
    monkeypatch.setattr(shapes, "SIZES", {"train": 24, "val": 6})
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
def open_folder(tmp_path):
    """path, options -> a builder that writes below the test's own directory."""
    return lambda path, **options: Folder(str(path), data_dir=str(tmp_path / "built"), **options)
