"""From label maps to regions with exact outlines: what `drawings.fill` makes of them is the label map again.

A region is all pixels of one class that hang together by their sides. Its outlines run along the edges of pixels, the
outer one first, then those of its holes; for tools whose polygons have no holes, seams join them to one line.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import cv2
import numpy as np

from semiseg_jax.exchange.drawings import Ring

_ROWS = 128


@dataclasses.dataclass(frozen=True)
class Region:
    klass: int
    rings: Sequence[Ring]  # [N,2] y, x: the outer outline, then those of holes
    pixels: int  # before outlines are simplified
    score: float | None = None  # mean over them of the largest probability, if it is known


def regions_of(
    labels: np.ndarray,
    certainty: np.ndarray | None = None,
    *,
    background: int | None = None,
    tolerance: float = 1.0,
    min_area: int = 0,
) -> tuple[list[Region], int]:
    """Regions of a label map [H,W], and how many smaller than `min_area` pixels became part of what is around them.

    Args:
      labels: [H,W] uint8 class indices.
      certainty: [H,W] uint8, the largest probability in 255ths, of which regions get a score.
      background: the class whose regions are left out.
      tolerance: outlines are simplified, by at most so many pixels; 0 = exact. Neighbours keep a common border.
      min_area: pixels of the smallest region that is kept.
    """
    labels, dropped = without_small(np.ascontiguousarray(labels, np.uint8), min_area)
    ids, found = _components(labels)
    fixed = _junctions(ids) if tolerance > 0 else None
    sums = None if certainty is None else _sums(ids, certainty, len(found) + 1)
    regions = []
    for number, (klass, (top, left, bottom, right), pixels) in enumerate(found, 1):
        if klass != background:
            rings = [ring + np.array([top, left]) for ring in outlines(ids[top:bottom, left:right] == number)]
            simple = rings if fixed is None else [_simplified(ring, fixed, tolerance) for ring in rings]
            score = None if sums is None else float(sums[number]) / (255 * pixels)
            regions.append(Region(klass, simple, pixels, score))
    return sorted(regions, key=lambda region: -region.pixels), dropped


def seamed(rings: Sequence[Ring]) -> Ring:
    """One line that encloses what an outer outline and those of holes do.

    A seam runs to each hole and back on the same way, along a row and a column: so it encloses nothing, exactly.
    """
    line = np.asarray(rings[0])
    for ring in rings[1:]:
        hole = np.asarray(ring)[::-1]
        start = int(hole[:, 1].argmin())
        hole = np.roll(hole, -start, axis=0)
        near = int(np.abs(line - hole[0]).sum(1).argmin())
        bend = [[line[near, 0], hole[0, 1]]]
        line = np.concatenate([line[: near + 1], bend, hole, hole[:1], bend, line[near:]])
    return line[(line != np.roll(line, 1, axis=0)).any(1)]


def without_small(labels: np.ndarray, min_area: int) -> tuple[np.ndarray, int]:
    """Smaller regions become the class that they touch most, together where they touch -> labels, their number."""
    ids, found = _components(labels)
    areas = np.array([0, *(pixels for _, _, pixels in found)])
    limit = min(min_area, areas.max())  # the largest region stays in any case
    small = areas[ids] < limit
    if not small.any():
        return labels, 0
    count, blobs = cv2.connectedComponents(small.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    touched = np.zeros((count, 256), np.int64)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:])):
        for one, other in ((here, there), ((slice(None), here), (slice(None), there))):
            border = small[one] & ~small[other]
            np.add.at(touched, (blobs[one][border], labels[other][border]), 1)
    return np.where(small, touched.argmax(1)[blobs], labels).astype(np.uint8), int((areas[1:] < limit).sum())


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """[H,W] bool, pixels that hang together by their sides -> corners [N,2] of each outline, the outer one first.

    At a corner an outline turns from along a row to along a column. Sorted by row, corners follow each other in pairs
    that a piece of outline joins; sorted by column, too.
    """
    padded = np.pad(mask.astype(np.int8), 1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]  # around each corner of a pixel
    turns = np.argwhere((a + b + c + d) % 2 == 1)
    doubles = np.argwhere((a == d) & (b == c) & (a != b))  # two pixels touch here: each is gone around by itself
    at = tuple(turns.T)
    upper_right = (b == 1)[tuple(doubles.T)]  # the upper one of the two pixels is the right one
    places = np.concatenate([turns, doubles, doubles])
    rightwards = np.concatenate([(b != d)[at], upper_right, ~upper_right])
    downwards = np.concatenate([(c != d)[at], np.zeros(len(doubles), bool), np.ones(len(doubles), bool)])
    along_row = _partners(np.lexsort((rightwards, places[:, 1], places[:, 0])))
    along_column = _partners(np.lexsort((downwards, places[:, 0], places[:, 1])))
    found, left = [], np.ones(len(places), bool)
    for start in np.lexsort((places[:, 1], places[:, 0])).tolist():
        if not left[start]:
            continue
        ring: list[int] = []
        node = start
        while not ring or node != start:
            ring += [node, along_row[node]]
            node = along_column[ring[-1]]
        left[ring] = False
        found.append(places[ring])
    return found


def _partners(order: np.ndarray) -> list[int]:
    partners = np.empty(len(order), np.int64)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return partners.tolist()


def _components(labels: np.ndarray) -> tuple[np.ndarray, list[tuple[int, tuple[int, int, int, int], int]]]:
    """[H,W] numbers of regions from 1 on; and of each its class, its top, left, bottom and right, and its pixels."""
    ids = np.zeros(labels.shape, np.int32)
    found: list[tuple[int, tuple[int, int, int, int], int]] = []
    for klass in np.flatnonzero(np.bincount(labels.ravel())).tolist():
        of_class = (labels == klass).astype(np.uint8)
        _, own, stats, _ = cv2.connectedComponentsWithStats(of_class, connectivity=4, ltype=cv2.CV_32S)
        np.add(own, len(found), out=ids, where=own > 0)
        for x, y, width, height, pixels in stats[1:].tolist():
            found.append((klass, (y, x, y + height, x + width), pixels))
    return ids, found


def _sums(ids: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """[count] of the values where `ids` are 0, 1, 2 and so on, some rows at a time."""
    sums = np.zeros(count)
    for start in range(0, len(ids), _ROWS):
        rows = np.s_[start : start + _ROWS]
        sums += np.bincount(ids[rows].ravel(), values[rows].ravel(), count)
    return sums


def _junctions(ids: np.ndarray) -> np.ndarray:
    """[H+1,W+1] bool: corners of pixels that stay when outlines are simplified.

    They are those where more than two regions meet, or two regions crosswise, and where borders meet the image's edge.
    """
    padded = np.pad(ids, 1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    straight = ((a == b) & (c == d)) | ((a == c) & (b == d))
    three_of_one = (a == b) & ((a == c) | (a == d)) | (c == d) & ((c == a) | (c == b))
    junctions = ~(straight | three_of_one)
    junctions[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return junctions


def _simplified(ring: np.ndarray, fixed: np.ndarray, tolerance: float) -> np.ndarray:
    """Simplifies each piece between fixed corners; a piece is the same whichever region it is an outline of."""
    steps = _unit_steps(ring)
    cuts = np.flatnonzero(fixed[steps[:, 0], steps[:, 1]])
    if len(cuts) == 0:
        cuts = np.lexsort((steps[:, 1], steps[:, 0]))[:1]
    steps = np.roll(steps, -cuts[0], axis=0)
    ends = [*(cuts - cuts[0]).tolist(), len(steps)]
    steps = np.concatenate([steps, steps[:1]])
    corners: list[np.ndarray] = []
    for start, end in itertools.pairwise(ends):
        piece = steps[start : end + 1]
        far = _farthest(piece) if (piece[0] == piece[-1]).all() else 0
        for part in (piece[: far + 1], piece[far:]) if far else (piece,):
            turned = tuple(part[0]) > tuple(part[-1])
            line = (part[::-1] if turned else part).astype(np.int32).reshape(-1, 1, 2)
            kept = cv2.approxPolyDP(line, tolerance, False).reshape(-1, 2)
            corners.append((kept[::-1] if turned else kept)[:-1])
    simple = np.concatenate(corners).astype(np.int64)
    return simple if len(simple) > 2 and 2 * _area(simple) > _area(ring) else ring  # a thin region must not vanish


def _unit_steps(ring: np.ndarray) -> np.ndarray:
    """All corners of pixels along a ring."""
    move = np.roll(ring, -1, axis=0) - ring
    lengths = np.abs(move).sum(1)
    index = np.repeat(np.arange(len(ring)), lengths)
    step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return ring[index] + np.sign(move)[index] * step[:, None]


def _farthest(loop: np.ndarray) -> int:
    distance = ((loop - loop[0]) ** 2).sum(1)
    return int(np.lexsort((loop[:, 1], loop[:, 0], -distance))[0])


def _area(ring: np.ndarray) -> float:
    y, x = ring.T
    return abs(float(np.dot(y, np.roll(x, -1)) - np.dot(x, np.roll(y, -1)))) / 2
