"""gated_crf against the published code, against its semantics restated in NumPy, and at values known by hand.

`gated_crf_parity.npz` holds numbers of the published Gated CRF code (`ModelLossSemsegGatedCRF`, MIT licence), run
unmodified on CPU with torch 2.13.0 in float32: three cases "0" (no mask), "2" (source mask with holes and fractional
values) and "3" (target mask; the second image entirely masked out), all with weight 1, xy 6 and rgb 0.1. Per case:
`probs`, `image` and the mask, its inputs bit for bit; `radius`; `loss`; and `grad`, d loss / d probs in units of 2^-24,
rounded. Transposed to NHWC. Arrays are stored as the four byte planes of their 32-bit numbers, which compress better.
"""

import functools
from pathlib import Path

import brute_force
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.losses import gated_crf

PARITY = np.load(Path(__file__).with_name("gated_crf_parity.npz"))
DEFAULT = ({"weight": 1.0, "xy": 6.0, "rgb": 0.1},)
TWO = ({"weight": 0.9, "xy": 4.0, "rgb": 0.1}, {"weight": 0.3, "xy": 2.0})
DEEP = ({"weight": 0.9, "xy": 4.0, "depth": 0.5}, {"xy": 6.0, "rgb": 0.2, "depth": 2.0})
COSTS = [[0.0, 1.0, 3.0], [0.5, 0.0, 0.5], [2.0, 0.1, 0.0]]
SHAPE = (2, 6, 7, 3)
# What differs from one [2,6,7,3] prediction with an image of its size, the default kernel and radius 1.
CASES = {
    "position alone": {"kernels": ({"weight": 0.5, "xy": 3.0},)},
    "colour alone, weight 1": {"kernels": ({"rgb": 0.2},)},
    "two kernels": {"kernels": TWO, "radius": 3},
    "image of twice the size": {"image": (12, 14)},
    "image at an odd ratio": {"image": (13, 9), "kernels": TWO},
    "target mask": {"target_mask": (6, 7)},
    "both masks": {"source_mask": (6, 7), "target_mask": (6, 7)},
    "masks of higher resolution": {"source_mask": (12, 14), "target_mask": (8, 9)},
    "depth of the same size": {"kernels": DEEP, "depth": (6, 7)},
    "depth with a channel axis": {"kernels": DEEP, "depth": (13, 15, 2)},
    "costs": {"compatibility": COSTS},
    "costs with a source mask": {"compatibility": COSTS, "source_mask": (6, 7)},
    "costs with a target mask": {"compatibility": COSTS, "target_mask": (6, 7), "kernels": TWO},
    "everything": {
        "radius": 2,
        "kernels": (*DEEP, {"weight": 0.2, "xy": 1.0}),
        "image": (13, 14),
        "depth": (9, 14),
        "source_mask": (12, 7),
        "target_mask": (7, 14),
        "compatibility": COSTS,
    },
}


def stored(name, dtype="<f4"):
    return np.moveaxis(PARITY[name], 0, -1).copy().view(dtype)[..., 0]


