"""The embedded dataset: deterministic, complete, quick to open again."""

import numpy as np
import pytest

from semiseg_jax.data import shapes
from semiseg_jax.data.records import decode_image, decode_mask, features
from semiseg_jax.data.types import STROKE_PIECE, Supervision

SIZES = {"train": 10, "val": 3}
FIELDS = ("mask", "points", "strokes", "partial", "boxes", "box_class", "tags")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small build, as a builder that has just written it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SIZES", SIZES)
        builder = shapes.Shapes(data_dir=str(tmp_path_factory.mktemp("shapes")))
        builder.build()
        yield builder


def records(split="train", **options):
    return [record for record, _, _ in shapes.Shapes(**options).generate(split)]


@pytest.mark.parametrize("size", [96, 64, 33])
def test_scenes_have_the_asked_size_and_classes_in_range(size):
    image, mask = shapes.scene(np.random.default_rng(0), size)
    assert image.shape == (size, size, 3)
    assert mask.shape == (size, size)
    assert image.dtype == mask.dtype == np.uint8
    assert mask.max() < len(shapes.CLASSES)
    assert image.std() > 5


def test_there_are_at_least_six_classes_and_every_one_is_drawn():
    assert len(shapes.CLASSES) >= 6
    assert len(shapes.COLORS) == len(shapes.CLASSES)
    seen = {int(klass) for seed in range(25) for klass in np.unique(shapes.scene(np.random.default_rng(seed), 48)[1])}
    assert seen == set(range(len(shapes.CLASSES)))


def test_the_same_size_and_seed_give_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SIZES", {"train": 3, "val": 1})
    for first, second in zip(records(data_dir=str(tmp_path / "a")), records(data_dir=str(tmp_path / "b")), strict=True):
        assert first["image"] == second["image"]
        for field in FIELDS:
            np.testing.assert_array_equal(first[field], second[field])


def test_another_seed_and_another_split_give_other_images(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SIZES", {"train": 2, "val": 2})
    options = {"data_dir": str(tmp_path)}
    images = [
        record["image"]
        for group in (records(**options), records(seed=1, **options), records("val", **options))
        for record in group
    ]
    assert len(set(images)) == 6


def test_every_record_has_every_kind_of_label(built):
    info = built.dataset_info()
    for split, count in SIZES.items():
        assert len(built.records(split)) == count
        for row in info.splits[split]:
            assert row["kinds"] == sorted(int(kind) for kind in Supervision)


def test_stored_labels_agree_with_the_stored_mask(built):
    for record in built.records("train"):
        image = decode_image(record["image"])
        mask = decode_mask(record["mask"], image.shape[:2])
        assert image.shape == (96, 96, 3)
        assert mask.shape == (96, 96)
        assert set(np.flatnonzero(record["tags"] == 1)) == set(np.unique(mask))
        for field in ("points", "partial"):
            at = record[field].astype(int)
            assert len(at)
            np.testing.assert_array_equal(mask[at[:, 0], at[:, 1]], at[:, 2])
        assert set(record["strokes"][:, 4].astype(int)) == set(np.unique(mask))
        extents = np.abs(record["strokes"][:, 2:4] - record["strokes"][:, :2]).max(-1)
        assert extents.max() <= STROKE_PIECE
        for (y0, x0, y1, x1), klass in zip(record["boxes"].astype(int), record["box_class"], strict=True):
            assert klass != 0
            assert (mask[y0:y1, x0:x1] == klass).any()


def test_records_have_the_declared_fields_and_types(built):
    declared = features(len(shapes.CLASSES))
    record = built.records("val")[0]
    assert set(record) == set(declared)
    assert isinstance(record["image"], bytes)
    assert isinstance(record["mask"], bytes)
    for field in ("points", "strokes", "partial", "boxes"):
        assert record[field].dtype == np.float32
        assert record[field].shape[1] == declared[field].shape[1]
    assert record["box_class"].dtype == np.int32
    assert record["tags"].dtype == np.int8


def test_the_index_describes_the_records(built):
    info = built.dataset_info()
    for row, record in zip(info.splits["train"], built.records("train"), strict=True):
        assert row["id"] == record["id"].decode()
        assert row["size"] == [96, 96]
        for field in ("points", "strokes", "partial", "boxes"):
            assert row[field] == len(record[field])
    assert info.max_size("train") == (96, 96)


def test_a_build_is_opened_again_without_drawing_a_scene(built, monkeypatch):
    def no_scene(*_):
        raise AssertionError("a scene was drawn")

    monkeypatch.setattr(shapes, "scene", no_scene)
    again = shapes.Shapes(data_dir=str(built.data_path.parent.parent.parent))
    again.build()
    assert again.dataset_info() == built.dataset_info()
    assert again.records("train")[3]["image"] == built.records("train")[3]["image"]
