"""Sets that tfds wrote, by their own writers and as tfrecord: what their masks mean, and how they are found."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from folders import names
from PIL import Image
from tfds_written import (
    SIZE,
    as_tfrecord,
    custom,
    photo,
    png,
    square,
    trimap,
    write_cells,
    write_cityscapes,
    write_pet,
    write_tfrecord,
)

from semiseg_jax.data import tfds_convert, tfds_sets
from semiseg_jax.data.datasets import make_builder, open_dataset
from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.records import decode_image, decode_mask
from semiseg_jax.data.tfds_names import ADE_SCENES
from semiseg_jax.data.types import IGNORE, Supervision


@pytest.fixture
def open_tfds(tmp_path):
    """name, options -> the set of this name below the test's own directory, open."""
    return lambda name, **options: open_dataset(Data(name=f"tfds:{name}", data_dir=str(tmp_path), **options))


def mask_of(record):
    return decode_mask(record["mask"], SIZE)


def image_features(mask=(None, None, 1)):
    return {"image": tfds.features.Image(), "mask": tfds.features.Image(shape=mask)}


def test_a_pet_is_one_and_its_border_is_no_label(tmp_path, open_tfds):
    write_pet(tmp_path)
    dataset = open_tfds("oxford_iiit_pet")
    record = dataset.records("train")[0]
    number = int(record["id"].decode().removeprefix("cat_"))
    np.testing.assert_array_equal(mask_of(record), np.array([0, 1, 0, IGNORE])[trimap(number)])
    np.testing.assert_array_equal(record["tags"], [-1, 1])
    assert decode_image(record["image"]).shape == (*SIZE, 3)
    assert dataset.info.classes == ("background", "pet")
    assert dataset.info.background == 0
    assert {split: len(rows) for split, rows in dataset.info.splits.items()} == {"train": 4, "test": 2}
    assert {row["id"] for row in dataset.info.splits["test"]} == {"cat_4", "cat_5"}
    for row in dataset.info.splits["train"]:
        assert names(row["kinds"]) == {"UNLABELED", "TAGS", "DENSE"}
        assert row["size"] == list(SIZE)
        assert row["classes"] == [0, 1]


def test_cityscapes_has_19_classes_and_no_masks_to_compare_with_in_test(tmp_path, open_tfds):
    write_cityscapes(tmp_path)
    dataset = open_tfds("cityscapes")
    by_id = {record["id"]: mask_of(record) for record in dataset.records("train")}
    expected = square(1, 13)
    expected[0] = IGNORE
    np.testing.assert_array_equal(by_id[b"ulm_000001"], expected)
    assert len(dataset.info.classes) == 19
    assert dataset.info.background is None
    assert sorted(row["classes"] for row in dataset.info.splits["validation"]) == [[0, 13], [1, 18]]
    assert names(dataset.info.splits["test"][0]["kinds"]) == {"UNLABELED"}
    assert dataset.eval_split("") == "validation"
    assert not (mask_of(dataset.records("test")[0]) != IGNORE).any()


def test_of_several_configs_the_usual_one_is_taken_or_the_one_named(tmp_path, open_tfds):
    for config in ("semantic_segmentation", "semantic_segmentation_extra"):
        write_cityscapes(tmp_path, config)
    assert "test" in open_tfds("cityscapes").info.splits
    extra = open_tfds("cityscapes/semantic_segmentation_extra:1.0.0", train_split="train+train_extra")
    assert len(extra.records("train+train_extra")) == 4


def test_masks_of_scene_parsing_count_things_in_red(tmp_path, open_tfds):
    annotation = np.zeros((*SIZE, 3), np.uint8)
    annotation[5:, :, 0], annotation[20:, :, 0], annotation[..., 1] = 4, 100, 77
    features = {"image": tfds.features.Image(), "annotation": tfds.features.Image(encoding_format="png")}
    custom(
        "scene_parse150", features, tmp_path, {"train": [{"image": photo(square(0, 1)), "annotation": png(annotation)}]}
    )
    dataset = open_tfds("scene_parse150")
    mask = mask_of(dataset.records("train")[0])
    assert dataset.info.num_classes == 150
    assert [ADE_SCENES[klass] for klass in (mask[5, 0], mask[30, 0])] == ["person", "flag"]
    assert (mask[:5] == IGNORE).all()


