"""COCO with masks from panoptic maps, from COCO-Stuff and from instances."""

import json

import numpy as np
import pytest
from more_trees import (
    COCO_IDS,
    COCO_STUFF,
    COCO_THINGS,
    assert_masks,
    built_masks,
    coco_instances,
    coco_panoptic,
    coco_pixelmaps,
    compressed,
    opened,
    problems,
    remove,
    run_lengths,
    save,
    save_image,
    split_ids,
    write_json,
)

from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layouts import coco_files
from semiseg_jax.data.types import IGNORE, Supervision


def classes_of(categories, *, none, others):
    """Maps of category ids -> masks: class numbers by place, `none` where the map is 0, `others` elsewhere."""
    table = np.full(256, others)
    table[0] = none
    for place, category in enumerate(categories, int(others == 0)):
        table[category] = place
    return lambda maps: {id: table[map].astype(np.uint8) for id, map in maps.items()}


def first_record(builder):
    return next(record for record in builder.records("train") if record["id"].decode() == "000000000009")


def test_panoptic_maps_become_things_and_stuff_in_the_order_of_ids(tmp_path):
    maps = coco_panoptic(tmp_path / "tree")
    builder = opened("coco", tmp_path / "tree", tmp_path / "built")
    categories = [*COCO_THINGS, *COCO_STUFF]
    assert_masks(built_masks(builder), classes_of(categories, none=IGNORE, others=IGNORE)(maps))
    assert split_ids(builder) == {"train": list(COCO_IDS["train2017"]), "val": list(COCO_IDS["val2017"])}
    info = builder.dataset_info()
    assert info.classes == (*COCO_THINGS.values(), *COCO_STUFF.values())
    assert info.background is None
    record = first_record(builder)
    np.testing.assert_array_equal(record["tags"], [1, 1, 0, 0, 1])
    np.testing.assert_array_equal(record["boxes"], [[2, 3, 6, 9], [7, 1, 11, 5]])
    np.testing.assert_array_equal(record["box_class"], [1, IGNORE])  # the second is a crowd


def test_stuff_is_background_where_things_alone_are_asked_for(tmp_path):
    maps = coco_panoptic(tmp_path / "tree")
    builder = opened("coco", tmp_path / "tree", tmp_path / "built", classes="things")
    assert_masks(built_masks(builder), classes_of(COCO_THINGS, none=IGNORE, others=0)(maps))
    info = builder.dataset_info()
    assert info.classes == ("background", *COCO_THINGS.values())
    assert info.background == 0
    np.testing.assert_array_equal(first_record(builder)["tags"], [-1, 1, 1, 0])


@pytest.mark.parametrize("place", ["stuffthingmaps", "annotations"])
@pytest.mark.parametrize("classes", ["stuff+things", "things"])
def test_maps_of_coco_stuff_hold_ids_less_one(tmp_path, classes, place):
    maps = coco_pixelmaps(tmp_path / "tree")
    (tmp_path / "tree" / "stuffthingmaps").rename(tmp_path / "tree" / place)
    builder = opened("coco", tmp_path / "tree", tmp_path / "built", classes=classes)
    found = built_masks(builder)
    names = builder.dataset_info().classes
    assert len(names) == (171 if classes == "stuff+things" else 81)
    expected = {0: IGNORE, 1: names.index("person"), 90: names.index("toothbrush")}
    expected |= {id: names.index(name) if name in names else 0 for id, name in ((92, "banner"), (182, "wood"))}
    assert_masks(found, {id: np.vectorize(expected.get)(map).astype(np.uint8) for id, map in maps.items()})
    kinds = {kind for rows in builder.dataset_info().splits.values() for row in rows for kind in row["kinds"]}
    assert kinds == {Supervision.UNLABELED, Supervision.DENSE}


def test_instances_are_drawn_from_polygons_and_run_lengths(tmp_path):
    maps = coco_instances(tmp_path / "tree")
    builder = opened("coco", tmp_path / "tree", tmp_path / "built", classes="things")
    assert_masks(built_masks(builder), classes_of(COCO_THINGS, none=0, others=0)(maps))
    record = first_record(builder)
    np.testing.assert_array_equal(record["tags"], [-1, 1, 1, 1])
    np.testing.assert_array_equal(record["boxes"], [[5, 2, 10, 7], [0, 0, 3, 2], [5, 9, 11, 15]])
    np.testing.assert_array_equal(record["box_class"], [2, IGNORE, 3])


def test_boxes_and_tags_of_things_come_beside_maps_of_coco_stuff(tmp_path):
    coco_pixelmaps(tmp_path / "tree")
    coco_instances(tmp_path / "tree")
    builder = opened("coco", tmp_path / "tree", tmp_path / "built")
    builder.build()
    record, names = first_record(builder), builder.dataset_info().classes
    np.testing.assert_array_equal(record["box_class"], [names.index("cat"), IGNORE, names.index("toothbrush")])
    assert [names[place] for place in np.flatnonzero(record["tags"] == 1)] == ["person", "cat", "toothbrush"]
    assert record["tags"][names.index("wood")] == -1


def test_the_source_of_masks_can_be_chosen(tmp_path):
    coco_panoptic(tmp_path / "tree")
    coco_pixelmaps(tmp_path / "tree")
    sizes = {
        masks: len(opened("coco", tmp_path / "tree", tmp_path / "built", masks=masks).class_names)
        for masks in ("", "panoptic", "pixelmaps")
    }
    assert sizes == {"": 5, "panoptic": 5, "pixelmaps": 171}


