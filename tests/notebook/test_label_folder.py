"""A dataset folder that is filled by drawing."""

import json

import numpy as np
import pytest
from PIL import Image

from semiseg_jax.data.folder_files import read_source
from semiseg_jax.data.types import Supervision
from semiseg_jax.notebook.label_folder import LabelFolder

STROKE = {"kind": "stroke", "class": 1, "width": 3, "places": [[5.5, 4.5], [5.5, 20.5]]}
POINT = {"kind": "point", "class": 2, "places": [[30.7, 40.2]]}
BOX = {"kind": "box", "class": 1, "places": [[20, 30], [10, 12]]}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos" / "inner"
    folder.mkdir(parents=True)
    for name in "ab":
        Image.fromarray(np.full((40, 48, 3), 90, np.uint8)).save(folder / f"{name}.png")
    return folder.parent


@pytest.fixture
def labels(tmp_path, photos):
    return LabelFolder(tmp_path / "labels", photos, ["background", "cat", "dog"])


def test_a_folder_of_images_becomes_a_dataset_folder_and_opens_again(labels):
    assert labels.ids == ["inner_a", "inner_b"]
    again = LabelFolder(labels.root)
    assert (again.ids, again.classes, again.background) == (labels.ids, labels.classes, 0)
    assert again.kinds == []
    assert again.image("inner_a").shape == (40, 48, 3)
    with pytest.raises(ValueError, match="there already, with the classes background, cat, dog; leave `classes` out"):
        LabelFolder(labels.root, classes=["background", "cow"])


def test_shapes_arrive_in_the_layout_and_come_back(labels, open_set):
    labels.save("inner_a", [STROKE, POINT, BOX])
    scribbles = np.asarray(Image.open(labels.root / "scribbles" / "inner_a.png"))
    assert set(np.unique(scribbles)) == {1, 255}
    assert np.flatnonzero(scribbles[:, 12] == 1).mean() == 5
    assert json.loads((labels.root / "points.json").read_text()) == {"inner_a": [[30, 40, 2]]}
    source = read_source(labels.root)
    assert source.boxes.rows == {"inner_a": [([10, 12, 20, 30], 1)]}
    assert LabelFolder(labels.root).shapes("inner_a") == labels.shapes("inner_a")
    assert labels.kinds == ["scribble", "points", "box"]
    rows = open_set(labels.root).info.splits["train"]
    assert set(rows[0]["kinds"]) >= {Supervision.SCRIBBLE, Supervision.POINTS, Supervision.BOX}
    assert set(rows[1]["kinds"]) == {Supervision.UNLABELED}


def test_what_is_erased_leaves_the_folder(labels):
    labels.save("inner_a", [STROKE, POINT, BOX])
    labels.save("inner_b", [BOX])
    labels.save("inner_a", [])
    assert not (labels.root / "scribbles" / "inner_a.png").exists()
    assert not (labels.root / "points.json").exists()
    assert set(read_source(labels.root).boxes) == {"inner_b"}  # an image without boxes is not listed: it would say none
    labels.save("inner_b", [])
    assert not (labels.root / "boxes.json").exists()


def test_labels_that_other_programs_add_to_a_drawn_image_are_shown_and_stay(labels):
    labels.save("inner_a", [STROKE, POINT, BOX])
    (labels.root / "points.json").write_text(json.dumps({"inner_a": [[30, 40, 2], [6, 6, 0]]}))
    again = LabelFolder(labels.root)
    points = [shape["places"][0] for shape in again.shapes("inner_a") if shape["kind"] == "point"]
    assert points == [[30.5, 40.5], [6.5, 6.5]]
    assert [shape for shape in again.shapes("inner_a") if shape["kind"] != "point"] == labels.shapes("inner_a")[::2]
    again.save("inner_a", [*again.shapes("inner_a"), {**POINT, "places": [[20, 20]]}])
    stored = json.loads((labels.root / "points.json").read_text())
    assert stored == {"inner_a": [[30, 40, 2], [6, 6, 0], [20, 20, 2]]}


