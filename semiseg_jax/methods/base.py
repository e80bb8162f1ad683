"""What a method is: networks with their optimisers (`State`), and stages that train them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from semiseg_jax.data.datasets import Dataset
from semiseg_jax.data.types import Batch
from semiseg_jax.engine import shards
from semiseg_jax.engine.inference import Inference
from semiseg_jax.engine.parallel import AXIS, StopSignal
from semiseg_jax.engine.settings import Settings
from semiseg_jax.models import pretrained
from semiseg_jax.models.pretrained import Pretrained
from semiseg_jax.ops.images import standardize
from semiseg_jax.options import Options

Variables = Mapping[str, Any]
Metrics = dict[str, jax.Array]
Networks = dict[str, "Network"]
Trees = dict[str, Any]  # parameters, batch statistics or gradients by network
# (params, batch_stats, rows, rng) -> (loss, (new batch_stats, metrics)); loss and metrics are means over all devices.
Loss = Callable[[Trees, Trees, Batch, jax.Array], tuple[jax.Array, tuple[Trees, Metrics]]]


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


class Stopped(Exception):
    """A signal asked to stop before the host work of a stage was done; the same command goes on with it."""


@dataclasses.dataclass(frozen=True)
class FinishContext:
    """What `finish` may use. It runs in all processes, which share the workdir and the work.

    Work that takes long calls `check_stop` all along, and finds at a second start what it had done.
    """

    workdir: Path
    dataset: Dataset
    inference: Inference
    stop: StopSignal = StopSignal()  # noqa: RUF009 - it has no state
    process: int = 0
    processes: int = 1

    def check_stop(self) -> None:
        if self.stop.in_host_work():
            raise Stopped


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training run of a method. Most methods have one stage; `finish` is host work between two of them.

    `check` is called for all stages before the first one trains, `rates` at each report.

    Its `config` is whole: everything that the stage does follows from it. A relative path in `config.data.made_labels`
    is below the workdir, where an earlier stage has written label maps.
    """

    name: str
    config: Settings
    init: Callable[[jax.Array, Batch], State]
    train_step: Callable[[State, Batch], tuple[State, Metrics]]  # per device, inside the mapped axis "data"
    start: Callable[[State], State] = lambda state: state  # on the host, before the first step: pretrained weights
    finish: Callable[[State, FinishContext], None] | None = None  # on the host, after the last step
    makes: str = ""  # folder below the workdir, whose files are all made by `finish`
    check: Callable[[], None] = lambda: None  # raises for what would stop it: weights that do not fit, no package
    rates: Callable[[int], Mapping[str, Any]] = lambda steps: {}  # learning rates and weights after so many steps
    warm_start: bool = False  # from the weights, averaged where they are, of the stage before
    scored: bool = True  # the prediction of this stage is the method's: compare it with masks
    pictures: Callable[[State, Batch], Mapping[str, jax.Array]] | None = None  # further columns of the panel
    watch: Callable[[int, Mapping[str, float]], str] = lambda step, means: ""  # a warning, of a report's mean metrics


class Method(Protocol):
    """How a paper trains."""

    # Sections of the config that are the method's own, and what each may hold; `config.own[SECTION]` has the values.
    sections: ClassVar[Mapping[str, type[Options]]] = {}
    # Terms that the method brings, by name: classes of terms.Term, whose options are then fields of `config.terms`.
    own_terms: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: Settings, num_classes: int): ...

    @property
    def needs_background(self) -> str:
        """What treats class 0 as background, in words; empty where nothing does."""
        ...

    def stages(self) -> Sequence[Stage]: ...

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


def init_state(
    name: str, model: nn.Module, rng: jax.Array, image: jax.Array, optimizer: optax.GradientTransformation, *, ema: bool
) -> State:
    """The state of one fresh network that takes standardised images."""
    network = init_network(model.init(rng, standardize(image[:1])), optimizer, ema=ema)
    return State(step=jnp.zeros((), jnp.int32), rng=rng, networks={name: network})


def with_variables(state: State, name: str, variables: Variables) -> State:
    """The state whose network `name` has these variables, and averages that start from them."""
    network, params = state.networks[name], variables["params"]
    ema = None if network.ema is None else jax.tree.map(jnp.array, params)
    network = dataclasses.replace(network, params=params, batch_stats=variables.get("batch_stats", {}), ema=ema)
    return dataclasses.replace(state, networks={**state.networks, name: network})


def with_pretrained(state: State, name: str, model: nn.Module, config: Pretrained) -> State:
    """The state whose network `name` has the weights that `config.pretrained` names, if it does."""
    if not config.path:
        return state
    network = state.networks[name]
    variables = pretrained.load(
        model, config.path, new_classifier=config.new_classifier, variables=jax.device_get(network.variables)
    )
    return with_variables(state, name, variables)


def gathered(networks: Networks) -> Networks:
    """Networks with whole parameters, averages and statistics, of which a device may have shards."""
    return {
        name: dataclasses.replace(
            network,
            params=shards.whole(network.params),
            batch_stats=shards.whole(network.batch_stats),
            ema=shards.whole(network.ema),
        )
        for name, network in networks.items()
    }


