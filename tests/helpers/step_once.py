"""Training steps on a fixed global batch of four rows, on however many devices and processes there are.

Run as a script it is one of several processes: step_once.py ADDRESS PROCESSES PROCESS OUTPUT
"""

import sys

import jax
import numpy as np
from ml_collections import ConfigDict

from semiseg_jax.config import default_config, settings
from semiseg_jax.engine import parallel
from semiseg_jax.methods import make_method
from semiseg_jax.verbs.workdir import dummy_batch

ROWS, SIDE, CLASSES, STEPS = 4, 16, 3, 20
WAYS = {"shard_map": ("shard_map", False), "pmap": ("pmap", False), "sharded": ("shard_map", True)}


def global_batch() -> dict[str, np.ndarray]:
    """Rows with 1, 3, 100 and 0 labelled pixels: very unequal between devices."""
    rng = np.random.default_rng(0)
    label = np.full((ROWS, SIDE, SIDE), 255, np.int32)
    for row, count in enumerate((1, 3, 100, 0)):
        label[row].flat[rng.permutation(SIDE * SIDE)[:count]] = rng.integers(0, CLASSES, count)
    return {
        "image": rng.uniform(size=(ROWS, SIDE, SIDE, 3)).astype(np.float32),
        "label": label,
        "valid": np.ones((ROWS, SIDE, SIDE), bool),
        "boxes": np.zeros((ROWS, 1, 4), np.float32),
        "box_class": np.full((ROWS, 1), -1, np.int32),
        "tags": np.full((ROWS, CLASSES), -1, np.int8),
        "kind": np.zeros(ROWS, np.int32),
        "id": np.zeros((ROWS, 2), np.int32),
    }


def sgd_config() -> ConfigDict:
    """Plain SGD with learning rate 1: the change of the parameters is the gradient."""
    config = default_config()
    config.model = ConfigDict({"name": "unet", "widths": (8, 8), "norm": "group"})
    config.augment.crop = (SIDE, SIDE)
    config.optimizer.update(
        {
            "name": "sgd",
            "learning_rate": 1.0,
            "schedule": "constant",
            "momentum": 0.0,
            "weight_decay": 0.0,
            "clip_norm": 0.0,
        }
    )
    return config


def train_config() -> ConfigDict:
    """Everything of a state that can be divided: averages, both moments of AdamW, and statistics of a batch beside."""
    config = default_config()
    config.model = ConfigDict({"name": "unet", "widths": (16, 16), "norm": "batch"})
    config.augment.crop = (SIDE, SIDE)
    config.ema, config.steps = 0.9, STEPS
    return config


def steps(config: ConfigDict, way: str, devices: int, number: int) -> tuple:
    """-> (the state before, the state after, [number,2] loss and length of the gradient in each step)"""
    stage = make_method(settings(config), CLASSES).stages()[0]
    before = parallel.fetch(jax.jit(stage.init)(jax.random.PRNGKey(0), dummy_batch(config.augment.crop, CLASSES)))
    mapper, shard_state = WAYS[way]
    mapped = parallel.Devices.create(mapper, devices, shard_state)
    share = ROWS // jax.process_count()
    start = share * jax.process_index()
    rows = mapped.split({key: value[start : start + share] for key, value in global_batch().items()})
    step, state, found = mapped.map(stage.train_step), mapped.replicate(before), []
    for _ in range(number):
        state, metrics = step(state, rows)
        found.append(parallel.fetch([metrics["loss"], metrics["grad_norm"]]))
    return before, parallel.fetch(state), np.array(found)


def step_once(way: str, devices: int = 0) -> dict[str, np.ndarray]:
    """-> {"loss": ..., parameter path: gradient}"""
    before, after, found = steps(sgd_config(), way, devices, 1)
    change = jax.tree.map(lambda a, b: a - b, before.networks["segmenter"].params, after.networks["segmenter"].params)
    gradient = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(change)}
    return {"loss": found[0, 0], **gradient}


def twenty_steps(way: str, devices: int = 0) -> np.ndarray:
    """Loss and length of the gradient in each of them."""
    return steps(train_config(), way, devices, STEPS)[2]


if __name__ == "__main__":
    address, processes, process, output = sys.argv[1:]
    parallel.initialize(parallel.Distributed(True, address, int(processes), int(process)))
    assert jax.process_count() == int(processes)
    np.savez(output, **{way: twenty_steps(way) for way in WAYS})
