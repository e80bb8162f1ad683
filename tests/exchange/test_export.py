"""Files for annotation tools: rasterised, they are the label maps that were exported."""

import json
from urllib.parse import unquote
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from semiseg_jax.exchange import export_coco, export_label_studio, export_labelme
from semiseg_jax.exchange.drawings import LabelFileError, fill
from semiseg_jax.exchange.exported import Export, ExportedImage
from semiseg_jax.exchange.outlines import regions_of
from semiseg_jax.verbs.export_labels import WRITERS
from semiseg_jax.verbs.import_labels import import_labels

CLASSES = ("background", "cat", 'dog "big" <1>')
SIZE = (31, 44)


def label_map(seed):
    """Blobs with holes that hold background and other blobs."""
    values = np.random.default_rng(seed).normal(size=(*SIZE, 3))
    labels = cv2.GaussianBlur(values, (0, 0), 2).argmax(-1).astype(np.uint8)
    labels[4:20, 5:30] = 1
    labels[6:18, 7:28], labels[9:14, 10:20] = 0, 2
    return labels


def certainty_of(labels):
    return (labels * 20 + np.arange(labels.shape[1])).astype(np.uint8)


def exported(root, maps, *, background=0, names=("one/a b.png", "two/b.jpg")):
    images = [
        ExportedImage(root / name, name, SIZE, 0.5 + 0.1 * number, regions, 0)
        for number, (name, labels) in enumerate(zip(names, maps, strict=True))
        for regions, _ in [regions_of(labels, certainty_of(labels), background=background, tolerance=0)]
    ]
    colors = ((0, 0, 0), (255, 0, 16), (1, 2, 3))
    return Export(CLASSES, colors, background, root, images, "/data/local-files/?d=")


@pytest.fixture(params=[0, None])
def background(request):
    return request.param


@pytest.fixture
def maps():
    return [label_map(0), label_map(1)]


@pytest.fixture
def export(tmp_path, maps, background):
    return exported(tmp_path / "photos", maps, background=background)


def decoded(counts, size):
    """The run-length encoding of COCO, by its documentation."""
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    assert values.size == size[0] * size[1]
    return values.reshape(size[::-1]).T.astype(bool)


