"""The folder builder: optional files, rebuilds, simulated labels."""

import functools
import io
import json

import numpy as np
import pytest
from folders import EVERYTHING, SIZE, mask_values, names, records, save_mask, square_mask
from PIL import Image

from semiseg_jax.data import records as data_records
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layout import default_colors
from semiseg_jax.data.records import decode_image, decode_mask
from semiseg_jax.data.types import IGNORE, Supervision


def by_id(dataset):
    return {record["id"].decode(): record for record in dataset.records("train")}


@pytest.mark.parametrize(
    ("file", "kind", "fields"),
    [
        ("masks", "DENSE", ["mask"]),
        ("scribbles", "SCRIBBLE", ["strokes"]),
        ("points", "POINTS", ["points"]),
        ("boxes", "BOX", ["boxes", "box_class"]),
        ("tags", "TAGS", []),
    ],
)
def test_each_label_file_alone_gives_its_kind_and_nothing_else(make_folder, open_folder, file, kind, fields):
    builder = open_folder(make_folder(**({"masks": False} | {file: True})))
    found = records(builder)
    assert sorted(found) == ["im0", "im1", "im2", "im3"]
    for row in builder.dataset_info().splits["train"]:
        assert names(row["kinds"]) == {"UNLABELED", kind}
    for record in found.values():
        assert decode_image(record["image"]).shape == (*SIZE, 3)
        for field in ("mask", "points", "strokes", "partial", "boxes", "box_class"):
            assert (len(record[field]) > 0) == (field in fields)
        assert (record["tags"] != -1).any() == (kind == "TAGS")


def test_all_label_files_together_are_stored_as_given(make_folder, open_folder):
    builder = open_folder(make_folder(**EVERYTHING))
    record = records(builder)["im2"]
    np.testing.assert_array_equal(decode_mask(record["mask"], SIZE), square_mask(2))
    np.testing.assert_array_equal(record["points"], [[18, 20, 1], [3, 3, 0]])
    np.testing.assert_array_equal(record["boxes"], [[12, 12, 28, 30]])
    np.testing.assert_array_equal(record["box_class"], [1])
    np.testing.assert_array_equal(record["tags"], [-1, 1, 0])
    for y, x, end, klass in ((2, 4, 39, 0), (18, 14, 27, 1)):
        pieces = record["strokes"][record["strokes"][:, 4] == klass]
        assert (pieces[:, [0, 2]] == y).all()
        assert pieces[:, [1, 3]].min() == x
        assert pieces[:, [1, 3]].max() == end
    info = builder.dataset_info()
    assert info.classes == ("background", "square", "other")
    assert info.background == 0
    assert len(info.colors) == 3
    assert {split: len(rows) for split, rows in info.splits.items()} == {"train": 4, "val": 2}


def test_unlabelled_images_need_no_label_file(make_folder, open_folder):
    builder = open_folder(make_folder(masks=False))
    records(builder)
    assert all(names(row["kinds"]) == {"UNLABELED"} for row in builder.dataset_info().splits["train"])


def test_every_image_may_have_another_subset_of_labels(make_folder, open_folder):
    root = make_folder(**EVERYTHING)
    (root / "masks" / "im0.png").unlink()
    (root / "scribbles" / "im1.png").unlink()
    make_folder.write_json("points.json", {"im2": [[0, 0, 0]]})
    builder = open_folder(root)
    builder.build()
    kinds = {row["id"]: names(row["kinds"]) for row in builder.dataset_info().splits["train"]}
    assert "DENSE" not in kinds["im0"]
    assert "SCRIBBLE" in kinds["im0"]
    assert "SCRIBBLE" not in kinds["im1"]
    assert "POINTS" not in kinds["im1"]
    assert "POINTS" in kinds["im2"]


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".png", ".jpg", ".webp", ".JPG"])
def test_any_image_format_is_read(make_folder, open_folder, suffix):
    root = make_folder(masks=False)
    pixels = np.asarray(Image.open(root / "images" / "im0.png"))
    (root / "images" / "im0.png").unlink()
    Image.fromarray(pixels).save(root / "images" / f"im0{suffix}")
    stored = decode_image(records(open_folder(root))["im0"]["image"])
    assert stored.shape == pixels.shape
    assert np.abs(stored.astype(int) - pixels).mean() < 12


