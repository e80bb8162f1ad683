"""Predictions for images of any size: whole or in sliding windows, at several scales, mirrored."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from semiseg_jax.data.letterbox import round_up
from semiseg_jax.data.threads import in_order
from semiseg_jax.data.types import IGNORE
from semiseg_jax.engine.landing import Wanted, in_bytes, landing, pasting
from semiseg_jax.engine.metrics import Calibration, ConfusionMatrix
from semiseg_jax.engine.postprocess import Post, PostProcess
from semiseg_jax.engine.views import View, spans, whole_view, window_view
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
    boundary: str = option(
        "auto",
        "when boundary F is measured: by `semiseg evaluate`; always: in training too; or never",
        choices=("auto", "always", "never"),
    )
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

    def views(self, size: tuple[int, int]) -> tuple[View, ...]:
        """How an image of this size is seen, one view a scale."""
        if self.mode == "whole":
            return tuple(whole_view(size, self.canvas, scale) for scale in self.scales)
        return tuple(window_view(size, self.window, scale, self.overlap) for scale in self.scales)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is known of one image, at its own size."""

    labels: np.ndarray  # [H,W] uint8 class indices
    confidence: float  # mean over pixels of the largest probability
    probs: np.ndarray | None = None  # [H,W,K] float32, where asked for
    certainty: np.ndarray | None = None  # [H,W] uint8, the largest probability in 255ths, where asked for


@dataclasses.dataclass(frozen=True)
class Scored(Prediction):
    """A prediction that was compared with the truth [H,W]."""

    truth: np.ndarray = dataclasses.field(kw_only=True)
    confusion: ConfusionMatrix = dataclasses.field(kw_only=True)
    calibration: Calibration = dataclasses.field(kw_only=True)


