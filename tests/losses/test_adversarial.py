"""The losses of a discriminator and of its opponent against numpy, and self-training against masked cross-entropy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.losses import adversarial_loss, confident_self_training, discriminator_loss

REAL, FAKE = (2, 5, 7), (3, 4, 6)
DISCRIMINATOR = jax.jit(discriminator_loss)
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


def make_weights(shape, seed=0):
    return np.random.default_rng(300 + seed).uniform(0.001, 0.01, shape).astype(np.float32)


def numpy_bce(logits, target, where=None, weights=None):
    """Mean binary cross-entropy, in float64."""
    logits = logits.astype(np.float64)
    values = target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(0, logits)
    weights = np.ones(logits.shape) if weights is None else weights.astype(np.float64)
    return np.average(values, weights=weights if where is None else weights * where)


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
def test_discriminator_loss_is_half_the_binary_cross_entropy_of_either_stream(smoothing, masked):
    real, fake = make_map(REAL), make_map(FAKE, 1)
    of_real = {"where": make_mask(REAL), "weights": make_weights(REAL)} if masked else {}
    of_fake = {"where": make_mask(FAKE, 1), "weights": make_weights(FAKE, 1)} if masked else {}
    options = {f"real_{key}": x for key, x in of_real.items()} | {f"fake_{key}": x for key, x in of_fake.items()}
    loss = DISCRIMINATOR(real, fake, label_smoothing=smoothing, **options)
    expected = 0.5 * (numpy_bce(real, 1 - smoothing, **of_real) + numpy_bce(fake, 0.0, **of_fake))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_adversarial_loss_is_the_binary_cross_entropy_with_target_one():
    fake, options = make_map(FAKE), {"where": make_mask(FAKE), "weights": make_weights(FAKE)}
    np.testing.assert_allclose(ADVERSARIAL(fake, **options), numpy_bce(fake, 1.0, **options), rtol=1e-5)


def test_maps_may_have_a_last_axis_of_one():
    real, fake = make_map(REAL), make_map(FAKE, 1)
    logits, confidence = make_predictions()
    for loss, *arrays in (
        (DISCRIMINATOR, real, fake),
        (ADVERSARIAL, fake),
        (functools.partial(SELF_TRAINING, logits), confidence),
    ):
        np.testing.assert_array_equal(loss(*(array[..., None] for array in arrays)), loss(*arrays))


def test_value_maps_of_both_streams_have_their_own_shapes_and_add_up_to_the_sum():
    real, fake, weights = make_map(REAL), make_map(FAKE, 1), make_weights(FAKE)
    maps = jax.jit(functools.partial(discriminator_loss, reduction="none"))
    of_real, of_fake = maps(real[..., None], fake, fake_weights=weights)
    assert (of_real.shape, of_fake.shape) == (REAL, FAKE)
    np.testing.assert_allclose(of_real.sum(), 0.5 * np.prod(REAL) * numpy_bce(real, 1.0), rtol=1e-5)
    np.testing.assert_allclose(of_fake.sum(), 0.5 * weights.sum() * numpy_bce(fake, 0.0, weights=weights), rtol=1e-5)


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
    only_fake = DISCRIMINATOR(real, fake, real_where=nothing_real, fake_where=~nothing_fake)
    only_real = DISCRIMINATOR(real, fake, real_where=~nothing_real, fake_where=nothing_fake)
    np.testing.assert_allclose(only_fake, 0.5 * numpy_bce(fake, 0.0), rtol=1e-5)
    np.testing.assert_allclose(only_real, 0.5 * numpy_bce(real, 1.0), rtol=1e-5)
    assert float(DISCRIMINATOR(real, fake, real_where=nothing_real, fake_where=nothing_fake)) == 0.0


@pytest.mark.parametrize(("logit", "dtype"), [(7e4, np.float32), (np.inf, np.float32), (np.inf, np.float16)])
def test_a_discriminator_that_is_sure_and_right_pays_nothing(logit, dtype):
    sure = jnp.full((1, 2, 2), logit, dtype)
    assert float(DISCRIMINATOR(sure, -sure)) == 0.0
    value, gradient = jax.jit(jax.value_and_grad(adversarial_loss))(sure)
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
def test_self_training_is_cross_entropy_with_the_argmax_over_kept_pixels(threshold, masked):
    logits, confidence = make_predictions()
    where = make_mask(REAL) if masked else None
    kept = (confidence > threshold) | (threshold == 0)
    kept = kept & where if masked else kept
    loss, grad, _ = self_training_with_grads(logits, confidence, threshold=threshold, where=where)
    expected, expected_grad = numpy_self_training(logits, kept)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, atol=1e-6)


def test_the_default_threshold_of_self_training_is_a_fifth():
    logits, confidence = make_predictions()
    expected = SELF_TRAINING(logits, confidence, threshold=0.2)
    np.testing.assert_allclose(SELF_TRAINING(logits, confidence), expected, rtol=1e-6)


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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_predictions_below_the_threshold_do_not_matter_whatever_they_hold(value):
    logits, confidence = make_predictions()
    expected, expected_grad, _ = self_training_with_grads(logits, confidence)
    dirty = np.where(confidence[..., None] > 0.2, logits, np.float32(value))
    loss, grad, _ = self_training_with_grads(dirty, confidence)
    assert np.isfinite(loss)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(grad, expected_grad)


@pytest.mark.parametrize("value", [-1.5, 3.0, np.nan])
def test_a_confidence_that_is_a_raw_score_is_told_where_it_counts(value):
    (logits, confidence), where = make_predictions(), np.ones(REAL, bool)
    confidence[1, 2, 3], where[1, 2, 3] = value, False
    with pytest.raises(ValueError, match=f"confident_self_training: confidence has {value:.3g} .*jax.nn.sigmoid"):
        confident_self_training(logits, confidence)
    assert np.isfinite(confident_self_training(logits, confidence, where=where))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": np.ones((2, 4, 5, 7), "f")}, r"logits is \[2,4,5,7\], channels first"),
        ({"confidence": np.ones((2, 5, 6), "f")}, r"confidence is \[2,5,6\] but must be \[2,5,7\]"),
        ({"confidence": np.ones((*REAL, 4), "f")}, r"confidence is \[2,5,7,4\] but must be \[B,H,W,1\]"),
    ],
)
def test_a_wrong_confidence_raises_an_error_that_names_it(changes, message):
    logits, confidence = make_predictions()
    with pytest.raises(ValueError, match=f"confident_self_training: {message}"):
        confident_self_training(**({"logits": logits, "confidence": confidence} | changes))
