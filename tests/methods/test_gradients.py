"""Gradients over devices: sent once, and the mean whatever a loss sums over devices itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from semiseg_jax.engine.collectives import collectives
from semiseg_jax.engine.parallel import AXIS, Devices
from semiseg_jax.methods import base
from semiseg_jax.ops.reduce import masked_mean

SIZE = 1000
ROWS = {"image": np.linspace(-1, 1, 4 * SIZE, dtype=np.float32).reshape(4, SIZE)}
MAPPERS = ["shard_map", "shard_map without check", "pmap"]


def squares(params, rows):
    return jnp.square(rows["image"] - params["net"]["w"])


def global_mean(params, batch_stats, rows, key):
    value = squares(params, rows)
    return masked_mean(value, jnp.ones_like(value), AXIS), (batch_stats, {})


def forgets_the_axis(params, batch_stats, rows, key):
    return jnp.mean(squares(params, rows)), (batch_stats, {})


def both(*arguments):
    (one, aux), (other, _) = global_mean(*arguments), forgets_the_axis(*arguments)
    return one + other, aux


def step_of(loss, micro_batches):
    def step(state, rows):
        networks = {"net": base.Network(state, {}, (), None)}
        grads, _, metrics = base.gradients(loss, networks, rows, jax.random.PRNGKey(0), micro_batches)
        return grads["net"], metrics

    return step


def mapped(loss, mapper, micro_batches=1):
    """-> the mapped step, and its arguments on the devices."""
    step, devices = step_of(loss, micro_batches), Devices.create(mapper.split()[0], 2)
    if mapper == "shard_map without check":
        map_ = jax.shard_map(
            step, mesh=devices.mesh, in_specs=(P(), P(AXIS)), out_specs=(P(), P()), check_vma=False
        )  # fmt: skip
        run = jax.jit(map_)
    else:
        run = devices.map(step)
    return run, (devices.replicate({"w": np.full(SIZE, 0.5, np.float32)}), devices.split(ROWS))


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize(("loss", "scale"), [(global_mean, 1), (forgets_the_axis, 1), (both, 2)])
@pytest.mark.parametrize("mapper", MAPPERS)
def test_gradients_are_those_of_the_mean_loss_on_two_devices(mapper, loss, scale, micro_batches):
    run, arguments = mapped(loss, mapper, micro_batches)
    grads, metrics = run(*arguments)
    expected = scale * 2 * (0.5 - ROWS["image"]).mean(0) / SIZE
    np.testing.assert_allclose(np.asarray(grads["w"]), expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(float(metrics["loss"]), scale * np.square(ROWS["image"] - 0.5).mean(), rtol=1e-5)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("mapper", MAPPERS)
def test_the_compiled_program_sends_each_gradient_once(mapper, micro_batches):
    run, arguments = mapped(both, mapper, micro_batches)
    sent = collectives(run.lower(*arguments).compile().as_text())
    # What comes beside the gradients are sums of losses and metrics.
    assert 4 * SIZE <= sum(size for _, size in sent.values()) <= 4 * (SIZE + 20)