class Predictor:
    """Runs `predict` over a stream of images in batches, on the devices of this process.

    An image is mirrored into the rest of its canvas: mean-colour padding would shift the statistics of normalisation
    layers. Canvases come in few sizes (halves of the largest), so that few programs are compiled. Averages, resizing to
    the image's own size, the choice of a class and counts are left to the devices.

    Results come in the order of the images. At most two batches of images are held at a time.
    """

    def __init__(self, predict: Predict, variables: Any, options: Inference, num_classes: int):
        self.options, self.num_classes = options, num_classes
        devices = np.array(jax.local_devices()[: _divisor(options.batch_size, jax.local_device_count())])
        self._mesh = Mesh(devices, ("data",))
        self._replicated, self._split = NamedSharding(self._mesh, P()), NamedSharding(self._mesh, P("data"))
        self._devices = len(devices)
        self._forward = jax.jit(lambda variables, tiles: self._probabilities(predict, variables, tiles))
        self.update(variables)

    def update(self, variables: Any) -> None:
        """Goes on with other variables of the same network, without compiling again."""
        self.variables = jax.device_put(variables, self._replicated)

    def __call__(self, stream: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """RGB images [H,W,3] uint8 -> probabilities [H,W,K] float32 of the same sizes, in order."""
        for prediction in self.predictions(stream, probabilities=True):
            assert prediction.probs is not None
            yield prediction.probs

    def labels(self, stream: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """RGB images [H,W,3] uint8 -> class indices [H,W] uint8 of the same sizes, in order."""
        for prediction in self.predictions(stream):
            yield prediction.labels

    def predictions(
        self, stream: Iterable[np.ndarray], *, probabilities: bool = False, certainty: bool = False
    ) -> Iterator[Prediction]:
        """RGB images [H,W,3] uint8 -> what is found in each, in order; its optional fields where asked for."""
        return self._run(((image, None) for image in stream), Wanted(probabilities, certainty))

    def score(self, stream: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[Scored]:
        """Pairs of an image and its truth [H,W] uint8, 255 where unknown -> predictions with counts, in order."""
        for prediction in self._run(stream, Wanted()):
            assert isinstance(prediction, Scored)
            yield prediction

    def _run(self, stream: Iterable[tuple[np.ndarray, Any]], wanted: Wanted) -> Iterator[Prediction]:
        post = self.options.post
        if post is None:
            for job in self._jobs(stream, wanted):
                yield job.prediction()
            return

        def refined(job: _Job) -> Prediction:
            return _refined(job, post, wanted)

        yield from in_order(refined, map(_Job.fetch, self._jobs(stream, Wanted(probabilities=True))))

    def _jobs(self, stream: Iterable[tuple[np.ndarray, Any]], wanted: Wanted) -> Iterator["_Job"]:
        """The images in order, each when the devices are done with it, or are about to be."""
        waiting: dict[Any, list[_Job]] = {}  # by what they can share a batch with
        flying: deque[_Batch] = deque()
        jobs: deque[_Job] = deque()
        for image, truth in stream:
            job = _Job(_checked(image), truth, self.options)
            jobs.append(job)
            waiting.setdefault(job.key, []).append(job)
            if self._fill(waiting[job.key]):
                flying.append(_Batch(self, waiting.pop(job.key), wanted))
            held = self._fill(jobs, batches=2)
            if held and jobs[0].batch is None:  # of a rare shape, for which no batch fills
                flying.append(_Batch(self, waiting.pop(jobs[0].key), wanted))
            while len(flying) > 1 or (held and flying and not _landed(jobs[0])):
                flying.popleft().landed = True  # the devices work on one batch while the host takes the one before
            while jobs and _landed(jobs[0]):
                yield jobs.popleft()
        for group in waiting.values():
            _Batch(self, group, wanted)
        while jobs:
            yield jobs.popleft()

    def _fill(self, jobs: Sequence["_Job"], batches: int = 1) -> bool:
        """Whether these images fill so many batches, on each device."""
        tiles = sum(job.tiles for job in jobs)
        return tiles >= batches * self.options.batch_size and len(jobs) >= batches * self._devices

    def _probabilities(self, predict: Predict, variables: Any, tiles: jax.Array) -> jax.Array:
        tiles = images.to_unit(tiles)
        probs = predict(variables, tiles)
        if self.options.flip:
            probs = (probs + predict(variables, tiles[:, :, ::-1])[:, :, ::-1]) / 2
        return probs

    def _put(self, rows: Sequence[Any]) -> jax.Array:
        return jax.device_put(np.stack(rows), self._split)

    def _rows(self, jobs: int) -> int:
        """A last, smaller batch is filled up to a power of two."""
        return min(self.options.batch_size, round_up(1 << (jobs - 1).bit_length(), self._devices))

    def _maps(self, jobs: Sequence["_Job"], scale: int) -> jax.Array:
        """[rows,Hc,Wc,K] of the images at one scale, each at the place of `_Batch.place`."""
        per_device = self._rows(len(jobs)) // self._devices
        tiles: list[list[_Tile]] = [[] for _ in range(self._devices)]
        for number, job in enumerate(jobs):
            tiles[number % self._devices] += job.seen(scale, number // self._devices)
        view = jobs[0].views[scale]
        if self.options.mode == "whole":
            filled = [mine + [tiles[0][0]] * (per_device - len(mine)) for mine in tiles]
            return self._forward(self.variables, self._put([tile.pixels for mine in filled for tile in mine]))
        shape = (per_device * self._devices, *view.canvas, self.num_classes)
        maps = jnp.zeros(shape, device=self._split)
        longest, most = max(map(len, tiles)), self.options.batch_size // self._devices
        for start in range(0, longest, most):
            width = min(most, 1 << (longest - start - 1).bit_length())
            rows = [
                mine[start + i] if start + i < len(mine) else tiles[0][0].weightless()
                for mine in tiles
                for i in range(width)
            ]
            probs = self._forward(self.variables, self._put([tile.pixels for tile in rows]))
            places = [self._put([getattr(tile, name) for tile in rows]) for name in ("row", "corner", "down", "across")]
            maps = pasting(self._mesh)(maps, probs, *places)
        return maps


@dataclasses.dataclass(frozen=True)
class _Tile:
    """A piece of an image on its way through the network, and what it adds to which of the maps of its device."""

    pixels: np.ndarray  # [h,w,3] uint8
    row: np.int32
    corner: np.ndarray  # [2] int32
    down: np.ndarray  # [h] and
    across: np.ndarray  # [w]: their product is the share of each pixel in what overlaps

    def weightless(self) -> "_Tile":
        return dataclasses.replace(self, down=np.zeros_like(self.down))


class _Job:
    """One image on its way. It is kept only as long as something will look at it again."""

    def __init__(self, image: np.ndarray, truth: np.ndarray | None, options: Inference):
        self.size: tuple[int, int] = (image.shape[0], image.shape[1])
        if truth is not None and truth.shape != self.size:
            raise ValueError(f"the truth is {list(truth.shape)} but its image {list(self.size)}; they must agree")
        self.views = options.views(self.size)
        self.key = tuple((view.canvas, view.tile) for view in self.views)
        self.tiles = max(len(view.corners) for view in self.views)
        self.truth, self.number = truth, 0
        self._placed = [view.tiles(image) for view in self.views] if options.mode == "whole" else None
        self.image = image if options.post is not None or self._placed is None else None
        self.batch: _Batch | None = None
        self.found: Prediction | None = None
        self._again = options.post is not None

    def seen(self, scale: int, row: int) -> list[_Tile]:
        view = self.views[scale]
        if self._placed is not None:
            pixels = self._placed[scale]
        else:
            assert self.image is not None
            pixels = view.tiles(self.image)
        places = zip(pixels, view.corners, *view.shares(), strict=True)
        return [_Tile(tile, np.int32(row), np.array(corner, np.int32), *shares) for tile, corner, *shares in places]

    def forget(self) -> None:
        """The network has what it needs."""
        self._placed = None
        if not self._again:
            self.image = None

    def prediction(self) -> Prediction:
        assert self.batch is not None
        return self.batch.prediction(self.number)

    def fetch(self) -> "_Job":
        """Waits for the devices."""
        self.found = self.prediction()
        return self


class _Batch:
    """Images whose maps lie on the devices, from where they land one by one on each device."""

    def __init__(self, predictor: Predictor, jobs: Sequence[_Job], wanted: Wanted):
        self.jobs, self.wanted, self.landed = jobs, wanted, False
        self._predictor, self._devices = predictor, predictor._devices
        self._maps: list[jax.Array] = [predictor._maps(jobs, scale) for scale in range(len(jobs[0].views))]
        self._results: dict[int, dict[str, jax.Array]] = {}
        for number, job in enumerate(jobs):
            job.batch, job.number = self, number
            job.forget()
        if not wanted.probabilities:  # results are small: the devices may go on to the end
            for call in range(-(-len(jobs) // self._devices)):
                self._results[call] = self._land(call)
            self._maps.clear()
            if jax.default_backend() == "cpu":  # the host is the device: maps of two batches at once would gain nothing
                jax.block_until_ready(self._results)

    def _land(self, call: int) -> dict[str, jax.Array]:
        """Starts landing the images number `call` of all devices."""
        jobs = self.jobs[call * self._devices : (call + 1) * self._devices]
        scored = jobs[0].truth is not None
        canvas = spans([job.size for job in jobs])
        exact = [all(job.views[scale].placed == job.size for job in jobs) for scale in range(len(self._maps))]
        filled = [*jobs, *[jobs[-1]] * (self._devices - len(jobs))]
        put = self._predictor._put
        program = landing(self._predictor._mesh, canvas, tuple(exact), self.wanted, scored=scored)
        return program(
            tuple(self._maps),
            put([np.int32(call)] * self._devices),
            put([np.array([view.placed for view in job.views], np.int32) for job in filled]),
            put([np.array(job.size, np.int32) for job in filled]),
            put([_on_canvas(job.truth, canvas) for job in filled]) if scored else None,
        )

    def prediction(self, number: int) -> Prediction:
        """Waits for the image of this number."""
        call, device = divmod(number, self._devices)
        if call not in self._results:
            self._results[call] = self._land(call)
        job = self.jobs[number]
        height, width = job.size
        shards = {name: _shard(array, device) for name, array in self._results[call].items()}
        if device == self._devices - 1 or number == len(self.jobs) - 1:
            del self._results[call]
        labels = np.array(shards["labels"][:height, :width])
        confidence = float(shards["confidence"].sum(dtype=np.float64) / (height * width))
        probs = np.array(shards["probs"][:height, :width]) if self.wanted.probabilities else None
        certainty = np.array(shards["certainty"][:height, :width]) if self.wanted.certainty else None
        if job.truth is None:
            return Prediction(labels, confidence, probs, certainty)
        confusion = ConfusionMatrix(shards["confusion"].astype(np.int64))
        calibration = Calibration(shards["calibration"].sum(0, dtype=np.float64))
        return Scored(labels, confidence, probs, truth=job.truth, confusion=confusion, calibration=calibration)


def _refined(job: _Job, post: PostProcess, wanted: Wanted) -> Prediction:
    """After post-processing, on the host."""
    assert job.found is not None
    assert job.found.probs is not None
    assert job.image is not None
    probs = post(job.image, job.found.probs)
    labels, top = probs.argmax(-1).astype(np.uint8), probs.max(-1)
    confidence, kept = float(top.mean(dtype=np.float64)), probs if wanted.probabilities else None
    if job.truth is None:
        return Prediction(labels, confidence, kept, in_bytes(top) if wanted.certainty else None)
    confusion = ConfusionMatrix.from_model_output(job.truth, labels, probs.shape[-1])
    calibration = Calibration.from_model_output(job.truth, labels, top)
    return Scored(labels, confidence, kept, truth=job.truth, confusion=confusion, calibration=calibration)


def _checked(image: Any) -> np.ndarray:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
    raise TypeError(f"a predictor takes a stream of uint8 arrays [H,W,3] in RGB, not {found}")


def _landed(job: _Job) -> bool:
    return job.batch is not None and job.batch.landed


def _shard(array: jax.Array, device: int) -> np.ndarray:
    return np.asarray(array.addressable_shards[device].data)[0]


def _on_canvas(truth: np.ndarray | None, canvas: tuple[int, int]) -> np.ndarray:
    assert truth is not None
    out = np.full(canvas, IGNORE, np.uint8)
    out[: truth.shape[0], : truth.shape[1]] = truth
    return out


def _divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` up to `limit`."""
    return max(d for d in range(1, limit + 1) if number % d == 0)
