"""Loss and gradient of a batch that is shared between two devices, as the train step takes them."""

import jax
from jax.sharding import PartitionSpec as P

MAPPERS = ["pmap", "shard_map", "shard_map without check"]


def loss_and_grad_on_two_devices(loss, mapper, params, rows):
    """`loss(params, **rows)` adds up over the axis "data"; `rows` are global arrays, split on their first axis."""

    def step(params, rows):
        value, grads = jax.value_and_grad(lambda params: jax.lax.pmean(loss(params, **rows), "data"))(params)
        return value, jax.lax.pmean(grads, "data")

    if mapper == "pmap":
        split = {name: row.reshape(2, -1, *row.shape[1:]) for name, row in rows.items()}
        return jax.pmap(step, "data", in_axes=(None, 0), out_axes=None, devices=jax.devices()[:2])(params, split)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    check = mapper == "shard_map"
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data")), out_specs=(P(), P()), check_vma=check)
    return jax.jit(mapped)(params, rows)
