"""The losses of a discriminator and of its opponent against numpy, and self-training against masked cross-entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.losses import adversarial_loss, confident_self_training, discriminator_loss

REAL, FAKE = (2, 5, 7), (3, 4, 6)
DISCRIMINATOR = jax.jit(discriminator_loss, static_argnames="label_smoothing")
ADVERSARIAL = jax.jit(adversarial_loss)
SELF_TRAINING = jax.jit(confident_self_training)
SELF_TRAINING_WITH_GRADS = jax.jit(jax.value_and_grad(confident_self_training, argnums=(0, 1)))


def make_map(shape, seed=0, scale=3.0):
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def make_mask(shape, seed=0, share=0.6):
    return np.random.default_rng(100 + seed).uniform(size=shape) < share


def make_predictions(seed=0):
    """Scores of four classes and the confidence of a discriminator, a few of them exactly 0 and 1."""
    confidence = np.random.default_rng(seed).uniform(size=REAL).astype(np.float32)
    confidence.flat[:3], confidence.flat[3:6] = 0.0, 1.0
    return make_map((*REAL, 4), seed), confidence


def numpy_bce(logits, target, where=None):
    """Mean binary cross-entropy, in float64."""
    logits = logits.astype(np.float64)
    values = target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(0, logits)
    counts = np.ones(logits.shape, bool) if where is None else where
    return values[counts].sum() / max(counts.sum(), 1)


def numpy_self_training(logits, kept):
    """Cross-entropy with the argmax over kept pixels and its gradient, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    probs = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
    target = np.eye(logits.shape[-1])[logits.argmax(-1)]
    count = max(kept.sum(), 1)
    return -np.log((probs * target).sum(-1))[kept].sum() / count, (probs - target) * kept[..., None] / count


def self_training_with_grads(logits, confidence, **options):
    """Loss, gradient of the logits and gradient of the confidence."""
    loss, grads = SELF_TRAINING_WITH_GRADS(logits, confidence, **options)
    return loss, *grads


