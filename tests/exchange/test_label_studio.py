"""Label Studio's exports: what its files hold, to the pixel, and what is refused."""

import itertools
import json

import numpy as np
import pytest
from broken_files import MANY, assert_drawn_or_refused, mutated
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semiseg_jax import import_labels
from semiseg_jax.exchange import label_studio
from semiseg_jax.exchange.brush_rle import decode_alpha
from semiseg_jax.exchange.drawings import LabelFileError
from semiseg_jax.exchange.folder import paint
from semiseg_jax.exchange.task_names import image_name

SIZE = (10, 20)
NUMBERS = itertools.count()
# What Label Studio's own converter makes of 6x8 pixels: rows 1 to 3, columns 2 to 6, where one pixel is a smooth edge.
PACKED = [0, 0, 0, 192, 57, 27, 254, 39, 0, 141, 106, 255, 253, 176, 12, 39, 255, 108, 3, 9, 255, 228, 48, 0]


def packed(values):
    """The packed runs of some values, the longest runs first, those of single values as they are."""
    values = np.asarray(values).ravel()
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    ends = [*(np.flatnonzero(np.diff(values)) + 1), len(values)]
    singles = []

    def flushed():
        text = "".join(f"0{0:02b}{0:03b}{value:08b}" for value in singles[:1])
        if len(singles) > 1:
            text = f"0{3:02b}{len(singles) - 1:016b}" + "".join(f"{value:08b}" for value in singles)
        singles.clear()
        return text

    begin = 0
    for end in ends:
        if end - begin == 1:
            singles.append(values[begin])
        else:
            bits += flushed()
        for at in range(begin, end if end - begin > 1 else begin, 2**16):
            bits += f"1{3:02b}{min(end - at, 2**16) - 1:016b}{values[begin]:08b}"
        begin = end
    bits += flushed()
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def painted(mask, value=255):
    return packed(np.repeat(np.asarray(mask, int) * value, 4))


def test_brushes_are_unpacked_as_label_studio_packs_them():
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:7] = True
    expected[1, 2] = False  # covered to a third only
    np.testing.assert_array_equal(decode_alpha(bytes(PACKED), "x", (6, 8)), expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31), st.sampled_from([2, 4, 256]))
