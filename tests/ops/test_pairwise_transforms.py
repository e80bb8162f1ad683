"""local_filter and potts_energy under grad, jvp, vmap, checkpoint and device maps; where they run; what they need."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import filtered, kernel_matrix, potts
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from two_devices import loss_and_grad_on_two_devices

from semiseg_jax.ops import grid_diffusion, local_filter, potts_energy

SHAPE = (2, 5, 6, 3)
OPTIONS = {"radius": 1, "xy_sigma": 1.0}


def make_inputs(shape=SHAPE, seed=0):
    """-> p, features, source and target gates"""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(shape[-1]), shape[:3]).astype(np.float32)
    features = rng.normal(0, 0.7, (*shape[:3], 3)).astype(np.float32)
    source, target = rng.uniform(size=(2, *shape[:3])).astype(np.float32)
    return p, features, np.where(source < 0.3, 0, source), np.where(target < 0.3, 0, target)


def brute_kernel(features):
    return kernel_matrix(features.shape[:3], features, **OPTIONS)


def test_the_gradient_of_local_filter_is_the_transposed_sum_of_the_cotangent():
    p, features, _, _ = make_inputs()
    cotangent = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    (grad,) = jax.jit(lambda p, y: jax.vjp(lambda p: local_filter(p, features, **OPTIONS), p)[1](y))(p, cotangent)
    np.testing.assert_allclose(grad, filtered(cotangent, brute_kernel(features).swapaxes(1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", [local_filter, grid_diffusion])
def test_a_batch_on_a_mesh_with_explicit_axes_gives_the_same_result_on_as_many_devices(function):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    inputs = make_inputs()[:2]
    spread = [jax.device_put(array, NamedSharding(mesh, PartitionSpec("data"))) for array in inputs]
    run = jax.jit(functools.partial(function, radius=1))
    found = run(*spread)
    assert len(found.sharding.device_set) == 2
    np.testing.assert_allclose(found, run(*inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", ["local_filter", "potts_energy"])
def test_gradients_are_those_of_finite_differences_in_float64(function):
    p, features, source, target = make_inputs()
    direction, weight = np.random.default_rng(1).normal(size=(2, *SHAPE))

    def scalar(p):
        if function == "local_filter":
            return jnp.sum(weight * local_filter(jnp.sin(p), features, **OPTIONS))
        return potts_energy(jnp.sin(p), features, source=source, target=target, **OPTIONS)

    with jax.enable_x64(True):
        p, step = jnp.asarray(p, jnp.float64), 1e-4 * direction
        value, grad = jax.jit(jax.value_and_grad(scalar))(p)
        ahead, behind = (jax.jit(scalar)(p + sign * step) for sign in (1, -1))
    assert value.dtype == grad.dtype == np.float64
    np.testing.assert_allclose((ahead - behind) / 2e-4, np.vdot(grad, direction), rtol=1e-7)


def test_reverse_over_reverse_through_the_energy_is_its_hessian():
    p, features, source, target = make_inputs()
    vector = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    grad = jax.grad(lambda p: potts_energy(p, features, source=source, target=target, **OPTIONS))
    product = jax.jit(jax.grad(lambda p: jnp.vdot(grad(p), vector)))(p)
    expected = potts(vector, brute_kernel(features), source, target)[1]
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-5)


def test_reverse_over_reverse_through_local_filter_applies_the_kernel_twice():
    p, features, _, _ = make_inputs()
    vector = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    grad = jax.grad(lambda p: jnp.sum(local_filter(p, features, **OPTIONS) ** 2) / 2)
    product = jax.jit(jax.grad(lambda p: jnp.vdot(grad(p), vector)))(p)
    kernel = brute_kernel(features)
    np.testing.assert_allclose(product, filtered(filtered(vector, kernel), kernel), rtol=1e-5, atol=1e-5)


def test_forward_mode_through_the_energy_is_the_gradient_times_the_tangent():
    p, features, source, target = make_inputs()
    gates = {"source": source, "target": target}
    tangent = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    energy = functools.partial(potts_energy, features=features, **gates, **OPTIONS)
    value, derivative = jax.jit(lambda p: jax.jvp(energy, (p,), (tangent,)))(p)
    expected, grad = jax.jit(jax.value_and_grad(energy))(p)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(derivative, jnp.vdot(grad, tangent), rtol=1e-5)


def test_forward_mode_through_local_filter_raises_a_type_error():
    p, features, _, _ = make_inputs()
    with pytest.raises(TypeError, match="jvp"):
        jax.jvp(lambda p: local_filter(p, features, **OPTIONS), (p,), (p,))


@pytest.mark.parametrize("mapped", ["p alone", "everything"])
def test_vmap_equals_a_loop(mapped):
    rows = [make_inputs(seed=seed) for seed in range(2)]
    if mapped == "p alone":
        rows = [(row[0], *rows[0][1:]) for row in rows]

    def value_and_grad(p, features, source, target):
        return jax.value_and_grad(lambda p: potts_energy(p, features, source=source, target=target, **OPTIONS))(p)

    one = jax.jit(value_and_grad)
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *(one(*row) for row in rows))
    stacked = [np.stack(arrays) for arrays in zip(*rows, strict=True)]
    if mapped == "p alone":
        together = jax.jit(jax.vmap(value_and_grad, (0, None, None, None)))(stacked[0], *rows[0][1:])
    else:
        together = jax.jit(jax.vmap(value_and_grad))(*stacked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), together, alone)


def test_checkpointing_changes_neither_value_nor_gradient():
    p, features, source, target = make_inputs()

    def total(p):
        energy = potts_energy(jax.nn.softmax(p), features, source=source, target=target, **OPTIONS)
        return energy + jnp.sum(local_filter(jnp.tanh(p), features, **OPTIONS) ** 2)

    plain, again = (jax.jit(jax.value_and_grad(function))(p) for function in (total, jax.checkpoint(total)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), again, plain)


def sum_of_both(params, logits, features, source, target, axis_name=None, **options):
    """Energy plus a quadratic form of the filter: per-device sums inside, `psum` outside."""
    p = jax.nn.softmax(logits * params["scale"] + params["bias"])
    options = OPTIONS | {"weights": [params["weight"]]} | options
    energy = potts_energy(p, features, source=source, target=target, **options)
    form = jnp.vdot(logits, local_filter(p, features, **options))
    return energy + form if axis_name is None else jax.lax.psum(energy + form, axis_name)


PARAMS = {"scale": jnp.float32(3.0), "bias": jnp.array([0.3, -0.2, 0.1]), "weight": jnp.float32(0.7)}


def assert_two_devices_agree_with_one(mapper, rows, constants, **options):
    """`rows` are split between the devices; each device has all of `constants`, arrays of one image."""
    whole = {name: array if array is None else np.repeat(array, 2, 0) for name, array in constants.items()}
    expected = jax.jit(jax.value_and_grad(lambda params: sum_of_both(params, **rows, **whole)))(PARAMS)
    summed = functools.partial(sum_of_both, axis_name="data", **constants, **options)
    result = loss_and_grad_on_two_devices(summed, mapper, PARAMS, rows)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), result, expected)
    assert float(result[1]["weight"]) == 0.0


def test_two_devices_agree_with_one():
    rows = dict(zip(("logits", "features", "source", "target"), make_inputs(), strict=True))
    assert_two_devices_agree_with_one("shard_map", rows, {})


@pytest.mark.parametrize("given", ["constant features and gates", "position alone"])
def test_features_need_not_be_split_between_the_devices(given):
    logits, *others = make_inputs()
    arrays = (array[:1] if given == "constant features and gates" else None for array in others)
    constants = dict(zip(("features", "source", "target"), arrays, strict=True))
    assert_two_devices_agree_with_one("shard_map", {"logits": logits}, constants)


# Pallas itself cannot interpret a kernel inside a shard_map that checks.
def test_two_devices_agree_with_one_through_the_gpu_kernel():
    rows = dict(zip(("logits", "features", "source", "target"), make_inputs(), strict=True))
    assert_two_devices_agree_with_one("shard_map without check", rows, {}, implementation="interpret")


def test_value_and_gradient_need_a_few_copies_of_p(fully_optimised):
    p = jax.ShapeDtypeStruct((1, 321, 321, 21), jnp.float32)
    features = jax.ShapeDtypeStruct((1, 321, 321, 3), jnp.float32)
    energy = functools.partial(potts_energy, radius=5, xy_sigma=6.0)
    memory = jax.jit(jax.value_and_grad(energy)).lower(p, features).compile().memory_analysis()
    assert 8 * 2**20 < memory.temp_size_in_bytes + memory.output_size_in_bytes < 80 * 2**20
