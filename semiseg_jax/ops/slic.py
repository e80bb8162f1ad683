"""Superpixels by SLIC, on the host: connected regions of similar colour, about equally large."""

import math

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from semiseg_jax.ops._checks import check_shape


def superpixels(colors: np.ndarray, *, number: int = 500, compactness: float = 10.0, steps: int = 10) -> np.ndarray:
    r"""SLIC: k-means of colour and place, in which each pixel asks the nine nearest cells of a regular grid only.

    .. math::
      d^2 = |x_i - x_k|^2 + m^2 |u_i - u_k|^2 / S^2, \qquad S = \sqrt{HW / number}

    with x the colour, u the place and m the compactness. Each connected part becomes a region of its own; those below
    a quarter of a cell then join the neighbour with which they share the longest boundary.

    Args:
      colors: [H,W,C] of any type. The default compactness suits CIELAB.
      number: how many regions, about.
      compactness: colour difference that counts as much as the side of a cell; larger makes regions rounder.
      steps: rounds of k-means.

    Returns:
      [H,W] int32 numbers of regions, from 0 and without gaps.

    Examples:
      >>> import numpy as np
      >>> from semiseg_jax.ops import superpixels
      >>> halves = np.zeros((8, 8, 1))
      >>> halves[:, 3:] = 100.0
      >>> print(superpixels(halves, number=4)[0])
      [0 0 0 1 1 1 1 1]

    References:
      Achanta et al., SLIC Superpixels Compared to State-of-the-art Superpixel Methods, TPAMI 2012.
    """
    name = "superpixels"
    check_shape(name, "colors", colors, ("H", "W", "C"))
    if number < 1 or steps < 1 or not compactness > 0:
        raise ValueError(
            f"{name}: number is {number}, steps is {steps} and compactness is {compactness} but all must be positive"
        )
    height, width = colors.shape[:2]
    side = math.sqrt(height * width / number)
    rows, columns = (max(1, round(length / side)) for length in (height, width))
    places = np.indices((height, width)).reshape(2, -1).T
    # Colour and place in one vector, in which distances are Euclidean.
    points = np.concatenate([np.asarray(colors).reshape(height * width, -1), places * (compactness / side)], axis=1)
    points = points.astype(np.float32)
    cell = places * (rows, columns) // (height, width)
    chosen = cell[:, 0] * columns + cell[:, 1]
    for _ in range(steps):
        chosen = _nearest(points, _means(points, chosen, rows * columns), cell, (rows, columns))
    return _connected(chosen.reshape(height, width), least=0.25 * height * width / (rows * columns))


def region_means(regions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of [H,W,...] over each region of [H,W] -> [N,...] float32."""
    flat = np.asarray(values, np.float32).reshape(regions.size, -1)
    return _means(flat, regions.ravel(), int(regions.max()) + 1).reshape(-1, *values.shape[2:])


def touching(regions: np.ndarray) -> np.ndarray:
    """Regions of [H,W] that share a boundary -> [N,N] bool, symmetric, false on the diagonal."""
    number = int(regions.max()) + 1
    found = np.zeros((number, number), bool)
    found[_neighbors(regions)] = True
    np.fill_diagonal(found, False)
    return found | found.T


def _means(points: np.ndarray, chosen: np.ndarray, number: int) -> np.ndarray:
    """[number,C]: the mean of the points of each cluster; NaN where it has none."""
    count = np.bincount(chosen, minlength=number)
    sums = [np.bincount(chosen, weights=column, minlength=number) for column in points.T]
    with np.errstate(invalid="ignore"):
        return (np.stack(sums, axis=1) / count[:, None]).astype(np.float32)


def _nearest(points: np.ndarray, centers: np.ndarray, cell: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The nearest of the centres that began in the cell of each point, or beside it."""
    # A frame of centres that nothing is near to; so are those without points.
    framed = np.full((grid[0] + 2, grid[1] + 2, centers.shape[1]), np.inf, np.float32)
    framed[1:-1, 1:-1] = np.nan_to_num(centers, nan=np.inf).reshape(*grid, -1)
    flat = framed.reshape(-1, centers.shape[1])
    home = (cell[:, 0] + 1) * (grid[1] + 2) + cell[:, 1] + 1
    best = np.full(len(points), np.inf, np.float32)
    nearest = np.zeros(len(points), np.int64)
    for step in [dy * (grid[1] + 2) + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
        apart = points - flat.take(home + step, axis=0)
        distance = np.einsum("pc,pc->p", apart, apart)
        nearer = distance < best
        np.copyto(best, distance, where=nearer)
        np.copyto(nearest, home + step, where=nearer)
    row, column = np.divmod(nearest, grid[1] + 2)
    return (row - 1) * grid[1] + column - 1


def _connected(chosen: np.ndarray, least: float) -> np.ndarray:
    """Connected parts of the clusters, of which those smaller than `least` have joined a neighbour."""
    pixels = np.arange(chosen.size).reshape(chosen.shape)
    here, there = _neighbors(pixels)
    same = np.equal(*_neighbors(chosen))
    parts = _groups(here[same], there[same], chosen.size)
    while True:
        number = int(parts.max()) + 1
        small = np.bincount(parts) < least
        if number == 1 or not small.any():
            return parts.reshape(chosen.shape).astype(np.int32)
        here, there = _neighbors(parts.reshape(chosen.shape))
        pairs, length = np.unique(np.concatenate([here * number + there, there * number + here]), return_counts=True)
        here, there = np.divmod(pairs, number)
        length[here == there] = 0
        order = np.argsort(length, kind="stable")  # of assignments to one place the last stays: the longest boundary
        longest = np.zeros(number, np.int64)
        longest[here[order]] = there[order]
        parts = _groups(np.flatnonzero(small), longest[small], number)[parts]


def _groups(here: np.ndarray, there: np.ndarray, number: int) -> np.ndarray:
    """[number]: the connected component of each node of a graph with these edges."""
    graph = coo_array((np.ones(len(here), bool), (here, there)), shape=(number, number))
    groups: np.ndarray = connected_components(graph, directed=False)[1]
    return groups.astype(np.int64)


def _neighbors(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of all pairs of pixels that are side by side or one above the other."""
    here = np.concatenate([values[:, :-1].ravel(), values[:-1].ravel()])
    there = np.concatenate([values[:, 1:].ravel(), values[1:].ravel()])
    return here, there