def test_any_values_are_unpacked(height, width, seed, levels):
    values = np.random.default_rng(seed).integers(0, levels, (height, width, 4))
    alpha = values[..., 3]
    unpacked = decode_alpha(bytes(packed(values)), "x", (height, width))
    np.testing.assert_array_equal(unpacked, alpha > alpha.max() // 2)


def test_runs_longer_than_their_widest_field_are_unpacked():
    mask = np.zeros((300, 400), bool)
    mask[150:] = True
    np.testing.assert_array_equal(decode_alpha(bytes(painted(mask)), "x", mask.shape), mask)


def result(kind, value, labels=("dog",), **more):
    return {
        "original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0, "id": f"r{next(NUMBERS)}",
        "from_name": "label", "to_name": "image", "type": kind, "origin": "manual",
        "value": {**value, **({kind: list(labels)} if labels else {})}, **more,
    }  # fmt: skip


def task(*results, image="/data/upload/3/0a1b2c3d-a.png", number=1, **more):
    annotation = {
        "id": 22, "completed_by": 1, "result": list(results), "was_cancelled": False, "ground_truth": False,
        "created_at": "2024-01-30T02:40:43.893565Z", "updated_at": "2024-01-30T02:40:43.893578Z", "lead_time": 8.65,
    }  # fmt: skip
    return {
        "id": number, "annotations": [annotation], "file_upload": "0a1b2c3d-a.png", "drafts": [], "predictions": [],
        "data": {"image": image}, "meta": {}, "project": 29, **more,
    }  # fmt: skip


@pytest.fixture
def read(tmp_path):
    def read(content, **options):
        path = tmp_path / "export.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return label_studio.read(path, **options)

    return read


POLYGON = {"points": [[10, 20], [50, 20], [50, 80], [10, 80]], "closed": True}
BOX = {"x": 20, "y": 10, "width": 20, "height": 30, "rotation": 0}


def shown(drawing, *classes):
    return paint(drawing, SIZE, ["background", *classes])


def test_every_shape_arrives(read):
    brush = np.zeros(SIZE, bool)
    brush[1:3, 4:9] = True
    drawings = read([
        task(
            result("polygonlabels", POLYGON, hidden=True),  # hidden from sight while people drew
            result("brushlabels", {"format": "rle", "rle": painted(brush)}, ["cat"], image_rotation=90),
            result("ellipselabels", {"x": 75, "y": 50, "radiusX": 10, "radiusY": 40, "rotation": 0}, ["cat"]),
            result("polygonlabels", {"points": [[0, 90], [100, 90], [100, 100], [0, 100]]}, ["Ignore"]),
            result("rectanglelabels", BOX),
            result("rectanglelabels", {**BOX, "rotation": 90}, parentID="abc"),
            result("rectanglelabels", {**BOX, "rotation": 30}),
            result("keypointlabels", {"x": 25, "y": 50, "width": 0.3}, ["cat"]),
            {"type": "choices", "from_name": "kind", "value": {"choices": ["dog", "outdoors"]}},
            {"type": "textarea", "value": {"text": ["hello"]}},
            {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
        )
    ])  # fmt: skip
    (drawing,) = drawings.drawings
    assert drawing.size == SIZE
    assert drawing.complete
    expected = np.zeros(SIZE, np.uint8)
    expected[2:8, 2:10] = 2
    expected[brush] = 1
    expected[1:9, 14:16] = expected[2:8, 13:17] = 1  # an ellipse of half axes 2 and 4 around x = 15, y = 5
    expected[9] = 255
    np.testing.assert_array_equal(shown(drawing, "cat", "dog"), expected)
    upright, quarter, askew = drawing.boxes
    np.testing.assert_allclose((upright.y0, upright.x0, upright.y1, upright.x1), (1, 4, 4, 8))
    np.testing.assert_allclose((quarter.y0, quarter.x0, quarter.y1, quarter.x1), (1, 1, 5, 4))  # about its corner
    s, c = np.sin(np.pi / 6), np.cos(np.pi / 6)
    np.testing.assert_allclose((askew.y0, askew.x0, askew.y1, askew.x1), (1, 4 - 3 * s, 1 + 4 * s + 3 * c, 4 + 4 * c))
    assert [(point.label, point.y, point.x) for point in drawing.points] == [("cat", 5, 5)]
    assert drawing.tags == ["dog", "outdoors"]
    assert drawings.left_out == [
        "1 regions' places below other regions",
        "1 results of type 'relation'",
        "1 results of type 'textarea'",
        "1 turned boxes: the upright box around each is taken",
    ]


def test_shapes_and_labels_of_two_controls_belong_together(read):
    shape = result("polygon", POLYGON, labels=(), id="one")
    label = result("labels", POLYGON, ["cat"], id="one")
    remark = {**result("choices", POLYGON, ["hard"], id="one"), "from_name": "difficulty"}
    drawings = read([task(shape, label, remark)])
    (drawing,) = drawings.drawings
    assert [area.label for area in drawing.areas] == ["cat"]
    assert drawing.tags is None
    assert drawings.left_out == ["1 choices and texts of single regions"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [(("cat", "dog"), "1 regions of several labels: their pixels are ignored"),
     ((), "1 regions without a label: their pixels are ignored")],
)  # fmt: skip
def test_regions_of_unclear_class_are_ignored(read, labels, words):
    drawings = read([task(result("polygonlabels", POLYGON, labels), result("ellipselabels", ELLIPSE))])
    assert (shown(drawings.drawings[0], "dog")[2:8, 2:10] == 255).all()
    assert drawings.left_out == [words]


ELLIPSE = {"x": 75, "y": 50, "radiusX": 10, "radiusY": 10, "rotation": 0}


def version(label, **fields):
    return {**task(result("polygonlabels", POLYGON, [label]))["annotations"][0], **fields}


@pytest.mark.parametrize(
    ("versions", "taken", "left_out"),
    [
        ([version("old"), version("new", updated_at="2025")], "new", 1),
        ([version("truth", ground_truth=True), version("new", updated_at="2025")], "truth", 1),
        ([version("old"), version("cancelled", updated_at="2025", was_cancelled=True)], "old", 1),
    ],
)
def test_one_annotation_of_an_image_counts(read, versions, taken, left_out):
    drawings = read([task(annotations=versions)])
    assert [area.label for area in drawings.drawings[0].areas] == [taken]
    assert len(drawings.left_out) == left_out


def test_predictions_are_taken_when_asked_for(read):
    predicted = {"model_version": "1", "score": 0.5, "result": [result("polygonlabels", POLYGON, ["guess"])]}
    tasks = [task(annotations=[], predictions=[predicted]), task(number=2, image="b.png", predictions=[predicted])]
    plain, asked = read(tasks), read(tasks, predictions=True)
    assert plain.left_out == ["2 predictions"]
    assert [drawing.image for drawing in plain.drawings] == ["b.png"]
    assert asked.all_classes() == ["guess"]
    assert asked.left_out == ["1 predictions of annotated images"]


def test_predictions_of_other_formats_are_refused(tmp_path):
    (tmp_path / "tags.csv").write_text("image,tags\na.png,dog\n")
    with pytest.raises(ValueError, match="from label_studio only, not from csv"):
        import_labels("csv", tmp_path / "tags.csv", tmp_path / "out", predictions=True)


def test_an_image_on_which_nobody_found_anything_is_background(read):
    drawings = read([task(result("polygonlabels", POLYGON)), task(number=2, image="b.png")]).drawings
    assert [drawing.complete for drawing in drawings] == [True, True]
    drawings = read([task(result("rectanglelabels", BOX)), task(number=2, image="b.png")]).drawings
    assert [drawing.complete for drawing in drawings] == [False, False]


def test_the_short_form_is_read(read):
    region = {**POLYGON, "polygonlabels": ["dog"], "original_width": SIZE[1], "original_height": SIZE[0]}
    record = {
        "image": "/data/upload/29/a.png", "site": "yard", "id": 87, "label": [region], "kind": "sunny",
        "many": {"choices": ["dog", "cat"]}, "annotator": 1, "annotation_id": 22,
        "created_at": "2024-01-30T02:40:43.893565Z", "updated_at": "2024-01-30T02:40:43.893578Z", "lead_time": 8.65,
    }  # fmt: skip
    newer = {**record, "updated_at": "2025", "label": [{**region, "polygonlabels": ["cat"]}]}
    drawings = read([record, newer])
    (drawing,) = drawings.drawings
    assert [area.label for area in drawing.areas] == ["cat"]
    assert drawing.tags == ["sunny", "dog", "cat"]
    assert drawings.left_out == ["1 older annotations of images that have a newer or a ground truth one"]


def test_a_folder_of_single_annotations_is_read(tmp_path):
    whole = task(result("polygonlabels", POLYGON))
    single = {**whole["annotations"][0], "task": {"id": 1, "data": whole["data"]}}
    (tmp_path / "22.json").write_text(json.dumps(single))
    assert [drawing.image for drawing in label_studio.read(tmp_path).drawings] == ["data/upload/3/0a1b2c3d-a.png"]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/3/0a1b2c3d-my%20cat.jpg", "data/upload/3/0a1b2c3d-my cat.jpg"),
        ("/data/local-files/?d=photos%2Fmy%20cat.jpg", "photos/my cat.jpg"),
        ("http://localhost:8080/data/local-files/?d=photos/cat.jpg", "photos/cat.jpg"),
        ("s3://bucket/deep/cat #1?.jpg", "deep/cat #1?.jpg"),
        ("https://host.org/photos/cat.jpg?X-Amz-Signature=a%2Fb", "photos/cat.jpg"),
        ("C:\\photos\\cat.jpg", "C:\\photos\\cat.jpg"),
        ("photos/cat 50%.jpg", "photos/cat 50%.jpg"),
    ],
)
def test_addresses_end_in_names_of_images(address, name):
    assert image_name(address) == name


