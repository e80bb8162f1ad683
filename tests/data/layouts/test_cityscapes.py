"""Cityscapes from trees in its own layout."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import names
from trees import BIKE, CAR, CARAVAN, CROWD, STREET, STREETS, TINY, WALKER, cityscapes_tree, save, write

from semiseg_jax.data.datasets import make_builder
from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layouts import cityscapes
from semiseg_jax.data.records import decode_image, decode_mask
from semiseg_jax.data.types import IGNORE

THINGS = {"classes": "vehicles+persons"}
IDS = {split: [street.id for street in STREETS if street.split == split] for split in cityscapes.SPLITS}
BY_ID = {street.id: street for street in STREETS}
FIRST = IDS["train"][0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return cityscapes_tree(tmp_path_factory.mktemp("whole") / "cityscapes")


@pytest.fixture
def tree(whole, tmp_path):
    """One that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "cityscapes"))


@pytest.fixture
def make(tmp_path):
    return lambda path, **fields: make_builder(
        Data(name="cityscapes", path=str(path), data_dir=str(tmp_path / "built"), **fields)
    )


def built(builder, split="train"):
    builder.build()
    return {record["id"].decode(): record for record in builder.records(split)}


def kinds_of(builder, split):
    return set().union(*(names(row["kinds"]) for row in builder.dataset_info().splits[split]))


def expected(id, classes):
    """The mask by the names of the classes, independently of the tables."""
    labels = BY_ID[id].draw(instances=False)
    out = np.full(STREET, IGNORE)
    for klass, ids in enumerate(classes):
        out[np.isin(labels, ids)] = klass
    return out


ALL = [[7], [8], [11], [12], [13], [17], [19], [20], [21], [22], [23], [24], [25], [26], [27], [28], [31], [32], [33]]
GROUPED = [[7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23], [26, 27, 28, 31, 32, 33], [24, 25]]


def test_splits_are_those_of_the_folders(whole, make):
    builder = make(whole)
    builder.build()
    info = builder.dataset_info()
    assert {split: [row["id"] for row in rows] for split, rows in info.splits.items()} == IDS
    kinds = {split: kinds_of(builder, split) for split in IDS}
    assert kinds["train"] == kinds["val"] == {"UNLABELED", "TAGS", "DENSE"}
    assert kinds["test"] == {"UNLABELED"}
    assert kinds["train_extra"] == {"UNLABELED", "DENSE"}
    assert info.classes[0] == "road"
    assert info.classes[18] == "bicycle"
    assert info.background is None
    assert info.colors[13] == (0, 0, 142)


@pytest.mark.parametrize(("options", "classes"), [({}, ALL), (THINGS, GROUPED)])
def test_masks_and_images_are_what_was_written(whole, make, options, classes):
    for split in ("train", "val"):
        for id, record in built(make(whole, options=options), split).items():
            assert decode_image(record["image"]).shape == (*STREET, 3)
            np.testing.assert_array_equal(decode_mask(record["mask"], STREET), expected(id, classes))


@pytest.mark.parametrize(("options", "classes"), [({}, ALL), (THINGS, GROUPED)])
def test_masks_of_train_ids_serve_where_only_these_exist(tmp_path, make, options, classes):
    builder = make(cityscapes_tree(tmp_path / "c", train_ids=True), options=options)
    np.testing.assert_array_equal(decode_mask(built(builder)[FIRST]["mask"], STREET), expected(FIRST, classes))
    assert kinds_of(builder, "train") == {"UNLABELED", "DENSE"}


def test_coarse_masks_are_those_of_train_extra_and_of_train_if_asked_for(whole, make):
    lines = np.arange(STREET[0])[:, None] % 8 == 0
    (id,) = IDS["train_extra"]
    extra = decode_mask(built(make(whole), "train_extra")[id]["mask"], STREET)
    np.testing.assert_array_equal(extra, np.where(lines, IGNORE, expected(id, ALL)))
    coarse = make(whole, options={"masks": "coarse"})
    np.testing.assert_array_equal(
        decode_mask(built(coarse)[FIRST]["mask"], STREET), np.where(lines, IGNORE, expected(FIRST, ALL))
    )
    val = IDS["val"][0]
    np.testing.assert_array_equal(decode_mask(built(coarse, "val")[val]["mask"], STREET), expected(val, ALL))


