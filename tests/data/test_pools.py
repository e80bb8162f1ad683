"""Which images serve which kind of supervision, and how often their labels show each class."""

import dataclasses

import numpy as np
import pytest
from few_records import SIZE, B, C, D, K, P, S, U, make_set, pools_of, record_of

from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.data.fields import Data
from semiseg_jax.data.pools import class_shares, evenly_shown, make_pools, parse_quota
from semiseg_jax.data.records import DatasetInfo, describe_record, encode_png
from semiseg_jax.data.types import IGNORE, Supervision


def test_quotas_are_parsed_strongest_kind_first_without_zeros():
    parsed = parse_quota({"unlabeled": 4, "scribble": 2, "dense": 1, "box": 0})
    assert list(parsed.items()) == [(D, 1), (S, 2), (U, 4)]


@pytest.mark.parametrize(
    ("quota", "message"),
    [
        ({"blobs": 1}, "unknown supervision kind 'blobs'; known kinds: unlabeled, tags"),
        ({}, "data.quota is {}"),
        ({"dense": 0}, "must give a positive number"),
        ({"dense": 2, "box": -1}, "must give a positive number"),
    ],
)
def test_bad_quotas_are_refused(quota, message):
    with pytest.raises(ValueError, match=message):
        parse_quota(quota)


def mixed(i):
    return [(D, B), (B,), (S,), ()][i % 4]


def test_an_image_serves_every_kind_it_has_labels_for():
    _, info = make_set(8, mixed)
    pools = pools_of(info, {"dense": 1, "box": 1, "scribble": 1, "unlabeled": 1})
    assert {kind: pool.tolist() for kind, pool in pools.items()} == {
        D: [0, 4],
        B: [0, 1, 4, 5],
        S: [2, 6],
        U: [3, 7],
    }


def test_unlabeled_images_are_those_without_the_labels_of_the_quota():
    _, info = make_set(8, mixed)
    assert pools_of(info, {"dense": 1, "unlabeled": 1})[U].tolist() == [1, 2, 3, 5, 6, 7]


def test_assigned_shares_give_each_image_one_kind():
    _, info = make_set(20)
    pools = pools_of(info, {"dense": 1, "box": 1, "unlabeled": 1}, {"dense": 0.2, "box": 0.3, "unlabeled": 0.5})
    assert [len(pools[kind]) for kind in (D, B, U)] == [4, 6, 10]
    assert sorted(np.concatenate(list(pools.values()))) == list(range(20))


def test_shares_that_add_up_to_one_leave_no_image_out():
    _, info = make_set(7)
    pools = pools_of(info, {"dense": 1, "box": 1, "unlabeled": 1}, {"dense": 1 / 3, "box": 1 / 3, "unlabeled": 1 / 3})
    assert sorted(np.concatenate(list(pools.values()))) == list(range(7))


def test_assigned_numbers_are_exact_and_kept_to_images_that_can():
    _, info = make_set(16, mixed)
    pools = pools_of(info, {"dense": 1, "box": 1, "unlabeled": 1}, {"dense": 2, "box": 5, "unlabeled": 6})
    assert [len(pools[kind]) for kind in (D, B, U)] == [2, 5, 6]
    assert set(pools[D]) <= {0, 4, 8, 12}
    assert not set(pools[D]) & set(pools[B])
    assert len(np.unique(np.concatenate(list(pools.values())))) == 13


def test_an_assigned_split_lists_the_images_of_a_kind():
    _, info = make_set(10, labeled=[7, 2, 5])
    pools = pools_of(info, {"dense": 1, "unlabeled": 1}, {"dense": "labeled", "unlabeled": 1.0})
    assert pools[D].tolist() == [2, 5, 7]
    assert pools[U].tolist() == [0, 1, 3, 4, 6, 8, 9]


def test_assigned_kinds_outside_the_quota_take_their_images_away():
    _, info = make_set(10)
    pools = pools_of(info, {"dense": 1}, {"dense": 0.5, "unlabeled": 0.5})
    assert list(pools) == [D]
    assert len(pools[D]) == 5