def test_images_below_images_and_unlabeled_ones_are_found(tmp_path):
    coco_panoptic(tmp_path / "tree")
    (tmp_path / "tree" / "images").mkdir()
    for year in COCO_IDS:
        (tmp_path / "tree" / year).rename(tmp_path / "tree" / "images" / year)
    save_image(tmp_path / "tree" / "images" / "unlabeled2017" / "000000000001.jpg")
    ids = split_ids(opened("coco", tmp_path / "tree", tmp_path / "built"))
    assert ids["unlabeled"] == ["000000000001"]
    assert ids["val"] == list(COCO_IDS["val2017"])


def test_a_set_that_is_built_is_opened_without_reading_annotations(tmp_path, monkeypatch):
    coco_panoptic(tmp_path / "tree")
    opened("coco", tmp_path / "tree", tmp_path / "built").build()
    monkeypatch.setattr(coco_files.Annotations, "_parse", lambda _: pytest.fail("annotations were read again"))
    builder = opened("coco", tmp_path / "tree", tmp_path / "built")
    assert builder.outline() is None
    builder.build()
    assert len(builder.records("train")) == len(builder.dataset_info().splits["train"]) == 3


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        ("train2017", "train2017/ is missing"),
        ("annotations/panoptic_val2017.json", "annotations/panoptic_val2017.json is missing"),
        ("annotations/panoptic_train2017", "annotations/panoptic_train2017/ is missing"),
        ("annotations/panoptic_train2017/000000000025.png", "annotations/panoptic_train2017/ has no map for 1 files"),
    ],
)
def test_each_missing_piece_is_named(tmp_path, piece, words):
    coco_panoptic(tmp_path / "tree")
    remove(tmp_path / "tree" / piece)
    assert words in problems("coco", tmp_path / "tree", tmp_path / "built")


def test_an_empty_tree_lacks_images_and_masks(tmp_path):
    (tmp_path / "tree").mkdir()
    words = problems("coco", tmp_path / "tree", tmp_path / "built")
    assert all(part in words for part in ("train2017/", "val2017/", "there are no masks"))


def test_instances_have_no_stuff(tmp_path):
    coco_instances(tmp_path / "tree")
    words = problems("coco", tmp_path / "tree", tmp_path / "built")
    assert '--config.data.options=\'{"classes": "things"}\'' in words


def strange_segment(tree):
    save(tree / "annotations/panoptic_val2017/000000000139.png", np.full((12, 16, 3), 9))


def other_size(tree):
    save_image(tree / "val2017/000000000139.jpg", (24, 32))


def unlisted(tree):
    save_image(tree / "val2017/000000000140.jpg")
    (tree / "annotations/panoptic_val2017/000000000140.png").write_bytes(
        (tree / "annotations/panoptic_val2017/000000000139.png").read_bytes()
    )


def no_coco(tree):
    path = tree / "annotations/panoptic_val2017.json"
    content = json.loads(path.read_text())
    del content["images"]
    write_json(path, content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (strange_segment, "segment 592137 is not among those of its annotations"),
        (other_size, "000000000139: is 16x12 but its image is 32x24"),
        (unlisted, "has no image '000000000140'"),
        (no_coco, "not COCO"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, damage, message):
    coco_panoptic(tmp_path / "tree")
    damage(tmp_path / "tree")
    with pytest.raises(FolderError, match=message):
        opened("coco", tmp_path / "tree", tmp_path / "built").build()


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_decoded_as_they_were_encoded(seed):
    mask = np.random.default_rng(seed).random((40, 70)) < 0.02 * (1 + seed)
    for counts in (run_lengths(mask), compressed(run_lengths(mask))):
        found = coco_files.decode_runs("here", {"counts": counts, "size": [40, 70]}, (40, 70))
        np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("radius", [2.0, 4.0, 9.0])
def test_a_polygon_covers_its_area_and_no_more(radius):
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    corners = np.stack([12.3 + radius * np.cos(angles), 10.6 + radius * np.sin(angles)], 1)
    row = {"category_id": 1, "segmentation": [corners.ravel().tolist()], "bbox": [0, 0, 9, 9]}
    mask = coco_files.draw_instances("here", [row], np.arange(256), (24, 30))
    assert abs(mask.sum() - np.pi * radius**2) < radius
    ys, xs = np.nonzero(mask)
    assert (np.hypot(ys + 0.5 - 10.6, xs + 0.5 - 12.3) < radius + 0.1).all()


def test_a_polygon_may_leave_its_image():
    corners = [-5, -5, 4, -5, 4, 40, -5, 40]
    row = {"category_id": 3, "segmentation": [corners, [50, 2, 60, 2, 60, 4]], "bbox": [0, 0, 4, 24]}
    mask = coco_files.draw_instances("here", [row], np.arange(256), (24, 30))
    np.testing.assert_array_equal(mask, np.where(np.arange(30) < 4, 3, 0) * np.ones((24, 1)))


def test_run_lengths_of_another_image_are_refused():
    with pytest.raises(FolderError, match="here: run lengths of 7 pixels do not fit their size"):
        coco_files.decode_runs("here", {"counts": [3, 4], "size": [2, 3]}, (2, 3))
    with pytest.raises(FolderError, match=r"here: run lengths for \[2, 3\] do not fit its image"):
        coco_files.decode_runs("here", {"counts": [3, 3], "size": [2, 3]}, (3, 2))
