"""Class probabilities for images of any size: whole or in sliding windows, at several scales, mirrored."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from semiseg_jax.data.letterbox import Letterbox, resize, round_up
from semiseg_jax.ops import images

Predict = Callable[[Any, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Options:
    """How images go through the network.

    `whole` shrinks an image to fit `canvas` if it must; `slide` keeps the resolution and moves a `window` over it with
    `overlap`. `scales` are relative to that; probabilities are averaged over scales, windows and the mirror image.
    """

    canvas: tuple[int, int]
    window: tuple[int, int]
    mode: str = "whole"
    batch_size: int = 16
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    overlap: float = 0.5


@dataclasses.dataclass
class _Tile:
    """A piece of an image, of fixed size, and how it goes back."""

    pixels: np.ndarray  # [Hc,Wc,3] uint8
    size: tuple[int, int]  # of the real pixels at the top left
    place: Callable[[np.ndarray], None]  # takes the probabilities [Hc,Wc,K]


class Predictor:
    """Runs `predict` over a stream of images in batches of one fixed shape a scale, on the devices of this process."""

    def __init__(self, predict: Predict, variables: Any, options: Options, num_classes: int):
        self.options, self.num_classes = options, num_classes
        devices = np.array(jax.local_devices()[: _divisor(options.batch_size, jax.local_device_count())])
        mesh = Mesh(devices, ("data",))
        self.variables = jax.device_put(variables, NamedSharding(mesh, P()))
        self.sharding = NamedSharding(mesh, P("data"))
        self._forward = jax.jit(lambda variables, tiles, sizes: self._probabilities(predict, variables, tiles, sizes))

    def _probabilities(self, predict: Predict, variables: Any, tiles: jax.Array, sizes: jax.Array) -> jax.Array:
        inside = [jnp.arange(n)[None, :] < sizes[:, axis, None] for axis, n in enumerate(tiles.shape[1:3])]
        valid = inside[0][:, :, None] & inside[1][:, None, :]
        pixels = images.fill_padding(images.to_unit(tiles), valid)
        probs = predict(variables, pixels)
        if self.options.flip:
            probs = (probs + predict(variables, pixels[:, :, ::-1])[:, :, ::-1]) / 2
        return probs

    def __call__(self, stream: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """RGB images [H,W,3] uint8 -> probabilities [H,W,K] float32 of the same sizes, in order."""
        waiting: dict[tuple[int, ...], list[_Tile]] = {}
        jobs: deque[_Job] = deque()
        for image in stream:
            job = _Job(image.shape[:2], self.num_classes)
            jobs.append(job)
            for tile in self._tiles(image, job):
                group = waiting.setdefault(tile.pixels.shape, [])
                group.append(tile)
                job.left += 1
                if len(group) == self.options.batch_size:
                    self._run(waiting.pop(tile.pixels.shape))
            while jobs and not jobs[0].left:
                yield jobs.popleft().result()
        for group in waiting.values():
            self._run(group)
        while jobs:
            yield jobs.popleft().result()

    def _run(self, tiles: Sequence[_Tile]) -> None:
        rows = self.options.batch_size
        padded = [*tiles, *[tiles[-1]] * (rows - len(tiles))]
        pixels = np.stack([tile.pixels for tile in padded])
        sizes = np.array([tile.size for tile in padded], np.int32)
        probs = self._forward(self.variables, *jax.device_put((pixels, sizes), self.sharding))
        for tile, maps in zip(tiles, np.asarray(probs), strict=False):
            tile.place(maps)

    def _tiles(self, image: np.ndarray, job: "_Job") -> Iterator[_Tile]:
        for scale in self.options.scales:
            if self.options.mode == "whole":
                yield self._whole(image, scale, job)
            else:
                yield from self._windows(image, scale, job)

    def _whole(self, image: np.ndarray, scale: float, job: "_Job") -> _Tile:
        base = Letterbox.fit(image.shape[:2], self.options.canvas)
        canvas = tuple(round_up(round(side * scale), 32) for side in self.options.canvas)
        placed = tuple(max(1, round(side * scale)) for side in base.placed)
        box = Letterbox(base.size, (placed[0], placed[1]), (canvas[0], canvas[1]))
        return _Tile(box.place_image(image), box.placed, lambda maps: job.add(box.unplace(maps)))

    def _windows(self, image: np.ndarray, scale: float, job: "_Job") -> Iterator[_Tile]:
        size = tuple(max(1, round(side * scale)) for side in image.shape[:2])
        scaled = resize(image, size)
        window = self.options.window
        total = np.zeros((*size, self.num_classes), np.float32)
        count = np.zeros((*size, 1), np.float32)
        corners = [
            (y, x)
            for y in _starts(size[0], window[0], self.options.overlap)
            for x in _starts(size[1], window[1], self.options.overlap)
        ]
        left = len(corners)

        def place(maps: np.ndarray, y: int, x: int) -> None:
            nonlocal left
            target = total[y : y + window[0], x : x + window[1]]
            target += maps[: target.shape[0], : target.shape[1]]
            count[y : y + window[0], x : x + window[1]] += 1
            left -= 1
            job.add(resize(total / count, job.size) if not left else None)

        for y, x in corners:
            piece = scaled[y : y + window[0], x : x + window[1]]
            box = Letterbox.fit(piece.shape[:2], window)
            yield _Tile(box.place_image(piece), box.placed, lambda maps, y=y, x=x: place(maps, y, x))  # type: ignore[misc]


class _Job:
    """One image on its way: how many tiles are still out, and the sum of what came back."""

    def __init__(self, size: tuple[int, ...], num_classes: int):
        self.size = size
        self.left = 0
        self.sum = np.zeros((*size, num_classes), np.float32)
        self.parts = 0

    def add(self, maps: np.ndarray | None) -> None:
        self.left -= 1
        if maps is not None:
            self.sum += maps
            self.parts += 1

    def result(self) -> np.ndarray:
        return self.sum / max(self.parts, 1)


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Even positions that cover [0, length) with at least the asked-for overlap."""
    if length <= window:
        return [0]
    pieces = int(np.ceil((length - window) / max(1, window * (1 - overlap)))) + 1
    return [round(i * (length - window) / (pieces - 1)) for i in range(pieces)]


def _divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` up to `limit`."""
    return max(d for d in range(1, limit + 1) if number % d == 0)
