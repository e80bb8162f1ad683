"""Batches: exact quotas, one order per seed, resumable, and robust to unreadable records."""

import numpy as np
import pytest
from few_records import SIZE, B, C, D, P, S, T, make_set, pools_of

from semiseg_jax.data import pipeline
from semiseg_jax.data.pools import make_streams, parse_quota
from semiseg_jax.data.types import IGNORE, Supervision


def make_loader(records, info, quota, assign=None, strict=False, canvas=(0, 0)):
    pools = pools_of(info, quota, assign)
    layout = pipeline.make_layout(info, "train", pools, canvas, strict)
    return pipeline.ExampleLoader(records, info, pools, layout, strict=strict)


def batches(loader, quota, shard=None, seed=0, threads=1):
    quota = parse_quota(quota)
    shard = shard or pipeline.Shard(rows=sum(quota.values()), units=1)
    streams = make_streams({kind.name: rows for kind, rows in quota.items()}, loader.pools, loader.info.splits["train"])
    return pipeline.make_batches(loader, streams, shard, seed=seed, threads=threads)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def read(kind, strict=False, **options):
    records, info = make_set(2, **options)
    loader = make_loader(records, info, {kind.name.lower(): 1}, {kind.name.lower(): 2}, strict)
    return loader.example(records[0], kind)


# Quotas.


QUOTAS = [
    {"dense": 1},
    {"dense": 2, "box": 6},
    {"dense": 1, "scribble": 3, "unlabeled": 4},
    {"dense": 3, "unlabeled": 5},
    {"dense": 7, "box": 9},
    {"dense": 3, "box": 1, "scribble": 2, "points": 1, "tags": 1, "partial": 2, "unlabeled": 5},
]


