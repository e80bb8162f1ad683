"""Wrong arguments of gated_crf are told, by name."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.losses import gated_crf
from semiseg_jax.ops import kernels

PROBS = np.full((2, 8, 10, 4), 0.25, np.float32)
IMAGE = np.zeros((2, 8, 10, 3), np.float32)
DEPTH = ({"depth": 1.0},)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"probs": PROBS[0]}, ValueError, r"probs is \[8,10,4\]"),
        ({"probs": PROBS.astype(np.int32)}, TypeError, "probs is int32"),
        ({"probs": PROBS.transpose(0, 3, 1, 2)}, ValueError, "probs is .*channels first"),
        ({"probs": PROBS[..., :1]}, ValueError, r"probs is \[2,8,10,1\], of one class"),
        ({"image": IMAGE[0]}, ValueError, r"image is \[8,10,3\]"),
        ({"image": IMAGE[:1]}, ValueError, "image is"),
        ({"image": IMAGE.transpose(0, 3, 1, 2)}, ValueError, "image is .*channels first"),
        ({"image": np.zeros((2, 3, 32, 40), np.float32)}, ValueError, "image is .*channels first"),
        ({"image": IMAGE.astype(np.uint8)}, TypeError, "image is uint8"),
        ({"image": IMAGE[:, :7]}, ValueError, r"image is \[2,7,10,3\], smaller"),
        ({"source_mask": np.ones((1, 8, 10))}, ValueError, r"source_mask is \[1,8,10\]"),
        ({"source_mask": np.ones((2, 8))}, ValueError, r"source_mask is \[2,8\]"),
        ({"source_mask": np.ones((2, 8, 10, 3))}, ValueError, r"source_mask is \[2,8,10,3\]"),
        ({"target_mask": np.ones((2, 8, 9))}, ValueError, r"target_mask is \[2,8,9\], smaller"),
        ({"target_mask": np.ones((3, 8, 10))}, ValueError, "target_mask is"),
        ({"radius": -1}, ValueError, "radius is -1"),
        ({"radius": 0}, ValueError, "radius is 0"),
        ({"kernels": ()}, ValueError, "kernels must be"),
        ({"kernels": {"xy": 6.0}}, ValueError, "kernels must be"),
        ({"kernels": ({"xyz": 6.0},)}, ValueError, "kernels has the unknown key 'xyz'"),
        ({"kernels": ({"xy": 0.0},)}, ValueError, "kernels has xy 0.0"),
        ({"kernels": ({"rgb": -0.1},)}, ValueError, "kernels has rgb -0.1"),
        ({"kernels": DEPTH}, ValueError, "kernels has the unknown key 'depth'"),
        ({"kernels": DEPTH, "features": {"depth": np.ones((2, 8, 9), np.float32)}}, ValueError, r"depth is .2,8,9,1."),
        ({"kernels": DEPTH, "features": {"depth": np.ones((2, 8), np.float32)}}, ValueError, r"depth is \[2,8\]"),
        ({"kernels": DEPTH, "features": {"depth": np.ones((2, 8, 10), np.int32)}}, TypeError, "depth is int32"),
        ({"compatibility": np.ones((4, 4))}, ValueError, "compatibility must be zero on the diagonal"),
        ({"compatibility": np.eye(4) - np.ones((4, 4))}, ValueError, "compatibility must be finite and not negative"),
        ({"compatibility": 1 - np.eye(3)}, ValueError, r"compatibility is \[3,3\] but must be \[4,4\]"),
        ({"compatibility": np.ones(4)}, ValueError, r"compatibility is \[4\]"),
        ({"compatibility": np.full((4, 4), np.nan)}, ValueError, "compatibility must be"),
        ({"probs": 4 * PROBS - 3}, ValueError, "probs has -2 but must be probabilities; apply jax.nn.softmax"),
        ({"probs": PROBS + 2}, ValueError, "probs has 2.25 but"),
        ({"probs": PROBS / 2}, ValueError, "probs sums to 0.5 over its last axis"),
        ({"probs": np.where(PROBS > 0, np.nan, 0)}, ValueError, "probs has nan but"),
        ({"image": IMAGE + 255}, ValueError, "image holds values up to 255, far beyond the bandwidth 0.1 of rgb"),
        ({"image": IMAGE - 100}, ValueError, "image holds values up to 100"),
        ({"where": np.ones((2, 8, 10))}, TypeError, "where is float64 but must be bool; give fractions as `weights`"),
        ({"where": np.ones((2, 8, 9), bool)}, ValueError, r"where is \[2,8,9\], smaller"),
        ({"where": np.ones((2, 8, 10, 1), bool)}, ValueError, r"where is \[2,8,10,1\]"),
        ({"weights": np.ones((2, 8, 10), bool)}, TypeError, "weights is bool"),
        ({"weights": -np.ones((2, 8, 10))}, ValueError, "weights must be finite and not negative"),
        ({"weights": np.full((2, 8, 10), np.nan)}, ValueError, "weights must be finite and not negative"),
        ({"weights": np.ones((2, 4, 10))}, ValueError, r"weights is \[2,4,10\], smaller"),
        ({"reduction": "max"}, ValueError, "reduction is 'max' but must be one of mean, sum, none"),
        ({"normalize": True, "border": "reference"}, ValueError, "normalize is True, which needs border='exclude'"),
        ({"features": {"xy": np.zeros((2, 8, 10))}}, ValueError, "features may not be called xy"),
        ({"kernels": ({"weight": 1.0},)}, ValueError, "kernels has .* looks at nothing"),
        ({"border": "zero"}, ValueError, "border is 'zero'"),
    ],
)
def test_wrong_arguments_raise_an_error_that_names_the_argument(changes, error, message):
    arguments = {"probs": PROBS, "image": IMAGE} | changes
    with pytest.raises(error, match=f"gated_crf: {message}"):
        gated_crf(arguments.pop("probs"), arguments.pop("image"), **arguments)


@pytest.mark.parametrize("finer", [1, 4])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_channels_first_is_told_however_many_classes_and_whatever_the_image(classes, finer):
    probs = jax.ShapeDtypeStruct((2, classes, 8, 10), jnp.float32)
    image = jax.ShapeDtypeStruct((2, 3, 8 * finer, 10 * finer), jnp.float32)
    with pytest.raises(ValueError, match=r"gated_crf: image is \[2, 3, .*, channels first; it must be \[B,h,w,3\]"):
        jax.eval_shape(gated_crf, probs, image)


def test_an_image_of_a_few_rows_is_not_taken_for_channels_first():
    probs = jax.ShapeDtypeStruct((1, 3, 16, 2), jnp.float32)
    for channels in (1, 4, 16):
        image = jax.ShapeDtypeStruct((1, 3, 16, channels), jnp.float32)
        assert jax.eval_shape(gated_crf, probs, image).shape == ()


def told(image, **options):
    """The warnings of a call."""
    kernels._warned.clear()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(2):
            gated_crf(PROBS, image, radius=1, **options)
    return [str(warning.message) for warning in found]


UNIT = np.random.default_rng(0).uniform(0, 1, IMAGE.shape).astype(np.float32)


def test_colours_between_0_and_1_are_warned_of_once():
    (message,) = told(UNIT)
    assert re.match(r"gated_crf: image lies in \[0,1\], where the bandwidth 0.1 of rgb", message)


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (UNIT * 4 - 2, {}),  # standardised
        (IMAGE, {}),  # one colour
        (UNIT, {"kernels": ({"xy": 6.0, "rgb": 0.02},)}),  # a bandwidth that fits
        (UNIT * 255, {"kernels": ({"xy": 6.0, "rgb": 15.0},)}),
        (UNIT * 255, {"kernels": ({"xy": 6.0},)}),  # not looked at
        (np.where(np.arange(10)[:, None] < 5, UNIT * 4 - 2, 255.0), {"where": np.arange(10) < 5 + np.zeros((2, 8, 1))}),
    ],
)
def test_colours_on_the_scale_of_their_bandwidth_pass_without_a_word(image, options):
    assert told(image.astype(np.float32), **options) == []