def test_segments_of_a_panoptic_image_give_classes_and_tags(tmp_path, open_tfds):
    ids = square(0, 3 + 256 * 2 + 65536, 7, np.int64)
    ids[0] = 0
    features = {
        "image": tfds.features.Image(),
        "image/filename": tfds.features.Text(),
        "panoptic_image": tfds.features.Image(),
        "panoptic_objects": tfds.features.Sequence(
            {"id": np.int64, "label": tfds.features.ClassLabel(names=["person", "car", "sky"]), "is_crowd": np.bool_}
        ),
    }
    segments = [
        {"id": id, "label": label, "is_crowd": False} for id, label in ((7, "sky"), (3 + 256 * 2 + 65536, "person"))
    ]
    example = {
        "image": photo(square(0, 1)),
        "image/filename": "a/000001.jpg",
        "panoptic_image": png(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)),
        "panoptic_objects": segments,
    }
    other = example | {"panoptic_objects": []}
    custom("coco", features, tmp_path, {"train": [example, other], "validation": [other]})
    dataset = open_tfds("coco")
    first, second = dataset.records("train")
    expected = square(0, 0, 2)
    expected[0] = IGNORE
    labelled = first if first["tags"].any() else second
    np.testing.assert_array_equal(mask_of(labelled), expected)
    assert labelled["tags"].tolist() == [1, 0, 1]
    assert dataset.info.classes == ("person", "car", "sky")
    ids = [row["id"] for split in ("train", "validation") for row in dataset.info.splits[split]]
    assert ids == ["a_000001", "a_000001_train_000001", "a_000001_validation_000000"]
    assert len(dataset.masked_indices("train")) == 1


def test_a_bird_has_a_box_and_a_mask_that_most_people_drew(tmp_path, open_tfds):
    features = image_features() | {"image/filename": tfds.features.Text(), "bbox": tfds.features.BBoxFeature()}
    features["segmentation_mask"] = features.pop("mask")
    mask = square(0, 204, 51)
    example = {"image": photo(mask), "image/filename": "CUB/a.jpg", "segmentation_mask": png(mask)}
    example["bbox"] = tfds.features.BBox(0.25, 0.5, 0.75, 1.0)
    custom("caltech_birds2011", features, tmp_path, {"train": [example]})
    record = open_tfds("caltech_birds2011").records("train")[0]
    np.testing.assert_array_equal(mask_of(record), square(0, 1))
    np.testing.assert_array_equal(record["boxes"], [[10, 24, 30, 48]])
    np.testing.assert_array_equal(record["box_class"], [1])


def test_of_an_unknown_set_the_only_image_and_mask_are_used_and_named(tmp_path, open_tfds, capsys):
    write_cells(tmp_path)
    dataset = open_tfds("cell_set")
    assert "image is 'photo', mask 'cells', id 'id'" in capsys.readouterr().out
    assert dataset.info.classes == ("class 0", "class 1")
    assert {row["id"] for row in dataset.info.splits["val"]} == {"106", "107"}
    make_builder(Data(name="tfds:cell_set", data_dir=str(tmp_path))).build()
    assert not capsys.readouterr().out, "the index is made once"


def test_fields_say_what_an_unknown_set_means(tmp_path, open_tfds):
    write_cells(tmp_path, values=(3, 255))
    options = {"classes": ["cell", "rest"], "values": [255, 3], "ignored": [], "background": "rest"}
    dataset = open_tfds("cell_set", options=options)
    record = next(record for record in dataset.records("train") if record["id"] == b"102")
    np.testing.assert_array_equal(mask_of(record), square(2, 0, 1))
    assert dataset.info.background == 1


