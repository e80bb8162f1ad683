"""SIFT Flow as it is published."""

import numpy as np
import pytest
import scipy.io
from more_trees import assert_masks, built_masks, opened, problems, remove, sift, split_ids

from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layouts.sift_flow import SCENES


def test_every_label_is_what_was_written(tmp_path):
    masks = sift(tmp_path / "tree")
    builder = opened("sift_flow", tmp_path / "tree", tmp_path / "built")
    assert_masks(built_masks(builder), masks)
    assert len(builder.dataset_info().classes) == 33
    ids = split_ids(builder)
    assert ids["test"] == ["street_par151"]
    assert sorted(ids["train"]) == ["coast_natu975", "forest_for10", "tallbuilding_art1004"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"S": np.full((12, 16), 34)}, r"S has values 34..34"),
        ({"S": np.full((3, 16), 1)}, "is 16x3"),
        ({"T": np.zeros((12, 16))}, "not a MATLAB file with a matrix S"),
    ],
)
def test_labels_that_cannot_be_are_refused(tmp_path, content, message):
    sift(tmp_path / "tree")
    scipy.io.savemat(tmp_path / "tree" / "SemanticLabels" / SCENES / "coast_natu975.mat", content)
    with pytest.raises(FolderError, match=message):
        opened("sift_flow", tmp_path / "tree", tmp_path / "built").build()


def test_test_images_that_do_not_exist_are_named(tmp_path):
    sift(tmp_path / "tree")
    (tmp_path / "tree" / "TestSet1.txt").write_text(f"{SCENES}\\lost.jpg\n")
    with pytest.raises(FolderError, match=r"1 of 1 images do not exist, the first is 'lost'"):
        opened("sift_flow", tmp_path / "tree", tmp_path / "built").build()


@pytest.mark.parametrize(
    "piece", ["Images", "SemanticLabels", "TestSet1.txt", f"SemanticLabels/{SCENES}/forest_for10.mat"]
)
def test_each_missing_piece_is_named(tmp_path, piece):
    sift(tmp_path / "tree")
    remove(tmp_path / "tree" / piece)
    words = problems("sift_flow", tmp_path / "tree", tmp_path / "built")
    assert all(part in words for part in piece.split("/"))


def test_all_missing_pieces_are_named_at_once(tmp_path):
    (tmp_path / "tree").mkdir()
    words = problems("sift_flow", tmp_path / "tree", tmp_path / "built")
    assert all(part in words for part in ("Images/", "SemanticLabels/", "TestSet1.txt"))
