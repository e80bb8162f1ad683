"""`semiseg inspect`: one training batch after augmentation, as a picture."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from semiseg_jax.config import default_config, settings
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.data.types import Supervision
from semiseg_jax.engine import pictures
from semiseg_jax.engine.inputs import make_input
from semiseg_jax.engine.settings import Settings


def config_of(folder: str | Path) -> ConfigDict:
    """A config that draws from a dataset folder every kind of label that it has, equally often."""
    config = default_config()
    config.data.update({"name": "folder", "path": str(folder)})
    dataset = open_dataset(settings(config).data)
    rows = dataset.info.splits.get(config.data.train_split, ())
    kinds = {Supervision(kind) for row in rows for kind in row["kinds"]} - {Supervision.UNLABELED}
    if any(len(row["kinds"]) == 1 for row in rows):
        kinds.add(Supervision.UNLABELED)
    each = max(1, 8 // max(1, len(kinds)))
    config.data.quota = {kind.name.lower(): each for kind in sorted(kinds, reverse=True)}
    config.augment.crop = (160, 160)
    return config


def inspect(config: ConfigDict | Settings, output: str | Path = "batch.png", *, max_rows: int = 16) -> Path:
    """Draws image, labels, boxes, tags and valid pixels of the first batch of one device -> the picture's path."""
    config = settings(config)
    dataset = open_dataset(config.data)
    inputs = make_input(config, dataset, 1, 1)
    batch = jax.jit(config.augment)(next(inputs.batches))
    rows = {key: np.asarray(value)[:max_rows] for key, value in batch.items()}
    pictures.save(Path(output), pictures.batch_picture(rows, dataset.info))
    print(f"one batch of {dataset.info.name} drawn in {output}")
    return Path(output)
