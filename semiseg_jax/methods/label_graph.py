"""The graph of an image's superpixels, over which `transfer` spreads labels: nodes, affinities and diffusion.

    W_ij = exp(-|x_i - x_j|^2 / 2 s_x^2 - (M_i - M_j)^2 / 2 s_m^2 - |u_i - u_j|^2 / 2 s_u^2)

for superpixels i, j that are few steps apart or of similar colour; x is the mean colour, M the mean of the object map
and u the centre. s_x is relative to the mean difference between touching superpixels of the image.
"""

import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from semiseg_jax.data.letterbox import round_up
from semiseg_jax.ops import label_diffusion, self_diffusion, superpixels
from semiseg_jax.ops.slic import region_means, touching
from semiseg_jax.options import Options, option

_NODES = 128  # graphs are filled up to a multiple of this, so that few programs serve all images
_LEAST = 1e-12  # affinities below are none: the inverse of their sum would not be finite


@dataclasses.dataclass(frozen=True)
class Graph(Options):
    """Superpixels, which of them are neighbours, and how labels spread."""

    superpixels: int = option(500, "of an image, about", low=1)
    compactness: float = option(10.0, "colour difference in CIELAB that counts as much as their side", low=1e-6)
    reach: int = option(2, "steps from a superpixel to its farthest neighbour", low=1)
    similar: int = option(10, "others of the most similar colours that are neighbours, too", low=0)
    color_sigma: float = option(1.0, "of the affinity, in mean differences between touching superpixels", low=1e-6)
    place_sigma: float = option(0.2, "of the affinity, in diagonals of the image", low=1e-6)
    steps: int = option(0, "of self-diffusion; 0 = label diffusion in closed form", low=0)


def regions_of(image: np.ndarray, graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Superpixels of an image [H,W,3] uint8 -> their numbers [H,W], and the mean CIELAB colour of each."""
    colors = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    regions = superpixels(colors, number=graph.superpixels, compactness=graph.compactness)
    return regions, region_means(regions, colors)


def affinity(
    regions: np.ndarray, colors: np.ndarray, things: np.ndarray, graph: Graph, *, object_sigma: float
) -> np.ndarray:
    """W [N,N] of superpixels with these colours [N,C] and object probabilities [N]; 0 on the diagonal."""
    places = region_means(regions, np.moveaxis(np.indices(regions.shape), 0, -1))
    touch, different = touching(regions), _squared(colors)
    sigma = graph.color_sigma * (np.sqrt(different[touch]).mean() if touch.any() else 1.0)
    exponent = different / max(sigma, 1e-6) ** 2
    exponent += _squared(things[:, None]) / object_sigma**2
    exponent += _squared(places / np.hypot(*regions.shape)) / graph.place_sigma**2
    weights = np.exp(-0.5 * exponent)
    return np.where(_neighbors(touch, different, graph) & (weights > _LEAST), weights, 0).astype(np.float32)


def spread(weights: np.ndarray, seeds: np.ndarray, *, alpha: float, steps: int) -> np.ndarray:
    """Scores [N,K] of the nodes, from seeds [N,K]."""
    nodes = len(seeds)
    missing = round_up(nodes, _NODES) - nodes
    # Nodes without neighbours change nothing for the others.
    filled = np.pad(weights, (0, missing)), np.pad(seeds, ((0, missing), (0, 0)))
    return np.asarray(_spread(*filled, alpha, steps))[:nodes]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _spread(weights: jax.Array, seeds: jax.Array, alpha: float, steps: int) -> jax.Array:
    if steps:
        return jnp.matmul(self_diffusion(weights, steps=steps), seeds, precision="highest")
    return label_diffusion(weights, seeds, alpha=alpha)


def _neighbors(touch: np.ndarray, different: np.ndarray, graph: Graph) -> np.ndarray:
    """[N,N] bool, symmetric, false on the diagonal."""
    nodes = len(touch)
    myself = np.eye(nodes, dtype=bool)
    near = step = (touch | myself).astype(np.float32)
    for _ in range(graph.reach - 1):
        near = np.minimum(near @ step, 1)
    joined = near > 0
    if graph.similar:
        order = np.argsort(np.where(myself, np.inf, different), axis=1, kind="stable")[:, : graph.similar]
        np.put_along_axis(joined, order, True, axis=1)
    return (joined | joined.T) & ~myself


def _squared(values: np.ndarray) -> np.ndarray:
    """[N,C] -> [N,N] squared distances."""
    return np.square(values[:, None].astype(np.float64) - values[None]).sum(axis=-1)