def test_two_canvases_on_one_folder_keep_what_the_other_drew(labels):
    other = LabelFolder(labels.root)
    labels.save("inner_a", [STROKE])
    other.save("inner_b", [BOX])
    again = LabelFolder(labels.root)
    assert [shape["kind"] for id in again.ids for shape in again.shapes(id)] == ["stroke", "box"]
    assert again.shapes("inner_a")[0]["width"] == 3


def test_strokes_are_written_with_the_ignored_value_of_the_folder(labels):
    meta = json.loads((labels.root / "dataset.json").read_text())
    (labels.root / "dataset.json").write_text(json.dumps(meta | {"ignore_label": 254}))
    LabelFolder(labels.root).save("inner_a", [STROKE])
    assert set(np.unique(np.asarray(Image.open(labels.root / "scribbles" / "inner_a.png")))) == {1, 254}
    (labels.root / ".drawn.json").unlink()
    assert [shape["kind"] for shape in LabelFolder(labels.root).shapes("inner_a")] == ["stroke"]


def test_boxes_of_crowds_stay_when_others_are_drawn(labels):
    labels.save("inner_a", [BOX])
    path = labels.root / "boxes.json"
    coco = json.loads(path.read_text())
    crowd = {**coco["annotations"][0], "bbox": [1, 2, 30, 20], "iscrowd": 1}
    path.write_text(json.dumps({**coco, "annotations": [*coco["annotations"], crowd]}))
    LabelFolder(labels.root).save("inner_a", [{**BOX, "class": 2}])
    boxes = json.loads(path.read_text())["annotations"]
    assert crowd in boxes
    assert len(boxes) == 2


def test_labels_of_other_programs_are_shown_and_stay(make_folder):
    root = make_folder(scribbles=True, points=True, boxes=True, tags=True)
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    labels = LabelFolder(root)
    shapes = labels.shapes("im0")
    assert [shape["kind"] for shape in shapes] == ["stroke", "stroke", "point", "point", "box"]
    labels.save("im0", [*shapes, {"kind": "point", "class": 2, "places": [[1, 1]]}])
    path = root / "points.json"
    assert [changed for changed, content in before.items() if changed.read_bytes() != content] == [path]
    assert json.loads(path.read_text()) == json.loads(before[path]) | {"im0": [[18, 20, 1], [3, 3, 0], [1, 1, 2]]}
    labels.save("im0", [*shapes, BOX])
    assert [len(rows) for rows in read_source(root).boxes.rows.values()] == [2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({**POINT, "kind": "star"}, "'star' but must be a stroke, a point or a box"),
        ({**POINT, "class": 3}, r"class 3 but the classes are 0\.\.2"),
        ({**BOX, "places": [[1, 2]]}, "the places of a box must be at least 2 pairs of y, x"),
        ({**POINT, "places": [[1, float("nan")]]}, "the places of a point must be at least 1 pairs"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_in_words(labels, shape, message):
    with pytest.raises(ValueError, match=message):
        labels.save("inner_a", [shape])
    assert labels.shapes("inner_a") == []


def test_places_outside_of_the_image_are_moved_to_its_edge(labels):
    labels.save("inner_a", [{**POINT, "places": [[50, -3]]}, {**BOX, "places": [[-5, 2], [60, 70]]}])
    assert json.loads((labels.root / "points.json").read_text())["inner_a"] == [[39, 0, 2]]
    assert read_source(labels.root).boxes.rows["inner_a"] == [([0, 2, 40, 48], 1)]


def test_a_folder_without_classes_or_images_says_what_is_missing(tmp_path, photos):
    with pytest.raises(ValueError, match=r"dataset.json is missing.*images=.*classes="):
        LabelFolder(tmp_path / "empty")
    with pytest.raises(ValueError, match="holds no images yet; name the folder"):
        LabelFolder(tmp_path / "empty", classes=["background", "cat"])
    (photos / "inner").rename(photos / "images")
    assert LabelFolder(photos, classes=["background", "cat"]).ids == ["a", "b"]