def make_inputs(size=(6, 7), shape=SHAPE, seed=0):
    """-> probs, and an image of `size` whose neighbouring colours differ by about the default bandwidth."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(shape[-1]), shape[:3]).astype(np.float32)
    return probs, rng.normal(0.05, 0.08, (shape[0], *size, 3)).astype(np.float32)


def make_mask(size, seed):
    """Mostly 1, with holes, NaN and fractions, all of which count as 0."""
    return np.random.default_rng(seed).choice([0, np.nan, 0.5, 0.999] + 20 * [1], (SHAPE[0], *size)).astype(np.float32)


def loss_and_grad(probs, image, **options):
    return jax.jit(jax.value_and_grad(lambda p: gated_crf(p, image, **options)))(jnp.asarray(probs))


crf = functools.partial(gated_crf, radius=1)
jit_crf = jax.jit(crf)


def make_case(name):
    """-> probs, image, the options of `gated_crf`"""
    changes = CASES[name]
    probs, image = make_inputs(changes.get("image", (6, 7)))
    options = {"kernels": changes.get("kernels", DEFAULT), "radius": changes.get("radius", 1)}
    options |= {
        key: make_mask(changes[key], seed)
        for seed, key in enumerate(["source_mask", "target_mask"], 1)
        if key in changes
    }
    if "depth" in changes:
        depth = np.random.default_rng(3).normal(0, 0.5, (SHAPE[0], *changes["depth"])).astype(np.float32)
        options["features"] = {"depth": depth}
    if "compatibility" in changes:
        options["compatibility"] = changes["compatibility"]
    return probs, image, options


def restated(probs, image, features=None, **options):
    return brute_force.gated_crf(probs, {"rgb": image, **(features or {})}, **options)


@pytest.mark.parametrize("case", ["0", "2", "3"])
def test_loss_and_gradient_are_those_of_the_published_code(case, fully_optimised):
    masks = {name: stored(f"{case}/{name}") for name in ("source_mask", "target_mask") if f"{case}/{name}" in PARITY}
    assert len(masks) == (case != "0")
    options = {"radius": int(PARITY[f"{case}/radius"]), "border": "reference", **masks}
    loss, grad = loss_and_grad(stored(f"{case}/probs"), stored(f"{case}/image"), **options)
    np.testing.assert_allclose(loss, PARITY[f"{case}/loss"], rtol=1e-5)
    np.testing.assert_allclose(grad, stored(f"{case}/grad", "<i4") / 2.0**24, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ["0", "2", "3"])
def test_the_restatement_itself_is_the_published_code(case):
    masks = {name: stored(f"{case}/{name}") for name in ("source_mask", "target_mask") if f"{case}/{name}" in PARITY}
    options = {"radius": int(PARITY[f"{case}/radius"]), "kernels": DEFAULT, **masks}
    loss, grad = restated(stored(f"{case}/probs"), stored(f"{case}/image"), **options)
    np.testing.assert_allclose(loss, PARITY[f"{case}/loss"], rtol=1e-6)
    np.testing.assert_allclose(grad, stored(f"{case}/grad", "<i4") / 2.0**24, rtol=0, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_those_of_the_restatement_with_either_border(case):
    probs, image, options = make_case(case)

    @jax.jit
    def both_borders(probs):
        return [
            jax.value_and_grad(lambda p, border=border: gated_crf(p, image, border=border, **options))(probs)
            for border in ("reference", "exclude")
        ]

    for border, (loss, grad) in zip(("reference", "exclude"), both_borders(jnp.asarray(probs)), strict=True):
        expected, expected_grad = restated(probs, image, border=border, **options)
        assert loss.shape == ()
        assert loss.dtype == grad.dtype == jnp.float32
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-7)


def test_a_source_mask_of_ones_removes_the_border_of_the_reference():
    probs, image = make_inputs()
    masked = loss_and_grad(probs, image, radius=1, border="reference", source_mask=np.ones(SHAPE[:3], bool))
    plain = loss_and_grad(probs, image, radius=1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), masked, plain)


@pytest.mark.parametrize(("dtype", "channel_axis"), [(np.int32, False), (np.uint8, True), (np.float16, False)])
def test_masks_of_any_dtype_with_or_without_a_channel_axis_are_the_same(dtype, channel_axis):
    probs, image = make_inputs()
    masks = [np.nan_to_num(make_mask((12, 7), seed)) == 1 for seed in (1, 2)]
    top = 255 if dtype == np.uint8 else 1
    given = [((mask[..., None] if channel_axis else mask) * top).astype(dtype) for mask in masks]
    losses = [jit_crf(probs, image, source_mask=source, target_mask=target) for source, target in (masks, given)]
    np.testing.assert_array_equal(*losses)


def test_scaling_a_row_of_the_costs_changes_nothing_and_equal_costs_are_the_potts_loss():
    probs, image = make_inputs()
    scaled = np.array(COSTS) * [[5.0], [0.1], [3.0]]
    losses = [jit_crf(probs, image, compatibility=matrix) for matrix in (np.array(COSTS), scaled)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    np.testing.assert_allclose(jit_crf(probs, image, compatibility=1 - np.eye(3)), jit_crf(probs, image), rtol=1e-5)


def test_a_class_without_any_cost_keeps_loss_and_gradient_finite():
    probs, image = make_inputs()
    free = [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    loss, grad = loss_and_grad(probs, image, radius=1, compatibility=free)
    assert np.isfinite(loss)
    assert np.isfinite(grad).all()


GREY = np.zeros((1, 16, 16, 3), np.float32)
INTERIOR = np.zeros((1, 16, 16), bool)
INTERIOR[:, 5:11, 5:11] = True


def one_class(classes=2):
    return np.broadcast_to(np.eye(classes, dtype=np.float32)[0], (1, 16, 16, classes))


@pytest.mark.parametrize(
    ("probs", "options", "expected", "tolerance"),
    [
        (np.full((1, 16, 16, 21), 1 / 21, np.float32), {"target_mask": INTERIOR}, 87.63, 0.005),
        (np.full((1, 16, 16, 2), 0.5, np.float32), {"target_mask": INTERIOR}, 92.009 / 2, 5e-4),
        (np.full((1, 16, 16, 2), 0.5, np.float32), {"border": "reference"}, 42.1, 0.05),
        (np.full((1, 16, 16, 2), 0.5, np.float32), {"border": "exclude"}, 32.4, 0.05),
        (one_class(), {"border": "reference"}, 9.69, 0.005),
        (one_class(), {"border": "exclude"}, 0.0, 0.0),
        (one_class(21), {"border": "exclude"}, 0.0, 0.0),
    ],
)
def test_constant_predictions_cost_what_the_paper_and_its_code_say(probs, options, expected, tolerance):
    loss = jax.jit(functools.partial(gated_crf, **options))(probs, GREY)
    assert float(loss) == pytest.approx(expected, abs=tolerance, rel=0)


def test_two_pixels_of_different_classes_cost_their_kernel_which_a_colour_difference_of_0_118_halves():
    probs = np.eye(2, dtype=np.float32)[None, None]
    left = [0.1, 0.2, 0.3]
    near, same, halved = (
        float(jit_crf(probs, np.array([[[left, right]]], np.float32)))
        for right in ([0.15, 0.2, 0.25], left, [0.218, 0.2, 0.3])
    )
    np.testing.assert_allclose(near, np.exp(-0.5 * (1 / 36 + 2 * 0.25)), rtol=1e-5)
    assert halved / same == pytest.approx(0.5, abs=2e-3)


def test_it_can_be_exported_for_cpu_and_gpu_at_once():
    loss = functools.partial(gated_crf, radius=2)
    shapes = [jax.ShapeDtypeStruct((2, 6, 6, channels), jnp.float32) for channels in (3, 3)]
    exported = jax.export.export(jax.jit(loss), platforms=("cpu", "cuda"))(*shapes)
    rng = np.random.default_rng(0)
    probs, image = rng.dirichlet(np.ones(3), (2, 6, 6)).astype(np.float32), rng.normal(size=(2, 6, 6, 3))
    image = image.astype(np.float32)
    np.testing.assert_allclose(exported.call(probs, image), jax.jit(loss)(probs, image), rtol=1e-5)


@pytest.mark.parametrize("finer", [1, 3])
def test_what_neither_mask_lets_through_may_hold_anything_at_any_resolution(finer):
    rng = np.random.default_rng(0)
    probs = jnp.asarray(rng.dirichlet(np.ones(3), (1, 6, 6)), jnp.float32)
    image = rng.normal(size=(1, 6 * finer, 6 * finer, 3)).astype(np.float32)
    depth = image[..., :1].copy()
    mask = np.ones(image.shape[:3], bool)
    mask[:, -finer:, -1] = False

    @jax.jit
    def losses(image, depth):
        options = {"kernels": ({"xy": 6.0, "rgb": 0.5, "depth": 0.5},), "features": {"depth": depth}, "radius": 1}
        return [
            gated_crf(probs, image, **options, **gates)
            for gates in ({"source_mask": mask, "target_mask": mask}, {"where": mask})
        ]

    expected = losses(image, depth)
    for value in (np.nan, np.inf):
        image[0, -1, -1], depth[0, -1, -1] = value, value
        np.testing.assert_array_equal(losses(image, depth), expected)
