"""Labels that one stage of a method makes for the next: of which images, where they are kept, how they look.

Files lie below the workdir of the run, label maps at the size of their image.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semiseg_jax.data.datasets import Data, Dataset
from semiseg_jax.data.pools import make_pools, parse_quota
from semiseg_jax.data.records import decode_image, encode_png, given_labels
from semiseg_jax.data.types import Supervision
from semiseg_jax.engine import pictures
from semiseg_jax.engine.inference import Predictor
from semiseg_jax.methods.base import FinishContext

LABELS, PICTURES = "labels", "maps"
PICTURES_DRAWN = 24  # images of each stage whose maps are drawn
Columns = dict[str, np.ndarray]  # of a picture


@dataclasses.dataclass(frozen=True)
class Image:
    """What there is to make labels of, beside the prediction. Masks stay closed."""

    name: str
    pixels: np.ndarray  # [H,W,3] uint8
    tags: np.ndarray  # [K]
    given: np.ndarray  # [H,W] labels that training sees; IGNORE elsewhere


Made = Callable[[Image, np.ndarray], Columns]  # of an image and its prediction


class Images:
    """The images of a split that get labels, each with the kinds that it serves as."""

    def __init__(self, dataset: Dataset, split: str, kinds: Mapping[int, Sequence[Supervision]]):
        self.records, self.kinds = dataset.records(split), kinds

    def __len__(self) -> int:
        return len(self.kinds)

    def pixels(self) -> Iterator[np.ndarray]:
        for index in self.kinds:
            yield decode_image(self.records[index]["image"])

    def __iter__(self) -> Iterator[Image]:
        for index, kinds in self.kinds.items():
            record = self.records[index]
            pixels = decode_image(record["image"])
            given = given_labels(record, kinds, (pixels.shape[0], pixels.shape[1]))
            yield Image(record["id"].decode(), pixels, np.array(record["tags"]), given)


def make(
    context: FinishContext,
    data: Data,
    kinds: Sequence[Supervision],
    predictor: Predictor,
    made: Made,
    *,
    stage: str,
    what: str = LABELS,
    drawn: int = PICTURES_DRAWN,
) -> None:
    """Writes what `made` makes of the training images that serve as `kinds`, and pictures of the first few."""
    quota = parse_quota(data.quota)
    pools = make_pools(context.dataset.info, data.train_split, quota, data.assign, data.seed, data.strong_classes)
    served: dict[int, list[Supervision]] = {}
    for kind in kinds:
        for index in pools[kind]:
            served.setdefault(int(index), []).append(kind)
    images = Images(context.dataset, data.train_split, dict(sorted(served.items())))
    rows = zip(images, predictor(images.pixels()), strict=True)
    for number, (image, output) in enumerate(context.progress(rows, what, len(images))):
        columns = {"image": image.pixels, **made(image, output)}
        if number < drawn:
            path = context.workdir / PICTURES / stage / f"{image.name}.png"
            write_picture(path, columns, image.name[:16], context.dataset.info)


def write_labels(folder: Path, name: str, labels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(encode_png(labels))


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
