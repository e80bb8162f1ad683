"""Turned images, masks, points, strokes and boxes agree with each other, and with numpy."""

import dataclasses
import functools
import math
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from example_rows import augment, make_row

from semiseg_jax.data.augment import Augment
from semiseg_jax.data.geometry import Limits, Transform
from semiseg_jax.data.types import IGNORE
from semiseg_jax.exchange.drawings import fill
from semiseg_jax.ops.convolution import convolution_form

ANGLES = [-170.0, -45.0, 10.0, 33.0, 120.0]


@dataclasses.dataclass(frozen=True)
class Turned(Augment):
    """Turns every row by the same angle, in degrees, counter-clockwise."""

    rotate: float = 180.0
    angle: Any = 0.0

    def draw_transform(self, size, keys):
        return dataclasses.replace(super().draw_transform(size, keys), angle=jnp.radians(self.angle))


@functools.partial(jax.jit, static_argnames="options")
def run(row, angle, options):
    return Turned.plain(**dict(options), angle=angle)._row(row)


def turned(row, angle, **options):
    """A row's centred crop, turned; one compilation for all angles."""
    found = run(row, angle, tuple(({"random_crop": False} | options).items()))
    return {key: np.asarray(value) for key, value in found.items()}


def carried(places, angle, crop, source, scale=1.0):
    """Places [...,2] of an image of size `source` in its turned centred crop, by complex numbers."""
    shift, middle = np.round((np.array(source) * scale - crop) / 2), np.array(crop) / 2
    places = np.asarray(places, np.float64) * scale - shift - middle
    turned_places = (places[..., 1] - 1j * places[..., 0]) * np.exp(1j * math.radians(angle))
    return np.stack([-turned_places.imag, turned_places.real], -1) + middle


def random_row(size, seed=0, canvas=(64, 64)):
    """A noisy image and mask."""
    rng = np.random.default_rng(seed)
    row = make_row(rng.integers(0, 2, size), canvas=canvas)
    row["image"][: size[0], : size[1]] = rng.integers(0, 256, (*size, 3))
    return row


def in_own_coordinates(row):
    """The row with an image that shows where each of its pixels lies, in parts of its canvas."""
    sides = row["image"].shape[:2]
    places = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in sides), indexing="ij"), -1) / sides
    row["image"] = np.concatenate([places, np.zeros((*sides, 1))], -1).astype(np.float32)
    return row


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("side", [24, 25])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_quarter_turns_are_those_of_numpy(quarters, side, flip):
    row = random_row((side, side))
    places = np.random.default_rng(1).permutation(side * side)[:4]
    row["points"][:, :2], row["points"][:, 2] = np.stack(np.divmod(places, side), -1), 2
    row["boxes"][:], row["box_class"][:] = [[2, 3, 9, 20], [0, 0, side, 5], [7, 11, 8, 12]], 1
    marked = row["mask"][:side, :side].copy()
    marked[np.divmod(places, side)] = 2
    found = turned(row, 90.0 * quarters, crop=(side, side), flip=flip)

    def expect(array):
        array = np.rot90(array, quarters)
        return array[:, ::-1] if flip else array

    assert found["valid"].all()
    np.testing.assert_array_equal(found["label"], expect(marked))
    np.testing.assert_allclose(found["image"], expect(row["image"][:side, :side]) / 255.0, atol=1e-4)
    for before, after in zip(row["boxes"].astype(int), found["boxes"], strict=True):
        inside = np.zeros((side, side), bool)
        inside[before[0] : before[2], before[1] : before[3]] = True
        ys, xs = np.nonzero(expect(inside))
        np.testing.assert_allclose(after, [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1], atol=1e-4)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("scale", [1.0, 1.6])
def test_a_turned_image_shows_what_lies_there_before_and_its_labels_are_the_nearest(angle, scale):
    crop, source = (30, 46), (60, 64)
    row = in_own_coordinates(random_row(source))
    found = turned(row, angle, crop=crop, scale=(scale, scale))
    centres = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in crop), indexing="ij"), -1)
    shown = found["image"][..., :2] * row["image"].shape[:2]
    at_edge = np.minimum(shown, np.array(source) - shown).min(-1) < 1.5
    assert (~at_edge & found["valid"]).mean() > 0.6
    seen = ~at_edge & found["valid"]
    np.testing.assert_allclose(carried(shown, angle, crop, source, scale)[seen], centres[seen], atol=0.02)
    y, x = np.floor(shown[seen]).astype(int).T
    sure = (np.abs(shown[seen] - np.round(shown[seen])) > 0.02).all(-1)
    np.testing.assert_array_equal(found["label"][seen][sure], row["mask"][y, x][sure])


