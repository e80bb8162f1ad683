"""Nothing of a dataset folder is left out or misread in silence: it is refused, or named in a warning."""

import json
import re

import cv2
import numpy as np
import pytest
from folders import EVERYTHING, SIZE, names, records, save_mask, square_mask
from PIL import Image

from semiseg_jax.config import default_config, settings
from semiseg_jax.data.folder_files import read_source
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.pools import make_pools, parse_quota
from semiseg_jax.data.records import decode_image
from semiseg_jax.engine.inputs import make_input
from semiseg_jax.verbs.predict import find_images
from semiseg_jax.verbs.prepare import prepare


def altered_json(root, file, **changes):
    path = root / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# What lies there and is not read.


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mask/", r"mask/ is not read; did you mean masks/\?"),
        ("labels/", r"labels/ is not read; did you mean masks/\?"),
        ("Annotations/", r"Annotations/ is not read; did you mean masks/\?"),
        ("scribble/", r"scribble/ is not read; did you mean scribbles/\?"),
        ("Masks2/", r"did you mean masks/\? It is there as well\."),
        ("tag.json", r"tag\.json is not read; did you mean tags\.json\?"),
        ("annotations.json", r"annotations\.json is not read; did you mean boxes\.json\?"),
        ("things.json", r"not read: things\.json"),
        ("extra/", r"not read: extra/"),
        ("train.txt", r"train\.txt: is not read; did you mean splits/train\.txt"),
        ("splits/other.csv", r"splits/other\.csv: is not read; splits are files splits/NAME\.txt"),
        (
            "images/im0.json",
            r"1 \.json files are not read, the first is im0\.json; labels of .* `semiseg import-labels`",
        ),
        ("images/im0.xml", r"1 \.xml files are not read"),
        ("annotations/coco.json", r"annotations/ is not read; labels of annotation tools come in by `semiseg import"),
        ("images/Thumbs.db", r"1 \.db files are not read, the first is Thumbs\.db"),
    ],
)
def test_what_is_not_read_is_named_with_what_was_probably_meant(make_folder, caplog, name, said):
    root = make_folder()
    if name.endswith("/"):
        (root / name).mkdir()
    else:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("{}")
    read_source(root)
    assert re.search(said, caplog.text)


def test_nothing_is_said_of_notes_and_of_hidden_files(make_folder, caplog):
    root = make_folder(**EVERYTHING)
    for name in (
        "README.md",
        "NOTES.txt",
        "LICENSE",
        ".DS_Store",
        "masks/.DS_Store",
        "images/._im0.png",
        "splits/README.md",
    ):
        (root / name).write_bytes(b"\0\1")
    assert sorted(read_source(root).images) == make_folder.ids
    assert not caplog.text
    assert sorted(path.name for path in find_images(root / "images")) == [f"{id}.png" for id in make_folder.ids]


def gif_image(root):
    Image.new("L", (4, 4)).save(root / "images" / "more.gif")


def heic_image(root):
    (root / "images" / "more.HEIC").write_bytes(b"heic")


def inner_folder(root):
    (root / "images" / "inner").mkdir()
    Image.new("L", (4, 4)).save(root / "images" / "inner" / "a.png")


def splits_at_the_root(root):
    for path in (root / "splits").iterdir():
        path.rename(root / path.name)


def splits_as_tables(root):
    for path in (root / "splits").iterdir():
        path.rename(path.with_suffix(".csv"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (gif_image, r"images: 1 \.gif files are not read, the first is more\.gif; convert them to \.jpg"),
        (heic_image, r"1 \.heic files are not read, the first is more\.HEIC"),
        (inner_folder, r"images/inner: holds 1 images that are not read"),
        (splits_at_the_root, r"train\.txt: is not read; did you mean splits/train\.txt"),
        (splits_as_tables, r"splits/train\.csv: is not read; splits are files splits/NAME\.txt"),
    ],
)
def test_images_and_splits_that_would_be_left_out_are_refused(make_folder, open_folder, spoil, said, caplog):
    root = make_folder()
    spoil(root)
    with pytest.raises(FolderError, match=said):
        open_folder(root).build()
    open_folder(root, skip_bad=True).build()
    assert "not read" in caplog.text


