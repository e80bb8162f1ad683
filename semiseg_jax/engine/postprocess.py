"""What may follow the network: a Markov random field or mean-field inference, on the host image by image."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from semiseg_jax.data.letterbox import round_up
from semiseg_jax.data.types import IGNORE
from semiseg_jax.ops import mean_field, potts_mrf
from semiseg_jax.ops.images import standardize
from semiseg_jax.ops.mrf import check_package
from semiseg_jax.options import Options, option

PostProcess = Callable[[np.ndarray, np.ndarray], np.ndarray]  # image [H,W,3] uint8, probabilities [H,W,K] -> [H,W,K]


@dataclasses.dataclass(frozen=True)
class Cut(Options):
    """A Markov random field over the pixels of an image, solved by graph cuts."""

    beta: float = option(1.0, "what a boundary between two pixels costs", low=0)
    connectivity: int = option(8, "neighbours of a pixel", choices=(4, 8))
    contrast: float = option(0.2, "colour difference (standardised) that makes a boundary cheap; 0 = never", low=0)
    color: float = option(0.0, "weight of the colours that each class has in the image; 0 = off", low=0)


@dataclasses.dataclass(frozen=True)
class Post(Cut):
    """Post-processing of each prediction. The fields of `Cut` are those of mrf, the others of mean_field."""

    name: str = option("", "mrf, mean_field, or empty for none", choices=("", "mrf", "mean_field"))
    kernels: tuple[Mapping[str, float], ...] = option(
        ({"weight": 3.0, "xy": 3.0}, {"weight": 5.0, "xy": 6.0, "rgb": 0.2}), "of mean_field"
    )
    radius: int = option(5, "of mean_field, in pixels", low=0)
    iterations: int = option(5, "of mean_field", low=0)


BINS = 8  # of each channel, in histograms of colours
RARE = 5.0  # cost at most of a colour that another class has
FIXED = 1e9  # cost of any other label where one is given: more than all boundaries around a pixel


def make_post(options: Post) -> PostProcess | None:
    """`options` is `config.eval.post`."""
    if options.name == "mrf":
        check_package("eval.post.name='mrf'")
        return functools.partial(_mrf, options)
    if options.name == "mean_field":
        return functools.partial(_mean_field, options)
    return None


def mrf_labels(options: Cut, image: np.ndarray, probs: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
    """[H,W] labels by a Markov random field; those of `given` [H,W] stay as they are, where it is not IGNORE."""
    costs = -np.log(np.maximum(probs, 1e-6))
    if given is not None:
        known = given != IGNORE
        costs[known] = FIXED * (1 - np.eye(probs.shape[-1])[given[known]])
    field = functools.partial(
        potts_mrf,
        beta=options.beta,
        connectivity=options.connectivity,
        image=np.asarray(standardize(image)) if options.contrast else None,
        contrast=options.contrast or None,
    )
    labels = field(costs)
    if options.color:
        labels = field(costs + options.color * _color_costs(image, labels, probs.shape[-1]))
    return labels


def _color_costs(image: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """[H,W,K] -log of the share of a pixel's colour in the histogram of each class, above that of the likeliest."""
    cells = (image // (256 // BINS)).astype(int) @ (BINS**2, BINS, 1)
    counts = np.stack([np.bincount(cells[labels == k], minlength=BINS**3) for k in range(classes)], axis=-1)
    shares = (counts + 1) / (counts.sum(0) + BINS**3)
    costs = np.log(shares.max(axis=-1, keepdims=True, where=counts.any(0), initial=0)) - np.log(shares)
    return np.where(counts.any(0), np.minimum(costs, RARE), RARE)[cells]


def _mrf(options: Post, image: np.ndarray, probs: np.ndarray) -> np.ndarray:
    return np.eye(probs.shape[-1], dtype=np.float32)[mrf_labels(options, image, probs)]


def _mean_field(options: Post, image: np.ndarray, probs: np.ndarray) -> np.ndarray:
    height, width = probs.shape[:2]
    # Few sizes, so that few programs are compiled.
    padding = [(0, round_up(height, 64) - height), (0, round_up(width, 64) - width), (0, 0)]
    where = np.pad(np.ones((height, width), bool), padding[:2])
    kernels = tuple(tuple(sorted(dict(kernel).items())) for kernel in options.kernels)
    refined = _refine(
        np.pad(probs, padding), np.pad(image, padding), where, kernels, options.radius, options.iterations
    )
    return np.asarray(refined)[:height, :width]


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _refine(
    probs: jax.Array, image: jax.Array, where: jax.Array, kernels: Any, radius: int, iterations: int
) -> jax.Array:
    return mean_field(
        probs[None],
        standardize(image)[None],
        kernels=[dict(kernel) for kernel in kernels],
        radius=radius,
        iterations=iterations,
        where=jnp.asarray(where)[None],
    )[0]
