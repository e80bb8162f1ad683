"""uncertainty_cross_entropy against numpy, its gradient formulas, and the integral that it approximates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from semiseg_jax.losses import partial_cross_entropy, uncertainty_cross_entropy

IGNORE = 255
SHAPES = [(2, 5, 7), (2, 5, 7, 4), (1, 1, 1, 3)]
LOSS = jax.jit(uncertainty_cross_entropy)
WITH_GRADS = jax.jit(jax.value_and_grad(uncertainty_cross_entropy, argnums=(0, 1)))
few_examples = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def make_batch(shape=(2, 5, 7, 4), seed=0, ignored=0.3):
    """Means, variances, labels and candidates; some pixels have a label, some candidates, some both, some neither."""
    rng = np.random.default_rng(seed)
    classes = 2 if len(shape) == 3 else shape[-1]
    mean = rng.normal(0, 3, shape).astype(np.float32)
    variance = rng.gamma(0.5, 8.0, shape[:3]).astype(np.float32)
    labels = rng.integers(0, classes, shape[:3]).astype(np.int32)
    labels[rng.uniform(size=labels.shape) < ignored] = IGNORE
    candidates = rng.uniform(size=(*shape[:3], classes)) < 0.5
    candidates[rng.uniform(size=labels.shape) < 0.4] = False
    labels.flat[0] = 0
    return mean, variance, labels, candidates


def numpy_loss(mean, variance, labels, candidates=None, where=None, weights=None, ignore_label=IGNORE):
    """Pixel by pixel, in float64."""
    total = count = 0.0
    for index in np.ndindex(labels.shape):
        row = np.atleast_1d(mean[index]).astype(np.float64)
        row = np.array([0.0, row[0]]) if mean.ndim == 3 else row
        allowed = [] if candidates is None else list(np.flatnonzero(candidates[index]))
        if not allowed and labels[index] != ignore_label and 0 <= labels[index] < len(row):
            allowed = [labels[index]]
        if not allowed or (where is not None and not where[index]):
            continue
        scaled = row / np.sqrt(1 + np.pi * float(variance[index]) / 8)
        exponentials = np.exp(scaled - scaled.max())
        weight = 1.0 if weights is None else float(weights[index])
        total -= weight * np.log(exponentials[allowed].sum() / exponentials.sum())
        count += weight
    return total / count


def one_pixel(mean, variance, label):
    """Loss, gradient of the mean and gradient of the variance of a single binary pixel."""
    arrays = np.full((1, 1, 1), mean, np.float32), np.full((1, 1, 1), variance, np.float32)
    loss, grads = WITH_GRADS(*arrays, np.full((1, 1, 1), label, np.int32))
    return float(loss), *(float(grad[0, 0, 0]) for grad in grads)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("with_candidates", "masked"), [(False, False), (True, True)])
def test_equals_a_pixelwise_numpy_computation(shape, with_candidates, masked):
    mean, variance, labels, candidates = make_batch(shape)
    options = {"candidates": candidates} if with_candidates else {}
    if masked:
        options["where"] = np.random.default_rng(1).uniform(size=labels.shape) < 0.6
        options["where"].flat[0] = True
        options["weights"] = np.random.default_rng(2).uniform(0.001, 0.01, labels.shape).astype(np.float32)
    loss = LOSS(mean, variance, labels, **options)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, numpy_loss(mean, variance, labels, **options), rtol=1e-5, atol=1e-7)


def test_variance_zero_is_binary_cross_entropy():
    mean, variance, labels, _ = make_batch((2, 5, 7), ignored=0)
    expected = np.where(labels == 1, np.logaddexp(0, -mean), np.logaddexp(0, mean)).mean()
    np.testing.assert_allclose(LOSS(mean, 0 * variance, labels), expected, rtol=1e-5)


def test_variance_zero_is_partial_cross_entropy():
    mean, variance, labels, _ = make_batch()
    loss, (grad, _) = WITH_GRADS(mean, 0 * variance, labels)
    expected, expected_grad = jax.jit(jax.value_and_grad(partial_cross_entropy))(mean, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mu", [-5.0, -1.0, 0.0, 0.3, 4.0])
@pytest.mark.parametrize("variance", [0.0, 0.5, 7.0, 1e3])
@pytest.mark.parametrize("label", [0, 1])
def test_binary_gradients_are_the_closed_formulas(mu, variance, label):
    k = (1 + np.pi * variance / 8) ** -0.5
    surprise = 1 / (1 + np.exp(-k * mu)) - label
    _, mean_grad, variance_grad = one_pixel(mu, variance, label)
    np.testing.assert_allclose(mean_grad, k * surprise, rtol=1e-4)
    np.testing.assert_allclose(variance_grad, -surprise * mu * np.pi / 16 * k**3, rtol=1e-4)


@pytest.mark.parametrize("variance", [0.0, 1.0, 100.0])
@pytest.mark.parametrize(("mu", "label"), [(-2.0, 1), (2.0, 0)])
def test_descent_raises_the_variance_where_the_mean_contradicts_the_label(variance, mu, label):
    assert one_pixel(mu, variance, label)[2] < 0


@pytest.mark.parametrize("variance", [0.0, 1.0, 100.0])
@pytest.mark.parametrize(("mu", "label"), [(2.0, 1), (-2.0, 0)])
def test_descent_lowers_the_variance_where_the_mean_agrees_with_the_label(variance, mu, label):
    assert one_pixel(mu, variance, label)[2] > 0


def test_a_large_variance_caps_the_loss_at_log_2_and_frees_the_mean():
    loss, mean_grad, _ = one_pixel(-5.0, 1e4, 1)
    np.testing.assert_allclose(loss, np.log(2), atol=0.06)
    assert abs(mean_grad) < 0.01 < 0.9 < abs(one_pixel(-5.0, 0.0, 1)[1])


def test_the_probability_approximates_the_expected_sigmoid():
    grid = np.linspace(-12, 12, 4801)
    density = np.exp(-(grid**2) / 2)
    density /= density.sum()
    means, sigmas = (axis.ravel() for axis in np.meshgrid(np.linspace(-3, 2, 11), np.linspace(0, 10, 21)))
    expected = (density / (1 + np.exp(-(means[:, None] + sigmas[:, None] * grid)))).sum(-1)
    column = (len(means), 1, 1, 1)
    mean, variance = (array.reshape(column).astype(np.float32) for array in (means, sigmas**2))
    losses = jax.jit(jax.vmap(uncertainty_cross_entropy))(mean, variance, np.ones(column, np.int32))
    np.testing.assert_allclose(np.exp(-losses), expected, atol=0.005)


def test_two_classes_are_the_binary_form_of_their_difference():
    mean, variance, labels, candidates = make_batch((2, 5, 7, 2))
    binary = mean[..., 1] - mean[..., 0]
    loss, (grad, variance_grad) = WITH_GRADS(mean, variance, labels, candidates=candidates)
    expected, (expected_grad, expected_variance_grad) = WITH_GRADS(binary, variance, labels, candidates=candidates)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(grad[..., 1], expected_grad, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(variance_grad, expected_variance_grad, rtol=1e-4, atol=1e-7)


def test_labels_may_be_bytes():
    mean, variance, labels, _ = make_batch()
    np.testing.assert_array_equal(LOSS(mean, variance, labels.astype(np.uint8)), LOSS(mean, variance, labels))


def test_a_label_beside_candidates_may_be_anything():
    mean, variance, labels, candidates = make_batch()
    strange = np.where(candidates.any(-1), 77, labels)
    expected = LOSS(mean, variance, labels, candidates=candidates)
    found = uncertainty_cross_entropy(mean, variance, strange, candidates=candidates)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("value", [-3.0, np.nan])
def test_a_variance_below_0_is_told_where_it_counts(value):
    mean, variance, labels, _ = make_batch(ignored=0)
    variance[1, 2, 3] = value
    with pytest.raises(ValueError, match=f"uncertainty_cross_entropy: variance has {value:.3g} but must be at least 0"):
        uncertainty_cross_entropy(mean, variance, labels)
    labels[1, 2, 3] = IGNORE
    assert np.isfinite(uncertainty_cross_entropy(mean, variance, labels))


def test_a_traced_variance_below_0_counts_as_0():
    mean, variance, labels, _ = make_batch()
    loss, grads = WITH_GRADS(mean, np.full_like(variance, -2.0), labels)
    expected, expected_grads = WITH_GRADS(mean, 0 * variance, labels)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(grads[0], expected_grads[0])
    assert not np.asarray(grads[1]).any()
    assert np.asarray(expected_grads[1]).any()


@pytest.mark.parametrize("ignore_label", [0, 2, -1])
def test_the_ignore_label_can_be_chosen(ignore_label):
    mean, variance, labels, _ = make_batch()
    labels = np.where(labels == IGNORE, ignore_label, labels)
    loss = LOSS(mean, variance, labels, ignore_label=ignore_label)
    np.testing.assert_allclose(loss, numpy_loss(mean, variance, labels, ignore_label=ignore_label), rtol=1e-5)


def test_one_hot_candidates_are_labels():
    mean, variance, labels, _ = make_batch()
    loss, grads = WITH_GRADS(mean, variance, np.full_like(labels, IGNORE), candidates=labels[..., None] == np.arange(4))
    expected, expected_grads = WITH_GRADS(mean, variance, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), grads, expected_grads)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_all_candidates_give_exactly_zero_loss_and_gradient(shape, scale):
    mean, variance, labels, candidates = make_batch(shape)
    loss, grads = WITH_GRADS(mean * scale, variance, labels, candidates=np.ones_like(candidates))
    assert float(loss) == 0.0
    for grad in grads:
        np.testing.assert_array_equal(grad, np.zeros(grad.shape))


def test_candidates_take_the_place_of_the_label_and_no_candidates_leave_it():
    mean, variance, labels, candidates = make_batch()
    some = candidates.any(-1)
    without = LOSS(mean, variance, labels, candidates=np.zeros_like(candidates))
    np.testing.assert_allclose(without, LOSS(mean, variance, labels), rtol=1e-6)
    other_labels = np.where(some, (labels + 1) % 4, labels)
    np.testing.assert_array_equal(
        LOSS(mean, variance, other_labels, candidates=candidates), LOSS(mean, variance, labels, candidates=candidates)
    )


@few_examples
@given(seed=st.integers(0, 2**31), extra=st.integers(0, 3))
def test_one_more_candidate_never_costs_more(seed, extra):
    mean, variance, labels, candidates = make_batch(seed=seed)
    candidates[..., 0] |= ~candidates.any(-1)
    more = candidates.copy()
    more[..., extra] = True
    loss, relaxed = (float(LOSS(mean, variance, labels, candidates=allowed)) for allowed in (candidates, more))
    assert 0 <= relaxed <= loss + 1e-6


def test_a_batch_without_any_label_or_candidate_gives_exactly_zero_loss_and_gradient():
    mean, variance, labels, candidates = make_batch()
    loss, grads = WITH_GRADS(mean, variance, np.full_like(labels, IGNORE), candidates=np.zeros_like(candidates))
    assert float(loss) == 0.0
    for grad in grads:
        np.testing.assert_array_equal(grad, np.zeros(grad.shape))


@pytest.mark.parametrize("value", [1e30, -1e30, np.inf, -np.inf, np.nan])
def test_pixels_without_label_or_candidates_do_not_matter_whatever_they_hold(value):
    mean, variance, labels, candidates = make_batch()
    masked = (labels == IGNORE) & ~candidates.any(-1)
    expected, expected_grads = WITH_GRADS(mean, variance, labels, candidates=candidates)
    dirty_mean = np.where(masked[..., None], np.float32(value), mean)
    dirty_variance = np.where(masked, np.float32(value), variance)
    loss, grads = WITH_GRADS(dirty_mean, dirty_variance, labels, candidates=candidates)
    assert np.isfinite(loss)
    np.testing.assert_array_equal(loss, expected)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        np.testing.assert_array_equal(grad, expected_grad)
        assert not np.asarray(grad)[masked].any()


@pytest.mark.parametrize("variance", [0.0, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("mean", [-1e4, 0.0, 1e4, 1e12])
@pytest.mark.parametrize("label", [0, 1])
def test_extreme_means_and_variances_keep_loss_and_gradients_finite(mean, variance, label):
    assert np.isfinite(one_pixel(mean, variance, label)).all()


@pytest.mark.parametrize("variance", [1e4])
def test_no_way_of_compiling_makes_the_loss_of_a_sure_mistake_infinite(variance):
    def loss(mean, variance):
        return uncertainty_cross_entropy(mean, variance, np.zeros((1, 1, 1), np.int32))

    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=options)
    value, grads = compiled(np.full((1, 1, 1), 1e12, np.float32), np.full((1, 1, 1), variance, np.float32))
    np.testing.assert_allclose(value, 1e12 / np.sqrt(1 + np.pi / 8 * variance), rtol=1e-5)
    assert np.isfinite(grads).all()


@few_examples
@given(seed=st.integers(0, 2**31), order=st.permutations(range(4)))
def test_renaming_the_classes_does_not_change_the_loss(seed, order):
    mean, variance, labels, candidates = make_batch(seed=seed)
    renamed = np.where(labels == IGNORE, IGNORE, np.argsort(order)[labels % 4]).astype(np.int32)
    np.testing.assert_allclose(
        LOSS(mean[..., order], variance, renamed, candidates=candidates[..., order]),
        LOSS(mean, variance, labels, candidates=candidates),
        rtol=1e-5,
    )


def test_gradients_equal_finite_differences_in_both_modes():
    mean, variance, labels, candidates = make_batch((1, 3, 4, 3))
    with jax.enable_x64(True):
        function = jax.jit(lambda *scores: uncertainty_cross_entropy(*scores, labels, candidates=candidates))
        arguments = jnp.asarray(mean, jnp.float64), jnp.asarray(variance + 0.5, jnp.float64)
        check_grads(function, arguments, order=1, modes=("fwd", "rev"), atol=1e-7, rtol=1e-6, eps=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": np.zeros((2, 4, 5, 7), np.float32)}, r"mean is \[2,4,5,7\], channels first"),
        ({"mean": np.zeros((2, 5, 7, 1), np.float32)}, r"mean is \[2,5,7,1\], of one class"),
        ({"variance": np.zeros((2, 5, 7, 4), np.float32)}, r"variance is \[2,5,7,4\] but must be \[2,5,7\]"),
        ({"labels": np.zeros((2, 5, 7, 1), np.int32)}, r"labels is \[2,5,7,1\] but must be \[2,5,7\]"),
        ({"candidates": np.zeros((2, 5, 7, 3), bool)}, r"candidates is \[2,5,7,3\] but must be \[2,5,7,4\]"),
        ({"candidates": np.zeros((2, 5, 7), bool)}, r"candidates is \[2,5,7\] but must be \[2,5,7,4\]"),
    ],
)
def test_wrong_arguments_raise_an_error_that_names_the_argument(changes, message):
    mean, variance, labels, _ = make_batch()
    with pytest.raises(ValueError, match=f"uncertainty_cross_entropy: {message}"):
        uncertainty_cross_entropy(**({"mean": mean, "variance": variance, "labels": labels} | changes))


def test_candidates_of_the_binary_form_have_two_classes():
    mean, variance, labels, _ = make_batch((2, 5, 7))
    with pytest.raises(ValueError, match=r"candidates is \[2,5,7,1\] but must be \[2,5,7,2\]"):
        uncertainty_cross_entropy(mean, variance, labels, candidates=np.ones((2, 5, 7, 1), bool))


def test_a_class_ruled_out_by_minus_infinity_leaves_loss_and_gradients_finite():
    mean = jnp.array([[[[1.0, -jnp.inf, 2.0]]]])
    label = jnp.zeros((1, 1, 1), jnp.int32)
    loss, grads = WITH_GRADS(mean, jnp.ones((1, 1, 1)), label)
    two = jnp.array([[[[1.0, 2.0]]]])
    np.testing.assert_allclose(loss, LOSS(two, jnp.ones((1, 1, 1)), label), rtol=1e-6)
    assert all(np.isfinite(grad).all() for grad in grads)