def test_assignment_depends_on_the_seed_alone():
    _, info = make_set(30)
    draw = [pools_of(info, {"dense": 1}, {"dense": 10}, seed)[D].tolist() for seed in (0, 0, 1)]
    assert draw[0] == draw[1] != draw[2]


@pytest.mark.parametrize(
    ("quota", "assign", "message"),
    [
        ({"scribble": 1}, {}, "no image of split 'train' of fake has scribble labels; ask for others"),
        ({"dense": 1}, {}, "no image of split 'train' of fake has dense labels; ask for others, as .*box"),
        ({"box": 1, "unlabeled": 1}, {}, "every image of split 'train' of fake has labels"),
        ({"box": 1, "unlabeled": 1}, {"box": 4}, "says nothing of unlabeled"),
        ({"box": 1}, {"box": 99}, "wants 99 images for box but only 6 are left that can"),
        ({"box": 1}, {"box": 1.5}, "wants 9 images for box but only 6 are left that can"),
        ({"dense": 1}, {"dense": 2}, "wants 2 images for dense but only 0 are left that can"),
        (
            {"box": 1, "unlabeled": 1},
            {"box": 0.5, "unlabeled": 0.75},
            "wants 4 images for unlabeled but only 3",
        ),
        ({"box": 1, "unlabeled": 1}, {"box": 1.0, "unlabeled": 3}, "wants 3 images for unlabeled but only 0"),
        (
            {"box": 1, "unlabeled": 1},
            {"box": 1.0, "unlabeled": 0.0},
            "leaves no image of split 'train' for unlabeled",
        ),
        ({"box": 1}, {"box": "nowhere"}, "no split 'nowhere'; it has: train, list, empty"),
        ({"box": 1}, {"box": "empty"}, "split 'empty' of fake is empty"),
        (
            {"scribble": 1},
            {"scribble": "list"},
            "'list' to scribble but 2 of its 2 images have no scribble labels",
        ),
        ({"box": 1}, {"boxes": 1}, "unknown supervision kind 'boxes'"),
    ],
)
def test_impossible_pools_are_refused_with_the_reason(quota, assign, message):
    _, info = make_set(6, lambda _: (B,), list=[1, 2], empty=[])
    with pytest.raises(ValueError, match=message):
        pools_of(info, quota, assign)


def test_missing_labels_can_be_drawn_where_there_are_masks():
    _, info = make_set(2, lambda _: (D,))
    with pytest.raises(ValueError, match="of fake has scribble labels; draw them from masks"):
        pools_of(info, {"scribble": 1}, {})


def set_with_tags(tags):
    """Images whose tags are given; class 0, "a", is background."""
    records = [record_of(i) for i in range(len(tags))]
    for record, present in zip(records, tags, strict=True):
        record["tags"][:] = [1, "b" in present, "c" in present]
    rows = [describe_record(record, SIZE, tuple(Supervision)) for record in records]
    return DatasetInfo("fake", ("a", "b", "c"), ((0, 0, 0),) * K, 0, {"train": rows})


def with_strong_classes(quota, strong, tags):
    return make_pools(set_with_tags(tags), "train", parse_quota(quota), {}, 0, strong)


def test_images_that_show_a_weak_class_serve_as_tags_only():
    pools = with_strong_classes({"dense": 1, "tags": 1}, ("b",), ("b", "bc", "c", ""))
    assert pools[Supervision.DENSE].tolist() == [0, 3]
    assert pools[Supervision.TAGS].tolist() == [1, 2]