@pytest.mark.parametrize("stored", ["a b (1).png", "0a1b2c3d-a_b_1.png", "a_b_1.png", "deep/a_b_1.png"])
def test_images_are_found_with_and_without_the_prefix_of_uploads(tmp_path, stored):
    path = tmp_path / "photos" / stored
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)
    export = tmp_path / "export.json"
    export.write_text(json.dumps([task(result("polygonlabels", POLYGON), image="/data/upload/3/0a1b2c3d-a_b_1.png")]))
    report = import_labels("label_studio", export, tmp_path / "out", images=tmp_path / "photos")
    assert report.unlabelled == 0
    (mask,) = (tmp_path / "out" / "masks").iterdir()
    expected = np.zeros(SIZE, np.uint8)
    expected[2:8, 2:10] = 1
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected)


def region(kind, **value):
    return [task(result(kind, value))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[{]", "not readable JSON"),
        (b"[" * 100000, "not readable JSON"),
        ([1], "task 0 is 1, not an object"),
        ([task(image="hello")], "task 0 names no image in image"),
        ([{"data": {"left": "a.png", "right": "b.png"}}], "names several images, in left, right"),
        ([task(annotations=7)], "annotations is 7, not a list"),
        (
            [task(result("polygonlabels", POLYGON, original_width=21), result("polygonlabels", POLYGON))],
            "different sizes",
        ),
        ([task(result("polygonlabels", POLYGON, original_width=None))], "has no original_width"),
        ([task(result("polygonlabels", POLYGON, original_width=10**7))], "the width of its image is 10000000"),
        ([task(result("polygonlabels", POLYGON, item_index=1))], "a task of several images"),
        ([task(result("polygonlabels", POLYGON, [""]))], "a region: its label is '', but must be a text"),
        (region("polygonlabels", points=[[1, 2], [3, 4]]), "has 2 corners"),
        (region("polygonlabels", points=[[1, 2], [3, 4], [5]]), "points hold"),
        (region("ellipselabels", x=1, y=1, radiusX=0, radiusY=1), "an ellipse without an area"),
        (region("keypointlabels", x=float("nan"), y=1), "x is nan, not a number"),
        (region("brushlabels", rle=[1, 256]), "rle is not a list of bytes"),
    ],
)
def test_what_cannot_be_is_refused_by_name(read, content, message):
    with pytest.raises(LabelFileError, match=message) as caught:
        read(content)
    assert "export.json" in str(caught.value)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (painted(np.ones((10, 21), bool)), "holds 840 values, but an image of 20x10 has 800"),
        (painted(np.eye(10, 20))[:20], "ends before the image does"),
        ([0, 0, 3], "ends before the image does"),
        ([0, 0, 3, 32, 57, 27, 255, 255, 255, 255, 255], "runs over the end of the image"),
    ],
)
def test_brushes_that_do_not_fit_are_refused(read, rle, message):
    (drawing,) = read(region("brushlabels", rle=rle)).drawings
    with pytest.raises(LabelFileError, match=message):
        shown(drawing, "dog")


