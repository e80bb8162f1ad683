"""Weak labels agree with the mask they are drawn from, and traced scribbles with the drawing."""

import cv2
import numpy as np
import pytest

from semiseg_jax.data import weak_labels
from semiseg_jax.data.types import IGNORE, Supervision

KINDS = sorted(weak_labels.MAKERS)
SHAPES = [(64, 64), (37, 81), (1, 40), (50, 1)]


def random_mask(shape=(64, 64), seed=0, classes=4):
    """Blobs, thin curves and unlabelled pixels."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    for _ in range(6):
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        klass, radius = int(rng.integers(classes)), int(rng.integers(2, 16))
        cv2.circle(mask, (int(x), int(y)), radius, klass, int(rng.choice([-1, 1, 3])))
    cv2.line(mask, (0, 0), (shape[1] - 1, shape[0] // 2), classes - 1, 2)
    mask[rng.uniform(size=shape) < 0.01] = IGNORE
    return mask


def make(kind, mask, seed=0, **options):
    maker = weak_labels.MAKERS[kind]
    if maker is weak_labels.tags:
        return maker(mask, 4)
    return maker(mask, np.random.default_rng(seed), **options)


def components(mask, klass):
    """Bounding boxes y0, x0, y1, x1 and sizes of the connected components of a class."""
    _, _, stats, _ = cv2.connectedComponentsWithStats((mask == klass).astype(np.uint8), connectivity=8)
    return [((y, x, y + h, x + w), area) for x, y, w, h, area in stats[1:].tolist()]


def pixels_of(stroke, samples=700):
    """Every pixel that a stroke passes over by more than a hair's breadth."""
    t = np.linspace(0, 1, samples)[:, None]
    path = (1 - t) * stroke[:2] + t * stroke[2:4]
    return np.unique(np.floor(path + 0.5).astype(int), axis=0)


def draw(strokes, shape, fill=IGNORE):
    out = np.full(shape, fill, np.uint8)
    for stroke in strokes:
        at = pixels_of(stroke)
        out[at[:, 0], at[:, 1]] = stroke[4]
    return out


def flat(labels):
    return labels if isinstance(labels, tuple) else (labels,)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_same_seed_gives_the_same_labels(kind):
    mask = random_mask()
    for first, second in zip(flat(make(kind, mask, 3)), flat(make(kind, mask, 3)), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("maker", [weak_labels.random_pixels, weak_labels.clicks, weak_labels.scribbles])
def test_another_seed_gives_other_labels(maker):
    mask = random_mask()
    first, second = (maker(mask, np.random.default_rng(seed)) for seed in (0, 1))
    assert first.shape != second.shape or (first != second).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("maker", [weak_labels.random_pixels, weak_labels.clicks])
def test_points_lie_on_pixels_of_their_class(shape, seed, maker):
    mask = random_mask(shape, seed)
    points = maker(mask, np.random.default_rng(seed))
    assert points.dtype == np.float32
    at = points.astype(int)
    np.testing.assert_array_equal(at, points)
    np.testing.assert_array_equal(mask[at[:, 0], at[:, 1]], points[:, 2])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(8))
def test_every_pixel_along_a_scribble_lies_on_its_class(shape, seed):
    mask = random_mask(shape, seed)
    strokes = weak_labels.scribbles(mask, np.random.default_rng(seed))
    assert len(strokes)
    for stroke in strokes:
        at = pixels_of(stroke)
        assert (mask[at[:, 0], at[:, 1]] == stroke[4]).all(), stroke


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("seed", range(3))
def test_every_class_of_the_image_gets_a_label(kind, seed):
    mask = random_mask(seed=seed)
    mask[30, 30] = 3
    present = set(np.unique(mask)) - {IGNORE}
    labels = make(kind, mask, seed)
    if kind.name == "BOX":
        assert set(labels[1]) == present - {0}
    elif kind.name == "TAGS":
        assert set(np.flatnonzero(labels)) == present
    else:
        assert set(labels[:, -1].astype(int)) == present


@pytest.mark.parametrize("maker", [weak_labels.clicks, weak_labels.scribbles, weak_labels.boxes])
def test_small_components_count_only_where_a_class_has_no_larger_one(maker):
    mask = np.zeros((40, 40), np.uint8)
    mask[2:12, 2:12] = 1
    mask[20, 20] = 1
    mask[30, 30:32] = 2
    labels = maker(mask, np.random.default_rng(0), min_area=16)
    classes, places = (labels[1], labels[0]) if isinstance(labels, tuple) else (labels[:, -1], labels[:, :2])
    assert (places[classes == 1, :2] < 12).all()
    assert (places[classes == 2, 0] == 30).all()
    assert (classes == 2).any()


