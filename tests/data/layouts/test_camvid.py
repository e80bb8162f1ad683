"""CamVid as SegNet's authors lay it out, and the original."""

import numpy as np
import pytest
from more_trees import assert_masks, built_masks, camvid, camvid_original, opened, problems, remove, save, split_ids

from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layouts.camvid import MERGED, ORIGINAL, split_of
from semiseg_jax.data.types import IGNORE

COLORS = [(color, klass) for klass, colors in enumerate(MERGED) for color in colors] + [((0, 0, 0), IGNORE)]


@pytest.mark.parametrize("inner", ["", "CamVid"])
def test_every_label_of_the_tree_of_segnet_is_what_was_written(tmp_path, inner):
    masks = camvid(tmp_path / "tree" / inner)
    builder = opened("camvid", tmp_path / "tree", tmp_path / "built")
    assert_masks(built_masks(builder), masks)
    sizes = {split: len(ids) for split, ids in split_ids(builder).items()}
    assert sizes == {"train": 2, "val": 1, "test": 1}
    info = builder.dataset_info()
    assert len(info.classes) == 11
    assert info.background is None


def test_colours_of_the_original_become_the_eleven_classes(tmp_path):
    masks = camvid_original(tmp_path / "tree", COLORS)
    builder = opened("camvid", tmp_path / "tree", tmp_path / "built")
    assert_masks(built_masks(builder), masks)
    ids = split_ids(builder)
    assert ids == {"train": ["0001TP_006690"], "val": ["0016E5_08159"], "test": ["0001TP_008550", "Seq05VD_f05100"]}


def test_there_are_32_colours():
    assert len({color for color, _ in COLORS}) == 32


def test_a_map_of_other_colours_is_refused(tmp_path):
    camvid_original(tmp_path / "tree", COLORS)
    save(tmp_path / "tree" / ORIGINAL.labels / "0001TP_006690_L.png", np.full((12, 16, 3), 7))
    with pytest.raises(FolderError, match=r"100% of its pixels have colours of no class, such as \[7, 7, 7\]"):
        opened("camvid", tmp_path / "tree", tmp_path / "built").build()


@pytest.mark.parametrize("piece", ["train", "valannot", "test/Seq05VD_f00000.png", "trainannot/0001TP_006690.png"])
def test_each_missing_piece_is_named(tmp_path, piece):
    camvid(tmp_path / "tree")
    remove(tmp_path / "tree" / piece)
    assert piece.split("/")[0] in problems("camvid", tmp_path / "tree", tmp_path / "built")


def test_all_missing_pieces_are_named_at_once(tmp_path):
    camvid(tmp_path / "tree")
    for piece in ("val", "testannot"):
        remove(tmp_path / "tree" / piece)
    words = problems("camvid", tmp_path / "tree", tmp_path / "built")
    assert "val/ is missing" in words
    assert "testannot/ is missing" in words


def test_a_frame_whose_name_says_no_number_is_refused():
    with pytest.raises(FolderError, match="no name of a frame"):
        split_of("holiday")
