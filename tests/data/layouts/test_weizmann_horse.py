"""The Weizmann horses as they are published."""

import numpy as np
import pytest
from more_trees import assert_masks, built_masks, opened, problems, remove, save_image, split_ids, weizmann

from semiseg_jax.data.label_maps import FolderError


@pytest.mark.parametrize("images", ["rgb", "gray"])
def test_every_label_is_what_was_written(tmp_path, images):
    masks = weizmann(tmp_path / "tree", images)
    builder = opened("weizmann_horse", tmp_path / "tree", tmp_path / "built", images=images)
    assert_masks(built_masks(builder), masks)
    info = builder.dataset_info()
    assert info.classes == ("background", "horse")
    assert info.background == 0


def test_masks_are_stretched_to_photographs_of_another_scale(tmp_path):
    masks = weizmann(tmp_path / "tree", stretch=3)
    found = built_masks(opened("weizmann_horse", tmp_path / "tree", tmp_path / "built"))
    for id, mask in masks.items():
        assert found[id].shape == (48, 72)
        assert (found[id] != np.kron(mask, np.ones((3, 3)))).mean() < 0.05


def test_a_mask_of_another_shape_is_refused(tmp_path):
    weizmann(tmp_path / "tree")
    save_image(tmp_path / "tree" / "rgb" / "horse003.jpg", (24, 16))
    with pytest.raises(FolderError, match=r"horse003.jpg: is 24x16, of another shape than its image, 16x24"):
        opened("weizmann_horse", tmp_path / "tree", tmp_path / "built").build()


def test_the_split_is_that_of_its_seed(tmp_path):
    weizmann(tmp_path / "tree", count=41)
    splits = [
        opened("weizmann_horse", tmp_path / "tree", tmp_path / "built", **options).listing.splits
        for options in ({}, {"seed": 0}, {"seed": 1}, {"val": 5})
    ]
    assert {split: len(ids) for split, ids in splits[0].items()} == {"train": 25, "test": 16}  # as 200 to 128
    assert splits[0] == splits[1] != splits[2]
    assert splits[3]["test"] == splits[0]["test"]
    assert len(splits[3]["val"]) == 5
    assert sorted(splits[3]["train"] + splits[3]["val"]) == splits[0]["train"]


def test_validation_images_leave_some_for_training(tmp_path):
    weizmann(tmp_path / "tree")
    with pytest.raises(FolderError, match=r"data.options.val is 5 but there are 5 training images"):
        split_ids(opened("weizmann_horse", tmp_path / "tree", tmp_path / "built", val=5))


@pytest.mark.parametrize("piece", ["rgb", "figure_ground", "rgb/horse002.jpg", "figure_ground/horse004.jpg"])
def test_each_missing_piece_is_named(tmp_path, piece):
    weizmann(tmp_path / "tree")
    remove(tmp_path / "tree" / piece)
    words = problems("weizmann_horse", tmp_path / "tree", tmp_path / "built")
    assert all(part in words for part in piece.split("/"))
