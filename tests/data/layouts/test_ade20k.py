"""ADE20K as the scene parsing challenge has it."""

import shutil

import numpy as np
import pytest
from more_trees import ADE_ROWS, ade, assert_masks, built_masks, opened, problems, remove, save, split_ids

from semiseg_jax.data.label_maps import FolderError


@pytest.mark.parametrize("inner", ["", "ADEChallengeData2016"])
def test_every_label_is_what_was_written(tmp_path, inner):
    masks = ade(tmp_path)
    builder = opened("ade20k", tmp_path / inner, tmp_path / "built")
    assert_masks(built_masks(builder), masks)
    assert {split: len(ids) for split, ids in split_ids(builder).items()} == {"train": 2, "val": 1}
    classes = builder.dataset_info().classes
    assert (len(classes), classes[0], classes[-1]) == (150, "wall", "flag")


def test_names_are_those_of_the_file_if_it_is_there(tmp_path):
    ade(tmp_path)
    rows = [f"{i}\t0.1\t5\t5\t1\tname{i}, other" for i in range(1, ADE_ROWS + 1)]
    info = tmp_path / "ADEChallengeData2016" / "objectInfo150.txt"
    info.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows]))
    assert opened("ade20k", tmp_path, tmp_path / "built").class_names[:2] == ("name1", "name2")
    info.write_text("\n".join(rows))
    with pytest.raises(FolderError, match="names 149 classes"):
        opened("ade20k", tmp_path, tmp_path / "built").build()


def test_numbers_above_150_are_refused(tmp_path):
    ade(tmp_path)
    save(tmp_path / "ADEChallengeData2016/annotations/training/ADE_train_00000001.png", np.full((12, 16), 151))
    with pytest.raises(FolderError, match=r"values \[151\] that stand for no class"):
        opened("ade20k", tmp_path, tmp_path / "built").build()


@pytest.mark.parametrize(
    "piece", ["images/training", "annotations/validation", "annotations/training/ADE_train_00000002.png"]
)
def test_each_missing_piece_is_named(tmp_path, piece):
    ade(tmp_path)
    remove(tmp_path / "ADEChallengeData2016" / piece)
    words = problems("ade20k", tmp_path, tmp_path / "built")
    assert all(part in words for part in piece.split("/"))


def test_an_image_in_both_splits_is_refused(tmp_path):
    """Its id would stand for one of the two files, and training would read what is evaluated."""
    ade(tmp_path)
    root = tmp_path / "ADEChallengeData2016"
    for folder in ("images", "annotations"):
        file = min((root / folder / "training").iterdir())
        shutil.copy(file, root / folder / "validation" / file.name)
    with pytest.raises(FolderError, match="have the same name; an image is in one split"):
        opened("ade20k", tmp_path, tmp_path / "built").build()
