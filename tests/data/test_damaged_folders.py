"""Whatever the files of a dataset folder hold, they are read or refused in words."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from broken_files import ANYTHING, MANY, damaged, replaced
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semiseg_jax.data.fields import Data
from semiseg_jax.data.folder import Folder
from semiseg_jax.data.label_maps import FolderError

pytestmark = pytest.mark.heavy

JSON = {
    "dataset.json": {"classes": ["background", "cat"], "colors": [[0, 0, 0], [255, 0, 0]], "ignore_label": 255},
    "points.json": {"a": [[1, 2, 1], [8, 3, 0]], "b": [[0, 0, 0]]},
    "boxes.json": {
        "images": [{"id": 1, "file_name": "a.png", "height": 10, "width": 14}, {"id": 2, "file_name": "b.png"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]},
            {"id": 2, "image_id": 2, "category_id": 1, "bbox": [1, 1, 4, 4], "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "cat"}],
    },
    "tags.json": {"a": [1], "b": [0, 1]},
}
FILES = (*JSON, "splits/train.txt", "images/a.png", "masks/a.png", "scribbles/b.png")


@pytest.fixture(scope="module")
def folder():
    """A dataset folder with every kind of label."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "source")
        for inner in ("images", "masks", "scribbles", "splits"):
            (root / inner).mkdir(parents=True)
        for id in "ab":
            Image.fromarray(np.full((10, 14, 3), 90, np.uint8)).save(root / "images" / f"{id}.png")
            Image.fromarray(np.eye(10, 14, dtype=np.uint8)).save(root / "masks" / f"{id}.png")
            drawn = np.full((10, 14), 255, np.uint8)
            drawn[4, 2:9] = 1
            Image.fromarray(drawn).save(root / "scribbles" / f"{id}.png")
        for file, content in JSON.items():
            (root / file).write_text(json.dumps(content))
        (root / "splits" / "train.txt").write_text("a\nb\n")
        yield root


def survives(folder, file, content):
    """Reads all of the folder with this content of a file; then the file is as it was."""
    path = folder / file
    whole = path.read_bytes()
    before = sorted(folder.parent.rglob("*"))
    problem = None
    try:
        path.write_bytes(content)
        list(Folder(Data(name="folder", path=str(folder), data_dir=str(folder.parent / "built"))).entries())
    except FolderError as error:
        problem = str(error)
    finally:
        path.write_bytes(whole)
    assert problem is None or str(folder) in problem  # and the file: not always the damaged one
    assert sorted(folder.parent.rglob("*")) == before


def test_as_it_is_the_folder_is_read(folder):
    for file in FILES:
        survives(folder, file, (folder / file).read_bytes())
    assert len(list(Folder(Data(name="folder", path=str(folder))).entries())) == 2


@pytest.mark.parametrize("file", ["boxes.json", "splits/train.txt", "masks/a.png"])
@MANY
@given(data=st.data())
def test_damaged_bytes(folder, file, data):
    survives(folder, file, data.draw(damaged((folder / file).read_bytes())))


@pytest.mark.parametrize("file", JSON)
@MANY
@given(strange=st.lists(ANYTHING, min_size=1, max_size=4), random=st.randoms(use_true_random=False))
def test_content_of_any_structure(folder, file, strange, random):
    survives(folder, file, json.dumps(replaced(JSON[file], strange, random)).encode())


@pytest.mark.parametrize("file", JSON)
def test_deep_nesting(folder, file):
    for deep in (b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000):
        survives(folder, file, deep)
