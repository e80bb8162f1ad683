"""What a method is: networks with their optimisers (`State`), and stages that train them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from semiseg_jax.data.types import Batch
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.models import pretrained

Variables = Mapping[str, Any]
Metrics = dict[str, jax.Array]
# (params, batch_stats, rows, rng) -> (loss, (new batch_stats, metrics)); loss and metrics are means over all devices.
Loss = Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, tuple[Any, Metrics]]]


@flax.struct.dataclass
class Network:
    """One trained network."""

    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any  # averaged params, or None

    @property
    def variables(self) -> Variables:
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def averaged(self) -> Variables:
        """The averaged parameters where they are kept, else the plain ones."""
        return {"params": self.params if self.ema is None else self.ema, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class State:
    """Everything that a checkpoint holds."""

    step: jax.Array
    rng: jax.Array
    networks: dict[str, Network]

    def advance(self, **networks: Network) -> "State":
        """The state after a step that gave these networks."""
        return State(self.step + 1, self.rng, {**self.networks, **networks})


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training run of a method. Most methods have one stage; `finish` is host work between two of them."""

    name: str
    data: ConfigDict  # like config.data
    steps: int
    init: Callable[[jax.Array, Batch], State]
    train_step: Callable[[State, Batch], tuple[State, Metrics]]  # per device, inside the mapped axis "data"
    start: Callable[[State], State] = lambda state: state  # on the host, before the first step: pretrained weights
    finish: Callable[[State, Path], None] = lambda state, workdir: None


class Method(Protocol):
    """How a paper trains. The constructor takes the config and the number of classes."""

    def stages(self, config: ConfigDict) -> Sequence[Stage]: ...

    def eval_variables(self, state: State, weights: str = "auto") -> Variables:
        """What evaluation, prediction and checkpoints' users run: the student, its average or a teacher."""
        ...

    def predict(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Images [B,H,W,3] (uint8, or RGB in [0,1]) -> class probabilities [B,H,W,K] float32."""
        ...


def init_network(variables: Mapping[str, Any], optimizer: optax.GradientTransformation, *, ema: bool) -> Network:
    params = variables["params"]
    return Network(
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.array, params) if ema else None,
    )


def with_pretrained(network: Network, model: nn.Module, config: ConfigDict) -> Network:
    """The network with the weights that `config.pretrained` names, if it does."""
    if not config.path:
        return network
    variables = pretrained.load(
        model, config.path, new_classifier=config.new_classifier, variables=jax.device_get(network.variables)
    )
    params = variables["params"]
    ema = None if network.ema is None else jax.tree.map(jnp.array, params)
    return dataclasses.replace(network, params=params, batch_stats=variables.get("batch_stats", {}), ema=ema)


def gradients(
    loss: Loss, network: Network, batch: Batch, rng: jax.Array, micro_batches: int = 1
) -> tuple[Any, Any, Metrics]:
    """Gradients over all devices, averaged over micro-batches -> (gradients, batch_stats, metrics).

    The differentiated function returns the mean over the axis and the gradients are averaged again: right under every
    mapper, whether or not it has summed them already.
    """

    def global_loss(params: Any, batch_stats: Any, rows: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        value, (batch_stats, metrics) = loss(params, batch_stats, rows, key)
        return jax.lax.pmean(value, AXIS), (batch_stats, {**metrics, "loss": value})

    def one(batch_stats: Any, rows: Batch, key: jax.Array) -> tuple[Any, Any, Metrics]:
        grads, (batch_stats, metrics) = jax.grad(global_loss, has_aux=True)(network.params, batch_stats, rows, key)
        grads, metrics, batch_stats = jax.lax.pmean((grads, metrics, batch_stats), AXIS)
        return grads, batch_stats, metrics

    if micro_batches == 1:
        return one(network.batch_stats, batch, rng)

    def body(batch_stats: Any, row: Any) -> tuple[Any, Any]:
        rows, key = row
        grads, batch_stats, metrics = one(batch_stats, rows, key)
        return batch_stats, (grads, metrics)

    rows = jax.tree.map(lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), batch)
    keys = jax.random.split(rng, micro_batches)
    # The first micro-batch starts the sums, so that they vary over devices as the later ones do.
    first = jax.tree.map(lambda x: x[0], (rows, keys))
    others = jax.tree.map(lambda x: x[1:], (rows, keys))
    batch_stats, total = body(network.batch_stats, first)

    def add(carry: Any, row: Any) -> tuple[Any, None]:
        stats, so_far = carry
        stats, more = body(stats, row)
        return (stats, jax.tree.map(jnp.add, so_far, more)), None

    (batch_stats, total), _ = jax.lax.scan(add, (batch_stats, total), others)
    grads, metrics = jax.tree.map(lambda x: x / micro_batches, total)
    return grads, batch_stats, metrics


def apply_gradients(
    network: Network,
    grads: Any,
    batch_stats: Any,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    step: jax.Array,
) -> tuple[Network, jax.Array]:
    """One optimiser update -> (network, gradient norm). The average warms up: decay min(d, (1+t)/(10+t))."""
    updates, opt_state = optimizer.update(grads, network.opt_state, network.params)
    params = optax.apply_updates(network.params, updates)
    ema = network.ema
    if ema is not None:
        decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
        ema = optax.incremental_update(params, ema, 1 - decay)
    return Network(params, batch_stats, opt_state, ema), optax.global_norm(grads)
