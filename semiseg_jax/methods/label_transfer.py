"""Labels of images that only have tags: from class activation maps and object maps, by diffusion (Xiao et al.).

Maps are arrays [H,W,...] at the size of their image; files are read and written below the workdir of the run.
"""

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from semiseg_jax.data.letterbox import resize, round_up
from semiseg_jax.data.types import IGNORE
from semiseg_jax.methods import label_graph
from semiseg_jax.ops import grid_diffusion
from semiseg_jax.ops.images import standardize
from semiseg_jax.ops.slic import region_means

BACKGROUND = 0
STRIDE = 4  # of the grid on which labels diffuse
_FAR = 1e3  # a feature that nothing is near to


def activations(cam: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """A_c = ReLU(cam_c) / its maximum in the image, and 0 for classes that are not present. cam [H,W,K], tags [K]."""
    maps = np.maximum(cam, 0)
    maps /= np.maximum(maps.max(axis=(0, 1), keepdims=True), 1e-6)
    present = tags == 1
    present[BACKGROUND] = False
    return np.where(present, maps, 0).astype(np.float32)


def labels_from_activations(maps: np.ndarray, *, seed: float, background: float) -> np.ndarray:
    """The baseline: the strongest class where it is above `seed`, background below `background`, else no label."""
    strength = maps.max(axis=-1)
    labels = np.where(strength > seed, maps.argmax(axis=-1), IGNORE)
    return np.where(strength < background, BACKGROUND, labels).astype(np.uint8)


def diffused_labels(image: np.ndarray, maps: np.ndarray, objects: np.ndarray, options: Any) -> np.ndarray:
    """L_w: activations `maps` [H,W,K] spread over the image along colours and the object map `objects` [H,W].

    Pixels where two classes are nearly tied get no label; every present class keeps some.
    """
    scores = (_over_graph if options.diffusion == "graph" else _over_grid)(image, maps, objects, options)
    order = np.sort(scores, axis=-1)
    best, second = order[..., -1], order[..., -2]
    labels = np.where(best - second < options.margin * np.maximum(best, 1e-12), IGNORE, scores.argmax(axis=-1))
    unsure = (np.abs(objects - 0.5) <= 0.15) & (best < 0.1 * best.max())
    labels = np.where(unsure, IGNORE, labels)
    for klass in np.flatnonzero(maps.max(axis=(0, 1)) > 0):
        if not (labels == klass).any():
            seen = maps[..., klass]
            labels = np.where((seen > 0) & (seen >= np.quantile(seen, 0.95)), klass, labels)
    return labels.astype(np.uint8)


def _over_graph(image: np.ndarray, maps: np.ndarray, objects: np.ndarray, options: Any) -> np.ndarray:
    """Scores [H,W,K], the same for all pixels of a superpixel."""
    regions, colors = label_graph.regions_of(image, options.graph)
    small, things = (region_means(regions, array) for array in (maps, objects))
    weights = label_graph.affinity(regions, colors, things, options.graph, object_sigma=options.object_sigma)
    found = label_graph.spread(weights, _seeds(small, things, options), alpha=options.alpha, steps=options.graph.steps)
    return _by_objects(found, things)[regions]


def _over_grid(image: np.ndarray, maps: np.ndarray, objects: np.ndarray, options: Any) -> np.ndarray:
    """Scores [H,W,K], computed for cells of STRIDE pixels."""
    height, width = maps.shape[:2]
    canvas = (round_up(height, 64), round_up(width, 64))
    grid = (round(height / STRIDE), round(width / STRIDE))
    room = (canvas[0] // STRIDE, canvas[1] // STRIDE)
    colors = resize(image, grid).astype(np.float32)
    small, things = resize(maps, grid), resize(objects, grid)
    padding = ((0, room[0] - grid[0]), (0, room[1] - grid[1]), (0, 0))
    features = np.concatenate(
        [np.asarray(standardize(colors / 255)) / options.color_sigma, things[..., None] / options.object_sigma], axis=-1
    )
    found = _diffuse(
        np.pad(_seeds(small, things, options), padding),
        np.pad(features, padding, constant_values=_FAR),
        options.radius,
        options.alpha,
    )
    return resize(_by_objects(np.asarray(found)[: grid[0], : grid[1]], things), (height, width))


def _seeds(maps: np.ndarray, things: np.ndarray, options: Any) -> np.ndarray:
    """Y [...,K]: what activations [...,K] and object probabilities [...] are sure of."""
    seeds = ((maps > options.class_seed) & (things > options.object_seed)[..., None]).astype(np.float32)
    seeds[..., BACKGROUND] = (things < options.background_seed) & (maps.max(axis=-1) < options.background_seed)
    return seeds


def _by_objects(scores: np.ndarray, things: np.ndarray) -> np.ndarray:
    """Scores [...,K] times what the object map says for the class."""
    things = things[..., None]
    return scores * np.where(np.arange(scores.shape[-1]) == BACKGROUND, 1 - things, things)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _diffuse(seeds: jax.Array, features: jax.Array, radius: int, alpha: float) -> jax.Array:
    return grid_diffusion(jnp.asarray(seeds)[None], jnp.asarray(features)[None], radius=radius, alpha=alpha)[0]


def restricted_labels(probs: np.ndarray, tags: np.ndarray, *, sure: float) -> np.ndarray:
    """A network's own labels among the classes that are present, where it is `sure`. probs [H,W,K], tags [K]."""
    allowed = tags != 0
    allowed[BACKGROUND] = True
    probs = np.where(allowed, probs, 0)
    probs /= np.maximum(probs.sum(axis=-1, keepdims=True), 1e-6)
    return np.where(probs.max(axis=-1) >= sure, probs.argmax(axis=-1), IGNORE).astype(np.uint8)


def encode_map(maps: np.ndarray) -> bytes:
    """[H,W,K] in [0,1] as the content of a .npz file, at a quarter of the resolution."""
    size = (max(1, maps.shape[0] // STRIDE), max(1, maps.shape[1] // STRIDE))
    file = io.BytesIO()
    np.savez_compressed(file, maps=np.rint(255 * resize(maps, size)).astype(np.uint8))
    return file.getvalue()


def read_map(path: Path, size: Sequence[int]) -> np.ndarray:
    with np.load(path) as file:
        return resize(file["maps"].astype(np.float32) / 255, (size[0], size[1]))
