"""Files of LabelMe: what each of its shapes becomes, and what is refused."""

import base64
import io
import json

import numpy as np
import pytest
from label_files import boxes_by_id, canvas, imported, make_images
from PIL import Image

from semiseg_jax.exchange import labelme_json
from semiseg_jax.exchange.drawings import LabelFileError


def png(mask):
    file = io.BytesIO()
    Image.fromarray(np.asarray(mask, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def shape(label, kind, *points, **more):
    return {"label": label, "points": [list(p) for p in points], "group_id": None, "description": "",
            "shape_type": kind, "flags": {}, "mask": None, **more}  # fmt: skip


def write(root, name, *shapes, **more):
    path = root / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": f"{path.stem}.jpg",
        "imageData": base64.b64encode(b"not an image").decode(),
        "imageHeight": 10,
        "imageWidth": 14,
        **more,
    }
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")  # fmt: skip


def test_areas_are_painted_in_order_and_their_rest_is_background(tmp_path):
    root = make_images(tmp_path / "photos", "a.jpg")
    write(
        root, "a",
        shape("cat", "polygon", (1, 1), (9, 1), (9, 8), (1, 8)),
        shape("_background_", "polygon", (2, 2), (4, 2), (4, 4), (2, 4)),  # a hole
        shape("__ignore__", "rectangle", (14, 10), (12, 8)),
        shape("hund", None, (6, 2), (8, 2), (8, 4), (6, 4)),  # the first versions gave no type
        shape("hund", "mask", (5.0, 5.0), (7.0, 6.0), mask=png([[0, 255, 255], [255, 0, 0]])),
        shape("cat", "polygon", (1, 1), (2, 2)),
    )  # fmt: skip
    (root / "labels.txt").write_text("__ignore__\n_background_\nhund\ncat\n")
    report, load = imported("labelme", root, tmp_path)
    expected = canvas(
        0,
        c_2=(1, 1, 8, 9),
        c_0=(2, 2, 4, 4),
        c_255=(8, 12, 10, 14),
        c_1=(2, 6, 4, 8),
        c2_1=(5, 6, 6, 8),
        c3_1=(6, 5, 7, 6),
    )
    expected[expected == 0] = 255  # a shape was left out, so that the rest is unknown
    expected[2:4, 2:4] = 0
    assert report.classes == ["background", "hund", "cat"]
    np.testing.assert_array_equal(load("masks/a.png"), expected)
    assert report.left_out == ["1 polygons of less than three corners"]


def test_rectangles_of_a_group_are_one_box_and_unknown_where_no_area_covers_them(tmp_path):
    root = make_images(tmp_path / "photos", "a.jpg")
    write(
        root, "a",
        shape("cat", "polygon", (1, 1), (4, 1), (4, 4), (1, 4), group_id=2),
        shape("cat", "rectangle", (0, 0), (5, 5), group_id=2),  # of the object that the polygon shows
        shape("dog", "rectangle", (12, 8), (10, 6), group_id=1),
        shape("dog", "rectangle", (12, 2), (13, 4), group_id=1),
        shape("dog", "rectangle", (6, 8), (8, 9)),
    )  # fmt: skip
    _, load = imported("labelme", root, tmp_path)
    np.testing.assert_array_equal(
        load("masks/a.png"), canvas(0, c_255=(2, 10, 8, 13), c2_255=(8, 6, 9, 8), c_1=(1, 1, 4, 4))
    )
    assert boxes_by_id(load("boxes.json")) == {"a": [([0, 0, 5, 5], 1, 0), ([10, 2, 3, 6], 2, 0), ([6, 8, 2, 1], 2, 0)]}


def test_a_circle_is_given_by_its_centre_and_its_rim(tmp_path):
    root = make_images(tmp_path / "photos", "a.jpg")
    write(root, "a", shape("cat", "circle", (6, 5), (6, 8)))
    _, load = imported("labelme", root, tmp_path)
    ys, xs = np.mgrid[:10, :14] + 0.5
    np.testing.assert_array_equal(load("masks/a.png"), ((ys - 5) ** 2 + (xs - 6) ** 2 <= 9).astype(np.uint8))


def test_lines_are_scribbles_and_points_are_clicks(tmp_path):
    root = make_images(tmp_path / "photos", "a.jpg", "b.jpg")
    write(
        root, "a",
        shape("cat", "line", (1.5, 1.5), (4.5, 1.5)),
        shape("dog", "linestrip", (6.2, 3.9), (6.2, 6), (8.1, 6.5)),
        shape("dog", "point", (2.7, 8.2)),
        shape("cat", "points", (3, 3), (4, 4)),
    )  # fmt: skip
    write(root, "b", shape("dog", "point", (0, 0)), shape("dog", "polygon", (2, 2), (4, 2), (4, 4), (2, 4)))
    report, load = imported("labelme", root, tmp_path)
    np.testing.assert_array_equal(
        load("scribbles/a.png"), canvas(255, c_1=(1, 1, 2, 5), c_2=(3, 6, 7, 7), c2_2=(6, 6, 7, 9))
    )
    assert load("points.json") == {"a": [[8, 2, 2], [3, 3, 1], [4, 4, 1]], "b": [[0, 0, 2]]}
    np.testing.assert_array_equal(load("masks/b.png"), canvas(255, c_2=(2, 2, 4, 4)))
    assert report.notes == ["1 images have areas beside lines or points: what no area covers is unknown there"]


def test_flags_that_are_true_are_tags(tmp_path):
    names = ("a", "b", "c", "d", "e")
    root = make_images(tmp_path / "photos", *(f"{name}.jpg" for name in names))
    write(root, "a", flags={"__ignore__": False, "cat": True, "dog": False})
    write(root, "b", flags={"__ignore__": True, "cat": True})
    write(root, "c", shape("dog", "point", (1, 1)), flags={"cat": True})
    write(root, "d")
    write(root, "e", flags={"cat": False})
    report, load = imported("labelme", root, tmp_path)
    assert load("tags.json") == {"a": [1], "c": [1, 2]}
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["d.png"]
    assert report.notes == ["1 images without shapes and flags are background throughout"]


def test_images_are_found_from_the_folder_of_their_file(tmp_path):
    root = make_images(tmp_path / "data", "one/a.jpg", "two/a.jpg", "imgs/ä b.jpg")
    write(root, "one/a", shape("cat", "point", (1, 1)))
    write(root, "two/a", shape("cat", "point", (2, 2)))
    write(
        root, "json/x", shape("cat", "point", (3, 3)), imagePath="..\\imgs\\ä b.jpg", imageHeight=None, imageWidth=None
    )
    _, load = imported("labelme", root, tmp_path)
    assert load("points.json") == {"one_a": [[1, 1, 1]], "two_a": [[2, 2, 1]], "imgs_ä b": [[3, 3, 1]]}


@pytest.mark.parametrize(
    ("shapes", "more", "message"),
    [
        (
            [shape("cat", "point", (1, 1))],
            {"imageHeight": 20, "imageWidth": 28},
            "an image of 28x20 pixels, but .* is 14x10",
        ),
        ([shape("cat", "point", (1, 1))], {"imagePath": "../../../etc/passwd"}, "no image of that name"),
        ([], {"shapes": None}, "is not LabelMe's: it has no list of shapes"),
        ([], {"flags": ["cat"]}, "flags is a list, not an object"),
        ([shape("cat", "circle", (1, 1))], {}, "shape 0: a circle has 1 points"),
        ([shape("", "point", (1, 1))], {}, "its label is '', but must be a text"),
        ([shape("cat", "point", (1, None))], {}, "its points is None, not a number"),
        ([shape("cat", "mask", (0, 0), (1, 1))], {}, "its mask is None"),
        ([shape("cat", "mask", (0, 0), (1, 1), mask="!!")], {}, "no PNG in base64"),
        ([shape("cat", "mask", (0, 0), (1, 1), mask="aaaa")], {}, "its mask is no readable PNG"),
        ([shape("cat", "mask", (0, 0), (5, 5), mask=png([[1]]))], {}, "its mask is 1x1, but its points say 6x6"),
        ([shape("cat", "mask", (13, 9), (14, 9), mask=png([[1, 1]]))], {}, "its mask leaves the image"),
        ([shape("cat", "mask", (0, 0), (0, 0), mask=png([[[1, 2, 3]]]))], {}, "its mask has colours"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, shapes, more, message):
    root = make_images(tmp_path / "photos", "a.jpg")
    write(root, "a", *shapes, **more)
    with pytest.raises(LabelFileError, match=message) as error:
        imported("labelme", root, tmp_path)
    assert "a.json" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_unknown_shapes_are_left_out_in_words(tmp_path):
    root = make_images(tmp_path / "photos", "a.jpg")
    turned = shape("cat", "rotation", (1, 1), (3, 1), (3, 3), (1, 3))
    write(root, "a", turned, shape("dog", "polygon", (1, 1), (3, 1), (3, 3)), shape("__ignore__", "point", (1, 1)))
    drawings = labelme_json.read(root)
    assert drawings.left_out == ["1 lines and points of __ignore__", "1 shapes of the type 'rotation'"]
    assert not drawings.drawings[0].complete


def test_what_is_said_of_shapes_is_counted_and_hides_no_background(tmp_path):
    root = make_images(tmp_path / "photos", "a.jpg")
    corners = (1, 1), (3, 1), (3, 3)
    write(
        root, "a",
        shape("cat", "polygon", *corners, flags={"occluded": True, "blurred": False}, description="left one"),
        shape("cat", "polygon", *corners, flags={"occluded": True}, description=" "),
        shape("cat", "polygon", *corners, flags=None),
    )  # fmt: skip
    drawings = labelme_json.read(root)
    assert drawings.left_out == ["1 descriptions of shapes", "2 flags 'occluded' of shapes"]
    assert drawings.drawings[0].complete
