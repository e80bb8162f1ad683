"""From drawings to a dataset folder: what is painted, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semiseg_jax import import_labels
from semiseg_jax.data.fields import Data
from semiseg_jax.data.folder import Folder
from semiseg_jax.data.records import decode_mask
from semiseg_jax.exchange.drawings import Area, Box, Drawing, Drawings, LabelFileError, Point, Stroke, fill
from semiseg_jax.exchange.folder import write_folder

SIZE = (12, 16)


@pytest.fixture
def photos(tmp_path):
    """Two folders of images, of which two have the same name."""
    for name in ("one/a.png", "two/a.png", "two/b.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)
    return tmp_path / "photos"


def square(y0, x0, y1, x1):
    return np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], float)


def test_pixels_whose_centre_is_inside_are_filled():
    expected = np.zeros(SIZE, bool)
    expected[2:6, 3:7] = True
    np.testing.assert_array_equal(fill([square(2, 3, 6, 7)], SIZE), expected)
    np.testing.assert_array_equal(fill([square(2.4, 3.4, 5.6, 6.6)], SIZE), expected)
    np.testing.assert_array_equal(fill([square(-5, 3, 6, 7)], SIZE)[:6, 3:7], True)
    expected[3:5, 4:6] = False  # a hole
    np.testing.assert_array_equal(fill([square(2, 3, 6, 7), square(3, 4, 5, 6)], SIZE), expected)


def test_everything_that_was_drawn_reaches_training(photos, tmp_path):
    drawing = Drawing(
        "somewhere/else/one/a.png", "labels.json", SIZE,
        areas=[Area("cat", [square(2, 3, 6, 7)]), Area(None, [square(2, 3, 3, 7)])],
        boxes=[Box("dog", 1, 2, 5, 6), Box("cat", 0, 0, 3, 3, ignore=True)],
        points=[Point("dog", 4.5, 5.5)],
        strokes=[Stroke("cat", np.array([[1.5, 1.5], [1.5, 6.5]]))],
        tags=["cat"], complete=True, split="train",
    )  # fmt: skip
    drawings = Drawings([drawing, Drawing("b.jpg", "labels.json", complete=True)], ["dog"], ["one ellipse"])
    report = write_folder(drawings, photos, tmp_path / "out")
    assert report.images == 3
    assert report.unlabelled == 1
    assert report.classes == ["background", "dog", "cat"]
    assert "left out: one ellipse" in str(report)
    builder = Folder(Data(name="folder", path=str(tmp_path / "out"), data_dir=str(tmp_path / "built")))
    builder.build()
    records = {record["id"].decode(): record for record in builder.records("train")}
    assert sorted(records) == ["one_a", "two_a", "two_b"]
    record = records["one_a"]
    mask = np.zeros(SIZE, np.uint8)
    mask[2:6, 3:7], mask[2, 3:7] = 2, 255
    np.testing.assert_array_equal(decode_mask(record["mask"], SIZE), mask)
    np.testing.assert_array_equal(record["boxes"], [[1, 2, 5, 6], [0, 0, 3, 3]])
    assert record["box_class"].tolist() == [1, 255]
    assert record["points"].tolist() == [[4, 5, 1]]
    assert record["strokes"].tolist() == [[1, 6, 1, 1, 2]]
    assert record["tags"].tolist() == [-1, 0, 1]
    assert (np.asarray(Image.open(tmp_path / "out" / "masks" / "two_b.png")) == 0).all()  # surely nothing


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        (Drawing("a.png", "x.json"), "x.json: is about 'a.png', but 2 images of that name are below"),
        (Drawing("../../etc/c.png", "x.json"), "but no image of that name is below"),
        (Drawing("one/a.png", "x.json", (6, 8)), r"drawn on an image of 8x6 pixels, but .*one/a.png is 16x12"),
        (Drawing("one/a.png", "x.json", boxes=[Box("a", 3, 3, 3, 5)]), "a box of 'a' on one/a.png has no area"),
        (Drawing("one/a.png", "x.json", boxes=[Box("a", 3, 3, 30, 5)]), "a box of 'a' lies outside"),
        (Drawing("one/a.png", "x.json", points=[Point("a", 13, 5)]), "a point of 'a' lies outside"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(photos, tmp_path, drawing, message):
    with pytest.raises(LabelFileError, match=message):
        write_folder(Drawings([drawing], ["a"]), photos, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_an_empty_folder_is_filled_where_it_stands(photos, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_folder(Drawings([], ["a"]), photos, tmp_path / "link")
    assert (tmp_path / "real" / "dataset.json").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_folder(Drawings([], ["a"]), photos, Path())
    assert Path("dataset.json").is_file()


def test_nothing_is_overwritten(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(LabelFileError, match="is there already"):
        write_folder(Drawings([], ["a"]), photos, tmp_path / "out")


@pytest.mark.parametrize(
    "text", ["image,tags\none/a.png,cat dog\nb.jpg,\n", "file,cat,dog\none/a.png,1,1\nb.jpg,0,0\n"]
)
def test_tags_of_a_table_are_imported(photos, tmp_path, capsys, text):
    (tmp_path / "tags.csv").write_text("\ufeff" + text, encoding="utf-8")
    import_labels("csv", tmp_path / "tags.csv", tmp_path / "out", images=photos)
    assert json.loads((tmp_path / "out" / "tags.json").read_text()) == {"one_a": [1, 2], "two_b": []}
    assert "3 images, 1 of them without any label" in capsys.readouterr().out
