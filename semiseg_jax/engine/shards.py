"""What a mapped step does between devices with state and gradients, whether or not the state is divided among them.

With `shard_state` each device keeps a shard of every large array of the state (`Devices.spec` says which, and along
which axis). The type of a value within a step says whether it differs between devices; of a state, only shards do.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from semiseg_jax.engine.parallel import AXIS, SHARD_AXIS


def is_shard(x: Any) -> bool:
    """Whether this array of the state, or what an optimiser made of it, is one device's share."""
    kind = jax.typeof(x)
    manual = getattr(kind, "manual_axis_type", None)  # has another name before jax 0.10
    return AXIS in (getattr(kind, "vma", ()) if manual is None else manual.varying)


def whole(tree: Any) -> Any:
    """The tree with its shards gathered from all devices. What nothing reads of it is not sent."""

    def gathered(x: Any) -> Any:
        return jax.lax.all_gather(x, AXIS, axis=x.ndim + SHARD_AXIS, tiled=True) if is_shard(x) else x

    return jax.tree.map(gathered, tree)


def shards_of(tree: Any, like: Any) -> Any:
    """This device's shards of whole arrays, wherever `like` has shards."""

    def part(x: Any, own: Any) -> Any:
        if not is_shard(own):
            return x
        length = own.shape[SHARD_AXIS]
        return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * length, length, x.ndim + SHARD_AXIS)

    return jax.tree.map(part, tree, like)


def mean(grads: Any, params: Any, send_as: str) -> Any:
    """The mean of whole gradients over all devices: of a parameter of which this device has a shard, its shard."""

    def one(grad: Any, param: Any) -> Any:
        sent = grad.astype(send_as)
        if is_shard(param):
            total = jax.lax.psum_scatter(sent, AXIS, scatter_dimension=grad.ndim + SHARD_AXIS, tiled=True)
        else:
            total = jax.lax.psum(sent, AXIS)
        return total.astype(grad.dtype) / jax.lax.axis_size(AXIS)

    return jax.tree.map(one, grads, params)


def norm(tree: Any) -> jax.Array:
    """The length of the whole tree as one vector."""
    leaves = jax.tree.leaves(tree)
    squares = optax.tree.norm([x for x in leaves if not is_shard(x)], squared=True)
    shards = [x for x in leaves if is_shard(x)]
    if shards:
        squares += jax.lax.psum(optax.tree.norm(shards, squared=True), AXIS)
    return jnp.sqrt(squares)


def clip_by_norm(length: float) -> optax.GradientTransformation:
    """Shortens updates to this length, as `optax.clip_by_global_norm` does where all of them are whole."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        found = norm(updates)
        return jax.tree.map(lambda x: jnp.where(found < length, x, x / found.astype(x.dtype) * length), updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)
