"""`semiseg evaluate`: metrics of a trained model at the original resolution of every image."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm.auto import tqdm

from semiseg_jax.config import settings
from semiseg_jax.data.datasets import Dataset, open_dataset
from semiseg_jax.data.records import decode_image, decode_mask
from semiseg_jax.engine.checkpoints import write_json
from semiseg_jax.engine.inference import Predictor
from semiseg_jax.engine.metrics import BoundaryF, ConfusionMatrix, format_table
from semiseg_jax.engine.parallel import is_main
from semiseg_jax.engine.settings import Settings
from semiseg_jax.verbs import workdir as workdirs


def evaluate(
    workdir: str | Path,
    *,
    checkpoint: str = "best",
    split: str = "",
    config: ConfigDict | None = None,
    output: str | Path = "",
) -> dict[str, Any]:
    """Prints a table and writes JSON -> the metrics.

    Args:
      workdir: of `semiseg_jax.train`.
      checkpoint: "best", "last" or a step.
      split: the split to evaluate; by default val, validation or test, whichever exists first.
      config: the run's own config by default; pass an altered copy to evaluate on other data or in another mode.
      output: where the JSON goes; by default `evaluation_SPLIT.json` in the workdir, with what differs from the run's
        own config in the name.
    """
    workdir = Path(workdir)
    model = workdirs.load(workdir, checkpoint=checkpoint, config=config)
    dataset = open_dataset(model.config.data)
    if dataset.info.classes != model.info.classes:
        raise ValueError(f"the model knows {model.info.classes} but the dataset has {dataset.info.classes}")
    split = dataset.eval_split(split or model.config.data.eval_split)
    if not split:
        raise ValueError(
            f"{dataset.info.name} has no split val, validation or test with masks to compare with; name one of its own "
            f"with --split: {', '.join(dataset.info.splits)}"
        )
    results = evaluate_split(model.predictor(), dataset, split)
    if is_main():
        how = model.config.eval
        scales = f"scales {how.scales}" if tuple(how.scales) != (1.0,) else ""
        ways = filter(None, [how.mode, "flip" if how.flip else "", scales, how.post.name])
        print(f"{dataset.info.name} {split}: {results['images']} images, checkpoint {model.step} of {workdir}")
        print(f"inference: {', '.join(ways)}")
        print(format_table(results, dataset.info.classes), flush=True)
        about = {
            "dataset": dataset.info.name,
            "path": model.config.data.path,
            "split": split,
            "checkpoint": model.step,
            "eval": dataclasses.asdict(model.config.eval),
        }
        path = (
            Path(output)
            if output
            else workdir / _file_name(split, model.config, settings(workdirs.read_config(workdir)))
        )
        write_json(path, about | workdirs.as_json(results, dataset.info.classes))
        print(f"written to {path}")
    return results


def _file_name(split: str, config: Settings, own: Settings) -> str:
    """Other data or another way of evaluation does not overwrite what the run's own config gave."""
    how, usual = config.eval, own.eval
    path = workdirs.absolute(config.data.path)
    scales = "_".join(f"{scale:g}" for scale in how.scales)
    other = [
        Path(path).name if path != workdirs.absolute(own.data.path) else "",
        how.mode if how.mode != usual.mode else "",
        ("flip" if how.flip else "no_flip") if how.flip != usual.flip else "",
        f"scales_{scales}" if tuple(how.scales) != tuple(usual.scales) else "",
        how.post.name,
    ]
    return f"evaluation_{'_'.join(filter(None, [split, *other]))}.json"


def evaluate_split(predictor: Predictor, dataset: Dataset, split: str, limit: int = 0) -> dict[str, Any]:
    """Metrics over the images of a split that have a mask, shared out over processes."""
    indices = dataset.masked_indices(split)[: limit or None]
    records, classes = dataset.records(split), dataset.info.num_classes
    mine = indices[jax.process_index() :: jax.process_count()]
    truths: list[np.ndarray] = []

    def stream() -> Iterator[np.ndarray]:
        for index in mine:
            record = records[index]
            image = decode_image(record["image"])
            truths.append(decode_mask(record["mask"], (image.shape[0], image.shape[1])))
            yield image

    confusion, boundary = ConfusionMatrix.empty(classes), BoundaryF.empty(classes)
    progress = tqdm(predictor(stream()), total=len(mine), desc=f"evaluating {split}", leave=False, disable=None)
    for probs in progress:
        truth, prediction = truths.pop(0), probs.argmax(-1)
        confusion = confusion.merge(ConfusionMatrix.from_model_output(truth, prediction, classes))
        boundary = boundary.merge(BoundaryF.from_model_output(truth, prediction, classes))
    results = confusion.over_processes().compute() | boundary.over_processes().compute()
    return results | {"images": len(indices)}
