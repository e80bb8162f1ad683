"""The kernel for GPUs, interpreted: its numbers, what it does to a sharded batch, and where it makes way for XLA."""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import filtered, kernel_matrix, potts
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from semiseg_jax.ops import _pairwise_gpu, _pairwise_probe, local_filter, pairwise, potts_energy

interpreted = functools.partial(local_filter, implementation="interpret")
# Shapes that the tiles do not divide, and several ways to cut channels into powers of two.
CASES = {
    "1 channel": ((1, 5, 7, 1), [3], {"radius": 2}),
    "5 channels": ((2, 9, 33, 5), [1], {"radius": 1, "xy_sigma": 4.0}),
    "22 channels": ((1, 8, 32, 22), [3, 1], {"radius": 1, "xy_sigma": [2.0, None], "weights": [0.5, 0.25]}),
    "position alone": ((1, 5, 34, 3), [0, 0], {"radius": 2, "xy_sigma": [6.0, 1.0], "weights": [1.0, 3.0]}),
}


def make_inputs(shape, channels, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(shape[-1] + 1), shape[:3])[..., :-1].astype(np.float32)
    terms = [rng.normal(0, 0.7, (*shape[:3], count)).astype(np.float32) if count else None for count in channels]
    return p, terms if len(terms) > 1 else terms[0]


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_is_the_sum_over_all_pairs(case):
    shape, channels, options = CASES[case]
    p, features = make_inputs(shape, channels)
    expected = filtered(p, kernel_matrix(shape[:3], features, **options))
    found = jax.jit(lambda p: interpreted(p, features, **options))(p)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["1 channel", "position alone"])
def test_the_kernel_gives_energy_and_gradient_with_gates(case):
    shape, channels, options = CASES[case]
    p, features = make_inputs(shape, channels)
    source, target = np.random.default_rng(1).uniform(size=(2, *shape[:3])).astype(np.float32)
    options = {"implementation": "interpret", **options}
    gated = functools.partial(potts_energy, features=features, source=source, target=target, **options)
    found = jax.jit(jax.value_and_grad(gated))(p)
    del options["implementation"]
    expected = potts(p, kernel_matrix(shape[:3], features, **options), source, target)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5), found, expected)


@pytest.mark.parametrize("mapped", ["images", "features alone", "weights"])
def test_vmap_over_the_kernel_equals_a_loop(mapped):
    shape, channels, _ = CASES["1 channel"]
    rows = [make_inputs(shape, channels, seed) for seed in (0, 1)]
    p, features = (np.stack(arrays) for arrays in zip(*rows, strict=True))
    given = {
        "images": ((p, features, jnp.ones(1)), (0, 0, None)),
        "features alone": ((p[0], features, jnp.ones(1)), (None, 0, None)),
        "weights": ((p[0], features[0], jnp.array([[0.5], [2.0]])), (None, None, 0)),
    }
    arguments, axes = given[mapped]

    def run(p, features, weights):
        return interpreted(p, features, radius=1, weights=weights)

    one = jax.jit(run)
    alone = [one(*(x if axis is None else x[i] for x, axis in zip(arguments, axes, strict=True))) for i in (0, 1)]
    np.testing.assert_allclose(jax.jit(jax.vmap(run, axes))(*arguments), np.stack(alone), rtol=1e-6)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("implementation", ["xla", "interpret"])
def test_a_batch_that_is_split_over_devices_stays_so_under_jit(implementation, kind):
    p, features = make_inputs((4, 5, 6, 3), [3])
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    spread = jax.device_put((p, features), NamedSharding(mesh, PartitionSpec("data")))
    options = {"radius": 1, "implementation": implementation}
    mask = np.ones(p.shape[:3], bool)
    energy = jax.value_and_grad(lambda p, features: potts_energy(p, features, source=mask, **options))
    program = jax.jit(energy).lower(*spread).compile()
    assert "all-gather" not in program.as_text()
    assert "f32[4,5,6" not in program.as_text()
    value, grad = program(*spread)
    assert grad.sharding.spec[0] == "data"
    expected = potts(p, kernel_matrix(p.shape[:3], features, radius=1))
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(grad, expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("channels", "sizes"), [(1, [4]), (4, [4]), (5, [8]), (12, [8, 4]), (22, [16, 8]), (31, [32])])
def test_channels_are_cut_into_few_powers_of_two(channels, sizes):
    assert _pairwise_gpu.powers_of_two(channels) == sizes


def test_more_elements_than_32_bits_count_are_left_to_xla_which_is_said():
    p = jax.ShapeDtypeStruct((1 << 15, 256, 256, 3), jnp.float32)
    with pytest.warns(UserWarning, match="too many elements for the 32-bit offsets of the Pallas kernel"):
        assert jax.eval_shape(lambda p: interpreted(p, None, radius=1), p).shape == p.shape


def test_the_default_is_xla_on_every_platform():
    p, features = make_inputs((1, 4, 5, 2), [1])
    lowered = jax.jit(functools.partial(local_filter, radius=1)).trace(p, features).lower(lowering_platforms=("cuda",))
    assert "custom_call" not in lowered.as_text()


@pytest.mark.parametrize("implementation", ["xla", "interpret"])
def test_where_triton_is_not_used_it_need_not_be_there(implementation, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    monkeypatch.delattr("jax.experimental.pallas.triton", raising=False)
    monkeypatch.delitem(sys.modules, "semiseg_jax.ops._pairwise_gpu")
    p, features = make_inputs((1, 4, 3, 2), [2])
    run = functools.partial(local_filter, features=features, radius=1, implementation=implementation)
    assert jax.eval_shape(run, p).shape == p.shape


def test_pallas_without_a_gpu_warns_once_in_words_and_is_xla():
    p, features = make_inputs((1, 4, 5, 2), [1])
    _pairwise_probe.usable.cache_clear()
    with pytest.warns(UserWarning, match="the default device is cpu, not an NVIDIA GPU; XLA is used instead") as told:
        found = [jax.jit(lambda p: local_filter(p, features, radius=1, implementation="pallas"))(p) for _ in range(2)]
    assert len(told) == 1
    np.testing.assert_allclose(found[0], filtered(p, kernel_matrix(p.shape[:3], features, radius=1)), rtol=1e-5)
    np.testing.assert_array_equal(*found)


def device(capability, version="PJRT C API\ncuda 12090"):
    client = types.SimpleNamespace(platform_version=version)
    return types.SimpleNamespace(platform="gpu", device_kind="GPU", client=client, compute_capability=capability)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (device("7.5"), "GPU has compute capability 7.5, Triton needs 8.0"),
        (device("gfx90a", "rocm 60000"), "the default device is GPU, not an NVIDIA GPU"),
        (device("9.0"), "it does not compile"),
    ],
)
def test_a_gpu_that_cannot_run_the_kernel_is_recognised(found, reason, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [found])
    assert _pairwise_probe.why_not().startswith(reason)


def test_a_jax_without_triton_is_recognised(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [device("9.0")])
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    assert _pairwise_probe.why_not().startswith("this build of jax has no Triton")


def test_a_kernel_that_computes_something_else_is_recognised(monkeypatch):
    assert _pairwise_probe.failure("interpret") is None
    right, factor = pairwise.filtered, {"xla": 1.0, "interpret": 2.0}
    monkeypatch.setattr(pairwise, "filtered", lambda p, k, window: right(p, k, window) * factor[window.implementation])
    assert _pairwise_probe.failure("interpret").startswith("it is wrong by")