# dataset.json


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colours": []}, r"unknown key 'colours'; did you mean 'colors'\?"),
        ({"ignore": 254}, r"unknown key 'ignore'; did you mean 'ignore_label'\?"),
        ({"xyz": 1}, r"unknown key 'xyz' \(the keys are classes, ignore_label"),
        ({"background": 9}, r"`background` is 9 but must be the index of a class, 0\.\.2"),
        ({"background": "background"}, r'`background` is "background" but must be the index'),
        ({"ignore_label": None}, r"`ignore_label` is null but must be a value from 0 to 255"),
        ({"ignore_label": 256}, r"`ignore_label` is 256"),
        ({"classes": [0, 1, 2]}, r"`classes` must be names, but one is 0"),
        ({"classes": ["a", "b", "a"]}, r"`classes` lists 'a' twice"),
        ({"colors": ["#ff0000", "#00ff00", "#0000ff"]}, r'`colors` must be \[red, green, blue\] .* one is "#ff0000"'),
        ({"colors": [[0, 0, 256]] * 3}, r"`colors` must be"),
        ({"colors": 3}, r"no list of colors for 3 classes"),
    ],
)
def test_what_dataset_json_cannot_mean_is_refused(make_folder, open_folder, changes, said):
    root = make_folder()
    altered_json(root, "dataset.json", **changes)
    with pytest.raises(FolderError, match=r"dataset\.json: " + said):
        open_folder(root).build()


def test_dataset_json_may_say_things_for_people(make_folder):
    root = make_folder()
    altered_json(root, "dataset.json", name="squares", license="CC0", notes="", source="here", background=None)
    assert read_source(root).background is None


# Labels that mean something else


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"im0": [0, 1, 0], "im1": [1, 0, 1]}, r"holds a row of 0 and 1 for each image, such as \[0, 1, 0\].* \[1\]"),
        ({"im0": [False, True, False]}, "holds a row of 0 and 1"),
        ({"im0": [2, 0], "im1": [1, 1]}, r"im1: lists a class twice"),
    ],
)
def test_multi_hot_tags_are_refused(make_folder, open_folder, tags, said):
    root = make_folder()
    make_folder.write_json("tags.json", tags)
    with pytest.raises(FolderError, match=r"tags\.json: " + said):
        open_folder(root).build()


def test_two_tags_of_two_classes_are_a_list_unless_a_row_says_otherwise(make_folder):
    root = make_folder()
    make_folder.write_json("dataset.json", {"classes": ["a", "b"]})
    make_folder.write_json("tags.json", {"im0": [0, 1], "im1": [0, 1]})
    read_source(root)
    make_folder.write_json("tags.json", {"im0": [0, 1], "im1": [1, 0]})
    with pytest.raises(FolderError, match="a row of 0 and 1"):
        read_source(root)


def boxes_of_another_size(coco):
    coco["images"][1] |= {"width": 192, "height": 160}


def two_of_one_stem(coco):
    coco["images"][1]["file_name"] = "other/im0.png"


def box_without_place(coco):
    del coco["annotations"][2]["bbox"]


def box_without_area(coco):
    coco["annotations"][1]["bbox"] = [5, 6, 0, 7]


def box_of_no_image(coco):
    coco["annotations"][1]["image_id"] = 99


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (boxes_of_another_size, r"im1: was drawn on 192x160 but its image is 48x40"),
        (two_of_one_stem, r"'im0\.png' and 'other/im0\.png' would both be about the image im0"),
        (box_without_place, r"annotation 2 has no 'bbox'"),
        (box_without_area, r"im1: box \[5\.0, 6\.0, 0\.0, 7\.0\] has no area"),
        (box_of_no_image, r"not COCO .*: 99 is nowhere to be found"),
    ],
)
def test_boxes_that_mean_something_else_are_refused(make_folder, open_folder, spoil, said):
    root = make_folder(boxes=True)
    coco = json.loads((root / "boxes.json").read_text())
    spoil(coco)
    make_folder.write_json("boxes.json", coco)
    with pytest.raises(FolderError, match=r"boxes\.json: " + said):
        open_folder(root).build()


def test_255_is_no_class_where_ignore_label_is_another_value(make_folder, open_folder):
    root = make_folder()
    altered_json(root, "dataset.json", ignore_label=200)
    save_mask(root / "masks" / "im1.png", np.where(square_mask() == 1, 255, 0))
    with pytest.raises(
        FolderError, match=r"im1\.png: has values \[255\] but the classes are 0\.\.2 and ignore_label is 200"
    ):
        open_folder(root).build()


def masks_of_0_and_255(root, count):
    for i in range(count):
        save_mask(root / "masks" / f"im{i}.png", square_mask(i) * 255)


@pytest.mark.parametrize("options", [{}, {"skip_bad": True}])
def test_a_mask_of_classes_does_not_hide_that_the_others_hold_0_and_255(make_folder, open_folder, options):
    root = make_folder()
    masks_of_0_and_255(root, 5)
    with pytest.raises(
        FolderError, match=r"im0\.png and 4 more of 6 masks: hold nothing but 0 and 255.*'square', write 1"
    ):
        open_folder(root, **options).build()
    altered_json(root, "dataset.json", ignore_label=255)  # it is meant so
    open_folder(root).build()


