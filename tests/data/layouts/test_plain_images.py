"""A folder of plain images."""

import pytest
from more_trees import opened, problems, save_image, split_ids

from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.types import Supervision
from semiseg_jax.options import OptionError


def test_images_at_any_depth_have_no_labels_and_their_path_as_id(tmp_path):
    for name in ("one.jpg", "deep/er/two.PNG", "deep/er/.hidden.jpg", "__MACOSX/three.jpg"):
        save_image(tmp_path / "tree" / name)
    (tmp_path / "tree" / "notes.txt").write_text("no image")
    builder = opened("images", tmp_path / "tree", tmp_path / "built")
    assert split_ids(builder) == {"train": ["one", "deep_er_two"]}
    info = builder.dataset_info()
    assert info.classes == ("background", "thing")
    assert info.background == 0
    assert all(row["kinds"] == [Supervision.UNLABELED] for row in info.splits["train"])


def test_classes_are_those_that_are_asked_for(tmp_path):
    save_image(tmp_path / "tree" / "one.jpg")
    builder = opened("images", tmp_path / "tree", tmp_path / "built", classes=("cat", "dog", "cow"))
    builder.build()
    assert builder.dataset_info().classes == ("cat", "dog", "cow")
    assert builder.dataset_info().background is None
    with pytest.raises(OptionError, match="2 to 254 different names"):
        opened("images", tmp_path / "tree", tmp_path / "built", classes=("cat", "cat"))


def test_what_is_no_image_is_no_matter(tmp_path):
    save_image(tmp_path / "tree" / "one.jpg")
    before = opened("images", tmp_path / "tree", tmp_path / "built").data_path
    (tmp_path / "tree" / "notes.txt").write_text("later")
    assert opened("images", tmp_path / "tree", tmp_path / "built").data_path == before
    save_image(tmp_path / "tree" / "two.jpg")
    assert opened("images", tmp_path / "tree", tmp_path / "built").data_path != before


def test_two_images_of_one_id_are_refused(tmp_path):
    for name in ("a/b.jpg", "a_b.jpg"):
        save_image(tmp_path / "tree" / name)
    with pytest.raises(FolderError, match="have the same id, 'a_b'"):
        opened("images", tmp_path / "tree", tmp_path / "built").build()


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "tree").mkdir()
    assert "holds no image" in problems("images", tmp_path / "tree", tmp_path / "built")
    assert "no such folder" in problems("images", tmp_path / "lost", tmp_path / "built")