def test_offset_and_ignored_values_leave_the_rest_as_classes(tmp_path, open_tfds):
    write_cells(tmp_path, values=(0, 2))
    dataset = open_tfds("cell_set", options={"classes": ["a", "b"], "offset": 1, "ignored": [0]})
    record = next(record for record in dataset.records("train") if record["id"] == b"100")
    np.testing.assert_array_equal(mask_of(record), square(0, 1, IGNORE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "photos"}, r"no image feature 'photos'.*it has cells, photo"),
        ({"classes": ["one"]}, "must be 2 to 254 names"),
        ({"classes": ["a", "b"], "values": [1]}, "1 values but there are 2 classes"),
        ({"classes": ["a", "b"], "background": "c"}, "'c' is none of the classes"),
        ({"id": "key"}, "no feature 'key'"),
        ({"masks": "cells"}, "Did you mean mask"),
    ],
)
def test_fields_that_cannot_be_are_refused(tmp_path, open_tfds, options, message):
    write_cells(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_tfds("cell_set", options=options)


def test_masks_that_do_not_count_classes_are_refused_with_what_to_write(tmp_path, open_tfds):
    write_cells(tmp_path, values=(0, 255))
    with pytest.raises(FolderError, match=r"masks hold values \[0\].*values"):
        open_tfds("cell_set")


def test_features_that_are_not_clear_are_listed(tmp_path, open_tfds):
    features = image_features() | {"depth": tfds.features.Image(shape=(None, None, 1))}
    mask = png(square(0, 1))
    custom("two_masks", features, tmp_path, {"train": [{"image": photo(square(0, 1)), "mask": mask, "depth": mask}]})
    with pytest.raises(ValueError, match=r"which feature is the mask\?.*depth.*mask"):
        open_tfds("two_masks")


def test_strange_masks_are_reported_together_or_left_out(tmp_path, open_tfds):
    palette = Image.fromarray(square(0, 1)).convert("P")
    palette.putpalette([250, 10, 10, 10, 250, 10])
    palette.save(tmp_path / "palette.png")
    colours = np.stack([square(0, 1), square(0, 9), square(0, 1)], -1)
    masks = {
        "palette": (tmp_path / "palette.png").read_bytes(),
        "value": png(square(0, 9)),
        "colours": png(colours),
        "small": png(square(0, 1)[:20]),
        "broken": b"no image",
    }
    features = image_features() | {"name": tfds.features.Text()}
    examples = [{"name": name, "image": photo(square(0, 1)), "mask": mask} for name, mask in masks.items()]
    custom("strange", features, tmp_path, {"train": examples})
    options = {"classes": ["background", "thing"]}
    with pytest.raises(FolderError, match=r"4 problem") as raised:
        open_tfds("strange", options=options)
    for words in ("value: its mask .* has values .9.", "colours: .*3 channels", "small: .*48x20", "broken: .*readable"):
        assert raised.match(words)
    dataset = open_tfds("strange", options=options, skip_bad=True)
    assert [record["id"] for record in dataset.records("train")] == [b"palette"]
    np.testing.assert_array_equal(mask_of(dataset.records("train")[0]), square(0, 1))


@pytest.mark.parametrize(("write", "name"), [(write_pet, "oxford_iiit_pet"), (write_cityscapes, "cityscapes")])
def test_tfrecord_gives_the_same_records_as_array_record(tmp_path, open_tfds, write, name):
    folder = write(tmp_path)
    before = open_tfds(name)
    expected = list(before.records("train"))
    as_tfrecord(folder)
    dataset = open_tfds(name)
    assert dataset.info == before.info
    for ours, theirs in zip(dataset.records("train"), expected, strict=True):
        assert ours["id"] == theirs["id"]
        assert ours["image"] == theirs["image"]
        np.testing.assert_array_equal(mask_of(ours), mask_of(theirs))
    converted = tfds.builder_from_directory(dataset.source.converted)
    source = tfds.builder_from_directory(folder)
    assert converted.info.features.keys() == source.info.features.keys()
    for split, info in source.info.splits.items():
        assert converted.info.splits[split].shard_lengths == info.shard_lengths
    assert not list(tmp_path.rglob("incomplete*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-10], "ends in the middle of a record"),
        (lambda data: data[:5], "ends in the middle of a record"),
        (lambda data: b"\1" + data[1:], "checksum of a length is wrong"),
        (lambda data: b"", r"has 0 records but dataset_info.json says 4"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_tfrecord_is_an_error_that_names_the_file(tmp_path, open_tfds, damage, message):
    folder = as_tfrecord(write_pet(tmp_path))
    path = folder / "oxford_iiit_pet-train.tfrecord-00000-of-00001"
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(FolderError, match=rf"{path.name}: .*{message}"):
        open_tfds("oxford_iiit_pet")
    assert not list(tmp_path.rglob("*.array_record*"))


def test_checksums_are_those_of_the_format():
    # 32 zero bytes of RFC 3720, and the mask that tfrecord puts over them.
    crc = 0x8A9136AA
    assert tfds_convert.masked_crc(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_records_of_a_tfrecord_file_are_read_in_order(tmp_path):
    written = [b"", b"one", bytes(1000)]
    write_tfrecord(tmp_path / "file", written)
    assert list(tfds_convert.read_records(tmp_path / "file")) == written


def test_weak_labels_are_drawn_beside_the_set_and_found_again(tmp_path, open_tfds, monkeypatch):
    write_pet(tmp_path)
    simulate = {"scribble": {}, "points": {}, "box": {}}
    dataset = open_tfds("oxford_iiit_pet", simulate=simulate)
    record = dataset.records("train")[0]
    at = record["points"].astype(int)
    np.testing.assert_array_equal(mask_of(record)[at[:, 0], at[:, 1]], at[:, 2])
    assert len(record["strokes"])
    assert len(record["boxes"]) == 1
    assert names(dataset.info.splits["train"][0]["kinds"]) >= {"SCRIBBLE", "POINTS", "BOX", "TAGS"}
    monkeypatch.setattr(tfds_sets.TfdsSet, "_make_index", None)
    again = open_tfds("oxford_iiit_pet", simulate=simulate).records("train")[0]
    np.testing.assert_array_equal(again["strokes"], record["strokes"])


def test_parts_of_splits_are_splits(tmp_path, open_tfds):
    write_cells(tmp_path)
    whole = [record["id"] for record in open_tfds("cell_set").records("train")]
    dataset = open_tfds(
        "cell_set", train_split="train[:50%]+train[4:5]", eval_split="train[5:]", simulate={"points": {}}
    )
    assert [record["id"] for record in dataset.records("train[:50%]+train[4:5]")] == [*whole[:3], whole[4]]
    assert [record["id"] for record in dataset.originals("train[5:]")] == whole[5:]
    assert all(len(record["points"]) for record in dataset.records("train[:50%]+train[4:5]"))
    with pytest.raises(ValueError, match=r"split 'train\[:x\]' cannot be read"):
        open_tfds("cell_set", train_split="train[:x]")


def test_a_set_that_is_not_there_says_where_it_was_looked_for_and_how_to_prepare_it(tmp_path, open_tfds):
    with pytest.raises(FolderError, match=rf"{tmp_path}/oxford_iiit_pet/VERSION.*\n.*tfds build oxford_iiit_pet"):
        open_tfds("oxford_iiit_pet")
    write_pet(tmp_path)
    with pytest.raises(FolderError, match=r"There is: oxford_iiit_pet/4\.0\.0"):
        open_tfds("oxford_iiit_pet:3.0.0")
    with pytest.raises(ValueError, match="must be tfds:NAME"):
        open_tfds("pets and cats")
    with pytest.raises(ValueError, match="Did you mean 'tfds:oxford_iiit_pet'"):
        make_builder(Data(name="oxford_iiit_pet"))


def test_the_newest_version_is_taken_unless_one_is_named(tmp_path, open_tfds):
    for version in ("1.9.0", "1.10.0"):
        write_cells(tmp_path, version=version)
    assert open_tfds("cell_set").source.folder.name == "1.10.0"
    assert open_tfds("cell_set:1.9.0").source.folder.name == "1.9.0"
    assert open_tfds("cell_set:1.9.*").source.folder.name == "1.9.0"


def test_a_path_names_the_folder_of_the_set(tmp_path):
    folder = write_pet(tmp_path / "elsewhere")
    for path in (folder, folder.parent, tmp_path / "elsewhere"):
        builder = make_builder(Data(name="tfds:oxford_iiit_pet", path=str(path), data_dir=str(tmp_path / "own")))
        assert builder.folder == folder
        assert builder.home.is_relative_to(tmp_path / "own")
    with pytest.raises(FolderError, match="is the set 'oxford_iiit_pet', not 'cell_set'"):
        make_builder(Data(name="tfds:cell_set", path=str(folder), data_dir=str(tmp_path / "own")))


def test_a_set_in_another_format_says_what_to_do(tmp_path, open_tfds):
    file = write_pet(tmp_path) / "dataset_info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fileFormat": "riegeli"}))
    with pytest.raises(FolderError, match="stored as riegeli; prepare it as array_record"):
        open_tfds("oxford_iiit_pet")


def test_kinds_of_a_known_set_are_counted_by_the_index_alone(tmp_path, open_tfds):
    write_pet(tmp_path)
    dataset = open_tfds("oxford_iiit_pet")
    assert dataset.labels_beside("train", [Supervision.DENSE]) == {Supervision.TAGS: 4}


def test_a_folder_of_several_sets_is_searched_by_name_and_slips_are_told(tmp_path, open_tfds):
    write_pet(tmp_path)
    write_cityscapes(tmp_path)
    assert open_tfds("cityscapes", path=str(tmp_path)).info.name == "tfds:cityscapes"
    with pytest.raises(FolderError, match=r"Did you mean tfds:oxford_iiit_pet\?"):
        open_tfds("oxford_iit_pet")
