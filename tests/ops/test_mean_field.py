"""Mean-field inference against a plain numpy restatement, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.ops import Kernel, mean_field

refine = jax.jit(mean_field, static_argnames=("radius", "iterations", "implementation"))
KERNELS = ({"weight": 2.0, "xy": 3.0}, {"weight": 4.0, "xy": 5.0, "rgb": 0.5})


def random_scene(shape=(2, 6, 7, 3), seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(shape[-1]), size=shape[:3])
    return probs, rng.normal(size=(*shape[:3], 3))


def numpy_mean_field(probs, image, radius, iterations, matrix, valid):
    """One image, pixel by pixel, in float64."""
    pixels = list(np.ndindex(probs.shape[:2]))
    kernel = np.zeros((len(pixels), len(pixels)))
    for i, a in enumerate(pixels):
        for j, b in enumerate(pixels):
            squared = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
            if i != j and max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= radius:
                colour = np.sum((image[a] - image[b]) ** 2)
                kernel[i, j] = 2 * np.exp(-squared / 18) + 4 * np.exp(-squared / 50 - colour / (2 * 0.5**2))
    kernel *= valid.ravel()[None] * valid.ravel()[:, None]
    mass = 6 + kernel.sum(1)
    kernel *= 6 / np.sqrt(mass[:, None] * mass[None])
    start = probs.reshape(len(pixels), -1)
    beliefs = start
    for _ in range(iterations):
        logits = np.log(start) - kernel @ beliefs @ matrix.T
        beliefs = np.exp(logits - logits.max(1, keepdims=True))
        beliefs /= beliefs.sum(1, keepdims=True)
    return np.where(valid.ravel()[:, None], beliefs, start).reshape(probs.shape)


@pytest.mark.parametrize(
    ("iterations", "costs"), [(0, None), (1, None), (4, [[0, 1, 2], [1, 0, 0.5], [2, 0.5, 0]]), (np.int64(4), None)]
)
def test_equals_the_pixelwise_update(iterations, costs):
    probs, image = random_scene()
    valid = np.random.default_rng(1).uniform(size=probs.shape[:3]) < 0.8
    matrix = -np.eye(3) if costs is None else np.array(costs)
    found = refine(
        jnp.asarray(probs, jnp.float32),
        jnp.asarray(image, jnp.float32),
        kernels=KERNELS,
        radius=2,
        iterations=iterations,
        compatibility=None if costs is None else matrix,
        where=jnp.asarray(valid),
    )
    for row in range(2):
        expected = numpy_mean_field(probs[row], image[row], 2, iterations, matrix, valid[row])
        np.testing.assert_allclose(found[row], expected, atol=2e-5)


def test_a_noisy_prediction_follows_the_colours():
    rng = np.random.default_rng(0)
    truth = np.zeros((1, 40, 40), int)
    truth[:, 8:30, 12:33] = 1
    image = np.repeat(truth[..., None] * 2.0 - 1.0, 3, -1) + rng.normal(0, 0.1, (1, 40, 40, 3))
    noisy = np.where(rng.uniform(size=truth.shape) < 0.25, 1 - truth, truth)
    probs = jnp.asarray(np.where(noisy[..., None] == np.arange(2), 0.7, 0.3), jnp.float32)
    sharp = refine(probs, jnp.asarray(image, jnp.float32))
    assert (probs.argmax(-1) == truth).mean() < 0.8
    assert (sharp.argmax(-1) == truth).mean() > 0.99


def test_a_batch_is_what_its_images_are_and_an_image_may_be_finer():
    probs, image = random_scene()
    fine = np.repeat(np.repeat(image, 2, 1), 2, 2)
    together = refine(probs, image, radius=1)
    np.testing.assert_allclose(refine(probs, fine, radius=1), together, atol=1e-6)
    np.testing.assert_allclose(refine(probs[1:], image[1:], radius=1)[0], together[1], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_certain_and_half_precision_probabilities_stay_finite_and_sum_to_one(dtype):
    _, image = random_scene()
    certain = jax.nn.one_hot(jnp.arange(42).reshape(6, 7) % 3, 3)[None].repeat(2, 0)
    found = refine(certain.astype(dtype), image, radius=1)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-5)


def test_pixels_that_do_not_exist_do_not_pull_and_may_hold_anything():
    probs, image = random_scene()
    valid = np.ones(probs.shape[:3], np.uint8)
    valid[:, :, 4:] = 0
    expected = refine(probs, image, radius=1, where=valid)
    other, spoiled = probs.copy(), image.copy()
    other[:, :, 4:], spoiled[:, :, 4:] = [1.0, 0.0, np.nan], np.nan
    found = refine(other, spoiled, radius=1, where=valid * 255)
    np.testing.assert_array_equal(found[:, :, :4], expected[:, :, :4])
    np.testing.assert_allclose(found[:, :, 4:], other[:, :, 4:], atol=1e-6)


def test_it_can_be_trained_through():
    probs, image = random_scene()
    gradient = jax.jit(jax.grad(lambda p: mean_field(p, image, radius=1, iterations=2)[..., 0].sum()))(probs)
    assert np.isfinite(gradient).all()
    assert float(jnp.abs(gradient).max()) > 0


def test_one_program_serves_every_weight_and_bandwidth():
    probs, image = random_scene()
    traced = []

    @jax.jit
    def run(kernel):
        traced.append(1)
        return mean_field(probs, image, kernels=(kernel,), radius=1, iterations=2)

    for weight, xy in ((2.0, 3.0), (0.5, 1.0), (0.0, 1.0)):
        expected = refine(probs, image, kernels=({"weight": weight, "xy": xy},), radius=1, iterations=2)
        np.testing.assert_allclose(run(Kernel(weight, xy)), expected, rtol=1e-6)
    assert len(traced) == 1
    np.testing.assert_allclose(expected, probs, atol=1e-5)  # nothing pulls at a weight of 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"iterations": -1}, "iterations"),
        ({"iterations": 1.5}, "iterations"),
        ({"radius": 0}, "radius"),
        ({"kernels": ({"depth": 1.0},)}, "kernels"),
        ({"compatibility": np.zeros((2, 2))}, "compatibility"),
        ({"where": np.ones((2, 6, 6), bool)}, "where"),
        ({"image": jnp.zeros((2, 3, 7, 3))}, "image"),
        ({"image": np.full((2, 6, 7, 3), 200.0)}, "image holds values up to 200"),
        ({"features": {"rgb": np.ones((2, 6, 7))}}, "features may not be called rgb"),
        ({"kernels": ({"weight": np.nan, "xy": 1.0},)}, "kernels has weight nan"),
        ({"probs": np.full((2, 6, 7, 3), -2.0)}, "probs has -2 but must be probabilities"),
    ],
)
def test_bad_arguments_are_named(options, named):
    arguments = dict(zip(("probs", "image"), map(jnp.asarray, random_scene()), strict=True)) | options
    with pytest.raises(ValueError, match=f"mean_field: {named}"):
        mean_field(**arguments)


def test_fractions_are_no_mask():
    probs, image = random_scene()
    with pytest.raises(TypeError, match="mean_field: where is float64 but must be bool"):
        mean_field(probs, image, where=np.full(probs.shape[:3], 0.5))