def test_images_are_read_as_rgb(make_folder, open_folder):
    path = make_folder()
    Image.new("RGB", (48, 40), (200, 100, 0)).save(path / "images" / "im0.png")
    stored = decode_image(records(open_folder(path))["im0"]["image"])
    np.testing.assert_array_equal(stored[0, 0], (200, 100, 0))


def test_crowd_boxes_become_ignore_regions(make_folder, open_folder):
    root = make_folder(boxes=True)
    coco = json.loads((root / "boxes.json").read_text())
    coco["annotations"][0]["iscrowd"] = 1
    make_folder.write_json("boxes.json", coco)
    assert records(open_folder(root))["im0"]["box_class"].tolist() == [IGNORE]


def test_a_listed_image_without_boxes_surely_has_none(make_folder, open_folder):
    root = make_folder(boxes=True)
    coco = json.loads((root / "boxes.json").read_text())
    coco["annotations"] = [row for row in coco["annotations"] if row["image_id"] != 0]
    make_folder.write_json("boxes.json", coco)
    builder = open_folder(root)
    assert len(records(builder)["im0"]["boxes"]) == 0
    assert "BOX" in names(builder.dataset_info().splits["train"][0]["kinds"])


@pytest.mark.parametrize("source", ["masks", "scribbles"])
def test_palette_files_give_their_indices(make_folder, open_folder, source):
    root = make_folder(scribbles=True)
    mask = square_mask() if source == "masks" else np.where(square_mask() == 1, 1, IGNORE)
    save_mask(root / source / "im0.png", mask, palette=[250, 10, 10, 10, 250, 10] + [9] * 762)
    record = records(open_folder(root))["im0"]
    if source == "masks":
        np.testing.assert_array_equal(decode_mask(record["mask"], SIZE), mask)
    else:
        assert set(record["strokes"][:, 4]) == {1}


@pytest.mark.parametrize("ignore_label", [200, 3, 0])
def test_a_custom_ignore_label_becomes_255(make_folder, open_folder, ignore_label):
    root = make_folder()
    make_folder.write_json("dataset.json", {"classes": list(make_folder.classes), "ignore_label": ignore_label})
    mask = np.where(square_mask() == 1, 1, ignore_label)
    save_mask(root / "masks" / "im0.png", mask)
    stored = decode_mask(records(open_folder(root))["im0"]["mask"], SIZE)
    np.testing.assert_array_equal(stored, np.where(square_mask() == 1, 1, IGNORE))


def test_colors_and_background_are_taken_from_the_dataset_file(make_folder, open_folder):
    root = make_folder()
    colors = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    make_folder.write_json("dataset.json", {"classes": ["a", "b", "c"], "colors": colors, "background": 2})
    builder = open_folder(root)
    builder.build()
    info = builder.dataset_info()
    assert [list(color) for color in info.colors] == colors
    assert info.background == 2


@pytest.mark.parametrize("count", [1, 2, 21, 254])
def test_default_colors_are_bytes(count):
    colors = np.array(default_colors(count))
    assert colors.shape == (count, 3)
    assert colors.min() >= 0
    assert colors.max() <= 255


def test_an_unchanged_folder_is_not_built_again(make_folder, open_folder, monkeypatch):
    root = make_folder()
    first = open_folder(root)
    first.build()
    monkeypatch.setattr("semiseg_jax.data.folder.read_source", lambda *_: pytest.fail("the source was read again"))
    second = open_folder(root)
    assert second.data_path == first.data_path
    second.build()
    assert second.dataset_info() == first.dataset_info()