def test_a_discriminator_that_knows_nothing_pays_log_2():
    np.testing.assert_allclose(DISCRIMINATOR(np.zeros(REAL, "f"), np.zeros(FAKE, "f")), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(ADVERSARIAL(np.zeros(FAKE, "f")), np.log(2), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channel", [False, True])
def test_discriminator_loss_is_half_the_binary_cross_entropy_of_either_stream(smoothing, masked, channel):
    real, fake = make_map(REAL), make_map(FAKE, 1)
    real_where, fake_where = (make_mask(REAL), make_mask(FAKE, 1)) if masked else (None, None)
    arrays = (real[..., None], fake[..., None]) if channel else (real, fake)
    loss = DISCRIMINATOR(*arrays, real_where=real_where, fake_where=fake_where, label_smoothing=smoothing)
    expected = 0.5 * (numpy_bce(real, 1 - smoothing, real_where) + numpy_bce(fake, 0.0, fake_where))
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channel", [False, True])
def test_adversarial_loss_is_the_binary_cross_entropy_with_target_one(masked, channel):
    fake, where = make_map(FAKE), make_mask(FAKE) if masked else None
    loss = ADVERSARIAL(fake[..., None] if channel else fake, where=where)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, numpy_bce(fake, 1.0, where), rtol=1e-5)


def test_gradients_are_probability_minus_target_over_the_count_of_the_stream():
    real, fake = make_map(REAL), make_map(FAKE, 1)
    real_where, fake_where = make_mask(REAL), make_mask(FAKE, 1)

    def loss(real, fake):
        return discriminator_loss(real, fake, real_where=real_where, fake_where=fake_where, label_smoothing=0.1)

    real_grad, fake_grad = jax.jit(jax.grad(loss, argnums=(0, 1)))(real, fake)
    np.testing.assert_allclose(
        real_grad, 0.5 * (1 / (1 + np.exp(-real)) - 0.9) * real_where / real_where.sum(), atol=1e-7
    )
    np.testing.assert_allclose(fake_grad, 0.5 / (1 + np.exp(-fake)) * fake_where / fake_where.sum(), atol=1e-7)
    grad = jax.jit(jax.grad(adversarial_loss))(fake, where=fake_where)
    np.testing.assert_allclose(grad, (1 / (1 + np.exp(-fake)) - 1) * fake_where / fake_where.sum(), atol=1e-7)


def test_a_stream_that_is_masked_out_adds_nothing():
    real, fake = make_map(REAL), make_map(FAKE, 1)
    nothing_real, nothing_fake = np.zeros(REAL, bool), np.zeros(FAKE, bool)
    only_fake = DISCRIMINATOR(real, fake, real_where=nothing_real)
    only_real = DISCRIMINATOR(real, fake, fake_where=nothing_fake)
    np.testing.assert_allclose(only_fake, 0.5 * numpy_bce(fake, 0.0), rtol=1e-5)
    np.testing.assert_allclose(only_real, 0.5 * numpy_bce(real, 1.0), rtol=1e-5)
    assert float(DISCRIMINATOR(real, fake, real_where=nothing_real, fake_where=nothing_fake)) == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("channel", [False, True])
def test_masked_out_discriminator_outputs_do_not_matter_whatever_they_hold(value, channel):
    where, fake_where = make_mask(REAL), make_mask(FAKE, 1)

    def loss(real, fake):
        shared = {"real_where": where, "fake_where": fake_where}
        return discriminator_loss(real, fake, **shared) + adversarial_loss(fake, where=fake_where)

    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    clean = make_map(REAL), make_map(FAKE, 1)
    dirty = np.where(where, clean[0], np.float32(value)), np.where(fake_where, clean[1], np.float32(value))
    if channel:
        clean, dirty = ([array[..., None] for array in arrays] for arrays in (clean, dirty))
    (expected, expected_grads), (total, grads) = function(*clean), function(*dirty)
    np.testing.assert_array_equal(total, expected)
    assert np.isfinite(total)
    jax.tree.map(np.testing.assert_array_equal, grads, expected_grads)


@pytest.mark.parametrize(("logit", "dtype"), [(7e4, np.float32), (np.inf, np.float32), (np.inf, np.float16)])
def test_a_discriminator_that_is_sure_and_right_pays_nothing(logit, dtype):
    sure = jnp.full((1, 2, 2), logit, dtype)
    assert float(discriminator_loss(sure, -sure)) == 0.0
    value, gradient = jax.value_and_grad(adversarial_loss)(sure)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 2.0, float("nan")])
def test_label_smoothing_outside_its_range_raises(smoothing):
    with pytest.raises(ValueError, match="discriminator_loss: label_smoothing is"):
        discriminator_loss(make_map(REAL), make_map(FAKE), label_smoothing=smoothing)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"real_logits": np.zeros((*REAL, 2), "f")}, r"real_logits is \[2,5,7,2\] but must be \[B,H,W,1\]"),
        ({"fake_logits": np.zeros((*FAKE, 2), "f")}, r"fake_logits is \[3,4,6,2\] but must be \[B,H,W,1\]"),
        ({"real_where": np.ones(FAKE, bool)}, r"real_where is \[3,4,6\] but must be \[2,5,7\]"),
        ({"fake_where": np.ones(REAL, bool)}, r"fake_where is \[2,5,7\] but must be \[3,4,6\]"),
    ],
)
def test_a_wrong_stream_or_mask_raises_an_error_that_names_it(changes, message):
    arguments = {"real_logits": make_map(REAL), "fake_logits": make_map(FAKE)} | changes
    with pytest.raises(ValueError, match=f"discriminator_loss: {message}"):
        discriminator_loss(**arguments)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channel", [False, True])
def test_self_training_is_cross_entropy_with_the_argmax_over_kept_pixels(threshold, masked, channel):
    logits, confidence = make_predictions()
    where = make_mask(REAL) if masked else None
    kept = (confidence > threshold) | (threshold == 0)
    kept = kept & where if masked else kept
    given = confidence[..., None] if channel else confidence
    loss, grad, _ = self_training_with_grads(logits, given, threshold=threshold, where=where)
    expected, expected_grad = numpy_self_training(logits, kept)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, atol=1e-6)


def test_the_default_threshold_of_self_training_is_a_fifth():
    logits, confidence = make_predictions()
    expected = confident_self_training(logits, confidence, threshold=0.2)
    np.testing.assert_allclose(confident_self_training(logits, confidence), expected, rtol=1e-6)


