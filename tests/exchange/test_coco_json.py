"""Annotation files of COCO: what is painted, and what is refused."""

import hashlib
import json

import numpy as np
import pytest
from label_files import SIZE, boxes_by_id, canvas, imported, make_images

from semiseg_jax.data import run_lengths
from semiseg_jax.exchange import coco_json
from semiseg_jax.exchange.drawings import LabelFileError

# Of pycocotools 2.0: encode() of a 7x9 mask, and of a ring with a hole and a line along the right edge, 120x150.
COUNTS = [0, 1, 14, 4, 3, 2, 1, 1, 3, 4, 3, 4, 22, 1]
COMPRESSED = "01>3ENNO2300c0M"
MASK = np.zeros((7, 9), bool)
MASK[1:5, 2:6] = MASK[0, 0] = MASK[6, 8] = True
MASK[3, 3] = False
RING = (
    "SS3c0Q38I6K4L4L4L4M2N2M4M2N2N2N2N2N2N2O0O2N2N2O0O2O0O2O0O2O0O2O000O2O0000ZNC1<0D1;OE1;OE1;OE1;OE1;OE1;OE1;OE1;"
    "OE1;OE1;OE1;OE1;OE1;OE1;OE1;OE1;OE1;OE1;OE1<ND1=OC1=OC1=OC1>NB1?OA1?OA1`0N@1a0O_O1b0N^O1c0b11N101N101N2N2N101N"
    "2N2N2N2N2N2N3L3N2N3L4L4L4L5J7HQn3U3"
)
RING_PIXELS = "82be3aac35feff0e4481ce7aa31ad60ca652b4a3dce7f796da5d3fb93401069e"


