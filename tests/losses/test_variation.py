"""total_variation against numpy, curvilinear_total_variation by its properties: lines are cheap, noise is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy import ndimage

from semiseg_jax.losses import curvilinear_total_variation, total_variation
from semiseg_jax.ops._checks import check_probs

SHAPES = [(1, 1, 1, 2), (1, 1, 7, 3), (2, 6, 1, 3), (2, 5, 7, 3)]
NORMS = ["l1", "l2"]
SIZE = 49


def isotropic(probs, **options):
    return total_variation(probs, norm="l2", **options)


VARIATIONS = {"l1": total_variation, "l2": isotropic, "curvilinear": curvilinear_total_variation}
JITTED = {name: jax.jit(function) for name, function in VARIATIONS.items()}
WITH_GRAD = {name: jax.jit(jax.value_and_grad(function)) for name, function in VARIATIONS.items()}
VALUES = {name: jax.jit(functools.partial(function, reduction="none")) for name, function in VARIATIONS.items()}
few_examples = settings(max_examples=12, deadline=None, derandomize=True, database=None)


def make_probs(shape=(2, 5, 7, 3), seed=0):
    exponentials = np.exp(np.random.default_rng(seed).normal(0, 2, shape))
    return (exponentials / exponentials.sum(-1, keepdims=True)).astype(np.float32)


def make_mask(shape, seed=0, share=0.7):
    return np.random.default_rng(100 + seed).uniform(size=shape[:3]) < share


def two_classes(foreground):
    """[H,W] -> [1,H,W,2]"""
    return np.stack([1 - foreground, foreground], axis=-1)[None].astype(np.float32)


def make_weights(shape, seed=0):
    return np.random.default_rng(300 + seed).uniform(0.001, 0.01, shape[:3]).astype(np.float32)


def make_image(shape, seed=0):
    return np.random.default_rng(200 + seed).normal(size=(*shape[:3], 3)).astype(np.float32)


def numpy_variation(probs, norm="l1", where=None, weights=None, image=None, contrast=None):
    """Pixel by pixel, in float64: the mean, and the map of what each pixel pays."""
    batch, height, width, _ = probs.shape
    weights = np.ones(probs.shape[:3]) if weights is None else weights.astype(np.float64)
    weights = weights if where is None else weights * where
    values, pairs = np.zeros(probs.shape[:3]), 0.0
    for n, i, j in np.ndindex(batch, height, width):
        squared = 0.0
        for y, x in ((i + 1, j), (i, j + 1)):
            if y < height and x < width:
                weight = min(weights[n, i, j], weights[n, y, x])
                step = weight * (probs[n, y, x].astype(np.float64) - probs[n, i, j].astype(np.float64))
                if image is not None:
                    change = np.square(image[n, y, x].astype(np.float64) - image[n, i, j]).sum()
                    step = step * np.exp(-change / (2 * contrast**2))
                pairs += weight
                squared += (step**2).sum()
                if norm == "l1":
                    values[n, i, j] += np.abs(step).sum() / 2
                    values[n, y, x] += np.abs(step).sum() / 2
        values[n, i, j] += np.sqrt(squared) if norm == "l2" else 0.0
    return values.sum() / pairs if pairs else 0.0, values


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_a_pixelwise_numpy_computation(norm, shape):
    probs = make_probs(shape)
    np.testing.assert_allclose(JITTED[norm](probs), numpy_variation(probs, norm)[0], rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_weights_masks_and_the_image_together_equal_a_pixelwise_numpy_computation(norm):
    probs, shape = make_probs(), (2, 5, 7)
    options = {"where": make_mask(shape), "weights": make_weights(shape), "image": make_image(shape), "contrast": 1.5}
    loss, values = numpy_variation(probs, norm, **options)
    np.testing.assert_allclose(JITTED[norm](probs, **options), loss, rtol=1e-5)
    np.testing.assert_allclose(VALUES[norm](probs, **options), values, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_boundaries_are_cheap_where_the_image_changes(norm):
    probs, image = make_probs(), make_image((2, 5, 7))
    where = make_mask((2, 5, 7))
    edges = {"image": image, "contrast": 1.5}
    loss, grad = WITH_GRAD[norm](probs, where=where, **edges)
    np.testing.assert_allclose(loss, numpy_variation(probs, norm, where, **edges)[0], rtol=1e-5)
    np.testing.assert_allclose(jnp.vdot(grad, probs), loss, rtol=1e-5)
    assert 0 < loss < JITTED[norm](probs, where=where)
    image[~where] = np.nan
    np.testing.assert_array_equal(WITH_GRAD[norm](probs, where=where, **edges)[1], grad)


def test_an_image_of_one_colour_changes_nothing():
    probs, grey = make_probs(), np.full((2, 5, 7, 1), 128, np.uint8)
    loss, grad = WITH_GRAD["l2"](probs, image=grey, contrast=0.2)
    expected, expected_grad = WITH_GRAD["l2"](probs)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-6)


def test_no_gradient_reaches_the_image():
    loss = jax.jit(jax.grad(lambda image: total_variation(make_probs(), image=image, contrast=1.0)))
    grad = loss(make_image((2, 5, 7)))
    np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize("name", VARIATIONS)
@pytest.mark.parametrize("shape", [(2, 5, 7, 3)])
def test_a_constant_map_gives_exactly_zero_loss_and_gradient(name, shape):
    loss, grad = WITH_GRAD[name](np.broadcast_to(make_probs((shape[-1],)), shape))
    assert float(loss) == 0.0
    np.testing.assert_array_equal(grad, np.zeros(shape))


@pytest.mark.parametrize(("norm", "per_pair"), [("l1", 2.0), ("l2", np.sqrt(2.0))])
@pytest.mark.parametrize(("height", "width"), [(3, 10), (1, 2)])
def test_a_half_and_half_map_costs_one_column_of_boundary_pairs(norm, per_pair, height, width):
    halves = two_classes(np.tile(np.arange(width) >= width // 2, (height, 1)).astype(float))
    pairs = (height - 1) * width + height * (width - 1)
    np.testing.assert_allclose(JITTED[norm](halves), per_pair * height / pairs, rtol=1e-6)


@few_examples
@given(seed=st.integers(0, 2**31), classes=st.integers(2, 4), share=st.floats(0, 1))
def test_a_one_hot_map_costs_two_for_each_boundary_pair(seed, classes, share):
    labels = np.random.default_rng(seed).integers(0, classes, (2, 5, 6))
    where = make_mask(labels.shape, seed, share)
    boundary = pairs = 0
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:, :, :-1], np.s_[:, :, 1:])):
        both = where[here] & where[there]
        pairs += both.sum()
        boundary += (both & (labels[here] != labels[there])).sum()
    loss = JITTED["l1"](np.eye(4, dtype=np.float32)[labels], where=where)
    np.testing.assert_allclose(loss, 2 * boundary / max(pairs, 1), rtol=1e-6)


@pytest.mark.parametrize("name", VARIATIONS)
def test_the_gradient_is_zero_inside_constant_regions_and_not_at_their_boundaries(name):
    probs = np.tile(np.float32([0.7, 0.2, 0.1]), (2, 5, 7, 1))
    probs[:, 3:, 4:] = [0.1, 0.1, 0.8]
    inside = np.ones((5, 7), bool)
    inside[2:4, 3:] = inside[2:, 3:5] = False
    grad = np.asarray(WITH_GRAD[name](probs)[1])[0]
    np.testing.assert_array_equal(grad[inside], 0.0)
    assert np.abs(grad[2, 6, [0, 2]]).min() > 0
    assert np.abs(grad[4, 4, [0, 2]]).min() > 0


@pytest.mark.parametrize("norm", NORMS)
def test_equal_neighbours_do_not_pull_on_each_other(norm):
    row = np.float32([0.2, 0.5, 0.5, 0.9]).reshape(1, 1, 4, 1)
    grad = WITH_GRAD[norm](row)[1]
    np.testing.assert_allclose(grad[0, 0, :, 0], np.array([-1, 1, -1, 1]) / 3, rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_gradient_equals_finite_differences_in_both_modes(norm):
    shape = (2, 3, 4, 3)
    where = make_mask(shape)
    with jax.enable_x64(True):
        probs = jnp.asarray(make_probs(shape), jnp.float64)
        function = jax.jit(lambda x: total_variation(x, norm=norm, where=where))
        check_grads(function, (probs,), order=1, modes=("fwd", "rev"), atol=1e-7, rtol=1e-6, eps=1e-7)


@pytest.mark.parametrize("name", VARIATIONS)
def test_forward_mode_equals_the_gradient_times_the_tangent(name):
    probs, tangent, where = make_probs(), make_probs(seed=1), make_mask((2, 5, 7))
    loss, derivative = jax.jit(lambda x, along: jax.jvp(lambda x: VARIATIONS[name](x, where=where), (x,), (along,)))(
        probs, tangent
    )
    expected_loss, grad = WITH_GRAD[name](probs, where=where)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    np.testing.assert_allclose(derivative, jnp.vdot(grad, tangent), rtol=1e-5)


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_padded_and_masked_image_costs_what_the_image_alone_costs(name):
    probs = make_probs((2, 5, 7, 3))
    padding = ((0, 0), (2, 3), (4, 1))
    padded = np.pad(probs, (*padding, (0, 0)), constant_values=0.5)
    where = np.pad(np.ones((2, 5, 7), bool), padding)
    expected, expected_grad = WITH_GRAD[name](probs)
    loss, grad = WITH_GRAD[name](padded, where=where)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(grad[:, 2:7, 4:11], expected_grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", VARIATIONS)
@few_examples
@given(seed=st.integers(0, 2**31), order=st.permutations(range(4)), one_hot=st.booleans())
def test_renaming_the_classes_does_not_change_the_loss(name, seed, order, one_hot):
    probs, where = make_probs((1, 6, 6, 4), seed), make_mask((1, 6, 6), seed, 0.9)
    probs = np.eye(4, dtype=np.float32)[probs.argmax(-1)] if one_hot else probs
    renamed = JITTED[name](probs[..., order], where=where)
    np.testing.assert_allclose(renamed, JITTED[name](probs, where=where), rtol=1e-5)


@pytest.mark.parametrize("name", ["l1", "curvilinear"])
@few_examples
@given(seed=st.integers(0, 2**31), axis=st.sampled_from([1, 2]), one_hot=st.booleans())
def test_mirroring_does_not_change_the_loss(name, seed, axis, one_hot):
    probs, where = make_probs((1, 6, 6, 4), seed), make_mask((1, 6, 6), seed, 0.9)
    probs = np.eye(4, dtype=np.float32)[probs.argmax(-1)] if one_hot else probs
    mirrored = JITTED[name](np.flip(probs, axis), where=np.flip(where, axis))
    np.testing.assert_allclose(mirrored, JITTED[name](probs, where=where), rtol=1e-5)


@pytest.mark.parametrize("name", VARIATIONS)
@few_examples
@given(seed=st.integers(0, 2**31), one_hot=st.booleans())
def test_transposing_does_not_change_the_loss(name, seed, one_hot):
    probs, where = make_probs((1, 6, 6, 4), seed), make_mask((1, 6, 6), seed, 0.9)
    probs = np.eye(4, dtype=np.float32)[probs.argmax(-1)] if one_hot else probs
    transposed = JITTED[name](probs.swapaxes(1, 2), where=where.swapaxes(1, 2))
    np.testing.assert_allclose(transposed, JITTED[name](probs, where=where), rtol=1e-5)


def line(angle, width, soft=False):
    """[SIZE,SIZE]: a line through the centre, with a hard or a one pixel wide edge."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    shift = 0.5 * (width % 2 == 0)
    distance = np.abs(y * np.cos(np.radians(angle)) - x * np.sin(np.radians(angle)) - shift)
    return np.clip(width / 2 + 0.5 - distance, 0, 1) if soft else (distance <= width / 2).astype(float)


