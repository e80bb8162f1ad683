"""Norms, pooling and resizing: what learns and moves, over devices too, and sizes at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from semiseg_jax.engine.parallel import AXIS, Devices
from semiseg_jax.models.layers import NORMS, Conv, Norm, max_pool, paddings, resize, to_range
from semiseg_jax.ops.images import MEAN, STD


def features(batch=4, size=(3, 5), channels=16):
    return np.random.default_rng(0).normal(2, 3, (batch, *size, channels)).astype(np.float32)


def run(norm, variables, x, train=True):
    return norm.apply(variables, x, train, mutable=["batch_stats"])


def test_a_single_value_is_normalised_by_what_is_stored():
    """As pooled features of one row are: by a variance of 0, evaluation would divide later."""
    norm, x = Norm("batch"), features(batch=1, size=(1, 1))
    variables = norm.init(jax.random.key(0), features(), True)
    variables["batch_stats"] = {"mean": np.full(16, 2.0, np.float32), "var": np.full(16, 9.0, np.float32)}
    y, updated = run(norm, variables, x)
    np.testing.assert_allclose(y, (x - 2) / 3, rtol=1e-5)
    for name, value in updated["batch_stats"].items():
        np.testing.assert_array_equal(value, variables["batch_stats"][name])


@pytest.mark.parametrize(
    ("kind", "moves", "learns"),
    [("batch", True, True), ("affine_frozen", True, False), ("frozen", False, False), ("group", False, True)],
)
def test_norms_learn_and_move_what_they_should(kind, moves, learns):
    norm, x = Norm(kind), features()
    variables = norm.init(jax.random.key(0), x, True)
    assert ("batch_stats" in variables) == (kind != "group")

    def loss(params):
        y, updated = run(norm, {**variables, "params": params}, x)
        return jnp.sum(y**3), updated

    gradients, updated = jax.grad(loss, has_aux=True)(variables["params"])
    assert all(np.any(gradients[name]) == learns for name in ("scale", "bias"))
    if moves:
        stats = updated["batch_stats"]
        np.testing.assert_allclose(stats["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
        np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-4)
    elif kind == "frozen":
        jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def test_none_is_nothing():
    norm, x = Norm("none"), features()
    assert not norm.init(jax.random.key(0), x, True)
    np.testing.assert_array_equal(norm.apply({}, x, True), x)


@pytest.mark.parametrize("kind", ["batch", "affine_frozen", "group"])
def test_normalised_values_have_mean_zero_and_variance_one(kind):
    norm, x = Norm(kind), features()
    y = run(norm, norm.init(jax.random.key(0), x, True), x)[0]
    split = y.reshape(4, -1, 2, 8) if kind == "group" else y.reshape(-1, 16)
    axes = (1, 3) if kind == "group" else 0
    np.testing.assert_allclose(split.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(split.var(axes), 1, rtol=1e-4)


@pytest.mark.parametrize("kind", ["batch", "affine_frozen", "frozen"])
def test_stored_statistics_are_used_outside_training(kind):
    norm, x = Norm(kind), features()
    variables = norm.init(jax.random.key(0), x, True)
    variables["batch_stats"]["mean"] += 3
    variables["batch_stats"]["var"] *= 4
    np.testing.assert_allclose(norm.apply(variables, x, False), (x - 3) / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["batch", "affine_frozen"])
def test_two_devices_give_the_statistics_and_gradients_of_one(kind):
    x = features() * np.array([1, 1, 5, 5], np.float32)[:, None, None, None]
    alone, both = Norm(kind), Norm(kind, axis_name=AXIS)
    variables = alone.init(jax.random.key(0), x, True)

    def values(norm):
        def loss(x):
            y, updated = run(norm, variables, x)
            return jnp.sum(jnp.sin(y)), (y, updated)

        return jax.grad(loss, has_aux=True)

    devices = Devices.create()
    mapped = jax.shard_map(values(both), mesh=devices.mesh, in_specs=P(AXIS), out_specs=(P(AXIS), (P(AXIS), P())))
    found, expected = jax.jit(mapped)(x), values(alone)(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected)


@pytest.mark.parametrize("kind", NORMS)
def test_half_precision_stays_close(kind):
    x = features()
    single, half = Norm(kind), Norm(kind, dtype=jnp.bfloat16)
    variables = single.init(jax.random.key(0), x, True)
    y = run(half, variables, x.astype(jnp.bfloat16))[0]
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), run(single, variables, x)[0], atol=0.1)


def test_one_pixel_gives_no_nan():
    x = np.ones((1, 1, 1, 8), np.float32)
    norm = Norm("batch")
    y, updated = run(norm, norm.init(jax.random.key(0), x, True), x)
    assert all(np.isfinite(value).all() for value in jax.tree.leaves((y, updated)))


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (3, 1, 4), (1, 2, 1), (4, 2, 1)])
def test_same_padding_is_that_of_the_library(size, kernel, stride, dilation):
    reach = dilation * (kernel - 1) + 1
    expected = jax.lax.padtype_to_pads((size,), (reach,), (stride,), "SAME")[0]
    assert paddings(size, kernel, stride, dilation, "same") == tuple(expected)


def test_unknown_padding_is_an_error():
    with pytest.raises(ValueError, match="unknown padding 'valid'; known: symmetric, same"):
        Conv(3, 3, padding="valid").init(jax.random.key(0), features())


@pytest.mark.parametrize(("size", "floor", "ceil"), [(5, 3, 3), (6, 3, 4), (161, 81, 81), (160, 80, 81), (1, 1, 1)])
def test_pooling_rounds_down_or_up(size, floor, ceil):
    x = -np.ones((1, size, size, 1), np.float32)  # padding must not win
    for rounds_up, expected in ((False, floor), (True, ceil)):
        pooled = max_pool(x, ceil=rounds_up)
        assert pooled.shape == (1, expected, expected, 1)
        np.testing.assert_array_equal(pooled, -1)


@pytest.mark.parametrize("align_corners", [False, True])
def test_resizing_keeps_constants_and_own_size(align_corners):
    x = features(1, (3, 5), 2)
    assert resize(x, (3, 5), align_corners=align_corners) is x
    flat = resize(np.ones((1, 3, 5, 2), np.float32), (7, 4), align_corners=align_corners)
    np.testing.assert_allclose(flat, 1, rtol=1e-6)
    corners = resize(x, (9, 11), align_corners=align_corners)[:, ::8, ::10]
    if align_corners:
        np.testing.assert_allclose(corners, x[:, ::2, ::4], rtol=1e-5)


def test_ranges_of_colours():
    unit = np.random.default_rng(0).uniform(size=(2, 2, 3)).astype(np.float32)
    standardised = (unit - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(to_range(standardised, "signed"), 2 * unit - 1, atol=1e-6)
    caffe = 255 * unit - np.array([122.67891434, 116.66876762, 104.00698793])
    np.testing.assert_allclose(to_range(standardised, "bytes"), caffe, atol=1e-4)
    assert to_range(standardised, "standardized") is standardised


@pytest.mark.parametrize(
    "make", [lambda dtype: Norm("batch", dtype=dtype), lambda dtype: Conv(16, 1, use_bias=True, dtype=dtype)]
)
def test_gradients_summed_over_all_pixels_keep_their_precision_in_bfloat16(make):
    """Summed in bfloat16, they lose a share that grows with the size of the map, and even their sign."""
    x = jnp.asarray(features(size=(64, 64)), jnp.bfloat16).astype(jnp.float32)
    weigh = np.random.default_rng(1).normal(1, 1, x.shape).astype(np.float32)
    arguments = (True,) if isinstance(make(jnp.float32), Norm) else ()
    variables = make(jnp.float32).init(jax.random.key(0), x, *arguments)

    def slopes(dtype):
        def total(params):
            made = make(dtype).apply({**variables, "params": params}, x, *arguments, mutable=["batch_stats"])[0]
            return jnp.sum(made.astype(jnp.float32) * weigh)

        return jax.grad(total)(variables["params"])

    exact, half = slopes(jnp.float32), slopes(jnp.bfloat16)
    for name in exact.keys() - {"kernel"}:
        np.testing.assert_allclose(
            half[name], exact[name], atol=0.01 * np.sqrt(x[..., 0].size), rtol=0.01, err_msg=name
        )