def new_label(root):
    save_mask(root / "scribbles" / "im0.png", np.full(SIZE, 1))


def other_split(root):
    (root / "splits" / "train.txt").write_text("im0\nim1")


def other_classes(root):
    (root / "dataset.json").write_text('{"classes": ["a", "b", "c", "d"]}')


@pytest.mark.parametrize("change", [mask_values, new_label, other_split, other_classes])
def test_a_changed_folder_is_built_under_another_name(make_folder, open_folder, change):
    root = make_folder()
    before = open_folder(root)
    change(root)
    assert open_folder(root).data_path != before.data_path


@pytest.mark.parametrize("options", [{"max_side": 32}, {"skip_bad": True}, {"strong_classes": ("square",)}])
def test_other_options_are_built_under_another_name(make_folder, open_folder, options):
    root = make_folder()
    assert open_folder(root, **options).data_path != open_folder(root).data_path


def test_of_two_processes_that_build_at_once_the_slower_one_reads_what_the_other_wrote(
    make_folder, open_folder, monkeypatch
):
    root = make_folder(points=True)
    slow, fast = open_folder(root), open_folder(root)
    entries = slow.entries

    def entries_late():
        fast.build()
        return entries()

    monkeypatch.setattr(slow, "entries", entries_late)
    slow.build()
    assert slow.dataset_info() == fast.dataset_info()
    for ours, theirs in zip(slow.records("train"), fast.records("train"), strict=True):
        assert ours["id"] == theirs["id"]
        np.testing.assert_array_equal(ours["points"], theirs["points"])
    assert not list(slow.data_path.parent.glob("*incomplete*"))


def test_simulate_draws_the_kinds_that_are_missing(make_folder, open_set):
    root = make_folder()
    dataset = open_set(root, simulate={"points": {}, "scribble": {}, "box": {}, "tags": {}, "partial": {}})
    record = by_id(dataset)["im0"]
    assert names(dataset.info.splits["train"][0]["kinds"]) == {kind.name for kind in Supervision}
    np.testing.assert_array_equal(record["boxes"], [[10, 12, 26, 30]])
    np.testing.assert_array_equal(record["box_class"], [1])
    np.testing.assert_array_equal(record["tags"], [1, 1, 0])
    for field in ("points", "partial"):
        at = record[field].astype(int)
        np.testing.assert_array_equal(square_mask()[at[:, 0], at[:, 1]], at[:, 2])
    assert set(record["strokes"][:, 4]) == {0, 1}


def test_simulate_keeps_what_the_files_give_and_needs_a_mask(make_folder, open_set):
    root = make_folder(points=True)
    make_folder.write_json("points.json", {"im0": [[1, 2, 0]]})
    (root / "masks" / "im1.png").unlink()
    found = by_id(open_set(root, simulate={"points": {"min_area": 4}}))
    np.testing.assert_array_equal(found["im0"]["points"], [[1, 2, 0]])
    assert len(found["im1"]["points"]) == 0
    assert len(found["im2"]["points"]) == 2


def test_masks_of_images_with_other_than_strong_classes_are_never_opened(make_folder, open_folder):
    root = make_folder(tags=True)
    names_of = json.loads((root / "dataset.json").read_text())["classes"]
    make_folder.write_json("tags.json", {"im0": [0, 1], "im1": [1, 2], "im2": [2]})  # nothing is known of im3
    for id in ("im1", "im2", "im3"):
        (root / "masks" / f"{id}.png").write_bytes(b"not an image")
    found = records(open_folder(root, strong_classes=(names_of[1],)))
    assert [id for id in sorted(found) if len(found[id]["mask"])] == ["im0"]
    np.testing.assert_array_equal(found["im1"]["tags"], [-1, 1, 1])
    with pytest.raises(FolderError, match="3 problem"):
        open_folder(root).build()


