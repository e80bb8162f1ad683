"""Weak labels drawn from dense masks, as an annotator on a budget would give them.

Every maker takes a [H,W] mask of class indices (255 = no label) and a `numpy.random.Generator`, and returns rows of
geometry: points (y, x, class), strokes (y0, x0, y1, x1, class), boxes (y0, x0, y1, x1). The same generator state
gives the same labels. Builders store the result, so that every run sees the same weak labels.
"""

import inspect
import itertools
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from semiseg_jax.data.types import IGNORE, Supervision


def random_pixels(
    mask: np.ndarray, rng: np.random.Generator, *, fraction: float = 0.01, each_class: bool = True
) -> np.ndarray:
    """A fraction of the labelled pixels, uniformly at random -> points [P,3].

    With `each_class`, a class that is in the image keeps at least one pixel.
    """
    ys, xs = np.nonzero(mask != IGNORE)
    if not len(ys):
        return np.zeros((0, 3), np.float32)
    order = rng.permutation(len(ys))
    keep = order[: max(1, round(fraction * len(ys)))]
    if each_class:
        classes_in_order = mask[ys[order], xs[order]]
        _, first = np.unique(classes_in_order, return_index=True)
        keep = np.union1d(keep, order[first])
    return np.stack([ys[keep], xs[keep], mask[ys[keep], xs[keep]]], -1).astype(np.float32)


def clicks(mask: np.ndarray, rng: np.random.Generator, *, min_area: int = 16, jitter: float = 0.5) -> np.ndarray:
    """One click in each connected component, near its middle -> points [P,3].

    A click is drawn among the pixels whose distance to the border is at least `1 - jitter` of the largest one.
    """
    rows = []
    for klass, corner, component in _components(mask, min_area):
        depth = _depth(component)
        middle = np.argwhere(component & (depth >= (1 - jitter) * depth.max()))
        rows.append((*(corner + middle[rng.integers(len(middle))]), klass))
    return np.asarray(rows, np.float32).reshape(-1, 3)


def scribbles(
    mask: np.ndarray, rng: np.random.Generator, *, min_area: int = 16, pieces: int = 3, tries: int = 12
) -> np.ndarray:
    """One polyline of up to `pieces` straight pieces inside each connected component -> strokes [S,5]."""
    rows: list[tuple[float, ...]] = []
    for klass, corner, component in _components(mask, min_area):
        depth = _depth(component)
        interior = np.argwhere(depth >= min(0.35 * depth.max(), 4.0))
        path = [interior[rng.integers(len(interior))]]
        for _ in range(pieces):
            start, ends = path[-1], interior[rng.integers(len(interior), size=tries)]
            by_distance = ends[np.argsort(-np.hypot(*(ends - start).T), kind="stable")]
            far = next((end for end in by_distance if _segment_inside(component, start, end)), start)
            if np.hypot(*(far - start)) < 3:
                break
            path.append(far)
        if len(path) == 1:
            path *= 2  # too small for a line: a dot
        path = [corner + at for at in path]
        rows += [(*start, *end, klass) for start, end in itertools.pairwise(path)]
    return np.asarray(rows, np.float32).reshape(-1, 5)


