"""What is stored of a set: sizes, what is drawn, what is built once and what is removed."""

import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

import semiseg_jax
from semiseg_jax.config import default_config
from semiseg_jax.data import pipeline, store
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.data.fields import Data
from semiseg_jax.data.pools import make_pools, parse_quota
from semiseg_jax.data.records import decode_image, decode_mask, features
from semiseg_jax.data.types import Supervision
from semiseg_jax.options import OptionError


def save_photo(root, id, size, suffix=".jpg"):
    """A photo whose left half is class 1."""
    image = np.full((*size, 3), 40, np.uint8)
    image[:, : size[1] // 2] = 200
    cv2.imwrite(str(root / "images" / f"{id}{suffix}"), image)
    mask = np.zeros(size, np.uint8)
    mask[:, : size[1] // 2] = 1
    cv2.imwrite(str(root / "masks" / f"{id}.png"), mask)


@pytest.fixture
def photos(make_folder):
    """A folder whose first image is a large JPEG, and another a large PNG."""
    root = make_folder(points=True, boxes=True)
    for id, suffix in (("im0", ".jpg"), ("im1", ".png"), ("im4", ".jpg")):
        (root / "images" / f"{id}.png").unlink()
        save_photo(root, id, (400, 600), suffix)
    make_folder.write_json("points.json", {"im0": [[200, 300, 1], [399, 599, 0]]})
    return root


def test_large_images_are_stored_at_the_size_of_training_and_evaluated_at_their_own(photos, open_set):
    dataset = open_set(photos, max_side=96)
    rows = {row["id"]: row for row in dataset.info.splits["train"]}
    assert rows["im0"]["size"] == rows["im1"]["size"] == [64, 96]
    assert rows["im0"]["full"] == [400, 600]
    assert rows["im2"]["size"] == [40, 48]
    assert "full" not in rows["im2"]
    records = {record["id"].decode(): record for record in dataset.records("train")}
    for id, start in (("im0", b"\xff\xd8"), ("im1", b"\x89PNG")):  # a photo stays a JPEG, what has no loss has none
        assert records[id]["image"].startswith(start)
        image, mask = decode_image(records[id]["image"]), decode_mask(records[id]["mask"], (64, 96))
        assert image.shape == (64, 96, 3)
        np.testing.assert_array_equal(mask, np.arange(96)[None].repeat(64, 0) < 48)
        assert abs(image[mask == 1].astype(int) - 200).max() < 25
    np.testing.assert_allclose(records["im0"]["points"], [[31.58, 47.58, 1], [63.42, 95.42, 0]], atol=0.01)
    full = dataset.originals("train")[0]
    assert decode_image(full["image"]).shape == (400, 600, 3)
    np.testing.assert_array_equal(decode_mask(full["mask"], (400, 600)), np.arange(600)[None].repeat(400, 0) < 300)
    assert decode_mask(dataset.originals("val")[0]["mask"], (0, 0)).shape == (400, 600)
    assert decode_mask(dataset.originals("val")[1]["mask"], (0, 0)).shape == (40, 48)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, [341, 512]),
        ({"canvas": (128, 64)}, [85, 128]),
        ({"max_side": 0}, [400, 600]),
        ({"max_side": 600}, [400, 600]),
    ],
)
def test_images_are_stored_near_the_canvas_unless_asked(photos, open_set, options, size):
    assert open_set(photos, **options).info.splits["train"][0]["size"] == size


