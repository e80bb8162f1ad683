"""Pascal VOC from trees in its own layout."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import names
from trees import CAT, DOG, PERSON, SBD, SHOWN, SIZE, TRAIN, VAL, save, save_mat, voc_mask, voc_tree, voc_xml, write

from semiseg_jax.data.datasets import make_builder, open_dataset
from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layouts import voc
from semiseg_jax.data.records import decode_image, decode_mask
from semiseg_jax.data.types import IGNORE
from semiseg_jax.options import OptionError

KINDS = {"DENSE", "BOX", "SCRIBBLE", "POINTS", "TAGS", "UNLABELED"}
AUG = {"train_split": "train_aug"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return voc_tree(tmp_path_factory.mktemp("whole") / "VOCdevkit")


@pytest.fixture
def tree(whole, tmp_path):
    """One that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "VOCdevkit"))


@pytest.fixture
def make(tmp_path):
    return lambda path, **fields: make_builder(
        Data(name="voc", path=str(path), data_dir=str(tmp_path / "built"), **fields)
    )


def built(builder, split="train"):
    builder.build()
    return {record["id"].decode(): record for record in builder.records(split)}


def kinds_of(builder, split):
    return {row["id"]: names(row["kinds"]) for row in builder.dataset_info().splits[split]}


def problems(make, path, **fields):
    with pytest.raises(FolderError) as caught:
        make(path, **fields)
    assert not list(Path(path).parent.glob("built/*/*"))
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