def test_class_weights_of_the_wrong_length_are_told_by_self_training_itself():
    with pytest.raises(ValueError, match=r"^confident_self_training: class_weights is \[2\]"):
        confident_self_training(*make_predictions(), class_weights=[1.0, 2.0])


def test_class_weights_of_self_training_are_those_of_the_predicted_classes():
    logits, confidence = make_predictions()
    weights = np.eye(logits.shape[-1])[1]
    expected = SELF_TRAINING(logits, confidence, where=logits.argmax(-1) == 1)
    np.testing.assert_allclose(SELF_TRAINING(logits, confidence, class_weights=weights), expected, rtol=1e-6)


def test_no_gradient_reaches_the_confidence():
    logits, confidence = make_predictions()
    _, _, grad = self_training_with_grads(logits, confidence)
    np.testing.assert_array_equal(grad, np.zeros(REAL))


@pytest.mark.parametrize("value", [0.0, 1e-7, 0.5, 1.0])
def test_threshold_zero_keeps_every_pixel_even_at_confidence_zero(value):
    logits, confidence = make_predictions()
    loss = SELF_TRAINING(logits, np.full_like(confidence, value), threshold=0.0)
    np.testing.assert_allclose(loss, numpy_self_training(logits, np.ones(REAL, bool))[0], rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_threshold_one_keeps_no_pixel_even_at_confidence_one(value):
    logits, confidence = make_predictions()
    loss, grad, _ = self_training_with_grads(logits, np.full_like(confidence, value), threshold=1.0)
    assert float(loss) == 0.0
    np.testing.assert_array_equal(grad, np.zeros(logits.shape))


def test_pixels_that_are_not_kept_do_not_dilute_the_mean():
    logits = np.tile(np.float32([0.0, 1.0, 2.0]), (1, 2, 5, 1))
    confidence = np.zeros((1, 2, 5), np.float32)
    confidence[0, 1, 3] = 0.9
    alone = SELF_TRAINING(logits[:, :1, :1], np.full((1, 1, 1), 0.9, np.float32))
    np.testing.assert_allclose(SELF_TRAINING(logits, confidence), alone, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_masked_out_predictions_do_not_matter_whatever_they_hold(value, threshold):
    (logits, confidence), where = make_predictions(), make_mask(REAL)
    options = {"threshold": threshold, "where": where}
    expected, expected_grad, _ = self_training_with_grads(logits, confidence, **options)
    dirty_logits = np.where(where[..., None], logits, np.float32(value))
    dirty_confidence = np.where(where, confidence, np.float32(value))
    loss, grad, confidence_grad = self_training_with_grads(dirty_logits, dirty_confidence, **options)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(grad, expected_grad)
    assert np.isfinite(loss)
    assert not np.asarray(grad)[~where].any()
    assert not np.asarray(confidence_grad).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_predictions_below_the_threshold_do_not_matter_whatever_they_hold(value):
    logits, confidence = make_predictions()
    expected, expected_grad, _ = self_training_with_grads(logits, confidence)
    dirty = np.where(confidence[..., None] > 0.2, logits, np.float32(value))
    loss, grad, _ = self_training_with_grads(dirty, confidence)
    assert np.isfinite(loss)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(grad, expected_grad)


def test_the_threshold_may_be_traced():
    logits, confidence = make_predictions()
    for threshold in (0.0, 0.5, 1.0):
        expected = confident_self_training(logits, confidence, threshold=threshold)
        np.testing.assert_allclose(SELF_TRAINING(logits, confidence, threshold=threshold), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"confidence": np.ones((2, 5, 6), "f")}, r"confidence is \[2,5,6\] but must be \[2,5,7\]"),
        ({"confidence": np.ones((*REAL, 4), "f")}, r"confidence is \[2,5,7,4\] but must be \[B,H,W,1\]"),
    ],
)
def test_a_wrong_confidence_raises_an_error_that_names_it(changes, message):
    logits, confidence = make_predictions()
    with pytest.raises(ValueError, match=f"confident_self_training: {message}"):
        confident_self_training(**({"logits": logits, "confidence": confidence} | changes))