def test_coco_has_polygons_and_runs_that_are_the_label_map(export, maps, tmp_path, background):
    coco = json.loads(export_coco.write(export, tmp_path / "out").read_text())
    names = {row["id"]: row["name"] for row in coco["categories"]}
    assert list(names.values()) == list(CLASSES[1:] if background == 0 else CLASSES)
    kinds = set()
    for image, labels in zip(coco["images"], maps, strict=True):
        assert (image["height"], image["width"]) == SIZE
        out, times = np.zeros(SIZE, np.uint8), np.zeros(SIZE, int)
        for row in (row for row in coco["annotations"] if row["image_id"] == image["id"]):
            kinds.add(type(row["segmentation"]))
            if isinstance(row["segmentation"], dict):
                assert row["segmentation"]["size"] == list(SIZE)
                mask = decoded(row["segmentation"]["counts"], SIZE)
            else:
                mask = fill([np.reshape(row["segmentation"][0], (-1, 2))[:, ::-1]], SIZE)
            out[mask] = CLASSES.index(names[row["category_id"]])
            times += mask
            assert row["area"] == mask.sum()
            y, x = np.nonzero(mask)
            assert row["bbox"] == [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
            assert row["iscrowd"] == 0
            assert row["score"] == pytest.approx(certainty_of(labels)[mask].mean() / 255, abs=1e-4)
        np.testing.assert_array_equal(out, labels)
        assert times.max() == 1
    assert kinds == {list, dict}
    assert len({row["id"] for row in coco["annotations"]}) == len(coco["annotations"])
    assert [(row["file_name"], row["mean_confidence"]) for row in coco["images"]] == [
        ("one/a b.png", 0.5),
        ("two/b.jpg", 0.6),
    ]


@pytest.mark.parametrize("corner", [(0, 0), (2, 0), (0, 3), (2, 3)])
def test_run_lengths_count_columns_of_the_whole_image(corner):
    size = (5, 7)
    mask = np.random.default_rng(1).random((3, 4)) < 0.6
    whole = np.zeros(size, bool)
    whole[corner[0] : corner[0] + 3, corner[1] : corner[1] + 4] = mask
    np.testing.assert_array_equal(decoded(export_coco.run_lengths(mask, corner, size), size), whole)
    assert export_coco.run_lengths(np.ones((2, 2), bool), (0, 0), (2, 2)) == [0, 4]
    assert export_coco.run_lengths(np.array([[1, 0], [0, 1]], bool), (0, 0), (2, 2)) == [0, 1, 2, 1]
    assert export_coco.run_lengths(np.zeros((2, 2), bool), (0, 0), (2, 2)) == [4]


def test_labelme_has_a_file_an_image_that_is_the_label_map(export, maps, tmp_path):
    out = export_labelme.write(export, tmp_path / "out")
    for path, labels, image in zip(("one/a b.json", "two/b.json"), maps, export.images, strict=True):
        content = json.loads((out / path).read_text())
        assert (out / path).parent.joinpath(content["imagePath"]).resolve() == image.file.resolve()
        assert (content["imageHeight"], content["imageWidth"]) == SIZE
        assert content["imageData"] is None
        drawn = np.zeros(SIZE, np.uint8)
        for shape in reversed(content["shapes"]):  # none covers another
            assert shape["shape_type"] == "polygon"
            drawn[fill([np.array(shape["points"])[:, ::-1]], SIZE)] = CLASSES.index(shape["label"])
        np.testing.assert_array_equal(drawn, labels)


def test_two_images_of_one_labelme_file_are_refused(maps, tmp_path):
    with pytest.raises(LabelFileError, match=r"a\.png and .*a\.jpg would have the same LabelMe file, a\.json"):
        export_labelme.write(exported(tmp_path, maps, names=("a.png", "a.jpg")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_label_studio_has_predictions_in_percent_that_are_the_label_map(export, maps, tmp_path, background):
    path = export_label_studio.write(export, tmp_path / "out")
    tasks = json.loads(path.read_text())
    assert [unquote(task["data"]["image"]) for task in tasks] == [
        "/data/local-files/?d=one/a b.png",
        "/data/local-files/?d=two/b.jpg",
    ]
    assert "a%20b" in tasks[0]["data"]["image"]
    interface = ElementTree.parse(tmp_path / "out" / "interface.xml")
    labels_tag = interface.find("PolygonLabels")
    known = [label.get("value") for label in labels_tag]
    assert known == list(CLASSES[1:] if background == 0 else CLASSES)
    assert labels_tag[-2].get("background") == "#ff0010"
    for task, labels in zip(tasks, maps, strict=True):
        (prediction,) = task["predictions"]
        drawn = np.zeros(SIZE, np.uint8)
        for row in reversed(prediction["result"]):  # none covers another
            assert row["type"] == "polygonlabels"
            assert (row["from_name"], row["to_name"]) == (labels_tag.get("name"), interface.find("Image").get("name"))
            assert (row["original_height"], row["original_width"]) == SIZE
            points = np.array(row["value"]["points"])
            assert points.min() >= 0
            assert points.max() <= 100
            corners = points[:, ::-1] / 100 * SIZE
            mask = fill([corners], SIZE)
            drawn[mask] = CLASSES.index(row["value"]["polygonlabels"][0])
            assert row["score"] == pytest.approx(certainty_of(labels)[mask].mean() / 255, abs=1e-4)
        np.testing.assert_array_equal(drawn, labels)
    assert [task["predictions"][0]["score"] for task in tasks] == [0.5, 0.6]


@pytest.mark.parametrize("format", ["coco", "labelme", "label_studio"])
def test_what_was_exported_is_imported_pixel_by_pixel(tmp_path, maps, format):
    """The way back from the tool, where people changed nothing."""
    photos = tmp_path / "photos"
    for name in ("one/a b.png", "two/b.jpg"):
        (photos / name).parent.mkdir(parents=True)
        cv2.imwrite(str(photos / name), np.zeros((*SIZE, 3), np.uint8))
    (tmp_path / "out").mkdir()
    written = WRITERS[format](exported(photos, maps), tmp_path / "out")
    options = {"predictions": True} if format == "label_studio" else {}
    import_labels(format, written, tmp_path / "back", images=photos, classes=CLASSES, **options)
    for id, labels in zip(("one_a b", "two_b"), maps, strict=True):
        back = cv2.imread(str(tmp_path / "back" / "masks" / f"{id}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(back, labels)
