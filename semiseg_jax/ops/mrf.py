"""A Potts Markov random field, solved by graph cuts on the host: the classical post-processing of a prediction.

Needs a package of its own: `pip install PyMaxflow`.
"""

import importlib.util
from typing import Any

import numpy as np

from semiseg_jax.ops._checks import check_shape

# Half of the neighbours, (rows, columns).
Edges = tuple[tuple[int, int], Any, Any, np.ndarray]
OFFSETS = {4: ((0, 1), (1, 0)), 8: ((0, 1), (1, 0), (1, 1), (1, -1))}


def potts_mrf(
    unary: np.ndarray,
    *,
    beta: float,
    connectivity: int = 4,
    image: np.ndarray | None = None,
    contrast: float | None = None,
    cycles: int = 5,
) -> np.ndarray:
    r"""Labels of least energy in a Potts model, by alpha-expansion; exact for two classes.

    .. math::
      E(y) = \sum_i U_i(y_i) + \beta \sum_{(i,j)} \frac{1}{|i-j|} e^{-|I_i - I_j|^2 / (2 \sigma^2)} [y_i \ne y_j]

    Args:
      unary: [H,W,K] cost of each class, usually -log P.
      beta: cost of a boundary between neighbours; tune it on a validation set.
      connectivity: 4 or 8 neighbours.
      image: [H,W,C] colours, of any type, that make boundaries cheap where they change; none by default.
      contrast: sigma, in the units of `image`.
      cycles: rounds over all classes at most; it ends when a round changes nothing.

    Returns:
      [H,W] int32 labels.

    Examples:
      >>> import numpy as np
      >>> from semiseg_jax.ops import potts_mrf
      >>> probs = np.full((5, 5), 0.8)
      >>> probs[2, 2] = 0.4  # one pixel disagrees
      >>> print(potts_mrf(-np.log(np.stack([probs, 1 - probs], -1)), beta=1.0).sum())
      0

    References:
      Boykov, Veksler and Zabih, Fast Approximate Energy Minimization via Graph Cuts, 2001.
    """
    name = "potts_mrf"
    unary = np.asarray(unary, np.float64)
    check_shape(name, "unary", unary, ("H", "W", "K"))
    if not np.all(np.isfinite(unary)):
        raise ValueError(f"{name}: unary must be finite; clip probabilities before the logarithm")
    if connectivity not in OFFSETS:
        raise ValueError(f"{name}: connectivity is {connectivity!r} but must be 4 or 8")
    if not 0 <= beta < np.inf:
        raise ValueError(f"{name}: beta is {beta} but must be finite and at least 0")
    if (image is None) != (contrast is None):
        raise ValueError(f"{name}: image and contrast go together")
    if image is not None and contrast is not None:
        image = np.asarray(image, np.float64)  # differences of uint8 would wrap
        check_shape(name, "image", image, (*unary.shape[:2], "C"))
        if not contrast > 0:
            raise ValueError(f"{name}: contrast is {contrast} but must be positive")
        if not np.all(np.isfinite(image)):
            raise ValueError(f"{name}: image must be finite")
    edges = _edges(unary.shape[:2], beta, connectivity, image, contrast)
    labels = unary.argmin(axis=-1).astype(np.int32)
    energy = _energy(labels, unary, edges)
    for _ in range(cycles):
        before = energy
        for alpha in range(unary.shape[-1]):
            proposed = _expand(labels, alpha, unary, edges)
            lower = _energy(proposed, unary, edges)
            if lower < energy:
                labels, energy = proposed, lower
        if energy == before:
            break
    return labels


def check_package(user: str) -> None:
    """Raises if the package that cuts graphs is missing; `user` is what needs it, in words."""
    if importlib.util.find_spec("maxflow") is None:
        raise ModuleNotFoundError(f"{user} needs PyMaxflow: pip install PyMaxflow")


def _edges(
    size: tuple[int, ...], beta: float, connectivity: int, image: np.ndarray | None, contrast: float | None
) -> list[Edges]:
    """For each offset, the slices of both ends and what a boundary between them costs."""
    height, width = size
    edges = []
    for dy, dx in OFFSETS[connectivity]:
        left, right = max(0, -dx), max(0, dx)
        here = (slice(0, height - dy), slice(left, width - right))
        there = (slice(dy, height), slice(left + dx, width - right + dx))
        cost = np.full((height - dy, width - abs(dx)), beta / np.hypot(dy, dx))
        if image is not None and contrast is not None:
            change = np.sum(np.square(image[here] - image[there]), axis=-1)
            cost *= np.exp(-change / (2 * contrast**2))
        edges.append(((dy, dx), here, there, cost))
    return edges


def _energy(labels: np.ndarray, unary: np.ndarray, edges: list[Edges]) -> float:
    energy = np.take_along_axis(unary, labels[..., None], axis=-1).sum()
    return float(energy + sum(cost[labels[here] != labels[there]].sum() for _, here, there, cost in edges))


def _expand(labels: np.ndarray, alpha: int, unary: np.ndarray, edges: list[Edges]) -> np.ndarray:
    """The best labelling in which any pixels may change to `alpha`: one cut, in which the sink's side changes."""
    check_package("potts_mrf")
    import maxflow

    graph = maxflow.GraphFloat()
    nodes = graph.add_grid_nodes(labels.shape)
    keep = np.take_along_axis(unary, labels[..., None], axis=-1)[..., 0]
    change = unary[..., alpha].copy()
    other = labels != alpha
    for (dy, dx), here, there, cost in edges:
        # What a pair costs when both keep, only `there` changes and only `here` changes; both changed is free. With
        # x, y = 1 where here, there changes: both + (here_only - both) x - here_only y + capacity (1 - x) y.
        both = cost * (labels[here] != labels[there])
        there_only, here_only = cost * other[here], cost * other[there]
        change[here] += here_only - both
        change[there] -= here_only
        capacity = np.zeros(labels.shape)
        capacity[here] = there_only + here_only - both
        structure = np.zeros((3, 3))
        structure[1 + dy, 1 + dx] = 1.0
        graph.add_grid_edges(nodes, capacity, structure, symmetric=False)
    least = np.minimum(keep, change)
    graph.add_grid_tedges(nodes, change - least, keep - least)
    graph.maxflow()
    return np.where(graph.get_grid_segments(nodes), alpha, labels).astype(np.int32)