def test_a_mask_of_0_and_255_among_those_of_classes_is_named(make_folder, open_folder, caplog):
    root = make_folder()
    masks_of_0_and_255(root, 1)
    open_folder(root).build()
    assert "im0.png and 0 more of 6 masks: hold nothing but 0 and 255" in caplog.text


def test_a_mask_without_any_class_is_named_and_counts_as_none(make_folder, open_folder, caplog):
    root = make_folder()
    save_mask(root / "masks" / "im1.png", np.full(SIZE, 255))
    builder = open_folder(root)
    found = records(builder)
    assert found["im1"]["mask"] == b""
    assert [names(row["kinds"]) for row in builder.dataset_info().splits["train"]][1] == {"UNLABELED"}
    assert "im1.png and 0 more: hold no class, and count as no mask" in caplog.text


# Files and how they are written


def test_splits_may_name_files_and_every_text_may_have_a_byte_order_mark(make_folder, open_folder):
    root = make_folder(**EVERYTHING)
    (root / "splits" / "train.txt").write_text("im0.png\r\nim1\r\nimages/im2.png\r\n", encoding="utf-8-sig")
    for path in root.glob("*.json"):
        path.write_text(path.read_text(), encoding="utf-8-sig")
    assert sorted(records(open_folder(root))) == ["im0", "im1", "im2"]


@pytest.mark.parametrize("name", ["dataset.json", "points.json", "splits/train.txt"])
def test_text_that_is_not_utf_8_is_named(make_folder, open_folder, name):
    root = make_folder(**EVERYTHING)
    (root / name).write_text((root / name).read_text(), encoding="utf-16")
    with pytest.raises(FolderError, match=rf"{name}: is no text in UTF-8"):
        open_folder(root).build()


def deep_image(root, largest):
    values = np.linspace(0, largest, 40 * 48 * 3).reshape(40, 48, 3).astype(np.uint16)
    cv2.imwrite(str(root / "images" / "im1.png"), values)


def pages(root):
    (root / "images" / "im1.png").unlink()
    page = Image.new("RGB", (48, 40))
    page.save(root / "images" / "im1.tif", save_all=True, append_images=[page, page])


def broken_link(folder):
    def spoil(root):
        (root / folder / "im1.png").unlink()
        (root / folder / "im1.png").symlink_to("/nowhere/im1.png")

    return spoil


def turned_by_exif(root):
    (root / "images" / "im1.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 40)).save(root / "images" / "im1.jpg", exif=exif)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda root: deep_image(root, 4095),
            r"images/im1\.png: holds uint16 values up to 4095, .* make them 8 bits",
        ),
        (pages, r"images/im1\.tif: has 3 pages, but an image is one"),
        (broken_link("images"), r"images/im1\.png: is a link to /nowhere/im1\.png, which is not there"),
        (broken_link("masks"), r"masks/im1\.png: is a link to /nowhere/im1\.png, which is not there"),
        (turned_by_exif, r"masks/im1\.png: is 48x40 but its image is 40x48 \(the image is turned by its EXIF tag"),
    ],
)
def test_files_that_would_be_misread_are_refused_by_name(make_folder, open_folder, spoil, said):
    root = make_folder()
    spoil(root)
    with pytest.raises(FolderError, match=said):
        open_folder(root).build()


def test_images_of_16_bits_that_use_them_are_read_right(make_folder, open_folder):
    root = make_folder()
    deep_image(root, 65535)
    image = decode_image(records(open_folder(root))["im1"]["image"])
    assert image.dtype == np.uint8
    assert (image.min(), image.max()) == (0, 255)