@pytest.mark.parametrize("angle", ANGLES)
def test_pixels_are_valid_where_the_turned_image_covers_their_centre(angle):
    crop, source = (70, 60), (33, 57)
    found = turned(random_row(source), angle, crop=crop)
    centres = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in crop), indexing="ij"), -1)
    before = carried(centres, -angle, crop, crop) - np.round((np.array(crop) - source) / 2)
    depth = np.minimum(before, np.array(source) - before).min(-1)
    np.testing.assert_array_equal(found["valid"][np.abs(depth) > 0.01], (depth > 0)[np.abs(depth) > 0.01])
    assert (found["label"][~found["valid"]] == IGNORE).all()
    assert np.isin(found["label"][found["valid"]], [0, 1]).all()


def test_the_edge_of_a_turned_image_is_not_blended_with_what_is_beside_it():
    row = make_row(np.zeros((40, 40)))
    row["image"][:] = 0
    row["image"][:40, :40] = 255
    found = turned(row, 30.0, crop=(64, 64))
    assert 0 < found["valid"].sum() < 64 * 64
    assert (found["image"][found["valid"]] > 0.999).all()


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_turned_points_land_on_the_pixels_that_were_painted(angle, flip):
    mask, places = np.zeros((60, 64)), [(9, 12), (30, 31), (45, 20), (33, 52)]
    for y, x in places:
        mask[y - 1 : y + 2, x - 1 : x + 2] = 2
    options = {"crop": (80, 88), "flip": flip}
    painted = turned(make_row(mask), angle, **options)["label"] == 2
    drawn = turned(make_row(mask, dense=False, points=[(*place, 2) for place in places]), angle, **options)["label"]
    assert (drawn == 2).sum() == (drawn != IGNORE).sum() == 4
    assert painted[drawn == 2].all()


@pytest.mark.parametrize("angle", ANGLES)
def test_turned_points_at_the_edge_of_an_image_stay_in_it(angle):
    edge = [(y, x, 1) for y in (0, 19) for x in (0, 11, 29)] + [(8, 0, 1), (8, 29, 1)]
    row = make_row(np.zeros((20, 30)), dense=False)
    row["points"] = np.array(edge, np.float32)
    found = turned(row, angle, crop=(60, 60))
    assert (found["label"] == 1).sum() == len(edge)
    assert found["valid"][found["label"] == 1].all()


@pytest.mark.parametrize("angle", [*ANGLES, 45.0])
@pytest.mark.parametrize("stroke", [[8, 8, 50, 50, 1], [50, 10, 9, 50, 1], [20, 8, 20, 56, 1]], ids=str)
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_turned_stroke_has_no_gaps_and_no_width(angle, stroke, scale):
    row = make_row(np.zeros((60, 64)), dense=False, strokes=[stroke])
    crop = (round(100 * scale), round(100 * scale))
    ys, xs = np.nonzero(turned(row, angle, crop=crop, scale=(scale, scale))["label"] == 1)
    ends = carried(np.array(stroke[:4]).reshape(2, 2) + 0.5, angle, crop, (60, 64), scale)
    longest = np.abs(ends[1] - ends[0]).argmax()
    along = np.unique((ys, xs)[longest])
    assert len(along) == along.max() - along.min() + 1
    assert abs(len(along) - np.abs(ends[1] - ends[0]).max()) <= 2
    assert len(ys) <= 2 * len(along)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_turned_boxes_are_the_tightest_around_the_turned_corners(angle, flip):
    crop, source, (y0, x0, y1, x1) = (72, 72), (60, 64), (20, 24, 38, 44)
    mask = np.zeros(source)
    mask[y0:y1, x0:x1] = 1
    found = turned(make_row(mask, boxes=[(y0, x0, y1, x1)]), angle, crop=crop, flip=flip)
    corners = carried([(y0, x0), (y0, x1), (y1, x0), (y1, x1)], angle, crop, source)
    if flip:
        corners[:, 1] = crop[1] - corners[:, 1]
    np.testing.assert_allclose(found["boxes"][0], [*corners.min(0), *corners.max(0)], atol=1e-3)
    ys, xs = np.nonzero(found["label"] == 1)
    np.testing.assert_allclose(found["boxes"][0], [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1], atol=1.0)