def test_clicks_give_one_point_a_component():
    mask = random_mask()
    points = weak_labels.clicks(mask, np.random.default_rng(0), min_area=1)
    for klass in range(4):
        assert (points[:, 2] == klass).sum() == len(components(mask, klass))


def test_clicks_with_all_jitter_stay_on_their_component():
    mask = np.zeros((40, 40), np.uint8)
    cv2.circle(mask, (20, 20), 12, 1, 3)
    for seed in range(30):
        for y, x, klass in weak_labels.clicks(mask, np.random.default_rng(seed), jitter=1.0):
            assert mask[int(y), int(x)] == klass


@pytest.mark.parametrize(
    ("kind", "jitter"), [(Supervision.POINTS, 1.5), (Supervision.BOX, 0.5), (Supervision.BOX, -0.1)]
)
def test_jitter_that_would_leave_the_object_is_refused(kind, jitter):
    with pytest.raises(ValueError, match=f"jitter of {kind.name.lower()} is {jitter} but must be from 0 to"):
        weak_labels.check_options(kind, {"jitter": jitter})


def test_clicks_without_jitter_sit_in_the_middle():
    mask = np.zeros((41, 41), np.uint8)
    cv2.circle(mask, (20, 14), 9, 1, -1)
    points = weak_labels.clicks(mask, np.random.default_rng(0), jitter=0.0)
    np.testing.assert_allclose(points[points[:, 2] == 1, :2], [[14, 20]], atol=1)


@pytest.mark.parametrize("seed", range(3))
def test_boxes_are_tight_around_components_and_leave_the_background_out(seed):
    mask = random_mask(seed=seed)
    boxes, classes = weak_labels.boxes(mask, np.random.default_rng(0), min_area=1)
    expected = {(*box, klass) for klass in (1, 2, 3) for box, _ in components(mask, klass)}
    assert {(*map(int, box), int(klass)) for box, klass in zip(boxes, classes, strict=True)} == expected
    assert len(boxes) == sum(len(components(mask, klass)) for klass in (1, 2, 3))


@pytest.mark.parametrize("background", [None, 2])
def test_the_background_class_of_boxes_can_be_chosen(background):
    mask = random_mask()
    _, classes = weak_labels.boxes(mask, np.random.default_rng(0), background=background)
    assert set(classes) == set(np.unique(mask)) - {IGNORE, background}


@pytest.mark.parametrize("jitter", [0.1, 0.3])
def test_box_jitter_moves_each_side_by_at_most_its_share_and_stays_in_the_image(jitter):
    mask = random_mask()
    tight, classes = weak_labels.boxes(mask, np.random.default_rng(0))
    moved, moved_classes = weak_labels.boxes(mask, np.random.default_rng(0), jitter=jitter)
    np.testing.assert_array_equal(classes, moved_classes)
    sides = np.tile(tight[:, 2:] - tight[:, :2], 2)
    assert (np.abs(moved - tight) <= jitter * sides + 1e-4).all()
    assert (moved != tight).any()
    assert moved.min() >= 0
    assert moved.max() <= 64


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.25, 1.0])
def test_random_pixels_are_the_asked_fraction_of_the_labelled_ones(fraction):
    mask = random_mask((60, 70))
    labelled = (mask != IGNORE).sum()
    points = weak_labels.random_pixels(mask, np.random.default_rng(0), fraction=fraction, each_class=False)
    assert len(points) == max(1, round(fraction * labelled))
    assert len(np.unique(points, axis=0)) == len(points)


def test_random_pixels_keep_a_pixel_of_each_class():
    mask = np.zeros((50, 50), np.uint8)
    mask[7, 9] = 3
    points = weak_labels.random_pixels(mask, np.random.default_rng(0), fraction=0.01)
    assert [7, 9, 3] in points.tolist()
    assert len(points) <= 26


def test_tags_list_the_classes_in_the_image():
    mask = np.array([[0, 2], [IGNORE, 2]], np.uint8)
    tags = weak_labels.tags(mask, 4)
    assert tags.dtype == np.int8
    assert tags.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_mask_without_labels_gives_no_rows(kind):
    labels = make(kind, np.full((20, 30), IGNORE, np.uint8))
    if kind.name == "TAGS":
        assert not labels.any()
    elif kind.name == "BOX":
        assert labels[0].shape == (0, 4)
        assert labels[1].shape == (0,)
    else:
        assert labels.shape == (0, 5 if kind.name == "SCRIBBLE" else 3)