def test_a_mask_of_more_pixels_than_are_read_is_told_from_one_that_is_no_png(make_folder, open_folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(FolderError, match=r"masks/im0\.png: has more pixels than Pillow reads"):
        open_folder(make_folder()).build()


@pytest.mark.parametrize("name", ["trainval", "training", "mine"])
def test_a_dataset_without_a_training_split_says_which_one_it_takes(make_folder, open_set, caplog, name):
    root = make_folder()
    (root / "splits" / "train.txt").rename(root / "splits" / f"{name}.txt")
    with caplog.at_level("INFO"):
        dataset = open_set(root)
    assert f"has no splits/train.txt, so it trains on splits/{name}.txt" in caplog.text
    assert dataset.info.splits["train"] == dataset.info.splits[name]
    assert len(dataset.records("train")) == len(dataset.records(name)) == 4


def test_of_two_splits_that_may_be_for_training_none_is_taken(make_folder, open_set):
    root = make_folder()
    (root / "splits" / "train.txt").rename(root / "splits" / "one.txt")
    (root / "splits" / "two.txt").write_text("im0\n")
    with pytest.raises(ValueError, match=r"has no split 'train'; it has: one, two, val; .*data.train_split=one"):
        make_pools(open_set(root).info, "train", parse_quota({"dense": 1}), {}, 0)


RED, GREEN, BLUE, WHITE = (200, 0, 0), (0, 200, 0), (0, 0, 200), (255, 255, 255)


def save_in_colors(path, mask, colors):
    Image.fromarray(np.array(colors, np.uint8)[mask]).save(path)


def test_masks_in_colours_are_read_by_the_colors_of_dataset_json(make_folder, open_folder):
    root = make_folder()
    expected = records(open_folder(root))["im1"]["mask"]
    altered_json(root, "dataset.json", colors=[RED, GREEN, BLUE, WHITE])
    mask = np.array(Image.open(root / "masks" / "im1.png"))
    save_in_colors(root / "masks" / "im1.png", np.where(mask == 255, 3, mask), [RED, GREEN, BLUE, WHITE])
    assert records(open_folder(root))["im1"]["mask"] == expected


@pytest.mark.parametrize(
    ("colors", "shown", "said"),
    [
        (None, [RED, GREEN], r"has 3 channels .*; `colors` of dataset\.json may say what colours stand for"),
        (
            [RED, GREEN, BLUE],
            [RED, (0, 201, 0)],
            r"has colours that are not among `colors` of .*: \[0, 201, 0\]",
        ),
        (
            [RED, GREEN, RED],
            [RED, GREEN],
            r"is in colours, but in `colors` of .* one stands for two classes",
        ),
        ([RED, GREEN, BLUE], [(*RED, 255), (*GREEN, 9)], r"is transparent in places"),
    ],
)
def test_masks_in_other_colours_are_refused(make_folder, open_folder, colors, shown, said):
    root = make_folder()
    if colors:
        altered_json(root, "dataset.json", colors=colors)
    save_in_colors(root / "masks" / "im1.png", square_mask(), shown)
    with pytest.raises(FolderError, match=r"im1\.png: " + said):
        open_folder(root).build()


def test_palettes_in_another_order_in_each_file_are_refused(make_folder, open_folder):
    root = make_folder()
    save_mask(root / "masks" / "im1.png", square_mask(), palette=[*RED, *GREEN, *BLUE])
    save_mask(root / "masks" / "im2.png", 1 - square_mask(), palette=[*GREEN, *RED, *BLUE])
    with pytest.raises(FolderError, match=r"the colour .* is the index . in .* but . in .*im2\.png: their palettes"):
        open_folder(root).build()
    save_mask(root / "masks" / "im2.png", square_mask(), palette=[*BLUE, *WHITE])  # of another tool
    open_folder(root).build()


def test_images_that_look_the_same_on_both_sides_are_told(make_folder, tmp_path, capsys):
    root = make_folder()
    rng = np.random.default_rng(0)
    for id in ("im0", "im1", "im2", "im3", "im4", "im5"):
        photo = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (48, 40), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / "images" / f"{id}.png"), photo)
    twin = cv2.imread(str(root / "images" / "im1.png"))
    cv2.imwrite(str(root / "images" / "im5.png"), np.clip(twin * 0.9 + 9, 0, 255).astype(np.uint8))  # a little darker
    config = default_config()
    config.data.update({"name": "folder", "data_dir": str(tmp_path / "built"), "path": str(root)})
    prepare(config, check_quota=False)
    said = capsys.readouterr().out
    assert "1 pairs of images for training and for evaluation look the same: im1 and im5" in said


def test_a_mask_that_was_repainted_is_noticed_on_resume(make_folder, open_set, caplog):
    root = make_folder()
    config = settings(default_config())
    config = config.replace(data={"name": "folder", "path": str(root), "quota": {"dense": 1}})
    saved = {"mixture": make_input(config, open_set(root), 1, 1).mixture, "position": None, "offset": 0}
    save_mask(root / "masks" / "im1.png", np.ones(SIZE))
    again = make_input(config, open_set(root), 1, 1)
    saved["position"] = again.batches.get_state()
    again.resume(saved, 3)
    assert "files of the dataset were changed since the checkpoint was saved" in caplog.text
    caplog.clear()
    again.resume({**saved, "mixture": again.mixture}, 3)
    assert "changed" not in caplog.text
