"""total_variation against numpy, curvilinear_total_variation by its properties: lines are cheap, noise is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from semiseg_jax.losses import curvilinear_total_variation, total_variation

SHAPES = [(1, 1, 1, 2), (1, 1, 7, 3), (2, 6, 1, 3), (1, 3, 3, 1), (2, 5, 7, 3)]
NORMS = ["l1", "l2"]
SIZE = 49


def isotropic(probs, **options):
    return total_variation(probs, norm="l2", **options)


VARIATIONS = {"l1": total_variation, "l2": isotropic, "curvilinear": curvilinear_total_variation}
JITTED = {name: jax.jit(function) for name, function in VARIATIONS.items()}
WITH_GRAD = {name: jax.jit(jax.value_and_grad(function)) for name, function in VARIATIONS.items()}
WITH_EDGES = {name: jax.jit(jax.value_and_grad(VARIATIONS[name]), static_argnames="contrast") for name in NORMS}
few_examples = settings(max_examples=12, deadline=None, derandomize=True, database=None)


def make_probs(shape=(2, 5, 7, 3), seed=0):
    exponentials = np.exp(np.random.default_rng(seed).normal(0, 2, shape))
    return (exponentials / exponentials.sum(-1, keepdims=True)).astype(np.float32)


def make_mask(shape, seed=0, share=0.7):
    return np.random.default_rng(100 + seed).uniform(size=shape[:3]) < share


def two_classes(foreground):
    """[H,W] -> [1,H,W,2]"""
    return np.stack([1 - foreground, foreground], axis=-1)[None].astype(np.float32)


def make_image(shape, seed=0):
    return np.random.default_rng(200 + seed).normal(size=(*shape[:3], 3)).astype(np.float32)


def numpy_variation(probs, norm="l1", where=None, image=None, contrast=None):
    """Pixel by pixel, in float64."""
    batch, height, width, _ = probs.shape
    counts = np.ones(probs.shape[:3], bool) if where is None else where
    total, pairs = 0.0, 0
    for n, i, j in np.ndindex(batch, height, width):
        squared = 0.0
        for y, x in ((i + 1, j), (i, j + 1)):
            if y < height and x < width and counts[n, i, j] and counts[n, y, x]:
                step = probs[n, y, x].astype(np.float64) - probs[n, i, j].astype(np.float64)
                if image is not None:
                    change = np.square(image[n, y, x].astype(np.float64) - image[n, i, j]).sum()
                    step = step * np.exp(-change / (2 * contrast**2))
                pairs += 1
                squared += (step**2).sum()
                total += np.abs(step).sum() if norm == "l1" else 0.0
        total += np.sqrt(squared) if norm == "l2" else 0.0
    return total / max(pairs, 1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_equals_a_pixelwise_numpy_computation(norm, shape, masked):
    probs = make_probs(shape)
    where = make_mask(shape) if masked else None
    loss = JITTED[norm](probs, where=where)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, numpy_variation(probs, norm, where), rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("masked", [False, True])
def test_boundaries_are_cheap_where_the_image_changes(norm, masked):
    probs, image = make_probs(), make_image((2, 5, 7))
    where = make_mask((2, 5, 7)) if masked else None
    edges = {"image": image, "contrast": 1.5}
    loss, grad = WITH_EDGES[norm](probs, where=where, **edges)
    np.testing.assert_allclose(loss, numpy_variation(probs, norm, where, **edges), rtol=1e-5)
    np.testing.assert_allclose(jnp.vdot(grad, probs), loss, rtol=1e-5)
    assert 0 < loss < JITTED[norm](probs, where=where)
    if masked:
        image[~where] = np.nan
        np.testing.assert_array_equal(WITH_EDGES[norm](probs, where=where, **edges)[1], grad)


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_of_one_colour_changes_nothing(norm):
    probs, grey = make_probs(), np.full((2, 5, 7, 1), 128, np.uint8)
    loss, grad = WITH_EDGES[norm](probs, image=grey, contrast=0.2)
    expected, expected_grad = WITH_GRAD[norm](probs)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_reaches_the_image(norm):
    grad = jax.grad(lambda image: VARIATIONS[norm](make_probs(), image=image, contrast=1.0))(make_image((2, 5, 7)))
    np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize("name", VARIATIONS)
@pytest.mark.parametrize("shape", SHAPES[::2])
def test_a_constant_map_gives_exactly_zero_loss_and_gradient(name, shape):
    loss, grad = WITH_GRAD[name](np.broadcast_to(make_probs((shape[-1],)), shape))
    assert float(loss) == 0.0
    np.testing.assert_array_equal(grad, np.zeros(shape))


@pytest.mark.parametrize(("norm", "per_pair"), [("l1", 2.0), ("l2", np.sqrt(2.0))])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 10), (1, 2)])
def test_a_half_and_half_map_costs_one_column_of_boundary_pairs(norm, per_pair, height, width):
    halves = two_classes(np.tile(np.arange(width) >= width // 2, (height, 1)).astype(float))
    pairs = (height - 1) * width + height * (width - 1)
    np.testing.assert_allclose(total_variation(halves, norm=norm), per_pair * height / pairs, rtol=1e-6)


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
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_masked_out_pixels_do_not_matter_whatever_they_hold(name, value):
    probs, where = make_probs(), make_mask((2, 5, 7))
    expected, expected_grad = WITH_GRAD[name](probs, where=where)
    loss, grad = WITH_GRAD[name](np.where(where[..., None], probs, np.float32(value)), where=where)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(grad, expected_grad)
    assert np.isfinite(loss)
    assert not np.asarray(grad)[~where].any()


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_map_that_is_all_masked_gives_exactly_zero_loss_and_gradient(name):
    loss, grad = WITH_GRAD[name](make_probs(), where=np.zeros((2, 5, 7), bool))
    assert float(loss) == 0.0
    np.testing.assert_array_equal(grad, np.zeros(grad.shape))


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


@pytest.mark.parametrize("angle", [0, 90])
def test_lines_are_as_free_in_a_strip_where_the_border_is_always_near(angle):
    strip = line(angle, 2)[20:29] if angle == 90 else line(angle, 2)[:, 20:29]
    assert relative_cost(strip) < 0.15


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


@pytest.mark.parametrize("sigma", [0, 0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_raises(sigma):
    with pytest.raises(ValueError, match="curvilinear_total_variation: sigma is"):
        curvilinear_total_variation(make_probs(), sigma=sigma)


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