def drawing(name, thickness):
    out = np.full((64, 80), IGNORE, np.uint8)
    if name == "line":
        cv2.line(out, (5, 10), (70, 33), 1, thickness)
    elif name == "diagonal":
        cv2.line(out, (10, 10), (50, 50), 1, thickness)
    elif name == "curve":
        cv2.ellipse(out, (40, 30), (30, 20), 20, 0, 250, 1, thickness)
    elif name == "loop":
        cv2.circle(out, (40, 32), 20, 1, thickness)
    elif name == "crossing":
        cv2.line(out, (8, 8), (70, 50), 1, thickness)
        cv2.line(out, (8, 50), (70, 8), 1, thickness)
    elif name == "branches":
        cv2.line(out, (8, 30), (70, 30), 1, thickness)
        for x in (20, 40, 60):
            cv2.line(out, (x, 30), (x - 8, 55), 1, thickness)
    elif name == "dot":
        out[20 : 20 + thickness, 30 : 30 + thickness] = 1
    elif name == "two classes":
        cv2.line(out, (8, 8), (70, 50), 2, thickness)
        cv2.line(out, (8, 50), (70, 8), 0, thickness)
    return out


def distance_to(drawn):
    return cv2.distanceTransform((~drawn).astype(np.uint8), cv2.DIST_L2, 5)


@pytest.mark.parametrize("thickness", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("name", ["line", "diagonal", "curve", "loop", "crossing", "branches", "dot", "two classes"])
def test_a_traced_scribble_drawn_again_covers_the_drawing_and_nothing_else(name, thickness):
    scribble = drawing(name, thickness)
    redrawn = draw(weak_labels.trace_strokes(scribble), scribble.shape)
    for klass in set(np.unique(scribble)) - {IGNORE}:
        before, after = scribble == klass, redrawn == klass
        assert distance_to(before)[after].max() <= 1.01, "drawn outside the scribble"
        # A stroke is its middle line: its ends are shorter by half the thickness, corners lie 0.7 of it away.
        assert distance_to(after)[before].max() <= 1.5 + 0.75 * (thickness - 1), "a part is not covered"


@pytest.mark.parametrize("seed", range(4))
def test_freehand_scribbles_are_traced_without_gaps(seed):
    rng = np.random.default_rng(seed)
    scribble = np.full((80, 80), IGNORE, np.uint8)
    corners = np.cumsum(rng.integers(-12, 13, (10, 2)), 0) + 40
    cv2.polylines(scribble, [np.clip(corners, 0, 79).astype(np.int32)], False, 1, 1)
    redrawn = draw(weak_labels.trace_strokes(scribble), scribble.shape)
    assert distance_to(redrawn == 1)[scribble == 1].max() <= 1.5
    count, _ = cv2.connectedComponents((redrawn == 1).astype(np.uint8), connectivity=8)
    assert count == 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (2, 9)])
def test_scribbles_at_the_image_border_are_traced(shape):
    strokes = weak_labels.trace_strokes(np.full(shape, 2, np.uint8))
    assert len(strokes)
    assert (strokes[:, 4] == 2).all()
    assert (strokes[:, :4] >= 0).all()
    assert (strokes[:, [0, 2]] < shape[0]).all()
    assert (strokes[:, [1, 3]] < shape[1]).all()


def test_an_empty_scribble_has_no_strokes():
    assert weak_labels.trace_strokes(np.full((8, 9), IGNORE, np.uint8)).shape == (0, 5)


@pytest.mark.parametrize("seed", range(5))
def test_thinning_keeps_every_component_and_no_thick_part(seed):
    region = np.random.default_rng(seed).normal(size=(40, 50)).astype(np.float32)
    region = cv2.GaussianBlur(region, (0, 0), 2) > 0
    thinned = weak_labels.thin(region)
    assert (region | ~thinned).all()
    _, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    thinned_count, thinned_labels = cv2.connectedComponents(thinned.astype(np.uint8), connectivity=8)
    assert set(labels[thinned]) == set(np.unique(labels[region]))
    assert thinned_count - 1 == len(np.unique(labels[region]))
    blocks = thinned[1:, 1:] & thinned[:-1, 1:] & thinned[1:, :-1] & thinned[:-1, :-1]
    assert not blocks.any()
    assert len(np.unique(thinned_labels[thinned])) == thinned_count - 1
