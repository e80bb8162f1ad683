"""The U-Net: shapes, dtypes, norms over devices, and messages for options that do not exist."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from semiseg_jax.engine.parallel import AXIS, Devices
from semiseg_jax.models import make_model
from semiseg_jax.models.segmenter import perturbed

CLASSES = 3
WIDTHS = (8, 16)


def images(batch: int = 2, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize(("batch", "size"), [(1, (16, 24)), (2, (31, 9))])
def test_logits_have_the_size_of_the_image(size, batch):
    model = make_model("unet", CLASSES, widths=WIDTHS)
    shape = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], images(batch, *size))
    assert shape.shape == (batch, *size, CLASSES)
    assert shape.dtype == jnp.float32


@pytest.mark.parametrize("widths", [(8,), (8, 8, 16), [4, 4]])
def test_any_number_of_levels_works(widths):
    model = make_model("unet", CLASSES, widths=widths)
    logits, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), images(1, 13, 10))
    assert logits.shape == (1, 13, 10, CLASSES)
    assert {f"down{i}" for i in range(len(widths))} <= variables["params"].keys()


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_output_and_parameters_are_float32_and_finite(norm, dtype):
    model = make_model("unet", CLASSES, dtype=dtype, norm=norm, widths=WIDTHS)
    variables = jax.jit(model.init)(jax.random.key(0), images())
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    logits, updated = jax.jit(apply)(variables, images())
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    assert {x.dtype for x in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}
    assert ("batch_stats" in variables) == (norm == "batch")


@pytest.mark.heavy
def test_bfloat16_is_close_to_float32_but_not_the_same():
    single, half = (make_model("unet", CLASSES, dtype=dtype, widths=WIDTHS) for dtype in ("float32", "bfloat16"))
    variables = single.init(jax.random.key(0), images())
    exact, rounded = single.apply(variables, images()), half.apply(variables, images())
    np.testing.assert_allclose(rounded, exact, atol=0.1)
    assert not np.array_equal(rounded, exact)


@pytest.mark.parametrize("norm", ["group", "none"])
def test_images_of_a_batch_do_not_see_each_other_without_batch_norm(norm):
    model = make_model("unet", CLASSES, norm=norm, widths=WIDTHS)
    variables = model.init(jax.random.key(0), images())
    together = model.apply(variables, images(), train=True)
    alone = model.apply(variables, images()[:1], train=True)
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)


def test_batch_norm_over_two_devices_equals_one_device_with_the_global_batch():
    alone = make_model("unet", CLASSES, norm="batch", widths=WIDTHS)
    synchronised = make_model("unet", CLASSES, norm="batch", widths=WIDTHS, axis_name=AXIS)
    # Rows on the two devices differ in mean and spread, so that statistics of one device would be wrong.
    batch = images(4) * np.array([1, 1, 5, 5], np.float32)[:, None, None, None]
    batch[2:] += 3
    variables = alone.init(jax.random.key(0), batch)

    def forward(model):
        return lambda variables, x: model.apply(variables, x, train=True, mutable=["batch_stats"])

    expected_logits, expected_stats = forward(alone)(variables, batch)
    devices = Devices.create()
    assert devices.count == 2
    mapped = jax.shard_map(forward(synchronised), mesh=devices.mesh, in_specs=(P(), P(AXIS)), out_specs=(P(AXIS), P()))
    logits, stats = jax.jit(mapped)(variables, batch)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-3, atol=1e-4)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), stats, expected_stats)


def test_batch_norm_uses_stored_statistics_outside_training():
    model = make_model("unet", CLASSES, norm="batch", widths=WIDTHS, axis_name=AXIS)
    variables = model.init(jax.random.key(0), images())
    together = model.apply(variables, images(), train=False)
    alone = model.apply(variables, images()[:1], train=False)
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)


def test_unknown_norm_fails_with_the_known_ones():
    model = make_model("unet", CLASSES, norm="instance", widths=WIDTHS)
    with pytest.raises(
        ValueError, match=r"unknown model\.norm 'instance'; known: batch, affine_frozen, frozen, group, none"
    ):
        model.init(jax.random.key(0), images())


def test_unknown_model_fails_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown model 'vnet'\. Did you mean 'unet'\? Known models: .*unet"):
        make_model("vnet", CLASSES)


def test_unknown_option_fails_with_the_known_ones():
    with pytest.raises(
        ValueError, match="model 'unet' has no option depth; its options: norm, remat, variance, widths"
    ):
        make_model("unet", CLASSES, depth=3)


def test_unknown_dtype_fails_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown dtype 'float16'; known: float32, bfloat16"):
        make_model("unet", CLASSES, dtype="float16")


def test_low_logits_cover_the_image_and_not_its_padding():
    outputs = jax.eval_shape(
        lambda key, x: make_model("unet", 3, widths=(4, 8)).init_with_output(key, x, method="outputs")[0],
        jax.random.key(0),
        jnp.zeros((1, 50, 37, 3)),
    )
    assert outputs["logits"].shape == (1, 50, 37, 3)
    assert outputs["low_logits"].shape == (1, 25, 19, 3)


def test_what_the_variance_learns_does_not_change_the_features():
    model = make_model("unet", CLASSES, widths=(4,), variance=True)
    params = model.init(jax.random.key(0), images(), method="outputs")["params"]

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(model.apply({"params": params}, images(), method="outputs")["variance"])

    found = gradient(params)
    assert np.any(found.pop("variance")["kernel"])
    assert not any(np.any(x) for x in jax.tree.leaves(found))


def test_perturbed_rows_lose_half_of_their_channels_and_double_the_others():
    features = [jnp.ones((3, 2, 2, 64)), jnp.ones((3, 1, 1, 64))]
    for x, level in zip(perturbed(features, (1, jnp.arange(2))), features, strict=True):
        np.testing.assert_array_equal(x[:3], level)
        assert x.shape[0] == 5
        assert set(np.unique(x[3:])) == {0.0, 2.0}
        np.testing.assert_array_equal(x[3:], jnp.broadcast_to(x[3:, :1, :1], x[3:].shape))  # whole channels
        assert 0.7 < float(x[3:].mean()) < 1.3
