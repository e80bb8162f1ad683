"""Several sets in one: classes by name, splits and rows by set."""

import dataclasses
import re

import cv2
import numpy as np
import pytest
from conftest import FolderMaker
from folders import SIZE
from tfds_written import write_pet
from trees import voc_tree

from semiseg_jax.data.datasets import check_pools, open_dataset
from semiseg_jax.data.fields import Data
from semiseg_jax.data.joined import parts_of
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.pools import make_pools, make_streams, parse_quota
from semiseg_jax.data.records import decode_image, decode_mask
from semiseg_jax.data.types import IGNORE, Supervision

ALL = ("background", "square", "other", "thing", "box")


@pytest.fixture
def join(tmp_path):
    """options -> two folders as one set: `square` is class 1 of the first and class 2, "box", of the second."""
    one = FolderMaker(tmp_path / "one")
    one(tags=True, points=True)
    two = FolderMaker(tmp_path / "two")
    two.classes = ("background", "thing", "box")
    two(tags=True, boxes=False, points=True)
    for path in (tmp_path / "two" / "masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), mask * 2)
    two.write_json("points.json", {id: [[18, 20, 2], [3, 3, 1]] for id in two.ids})
    two.write_json("tags.json", {id: [2] for id in two.ids})

    def open_it(**options):
        path = f"{tmp_path / 'one'}+{tmp_path / 'two'}"
        return open_dataset(Data(name="folder+folder", path=path, data_dir=str(tmp_path / "built"), **options))

    return open_it


def test_classes_of_all_sets_are_one_list_and_labels_follow(join):
    dataset = join()
    info = dataset.info
    assert info.classes == ALL
    assert info.background == 0
    assert len(info.colors) == len(ALL)
    assert {split: len(rows) for split, rows in info.splits.items()} == {
        "folder:train": 4, "folder:val": 2, "folder2:train": 4, "folder2:val": 2, "train": 8, "val": 2,
    }  # fmt: skip
    ids = [row["id"] for row in info.splits["train"]]
    assert ids == ["im0", "im1", "im2", "im3", "folder2-im0", "folder2-im1", "folder2-im2", "folder2-im3"]
    records = dataset.records("train")
    assert [record["id"].decode() for record in records] == ids
    first, second = records[0], records[4]
    assert set(np.unique(decode_mask(first["mask"], SIZE))) == {0, 1}
    assert set(np.unique(decode_mask(second["mask"], SIZE))) == {0, 4}
    assert second["points"][:, 2].tolist() == [4, 3]
    assert first["tags"].tolist() == [-1, 1, 0, -1, -1]  # nothing is known of classes that only the other set has
    assert second["tags"].tolist() == [-1, -1, -1, 0, 1]
    assert info.splits["train"][4]["tags"] == [4]
    assert decode_image(dataset.originals("folder2:val")[0]["image"]).shape == (*SIZE, 3)


def test_a_class_of_another_name_is_renamed_or_left_out(join):
    dataset = join(class_map={"folder2": {"box": "square", "thing": "ignore"}})
    assert dataset.info.classes == ("background", "square", "other")
    record = dataset.records("folder2:train")[0]
    assert set(np.unique(decode_mask(record["mask"], SIZE))) == {0, 1}
    assert record["points"][:, 2].tolist() == [1]
    left_out = join(class_map={"folder2": {"box": "ignore"}}).records("folder2:train")[0]
    assert set(np.unique(decode_mask(left_out["mask"], SIZE))) == {0, IGNORE}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_map": {"coco": {}}}, "the sets are folder, folder2"),
        ({"class_map": {"folder2": {"cat": "dog"}}}, "folder2 has no class 'cat'"),
        ({"train_split": "coco:train"}, "has no split 'coco:train'"),
    ],
)
def test_names_that_do_not_exist_are_refused(join, options, message):
    with pytest.raises(ValueError, match=message):
        join(**options).records(options.get("train_split", "train"))


def test_as_many_paths_as_sets_are_needed(tmp_path):
    with pytest.raises(ValueError, match="as many folders joined by"):
        open_dataset(Data(name="folder+folder", path=str(tmp_path)))


