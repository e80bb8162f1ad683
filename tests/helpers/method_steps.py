"""Steps of a method on small hand-made batches, on one device or two."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from semiseg_jax.config import default_config, from_json, settings
from semiseg_jax.data.types import IGNORE, Supervision
from semiseg_jax.engine import parallel
from semiseg_jax.engine.parallel import Devices
from semiseg_jax.methods import base, make_method

CLASSES = 3
KINDS = tuple(sorted(Supervision, reverse=True))  # the order of rows in a batch


def make_config(method: str = "supervised", quota: dict[str, int] | None = None, **changes) -> ConfigDict:
    """A U-Net of one level without batch statistics; what a method cannot do without is turned on."""
    config = default_config(method)
    norm = changes.pop("norm", "group")
    config.model = ConfigDict({"name": "unet", "widths": (4,), "norm": norm})
    config.steps = 50
    config.optimizer.learning_rate = 1e-2
    config.optimizer.schedule = "constant"
    config.data.quota = ConfigDict(quota or {"dense": 1})
    if method in ("total_variation", "gated_crf"):
        config.terms[method].weight = 0.1
        config.terms[method].start = 0.0
    if method == "label_uncertainty":
        config.terms.boxes.weight = 1.0
        config.terms.boxes.inside_start = 0.0
    if "adversarial" in config:
        config.adversarial.features = 4
    if method == "mean_teacher":
        config.ema = 0.9
    config.update(changes)
    return config


def make_batch(kinds, side: int = 32, seed: int = 0) -> dict[str, np.ndarray]:
    """One row of each of `kinds`, with the labels that such a row brings. Class 0 is background."""
    kinds = [Supervision.parse(kind) if isinstance(kind, str) else kind for kind in kinds]
    rows = len(kinds)
    rng = np.random.default_rng(seed)
    image = rng.random((rows, side, side, 3)).astype(np.float32)
    label = np.full((rows, side, side), IGNORE, np.int32)
    boxes = np.zeros((rows, 3, 4), np.float32)
    box_class = np.full((rows, 3), -1, np.int32)
    tags = np.full((rows, CLASSES), -1, np.int8)
    valid = np.ones((rows, side, side), bool)
    for row, kind in enumerate(kinds):
        valid[row, :, side - 1 - row % 3 :] = False
        truth = image[row].argmax(-1)
        if kind == Supervision.DENSE:
            label[row] = truth
            label[row, :2] = IGNORE
        elif kind in (Supervision.PARTIAL, Supervision.POINTS, Supervision.SCRIBBLE):
            chosen = rng.permutation(side * side)[: 5 + 7 * row]
            label[row].flat[chosen] = truth.flat[chosen]
        elif kind == Supervision.BOX:
            boxes[row, :2] = [[3, 4, 17, 20], [10, 12, 28, 29]]
            box_class[row, :2] = [1, 2]
        elif kind == Supervision.TAGS:
            tags[row] = [-1, 1, 0]
    return {
        "image": image,
        "label": np.where(valid, label, IGNORE),
        "valid": valid,
        "boxes": boxes,
        "box_class": box_class,
        "tags": tags,
        "kind": np.array([int(kind) for kind in kinds], np.int32),
        "id": np.zeros((rows, 2), np.int32),
        "seed": (1000 * seed + np.arange(rows)).astype(np.uint32),
    }


def select(batch: dict, rows) -> dict:
    return {key: value[list(rows)] for key, value in batch.items()}


def method_of(config: ConfigDict, classes: int = CLASSES) -> base.Method:
    return make_method(settings(config), classes)


class TinyBackbone(nn.Module):
    """In place of a ResNet, which compiles for long."""

    @nn.compact
    def __call__(self, image, train=False):
        features = nn.relu(nn.Conv(8, (8, 8), (8, 8))(image))
        return {"layer4": features, "head": features}


def initial(config: ConfigDict, init: Callable | None = None) -> base.State:
    """The same start for every test with this config, drawn by numpy: nothing is compiled."""
    init = init or method_of(config).init
    state = jax.eval_shape(init, jax.random.PRNGKey(1), make_batch(["dense"]))
    networks = {name: _drawn(network) for name, network in state.networks.items()}
    return base.State(np.int32(0), np.asarray(jax.random.PRNGKey(1)), networks)


def _drawn(network: base.Network) -> base.Network:
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return np.ones(leaf.shape, np.float32)
        if name in ("bias", "mean"):
            return np.zeros(leaf.shape, np.float32)
        return (rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, network.params)
    return base.Network(
        params=params,
        batch_stats=jax.tree_util.tree_map_with_path(draw, network.batch_stats),
        opt_state=jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), network.opt_state),
        ema=None if network.ema is None else jax.tree.map(np.array, params),
    )


def gradients(config: ConfigDict, batch: dict, count: int = 1, step: int = 0) -> tuple:
    """(gradients, batch statistics, metrics) at the initial parameters, of a batch split over `count` devices."""
    mapped, devices = _gradient_step(config.to_json_best_effort(), count)
    state = initial(config).replace(step=np.int32(step))
    _, result = mapped(devices.replicate(state), devices.split(batch))
    return parallel.fetch(result)


@functools.lru_cache(maxsize=32)
def _gradient_step(config_json: str, count: int) -> tuple[Callable, Devices]:
    """One compiled program for all calls with the same config."""
    config = from_json(config_json)
    method, devices = method_of(config), Devices.create("shard_map", count)

    def once(state, rows):
        loss, networks = method.loss_of(state), {name: state.networks[name] for name in method.optimizers}
        return state, base.gradients(loss, networks, rows, state.rng, config.accumulate)

    return devices.map(once), devices


def forward(config: ConfigDict, batch: dict) -> tuple:
    """(batch statistics, metrics) of the loss at the initial parameters, which compiles faster than its gradients."""
    method, state = method_of(config), initial(config)
    networks = {name: state.networks[name] for name in method.optimizers}
    params, stats = ({name: getattr(n, what) for name, n in networks.items()} for what in ("params", "batch_stats"))

    def losses(rows):
        loss, aux = method.loss_of(state)(params, stats, rows, state.rng)
        return aux[0], aux[1] | {"loss": loss}

    found = jax.jit(jax.vmap(losses, axis_name=parallel.AXIS))(jax.tree.map(lambda x: x[None], batch))
    return jax.tree.map(lambda x: np.asarray(x[0]), found)


def train(
    config: ConfigDict, batch: dict, steps: int, count: int = 1, mapper: str = "shard_map", stage: int = 0, start=None
) -> tuple:
    """Steps on one batch, of one of the method's stages -> (states, metrics) after each of them, on the host."""
    init, step, devices = _train_step(config.to_json_best_effort(), count, mapper, stage)
    state = devices.replicate(initial(config, init) if start is None else start)
    states, metrics = [], []
    for _ in range(steps):
        state, values = step(state, devices.split(batch))
        states.append(jax.tree.map(np.array, parallel.fetch(state)))
        metrics.append(jax.tree.map(np.asarray, parallel.fetch(values)))
    return states, metrics


@functools.lru_cache(maxsize=32)
def _train_step(config_json: str, count: int, mapper: str, stage: int) -> tuple[Callable, Callable, Devices]:
    """One compiled program for all calls with the same config."""
    config = from_json(config_json)
    trained = method_of(config).stages()[stage]
    devices = Devices.create(mapper, count)
    return trained.init, devices.map(trained.train_step), devices


def assert_close(tree, expected, rtol: float, zero: bool = False) -> None:
    """Each leaf agrees up to `rtol` of its own norm; leaves of zeros only where `zero` allows them."""
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, want), have in zip(paths, jax.tree.leaves(tree), strict=True):
        distance, norm = np.linalg.norm(have - want), np.linalg.norm(want)
        assert zero or norm > 0, path
        assert distance <= rtol * norm, f"{jax.tree_util.keystr(path)}: {distance} of {norm}"