def relative_cost(foreground):
    """What a map costs in relation to plain total variation."""
    probs = two_classes(foreground)
    return float(JITTED["curvilinear"](probs) / JITTED["l1"](probs))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("angle", [0, 45, 90, 135])
def test_lines_along_axes_and_diagonals_are_nearly_free(angle, width, soft):
    assert relative_cost(line(angle, width, soft)) < 0.15


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("angle", [15, 22.5, 26.565, 30, 60, 67.5, 112.5, 150])
def test_lines_at_other_angles_cost_less_than_half(angle, width, soft):
    assert relative_cost(line(angle, width, soft)) < 0.5


@pytest.mark.parametrize("density", [0.01, 0.05, 0.2, 0.5])
def test_salt_and_pepper_noise_costs_about_as_much_as_in_total_variation(density):
    noise = np.random.default_rng(0).uniform(size=(SIZE, SIZE)) < density
    assert 0.8 < relative_cost(noise.astype(float)) < 1.05


def test_isolated_dots_cost_what_they_cost_in_total_variation():
    dots = np.zeros((SIZE, SIZE))
    dots[4::8, 4::8] = 1
    assert 0.97 < relative_cost(dots) < 1.03


def test_a_soft_noisy_map_costs_about_as_much_as_in_total_variation():
    probs = make_probs((1, SIZE, SIZE, 2))
    assert 0.85 < float(JITTED["curvilinear"](probs) / JITTED["l1"](probs)) < 1.05