def boxes(
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    background: int | None = 0,
    min_area: int = 16,
    jitter: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Tight box of each connected component that is not background -> boxes [M,4] and classes [M].

    `jitter` moves each side by up to that share of the box's height or width. y1 and x1 are exclusive.
    """
    rows, classes = [], []
    height, width = mask.shape
    for klass, corner, component in _components(mask, min_area):
        if klass == background:
            continue
        box = np.concatenate([corner, corner + component.shape]).astype(np.float32)
        box += rng.uniform(-jitter, jitter, 4) * np.tile(component.shape, 2)
        rows.append(np.clip(box, 0, [height, width, height, width]))
        classes.append(klass)
    return np.asarray(rows, np.float32).reshape(-1, 4), np.asarray(classes, np.int32)


def tags(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """1 where a class is in the image, 0 elsewhere -> [K] int8."""
    present = np.unique(mask[mask != IGNORE])
    out = np.zeros(num_classes, np.int8)
    out[present[present < num_classes]] = 1
    return out


MAKERS: Mapping[Supervision, Callable[..., Any]] = {
    Supervision.PARTIAL: random_pixels,
    Supervision.POINTS: clicks,
    Supervision.SCRIBBLE: scribbles,
    Supervision.BOX: boxes,
    Supervision.TAGS: tags,
}


_JITTERS = {Supervision.POINTS: 1.0, Supervision.BOX: 0.4}  # the most; sides of boxes must not pass each other


def check_options(kind: Supervision, options: Mapping[str, Any]) -> None:
    """Raises for a kind that cannot be drawn from masks, and for options that its maker does not have."""
    name = kind.name.lower()
    if kind not in MAKERS:
        known = ", ".join(k.name.lower() for k in MAKERS)
        raise ValueError(f"simulate: {name} labels cannot be drawn from masks; possible: {known}")
    parameters = inspect.signature(MAKERS[kind]).parameters.values()
    known_options = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
    unknown = sorted(set(options) - set(known_options))
    if unknown:
        raise ValueError(
            f"simulate: {name} has no option {', '.join(unknown)}; its options: {', '.join(known_options) or 'none'}"
        )
    if kind in _JITTERS and not 0 <= options.get("jitter", 0) <= _JITTERS[kind]:
        raise ValueError(f"simulate: jitter of {name} is {options['jitter']} but must be from 0 to {_JITTERS[kind]:g}")


def _components(mask: np.ndarray, min_area: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(class, top left corner [2], bool map cut to its bounding box) of every connected component.

    Only components of at least `min_area` pixels; a class whose components are all smaller keeps its largest one,
    so that no class that is in the image goes unlabelled.
    """
    for klass in np.unique(mask[mask != IGNORE]):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((mask == klass).astype(np.uint8), connectivity=8)
        least = min(min_area, stats[1:, cv2.CC_STAT_AREA].max())
        for number in range(1, count):
            x, y, width, height, area = stats[number]
            if area >= least:
                yield int(klass), np.array([y, x]), labels[y : y + height, x : x + width] == number


def _depth(component: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the outside of the component; the image border counts as outside."""
    return cv2.distanceTransform(np.pad(component.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]


def _segment_inside(component: np.ndarray, start: np.ndarray, end: np.ndarray) -> bool:
    # Eight samples a pixel: every pixel that the line touches must be inside, however it is drawn later.
    samples = np.linspace(start, end, 8 * int(np.abs(end - start).max()) + 1)
    y, x = np.floor(np.concatenate([samples + 0.499, samples + 0.501])).astype(int).T
    return bool(component[y, x].all())


def trace_strokes(scribble: np.ndarray, *, tolerance: float = 0.75) -> np.ndarray:
    """Turns a drawn scribble map [H,W] (255 = nothing drawn) into strokes [S,5] along its middle lines."""
    rows: list[tuple[float, ...]] = []
    for klass in np.unique(scribble[scribble != IGNORE]):
        drawn = scribble == klass
        corner = np.argwhere(drawn).min(0)
        for path in _trace(thin(drawn[corner[0] :, corner[1] :])):
            path = path + corner
            line = cv2.approxPolyDP(path[:, None, ::-1].astype(np.int32), tolerance, False)[:, 0, ::-1]
            if len(line) == 1:
                line = np.repeat(line, 2, 0)
            rows += [(*start, *end, klass) for start, end in itertools.pairwise(line)]
    return np.asarray(rows, np.float32).reshape(-1, 5)


def thin(region: np.ndarray) -> np.ndarray:
    """One-pixel-wide skeleton of a bool map (Guo and Hall 1989), which keeps dots and diagonals two pixels wide."""
    region = np.pad(region.astype(bool), 1)
    while True:
        before = region.sum()
        for first in (True, False):
            n, ne, e, se, s, sw, w, nw = (np.roll(region, shift, (0, 1)) for shift in
                ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1)))  # fmt: skip
            branches = _count(~n & (ne | e), ~e & (se | s), ~s & (sw | w), ~w & (nw | n))
            neighbours = np.minimum(_count(nw | n, ne | e, se | s, sw | w), _count(n | ne, e | se, s | sw, w | nw))
            kept = (s | sw | ~nw) & w if first else (n | ne | ~se) & e
            region = region & ~((branches == 1) & (neighbours >= 2) & (neighbours <= 3) & ~kept)
        if region.sum() == before:
            return region[1:-1, 1:-1]


def _count(*maps: np.ndarray) -> np.ndarray:
    return np.asarray(np.sum(maps, axis=0, dtype=np.int8))


def _trace(skeleton: np.ndarray) -> Iterator[np.ndarray]:
    """Walks a skeleton into paths [N,2] that together visit every pixel; straight steps before diagonal ones."""
    left = {(int(y), int(x)) for y, x in np.argwhere(skeleton)}
    around = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))

    def neighbours(at: tuple[int, int], among: Container[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(at[0] + dy, at[1] + dx) for dy, dx in around if (at[0] + dy, at[1] + dx) in among]

    everything = frozenset(left)
    ends = sorted(at for at in left if len(neighbours(at, left)) <= 1)
    while left:
        while ends and ends[-1] not in left:
            ends.pop()
        here = ends[-1] if ends else min(left)
        # A branch begins on the pixel that it grows from, so that no gap opens where lines meet.
        joint = [at for at in neighbours(here, everything) if at not in left]
        path = [*joint[:1], here]
        left.discard(here)
        while step := neighbours(here, left):
            here = step[0]
            left.discard(here)
            path.append(here)
        yield np.array(path)
