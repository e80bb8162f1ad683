"""Dice, Tversky and Lovász losses against numpy, and over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_devices import loss_and_grad_on_two_devices

from semiseg_jax.losses import dice_loss, lovasz_softmax

IGNORE = 255
SHAPE = (4, 5, 6, 4)
LOSSES = {"dice": dice_loss, "lovasz": lovasz_softmax}
JITTED = {name: jax.jit(jax.value_and_grad(loss), static_argnames="per_image") for name, loss in LOSSES.items()}


def make_batch(seed=0):
    """Class 3 is never labelled, class 2 in the first image only, and nothing in the last image."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, SHAPE).astype(np.float32)
    labels = rng.integers(0, 2, SHAPE[:3]).astype(np.int32)
    labels[0, :2] = 2
    labels[rng.uniform(size=labels.shape) < 0.3] = IGNORE
    labels[-1] = IGNORE
    return logits, labels, rng.uniform(0.01, 0.5, SHAPE[:3]).astype(np.float32)


def softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)


def numpy_tversky(probs, truth, weights, alpha=0.5, beta=0.5):
    """Of one class: probs, truth, weights [N]."""
    hit, false, missed = ((weights * x).sum() for x in (probs * truth, probs * ~truth, (1 - probs) * truth))
    return 1 - hit / (hit + alpha * false + beta * missed)


def numpy_lovasz(probs, truth, weights):
    """Of one class, by its definition: the loss of growing sets of wrong pixels."""
    errors = np.abs(truth - probs)
    total = previous = 0.0
    wrong = np.zeros(len(errors), bool)
    for pixel in np.argsort(-errors, kind="stable"):
        wrong[pixel] = True
        found = truth ^ wrong
        now = 1 - weights[found & truth].sum() / weights[found | truth].sum()
        total += errors[pixel] * (now - previous)
        previous = now
    return total


def numpy_loss(of_class, logits, labels, weights, per_image=False):
    """Mean over the classes present of the batch, or of each image and then over the images with a label."""
    if per_image:
        alone = [numpy_loss(of_class, *(x[i : i + 1] for x in (logits, labels, weights))) for i in range(len(logits))]
        return np.mean([loss for loss, image in zip(alone, labels, strict=True) if (image != IGNORE).any()])
    counts = labels != IGNORE
    probs, labels, weights = softmax(logits)[counts], labels[counts], weights[counts].astype(np.float64)
    losses = [of_class(probs[:, k], labels == k, weights) for k in np.unique(labels)]
    return np.mean(losses) if losses else 0.0


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_equals_a_numpy_computation_class_by_class(name, per_image):
    of_class = {"dice": numpy_tversky, "lovasz": numpy_lovasz}[name]
    logits, labels, weights = make_batch()
    loss, _ = JITTED[name](logits, labels, weights=weights, per_image=per_image)
    np.testing.assert_allclose(loss, numpy_loss(of_class, logits, labels, weights, per_image), rtol=1e-5)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (1.0, 1.0)])
def test_alpha_prices_what_is_taken_and_beta_what_is_missed(alpha, beta):
    logits, labels, weights = make_batch()
    loss, _ = JITTED["dice"](logits, labels, weights=weights, alpha=alpha, beta=beta)
    of_class = functools.partial(numpy_tversky, alpha=alpha, beta=beta)
    np.testing.assert_allclose(loss, numpy_loss(of_class, logits, labels, weights), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_of_2_is_that_of_two_such_pixels(name):
    logits, labels, _ = make_batch()
    weights = np.where(np.arange(SHAPE[2]) < 2, 2.0, 1.0) * np.ones(SHAPE[:3], np.float32)
    twice = [np.concatenate([x, x[:, :, :2]], axis=2) for x in (logits, labels)]
    loss, _ = JITTED[name](logits, labels, weights=weights.astype(np.float32))
    expected, _ = JITTED[name](*twice)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_lovasz_of_sure_predictions_is_one_minus_the_mean_intersection_over_union():
    _, labels, _ = make_batch()
    found = np.random.default_rng(1).integers(0, 3, SHAPE[:3])
    loss, _ = JITTED["lovasz"](np.float32(60) * np.eye(4, dtype=np.float32)[found], labels)
    counts = labels != IGNORE
    ious = [
        np.sum(counts & (labels == k) & (found == k)) / np.sum(counts & ((labels == k) | (found == k)))
        for k in range(3)
    ]
    np.testing.assert_allclose(loss, 1 - np.mean(ious), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_equals_finite_differences(name):
    logits, labels, weights = make_batch()
    direction = np.random.default_rng(5).normal(size=SHAPE)

    def along(t):
        return LOSSES[name](jnp.asarray(logits + t * direction), labels, weights=weights)

    with jax.enable_x64(True):
        slope, step, value = jax.jit(jax.grad(along))(0.0), 1e-6, jax.jit(along)
        np.testing.assert_allclose((value(step) - value(-step)) / (2 * step), slope, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_descent_finds_the_labels(name):
    logits, labels, _ = make_batch()
    first, _ = JITTED[name](logits, labels)
    for _ in range(60):
        logits = logits - 30 * JITTED[name](logits, labels)[1]
    assert JITTED[name](logits, labels)[0] < 0.3 * first


@pytest.mark.parametrize("name", LOSSES)
def test_the_batch_as_a_whole_is_that_of_all_devices(name):
    logits, labels, weights = make_batch()
    rows = {"logits": logits, "labels": labels, "weights": weights}
    params = {"scale": jnp.float32(1.0), "shift": jnp.zeros(SHAPE[-1])}

    def loss(params, logits, **rows):
        return LOSSES[name](logits * params["scale"] + params["shift"], **rows, axis_name="data")

    value, grads = loss_and_grad_on_two_devices(loss, "shard_map", params, rows)
    expected, grad = JITTED[name](logits, labels, weights=weights)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grads["scale"], jnp.vdot(grad, logits), rtol=1e-4)
    np.testing.assert_allclose(grads["shift"], jnp.sum(grad, axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)


def test_a_value_map_of_the_batch_adds_up_to_its_loss():
    logits, labels, weights = make_batch()
    for name, loss in LOSSES.items():
        values = jax.jit(functools.partial(loss, reduction="none"))(logits, labels, weights=weights)
        np.testing.assert_allclose(jnp.sum(values), JITTED[name](logits, labels, weights=weights)[0], rtol=1e-5)


@pytest.mark.parametrize("option", ["alpha", "beta"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_a_price_outside_its_range_is_told(option, value):
    with pytest.raises(ValueError, match=f"dice_loss: {option} is {value} but must be above 0"):
        dice_loss(*make_batch()[:2], **{option: value})
