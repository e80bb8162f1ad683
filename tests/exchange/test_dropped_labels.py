"""Labels that are remarks and no classes: `drop` leaves out what has them, in every format, and counts it."""

import json

import numpy as np
import pytest
from label_files import SIZE, canvas, imported, make_images
from PIL import Image

from semiseg_jax.cli import main
from semiseg_jax.exchange.drawings import LabelFileError

CORNERS = [[1, 1], [5, 1], [5, 4], [1, 4]]
FLAT = [value for corner in CORNERS for value in corner]


def coco():
    rows = [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [FLAT], "bbox": [1, 1, 4, 3]},
        {"id": 2, "image_id": 1, "category_id": 2, "keypoints": [7, 7, 2]},
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "remark"}]
    images = [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}]
    return "x.json", json.dumps({"images": images, "annotations": rows, "categories": categories})


def labelme():
    shapes = [
        {"label": "cat", "points": CORNERS, "shape_type": "polygon"},
        {"label": "remark", "points": [[7, 7]], "shape_type": "point"},
    ]
    return "a.json", json.dumps({"shapes": shapes, "flags": {"remark": True}, "imagePath": "a.png"})


def cvat():
    points = ";".join(f"{x},{y}" for x, y in CORNERS)
    shapes = f'<polygon label="cat" points="{points}"/><points label="remark" points="7,7"/><tag label="remark"/>'
    meta = "<meta><task><labels><label><name>remark</name></label></labels></task></meta>"
    return "x.xml", f'<annotations>{meta}<image name="a.png" height="10" width="14">{shapes}</image></annotations>'


def label_studio():
    size = {"original_width": SIZE[1], "original_height": SIZE[0]}
    points = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in CORNERS]
    results = [
        {**size, "id": "1", "value": {"points": points, "polygonlabels": ["cat", "remark"]}},
        {**size, "id": "2", "value": {"x": 50, "y": 50, "width": 1, "keypointlabels": ["remark"]}},
        {"id": "3", "value": {"choices": ["remark"]}},
    ]
    return "x.json", json.dumps([{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": results}]}])


@pytest.mark.parametrize(
    ("write", "counted"),
    [
        (coco, ["1 annotations of 'remark', dropped as asked"]),
        (labelme, ["1 shapes of 'remark', dropped as asked", "1 tags of 'remark', dropped as asked"]),
        (cvat, ["1 shapes of 'remark', dropped as asked", "1 tags of 'remark', dropped as asked"]),
        (label_studio, ["2 regions of 'remark', dropped as asked", "1 tags of 'remark', dropped as asked"]),
    ],
)
def test_what_is_left_is_read_as_if_remarks_had_never_been_there(tmp_path, write, counted):
    photos = make_images(tmp_path / "photos", "a.png")
    name, content = write()
    (tmp_path / name).write_text(content)
    report, load = imported(write.__name__, tmp_path / name, tmp_path, images=photos, drop=["remark"])
    assert report.classes == ["background", "cat"]
    assert report.left_out == counted
    np.testing.assert_array_equal(load("masks/a.png"), canvas(0, c_1=(1, 1, 4, 5)))
    assert not {"points.json", "tags.json"} & {path.name for path in (tmp_path / "out").iterdir()}


def test_objects_of_voc_and_tags_of_a_table_are_dropped(tmp_path):
    photos = make_images(tmp_path / "photos", "a.png", "b.png")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
    objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in ("cat", "remark", "remark"))
    (tmp_path / "a.xml").write_text(f"<annotation><filename>a.png</filename>{objects}</annotation>")
    report, load = imported("voc", tmp_path / "a.xml", tmp_path, images=photos, drop=["remark"])
    assert report.left_out == ["2 objects of 'remark', dropped as asked"]
    assert len(load("boxes.json")["annotations"]) == 1
    for number, text in enumerate(
        ("image,tags\na.png,cat remark\nb.png,remark\n", "image,cat,remark\na.png,1,1\nb.png,0,1\n")
    ):
        (tmp_path / "tags.csv").write_text(text)
        folder = tmp_path / str(number)
        report, load = imported("csv", tmp_path / "tags.csv", folder, images=photos, drop=["remark"])
        assert report.classes == ["background", "cat"]
        assert report.left_out == ["2 tags of 'remark', dropped as asked"]
        assert load("tags.json") == {"a": [1], "b": []}


def test_pixels_of_a_dropped_class_of_masks_are_ignored(tmp_path):
    photos = make_images(tmp_path / "photos", "a.jpg")
    (tmp_path / "gt").mkdir()
    Image.fromarray(canvas(0, c_1=(1, 1, 4, 4), c_2=(5, 5, 9, 9))).save(tmp_path / "gt" / "a.png")
    names = ["ground", "remark", "cat"]
    report, load = imported("masks", tmp_path / "gt", tmp_path, images=photos, classes=names, drop=["remark"])
    assert report.classes == ["ground", "cat"]
    np.testing.assert_array_equal(load("masks/a.png"), canvas(0, c_255=(1, 1, 4, 4), c_1=(5, 5, 9, 9)))
    assert report.left_out == ["1 areas of 'remark', dropped as asked"]


def test_a_name_that_no_label_has_is_refused_with_those_that_there_are(tmp_path, capsys):
    photos = make_images(tmp_path / "photos", "a.png")
    (tmp_path / "tags.csv").write_text("image,tags\na.png,cat remark dog\n")
    with pytest.raises(LabelFileError, match="drop names 'remarks', but the labels are: cat, dog, remark"):
        imported("csv", tmp_path / "tags.csv", tmp_path, images=photos, drop=["remark", "remarks"])
    assert not (tmp_path / "out").exists()
    command = ["import-labels", "csv", f"{tmp_path}/tags.csv", f"{tmp_path}/out", f"--images={photos}"]
    assert main([*command, "--drop=remark, dog"]) == 0
    assert "left out: 1 tags of 'remark', dropped as asked" in capsys.readouterr().out