@pytest.mark.parametrize(("size", "max_side"), [((60, 80), -1), ((900, 1200), -1), ((900, 1200), 0)])
def test_a_share_of_the_pixels_is_that_of_what_training_sees(make_folder, open_set, size, max_side):
    root = make_folder()
    for id in ("im0", "im1", "im2", "im3"):
        (root / "images" / f"{id}.png").unlink()
        save_photo(root, id, size)
    options = {
        "simulate": {"partial": {"fraction": 0.02, "each_class": False}},
        "canvas": (96, 96),
        "max_side": max_side,
    }
    dataset = open_set(root, **options)
    quota = parse_quota({"partial": 1})
    pools = make_pools(dataset.info, "train", quota, {}, 0)
    layout = pipeline.make_layout(dataset.info, "train", pools, (96, 96), False)
    loader = pipeline.ExampleLoader(
        dataset.records("train"), dataset.info, pools, layout, strict=False,
        sizes=[row["size"] for row in dataset.info.splits["train"]],
    )  # fmt: skip
    example = loader((0, int(Supervision.PARTIAL), (0,), 0))
    height, width = example["size"]
    points = example["points"][example["points"][:, 2] >= 0]
    assert len(points) == round(0.02 * height * width)
    at = np.floor(points[:, :2] + 0.5).astype(int)
    assert len(np.unique(at, axis=0)) == len(points)  # each lies on a pixel of its own
    truth = (np.arange(width) < width // 2).astype(int)
    assert (truth[at[:, 1]] == points[:, 2]).mean() > 0.97


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size():
    image = np.zeros((800, 1200, 3), np.uint8)
    image[:, :600] = 255
    data = cv2.imencode(".jpg", image)[1].tobytes()
    assert decode_image(data, 4.3).shape == (200, 300, 3)
    assert decode_image(data, 1.9).shape == (800, 1200, 3)
    assert decode_image(cv2.imencode(".png", image)[1].tobytes(), 4.3).shape == (800, 1200, 3)


def test_an_image_in_several_splits_is_stored_once(make_folder, open_set):
    root = make_folder()
    (root / "splits" / "few.txt").write_text("im3\nim1")
    dataset = open_set(root, train_split="few")
    assert [row["id"] for row in dataset.info.splits["few"]] == ["im3", "im1"]
    assert [record["id"] for record in dataset.records("few")] == [b"im3", b"im1"]
    assert [record["id"].decode() for record in dataset.records("train")] == ["im0", "im1", "im2", "im3"]
    files = "".join(path.name for path in dataset.source.data_path.glob("*.array_record*"))
    assert ("few" in files) + ("train" in files) + ("val" in files) == 3
    stored = sum(len(store.open_split(dataset.source.data_path, split)) for split in ("few", "train", "val"))
    assert stored == 6


def test_seed_run_folder_and_other_files_leave_the_build_as_it_is(make_folder, open_set):
    root = make_folder()
    first = open_set(root).source.data_path
    (root / "runs").mkdir()
    (root / "runs" / "log.txt").write_text("a run")
    (root / "NOTES.txt").write_text("mine")
    assert open_set(root, seed=5, simulate={"box": {}}).source.data_path == first
    assert sorted(path.name for path in (first / "drawn").iterdir())[0].startswith("train-")


def test_a_quota_that_cannot_be_filled_is_told_before_images_are_read(make_folder, tmp_path):
    root = make_folder(points=True)
    data = Data(name="folder", path=str(root), data_dir=str(tmp_path / "built"), quota={"scribble": 1})
    with pytest.raises(ValueError, match="no image of split 'train' of folder has scribble labels"):
        open_dataset(data, planned=True)
    assert not (tmp_path / "built").exists()


def test_cleaning_removes_what_earlier_states_left(make_folder, tmp_path, capsys):
    root = make_folder()
    other = tmp_path / "elsewhere" / "source"
    shutil.copytree(root, other)
    (other / "splits" / "val.txt").write_text("im4")
    config = default_config()
    config.data.update({"name": "folder", "data_dir": str(tmp_path / "built"), "path": str(root)})
    semiseg_jax.prepare(config)
    old = [path.parent for path in (tmp_path / "built").rglob("index.json")]
    config.data.path = str(other)  # another folder of that name
    semiseg_jax.prepare(config)
    (root / "splits" / "val.txt").write_text("im5")
    config.data.path = str(root)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    broken = old[0].with_name(f"incomplete.{int(gone.stdout)}.abc.{store._machine()}")
    running = old[0].with_name(f"incomplete.{os.getpid()}.abc.{store._machine()}")
    broken.mkdir()
    running.mkdir()
    semiseg_jax.prepare(config, clean=True)
    left = [path.parent for path in (tmp_path / "built").rglob("index.json")]
    assert len(left) == 2
    assert old[0] not in left
    assert not broken.exists()
    assert running.exists()
    assert "folders removed" in capsys.readouterr().out
    config.data.max_side = 32  # another way to store the same images leaves the first one
    semiseg_jax.prepare(config, clean=True)
    assert len(list((tmp_path / "built").rglob("index.json"))) == 3
    semiseg_jax.prepare(config, clean=True)
    assert "nothing to remove" in capsys.readouterr().out


def test_a_set_larger_than_a_file_is_written_in_several(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_SHARD_BYTES", 2000)
    record = {
        "id": "x", "image": b"i" * 900, "mask": b"", "points": np.zeros((0, 3), np.float32),
        "strokes": np.zeros((0, 5), np.float32), "partial": np.zeros((0, 3), np.float32),
        "boxes": np.zeros((0, 4), np.float32), "box_class": np.zeros(0, np.int32), "tags": np.zeros(2, np.int8),
    }  # fmt: skip
    with store.writing(tmp_path / "set" / "1.0.0", "many", features(2)) as out:
        for number in range(8):
            out.add("train", record | {"id": str(number)})
    names = sorted(path.name for path in (tmp_path / "set" / "1.0.0").glob("*.array_record*"))
    assert len(names) == 4
    assert names[0] == "many-train.array_record-00000-of-00004"
    assert [item["id"].decode() for item in store.open_split(tmp_path / "set" / "1.0.0", "train")] == list("01234567")


def test_a_set_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), store.writing(tmp_path / "set" / "config" / "1.0.0", "many", features(2)):
        raise RuntimeError("full")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told_with_a_remedy(make_folder, open_set, tmp_path):
    (tmp_path / "built").write_text("a file")
    with pytest.raises(OSError, match=r"cannot be made .*data_dir=DIR keeps built sets elsewhere"):
        open_set(make_folder())


def test_images_are_not_stored_smaller_than_they_are_evaluated():
    with pytest.raises(OptionError, match=r"is 64 but the canvas is \(96, 128\)"):
        Data(max_side=64, canvas=(96, 128))


def no_info(folder):
    (folder / "dataset_info.json").unlink()


def no_index(folder):
    (folder / "index.json").unlink()


def short_index(folder):
    (folder / "index.json").write_text((folder / "index.json").read_text()[:-5])


def short_records(folder):
    for path in folder.glob("*.array_record*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_records(folder):
    for path in folder.glob("*.array_record*"):
        data = bytearray(path.read_bytes())
        data[200:-200:7] = b"x" * len(data[200:-200:7])
        path.write_bytes(data)


@pytest.mark.parametrize("damage", [no_info, no_index, short_index, short_records, other_records])
def test_a_damaged_set_says_what_to_delete(make_folder, open_set, damage):
    root = make_folder()
    folder = open_set(root).source.data_path
    damage(folder)
    with pytest.raises(
        ValueError, match=rf"the set in {folder} is damaged: .*Delete this folder, and the set is built"
    ):
        list(open_set(root).records("train"))


def test_an_image_that_cannot_be_read_is_named_by_its_id(make_folder, open_set, caplog):
    dataset = open_set(make_folder())
    pools = make_pools(dataset.info, "train", parse_quota({"dense": 1}), {}, 0)
    records = [*dataset.records("train")]
    records[2] = records[2] | {"image": b"broken"}
    layout, ids = pipeline.Layout((64, 64), 1, 1, 1), [row["id"] for row in dataset.info.splits["train"]]
    loader = pipeline.ExampleLoader(records, dataset.info, pools, layout, strict=False, ids=ids)
    for at in range(4):
        loader((0, int(Supervision.DENSE), (at, (at + 1) % 4), 0))
    assert "image im2 cannot be read (not a readable image) and is replaced by another one" in caplog.text


def test_waiting_batches_are_bounded_in_bytes(make_folder, open_set):
    dataset = open_set(make_folder())
    pools = make_pools(dataset.info, "train", parse_quota({"dense": 1}), {}, 0)
    layout = pipeline.Layout((512, 512), 1, 1, 1)
    loader = pipeline.ExampleLoader(dataset.records("train"), dataset.info, pools, layout, strict=False)
    assert pipeline.ahead(loader, pipeline.Shard(rows=8, units=1), threads=16) == (16, 18)
    assert pipeline.ahead(loader, pipeline.Shard(rows=64, units=8), threads=16) == (2, 2)
    assert pipeline.ahead(loader, pipeline.Shard(rows=512, units=8), threads=16) == (1, 1)


def test_preparing_again_still_says_that_the_quota_cannot_be_filled(make_folder, tmp_path, capsys):
    config = semiseg_jax.load_config(f"supervised:path={make_folder()}")
    config.data.data_dir = str(tmp_path / "built")
    semiseg_jax.prepare(config)
    config.data.quota = {"points": 1}
    with pytest.raises(ValueError, match="asks for points rows"):
        semiseg_jax.prepare(config)
    assert "train: 4 images" in capsys.readouterr().out  # what is there is said before


def test_labels_are_drawn_for_each_split_of_its_own(make_folder, open_set):
    """Also for one without images, and for two whose names differ in a character that no file should have."""
    root = make_folder()
    for name, ids in (("half a", "im0\nim1"), ("half_a", "im3\nim2"), ("none", ""), ("ä-1.8", "im4")):
        (root / "splits" / f"{name}.txt").write_text(ids)
    dataset = open_set(root, train_split="half a+none+half_a", simulate={"box": {}})
    boxes = [record["boxes"][0].tolist() for record in dataset.records("half a+none+half_a")]
    assert boxes == [[10 + i, 12, 26 + i, 30] for i in (0, 1, 3, 2)]
    assert [record["id"] for record in dataset.records("ä-1.8")] == [b"im4"]


def test_a_set_that_another_process_finishes_first_is_used(make_folder, open_folder, monkeypatch):
    root = make_folder()
    late = open_folder(root)
    sizes = late.split_sizes

    def overtaken():
        open_folder(root).build()
        return sizes()

    monkeypatch.setattr(late, "split_sizes", overtaken)
    late.build()
    assert len(late.records("train")) == 4
    assert len(list(late.data_path.parent.iterdir())) == 1
