"""Cross-entropy, plain and focal, against numpy and at its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semiseg_jax.losses import focal_loss, partial_cross_entropy

IGNORE = 255
SHAPE = (2, 5, 7, 3)
LOSS = jax.jit(partial_cross_entropy, static_argnames="reduction")
WITH_GRAD = jax.jit(jax.value_and_grad(partial_cross_entropy))
FOCAL = jax.jit(jax.value_and_grad(focal_loss))


def make_batch(shape=SHAPE, seed=0, ignored=0.4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, shape).astype(np.float32)
    labels = rng.integers(0, shape[-1], shape[:3])
    labels[rng.uniform(size=labels.shape) < ignored] = IGNORE
    labels.flat[0] = 0
    return logits, labels.astype(np.int32)


def make_weights(shape=SHAPE, seed=1):
    weights = np.random.default_rng(seed).uniform(0, 0.01, shape[:3]).astype(np.float32)
    weights[0, :2] = 0
    return weights


def one_hot(labels, classes=SHAPE[-1]):
    """Soft targets of labels: zeros where there is none."""
    return np.eye(classes, dtype=np.float32)[np.where(labels == IGNORE, 0, labels)] * (labels != IGNORE)[..., None]


def numpy_loss(
    logits, labels, *, ignore_label=IGNORE, label_smoothing=0.0, class_weights=None, where=None, weights=None, gamma=0.0
):
    """Pixel by pixel, in float64. labels may be soft, [B,H,W,K]."""
    total = count = 0.0
    classes = logits.shape[-1]
    for index in np.ndindex(logits.shape[:3]):
        if labels.ndim == 4:
            target = labels[index].astype(np.float64)
        else:
            target = np.eye(classes)[labels[index]] if labels[index] != ignore_label else np.zeros(classes)
        if not target.any() or (where is not None and not where[index]):
            continue
        row = logits[index].astype(np.float64)
        probs = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        weight = 1.0 if class_weights is None else target @ np.array(class_weights, np.float64)
        weight *= 1.0 if weights is None else float(weights[index])
        smooth = (1 - label_smoothing) * target + label_smoothing / classes
        total -= weight * ((1 - probs @ target) ** gamma if gamma else 1.0) * (smooth @ np.log(probs))
        count += weight
    return total / count


@pytest.mark.parametrize(
    ("shape", "label_dtype"), [((2, 5, 7, 3), np.int32), ((3, 1, 9, 5), np.uint8), ((1, 1, 1, 4), np.int16)]
)
def test_equals_a_pixelwise_numpy_computation(shape, label_dtype):
    logits, labels = make_batch(shape)
    np.testing.assert_allclose(LOSS(logits, labels.astype(label_dtype)), numpy_loss(logits, labels), rtol=1e-5)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_every_option_together_equals_a_pixelwise_numpy_computation(soft, smoothing):
    logits, labels = make_batch()
    if soft:
        probs = np.random.default_rng(2).dirichlet(np.ones(3), SHAPE[:3]).astype(np.float32)
        labels = np.where((labels == IGNORE)[..., None], 0, probs)
    where = np.random.default_rng(3).uniform(size=SHAPE[:3]) < 0.7
    options = {"where": where, "weights": make_weights(), "class_weights": np.array([0.2, 2.0, 0.5], np.float32)}
    options["label_smoothing"] = smoothing
    loss, grad = WITH_GRAD(logits, labels, **options)
    np.testing.assert_allclose(loss, numpy_loss(logits, labels, **options), rtol=1e-5)
    assert np.isfinite(grad).all()
    assert not np.asarray(grad)[~where].any()


def test_soft_targets_that_are_sure_are_labels():
    logits, labels = make_batch()
    options = {"weights": make_weights(), "class_weights": np.array([0.0, 2.0, 0.5], np.float32)}
    expected, expected_grad = WITH_GRAD(logits, labels, **options)
    loss, grad = WITH_GRAD(logits, one_hot(labels), **options)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, atol=1e-7)


def test_soft_targets_get_no_gradient_and_may_be_of_half_precision():
    logits, labels = make_batch()
    grad = jax.jit(jax.grad(partial_cross_entropy, argnums=1))(logits, one_hot(labels).astype(jnp.bfloat16))
    assert not np.asarray(grad, np.float32).any()


@pytest.mark.parametrize("value", [0.5, -1 / 3, np.nan])
def test_soft_targets_that_are_no_probabilities_are_told(value):
    with pytest.raises(ValueError, match=r"partial_cross_entropy: labels .* probabilities"):
        partial_cross_entropy(make_batch()[0], np.full(SHAPE, value, np.float32))


@pytest.mark.parametrize("ignore_label", [0, 2, -1, 254])
def test_the_ignore_label_can_be_chosen(ignore_label):
    logits, labels = make_batch()
    labels = np.where(labels == IGNORE, ignore_label, labels)
    loss = LOSS(logits, labels, ignore_label=ignore_label)
    np.testing.assert_allclose(loss, numpy_loss(logits, labels, ignore_label=ignore_label), rtol=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 2.0, 0.5), (0.0, 1.0, 3.0), (5e-4, 5e-4, 5e-4)])
def test_class_weights_give_the_weighted_mean_however_small_they_are(weights):
    logits, labels = make_batch()
    loss = LOSS(logits, labels, class_weights=np.array(weights))
    np.testing.assert_allclose(loss, numpy_loss(logits, labels, class_weights=weights), rtol=1e-5)


@pytest.mark.parametrize("weights", [(1.0, -1.0, 1.0), [np.nan, 1.0, 1.0]])
@pytest.mark.parametrize("loss", [partial_cross_entropy, focal_loss])
def test_class_weights_that_are_negative_or_not_finite_are_told(loss, weights):
    with pytest.raises(ValueError, match=f"{loss.__name__}: class_weights is .* must be finite and not negative"):
        loss(*make_batch(), class_weights=weights)


def test_classes_of_weight_0_do_not_matter_whatever_their_logits_hold():
    logits, labels = make_batch()
    weights = np.array([0.0, 1.0, 2.0])
    expected, expected_grad = WITH_GRAD(logits, labels, class_weights=weights)
    dirty = np.where((labels == 0)[..., None], np.float32(np.nan), logits)
    loss, grad = WITH_GRAD(dirty, labels, class_weights=weights)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(grad, expected_grad)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("masked_by", ["ignore label", "class weights", "soft targets"])
def test_a_batch_without_any_label_gives_exactly_zero_loss_and_gradient(masked_by):
    logits, labels = make_batch()
    options = {"class_weights": np.zeros(3)} if masked_by == "class weights" else {}
    labels = labels if options else np.full_like(labels, IGNORE)
    labels = one_hot(labels) if masked_by == "soft targets" else labels
    loss, grad = WITH_GRAD(logits, labels, **options)
    assert float(loss) == 0.0
    np.testing.assert_array_equal(grad, np.zeros(SHAPE))


@pytest.mark.parametrize("value", [1e4, -1e4, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("soft", [False, True])
def test_pixels_without_a_label_do_not_matter_whatever_their_logits_hold(value, soft):
    logits, labels = make_batch()
    given = one_hot(labels) if soft else labels
    expected, expected_grad = WITH_GRAD(logits, given)
    logits[labels == IGNORE] = value
    loss, grad = WITH_GRAD(logits, given)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(grad, expected_grad)
    assert not np.asarray(grad)[labels == IGNORE].any()


def test_huge_logits_on_labelled_pixels_keep_loss_and_gradient_finite():
    logits, labels = make_batch()
    for function in (WITH_GRAD, FOCAL):
        loss, grad = function(logits * np.float32(1e30), labels)
        assert np.isfinite(loss)
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("function", [WITH_GRAD, FOCAL], ids=["plain", "focal"])
def test_a_class_ruled_out_by_minus_infinity_keeps_loss_and_gradient_finite(function):
    logits, labels = make_batch()
    labels = np.where(labels == 2, 0, labels)
    expected = numpy_loss(logits[..., :2], labels, gamma=2.0 if function is FOCAL else 0.0)
    logits[..., 2] = -np.inf
    loss, grad = function(logits, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert np.isfinite(grad).all()


def test_the_gradient_is_probabilities_minus_target_over_the_count():
    logits, labels = make_batch()
    counts = labels != IGNORE
    probs = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    expected = (probs - one_hot(labels)) * counts[..., None] / counts.sum()
    np.testing.assert_allclose(WITH_GRAD(logits, labels)[1], expected, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_equals_a_pixelwise_numpy_computation(gamma):
    logits, labels = make_batch()
    options = {"weights": make_weights(), "class_weights": np.array([0.2, 2.0, 0.5], np.float32)}
    loss, grad = FOCAL(logits, labels, gamma=gamma, **options)
    np.testing.assert_allclose(loss, numpy_loss(logits, labels, gamma=gamma, **options), rtol=1e-5)
    assert np.isfinite(grad).all()


def test_focal_loss_of_gamma_0_is_cross_entropy():
    logits, labels = make_batch()
    loss, grad = FOCAL(logits, labels, gamma=0.0)
    expected, expected_grad = WITH_GRAD(logits, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, atol=1e-6)


def test_focal_loss_of_a_very_sure_pixel_is_not_rounded_to_0():
    logits = np.float32([[[[20.0, 0.0]]]])
    loss, grad = FOCAL(logits, np.zeros((1, 1, 1), np.int32), gamma=0.5)
    rest = 1 / (1 + np.exp(20.0))
    np.testing.assert_allclose(-np.asarray(grad).sum(-1), 0.0, atol=1e-12)
    np.testing.assert_allclose(loss / rest**1.5, 1.0, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"gamma": -1.0}, "gamma is -1.0 but must be at least 0"), ({"gamma": float("inf")}, "gamma is inf")],
)
def test_a_gamma_outside_its_range_is_told(options, message):
    with pytest.raises(ValueError, match=f"focal_loss: {message}"):
        focal_loss(*make_batch(), **options)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"logits": np.zeros((2, 3, 5, 7), np.float32)}, ValueError, r"logits is \[2,3,5,7\], channels first"),
        ({"logits": np.zeros((2, 5, 7, 1), np.float32)}, ValueError, r"logits is \[2,5,7,1\], of one class"),
        ({"labels": np.zeros((2, 5, 6), np.int32)}, ValueError, r"labels is \[2,5,6\] but must be \[2,5,7\]"),
        ({"labels": np.zeros((2, 5, 7, 1), np.int32)}, ValueError, "labels is"),
        ({"labels": np.zeros((2, 5, 7, 3), np.int32)}, TypeError, "labels is int32"),
        ({"labels": np.zeros((2, 5, 7, 4), np.float32)}, ValueError, r"labels is \[2,5,7,4\]"),
        ({"class_weights": np.ones(4)}, ValueError, r"class_weights is \[4\] but must be \[3\]"),
        ({"class_weights": 1.0}, ValueError, "class_weights is"),
        ({"label_smoothing": 1.5}, ValueError, r"label_smoothing is 1.5 but must be in \[0,1\]"),
    ],
)
def test_wrong_arguments_raise_an_error_that_names_the_argument(changes, error, message):
    logits, labels = make_batch()
    with pytest.raises(error, match=f"partial_cross_entropy: {message}"):
        partial_cross_entropy(**({"logits": logits, "labels": labels} | changes))


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(3)))
def test_renaming_the_classes_does_not_change_the_loss(seed, order):
    logits, labels = make_batch(seed=seed)
    renamed = np.where(labels == IGNORE, IGNORE, np.argsort(order)[labels % 3]).astype(np.int32)
    weights = np.array([1.0, 2.0, 0.5])
    np.testing.assert_allclose(
        LOSS(logits, labels, class_weights=weights),
        LOSS(logits[..., order], renamed, class_weights=weights[list(order)]),
        rtol=1e-5,
    )