def test_masks_of_other_splits_stay_open(make_folder, open_folder):
    root = make_folder(tags=True)
    make_folder.write_json("tags.json", {f"im{i}": [2] for i in range(4)})
    (root / "splits").mkdir(exist_ok=True)
    (root / "splits" / "train.txt").write_text("im0\nim1\n")
    (root / "splits" / "val.txt").write_text("im2\nim3\n")
    builder = open_folder(root, strong_classes=(json.loads((root / "dataset.json").read_text())["classes"][1],))
    assert all(not len(record["mask"]) for record in records(builder, "train").values())
    assert all(len(record["mask"]) for record in records(builder, "val").values())


def test_simulated_labels_depend_on_the_seed_alone(make_folder, open_set):
    root = make_folder()
    draw = {seed: by_id(open_set(root, simulate={"partial": {}}, seed=seed))["im0"] for seed in (0, 1)}
    (root / "splits" / "train.txt").write_text("im3\nim0")
    again = by_id(open_set(root, simulate={"partial": {}, "box": {}}))["im0"]
    np.testing.assert_array_equal(draw[0]["partial"], again["partial"])
    assert draw[0]["partial"].tolist() != draw[1]["partial"].tolist()


@pytest.mark.parametrize(
    ("kind", "message"),
    [("dense", "cannot be drawn"), ("unlabeled", "cannot be drawn"), ("blobs", "'blobs'")],
)
def test_simulate_rejects_kinds_that_masks_cannot_give(make_folder, open_set, kind, message):
    with pytest.raises(ValueError, match=message):
        open_set(make_folder(), simulate={kind: {}})


def test_without_split_files_some_images_with_a_mask_are_held_out(make_folder, open_folder):
    make_folder.ids = [f"im{i:02d}" for i in range(14)]
    root = make_folder(splits=False)
    (root / "masks" / "im00.png").unlink()
    builder = open_folder(root)
    splits = {name: sorted(records(builder, name)) for name in builder.split_sizes()}
    assert set(splits) == {"train", "val"}
    assert sorted(splits["train"] + splits["val"]) == make_folder.ids
    assert len(splits["val"]) == 3  # a fifth of 13
    assert "im00" in splits["train"]
    assert open_folder(root).listing.splits == builder.listing.splits


@pytest.mark.parametrize(("masks", "held_out"), [(1, 0), (2, 1), (6, 1)])
def test_of_few_masks_one_is_held_out_and_of_one_none(make_folder, open_folder, masks, held_out):
    root = make_folder(splits=False)
    for path in sorted((root / "masks").iterdir())[masks:]:
        path.unlink()
    assert len(open_folder(root).listing.splits["val"]) == held_out


def test_without_masks_and_split_files_everything_is_for_training(make_folder, open_folder):
    builder = open_folder(make_folder(masks=False, splits=False))
    assert sorted(records(builder)) == make_folder.ids
    assert not builder.dataset_info().splits.get("val")


def test_simulate_refuses_options_that_do_not_exist(make_folder, open_set):
    with pytest.raises(ValueError, match=r"scribble has no option length; its options: .*pieces"):
        open_set(make_folder(), simulate={"scribble": {"length": 3}})


def test_a_terminal_sees_a_bar_from_the_listing_to_the_last_file(make_folder, open_folder, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    shown = functools.partial(data_records.tqdm, file=terminal, mininterval=0)
    monkeypatch.setattr(data_records, "tqdm", shown)
    open_folder(make_folder()).build()
    text = terminal.getvalue()
    places = [text.index(words) for words in ("listing folder", "building folder", "6/6", "finishing folder")]
    assert places == sorted(places)


def test_a_build_that_is_refused_leaves_no_folders(make_folder, open_folder, tmp_path):
    source = make_folder()
    (source / "masks" / "im0.png").write_bytes(b"no picture")
    with pytest.raises(FolderError, match="im0"):
        open_folder(source).build()
    assert not list((tmp_path / "built").iterdir())
