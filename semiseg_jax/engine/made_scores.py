"""Scores of the labels that a method makes for its own training images, by masks that training hides."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import numpy as np

from semiseg_jax.data.augment import on_canvas
from semiseg_jax.data.pipeline import ExampleLoader
from semiseg_jax.data.types import IGNORE, Batch, Example, Supervision
from semiseg_jax.engine.metrics import ConfusionMatrix

LABEL_MADE = "label made"  # the title of made labels among the pictures of a method


def made_label_scores(
    loader: ExampleLoader, pictures: Callable[[Any, Batch], Mapping[str, jax.Array]], state: Any, limit: int
) -> dict[str, float]:
    """mIoU of the made labels over the pixels that got one, and the share of such pixels, by kind of the images.

    At most `limit` images per kind, among those whose mask training hides.
    """
    plain = on_canvas(loader.layout.canvas)
    classes = loader.info.num_classes
    scores: dict[str, float] = {}
    for kind, pool in loader.pools.items():
        if kind == Supervision.DENSE:
            continue
        confusion, valid, labelled = ConfusionMatrix.empty(classes), 0, 0
        for index in pool[:: max(1, len(pool) // limit)][:limit]:
            record = loader.records[int(index)]
            if not record["mask"]:
                continue
            rows = [loader.example(record, given) for given in (kind, Supervision.DENSE)]
            seen, hidden = (jax.device_get(plain(_one(row))) for row in rows)
            found = jax.device_get(pictures(state, cast(Batch, seen)))
            if LABEL_MADE not in found:
                return {}
            truth, made = hidden["label"], found[LABEL_MADE]
            confusion = confusion.merge(
                ConfusionMatrix.from_model_output(np.where(made == IGNORE, IGNORE, truth), made, classes)
            )
            valid += int(hidden["valid"].sum())
            labelled += int(((made != IGNORE) & hidden["valid"]).sum())
        if valid:
            name = kind.name.lower()
            scores[f"made_miou_{name}"] = confusion.compute()["miou"]
            scores[f"made_share_{name}"] = labelled / valid
    return scores


def _one(row: Mapping[str, Any]) -> Example:
    """A row as a batch."""
    full = {**row, "seed": np.uint32(0), "id": np.zeros(2, np.int32)}
    return cast(Example, {key: np.asarray(value)[None] for key, value in full.items()})
