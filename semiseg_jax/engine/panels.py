"""The panel drawn at each evaluation: image, label given, what the method makes of it, prediction, truth."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from semiseg_jax.data.augment import on_canvas
from semiseg_jax.data.datasets import Dataset
from semiseg_jax.data.pipeline import ExampleLoader
from semiseg_jax.data.records import decode_image, decode_mask
from semiseg_jax.data.types import Batch, Example, Supervision
from semiseg_jax.engine import pictures
from semiseg_jax.engine.inference import Predictor

MapsOf = Callable[[Any, Batch], Mapping[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class PanelRow:
    caption: str
    image: np.ndarray
    given: np.ndarray | None  # picture of the labels that training sees
    truth: np.ndarray | None  # [H,W] class indices
    batch: Batch | None = None  # of training images: one row, on the canvas
    place: tuple[slice, slice] = (slice(None), slice(None))  # of the image on that canvas


def training_rows(loader: ExampleLoader, dataset: Dataset, limit: int) -> list[PanelRow]:
    """One training image of each kind, with the labels that training sees. Masks of other kinds stay closed."""
    rows = []
    plain = on_canvas(loader.layout.canvas)
    for kind, pool in list(loader.pools.items())[:limit]:
        example = loader((0, int(kind), range(min(len(pool), 10)), 0))
        batch = jax.device_get(plain(cast(Example, {key: np.asarray(value)[None] for key, value in example.items()})))
        height, width = example["size"]
        image = example["image"][:height, :width]
        # A small image sits in the middle of the canvas after a plain crop.
        top, left = np.argwhere(batch["valid"][0])[0]
        place = (slice(top, top + height), slice(left, left + width))
        label = batch["label"][0][place]
        given = pictures.draw_labels(image, label, dataset.info.colors)
        if kind == Supervision.BOX:
            boxes = batch["boxes"][0] - np.array([top, left, top, left])
            given = pictures.draw_boxes(given, boxes, batch["box_class"][0], dataset.info.colors)
        truth = label if kind == Supervision.DENSE else None
        rows.append(PanelRow(f"training\n{kind.name.lower()}", image, given, truth, batch, place))
    return rows


def evaluation_rows(dataset: Dataset, split: str, limit: int) -> list[PanelRow]:
    """Images of a split that have a mask, spread evenly over it."""
    rows: list[PanelRow] = []
    records = dataset.records(split)
    indices = dataset.masked_indices(split)
    for index in indices[:: max(1, len(indices) // max(limit, 1))][:limit]:
        record = records[index]
        image = decode_image(record["image"])
        truth = decode_mask(record["mask"], (image.shape[0], image.shape[1]))
        rows.append(PanelRow(f"{split}\n{record['id'].decode()[:16]}", image, None, truth))
    return rows


def draw(
    rows: Sequence[PanelRow], predictor: Predictor, dataset: Dataset, state: Any = None, maps: MapsOf | None = None
) -> np.ndarray:
    """`maps` gives the method's own columns, of `state` and the training rows."""
    info = dataset.info
    made = [_method_columns(row, state, maps, info.colors) for row in rows]
    titles = list(dict.fromkeys(title for columns in made for title in columns))
    cells = []
    for row, columns, labels in zip(rows, made, predictor.labels(row.image for row in rows), strict=True):
        prediction = pictures.colorize(labels, info.colors)
        truth = None if row.truth is None else pictures.colorize(row.truth, info.colors)
        cells.append([row.image, row.given, *map(columns.get, titles), prediction, truth])
    return pictures.grid(
        cells,
        ["image", "label given", *titles, "prediction", "truth"],
        [row.caption for row in rows],
        legend=(info.classes, info.colors),
    )


def _method_columns(row: PanelRow, state: Any, maps: MapsOf | None, colors: pictures.Colors) -> dict[str, np.ndarray]:
    if row.batch is None or maps is None:
        return {}
    found = jax.device_get(maps(state, row.batch))
    return {
        title: pictures.colorize(array[0][row.place], colors)
        if np.issubdtype(array.dtype, np.integer)
        else pictures.heat(array[0][row.place])
        for title, array in found.items()
    }
