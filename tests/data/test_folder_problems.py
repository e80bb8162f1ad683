"""What may be wrong with a dataset folder: every error names the file and nothing is written."""

import json

import numpy as np
import pytest
from folders import EVERYTHING, SIZE, mask_values, records, save_mask, square_mask
from PIL import Image

from semiseg_jax.data.folder_files import read_source
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.types import IGNORE

# What may be wrong with the layout: found when the folder is opened.


def no_dataset_json(root):
    (root / "dataset.json").unlink()


def no_images(root):
    for path in (root / "images").iterdir():
        path.unlink()


def id_without_image(root):
    (root / "splits" / "train.txt").write_text("im0\nnobody\n")


def unknown_category(root):
    coco = json.loads((root / "boxes.json").read_text())
    coco["categories"][0]["name"] = "zebra"
    (root / "boxes.json").write_text(json.dumps(coco))


def box_of_three_numbers(root):
    coco = json.loads((root / "boxes.json").read_text())
    coco["annotations"][0]["bbox"] = [1, 2, 3]
    (root / "boxes.json").write_text(json.dumps(coco))


def write(name, text):
    def spoil(root):
        (root / name).write_text(text)

    spoil.__name__ = f"{name}: {text}"[:40]
    return spoil


LAYOUT_PROBLEMS = [
    (no_dataset_json, r"dataset\.json is missing"),
    (no_images, r"images holds no image"),
    (id_without_image, r"train\.txt.*'nobody'"),
    (unknown_category, r"boxes\.json.*'zebra'"),
    (box_of_three_numbers, r"boxes\.json.*not COCO"),
    (write("boxes.json", '{"images": []}'), r"boxes\.json.*not COCO.*categories"),
    (write("boxes.json", "[]"), r"boxes\.json.*object"),
    (write("dataset.json", "{"), r"dataset\.json.*not valid JSON"),
    (write("dataset.json", '["a", "b"]'), r"dataset\.json.*object"),
    (write("dataset.json", "{}"), r"dataset\.json.*`classes`"),
    (write("dataset.json", '{"classes": ["polyp"]}'), r"dataset\.json.*`classes` must list 2.*a class too"),
    (write("dataset.json", json.dumps({"classes": ["c"] * 255})), r"dataset\.json.*`classes`"),
    (
        write("dataset.json", '{"classes": ["a", "b"], "colors": [[1, 2, 3]]}'),
        r"dataset\.json.*1 colors for 2",
    ),
    (write("points.json", "{'im0': []}"), r"points\.json.*not valid JSON"),
    (write("points.json", "[[1, 2, 0]]"), r"points\.json.*object"),
    (write("tags.json", ""), r"tags\.json.*not valid JSON"),
]


@pytest.mark.parametrize(("spoil", "message"), LAYOUT_PROBLEMS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_layout_is_reported_with_its_file_when_the_folder_is_opened(
    make_folder, open_folder, tmp_path, spoil, message
):
    root = make_folder(**EVERYTHING)
    spoil(root)
    with pytest.raises(FolderError, match=message):
        open_folder(root).build()
    assert not (tmp_path / "built").exists()


def test_a_missing_folder_is_reported_with_its_path(open_folder, tmp_path):
    with pytest.raises(FolderError, match=r"nowhere is no dataset of the layout 'folder':\n  there is no such folder"):
        open_folder(tmp_path / "nowhere")


# What may be wrong with an image's files: found before anything is written. im1 is in the train split.


def image_bytes(root):
    (root / "images" / "im1.png").write_bytes(b"not an image")


def empty_image(root):
    (root / "images" / "im1.png").write_bytes(b"")


def mask_size(root):
    save_mask(root / "masks" / "im1.png", np.zeros((40, 40)))


def mask_channels(root):
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "masks" / "im1.png")


def mask_bytes(root):
    (root / "masks" / "im1.png").write_bytes(b"not an image")


def scribble_values(root):
    save_mask(root / "scribbles" / "im1.png", np.full(SIZE, 9))


def scribble_size(root):
    save_mask(root / "scribbles" / "im1.png", np.full((48, 40), IGNORE))


def scribbles_without_gaps(root):
    save_mask(root / "scribbles" / "im1.png", np.zeros(SIZE))


def foreground_of_255(root):
    for path in (root / "masks").iterdir():
        save_mask(path, np.where(square_mask() == 1, 255, 0))


def box_outside(root):
    coco = json.loads((root / "boxes.json").read_text())
    coco["annotations"][1]["bbox"] = [40, 10, 30, 5]
    (root / "boxes.json").write_text(json.dumps(coco))