def test_angles_are_drawn_evenly_up_to_rotate_and_change_no_other_draw():
    def draw(seed, rotate):
        augment = Augment.plain((32, 32), random_crop=True, scale=(0.5, 2.0), flip=0.5, rotate=rotate)
        transform = augment.draw_transform(np.array([60.0, 64.0]), jax.random.split(jax.random.key(seed), 3))
        return transform.angle, transform.scale, transform.shift, transform.flip

    (angles, *others), (_, *plain) = (jax.vmap(draw, (0, None))(np.arange(400), rotate) for rotate in (30.0, 0.0))
    assert np.abs(angles).max() <= math.radians(30)
    counts = np.histogram(angles, 4, (-math.radians(30), math.radians(30)))[0]
    assert counts.sum() == 400
    assert np.all(abs(counts - 100) < 35)
    for one, other in zip(others, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(np.unique(others[0])) > 390
    assert abs(np.corrcoef(angles, np.asarray(others[0]))[0, 1]) < 0.15


def test_a_turn_of_nothing_is_what_is_not_turned():
    rows = [make_row(np.random.default_rng(seed).integers(0, 3, (60, 64)), seed=seed) for seed in range(4)]
    options = {"crop": (33, 57), "scale": (0.5, 2.0), "flip": 0.5}
    plain = augment(rows, **options)
    for place, row in enumerate(rows):
        still = turned(row, 0.0, random_crop=True, **options)
        for key in plain:
            np.testing.assert_allclose(still[key], plain[key][place], atol=1e-5, err_msg=key)


@pytest.mark.parametrize("limits", [Limits((24, 20), (0.4, 2.5)), Limits((24, 20), (0.4, 2.5), math.radians(30))])
def test_images_are_the_same_in_the_form_for_cpus_and_in_that_for_others(limits):
    canvas = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    for scale, flip in ((0.4, False), (0.73, True), (1.0, True), (2.5, False)):
        transform = Transform(
            limits,
            jnp.array([40.0, 48.0]),
            jnp.float32(scale),
            jnp.array([-2.0, 1.0]),
            jnp.array(flip),
            jnp.float32(0.3),
        )
        forms = {}
        for form in ("cpu", "library"):
            with convolution_form(form):
                forms[form] = np.asarray(jax.jit(transform.image)(canvas))
        valid = np.asarray(transform.mask(np.zeros((40, 48), np.uint8))[1])
        assert valid.any()
        np.testing.assert_allclose(forms["cpu"][valid], forms["library"][valid], atol=1e-4)


# What people draw: augmenting it and drawing then, or drawing it finely and augmenting the drawing.

FINE = 8
BLOB = np.array([[6.3, 9.1], [20.2, 40.7], [48.9, 52.4], [33.0, 30.5], [51.6, 12.2]])  # y, x of corners
PATH = np.array([[5.0, 7.0], [22.0, 31.0], [18.0, 55.0], [52.0, 40.0]])


def finely_drawn(rings, strokes, size):
    """[H * FINE, W * FINE] 1 inside of the rings, 2 along the strokes, 0 elsewhere."""
    drawing = fill([ring * FINE for ring in rings], (size[0] * FINE, size[1] * FINE)).astype(np.uint8)
    for stroke in strokes:
        places = np.round(stroke[:, ::-1] * FINE).astype(np.int32)
        cv2.polylines(drawing, [places], False, 2, 1)
    return drawing


def near(where, distance):
    """[H,W] bool: pixels at most so far from one that is set."""
    return cv2.distanceTransform(1 - where.astype(np.uint8), cv2.DIST_L2, 5) <= distance


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_augmenting_then_drawing_is_drawing_finely_then_augmenting_within_a_pixel(angle, flip, scale):
    size, crop = (60, 64), (70, 70)
    strokes = np.concatenate([PATH[:-1], PATH[1:], np.full((len(PATH) - 1, 1), 2)], axis=1)
    strokes[:, :4] -= 0.5  # rows hold the middles of pixels as whole numbers
    options = {"crop": crop, "scale": (scale, scale), "flip": flip, "random_crop": False}
    row = make_row(fill([BLOB], size).astype(np.uint8), strokes=strokes, boxes=[[*BLOB.min(0), *BLOB.max(0)]])
    found = turned(row, angle, **options)
    fine = finely_drawn([BLOB], [PATH], size)

    def moved(places):
        there = carried(places, angle, crop, size, scale)
        return np.where([False, bool(flip)], crop[1] - there, there)

    # Each fine pixel of the line, carried into the crop.
    line = np.zeros(crop, bool)
    y, x = np.floor(moved((np.argwhere(fine == 2) + 0.5) / FINE)).astype(int).T
    shown = (y >= 0) & (y < crop[0]) & (x >= 0) & (x < crop[1])
    line[y[shown], x[shown]] = True
    drawn = found["label"] == 2
    assert drawn.sum() > 40
    assert near(line, 1.5)[drawn].all()  # a neighbour, also across a corner
    assert near(drawn, 1.5)[line].all()

    # Each pixel of the crop, looked up in the fine drawing of the area.
    corners = moved(BLOB)
    area = fill([corners], crop)
    inside = found["label"] == 1
    edge = near(area, 1.5 * max(1, scale)) & near(~area, 1.5 * max(1, scale))
    np.testing.assert_array_equal(inside[~edge & ~near(drawn, 1)], area[~edge & ~near(drawn, 1)])
    y0, x0, y1, x1 = found["boxes"][0]
    corners = np.clip(corners, 0, crop)
    np.testing.assert_array_less(np.r_[y0, x0] - 1, corners.min(0))
    np.testing.assert_array_less(corners.max(0), np.r_[y1, x1] + 1)
