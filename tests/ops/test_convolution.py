"""Convolutions in the form that suits CPU have the numbers and gradients of the library's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from semiseg_jax.ops import convolution
from semiseg_jax.ops.convolution import convolve, depthwise_convolve, settle

# height, width, channels in and out, kernel, stride, dilation, padding
DENSE = {
    "1x1": (9, 12, 5, 4, 1, 1, 1, (0, 0)),
    "1x1 strided, odd": (9, 11, 5, 4, 1, 2, 1, (0, 0)),
    "1x1 padded": (5, 5, 3, 2, 1, 1, 1, (1, 1)),
    "3x3": (9, 12, 5, 4, 3, 1, 1, (1, 1)),
    "3x3 dilated": (9, 12, 5, 4, 3, 1, 2, (2, 2)),
    "3x3 strided": (9, 12, 5, 4, 3, 2, 1, (1, 1)),
    "3x3 strided, one side": (8, 12, 5, 4, 3, 2, 1, (0, 1)),
    "3x3 strided and dilated": (9, 12, 5, 4, 3, 2, 2, (2, 2)),
    "few channels out, dilation beyond the image": (13, 7, 40, 2, 3, 1, 12, (12, 12)),
    "few channels out, no padding": (9, 12, 40, 2, 3, 1, 1, (0, 0)),
    "4x4 strided": (9, 12, 5, 4, 4, 2, 1, (1, 1)),
    "4x4 strided, smallest": (2, 2, 5, 4, 4, 2, 1, (1, 1)),
    "7x7 strided": (11, 12, 3, 6, 7, 2, 1, (3, 3)),
    "2x2 stride 2": (5, 7, 3, 4, 2, 2, 1, (0, 0)),
    "5x5 stride 3": (14, 11, 3, 4, 5, 3, 1, (2, 2)),
}


def library(x, kernel, stride, dilation, pad, groups=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [pad, pad], rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip


def assert_same_numbers_and_gradients(ours, expected, x, kernel, rtol=1e-4):
    found, pull = jax.vjp(jax.jit(ours), x, kernel)
    wanted, expected_pull = jax.vjp(expected, x, kernel)
    assert found.shape == wanted.shape
    cotangent = np.random.default_rng(1).normal(size=found.shape).astype(np.float32)
    for one, other in zip((found, *pull(cotangent)), (wanted, *expected_pull(cotangent)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, atol=rtol * np.abs(other).max())


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", DENSE.values(), ids=DENSE)
def test_dense_convolution_equals_the_library(case, batch):
    height, width, inputs, features, size, stride, dilation, pad = case
    x, kernel = random(batch, height, width, inputs), random(size, size, inputs, features)
    assert_same_numbers_and_gradients(
        lambda x, k: convolve(x, k, stride=stride, dilation=dilation, pads=[pad, pad]),
        lambda x, k: library(x, k, stride, dilation, pad), x, kernel,
    )  # fmt: skip


def test_wide_kernel_gradient_equals_the_library(monkeypatch):
    monkeypatch.setattr(convolution, "_WIDE", 4)
    x, kernel = random(2, 9, 7, 6), random(3, 3, 6, 5)
    assert_same_numbers_and_gradients(
        lambda x, k: convolve(x, k, dilation=2, pads=[(2, 2), (2, 2)]),
        lambda x, k: library(x, k, 1, 2, (2, 2)),
        x,
        kernel,
    )


@pytest.mark.parametrize("band", [1, 100, 1 << 18])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("dilation", "pad"), [(1, (1, 1)), (1, (0, 1)), (4, (4, 4)), (2, (0, 0))])
def test_depthwise_convolution_equals_the_library(monkeypatch, stride, dilation, pad, band):
    monkeypatch.setattr(convolution, "_BAND", band)
    x, kernel = random(2, 10, 13, 6), random(3, 3, 1, 6)
    assert_same_numbers_and_gradients(
        lambda x, k: depthwise_convolve(x, k, stride=stride, dilation=dilation, pads=[pad, pad]),
        lambda x, k: library(x, k, stride, dilation, pad, groups=6), x, kernel,
    )  # fmt: skip


@pytest.mark.parametrize("function", [convolve, depthwise_convolve])
def test_half_precision_keeps_its_dtype(function):
    inputs = 1 if function is depthwise_convolve else 6
    x, kernel = jnp.asarray(random(2, 8, 8, 6), jnp.bfloat16), jnp.asarray(random(3, 3, inputs, 6), jnp.bfloat16)

    def total(x, kernel):
        return function(x, kernel, pads=[(1, 1), (1, 1)]).astype(jnp.float32).sum()

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(x, kernel)
    assert {gradient.dtype for gradient in gradients} == {jnp.dtype("bfloat16")}
    assert function(x, kernel, pads=[(1, 1), (1, 1)]).dtype == jnp.bfloat16


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("function", [convolve, depthwise_convolve])
def test_gradients_over_two_devices_are_those_of_one(function, check):
    inputs = 1 if function is depthwise_convolve else 6
    x, kernel = random(4, 8, 8, 6), random(3, 3, inputs, 6)

    def loss(kernel, x):
        return jnp.mean(jnp.square(settle(function(x, kernel, stride=2, pads=[(1, 1), (1, 1)]))))

    def mapped(kernel, x):
        gradient = jax.grad(lambda kernel, x: jax.lax.pmean(loss(kernel, x), "data"))(kernel, x)
        return jax.lax.pmean(gradient, "data")

    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    both = jax.jit(
        jax.shard_map(mapped, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=check)
    )(kernel, x)  # fmt: skip
    np.testing.assert_allclose(both, jax.grad(loss)(kernel, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, np.inf, -np.inf, np.nan])
def test_settle_changes_nothing(value):
    x = random(3, 4)
    x[0, 0] = value
    settled, pull = jax.vjp(jax.jit(settle), x)
    np.testing.assert_array_equal(settled, x)
    np.testing.assert_array_equal(pull(x)[0], x)


def test_vmap_equals_a_larger_batch():
    x, kernel = random(3, 2, 8, 8, 6), random(3, 3, 6, 4)
    one = jax.vmap(lambda x: convolve(x, kernel, pads=[(1, 1), (1, 1)]))(x)
    other = convolve(x.reshape(6, 8, 8, 6), kernel, pads=[(1, 1), (1, 1)])
    np.testing.assert_allclose(one.reshape(other.shape), other, rtol=1e-4, atol=1e-4)