@pytest.mark.parametrize("quota", QUOTAS, ids=str)
@pytest.mark.parametrize(("repeat", "units"), [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize("pool", [1, 5])
def test_every_unit_of_every_batch_has_the_exact_quota_strongest_kind_first(quota, repeat, units, pool):
    records, info = make_set(pool * len(quota))
    loader = make_loader(records, info, quota, dict.fromkeys(quota, pool))
    shard = pipeline.Shard(rows=repeat * sum(quota.values()), units=units)
    parsed = parse_quota(quota)
    unit = [int(kind) for kind, rows in parsed.items() for _ in range(rows * repeat)]
    for batch in take(batches(loader, quota, shard), 6):
        assert batch["kind"].tolist() == unit * units
        for (source, index), kind in zip(batch["id"], batch["kind"], strict=True):
            assert source == list(parsed).index(kind)
            assert index in loader.pools[kind]


def test_the_quota_holds_in_each_of_many_batches():
    quota = {"dense": 3, "unlabeled": 5}
    records, info = make_set(2)
    loader = make_loader(records, info, quota, {"dense": 1, "unlabeled": 1})
    dense = {int((batch["kind"] == Supervision.DENSE).sum()) for batch in take(batches(loader, quota), 150)}
    assert dense == {3}


def test_every_image_of_a_pool_is_seen_once_an_epoch():
    records, info = make_set(12)
    loader = make_loader(records, info, {"dense": 3, "box": 1}, {"dense": 9, "box": 3})
    for epoch in range(3):
        iterator = batches(loader, {"dense": 3, "box": 1})
        seen = np.concatenate([b["id"] for b in take(iterator, 3 * (epoch + 1))[-3:]])
        for source, size in ((0, 9), (1, 3)):
            assert len(set(seen[seen[:, 0] == source, 1])) == size


def test_rows_that_are_no_multiple_of_the_quota_are_refused():
    records, info = make_set()
    with pytest.raises(ValueError, match="4 rows a micro-batch is not a multiple of the quota's 3"):
        batches(make_loader(records, info, {"dense": 3}), {"dense": 3}, pipeline.Shard(rows=4, units=1))


# Order.


def quota_loader():
    records, info = make_set(12)
    quota = {"dense": 1, "scribble": 2}
    return make_loader(records, info, quota, {"dense": 4, "scribble": 8}), quota


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_seed_gives_the_same_batches_whatever_the_threads(threads):
    loader, quota = quota_loader()
    expected = take(batches(loader, quota), 8)
    assert_equal(take(batches(loader, quota, threads=threads), 8), expected)


def test_another_seed_gives_another_order_and_other_augmentations():
    loader, quota = quota_loader()
    first, second = (take(batches(loader, quota, seed=seed), 6) for seed in (0, 1))
    assert any((a["id"] != b["id"]).any() for a, b in zip(first, second, strict=True))
    assert all((a["seed"] != b["seed"]).any() for a, b in zip(first, second, strict=True))


def test_epochs_differ_in_order_and_rows_in_seed():
    loader, quota = quota_loader()
    found = take(batches(loader, quota), 8)
    ids = np.stack([batch["id"][1:, 1] for batch in found])
    assert (ids[:4] != ids[4:]).any()
    assert len(set(np.concatenate([batch["seed"] for batch in found]))) == 24


@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_restored_state_continues_with_the_same_batches(at):
    loader, quota = quota_loader()
    iterator = batches(loader, quota)
    take(iterator, at)
    state = iterator.get_state()
    expected = take(iterator, 5)
    resumed = batches(loader, quota)
    resumed.set_state(state)
    assert_equal(take(resumed, 5), expected)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_read_different_rows_within_an_epoch_and_keep_the_quota(processes):
    records, info = make_set(18)
    quota = {"dense": 1, "scribble": 2}
    loader = make_loader(records, info, quota, {"dense": 6, "scribble": 12})
    shards = [pipeline.Shard(rows=3, units=1, process=p, processes=processes) for p in range(processes)]
    found = [take(batches(loader, quota, shard), 6 // processes) for shard in shards]
    for process in found:
        for batch in process:
            assert batch["kind"].tolist() == [D, S, S]
    ids = np.concatenate([batch["id"] for process in found for batch in process])
    assert len(np.unique(ids, axis=0)) == len(ids) == 18
    seeds = np.concatenate([batch["seed"] for process in found for batch in process])
    assert len(set(seeds)) == 18


def test_two_processes_share_a_pool_of_one_image():
    records, info = make_set(1)
    loader = make_loader(records, info, {"dense": 2})
    for process in range(2):
        shard = pipeline.Shard(rows=2, units=1, process=process, processes=2)
        assert take(batches(loader, {"dense": 2}, shard), 3)[-1]["id"].tolist() == [[0, 0], [0, 0]]


# Rows.


@pytest.mark.parametrize(("size", "canvas"), [((20, 24), (32, 32)), ((33, 64), (64, 64)), ((600, 40), (512, 64))])
def test_the_default_canvas_holds_the_largest_image_up_to_512(size, canvas):
    _, info = make_set(1, size=size)
    layout = pipeline.make_layout(info, "train", pools_of(info, {"dense": 1}), (0, 0), False)
    assert layout.canvas == canvas


@pytest.mark.parametrize("kind", list(Supervision), ids=lambda kind: kind.name)
@pytest.mark.parametrize("strict", [False, True])
def test_a_row_shows_the_labels_of_its_kind_only(kind, strict):
    row = read(kind, strict)
    assert (row["mask"] != IGNORE).any() == (kind == D)
    assert sorted(row["points"][row["points"][:, 2] >= 0, 2]) == {C: [0, 1], P: [2]}.get(kind, [])
    assert (row["strokes"][:, 4] >= 0).any() == (kind == S)
    assert (row["box_class"] >= 0).any() == (kind == B or not strict)
    assert row["boxes"].any() == (kind == B or not strict)
    assert row["tags"].tolist() == ([1, 0, 1] if kind == T or not strict else [-1, -1, -1])
    assert row["kind"] == kind


def test_shapes_are_fixed_whatever_the_kind():
    records, info = make_set(7)
    quota = {kind.name.lower(): 1 for kind in Supervision}
    loader = make_loader(records, info, quota, dict.fromkeys(quota, 1))
    rows = [loader.example(records[0], kind) for kind in Supervision]
    for row in rows:
        for key, value in row.items():
            assert np.shape(value) == np.shape(rows[0][key])
            assert np.asarray(value).dtype == np.asarray(rows[0][key]).dtype
    batch = next(batches(loader, quota))
    assert batch["image"].shape == (7, 32, 32, 3)
    assert batch["mask"].dtype == np.uint8
    assert batch["seed"].dtype == np.uint32
    assert batch["size"].tolist() == [list(SIZE)] * 7


def test_images_larger_than_the_canvas_are_shrunk_with_their_labels():
    records, info = make_set(1, size=(40, 48))
    loader = make_loader(records, info, {"points": 1}, canvas=(20, 24))
    row = loader.example(records[0], C)
    assert row["size"].tolist() == [20, 24]
    np.testing.assert_allclose(row["points"], [[0.25, 0.75, 1], [1.25, 1.75, 0]])
    np.testing.assert_allclose(row["boxes"], [[0.5, 0.5, 4.5, 4.5]])


# Records that cannot be read.


class Broken(list):
    """Records of which some have rotten image bytes, and some cannot be fetched at all."""

    def __init__(self, records, rotten=(), unreadable=()):
        super().__init__(r | {"image": b"rotten"} if i in rotten else r for i, r in enumerate(records))
        self.unreadable = unreadable

    def __getitem__(self, index):
        if index in self.unreadable:
            raise OSError("truncated file")
        return super().__getitem__(index)


@pytest.mark.parametrize("damage", ["rotten", "unreadable"])
def test_a_record_that_cannot_be_read_is_replaced_by_one_of_its_pool_and_counted(damage):
    records, info = make_set(8)
    quota = {"dense": 1, "scribble": 1}
    loader = make_loader(records, info, quota, {"dense": 4, "scribble": 4})
    bad = int(loader.pools[D][1])
    loader.records = Broken(records, **{damage: (bad,)})
    iterator = batches(loader, quota)
    found = take(iterator, 8)
    assert loader.replaced >= 2
    for batch in found:
        assert batch["kind"].tolist() == [D, S]
        assert batch["id"][0, 1] in set(loader.pools[D]) - {bad}
        assert (batch["image"][:, 0, 0, 0] == batch["id"][:, 1]).all()


def test_nothing_is_counted_where_everything_can_be_read():
    loader, quota = quota_loader()
    take(batches(loader, quota), 4)
    assert loader.replaced == 0


def test_a_pool_without_any_readable_record_is_an_error():
    records, info = make_set(3)
    loader = make_loader(Broken(records, rotten=(0, 1, 2)), info, {"dense": 1})
    with pytest.raises(RuntimeError, match="no readable record of dense"):
        loader((0, int(D), range(3), 0))


def test_a_row_that_is_asked_of_one_set_is_replaced_by_one_of_that_set():
    records, info = make_set(8)
    for number, row in enumerate(info.splits["train"]):
        row["set"] = "ab"[number % 2]  # so that the next one of the pool is of the other set
    loader = make_loader(Broken(records, rotten=(0, 2)), info, {"dense": 2})
    streams = make_streams({"a:dense": 1, "b:dense": 1}, loader.pools, info.splits["train"])
    found = take(pipeline.make_batches(loader, streams, pipeline.Shard(rows=2, units=1), seed=0, threads=1), 8)
    assert loader.replaced >= 4
    assert [sorted(int(at) % 2 for _, at in batch["id"]) for batch in found] == [[0, 1]] * 8
