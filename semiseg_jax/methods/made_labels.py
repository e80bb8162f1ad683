"""Labels that one stage of a method makes for the next: of which images, where they are kept, how they look.

Files lie below the workdir of the run, label maps at the size of their image. Processes share the work. A file that is
written is not made again.
"""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.pools import make_pools, parse_quota
from semiseg_jax.data.records import Record, decode_image, encode_png, given_labels
from semiseg_jax.data.types import Supervision
from semiseg_jax.engine import pictures
from semiseg_jax.engine.files import write_whole
from semiseg_jax.engine.inference import Predictor
from semiseg_jax.engine.workers import Here, cores, workers
from semiseg_jax.engine.writers import Progress, say
from semiseg_jax.methods.base import FinishContext

LABELS, PICTURES = "labels", "maps"
PICTURES_DRAWN = 24  # images of each stage whose maps are drawn
WORTH_WORKERS = 3  # seconds of work, for which starting other processes pays
Columns = dict[str, np.ndarray]  # of a picture


@dataclasses.dataclass(frozen=True)
class Image:
    """What there is to make labels of, beside the prediction. Masks stay closed."""

    name: str
    pixels: np.ndarray  # [H,W,3] uint8
    tags: np.ndarray  # [K]
    given: np.ndarray  # [H,W] labels that training sees; IGNORE elsewhere


@dataclasses.dataclass(frozen=True)
class Made:
    """The content of an image's file, and the columns of its picture."""

    file: bytes
    columns: Columns

    @classmethod
    def of_labels(cls, labels: np.ndarray, columns: Columns) -> "Made":
        """A label map [H,W] as PNG."""
        return cls(encode_png(labels), columns)


Make = Callable[[Image, np.ndarray], Made]  # of an image and its prediction


@dataclasses.dataclass(frozen=True)
class _Job:
    """One image that gets a file."""

    index: int  # in the split
    size: tuple[int, int]
    kinds: tuple[Supervision, ...]  # that it serves as
    path: Path
    picture: Path | None

    def image(self, record: Record) -> Image:
        pixels = decode_image(record["image"])
        given = given_labels(record, self.kinds, (pixels.shape[0], pixels.shape[1]))
        return Image(record["id"].decode(), pixels, np.array(record["tags"]), given)


def make(
    context: FinishContext,
    data: Data,
    kinds: Sequence[Supervision],
    predictor: Predictor,
    make_one: Make,
    folder: Path,
    *,
    stage: str,
    suffix: str = ".png",
    drawn: int = PICTURES_DRAWN,
    seconds: float = 0.0,
) -> None:
    """Writes into `folder` what `make_one` makes of each training image that serves as `kinds`; draws the first few.

    Args:
      seconds: that `make_one` takes a pixel, on one core. If that comes to much, workers share it, for which `make_one`
        must be a function that can be pickled.

    Raises:
      Stopped: when a signal asks to stop. The next call goes on with the next image.
    """
    jobs = _jobs(context, data, kinds, folder, stage, suffix, drawn)
    mine = [job for job in jobs[context.process :: context.processes] if not job.path.exists()]
    if mine:
        work = seconds * sum(job.size[0] * job.size[1] for job in mine)
        hands = min(cores(), len(mine)) if work > WORTH_WORKERS else 0
        progress = Progress(len(mine), 0, 1, f"{stage} makes {folder.name}", "image")
        with contextlib.closing(progress), workers(hands) if hands else Here() as pool:
            records = context.dataset.records(data.train_split)
            made = _made(context, records, mine, predictor, make_one, pool, 2 * hands)
            for number, (job, one) in enumerate(made, start=1):
                if job.picture:
                    write_picture(job.picture, one.columns, job.path.stem[:16], context.dataset.info)
                write_whole(job.path, one.file)
                progress.pulse(number)
    _wait_for(context, [job.path for job in jobs])


def _jobs(
    context: FinishContext, data: Data, kinds: Sequence[Supervision], folder: Path, stage: str, suffix: str, drawn: int
) -> list[_Job]:
    info = context.dataset.info
    pools = make_pools(info, data.train_split, parse_quota(data.quota), data.assign, data.seed, data.strong_classes)
    served: dict[int, list[Supervision]] = {}
    for kind in kinds:
        for index in pools[kind]:
            served.setdefault(int(index), []).append(kind)
    jobs = []
    for number, index in enumerate(sorted(served)):
        row = info.splits[data.train_split][index]
        picture = context.workdir / PICTURES / stage / f"{row['id']}.png" if number < drawn else None
        size = (int(row["size"][0]), int(row["size"][1]))
        jobs.append(_Job(index, size, tuple(served[index]), folder / f"{row['id']}{suffix}", picture))
    return jobs


def _made(
    context: FinishContext,
    records: Sequence[Record],
    jobs: Sequence[_Job],
    predictor: Predictor,
    make_one: Make,
    pool: futures.Executor,
    ahead: int,
) -> Iterator[tuple[_Job, Made]]:
    """What is made of each image, in order; at most `ahead` of them are begun before the first is done."""

    def pixels() -> Iterator[np.ndarray]:
        for job in jobs:
            context.check_stop()
            yield decode_image(records[job.index]["image"])

    begun: deque[tuple[_Job, futures.Future[Made]]] = deque()
    for job, output in zip(jobs, predictor(pixels()), strict=True):
        context.check_stop()
        image = job.image(records[job.index])
        begun.append((job, pool.submit(make_one, image, output)))
        while len(begun) > ahead:
            yield _result(context, *begun.popleft())
    while begun:
        yield _result(context, *begun.popleft())


def _result(context: FinishContext, job: _Job, future: "futures.Future[Made]") -> tuple[_Job, Made]:
    while not futures.wait([future], timeout=0.2).done:
        context.check_stop()
    try:
        return job, future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"a worker process ended while it made {job.path.name}. It may have had too little memory; or a script of "
            'your own calls train() outside of `if __name__ == "__main__":`, which the workers need'
        ) from error


def _wait_for(context: FinishContext, paths: Sequence[Path]) -> None:
    """Until the other processes have made their share."""
    missing = [path for path in paths if not path.exists()]
    if missing:
        say(f"waits for {len(missing)} files that other processes make")
    while missing:
        context.check_stop()
        time.sleep(0.5)
        missing = [path for path in missing if not path.exists()]


def write_picture(path: Path, columns: Columns, caption: str, info: Any) -> None:
    """Pictures, heat maps [H,W] of floats and label maps [H,W] of integers side by side."""
    cells = []
    for array in columns.values():
        if array.ndim == 3:
            cells.append(array)
        elif np.issubdtype(array.dtype, np.integer):
            cells.append(pictures.colorize(array, info.colors))
        else:
            cells.append(pictures.heat(array))
    pictures.save(path, pictures.grid([cells], list(columns), [caption], legend=(info.classes, info.colors)))
