"""Labels that one stage of a method makes for the next: of which images, where they are kept, how they look.

Files lie below the workdir of the run, label maps at the size of their image.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from semiseg_jax.data import pipeline
from semiseg_jax.data.datasets import Dataset
from semiseg_jax.data.records import decode_image, encode_png
from semiseg_jax.data.types import Supervision
from semiseg_jax.engine import pictures
from semiseg_jax.engine.inference import Predictor
from semiseg_jax.methods.base import Site

LABELS, PICTURES = "labels", "maps"
PICTURES_DRAWN = 24  # images of each stage whose maps are drawn
Columns = dict[str, np.ndarray]  # of a picture
Made = Callable[[str, np.ndarray, np.ndarray, np.ndarray], Columns]  # of an image's name, pixels, tags and prediction


class Images:
    """The images of a split that get labels: pixels, tags and names. Masks stay closed."""

    def __init__(self, dataset: Dataset, split: str, indices: Sequence[int]):
        self.records, self.info, self.indices = dataset.records(split), dataset.info, indices

    def __len__(self) -> int:
        return len(self.indices)

    def pixels(self) -> Iterator[np.ndarray]:
        for index in self.indices:
            yield decode_image(self.records[int(index)]["image"])

    def named(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(name, image, tags)"""
        for index in self.indices:
            record = self.records[int(index)]
            yield record["id"].decode(), decode_image(record["image"]), np.array(record["tags"])


def make(
    site: Site,
    data: ConfigDict,
    kinds: Sequence[Supervision],
    predictor: Predictor,
    made: Made,
    *,
    stage: str,
    what: str = LABELS,
    drawn: int = PICTURES_DRAWN,
) -> None:
    """Writes what `made` makes of the training images that serve as `kinds`, and pictures of the first few."""
    quota = pipeline.parse_quota(data.quota.to_dict())
    pools = pipeline.make_pools(
        site.dataset.info, data.train_split, quota, data.assign.to_dict(), data.seed, tuple(data.strong_classes)
    )
    indices = sorted({int(index) for kind in kinds for index in pools[kind]})
    images = Images(site.dataset, data.train_split, indices)
    rows = zip(images.named(), predictor(images.pixels()), strict=True)
    for number, ((name, image, tags), output) in enumerate(site.progress(rows, what, len(images))):
        columns = {"image": image, **made(name, image, tags, output)}
        if number < drawn:
            path = site.workdir / PICTURES / stage / f"{name}.png"
            write_picture(path, columns, name[:16], site.dataset.info)


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