def coco(*annotations, images=None, categories=None):
    return {
        "info": {"description": "by hand"},
        "licenses": [],
        "images": images or [{"id": 42, "file_name": "train/a.png", "height": 10, "width": 14, "coco_url": "http://x"}],
        "annotations": [{"id": 900 + n, "image_id": 42, "iscrowd": 0, **row} for n, row in enumerate(annotations)],
        "categories": categories or [
            {"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "car", "supercategory": "vehicle"}
        ],
    }  # fmt: skip


def write(tmp_path, content):
    make_images(tmp_path / "photos", "train/a.png", "val/a.png")
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_run_lengths_are_those_of_pycocotools():
    for counts in (COUNTS, COMPRESSED):
        lengths, size = run_lengths.read({"size": [7, 9], "counts": counts})
        np.testing.assert_array_equal(run_lengths.draw(lengths, size), MASK)
    lengths, size = run_lengths.read({"size": [120, 150], "counts": RING})
    pixels = run_lengths.draw(lengths, size).astype(np.uint8)
    assert lengths[1::2].sum() == 5869
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == RING_PIXELS


def test_objects_become_areas_and_boxes_and_small_ones_cover_large_ones(tmp_path):
    small = {"category_id": 3, "segmentation": [[4, 2, 8, 2, 8, 6, 4, 6]], "bbox": [4, 2, 4, 4], "area": 16}
    parts = [[1, 1, 10, 1, 10, 8, 1, 8], [9, 1, 13, 1, 13, 4, 9, 4], [1, 1, 2, 2]]  # two overlap, one is a line
    large = {"category_id": 18, "segmentation": parts, "bbox": [1, 1, 12, 7], "area": 0}
    source = write(tmp_path, coco(small, large))
    report, load = imported("coco", source, tmp_path, images=tmp_path / "photos")
    assert report.classes == ["background", "car", "dog"]  # by id
    np.testing.assert_array_equal(
        load("masks/train_a.png"), canvas(0, c_2=(1, 1, 8, 10), c2_2=(1, 9, 4, 13), c_1=(2, 4, 6, 8))
    )
    assert boxes_by_id(load("boxes.json")) == {"train_a": [([4, 2, 4, 4], 1, 0), ([1, 1, 12, 7], 2, 0)]}
    assert report.left_out == ["1 polygons of less than three corners"]
    assert not (tmp_path / "out/masks/val_a.png").exists()  # not listed


def test_crowds_and_objects_without_segmentation_are_ignored_and_images_without_annotation_are_background(tmp_path):
    images = [
        {"id": "x", "file_name": "train\\a.png", "height": 10, "width": 14},
        {"id": "y", "file_name": "val/a.png", "height": 10, "width": 14},
    ]
    runs = {"size": [10, 14], "counts": [0, 30, 110]}
    crowd = {"image_id": "x", "iscrowd": 1, "category_id": 3, "segmentation": runs, "bbox": [0, 0, 3, 10], "area": 30}
    boxed = {"image_id": "x", "category_id": 18, "segmentation": [], "bbox": [10.0, 4.0, 2.0, 2.0]}
    flat = {"image_id": "x", "category_id": 18, "segmentation": [2, 4, 6, 4, 6, 6, 2, 6], "bbox": [2, 4, 0, 2]}
    report, load = imported(
        "coco", write(tmp_path, coco(crowd, boxed, flat, images=images)), tmp_path, images=tmp_path / "photos"
    )
    np.testing.assert_array_equal(
        load("masks/train_a.png"), canvas(0, c_255=(0, 0, 10, 3), c_2=(4, 2, 6, 6), c2_255=(4, 10, 6, 12))
    )
    assert (load("masks/val_a.png") == 0).all()
    assert boxes_by_id(load("boxes.json")) == {"train_a": [([0, 0, 3, 10], 1, 1), ([10, 4, 2, 2], 2, 0)]}
    assert report.left_out == ["1 boxes without any width or height"]
    assert "note: 1 images without any annotation are background throughout" in str(report)


def test_boxes_alone_say_nothing_of_the_pixels_and_labelled_keypoints_are_points(tmp_path):
    row = {"category_id": 18, "bbox": [1, 1, 5, 5], "keypoints": [0, 0, 0, 3, 2, 1, 4.5, 5, 2], "num_keypoints": 2}
    _, load = imported("coco", write(tmp_path, coco(row)), tmp_path, images=tmp_path / "photos")
    assert load("points.json") == {"train_a": [[2, 3, 2], [5, 4, 2]]}
    assert not (tmp_path / "out" / "masks").exists()


def test_compressed_run_lengths_are_painted(tmp_path):
    images = [{"id": 42, "file_name": "b.png", "height": 7, "width": 9}]
    row = {"category_id": 18, "segmentation": {"size": [7, 9], "counts": COMPRESSED}, "bbox": [0, 0, 9, 7]}
    source = write(tmp_path, coco(row, images=images))
    make_images(tmp_path / "photos", "b.png", size=(7, 9))
    _, load = imported("coco", source, tmp_path, images=tmp_path / "photos")
    np.testing.assert_array_equal(load("masks/b.png") == 2, MASK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].update(height=20, width=28), "drawn on an image of 28x20 pixels, but .* is 14x10"),
        (lambda c: c["annotations"][0].update(category_id=9), "annotation 900: category 9 is not listed"),
        (lambda c: c["annotations"][0].update(image_id=7), "is of image 7, which is not listed"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "a polygon has 7 numbers"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, "4", 5, 6]]), "a polygon is '4', not a number"),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [9, 14], "counts": [126]}),
            r"of \[9, 14\] but its",
        ),
        (lambda c: c["annotations"][0].update(segmentation={"size": [10, 14], "counts": [9]}), "9 pixels do not fit"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [10, 14], "counts": "oooo"}), "ends within"),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [10**5, 10**5], "counts": [10**10]}),
            "over 200,000,000 pixels",
        ),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "its bbox is a list, but must be a list of 4 numbers"),
        (lambda c: c["annotations"][0].update(keypoints=[1, 2]), "no triples"),
        (lambda c: c["annotations"][0].update(segments_info=[]), "is a panoptic file"),
        (lambda c: c["annotations"].clear(), "has no annotations"),
        (lambda c: c["images"].append({**c["images"][0]}), "two of kind image have the id 42"),
        (lambda c: c.pop("categories"), "must hold lists of images, annotations and categories"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    content = coco({"category_id": 18, "segmentation": [], "bbox": [1, 1, 3, 3]})
    change(content)
    with pytest.raises(LabelFileError, match=message) as error:
        imported("coco", write(tmp_path, content), tmp_path, images=tmp_path / "photos")
    assert "instances.json" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_results_are_refused(tmp_path):
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(LabelFileError, match="a list: results of a model, perhaps"):
        coco_json.read(tmp_path / "results.json")


def test_of_images_of_the_same_name_the_path_decides(tmp_path):
    images = [{"id": 42, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}]
    source = write(tmp_path, coco({"category_id": 18, "bbox": [1, 1, 3, 3]}, images=images))
    with pytest.raises(LabelFileError, match="2 images of that name"):
        imported("coco", source, tmp_path, images=tmp_path / "photos")
    make_images(tmp_path / "photos", "a.png")
    _, load = imported("coco", source, tmp_path, images=tmp_path / "photos")
    assert list(boxes_by_id(load("boxes.json"))) == ["a"]


def test_an_image_of_that_name_in_another_folder_is_not_meant(tmp_path):
    source = write(tmp_path, coco({"category_id": 18, "bbox": [1, 1, 3, 3]}))
    (tmp_path / "photos" / "train" / "a.png").rename(tmp_path / "photos" / "train" / "other.png")
    with pytest.raises(LabelFileError, match=r"is about .train/a\.png., but no image of that name is"):
        imported("coco", source, tmp_path, images=tmp_path / "photos")


def test_of_names_that_servers_change_the_exact_one_is_meant(tmp_path):
    images = [{"id": 42, "file_name": "my_cat.png", "height": SIZE[0], "width": SIZE[1]}]
    (tmp_path / "file.json").write_text(json.dumps(coco({"category_id": 18, "bbox": [1, 1, 3, 3]}, images=images)))
    photos = make_images(tmp_path / "photos", "my cat.png", "my_cat.png")
    _, load = imported("coco", tmp_path / "file.json", tmp_path, images=photos)
    assert list(boxes_by_id(load("boxes.json"))) == ["my_cat"]


def part(name, file_name, *categories, id=1):
    """One file of several, with one image on which each category has a box."""
    rows = [{"id": n, "image_id": id, "category_id": n, "bbox": [1 + n, 1, 3, 3]} for n, _ in enumerate(categories)]
    return name, {
        "images": [{"id": id, "file_name": file_name, "height": SIZE[0], "width": SIZE[1]}],
        "annotations": rows,
        "categories": [{"id": n, "name": category} for n, category in enumerate(categories)],
    }


def write_parts(root, *parts):
    for name, content in parts:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content))
    return root