@pytest.mark.parametrize("name", ["shapes", "folder"])
def test_images_that_show_a_weak_class_have_nothing_but_their_tags(name, few_shapes, make_folder, tmp_path):
    """Whatever labels a set has of them, and also where rows may bring labels beside those of their kind."""
    root = make_folder(tags=True, boxes=True, points=True) if name == "folder" else ""
    make_folder.write_json("tags.json", {"im0": [1], "im1": [1, 2], "im2": [2]}) if root else None
    strong = {"shapes": "disk", "folder": "square"}[name]
    data = Data(name=name, path=str(root), data_dir=str(tmp_path / "built"), strong_classes=(strong,))
    dataset = open_dataset(data)
    allowed = {dataset.info.background, dataset.info.classes.index(strong)}
    weak = 0
    for row, record in zip(dataset.info.splits["train"], dataset.records("train"), strict=True):
        labels = [record[field] for field in ("mask", "points", "boxes")]
        if set(row["tags"]) <= allowed and row["tags"]:
            assert all(map(len, labels))
            continue
        weak += 1
        assert not any(map(len, labels))
        assert set(row["kinds"]) <= {Supervision.UNLABELED, Supervision.TAGS}
        assert (row["points"], row["boxes"]) == (0, 0)
    assert weak > 1
    assert all(len(record["mask"]) for record in dataset.records("val"))


def test_where_no_mask_is_asked_for_all_images_serve_their_tags():
    assert with_strong_classes({"tags": 1}, ("b",), ("b", "bc", "c", ""))[Supervision.TAGS].tolist() == [0, 1, 2, 3]


def test_evenly_shown_images_are_repeated_until_each_class_is_the_rarest_equally_often():
    info = set_with_tags(("b", "b", "bc", "b", "c", "b", "b"))
    pool = evenly_shown(info, "train", np.array([0, 1, 2, 4, 5, 6]))
    assert sorted(pool) == [0, 1, 2, 2, 4, 4, 5, 6]
    np.testing.assert_array_equal(evenly_shown(info, "train", np.array([3, 0])), [3, 0])


def test_classes_of_masks_count_where_images_have_no_tags():
    rows = [{"id": str(n), "tags": [], "classes": [0, 1 if n else 2, 255]} for n in range(4)]
    info = dataclasses.replace(set_with_tags(("b",)), splits={"train": rows}, background=0)
    assert sorted(evenly_shown(info, "train", np.arange(4))) == [0, 0, 0, 1, 2, 3]
    bare = dataclasses.replace(info, splits={"train": [{"id": "a", "tags": [], "classes": [0]}]})
    with pytest.raises(ValueError, match="balance_images finds no class"):
        evenly_shown(bare, "train", np.array([0]))


@pytest.mark.parametrize(
    ("split", "message"),
    [("empty", "split 'empty' of fake is empty"), ("test", "no split 'test'; it has: train, empty")],
)
def test_training_on_an_empty_or_unknown_split_is_refused(split, message):
    _, info = make_set(6, empty=[])
    with pytest.raises(ValueError, match=message):
        pools_of(info, {"dense": 1}, split=split)


def test_class_shares_weigh_kinds_by_their_rows():
    """A mask of 480 pixels of class 1, clicks on 1 and 0, one random pixel of 2, 8 pixels along a stroke."""
    records, info = make_set(4)
    of = {D: np.array([0, 480, 0]), C: np.array([1, 1, 0]), P: np.array([0, 0, 1]), S: np.array([0, 8, 0])}
    for quota in (
        {"dense": 1},
        {"points": 3},
        {"scribble": 2, "partial": 1},
        {"dense": 1, "points": 7, "unlabeled": 1},
    ):
        parsed = parse_quota(quota)
        pools = pools_of(info, quota, dict.fromkeys(quota, 1))
        found = class_shares(records, pools, parsed, K)
        expected = sum(rows * of.get(kind, np.zeros(K)) for kind, rows in parsed.items())
        np.testing.assert_allclose(found, expected / expected.sum())


def test_class_shares_leave_out_pixels_without_label_and_may_find_none():
    records, _ = make_set(3)
    mask = np.full(SIZE, IGNORE, np.uint8)
    mask[0, :3], mask[1, 0] = 2, 0
    records[0]["mask"] = encode_png(mask)
    pools = {D: np.array([0])}
    np.testing.assert_allclose(class_shares(records, pools, {D: 1}, K), [0.25, 0, 0.75])
    np.testing.assert_array_equal(class_shares(records, {U: np.arange(3)}, {U: 2}, K), 0)
