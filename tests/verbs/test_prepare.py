"""`semiseg prepare`: what a set holds, by class and kind, and a picture of it."""

import numpy as np
import pytest
from PIL import Image

from semiseg_jax import cli
from semiseg_jax.verbs import contents


@pytest.fixture
def prepared(make_folder, tmp_path, monkeypatch, capsys):
    """Flags -> what is printed for a folder with every kind of label."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "built"))
    root = make_folder(scribbles=True, points=True, boxes=True, tags=True)

    def run(*flags):
        assert cli.main(["prepare", str(root), *flags]) == 0
        return capsys.readouterr().out

    return run


def cells(printed, name):
    return next(line.split()[1:] for line in printed.splitlines() if line.startswith(f"  {name} "))


def test_images_and_shares_of_pixels_are_printed_by_class_and_kind(prepared):
    printed = prepared()
    assert "all images are 48x40" in printed
    assert cells(printed, "class") == ["dense", "box", "scribble", "points", "tags"]
    share = 16 * 18 / (40 * 48)
    strokes = 14 / (14 + 36)  # pixels along the two lines
    assert cells(printed, "square") == ["6", f"{share:.2%}", "6", "6", f"{strokes:.2%}", "6", "50.00%", "6"]
    assert cells(printed, "background")[:2] == ["6", f"{1 - share:.2%}"]
    assert cells(printed, "other") == ["0", "0.00%", "0", "0", "0.00%", "0", "0.00%", "0"]
    assert "no mask shows: other" in printed
    assert "val has 2 image(s) with a mask: a score on so few says little" in printed


def test_sizes_are_printed_from_the_smallest_to_the_largest_as_the_files_have_them(prepared, make_folder):
    for id, size in (("im0", (900, 700)), ("im1", (20, 10))):
        Image.new("RGB", size).save(make_folder.root / "images" / f"{id}.png")
        for kind in ("masks", "scribbles"):
            (make_folder.root / kind / f"{id}.png").unlink()
    for file in ("points.json", "tags.json"):
        make_folder.write_json(file, {})
    (make_folder.root / "boxes.json").unlink()
    assert "images from 20x10 to 900x700, in the middle 48x40" in prepared()


def test_of_a_large_set_images_from_all_over_it_are_looked_into(prepared, monkeypatch):
    monkeypatch.setattr(contents, "MOST", 3)
    printed = prepared()
    assert "of 6 images 3 were looked into:" in printed
    assert cells(printed, "square")[0] == "3"


def test_images_without_labels_have_no_table(make_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "built"))
    assert cli.main(["prepare", str(make_folder(masks=False)), f"--picture={tmp_path / 'a.png'}"]) == 0
    printed = capsys.readouterr().out
    assert "all images are 48x40" in printed
    assert "class" not in printed.split("all images", 1)[1]
    assert (tmp_path / "a.png").exists()


def test_the_picture_shows_images_beside_their_labels(prepared, make_folder, tmp_path):
    make_folder.write_json("tags.json", {"im0": [1]})
    assert f"drawn in {tmp_path / 'sheet.png'}" in prepared(f"--picture={tmp_path / 'sheet.png'}")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[0] > 6 * 150
    assert sheet.shape[1] > 4 * 192


def test_what_is_not_read_is_named_again_for_a_set_that_is_built_already(prepared, make_folder, caplog):
    prepared()
    (make_folder.root / "labels").mkdir()
    prepared()
    assert "labels/ is not read; did you mean masks/?" in caplog.text