@pytest.mark.parametrize("angle", [0, 45, 90])
def test_a_gap_in_a_line_costs_the_more_the_deeper_it_is(angle):
    whole = line(angle, 1)
    along = np.arange(SIZE)[:, None] if angle == 90 else np.arange(SIZE)
    gap = (along >= 20) & (along < 28)
    losses = [float(JITTED["curvilinear"](two_classes(np.where(gap, left, 1) * whole))) for left in (1, 0.9, 0.5, 0)]
    assert losses == sorted(losses)
    assert losses[1] > losses[0]
    assert losses[3] > losses[2]


def stripes(angle, ripple):
    """Stripes across the angle, with ripples along it."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return 0.5 + 0.3 * np.sin(np.pi / 4 * (y * cos - x * sin)) + ripple * np.sin(np.pi / 4 * (x * cos + y * sin))


@pytest.mark.parametrize("angle", [45, 90, 135])
def test_ripples_along_stripes_cost_the_same_at_any_angle_and_no_more_on_diagonals(angle):
    turned, level = (
        np.subtract(*(float(JITTED["curvilinear"](two_classes(stripes(turn, ripple)))) for ripple in (0.05, 0)))
        for turn in (angle, 0)
    )
    assert 0.8 * level < turned < 1.05 * level


def test_lines_are_as_free_in_a_strip_where_the_border_is_always_near():
    assert relative_cost(line(90, 2)[20:29]) < 0.15


@pytest.mark.parametrize("name", VARIATIONS)
def test_the_gradient_times_the_map_is_the_loss(name):
    probs, where = make_probs(), make_mask((2, 5, 7))
    loss, grad = WITH_GRAD[name](probs, where=where)
    np.testing.assert_allclose(jnp.vdot(grad, probs), loss, rtol=1e-5)


def test_no_gradient_flows_through_the_direction_of_lines():
    foreground = line(30, 2)
    neighbours = np.lib.stride_tricks.sliding_window_view(np.pad(foreground, 1, mode="edge"), (3, 3))
    equal = neighbours.min((2, 3)) == neighbours.max((2, 3))
    _, grad = WITH_GRAD["curvilinear"](two_classes(foreground))
    np.testing.assert_array_equal(np.asarray(grad)[0, equal], 0.0)


@pytest.mark.parametrize("sigma", [0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_raises(sigma):
    with pytest.raises(ValueError, match="curvilinear_total_variation: sigma is"):
        curvilinear_total_variation(make_probs(), sigma=sigma)


def test_a_traced_scale_needs_a_bound_and_a_known_one_keeps_to_it():
    with pytest.raises(ValueError, match="curvilinear_total_variation: sigma is traced, so that max_sigma must be"):
        jax.jit(lambda sigma: curvilinear_total_variation(make_probs(), sigma=sigma))(1.0)
    for bound, message in ((0.5, "sigma is 1.0 but must be positive and at most"), (-1.0, "max_sigma is -1.0")):
        with pytest.raises(ValueError, match=f"curvilinear_total_variation: {message}"):
            curvilinear_total_variation(make_probs(), max_sigma=bound)


def blurred(values, counts, sigma):
    """Mean over the pixels that count, by a Gaussian over the window of 2.5 sigma. values [H,W]"""
    options = {"sigma": sigma, "radius": int(np.ceil(2.5 * sigma)), "mode": "constant"}
    mass = ndimage.gaussian_filter(counts, **options)
    return ndimage.gaussian_filter(values * counts, **options) / np.maximum(mass, 1e-9)


def numpy_curvilinear(probs, counts, sigma):
    """The map of what each pixel pays, in float64. probs [H,W,K], counts [H,W]"""
    probs, counts = probs.astype(np.float64), counts.astype(np.float64)
    smooth = np.stack([blurred(plane, counts, sigma) for plane in np.moveaxis(probs, -1, 0)])
    padded, there = np.pad(smooth, ((0, 0), (1, 1), (1, 1))), np.pad(counts, 1)
    dy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2 * there[2:, 1:-1] * there[:-2, 1:-1]
    dx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2 * there[1:-1, 2:] * there[1:-1, :-2]
    yy, xx, yx = (blurred(part.sum(0), counts, 2 * sigma) for part in (dy * dy, dx * dx, dy * dx))
    coherence = ((xx - yy) ** 2 + 4 * yx**2) / (xx + yy + 1e-6) ** 2
    tangent = 0.5 * np.arctan2(2 * yx, xx - yy) + np.pi / 2
    values, (height, width) = np.zeros(counts.shape), counts.shape
    for direction, (dy, dx) in enumerate([(0, 1), (1, 1), (1, 0), (1, -1)]):
        angle = np.mod(tangent - direction * np.pi / 4 + np.pi / 2, np.pi) - np.pi / 2
        weight = coherence * np.maximum(0, 1 - np.abs(angle) / (np.pi / 4)) + (1 - coherence) * (direction % 2 == 0)
        here = np.s_[: height - dy, max(0, -dx) : width - max(0, dx)]
        there = np.s_[dy:, max(0, dx) : width - max(0, -dx)]
        cost = np.abs(probs[there] - probs[here]).sum(-1) / np.hypot(dy, dx) * counts[here] * counts[there]
        for pixels in (here, there):
            values[pixels] += cost * (weight[here] + weight[there]) / 4
    return values


@pytest.mark.parametrize("sigma", [1.0, 1.7])
def test_curvilinear_total_variation_equals_a_numpy_computation(sigma):
    probs, where = make_probs((1, 12, 15, 3)), make_mask((1, 12, 15), share=0.9)
    found = jax.jit(functools.partial(curvilinear_total_variation, sigma=sigma, reduction="none"))(probs, where=where)
    np.testing.assert_allclose(found[0], numpy_curvilinear(probs[0], where[0], sigma), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [total_variation, curvilinear_total_variation])
@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (np.log(make_probs()), r"probs has -[\d.]+ but must be probabilities; apply jax.nn.softmax"),
        (np.full((2, 5, 7, 3), 0.5, np.float32), "probs sums to 1.5 over its last axis"),
        (np.moveaxis(make_probs(), -1, 1), r"probs sums to [\d.]+ over its last axis"),
    ],
)
def test_logits_scores_of_classes_apart_and_channels_first_are_told(loss, probs, message):
    with pytest.raises(ValueError, match=f"{loss.__name__}: {message}"):
        loss(probs)


@pytest.mark.parametrize("loss", [total_variation, curvilinear_total_variation])
@pytest.mark.parametrize("argument", ["where", "weights"])
def test_channels_first_are_told_by_masks_and_weights_where_values_cannot_be_seen(loss, argument):
    probs = np.moveaxis(make_probs(), -1, 1)
    plane = make_mask((2, 5, 7)) if argument == "where" else make_weights((2, 5, 7))
    with pytest.raises(ValueError, match=rf"{loss.__name__}: probs is \[2,3,5,7\], channels first"):
        jax.jit(loss)(probs, **{argument: plane})


def test_probabilities_may_be_rounded_or_of_one_class_and_masked_ones_anything():
    where = make_mask((1, 3, 3))
    probs = np.where(where[..., None], make_probs((1, 3, 3, 21)), 7.0)
    check_probs("name", "probs", jnp.asarray(probs, jnp.bfloat16), jnp.asarray(where))
    check_probs("name", "probs", jnp.array([[[[0.2], [0.9]]]]), jnp.ones((1, 1, 2)))
    with pytest.raises(ValueError, match="name: probs has 7 but must be probabilities"):
        check_probs("name", "probs", jnp.asarray(probs), jnp.ones((1, 3, 3)))


def test_an_unknown_norm_raises():
    with pytest.raises(ValueError, match="total_variation: norm is 'l3' but must be 'l1' or 'l2'"):
        total_variation(make_probs(), norm="l3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrast": 0.2}, "image and contrast go together"),
        ({"image": make_image((2, 5, 7))}, "image and contrast go together"),
        ({"image": make_image((2, 5, 7)), "contrast": 0.0}, "contrast is 0.0 but must be positive"),
        ({"image": make_image((2, 5, 6)), "contrast": 0.2}, "image"),
    ],
)
def test_an_image_that_does_not_fit_raises(options, message):
    with pytest.raises(ValueError, match=f"total_variation: {message}"):
        total_variation(make_probs(), **options)