FIELDS = (
    "id data image annotations predictions result value type points rle x y width height radiusX radiusY rotation "
    "brushlabels polygonlabels rectanglelabels keypointlabels choices labels original_width original_height"
)
KEYS = st.sampled_from(FIELDS.split())
WORDS = st.sampled_from(["a.png", "dog", "", "ignore"])
LEAVES = st.none() | st.booleans() | st.integers(-9, 300) | st.floats() | WORDS
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=20
)
REGIONS = st.lists(st.dictionaries(KEYS, ANYTHING, max_size=8), max_size=3)
WHOLE = json.dumps([
    task(
        result("polygonlabels", POLYGON),
        result("brushlabels", {"format": "rle", "rle": PACKED}, original_width=8, original_height=6),
        result("rectanglelabels", BOX),
    )
]).encode()  # fmt: skip


def in_regions(values):
    return [task(*(result("polygonlabels", value, ()) for value in values))]


@pytest.mark.heavy
@MANY
@given(mutated(WHOLE) | (ANYTHING | REGIONS.map(in_regions)).map(lambda content: json.dumps(content).encode()))
def test_no_file_ends_in_anything_but_drawings_or_a_refusal(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("label_studio") / "export.json"
    path.write_bytes(content)
    assert_drawn_or_refused(label_studio.read, path)


@pytest.mark.heavy
@MANY
@given(mutated(bytes(PACKED)) | st.binary(max_size=40))
def test_no_brush_ends_in_anything_but_pixels_or_a_refusal(packed):
    try:
        assert decode_alpha(packed, "x", (6, 8)).shape == (6, 8)
    except LabelFileError:
        return
