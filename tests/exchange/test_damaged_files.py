"""Whatever a label file holds, it is read or refused in words: damaged bytes and content of any structure."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from broken_files import ANYTHING, MANY, damaged, replaced
from hypothesis import given
from hypothesis import strategies as st
from label_files import make_images
from PIL import Image

from semiseg_jax.exchange import coco_json, csv_tags, labelme_json, masks, voc_xml
from semiseg_jax.exchange.color_table import read_table
from semiseg_jax.exchange.drawings import Drawings, LabelFileError
from semiseg_jax.exchange.folder import write_folder

pytestmark = pytest.mark.heavy

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAAAAAC4HznGAAAAEElEQVR4nGNg+M/AwPAfDBkAF/cD/fXbkAsAAAAASUVORK5CYII="
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 10, "width": 14}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]], "bbox": [1, 1, 4, 4]},
        {
            "id": 2,
            "image_id": 1,
            "category_id": 1,
            "segmentation": {"size": [10, 14], "counts": [9, 131]},
            "iscrowd": 1,
        },
        {"id": 3, "image_id": 1, "category_id": 2, "segmentation": {"size": [10, 14], "counts": "\\4"}},
        {"id": 4, "image_id": 1, "category_id": 2, "keypoints": [1, 1, 2, 0, 0, 0]},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}
LABELME = {
    "flags": {"cat": True},
    "shapes": [
        {"label": "cat", "points": [[1, 1], [5, 1], [5, 5]], "shape_type": "polygon", "group_id": None},
        {"label": "cat", "points": [[1, 1], [5, 5]], "shape_type": "rectangle", "group_id": 3},
        {"label": "cat", "points": [[3, 3], [5, 5]], "shape_type": "circle"},
        {"label": "cat", "points": [[3, 3], [5, 4]], "shape_type": "mask", "mask": PNG},
        {"label": "cat", "points": [[3, 3], [5, 5]], "shape_type": "linestrip"},
        {"label": "cat", "points": [[3, 3]], "shape_type": "point"},
    ],
    "imagePath": "a.png",
    "imageHeight": 10,
    "imageWidth": 14,
}
BOX = "<xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax>"
VOC = (
    '<?xml version="1.0" encoding="utf-8"?><annotation><folder>x</folder><filename>a.png</filename><size>'
    "<width>14</width><height>10</height></size><object><name>cat</name><difficult>0</difficult><bndbox>"
    f"{BOX}</bndbox></object></annotation>"
)
FORMATS = {
    "coco": (coco_json.read, "x.json", json.dumps(COCO)),
    "labelme": (labelme_json.read, "x.json", json.dumps(LABELME)),
    "voc": (voc_xml.read, "x.xml", VOC),
    "csv": (csv_tags.read, "x.csv", "image,tags\na.png,cat dog\n"),
    "colors": (read_table, "x.txt", "1 2 3\tcat\n4 5 6 dog\n"),
    "colors as JSON": (read_table, "x.json", '{"cat": [1, 2, 3], "dog": "#040506"}'),
}
TAGS = st.sampled_from(["annotation", "object", "name", "bndbox", "xmin", "size", "part", "x"])
WORDS = st.sampled_from(["", "1", "-3", "nan", "1e400", "cat", "&#0;", "&#x41;", "&x;"])


@pytest.fixture(scope="module")
def folder():
    """A folder with one image and room for a label file."""
    with tempfile.TemporaryDirectory() as name:
        yield make_images(Path(name), "a.png")


def survives(folder, reader, name, content):
    """Reads and imports the file: either that works, or there is a LabelFileError that names the file."""
    labels = folder / "labels"
    labels.mkdir(exist_ok=True)
    (labels / name).write_bytes(content)
    before = sorted(folder.rglob("*"))
    problem = ""
    try:
        drawings = reader(labels / name)
        if isinstance(drawings, Drawings):
            imported(drawings, folder)
    except LabelFileError as error:
        problem = str(error)
    assert not problem or name in problem or "classes" in problem
    assert sorted(folder.rglob("*")) == before


def imported(drawings, images):
    """Writes a dataset folder of the drawings and its report."""
    with tempfile.TemporaryDirectory() as output:
        str(write_folder(drawings, images, Path(output) / "out")).encode()


@pytest.mark.parametrize("format", FORMATS)
@MANY
@given(data=st.data())
def test_damaged_bytes(folder, format, data):
    reader, name, content = FORMATS[format]
    survives(folder, reader, name, data.draw(damaged(content.encode())))


@pytest.mark.parametrize("format", [format for format, (_, name, _) in FORMATS.items() if name.endswith(".json")])
@MANY
@given(strange=st.lists(ANYTHING, min_size=1, max_size=4), random=st.randoms(use_true_random=False))
def test_content_of_any_structure(folder, format, strange, random):
    reader, name, content = FORMATS[format]
    changed = replaced(json.loads(content), strange, random)
    survives(folder, reader, name, json.dumps(changed).encode())


@MANY
@given(tags=st.lists(TAGS, max_size=9), words=st.lists(WORDS, min_size=9))
def test_xml_of_any_structure(folder, tags, words):
    text = "".join(f"<{tag}>{word}" for tag, word in zip(tags, words, strict=False))
    text += "".join(f"</{tag}>" for tag in reversed(tags))
    survives(folder, voc_xml.read, "x.xml", text.encode())
    survives(folder, voc_xml.read, "x.xml", VOC.replace("<object>", f"{text}<object>").encode())


@MANY
@given(data=st.data())
def test_damaged_masks(folder, data):
    path = folder / "mask.png"
    Image.fromarray(np.eye(10, 14, dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.unlink()
    survives(folder, lambda file: masks.read(file.parent, folder, names="*_m"), "a_m.png", data.draw(damaged(content)))
    (folder / "labels" / "a_m.png").unlink()


@pytest.mark.parametrize("format", ["coco", "labelme", "voc"])
def test_deep_nesting(folder, format):
    reader, name, _ = FORMATS[format]
    for deep in (b"[" * 100_000, b'{"a":' * 100_000, b"<a>" * 100_000 + b"</a>" * 100_000, b"9" * 10_000):
        survives(folder, reader, name, deep)