def test_boxes_are_those_of_the_visible_pixels_of_instances(whole, make):
    found = built(make(whole, options=THINGS))

    def boxes(id):
        record = found[id]
        return dict(zip(map(tuple, record["boxes"].tolist()), record["box_class"].tolist(), strict=True))

    car, walker = CAR[3:], WALKER[3:]
    assert boxes(FIRST) == {(car[0], car[1], car[2], walker[1]): 1, walker: 2}  # the walker stands before the car
    assert boxes(IDS["train"][1]) == {(20, 60, 36, 72): 2, BIKE[3:]: 1, TINY[3:]: IGNORE, CROWD[3:]: IGNORE}
    assert boxes(IDS["train"][2]) == {CAR[3:]: 1, CARAVAN[3:]: IGNORE}
    tiny = built(make(whole, options=THINGS | {"min_box": 0}))[IDS["train"][1]]
    assert sorted(tiny["box_class"].tolist()) == [1, 2, 2, IGNORE]


def test_tags_come_from_polygons(whole, make):
    tags = built(make(whole))[IDS["train"][1]]["tags"]
    assert np.flatnonzero(tags == 1).tolist() == [0, 10, 11, 12, 18]
    assert not (tags == -1).any()
    things = built(make(whole, options=THINGS))
    assert things[FIRST]["tags"].tolist() == [-1, 1, 1]
    assert things[IDS["train"][2]]["tags"].tolist() == [-1, 1, 0]


def test_masks_of_images_with_weak_classes_are_never_opened(tree, make):
    weak = [id for id in IDS["train"] if any(name in ("person", "rider") for name, *_ in BY_ID[id].things)]
    for id in weak:
        (tree / "gtFine" / f"{BY_ID[id].file}_gtFine_labelIds.png").write_bytes(b"not an image")
    found = built(make(tree, strong_classes=("vehicle",), options=THINGS))
    assert [id for id, record in found.items() if not len(record["mask"])] == weak


@pytest.mark.parametrize(
    ("folder", "fields", "message"),
    [
        ("leftImg8bit/train", {}, "leftImg8bit/train/ is missing or holds no CITY/ID_leftImg8bit.png"),
        ("leftImg8bit/val", {"eval_split": "val"}, "leftImg8bit/val/ is missing"),
        ("gtFine/train", {}, "gtFine/train/ lacks the masks of 6 of 6 images, first aachen/aachen_000000_000019_"),
        ("gtFine/val/lindau", {}, r"gtFine/val/ lacks the masks of 1 of 2 images, first lindau/lindau_000000_000019"),
        ("gtCoarse/train", {"options": {"masks": "coarse"}}, "gtCoarse/train/ lacks the masks of 6 of 6 images"),
        ("", {"quota": {"box": 1}}, "boxes go with --config.data.options='{\"classes\": \"vehicles.persons\"}'"),
        (".", {}, "there is no such folder"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(tree, make, folder, fields, message):
    if folder:
        shutil.rmtree(tree / folder)
    with pytest.raises(FolderError, match=message):
        make(tree, **fields)


def test_all_that_a_tree_lacks_is_listed_at_once(tmp_path, make):
    tree = cityscapes_tree(tmp_path / "c", train_ids=True)
    fields = {"quota": {"box": 1, "tags": 1}, "options": THINGS, "train_split": "train+train_extra"}
    shutil.rmtree(tree / "leftImg8bit" / "train_extra")
    with pytest.raises(FolderError) as caught:
        make(tree, **fields)
    lines = str(caught.value).splitlines()[1:]
    for line, lost in zip(lines, ("train_extra/", "instanceIds.png", "polygons.json"), strict=True):
        assert lost in line
    assert not (tmp_path / "built").exists()


def test_without_coarse_masks_train_extra_is_unlabelled(tree, make):
    shutil.rmtree(tree / "gtCoarse")
    builder = make(tree)
    builder.build()
    assert kinds_of(builder, "train_extra") == {"UNLABELED"}


FINE = f"gtFine/{BY_ID[FIRST].file}_gtFine_"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labelIds.png", np.full(STREET, 34, np.uint8), r"labelIds\.png: has values \[34\] that stand for no class"),
        ("labelIds.png", "", r"labelIds\.png: not a readable PNG"),
        ("instanceIds.png", "", r"instanceIds\.png: not a readable PNG"),
        ("instanceIds.png", np.full(STREET, 34_000, np.uint16), "has the value 34000, which is no instance"),
        ("instanceIds.png", np.zeros((9, 9), np.uint16), "but its image is 128x64"),
        ("polygons.json", "{}", r"polygons\.json: not JSON with the objects"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_named(tree, make, file, content, message):
    write(tree / f"{FINE}{file}", content) if isinstance(content, str) else save(tree / f"{FINE}{file}", content)
    with pytest.raises(FolderError, match=message):
        make(tree, options=THINGS).build()