FILE_PROBLEMS = [
    (image_bytes, r"images/im1\.png: not a readable image"),
    (empty_image, r"images/im1\.png: not a readable image"),
    (mask_values, r"masks/im1\.png: has values \[7\] but the classes are 0\.\.2"),
    (mask_size, r"masks/im1\.png: is 40x40 but its image is 48x40"),
    (mask_channels, r"masks/im1\.png: has 3 channels"),
    (mask_bytes, r"masks/im1\.png: not a readable PNG"),
    (scribble_values, r"scribbles/im1\.png: has values \[9\]"),
    (scribble_size, r"scribbles/im1\.png: is 40x48 but its image is 48x40"),
    (scribbles_without_gaps, r"scribbles/im1\.png: labels every pixel; where nothing is drawn it must be 255"),
    (foreground_of_255, r"masks/ hold nothing but 0 and 255, which is ignore_label: where it means 'square', write 1"),
    (box_outside, r"boxes\.json: im1: box \[40\.0, 10\.0, 30\.0, 5\.0\] lies outside its image 48x40"),
    (
        write("points.json", '{"im1": [[40, 2, 1]]}'),
        r"points\.json: im1: point \[40\.0, 2\.0, 1\.0\] lies outside its image, which is 40 high and 48 wide; points "
        r"are \[y, x, class\], are these \[x, y, class\]\?",
    ),
    (write("points.json", '{"im1": [[-1, 2, 1]]}'), r"points\.json: im1: point .* lies outside"),
    (write("points.json", '{"im1": [[0.4, 0.2, 1], [1.0, 0.0, 0]]}'), r"points\.json: im1: point .* looks like shares"),
    (write("points.json", '{"im1": [[4, 2, 3]]}'), r"points\.json: im1: class 3 but"),
    (write("points.json", '{"im1": [[4, 2]]}'), r"points\.json: im1: is .* but must be a list of \[y, x, class\]"),
    (write("points.json", '{"im1": [["a", 2, 1]]}'), r"points\.json: im1: is .* but must be a list of \[y, x, class\]"),
    (write("points.json", '{"im1": [[NaN, 2, 1]]}'), r"points\.json: im1: is .* but must be a list of \[y, x, class\]"),
    (write("tags.json", '{"im1": [3]}'), r"tags\.json: im1: class 3 but the classes are 0\.\.2"),
    (write("tags.json", '{"im1": ["square"]}'), r"tags\.json: im1: is .* but must be a list of class indices"),
    (write("tags.json", '{"im1": 1}'), r"tags\.json: im1: is .* but must be a list of class indices"),
    (write("tags.json", '{"im1": [0.5]}'), r"tags\.json: im1: class 0\.5 but"),
]


@pytest.mark.parametrize(("spoil", "message"), FILE_PROBLEMS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_file_is_reported_with_its_name_and_nothing_is_written(make_folder, open_folder, spoil, message):
    root = make_folder(**EVERYTHING)
    spoil(root)
    builder = open_folder(root)
    with pytest.raises(FolderError, match=message):
        builder.build()
    assert not builder.data_path.exists()


def spoil_all(root):
    for spoil in (image_bytes, mask_values, scribble_size, box_outside):
        spoil(root)
    (root / "masks" / "im2.png").write_bytes(b"")
    (root / "points.json").write_text('{"im2": [[99, 0, 0]]}')


def test_all_problems_are_reported_together(make_folder, open_folder):
    root = make_folder(**EVERYTHING)
    spoil_all(root)
    mask_values_of_val = np.full(SIZE, 9)
    save_mask(root / "masks" / "im5.png", mask_values_of_val)
    (root / "images" / "im3.png").unlink()
    (root / "images" / "im3.png").symlink_to("/nowhere/im3.png")
    builder = open_folder(root)
    with pytest.raises(FolderError) as caught:
        builder.build()
    text = str(caught.value)
    for problem in (
        "images/im1.png",
        "masks/im2.png",
        "points.json: im2",
        "masks/im5.png",
        "images/im3.png: is a link",
    ):
        assert problem in text
    assert "5 problem(s)" in text
    assert "skip_bad" in text
    assert not builder.data_path.exists()


def test_skip_bad_leaves_the_bad_images_out(make_folder, open_folder):
    root = make_folder(**EVERYTHING)
    spoil_all(root)
    builder = open_folder(root, skip_bad=True)
    assert sorted(records(builder)) == ["im0", "im3"]
    assert [row["id"] for row in builder.dataset_info().splits["train"]] == ["im0", "im3"]


def test_skip_bad_refuses_a_split_whose_images_are_all_bad(make_folder, open_folder):
    root = make_folder()
    for id in ("im4", "im5"):
        (root / "images" / f"{id}.png").write_bytes(b"")
    builder = open_folder(root, skip_bad=True)
    with pytest.raises(FolderError, match="every image of split 'val' was left out"):
        builder.build()
    assert not builder.data_path.exists()


def test_masks_that_are_no_png_are_reported(make_folder, caplog):
    root = make_folder()
    (root / "masks" / "im1.png").rename(root / "masks" / "im1.jpg")
    assert "im1" not in read_source(root).masks
    assert "1 files are no .png and not used, the first is im1.jpg" in caplog.text


def test_labels_of_images_that_do_not_exist_are_reported(make_folder, caplog):
    root = make_folder(points=True)
    make_folder.write_json("points.json", {"im0": [[18, 20, 1]], "typo": [[1, 1, 0]]})
    read_source(root)
    assert "1 ids in points.json have no image, the first is typo" in caplog.text
    assert "without a suffix" not in caplog.text
    make_folder.write_json("points.json", {"im0.png": [[18, 20, 1]]})
    read_source(root)
    assert "the first is im0.png; ids are written without a suffix" in caplog.text
