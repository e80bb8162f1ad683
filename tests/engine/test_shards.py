"""A state that is divided among two devices takes the steps of a whole one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from semiseg_jax.config import default_config, settings
from semiseg_jax.engine import parallel, shards
from semiseg_jax.engine.parallel import AXIS, Devices
from semiseg_jax.options import OptionError


def state() -> dict:
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 16, 8), "odd": (1, 1, 15, 200), "small": (4, 4), "bias": (4096,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} | {"step": np.int32(3)}


def test_large_arrays_are_divided_along_the_channels_that_go_in():
    devices = Devices.create("shard_map", 2, shard_state=True)
    held = {name: x.addressable_data(0).shape for name, x in devices.replicate(state()).items()}
    expected = {"kernel": (3, 3, 8, 8), "odd": (1, 1, 15, 200), "small": (4, 4), "bias": (4096,), "step": ()}
    assert held == expected
    assert {name: x.sharding.shard_shape(x.shape) for name, x in devices.like(state()).items()} == expected


def test_shards_are_fetched_as_whole_arrays():
    devices = Devices.create("shard_map", 2, shard_state=True)
    jax.tree.map(np.testing.assert_array_equal, parallel.fetch(devices.replicate(state())), state())


@pytest.mark.parametrize("shard_state", [False, True])
def test_a_step_sees_whole_arrays_and_shortens_by_the_length_of_all_shards(shard_state):
    devices = Devices.create("shard_map", 2, shard_state=shard_state)
    clip = shards.clip_by_norm(2.0)

    def step(held, rows):
        floats = {name: held[name] for name in ("kernel", "odd", "bias")}
        whole = shards.whole(floats)
        seen = jax.lax.pmean(sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(whole)) * rows["x"][0], AXIS)
        grads = shards.mean(jax.tree.map(lambda x: x * rows["x"][0], whole), floats, "float32")
        clipped, _ = clip.update(grads, clip.init(floats))
        again = shards.shards_of(whole, floats)
        return {**held, **jax.tree.map(lambda x, y: x + 0 * y, clipped, again)}, {
            "seen": seen,
            "length": shards.norm(grads),
        }

    after, metrics = devices.map(step)(
        devices.replicate(state()), devices.split({"x": np.array([1.0, 2.0], np.float32)})
    )
    floats = {name: value for name, value in state().items() if name in ("kernel", "odd", "bias")}
    mean = jax.tree.map(lambda x: 1.5 * x, floats)
    np.testing.assert_allclose(metrics["seen"], 1.5 * sum(np.sin(x).sum() for x in floats.values()), rtol=1e-4)
    np.testing.assert_allclose(metrics["length"], optax.tree.norm(mean), rtol=1e-6)
    expected, _ = optax.clip_by_global_norm(2.0).update(mean, optax.EmptyState())
    for name in floats:
        np.testing.assert_allclose(parallel.fetch(after)[name], expected[name], rtol=1e-5)


def test_a_state_of_pmap_cannot_be_divided():
    config = default_config()
    config.update({"shard_state": True, "parallel": "pmap"})
    with pytest.raises(OptionError, match="shard_state needs parallel='shard_map', but that is 'pmap'"):
        settings(config)