def splits(folder):
    return {path.stem: path.read_text().split() for path in (folder / "splits").glob("*.txt")}


def test_a_folder_of_files_beside_their_images_is_one_dataset_with_splits(tmp_path):
    root = make_images(tmp_path / "set", "train/a.png", "valid/a.png", "test/b.png", "test/c.png")
    write_parts(
        root,
        part("train/_annotations.coco.json", "a.png", "cat", "dog"),
        part("valid/_annotations.coco.json", "a.png", "dog", "cat"),  # ids are of each file
        part("test/_annotations.coco.json", "b.png", "fox", id=7),
    )
    report, load = imported("coco", root, tmp_path)
    assert report.classes == ["background", "fox", "cat", "dog"]
    assert splits(tmp_path / "out") == {"train": ["test_c", "train_a"], "val": ["valid_a"], "test": ["test_b"]}
    assert [row[1] for row in boxes_by_id(load("boxes.json"))["train_a"]] == [2, 3]
    assert [row[1] for row in boxes_by_id(load("boxes.json"))["valid_a"]] == [3, 2]
    assert report.notes == [
        "3 files are read as one",
        "1 ids of images mean another image in another file, and are taken as ids of each file",
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("instances_train2017", "instances_val2017"), {"train": ["a"], "val": ["b"]}),
        (("Training-set", "TEST"), {"train": ["a"], "test": ["b"]}),
        (("trainval/x", "test/latest"), {"trainval": ["a"], "test": ["b"]}),  # "latest" is no test
        (("train_val_1", "train_val_2"), {}),
        (("train_1", "train_2"), {}),  # of one split alone, a fifth becomes val as ever
        (("train", "more"), {}),
        (("more", "valid"), {"train": ["a"], "val": ["b"]}),
    ],
)
def test_names_of_files_tell_splits(tmp_path, names, expected):
    photos = make_images(tmp_path / "photos", "a.png", "b.png")
    files = [part(f"{name}.json", f"{image}.png", "cat") for name, image in zip(names, "ab", strict=True)]
    imported("coco", write_parts(tmp_path / "labels", *files), tmp_path, images=photos)
    assert splits(tmp_path / "out") == expected


def test_all_problems_of_a_folder_are_told_and_an_image_is_in_one_file_only(tmp_path):
    photos = make_images(tmp_path / "photos", "a.png")
    root = write_parts(tmp_path / "labels", part("one.json", "a.png", "cat"), part("two.json", "a.png", "cat"))
    with pytest.raises(LabelFileError, match=r"two\.json and .*one\.json are both about .*a\.png"):
        imported("coco", root, tmp_path, images=photos)
    write_parts(root, ("captions.json", {"images": [], "annotations": []}), ("one.json", []))
    with pytest.raises(LabelFileError, match=r"(?s)captions\.json: must hold.*one\.json: must hold lists"):
        coco_json.read(root)
