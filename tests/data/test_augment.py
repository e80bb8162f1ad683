"""Augmentation keeps image, label, geometry and validity aligned."""

import numpy as np
import pytest
from example_rows import BOXES, COLORS, POINTS, K, augment, make_row

from semiseg_jax.data import weak_labels
from semiseg_jax.data.records import given_labels, make_record
from semiseg_jax.data.types import IGNORE, Supervision
from semiseg_jax.ops.images import MEAN

GEOMETRIC = {"scale": (0.5, 2.0), "flip": 0.5}


def scene(size=(60, 64), seed=0):
    """A square of class 1 and a disc of class 2 on class 0."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    y, x = rng.integers(4, 12, 2)
    mask[y : y + 20, x : x + 16] = 1
    ys, xs = np.mgrid[: size[0], : size[1]]
    mask[(ys - 44) ** 2 + (xs - 44) ** 2 < 120] = 2
    return mask


def square(mask, klass=1):
    """The y0, x0, y1, x1 of a class."""
    ys, xs = np.nonzero(mask == klass)
    return [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]


def scenes(count=12, **options):
    return [make_row(scene(seed=seed), boxes=[square(scene(seed=seed))], seed=seed, **options) for seed in range(count)]


# Nothing to do.


@pytest.mark.parametrize("size", [(64, 64), (33, 17), (1, 1)])
def test_the_identity_reproduces_the_image_exactly(size):
    mask = np.random.default_rng(0).integers(0, 3, size)
    row = make_row(mask, boxes=[[0, 0, size[0], size[1]]])
    rng = np.random.default_rng(1)
    row["image"][: size[0], : size[1]] = rng.integers(0, 256, (*size, 3))
    batch = augment([row], crop=size)
    np.testing.assert_array_equal(np.round(batch["image"][0] * 255), row["image"][: size[0], : size[1]])
    np.testing.assert_allclose(batch["image"][0], row["image"][: size[0], : size[1]] / 255.0, atol=1e-7)
    np.testing.assert_array_equal(batch["label"][0], mask)
    assert batch["valid"].all()
    np.testing.assert_array_equal(batch["boxes"][0, 0], [0, 0, *size])
    for key in ("tags", "kind", "id"):
        np.testing.assert_array_equal(batch[key][0], row[key])


def test_the_types_of_a_batch_are_those_of_the_contract():
    batch = augment(scenes(24), crop=(33, 57), **GEOMETRIC)
    shapes = {key: (value.shape[1:], value.dtype.name) for key, value in batch.items()}
    assert shapes == {
        "image": ((33, 57, 3), "float32"),
        "label": ((33, 57), "int32"),
        "valid": ((33, 57), "bool"),
        "boxes": ((BOXES, 4), "float32"),
        "box_class": ((BOXES,), "int32"),
        "tags": ((K,), "int8"),
        "kind": ((), "int32"),
        "id": ((2,), "int32"),
        "seed": ((), "uint32"),
    }


def test_a_centred_crop_takes_the_middle():
    mask = np.random.default_rng(0).integers(0, 3, (60, 64))
    batch = augment([make_row(mask)], crop=(20, 24), random_crop=False)
    np.testing.assert_array_equal(batch["label"][0], mask[20:40, 20:44])


@pytest.mark.parametrize(
    ("draw", "even"), [("log", np.log), ("uniform", lambda scale: scale), ("window", lambda scale: 1 / scale)]
)
def test_scales_are_drawn_evenly_in_what_is_named(draw, even):
    rows = [make_row(np.zeros((8, 8)), canvas=(8, 8), boxes=[(0, 0, 8, 8)], seed=seed) for seed in range(400)]
    batch = augment(rows, crop=(16, 16), scale=(0.5, 2.0), scale_draw=draw)
    scales = (batch["boxes"][:, 0, 2] - batch["boxes"][:, 0, 0]) / 8
    assert 0.5 <= scales.min() < 0.52
    assert 1.9 < scales.max() <= 2
    quarters = np.histogram(even(scales), 4, sorted((even(0.5), even(2.0))))[0]
    assert quarters.sum() == 400
    assert np.all(abs(quarters - 100) < 35)


def test_an_unscaled_random_crop_copies_pixels():
    rows = [make_row(np.random.default_rng(0).integers(0, 3, (60, 64)), seed=seed) for seed in range(8)]
    batch = augment(rows, crop=(30, 20))
    assert batch["valid"].all()
    np.testing.assert_allclose(batch["image"], COLORS[batch["label"]] / 255.0, atol=1e-6)
    assert len({label.tobytes() for label in batch["label"]}) > 4


# Alignment.


def interior(label):
    """Pixels whose 5x5 neighbourhood has one label: no colours are blended there."""
    around = np.stack([np.roll(label, (dy, dx), (1, 2)) for dy in range(-2, 3) for dx in range(-2, 3)])
    same = (around == label).all(0)
    same[:, :2] = same[:, -2:] = False
    same[:, :, :2] = same[:, :, -2:] = False
    return same


@pytest.mark.parametrize("crop", [(48, 48), (33, 57), (100, 100)])
def test_the_label_stays_on_its_colour(crop):
    batch = augment(scenes(24), crop=crop, **GEOMETRIC)
    nearest = np.abs(batch["image"][..., None, :] - COLORS / 255.0).sum(-1).argmin(-1)
    sure = interior(batch["label"]) & batch["valid"]
    assert sure.mean() > 0.05
    np.testing.assert_array_equal(nearest[sure], batch["label"][sure])
    assert (nearest == batch["label"])[batch["valid"]].mean() > 0.95


@pytest.mark.parametrize("crop", [(48, 48), (33, 57), (100, 100)])
def test_boxes_bound_the_transformed_square_within_a_pixel(crop):
    batch = augment(scenes(24), crop=crop, **GEOMETRIC)
    visible = 0
    for label, box, klass in zip(batch["label"], batch["boxes"], batch["box_class"], strict=True):
        assert (klass[1:] == -1).all()
        assert not box[1:].any()
        if klass[0] == 1:
            visible += 1
            assert (label == 1).any()
            np.testing.assert_allclose(box[0], square(label), atol=1.0)
        else:
            assert klass[0] == -1
            assert not box[0].any()
            assert (label == 1).any(0).sum() <= 1 or (label == 1).any(1).sum() <= 1
    assert visible > 8


def test_flipping_mirrors_everything():
    options = {"points": [[30, 10, 2]], "strokes": [[5, 6, 5, 20, 1]], "kind": Supervision.POINTS}
    rows = [make_row(scene(), dense=False, boxes=[square(scene())], **options)]
    plain, flipped = (augment(rows, crop=(60, 64), flip=flip) for flip in (0.0, 1.0))
    for key in ("image", "label", "valid"):
        np.testing.assert_array_equal(flipped[key], plain[key][:, :, ::-1])
    y0, x0, y1, x1 = plain["boxes"][0, 0]
    np.testing.assert_array_equal(flipped["boxes"][0, 0], [y0, 64 - x1, y1, 64 - x0])


# Image smaller than the crop.


@pytest.mark.parametrize("size", [(20, 30), (1, 5), (64, 10)])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0)])
def test_a_small_image_is_padded_with_invalid_unlabelled_mean_colour(size, scale):
    mask = np.random.default_rng(0).integers(0, 3, size)
    last = [size[0] - 1, size[1] - 1]
    rows = [make_row(mask, seed=s, points=[[0, 0, 0], [*last, 2]], strokes=[[0, 0, *last, 1]]) for s in range(10)]
    batch = augment(rows, crop=(80, 72), scale=scale, flip=0.5)
    padding = ~batch["valid"]
    assert (batch["label"][padding] == IGNORE).all()
    np.testing.assert_allclose(batch["image"][padding], np.broadcast_to(MEAN, (padding.sum(), 3)), rtol=1e-5)
    for valid in batch["valid"]:
        height, width = valid.any(1).sum(), valid.any(0).sum()
        assert valid.sum() == height * width
        if scale == (1.0, 1.0):
            assert (height, width) == size


def test_without_a_mask_and_geometry_nothing_is_labelled():
    batch = augment([make_row(scene(), dense=False, seed=s) for s in range(8)], crop=(48, 48), **GEOMETRIC)
    assert (batch["label"] == IGNORE).all()
    assert (batch["box_class"] == -1).all()
    assert np.isfinite(batch["image"]).all()


def test_an_all_void_mask_gives_an_all_void_label():
    rows = [make_row(np.full((60, 64), IGNORE), seed=seed) for seed in range(8)]
    batch = augment(rows, crop=(48, 48), jitter=1.0, blur=1.0, **GEOMETRIC)
    assert (batch["label"] == IGNORE).all()
    assert np.isfinite(batch["image"]).all()


# Keys.


def test_a_row_depends_on_its_seed_and_not_on_its_place_in_the_batch():
    options = {"crop": (48, 40), "jitter": 0.5, "blur": 0.5, **GEOMETRIC}
    rows = scenes(6)
    together = augment(rows, **options)
    order = [3, 0, 5, 1, 4, 2]
    shuffled = augment([rows[i] for i in order], **options)
    for key, value in together.items():
        np.testing.assert_array_equal(shuffled[key], value[order], err_msg=key)
    alone = augment(rows[2:3], **options)
    for key, value in together.items():
        np.testing.assert_allclose(alone[key][0], value[2], atol=2e-6, err_msg=key)


def test_rows_with_other_seeds_get_other_transformations():
    rows = [make_row(scene(), seed=seed) for seed in range(8)]
    batch = augment(rows, crop=(48, 48), **GEOMETRIC)
    assert len({label.tobytes() for label in batch["label"]}) == 8


# Points and strokes.


def point_rows(places, size=(60, 64), klass=2):
    """One row for each place: class 2 there and nowhere else, labelled by a point."""
    rows = []
    for seed, (y, x) in enumerate(places):
        mask = np.zeros(size, np.uint8)
        mask[y, x] = klass
        rows.append(make_row(mask, dense=False, points=[[y, x, klass]], seed=seed, kind=Supervision.POINTS))
    return rows


def test_a_one_pixel_label_survives_scaling_as_one_pixel():
    places = [(0, 0), (59, 63), (0, 63), (59, 0), (30, 31), (17, 44), (58, 62), (33, 1)] * 8
    batch = augment(point_rows(places), crop=(130, 130), scale=(0.3, 2.0), flip=0.5)
    assert ((batch["label"] == 2).sum((1, 2)) == 1).all()
    assert ((batch["label"] != IGNORE).sum((1, 2)) == 1).all()
    assert batch["valid"][batch["label"] == 2].all()


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.0, 3.0)])
def test_a_point_stays_on_its_pixel(scale):
    places = np.random.default_rng(0).integers(0, (60, 64), (48, 2))
    options = {"crop": (60, 64), "scale": scale, "flip": 0.5}
    rows = point_rows(places)
    labelled = augment(rows, **options)["label"] == 2
    for row, (y, x) in zip(rows, places, strict=True):
        row["mask"][y, x] = 2
        row["points"][:] = -1
    dense = augment(rows, **options)["label"]
    assert labelled.sum((1, 2)).max() == 1
    assert labelled.any((1, 2)).sum() >= (48 if scale == (1.0, 1.0) else 8)
    assert (dense[labelled] == 2).all()


@pytest.mark.parametrize("capacity_used", [1, POINTS])
def test_a_point_outside_the_crop_leaves_no_label(capacity_used):
    points = [[0, i, 1] for i in range(capacity_used)]
    batch = augment([make_row(scene(), dense=False, points=points)], crop=(20, 20), random_crop=False, scale=(1.0, 1.0))
    assert (batch["label"] == IGNORE).all()


STROKES_DRAWN = [
    [5, 5, 5, 60, 1],
    [8, 8, 50, 58, 1],
    [55, 3, 9, 20, 1],
    [3, 40, 58, 40, 1],
    [30, 50, 30, 50, 1],
]


@pytest.mark.parametrize("stroke", STROKES_DRAWN, ids=str)
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_stroke_has_no_gaps_and_no_width_at_any_scale(stroke, scale):
    row = make_row(np.zeros((60, 64)), dense=False, strokes=[stroke], kind=Supervision.SCRIBBLE)
    crop = (round(60 * scale), round(64 * scale))
    label = augment([row], crop=crop, scale=(scale, scale))["label"][0]
    longest = max(abs(stroke[2] - stroke[0]), abs(stroke[3] - stroke[1]))
    along = (label == 1).any(0 if abs(stroke[3] - stroke[1]) == longest else 1)
    covered = np.flatnonzero(along)
    np.testing.assert_array_equal(covered, np.arange(covered[0], covered[-1] + 1))
    assert abs(len(covered) - longest * scale) <= 1 + scale
    assert (label == 1).sum() <= 2 * len(covered)


@pytest.mark.parametrize("seed", range(3))
def test_scribbles_of_a_mask_are_drawn_on_their_class(seed):
    """At scale 1 and at scale 2, whose pixels are exact copies, no drawn pixel lies on another class."""
    mask = scene(seed=seed)
    strokes = weak_labels.scribbles(mask, np.random.default_rng(seed))
    row = make_row(mask, dense=False, strokes=strokes, kind=Supervision.SCRIBBLE)
    for scale in (1, 2):
        label = augment([row], crop=(60 * scale, 64 * scale), scale=(float(scale), float(scale)))["label"][0]
        truth = mask.repeat(scale, 0).repeat(scale, 1)
        drawn = label != IGNORE
        assert drawn.any()
        assert set(np.unique(label[drawn])) == set(np.unique(mask))
        np.testing.assert_array_equal(label[drawn], truth[drawn])


@pytest.mark.parametrize("stroke", STROKES_DRAWN, ids=str)
def test_labels_given_to_programs_on_the_host_are_those_that_training_draws(stroke):
    clicks = [[30, 40, 2], [30, 50, 0], [59, 63, 1], [7.4, 9.6, 2]]
    options = {"points": clicks, "strokes": [stroke], "kind": Supervision.SCRIBBLE}
    label = augment([make_row(np.zeros((60, 64)), dense=False, **options)], crop=(60, 64))["label"][0]
    record = make_record(
        id="", image=b"", num_classes=K, points=np.array([*clicks, [70, 3, 1]]), strokes=np.array([stroke])
    )
    kinds = Supervision.SCRIBBLE, Supervision.POINTS
    np.testing.assert_array_equal(given_labels(record, kinds, (60, 64)), label)
    assert np.isin([0, 1, 2], label).all()
    assert (given_labels(record, [Supervision.PARTIAL, Supervision.TAGS], (60, 64)) == IGNORE).all()


# Colour.


@pytest.mark.parametrize("options", [{"jitter": 1.0}, {"blur": 1.0}, {"jitter": 1.0, "blur": 1.0}], ids=str)
def test_colours_stay_in_range_and_labels_stay_as_they_are(options):
    rows = scenes(8)
    for row, value in zip(rows, (0, 255), strict=False):
        row["image"][:] = value
    geometry = {"crop": (48, 48), **GEOMETRIC}
    plain, changed = augment(rows, **geometry), augment(rows, **geometry, **options)
    assert changed["image"].min() >= 0
    assert changed["image"].max() <= 1
    for key in set(plain) - {"image"}:
        np.testing.assert_array_equal(changed[key], plain[key])
    different = np.abs(changed["image"] - plain["image"]).max((1, 2, 3)) > 1e-3
    assert different[2:].all()


def test_colour_options_do_nothing_at_probability_zero():
    rows = scenes(4)
    plain = augment(rows, crop=(48, 48))
    strong = {"brightness": 0.9, "contrast": 0.9, "saturation": 0.9, "hue": 0.5, "blur_sigma": (5.0, 9.0)}
    np.testing.assert_array_equal(augment(rows, crop=(48, 48), **strong)["image"], plain["image"])


def test_colour_changes_happen_at_their_probability():
    rows = [make_row(scene(), seed=seed) for seed in range(64)]
    images = augment(rows, crop=(60, 64), jitter=0.5, blur=0.5)["image"]
    plain = COLORS[scene()] / 255.0
    unchanged = np.abs(images - plain).max((1, 2, 3)) < 1e-4
    assert 6 < unchanged.sum() < 30


def test_jitter_of_no_strength_keeps_the_image():
    rows = scenes(4)
    plain = augment(rows, crop=(48, 48))["image"]
    none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    np.testing.assert_allclose(augment(rows, crop=(48, 48), jitter=1.0, **none)["image"], plain, atol=1e-5)


def test_padding_does_not_bleed_into_the_image():
    """A flat image in the middle of padding is still flat after the blur."""
    row = make_row(np.ones((20, 20)))
    batch = augment([row], crop=(60, 60), blur=1.0, blur_sigma=(2.0, 2.0), random_crop=False)
    inside = batch["image"][0][batch["valid"][0]]
    np.testing.assert_allclose(inside, np.broadcast_to(COLORS[1] / 255.0, inside.shape), atol=1e-4)


def test_a_given_label_stands_over_a_mask():
    """As one that a program made would be."""
    row = make_row(np.zeros((8, 8)), canvas=(8, 8), points=[[3, 5, 2]])
    label = augment([row], crop=(8, 8), random_crop=False, scale=(1.0, 1.0), flip=0.0)["label"][0]
    assert label[3, 5] == 2
    assert (label == 0).sum() == 63