def gradients(
    loss: Loss, networks: Networks, batch: Batch, rng: jax.Array, micro_batches: int = 1, send_as: str = "float32"
) -> tuple[Trees, Trees, Metrics]:
    """Gradients of all `networks` over all devices, averaged over micro-batches -> (gradients, batch_stats, metrics).

    A device differentiates the sum of all devices' losses by its own copy of the parameters. The mean of these
    gradients is the gradient of the mean loss, under every mapper. It is the one time that gradients are sent. A term
    that sums nothing over devices counts as the mean of what the devices have.

    Parameters and batch statistics are gathered if the networks hold shards of them; gradients and statistics are then
    shards too.
    """
    full = gathered(networks)
    # For all that shard_map knows, what a device adds to its copy differs between devices. Else shard_map sums the
    # gradients itself, and the mean below sends them again.
    nothing = (0 * jax.lax.axis_index(AXIS)).astype(jnp.float32)
    params = {name: jax.tree.map(lambda x: x + nothing, network.params) for name, network in full.items()}
    batch_stats = {name: network.batch_stats for name, network in full.items()}

    def own_loss(params: Trees, batch_stats: Trees, rows: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        value, (updated, metrics) = loss(params, batch_stats, rows, key)
        return value + nothing, ({**batch_stats, **updated}, {**metrics, "loss": value})

    def one(batch_stats: Trees, row: tuple[Batch, jax.Array]) -> tuple[Trees, tuple[Trees, Metrics]]:
        grads, (batch_stats, metrics) = jax.grad(own_loss, has_aux=True)(params, batch_stats, *row)
        return jax.lax.pmean(batch_stats, AXIS), (grads, jax.lax.pmean(metrics, AXIS))

    if micro_batches == 1:
        batch_stats, (grads, metrics) = one(batch_stats, (batch, rng))
    else:
        rows = jax.tree.map(lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), batch)
        batch_stats, (grads, metrics) = _mean_over(one, batch_stats, (rows, jax.random.split(rng, micro_batches)))
    for name, network in networks.items():
        grads[name] = shards.mean(grads[name], network.params, send_as)
        batch_stats[name] = shards.shards_of(batch_stats[name], network.batch_stats)
    return grads, batch_stats, metrics


def _mean_over(one: Callable, stats: Trees, rows: Any) -> tuple[Trees, Any]:
    """Micro-batches one after another -> (the last statistics, the mean of what `one` gives)."""

    def add(carry: Any, row: Any) -> tuple[Any, None]:
        stats, so_far = carry
        stats, more = one(stats, row)
        return (stats, jax.tree.map(jnp.add, so_far, more)), None

    # The first micro-batch starts the sums, so that they vary over devices as the later ones do.
    first, others = jax.tree.map(lambda x: x[0], rows), jax.tree.map(lambda x: x[1:], rows)
    (stats, total), _ = jax.lax.scan(add, one(stats, first), others)
    return stats, jax.tree.map(lambda x: x / len(rows[1]), total)


def step(
    loss: Loss, state: State, batch: Batch, optimizers: Mapping[str, optax.GradientTransformation], config: Settings
) -> tuple[State, Metrics]:
    """One update of the networks that `optimizers` names -> (the state after it, metrics)."""
    rng = jax.random.fold_in(state.rng, state.step)
    networks = {name: state.networks[name] for name in optimizers}
    grads, batch_stats, metrics = gradients(loss, networks, batch, rng, config.accumulate, config.send_as)
    state, norms = update(state, grads, batch_stats, optimizers, ema_decay=config.ema)
    return state, {**metrics, **norms}


def update(
    state: State,
    grads: Trees,
    batch_stats: Trees,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    ema_decay: float = 0.0,
) -> tuple[State, Metrics]:
    """One optimiser update of every network that has gradients -> (the state after the step, gradient norms).

    Averages warm up: decay min(d, (1+t)/(10+t)).
    """
    decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
    networks, norms = {}, {}
    for name, optimizer in optimizers.items():
        network = state.networks[name]
        updates, opt_state = optimizer.update(grads[name], network.opt_state, network.params)
        params = optax.apply_updates(network.params, updates)
        ema = None if network.ema is None else optax.incremental_update(params, network.ema, 1 - decay)
        networks[name] = Network(params, batch_stats[name], opt_state, ema)
        norms["grad_norm" if len(optimizers) == 1 else f"grad_norm_{name}"] = shards.norm(grads[name])
    return state.advance(**networks), norms


def learning_rates(schedules: Mapping[str, optax.Schedule], steps: int) -> dict[str, Any]:
    """Of the update after `steps` others, by network where there are several."""
    return {
        "learning_rate" if len(schedules) == 1 else f"learning_rate_{name}": schedule(steps)
        for name, schedule in schedules.items()
    }


def scheduled(weight: float, start: float, ramp: float, step: jax.Array, steps: int) -> jax.Array:
    """`weight`, but 0 for the first `start` of the steps, and growing linearly over the `ramp` after them (shares)."""
    into = step + 1 - start * steps
    return weight * jnp.clip(into / max(1.0, ramp * steps), 0.0, 1.0)