def test_masks_of_one_set_and_tags_of_the_other(join):
    options = {"train_split": "folder:train+folder2:train", "strong_classes": ("folder2:*",)}
    dataset = join(**options)
    assert not any(record["mask"] for record in dataset.records("folder:train"))  # its class is not among the strong
    quota = parse_quota({"dense": 2, "tags": 2})
    pools = make_pools(dataset.info, options["train_split"], quota, {}, 0, options["strong_classes"])
    assert pools[Supervision.DENSE].tolist() == [4, 5, 6, 7]
    assert pools[Supervision.TAGS].tolist() == [0, 1, 2, 3]


def test_a_share_of_the_rows_comes_from_a_set(join):
    dataset = join()
    quota = {"folder:dense": 1, "folder2:dense": 3, "points": 2}
    assert parse_quota(quota) == {Supervision.DENSE: 4, Supervision.POINTS: 2}
    pools = make_pools(dataset.info, "train", parse_quota(quota), {}, 0)
    streams = make_streams(quota, pools, dataset.info.splits["train"])
    assert [(stream.kind, stream.rows, len(stream.places)) for stream in streams] == [
        (Supervision.DENSE, 1, 4), (Supervision.DENSE, 3, 4), (Supervision.POINTS, 2, 8),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no such image of set 'coco'"):
        make_streams({"coco:dense": 2}, pools, dataset.info.splits["train"])


def test_labels_are_drawn_for_a_joined_set(join):
    dataset = join(simulate={"box": {}})
    boxes = [record["box_class"].tolist() for record in dataset.records("train")]
    assert boxes == [[1]] * 4 + [[4]] * 4


def test_a_joined_set_is_not_built_again(join, monkeypatch):
    join()
    monkeypatch.setattr("semiseg_jax.data.folder._readers", lambda *_: pytest.fail("the source was read again"))
    assert join().info.classes == ALL


def test_assign_names_the_splits_of_a_set(join):
    dataset = join()
    quota = parse_quota({"dense": 1, "unlabeled": 1})
    pools = make_pools(dataset.info, "train", quota, {"dense": "folder2:train", "unlabeled": 1.0}, 0)
    assert pools[Supervision.DENSE].tolist() == [4, 5, 6, 7]
    assert pools[Supervision.UNLABELED].tolist() == [0, 1, 2, 3]


def test_rows_of_one_set_need_no_labels_of_another(tmp_path):
    voc_tree(tmp_path / "VOCdevkit", more=False)
    FolderMaker(tmp_path / "one")(scribbles=True)
    data = Data(
        name="voc+folder",
        path=f"{tmp_path / 'VOCdevkit'}+{tmp_path / 'one'}",
        data_dir=str(tmp_path / "built"),
        quota={"voc:dense": 1, "folder:scribble": 1},
    )
    dataset = open_dataset(data, planned=True)
    check_pools(data, dataset.info)
    assert {place.parent.parent.name for place in dataset.source.places} == {"voc", "folder"}
    with pytest.raises(FolderError, match="asks for scribble rows"):
        open_dataset(dataclasses.replace(data, quota={"voc:scribble": 1}))


def test_what_earlier_states_of_any_set_left_is_found(tmp_path, join):
    join()
    (tmp_path / "one" / "tags.json").unlink()
    source = join().source
    (left,) = source.leftovers()
    assert left.parent.name == "folder"
    assert left.name.startswith("one-")


def test_a_new_name_close_to_a_class_is_told(join, caplog):
    with caplog.at_level("WARNING", logger="semiseg_jax"):
        join(class_map={"folder2": {"box": "squar"}})
    assert "Is 'square' meant?" in caplog.text


def test_evaluation_finds_the_first_set_that_has_the_split(tmp_path):
    FolderMaker(tmp_path / "one")()
    data = Data(
        name="images+folder",
        path=f"{tmp_path / 'one' / 'images'}+{tmp_path / 'one'}",
        data_dir=str(tmp_path / "built"),
        options={"images": {"classes": ["background", "square", "other"]}},
    )
    dataset = open_dataset(data)
    assert dataset.eval_split("") == "val"
    assert dataset.originals("val")[0]["id"].startswith(b"folder-")


def test_a_tag_is_unknown_unless_all_classes_of_that_name_are_known(join):
    absent = join(class_map={"folder": {"other": "background"}}).records("folder:train")[0]
    assert absent["tags"].tolist() == [-1, 1, -1, -1]  # background is unknown although `other` is absent
    present = join(class_map={"folder": {"square": "background"}}).records("folder:train")[0]
    assert present["tags"].tolist() == [1, 0, -1, -1]


def test_a_background_that_is_left_out_is_none(join):
    dataset = join(class_map={"folder": {"background": "ignore"}, "folder2": {"background": "ignore"}})
    assert dataset.info.background is None
    assert set(np.unique(decode_mask(dataset.records("train")[0]["mask"], SIZE))) == {0, IGNORE}


def test_classes_that_are_left_out_close_no_mask(join):
    options = {"class_map": {"folder": {"square": "ignore"}}, "strong_classes": ("box",)}
    dataset = join(train_split="folder:train+folder2:train", **options)
    assert all(row["kinds"] == [0, 1, 2, 6] for row in dataset.info.splits["folder:train"])
    assert dataset.records("folder:train")[0]["mask"]


def test_images_have_the_joined_classes_and_come_last(tmp_path):
    one = FolderMaker(tmp_path / "one")(tags=True)
    (tmp_path / "plain").mkdir()
    cv2.imwrite(str(tmp_path / "plain" / "a.png"), np.zeros((*SIZE, 3), np.uint8))

    def classes(first, second, **options):
        path = "+".join(str(tmp_path / {"folder": one, "images": "plain"}[name]) for name in (first, second))
        data = Data(name=f"{first}+{second}", path=path, data_dir=str(tmp_path / "built"), **options)
        return open_dataset(data).info.classes

    renamed = classes("folder", "images", class_map={"folder": {"square": "thing"}})
    assert renamed == ("background", "thing", "other")
    with pytest.raises(ValueError, match="images come after the set whose classes they have"):
        classes("images", "folder")


def test_more_classes_than_a_mask_can_hold_are_refused(tmp_path):
    for name in ("one", "two"):
        maker = FolderMaker(tmp_path / name)
        maker.classes = ("background", *(f"{name} {number}" for number in range(150)))
        maker()
    with pytest.raises(ValueError, match="has 301 classes together, but a mask can hold 254"):
        open_dataset(Data(name="folder+folder", path=f"{tmp_path / 'one'}+{tmp_path / 'two'}"))


def test_a_quota_by_set_says_nothing_of_what_each_tree_holds(tmp_path):
    one = FolderMaker(tmp_path / "one")(points=True)
    voc = voc_tree(tmp_path / "VOCdevkit", more=False)
    quota = {"voc:dense": 1, "folder:points": 1, "folder:scribble": 1, "points": 1}
    data = Data(
        name="voc+folder", path=f"{voc}+{one}", data_dir=str(tmp_path / "built"), quota=quota, simulate={"scribble": {}}
    )
    assert len(open_dataset(data, planned=True).info.splits["train"]) == 10


def test_a_set_of_tfds_is_joined_and_its_ids_are_names_of_files(tmp_path):
    one = FolderMaker(tmp_path / "one")(tags=True)
    write_pet(tmp_path)
    joined = "train+tfds:oxford_iiit_pet:train[:50%]"
    data = Data(
        name="folder+tfds:oxford_iiit_pet", path=f"{one}+", data_dir=str(tmp_path), train_split=joined,
        eval_split="tfds:oxford_iiit_pet:test[:1]", simulate={"box": {}},
    )  # fmt: skip
    dataset = open_dataset(data)
    part = "tfds:oxford_iiit_pet:train[:50%]"
    records = dataset.records(part)
    assert [record["id"].decode() for record in records] == [row["id"] for row in dataset.info.splits[part]]
    assert all(re.fullmatch(r"tfds_oxford_iiit_pet-cat_\d", record["id"].decode()) for record in records)
    assert [record["box_class"].tolist() for record in records] == [[3], [3]]
    assert len(dataset.records(joined)) == 10
    assert len(dataset.originals(data.eval_split)) == 1


def test_parts_of_splits_belong_to_their_set():
    data = Data(
        name="tfds:pets+tfds:birds", path="+", train_split="train[:90%]+tfds:birds:train[:10%]",
        eval_split="tfds:birds:test[:5]", assign={"dense": "tfds:pets:train[:5]", "unlabeled": 1.0},
    )  # fmt: skip
    pets, birds = parts_of(data).values()
    assert (pets.train_split, pets.eval_split, pets.assign["dense"]) == ("train[:90%]", "", "train[:5]")
    assert (birds.train_split, birds.eval_split, dict(birds.assign)) == ("train[:10%]", "test[:5]", {})
