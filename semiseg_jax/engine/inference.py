"""Class probabilities for images of any size: whole or in sliding windows, at several scales, mirrored."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from semiseg_jax.data.letterbox import Letterbox, resize, round_up
from semiseg_jax.engine.postprocess import Post, PostProcess
from semiseg_jax.ops import images
from semiseg_jax.options import OptionError, Options, option

Predict = Callable[[Any, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Evaluation(Options):
    """How a trained network is evaluated, and how it predicts."""

    every: int = option(500, "steps between evaluations in training", low=1)
    mode: str = option("whole", "the whole image at once, or a window that slides over it", choices=("whole", "slide"))
    batch_size: int = option(16, "images, or windows, at once", low=1)
    flip: bool = option(False, "average with the mirror image")
    scales: tuple[float, ...] = option((1.0,), "sizes of the image whose predictions are averaged", low=0.1, high=10)
    window: tuple[int, int] = option((0, 0), "of slide; (0, 0) = the crop", low=0)
    overlap: float = option(0.5, "of neighbouring windows", low=0, below=1)
    max_images: int = option(0, "of evaluations in training, spread over the split; 0 = all", low=0)
    post: Post = Post()  # noqa: RUF009 - frozen
    weights: str = option(
        "auto", "auto = those that the method names, such as an average over steps; or raw", choices=("auto", "raw")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales:
            raise OptionError("scales", "is empty but must hold at least one number")
        if any(self.window) and not all(self.window):
            raise OptionError("window", f"is {self.window}; give both sides, or (0, 0)")


@dataclasses.dataclass(frozen=True)
class Inference:
    """How images go through the network.

    `whole` shrinks an image to fit `canvas` if it must, as training does; `slide` keeps the image's own resolution and
    moves a `window` over it with `overlap`. `scales` are relative to that; probabilities are averaged over scales,
    windows and the mirror image.
    """

    canvas: tuple[int, int]
    window: tuple[int, int]
    mode: str = "whole"
    batch_size: int = 16
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    overlap: float = 0.5
    post: PostProcess | None = None  # of each image, after everything else


@dataclasses.dataclass
class _Tile:
    """A piece of an image on a canvas, and how its probabilities [Hc,Wc,K] go back."""

    pixels: np.ndarray  # [Hc,Wc,3] uint8
    place: Callable[[np.ndarray], None]


class Predictor:
    """Runs `predict` over a stream of images in batches, on the devices of this process.

    An image is mirrored into the rest of its canvas: mean-colour padding would shift the statistics of normalisation
    layers. Canvases come in few sizes (halves of the largest), so that few programs are compiled.
    """

    def __init__(self, predict: Predict, variables: Any, options: Inference, num_classes: int):
        self.options, self.num_classes = options, num_classes
        devices = np.array(jax.local_devices()[: _divisor(options.batch_size, jax.local_device_count())])
        mesh = Mesh(devices, ("data",))
        self._replicated, self._split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
        self._devices = len(devices)
        self._forward = jax.jit(lambda variables, tiles: self._probabilities(predict, variables, tiles))
        self.update(variables)

    def update(self, variables: Any) -> None:
        """Goes on with other variables of the same network, without compiling again."""
        self.variables = jax.device_put(variables, self._replicated)

    def _probabilities(self, predict: Predict, variables: Any, tiles: jax.Array) -> jax.Array:
        tiles = images.to_unit(tiles)
        probs = predict(variables, tiles)
        if self.options.flip:
            probs = (probs + predict(variables, tiles[:, :, ::-1])[:, :, ::-1]) / 2
        return probs

    def __call__(self, stream: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """RGB images [H,W,3] uint8 -> probabilities [H,W,K] float32 of the same sizes, in order."""
        waiting: dict[tuple[int, ...], list[_Tile]] = {}
        flying: deque[tuple[list[_Tile], jax.Array]] = deque()
        jobs: deque[_Job] = deque()
        for image in stream:
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
                raise TypeError(f"a predictor takes a stream of uint8 arrays [H,W,3] in RGB, not {found}")
            job = _Job(image, self.options.post)
            jobs.append(job)
            for tile in self._tiles(image, job):
                group = waiting.setdefault(tile.pixels.shape, [])
                group.append(tile)
                job.left += 1
                if len(group) == self.options.batch_size:
                    flying.append(self._start(waiting.pop(tile.pixels.shape)))
                    while len(flying) > 1:  # the device works on one batch while the host places the one before
                        _land(*flying.popleft())
            while jobs and not jobs[0].left:
                yield jobs.popleft().result()
        flying.extend(self._start(group) for group in waiting.values())
        while flying:
            _land(*flying.popleft())
        while jobs:
            yield jobs.popleft().result()

    def _start(self, tiles: list[_Tile]) -> tuple[list[_Tile], jax.Array]:
        """Hands tiles to the devices; a last, smaller batch is filled up to a power of two."""
        rows = min(self.options.batch_size, round_up(1 << (len(tiles) - 1).bit_length(), self._devices))
        filled = [*tiles, *[tiles[-1]] * (rows - len(tiles))]
        pixels = jax.device_put(np.stack([tile.pixels for tile in filled]), self._split)
        return tiles, self._forward(self.variables, pixels)

    def _tiles(self, image: np.ndarray, job: "_Job") -> Iterator[_Tile]:
        for scale in self.options.scales:
            if self.options.mode == "whole":
                yield self._whole(image, scale, job)
            else:
                yield from self._windows(image, scale, job)

    def _whole(self, image: np.ndarray, scale: float, job: "_Job") -> _Tile:
        base = Letterbox.fit(image.shape[:2], self.options.canvas)
        placed = [max(1, round(side * scale)) for side in base.placed]
        canvas = [
            _halved(round_up(round(largest * scale), 32), side)
            for largest, side in zip(self.options.canvas, placed, strict=True)
        ]
        box = Letterbox(base.size, (placed[0], placed[1]), (canvas[0], canvas[1]))
        return _Tile(box.place_mirrored(image), lambda maps: job.add(box.unplace(maps)))

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
            yield _Tile(box.place_mirrored(piece), lambda maps, y=y, x=x: place(maps, y, x))  # type: ignore[misc]


class _Job:
    """One image on its way: how many tiles are still out, and the sum of what came back."""

    def __init__(self, image: np.ndarray, post: PostProcess | None):
        self.size, self.image, self.post = image.shape[:2], image, post
        self.left = 0
        self.sum: np.ndarray | None = None
        self.parts = 0

    def add(self, maps: np.ndarray | None) -> None:
        self.left -= 1
        if maps is not None:
            self.sum = maps if self.sum is None else self.sum + maps
            self.parts += 1

    def result(self) -> np.ndarray:
        assert self.sum is not None
        probs = self.sum if self.parts == 1 else self.sum / self.parts
        return probs if self.post is None else self.post(self.image, probs)


def _land(tiles: Sequence[_Tile], probs: jax.Array) -> None:
    """Waits for a batch and puts its tiles where they belong."""
    for tile, maps in zip(tiles, np.asarray(probs), strict=False):
        tile.place(maps)


def _halved(largest: int, needed: int) -> int:
    """`largest`, halved while `needed` pixels still fit; a multiple of 32."""
    while (half := round_up(largest // 2, 32)) >= needed and half < largest:
        largest = half
    return largest


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Even positions that cover [0, length) with at least the asked-for overlap."""
    if length <= window:
        return [0]
    pieces = int(np.ceil((length - window) / max(1, window * (1 - overlap)))) + 1
    return [round(i * (length - window) / (pieces - 1)) for i in range(pieces)]


def _divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` up to `limit`."""
    return max(d for d in range(1, limit + 1) if number % d == 0)
