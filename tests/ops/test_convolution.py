"""Convolutions in the form that suits CPU have the numbers and derivatives of the library's; a switch chooses."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from semiseg_jax.ops import form as form_module
from semiseg_jax.ops.convolution import convolution_form, convolve, depthwise_convolve

# height, width, channels in and out, kernel, stride, dilation, padding
DENSE = {
    "1x1": (9, 12, 5, 4, 1, 1, 1, (0, 0)),
    "1x1 strided, odd": (9, 11, 5, 4, 1, 2, 1, (0, 0)),
    "1x1 padded": (5, 5, 3, 2, 1, 1, 1, (1, 1)),
    "few channels out, dilation beyond the image": (13, 7, 40, 2, 3, 1, 12, (12, 12)),
    "few channels out, padded on one side": (9, 12, 40, 2, 3, 1, 1, (0, 1)),
    "3x3 strided and dilated, padded on one side": (9, 12, 5, 4, 3, 2, 2, (0, 1)),
}
# height, width, kernel, stride, dilation, padding
DEPTHWISE = {
    "3x3": (10, 13, 3, 1, 1, (1, 1)),
    "3x3 padded on one side": (10, 13, 3, 1, 1, (0, 1)),
    "3x3 strided": (10, 13, 3, 2, 1, (1, 1)),
    "3x3 strided, one side": (9, 12, 3, 2, 1, (0, 1)),
    "3x3 strided and dilated": (10, 13, 3, 2, 2, (2, 2)),
    "3x3, dilation beyond the image": (7, 5, 3, 1, 8, (8, 8)),
    "2x2 not padded": (6, 5, 2, 1, 1, (0, 0)),
    "3x3 on one pixel": (1, 1, 3, 1, 1, (1, 1)),
}
BOTH = pytest.mark.parametrize("function", [convolve, depthwise_convolve])


def library(x, kernel, stride, dilation, pad, groups=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [pad, pad], rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def example(function, batch=2):
    """A function of x and kernel that is written in two ways, and arguments for it."""
    shape = (1, 1, 6, 4) if function is convolve else (3, 3, 1, 6)
    pads = [(0, 0), (0, 0)] if function is convolve else [(1, 1), (1, 1)]
    return lambda x, k: function(x, k, stride=2, pads=pads), random(batch, 8, 7, 6), random(*shape, seed=1)


def of_form(form, function):
    def chosen(*arguments):
        with convolution_form(form):
            return function(*arguments)

    return chosen


def derivatives(function, x, kernel):
    """Value, both gradients, a forward derivative, and how the gradients change along a direction."""
    shape = jax.eval_shape(function, x, kernel)
    weigh, along = random(*shape.shape, seed=2), (random(*x.shape, seed=3), random(*kernel.shape, seed=4))

    def loss(x, kernel):
        return jnp.sum(weigh * jnp.square(function(x, kernel)))

    gradients, changes = jax.jvp(jax.grad(loss, argnums=(0, 1)), (x, kernel), along)
    return *jax.jvp(function, (x, kernel), along), *gradients, *changes


def assert_same_derivatives(ours, expected, x, kernel):
    found, wanted = (jax.jit(derivatives, static_argnums=0)(f, x, kernel) for f in (ours, expected))
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1.0, np.abs(other).max()))


@pytest.mark.parametrize("case", DENSE.values(), ids=DENSE)
def test_dense_convolution_and_its_derivatives_equal_the_library(case):
    height, width, inputs, features, size, stride, dilation, pad = case
    x, kernel = random(2, height, width, inputs), random(size, size, inputs, features, seed=1)
    assert_same_derivatives(
        of_form("cpu", lambda x, k: convolve(x, k, stride=stride, dilation=dilation, pads=[pad, pad])),
        lambda x, k: library(x, k, stride, dilation, pad), x, kernel,
    )  # fmt: skip


@pytest.mark.parametrize("case", DEPTHWISE.values(), ids=DEPTHWISE)
def test_depthwise_convolution_and_its_derivatives_equal_the_library(case):
    height, width, size, stride, dilation, pad = case
    x, kernel = random(2, height, width, 6), random(size, size, 1, 6, seed=1)
    assert_same_derivatives(
        of_form("cpu", lambda x, k: depthwise_convolve(x, k, stride=stride, dilation=dilation, pads=[pad, pad])),
        lambda x, k: library(x, k, stride, dilation, pad, groups=6), x, kernel,
    )  # fmt: skip


@BOTH
def test_half_precision_keeps_its_dtype_and_sums_gradients_in_single(function):
    """Summed in bfloat16, 4096 products of 1 would stop growing at 256."""
    call, _, kernel = example(function)
    x, kernel = jnp.ones((1, 128, 128, 6), jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
    value, pull = jax.vjp(of_form("cpu", call), x, kernel)
    gradients = pull(jnp.ones_like(value))
    assert {array.dtype for array in (value, *gradients)} == {jnp.dtype("bfloat16")}
    assert gradients[1].max() == 4096


@pytest.mark.parametrize("check", [True, False])
@BOTH
def test_gradients_over_two_devices_are_those_of_one(function, check):
    call, x, kernel = example(function)

    def loss(kernel, x):
        return jnp.mean(jnp.square(call(x, kernel)))

    def mapped(kernel, x):
        gradient = jax.grad(lambda kernel, x: jax.lax.pmean(loss(kernel, x), "data"))(kernel, x)
        return jax.lax.pmean(gradient, "data")

    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    both = jax.jit(
        jax.shard_map(mapped, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=check)
    )(kernel, x)  # fmt: skip
    np.testing.assert_allclose(both, jax.grad(loss)(kernel, x), rtol=1e-4, atol=1e-5)


@BOTH
def test_a_batch_may_be_split_over_explicit_axes(function):
    call, x, kernel = example(function)
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Explicit,))
    gradients = jax.jit(jax.grad(lambda x, kernel: jnp.sum(jnp.square(call(x, kernel))), argnums=(0, 1)))
    expected = gradients(x, kernel)
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, P("data"))), jax.device_put(kernel, NamedSharding(mesh, P()))
        found = gradients(*split)
    assert jax.typeof(found[0]).sharding.spec[0] == "data"
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["library", "cpu"])
@BOTH
def test_an_empty_batch_has_no_values_and_zero_gradients(function, form):
    call, x, kernel = example(function, batch=0)
    value, pull = jax.vjp(of_form(form, call), x, kernel)
    assert value.shape[0] == 0
    input_gradient, kernel_gradient = pull(value)
    assert input_gradient.shape == x.shape
    np.testing.assert_array_equal(kernel_gradient, np.zeros_like(kernel))


def uses_the_library(function, *arguments):
    return "conv_general_dilated" in str(jax.make_jaxpr(function)(*arguments))


@BOTH
def test_the_form_is_the_librarys_but_on_cpu(function, monkeypatch):
    call, x, kernel = example(function)
    assert not uses_the_library(call, x, kernel)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert uses_the_library(of_form("auto", lambda *both: call(*both)), x, kernel)
    assert not uses_the_library(of_form("cpu", lambda *both: call(*both)), x, kernel)


@BOTH
def test_the_switch_chooses_also_for_functions_that_were_traced_before(function):
    call, x, kernel = example(function)
    traced = jax.jit(call)
    programs = {"auto": traced.lower(x, kernel).as_text()}
    for form in ("library", "cpu"):
        with convolution_form(form):
            programs[form] = traced.lower(x, kernel).as_text()
    assert programs["auto"] == programs["cpu"]
    assert ["convolution" in programs[form] for form in ("library", "cpu")] == [True, False]
    assert traced.lower(x, kernel).as_text() == programs["auto"]


def test_the_environment_sets_the_default(monkeypatch):
    monkeypatch.setenv("SEMISEG_CONVOLUTIONS", "library")
    spec = importlib.util.spec_from_file_location("form_again", form_module.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert form_module.for_cpu()
    assert not again.for_cpu()


def test_an_unknown_form_is_an_error():
    with pytest.raises(ValueError, match=r"convolution_form: form .* is 'xla' but must be one of auto, library, cpu"):
        convolution_form("xla")