@pytest.mark.parametrize("where", ["VOCdevkit", "VOCdevkit/VOC2012", "."])
def test_the_devkit_its_year_or_the_folder_around_it_make_the_same_set(whole, make, where):
    builder = make(whole.parent / where)
    found = built(builder, "train_aug")
    assert list(found) == [*TRAIN, *SBD]
    info = builder.dataset_info()
    assert {split: [row["id"] for row in rows] for split, rows in info.splits.items()} == {
        "train": [*TRAIN], "val": [*VAL], "train_aug": [*TRAIN, *SBD],
    }  # fmt: skip
    assert info.classes == voc.CLASSES
    assert info.background == 0
    assert info.colors[1:4] == ((128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert info.colors[20] == (0, 64, 128)
    assert all(kinds == KINDS for split in info.splits for kinds in kinds_of(builder, split).values())


def test_every_label_is_what_was_written(whole, make):
    for id, record in built(make(whole), "train_aug").items():
        assert decode_image(record["image"]).shape == (*SIZE, 3)
        np.testing.assert_array_equal(decode_mask(record["mask"], SIZE), voc_mask(id, border=id in TRAIN))
        shown = SHOWN[id]
        np.testing.assert_array_equal(record["boxes"], [box for _, *box in shown])
        np.testing.assert_array_equal(record["box_class"], [klass for klass, *_ in shown])
        tags = np.zeros(21)
        tags[0], tags[[klass for klass, *_ in shown]] = -1, 1
        np.testing.assert_array_equal(record["tags"], tags)
        clicks = [((y0 + y1) / 2 + 0.25, (x0 + x1) / 2, klass) for klass, y0, x0, y1, x1 in shown]
        np.testing.assert_array_equal(record["points"], [*clicks, (1, 2.5, 0)])
        strokes = record["strokes"]
        for klass, y0, x0, y1, x1 in shown:
            pieces = strokes[strokes[:, 4] == klass]
            assert (pieces[:, [0, 2]] == (y0 + y1) // 2).all()
            assert (pieces[:, [1, 3]].min(), pieces[:, [1, 3]].max()) == (x0 + 3, x1 - 4)
        ground = strokes[strokes[:, 4] == 0]
        assert [2, 2, 2, 2, 0] in ground.tolist()  # the dot
        assert ground[:, [1, 3]].max() == 50  # the line that leaves the image is left out
        assert len(strokes) == len(ground) + sum(strokes[:, 4] > 0)


def test_masks_of_voc_are_used_where_sbd_has_one_too(tree, make):
    shutil.rmtree(tree / "SegmentationClassAug")
    for id in (TRAIN[0], VAL[0], *SBD):
        save_mat(tree / "benchmark_RELEASE" / "dataset" / "cls" / f"{id}.mat", voc_mask(id, border=False))
    found = built(make(tree), "train_aug")
    np.testing.assert_array_equal(decode_mask(found[TRAIN[0]]["mask"], SIZE), voc_mask(TRAIN[0]))
    np.testing.assert_array_equal(decode_mask(found[SBD[0]]["mask"], SIZE), voc_mask(SBD[0], border=False))


@pytest.mark.parametrize("place", ["SBD/cls", "sbd/dataset/cls", "elsewhere"])
def test_sbd_is_found_in_its_usual_places_and_where_an_option_says(tree, make, place):
    (tree / place).parent.mkdir(parents=True, exist_ok=True)
    (tree / "SegmentationClassAug").rename(tree / place)
    options = {"options": {"sbd": place}} if place == "elsewhere" else {}
    assert len(built(make(tree, **AUG, **options), "train_aug")[SBD[0]]["mask"])


@pytest.mark.parametrize("name", ["trainaug.txt", "train_aug.txt", ""])
def test_the_rule_of_train_aug_needs_no_list(tree, make, name):
    listed = tree / "VOC2012" / "ImageSets" / "Segmentation" / "train_aug.txt"
    ids = [*SBD[:2], TRAIN[0], VAL[0]]
    listed.unlink()
    if name:
        lines = [f"/JPEGImages/{id}.jpg /SegmentationClassAug/{id}.png" for id in ids]
        listed.with_name(name).write_text("\n".join(lines))
    split = make(tree).listing.splits["train_aug"]
    assert split == (ids[:3] if name else sorted([*TRAIN, *SBD]))


def test_a_tree_without_anything_optional_has_masks(make, tmp_path):
    builder = make(voc_tree(tmp_path / "VOCdevkit", sbd="", listed=False, more=False))
    assert set(built(builder)) == {*TRAIN}
    assert list(builder.dataset_info().splits) == ["train", "val"]
    assert set(map(frozenset, kinds_of(builder, "train").values())) == {frozenset({"DENSE", "UNLABELED"})}


def test_without_sbd_scribbles_make_train_aug(make, tmp_path):
    builder = make(voc_tree(tmp_path / "VOCdevkit", sbd="", listed=False), quota={"scribble": 1}, **AUG)
    assert set(built(builder, "train_aug")) == {*TRAIN, *SBD}
    assert kinds_of(builder, "train_aug")[SBD[0]] == KINDS - {"DENSE"}


def test_one_kind_of_clicks_alone_is_used(tree, make):
    (tree / "VOC2012" / "points" / "voc_whats_the_point.json.gz").unlink()
    np.testing.assert_array_equal(built(make(tree))[TRAIN[0]]["points"], [[1, 2.5, 0]])


def test_a_difficult_object_is_a_tag_and_a_region_that_is_left_out(tree, make):
    write(tree / "VOC2012" / "Annotations" / f"{TRAIN[2]}.xml", voc_xml(TRAIN[2], difficult=1))
    record = built(make(tree))[TRAIN[2]]
    assert record["box_class"].tolist() == [IGNORE, IGNORE]
    assert np.flatnonzero(record["tags"] == 1).tolist() == [DOG, PERSON]


def test_short_names_of_scribbles_are_understood(tree, make):
    file = tree / "scribble_annotation" / "pascal_2012" / f"{TRAIN[0]}.xml"
    for name, klass in {"plane": 1, "bike": 2, "table": 11, "plant": 16, "monitor": 20, "sofa": 18}.items():
        write(file, f"<a><polygon><tag>{name}</tag><point><X>1</X><Y>2</Y></point></polygon></a>")
        np.testing.assert_array_equal(voc.read_scribbles(file, SIZE), [[2, 1, 2, 1, klass]])


def test_masks_of_images_with_weak_classes_are_never_opened(tree, make):
    weak = [id for id in [*TRAIN, *SBD] if any(klass == PERSON for klass, *_ in SHOWN[id])]
    for id in weak:
        for folder in (tree / "VOC2012" / "SegmentationClass", tree / "SegmentationClassAug"):
            (folder / f"{id}.png").write_bytes(b"not an image")
    found = built(make(tree, strong_classes=("cat", "dog"), **AUG), "train_aug")
    assert [id for id, record in found.items() if not len(record["mask"])] == weak
    assert {klass for id in set(found) - set(weak) for klass, *_ in SHOWN[id]} == {CAT, DOG}


def test_labels_that_the_tree_lacks_are_drawn_from_masks(make, tmp_path):
    path = voc_tree(tmp_path / "VOCdevkit", sbd="", listed=False, more=False)
    data = Data(name="voc", path=str(path), data_dir=str(tmp_path), simulate={"tags": {}}, quota={"tags": 1})
    dataset = open_dataset(data, planned=True)
    assert dataset.info.splits["train"][0]["tags"] == [0, DOG]


def test_all_that_a_tree_lacks_is_listed_before_anything_is_written(tmp_path, make):
    root = tmp_path / "VOCdevkit"
    (root / "VOC2012").mkdir(parents=True)
    quota = {"dense": 1, "scribble": 1, "points": 1, "box": 1, "tags": 1}
    said = problems(make, root, quota=quota, options={"sbd": "my_sbd"}, **AUG)
    for lost, line in zip(
        ("JPEGImages", "train.txt", "val.txt", "my_sbd", "SegmentationClass", "Annotations", "Annotations",
         "scribble_annotation/pascal_2012", "points", "train_aug"), said, strict=True,
    ):  # fmt: skip
        assert lost in line
    assert problems(make, tmp_path / "nowhere") == ["there is no such folder"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (f"VOC2012/JPEGImages/{TRAIN[1]}.jpg", rf"JPEGImages lacks 1 of the 6 files of train, .* {TRAIN[1]}\.jpg"),
        (f"VOC2012/Annotations/{SBD[0]}.xml", rf"Annotations lacks 1 of the 9 files of train_aug, .* {SBD[0]}\.xml"),
        ("VOC2012/ImageSets/Segmentation/val.txt", r"val\.txt is missing or empty"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_there_is_named(tree, make, file, message):
    (tree / file).unlink()
    with pytest.raises(FolderError, match=message):
        make(tree)


def test_a_mask_that_is_not_there_is_named(make, tmp_path):
    path = voc_tree(tmp_path / "VOCdevkit", sbd="", listed=False, more=False)
    (path / "VOC2012" / "SegmentationClass" / f"{VAL[0]}.png").unlink()
    assert f"SegmentationClass lacks 1 of the 2 files of val, the first is {VAL[0]}.png" in problems(make, path)[0]


def test_strong_classes_without_annotations_are_refused(make, tmp_path):
    path = voc_tree(tmp_path / "VOCdevkit", more=False)
    (line,) = problems(make, path, strong_classes=("cat",))
    assert "data.strong_classes needs the tags of every image" in line


def test_an_option_that_does_not_exist_is_refused(whole, make):
    with pytest.raises(OptionError, match=r"config\.data\.options\.sdb is no field\. Did you mean sbd\?"):
        make(whole, options={"sdb": "x"})


BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox>"
CLICKS = "VOC2012/points/whats_the_point.json"
XML, LINES = f"VOC2012/Annotations/{TRAIN[0]}.xml", f"scribble_annotation/pascal_2012/{TRAIN[0]}.xml"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (XML, "<a><object><name>cow", "not readable as XML"),
        (XML, f"<a><object><name>unicorn</name>{BOX.format(9)}</object></a>", "object 'unicorn' is no class of VOC"),
        (XML, "<a><object><name>cow</name></object></a>", "a cow has no bndbox"),
        (XML, f"<a><object><name>cow</name>{BOX.format(900)}</object></a>", "lies outside its image, which is 64x48"),
        (LINES, "<a><polygon><tag>unicorn</tag></polygon></a>", "scribble 'unicorn' is no class of VOC"),
        (LINES, "<a><polygon><tag>cow</tag><point><X>1</X></point></polygon></a>", "a point of a cow has no X and Y"),
        (CLICKS, "[1]", r"whats_the_point\.json: not JSON of the form"),
        (CLICKS, '{"a": [{"x": 1, "y": 1, "cls": 21}]}', r"of a has a class that is not 0\.\.20"),
        (f"SegmentationClassAug/{SBD[0]}.png", "", "not a readable PNG"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_as_it_should_be_is_named(tree, make, file, content, message):
    write(tree / file, content)
    with pytest.raises(FolderError, match=message) as caught:
        make(tree).build()
    assert Path(file).parent.name in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full(SIZE, 21, np.uint8), r"has values \[21\]"),
        (np.zeros((9, 9), np.uint8), "but its image is 64x48"),
        (None, "not a readable .mat"),
    ],
)
def test_a_mat_file_that_is_not_as_it_should_be_is_named(tmp_path, mask, message):
    path = tmp_path / "x.mat"
    path.write_bytes(b"nothing") if mask is None else save_mat(path, mask)
    with pytest.raises(FolderError, match=message):
        voc.read_mask(path, SIZE)


def test_a_mask_that_changes_makes_another_set(tree, make):
    before = make(tree).data_path
    assert make(tree).data_path == before
    save(tree / "SegmentationClassAug" / f"{SBD[0]}.png", np.zeros(SIZE, np.uint8))
    assert make(tree).data_path != before
