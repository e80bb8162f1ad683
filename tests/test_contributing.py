"""The files that CONTRIBUTING.md shows run as they stand."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from method_steps import forward, make_batch, make_config
from PIL import Image

from semiseg_jax.config import default_config, settings, with_method
from semiseg_jax.data.datasets import open_dataset

pytestmark = pytest.mark.heavy

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    for name, content in FILES.items():
        (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    for name in FILES:
        sys.modules.pop(name, None)


def test_the_method_has_about_60_lines_and_computes_its_loss():
    assert len(FILES["my_method"].splitlines()) < 75
    config = make_config("my_method:PixelPropagation", quota={"dense": 1, "unlabeled": 1})
    config.propagation.features = "down0"
    metrics = forward(config, make_batch(("dense", "unlabeled")))[1]
    assert float(metrics["loss"]) == pytest.approx(float(metrics["cross_entropy"] + metrics["propagated"]), rel=1e-5)


def test_the_term_joins_the_loss():
    config = with_method(make_config(), "supervised", ("my_term:Entropy",))
    config.terms.entropy.weight = 0.1
    metrics = forward(config, make_batch(["dense"]))[1]
    expected = float(metrics["cross_entropy"] + 0.1 * metrics["entropy"])
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


def test_the_dataset_is_built(tmp_path):
    for number in range(7):
        Image.fromarray(np.zeros((9, 11, 3), np.uint8)).save(tmp_path / f"{number}.png")
    Image.fromarray(np.ones((9, 11), np.uint8)).save(tmp_path / "0_mask.png")
    config = default_config()
    config.data.update({"name": "my_dataset:Numbered", "path": str(tmp_path), "data_dir": str(tmp_path / "built")})
    dataset = open_dataset(settings(config).data)
    assert {split: len(rows) for split, rows in dataset.info.splits.items()} == {"train": 5, "val": 2}
    assert dataset.masked_indices("val") == [0]


def test_the_network_is_trained_like_ours():
    config = make_config("unimatch", quota={"dense": 1, "unlabeled": 1})
    config.model = {"name": "my_network:Plain", "width": 8}
    assert np.isfinite(forward(config, make_batch(("dense", "unlabeled")))[1]["loss"])


def test_every_class_that_a_command_names_is_in_a_file_that_is_shown():
    named = set(re.findall(r"\b(my_\w+):(\w+)", TEXT))
    assert {module for module, _ in named} == FILES.keys()
    assert all(f"class {name}(" in FILES[module] for module, name in named)
