"""The discriminator: published numbers, shapes, the class-agnostic variant, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optional_files import optional_files

from semiseg_jax.losses import adversarial_loss, discriminator_loss
from semiseg_jax.models import Discriminator

FIXTURE = optional_files() / "fixtures" / "advsemiseg_discriminator.npz"


def probs(batch: int = 2, height: int = 64, width: int = 72, classes: int = 4) -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=(batch, height, width, classes)).astype(np.float32)
    return np.asarray(jax.nn.softmax(logits))


def test_it_has_as_many_parameters_as_published():
    shapes = jax.eval_shape(Discriminator().init, jax.random.key(0), jnp.zeros((1, 64, 64, 21)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 2_783_169


@pytest.mark.parametrize(("batch", "size"), [(1, (32, 32)), (3, (65, 97))])
def test_one_logit_a_pixel(size, batch):
    x = jnp.asarray(probs(batch, *size))
    logits, variables = Discriminator(features=4).init_with_output(jax.random.key(0), x)
    assert logits.shape == (batch, *size)
    assert logits.dtype == jnp.float32
    low = Discriminator(features=4).apply(variables, x, method="low_logits")
    assert low.shape == (batch, size[0] // 32, size[1] // 32)
    # Aligned corners: the corners of the map are those of the low map, and what is between them lies evenly.
    columns = low.shape[2]
    at = np.interp(np.arange(size[1]), np.linspace(0, size[1] - 1, columns), np.arange(columns))
    expected = [np.interp(at, np.arange(columns), row) for row in low[:, 0]]
    np.testing.assert_allclose(logits[:, 0], expected, atol=1e-6)


@pytest.mark.heavy
@pytest.mark.parametrize(("stride", "side", "window"), [(32, 4, 94), (16, 7, 94), (8, 14, 70)])
def test_confidences_may_lie_closer(stride, side, window):
    model, x = Discriminator(features=4, output_stride=stride), jnp.asarray(probs(1, 128, 128))
    logits, variables = model.init_with_output(jax.random.key(0), x)
    assert logits.shape == (1, 128, 128)

    def low(x, row, column):
        return model.apply(variables, x, method="low_logits")[0, row, column]

    assert model.apply(variables, x, method="low_logits").shape == (1, side, side)
    # One confidence sees its window and nothing of the rest.
    middle = side // 2 - 1
    seen = np.any(jax.grad(low)(x, middle, middle)[0] != 0, axis=(1, 2))
    first, last = np.flatnonzero(seen)[[0, -1]]
    assert last - first + 1 == window


@pytest.mark.heavy
def test_half_precision_is_close():
    x = probs()
    logits, variables = Discriminator(features=8).init_with_output(jax.random.key(0), x)
    half = Discriminator(features=8, dtype=jnp.bfloat16).apply(variables, x)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, logits, atol=0.02)


@pytest.mark.parametrize(("option", "channels"), [("sees_image", 4), ("class_agnostic", 2)])
def test_it_sees_the_image_where_asked_to(option, channels):
    model = Discriminator(features=4, **{option: True})
    x, image = probs(), np.random.default_rng(1).normal(size=(2, 64, 72, 3)).astype(np.float32)
    logits, variables = model.init_with_output(jax.random.key(0), x, image)
    assert variables["params"]["conv1"]["kernel"].shape == (4, 4, channels + 3, 4)
    assert not np.allclose(model.apply(variables, x, image[::-1]), logits)
    assert not np.allclose(model.apply(variables, x[..., ::-1], image), logits)


def test_class_agnostic_sees_background_against_the_rest():
    model, x, image = Discriminator(features=4, class_agnostic=True), probs(), np.ones((2, 64, 72, 3), np.float32)
    logits, variables = model.init_with_output(jax.random.key(0), x, image)
    np.testing.assert_allclose(model.apply(variables, x[..., [0, 3, 1, 2]], image), logits, atol=1e-5)
    assert not np.allclose(model.apply(variables, x[..., ::-1], image), logits)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="probs is 31x64 but must be at least 32x32"):
        Discriminator().init(jax.random.key(0), probs(1, 31, 64))
    with pytest.raises(ValueError, match="output_stride is 4 but must be one of 8, 16, 32"):
        Discriminator(output_stride=4).init(jax.random.key(0), probs())
    with pytest.raises(ValueError, match="image is missing"):
        Discriminator(sees_image=True).init(jax.random.key(0), probs())
    with pytest.raises(ValueError, match=r"probs is \[64,72,4\] but must be"):
        Discriminator().init(jax.random.key(0), probs()[0])


@pytest.mark.heavy
@pytest.mark.skipif(not FIXTURE.is_file(), reason="advsemiseg_discriminator.npz is absent from SEMISEG_FIXTURES")
def test_published_numbers():
    stored = np.load(FIXTURE)

    def tree(prefix: str) -> dict:
        layers: dict = {}
        for key in stored.files:
            if key.startswith(prefix):
                layer, leaf = key.removeprefix(prefix).split(".")
                value = stored[key].transpose(2, 3, 1, 0) if leaf == "weight" else stored[key]
                layers.setdefault(layer, {})["kernel" if leaf == "weight" else "bias"] = value
        return layers

    def last(key: str) -> np.ndarray:
        return stored[key].transpose(0, 2, 3, 1)

    model, variables = Discriminator(features=8), {"params": tree("param/")}
    x, counts = last("input"), ~last("ignore_mask")[..., 0]
    low = model.apply(variables, x, method="low_logits")
    np.testing.assert_allclose(low, last("output")[..., 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.apply(variables, x), last("output_up")[..., 0], rtol=1e-4, atol=1e-6)
    odd = model.apply(variables, last("input_odd"), method="low_logits")
    np.testing.assert_allclose(odd, last("output_odd")[..., 0], rtol=1e-4, atol=1e-6)

    def fooled(x):
        return adversarial_loss(model.apply(variables, x), where=counts)

    loss, gradient = jax.value_and_grad(fooled)(jnp.asarray(x))
    np.testing.assert_allclose(loss, stored["bce_target1"], rtol=1e-5)
    expected = last("grad_input_bce1")
    np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())

    def seen_through(params):
        # The mean of the losses on real and on fake maps; without any real pixel half of the loss on fake ones.
        logits = model.apply({"params": params}, x)
        return 2 * discriminator_loss(logits, logits, real_where=jnp.zeros_like(counts), fake_where=counts)

    loss, gradients = jax.value_and_grad(seen_through)(variables["params"])
    np.testing.assert_allclose(loss, stored["bce_target0"], rtol=1e-5)
    for layer, leaves in tree("grad_bce0/").items():
        for leaf, expected in leaves.items():
            np.testing.assert_allclose(gradients[layer][leaf], expected, atol=1e-4 * np.abs(expected).max())
