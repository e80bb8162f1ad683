"""Folders in stores: whole ones are there whole or not at all, and what cannot be reached is told in words."""

import sys
from pathlib import Path

import fsspec
import pytest

from semiseg_jax.data import remote, shapes, store
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.data.fields import Data
from semiseg_jax.data.remote import Store, address_of
from semiseg_jax.options import OptionError


@pytest.fixture(autouse=True)
def _memory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    fsspec.filesystem("memory").store.clear()


def make_folder(path: Path, **files: str) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("s3://bucket/run", "s3://bucket/run"),
        ("gs://bucket/run/", "gs://bucket/run"),
        (Path("gs://bucket/run"), "gs://bucket/run"),
        ("runs/mine", ""),
        ("/runs/a b", ""),
        (r"C:/runs", ""),
        ("", ""),
    ],
)
def test_addresses_are_told_from_paths_also_where_a_path_made_one_slash_of_two(place, address):
    assert address_of(place) == address


def test_a_missing_package_is_told_with_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"s3://bucket/run cannot be reached.*pip install 'semiseg-jax\[s3\]'"):
        Store("s3://bucket/run")


def test_an_unknown_scheme_is_told_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"nowhere://bucket cannot be reached.*gs:// and s3:// are known"):
        Store("nowhere://bucket")


def test_a_folder_comes_back_as_it_was_and_only_what_is_listed(tmp_path):
    place = Store("memory://bucket/run")
    folder = make_folder(tmp_path / "one" / "7", **{"a": "1", "deep/b[1]": "22"})
    assert place.put_whole(folder, "steps/7")
    place.write({"steps/7/stray": b"of an upload that was broken off"})
    assert place.get_whole("steps/7", tmp_path / "two" / "7")
    assert remote._files(tmp_path / "two" / "7") == {"a": 1, "deep/b[1]": 2}
    assert [path.name for path in (tmp_path / "two").iterdir() if path.is_dir()] == ["7"]


def test_a_folder_without_its_marker_is_not_there(tmp_path):
    place = Store("memory://bucket/run")
    place.put_whole(make_folder(tmp_path / "7", a="1"), "steps/7")
    place.delete(["steps/7.complete"])
    assert not place.get_whole("steps/7", tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_folder_that_lost_a_byte_is_damaged_and_the_local_one_stays(tmp_path):
    place = Store("memory://bucket/run")
    place.put_whole(make_folder(tmp_path / "7", a="1234"), "7")
    place.write({"7/a": b"123"})
    mine = make_folder(tmp_path / "mine", kept="yes")
    with pytest.raises(OSError, match=r"memory://bucket/run/7 is damaged"):
        place.get_whole("7", mine)
    assert (mine / "kept").read_text() == "yes"


def test_a_folder_that_is_here_is_not_copied_again_but_another_one_of_its_name_is(tmp_path, monkeypatch):
    place = Store("memory://bucket/run")
    folder = make_folder(tmp_path / "7", a="1")
    place.put_whole(folder, "7")
    with monkeypatch.context() as patch:
        patch.setattr(place.fs, "get", lambda *_: pytest.fail("copied again"))
        assert place.get_whole("7", folder)
    place.put_whole(make_folder(tmp_path / "other" / "7", a="2"), "7")
    assert place.get_whole("7", folder)
    assert (folder / "a").read_text() == "2"


def test_a_folder_that_is_deleted_while_it_is_sent_gets_no_marker(tmp_path, monkeypatch):
    place = Store("memory://bucket/run")
    folder = make_folder(tmp_path / "7", a="1", b="2")
    put = place.fs.put

    def put_and_delete(local, there):
        put(local, there)
        (folder / "b").unlink()

    monkeypatch.setattr(place.fs, "put", put_and_delete)
    assert not place.put_whole(folder, "7")
    assert not place.get_whole("7", tmp_path / "two")


def test_deleting_a_folder_leaves_others_of_similar_names(tmp_path):
    place = Store("memory://bucket/run")
    for step in ("1", "10"):
        place.put_whole(make_folder(tmp_path / step, a=step), step)
    place.delete_whole("1")
    assert set(place.sizes()) == {"10/a", "10.complete"}


def test_an_object_that_would_leave_its_folder_is_refused(tmp_path):
    place = Store("memory://bucket/run")
    place.write({"7.complete": b'{"files": {"../../evil": 1}}'})
    with pytest.raises(ValueError, match="outside of"):
        place.get_whole("7", tmp_path / "7")


@pytest.mark.parametrize("field", ["path", "made_labels"])
def test_images_and_labels_in_a_store_are_refused_in_words(field):
    with pytest.raises(OptionError, match=rf"{field} is s3://bucket/voc: .* copy them first"):
        Data(name="folder", **{field: "s3://bucket/voc"})


def test_a_set_that_was_built_is_kept_in_the_store_and_read_from_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SIZES", {"train": 4, "val": 1})
    data = Data(data_dir="memory://bucket/sets")
    first = open_dataset(data)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))
    monkeypatch.setattr(store, "writing", lambda *_: pytest.fail("built again"))
    second = open_dataset(data)
    assert second.source.data_path != first.source.data_path
    assert second.info.index_digest() == first.info.index_digest()
    assert bytes(second.records("train")[3]["image"]) == bytes(first.records("train")[3]["image"])


def test_a_store_that_cannot_be_written_to_does_not_keep_a_set_from_being_read(monkeypatch, caplog):
    monkeypatch.setattr(shapes, "SIZES", {"train": 1, "val": 1})
    monkeypatch.setattr(Store, "put_whole", lambda *_: (_ for _ in ()).throw(PermissionError("not yours")))
    assert len(open_dataset(Data(data_dir="memory://bucket/sets")).records("val")) == 1
    assert "could not be kept in memory://bucket/sets (not yours)" in caplog.text


def test_a_set_of_tfds_is_copied_whole_and_of_others_only_what_describes_them(tmp_path):
    files = ("dataset_info.json", "features.json", "mask.labels.txt", "pets-train.array_record-00000-of-00001")
    place = Store("memory://bucket/sets")
    place.write({f"pets/{version}/{file}": b"12" for version in ("1.0.0", "2.0.0") for file in files})
    data_dir = "memory://bucket/sets"
    local = store.place_of(data_dir)
    store.fetch_prepared(data_dir, local / "pets", described=True)
    assert {path.name for path in (local / "pets" / "1.0.0").iterdir()} == set(files[:3])
    store.fetch_prepared(data_dir, local / "pets" / "2.0.0")
    assert {path.name for path in (local / "pets" / "2.0.0").iterdir()} == set(files)
    assert {path.name for path in (local / "pets" / "1.0.0").iterdir()} == set(files[:3])


@pytest.mark.parametrize("told", ["PreconditionFailed", "pre-conditions you specified did not hold, 412"])
def test_an_object_that_another_creates_at_the_same_time_is_not_ours(monkeypatch, told):
    place = Store("memory://bucket/run")
    monkeypatch.setattr(place.fs, "pipe_file", lambda *_, **__: (_ for _ in ()).throw(RuntimeError(told)))
    assert not place.create(".lock", b"mine")
