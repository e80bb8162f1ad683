"""Weights and pictures that are the same wherever they are made: numbers seeded by the name of the tensor."""

import zlib
from typing import Any

import flax
import jax
import numpy as np

from semiseg_jax.models import make_backbone, make_model

CLASSES = 5


def make(case: dict[str, Any]) -> Any:
    """The backbone or network of a case."""
    options = {name: value for name, value in case.items() if name not in ("kind", "size")}
    if case["kind"].startswith("resnet"):
        return make_backbone(case["kind"], **options)
    if case["kind"] == "mobilenet_v2":
        return make_backbone(case["kind"], head=True, **options)
    return make_model(case["kind"], CLASSES, **options)


def picture(size: tuple[int, int]) -> np.ndarray:
    return np.random.RandomState(0).randn(1, *size, 3).astype(np.float32)


def fill(model: Any, image: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
    """Random variables -> as the model takes them, and by path. Residual branches are small, so depth does no harm."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    flat = {
        path: _tensor(path, value.shape) for path, value in flax.traverse_util.flatten_dict(shapes, sep="/").items()
    }
    return flax.traverse_util.unflatten_dict(flat, sep="/"), flat


def run_ours(model: Any, variables: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """All stages of a backbone, or all outputs of a network."""
    method = "outputs" if hasattr(model, "outputs") else "__call__"
    return jax.jit(lambda variables, image: model.apply(variables, image, method=method))(variables, image)


def sample(values: np.ndarray, count: int = 200) -> np.ndarray:
    """Some of the values, always at the same places; the last ones among them."""
    flat = np.asarray(values).reshape(-1)
    places = np.random.RandomState(1).randint(0, flat.size, count)
    return np.concatenate([flat[places], flat[-8:]]).astype(np.float32)


def _tensor(path: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(path.encode()))
    leaf = path.rpartition("/")[2]
    if leaf == "kernel":
        values = random.randn(*shape) * np.sqrt(2 / np.prod(shape[:-1]))
    elif leaf == "scale":
        values = random.uniform(0.3, 0.7, shape)
    elif leaf == "var":
        values = random.uniform(0.5, 1.5, shape)
    else:
        values = 0.1 * random.randn(*shape)
    return values.astype(np.float32)
