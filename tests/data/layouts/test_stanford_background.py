"""Stanford background as it is published."""

import pytest
from more_trees import assert_masks, built_masks, opened, problems, remove, stanford

from semiseg_jax.data.label_maps import FolderError


def test_every_label_is_what_was_written(tmp_path):
    masks = stanford(tmp_path / "tree")
    builder = opened("stanford_background", tmp_path / "tree", tmp_path / "built")
    assert_masks(built_masks(builder), masks)
    assert len(builder.dataset_info().classes) == 8


def test_each_image_tests_in_one_of_five_folds(tmp_path):
    masks = stanford(tmp_path / "tree")
    tested = []
    for fold in range(5):
        splits = opened("stanford_background", tmp_path / "tree", tmp_path / "built", fold=fold).listing.splits
        assert {split: len(ids) for split, ids in splits.items()} == {"train": 8, "test": 2}
        assert not set(splits["train"]) & set(splits["test"])
        tested += splits["test"]
    assert sorted(tested) == sorted(masks)


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 2 8\n", "is 3x1"), ("no numbers\n", "not a matrix"), ("", "not a matrix"), ("8 " * 16 + "\n", "is 16x1")],
)
def test_labels_that_cannot_be_are_refused(tmp_path, text, message):
    stanford(tmp_path / "tree", count=5)
    (tmp_path / "tree" / "labels" / "0000000.regions.txt").write_text(text)
    with pytest.raises(FolderError, match=message):
        opened("stanford_background", tmp_path / "tree", tmp_path / "built").build()


def test_every_empty_file_is_named(tmp_path):
    stanford(tmp_path / "tree", count=20)
    for path in (tmp_path / "tree" / "labels").iterdir():
        path.write_text("")
    with pytest.raises(FolderError) as error:
        opened("stanford_background", tmp_path / "tree", tmp_path / "built").build()
    assert str(error.value).count("not a matrix of whole numbers") == 20


def test_a_class_that_does_not_exist_is_refused(tmp_path):
    stanford(tmp_path / "tree", count=5)
    (tmp_path / "tree" / "labels" / "0000000.regions.txt").write_text(("8 " * 16 + "\n") * 12)
    with pytest.raises(FolderError, match=r"has value 8 but the classes are 0..7"):
        opened("stanford_background", tmp_path / "tree", tmp_path / "built").build()


@pytest.mark.parametrize("piece", ["images", "labels", "images/0000001.jpg", "labels/0000001.regions.txt"])
def test_each_missing_piece_is_named(tmp_path, piece):
    stanford(tmp_path / "tree")
    remove(tmp_path / "tree" / piece)
    words = problems("stanford_background", tmp_path / "tree", tmp_path / "built")
    assert all(part in words for part in piece.split("/"))
