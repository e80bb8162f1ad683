"""`semiseg evaluate`: metrics of a trained model at the original resolution of every image."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm.auto import tqdm

from semiseg_jax.config import settings
from semiseg_jax.data.datasets import Dataset
from semiseg_jax.data.records import decode_image, decode_mask
from semiseg_jax.data.remote import refuse
from semiseg_jax.data.threads import in_order
from semiseg_jax.engine import mirror, processes
from semiseg_jax.engine.boundary import BoundaryF, boundary_note
from semiseg_jax.engine.checkpoints import write_json
from semiseg_jax.engine.inference import Predictor, Scored
from semiseg_jax.engine.metrics import Calibration, ConfusionMatrix, format_table
from semiseg_jax.engine.parallel import is_main, keep_memory
from semiseg_jax.engine.settings import Settings
from semiseg_jax.options import Options
from semiseg_jax.verbs import workdir as workdirs

logger = logging.getLogger("semiseg_jax")


@processes.together
def evaluate(
    workdir: str | Path,
    *,
    checkpoint: str = "best",
    split: str = "",
    config: ConfigDict | None = None,
    output: str | Path = "",
) -> dict[str, Any]:
    """Prints a table and writes JSON -> the metrics. Several processes share the images.

    Args:
      workdir: of `semiseg_jax.train`.
      checkpoint: "best", "last" or a step.
      split: the split to evaluate; by default val, validation or test, whichever exists first.
      config: the run's own config by default; pass an altered copy to evaluate on other data or in another mode.
      output: where the JSON goes; by default `evaluation_SPLIT.json` in the workdir, with what differs from the run's
        own config in the name. If the workdir cannot be written to, that is warned of.
    """
    keep_memory()
    refuse(output, "--output")
    workdirs.join(workdir, config)
    workdir = mirror.reading(workdir)
    model = workdirs.load(workdir, checkpoint=checkpoint, config=config)
    dataset = workdirs.open_together(model.config.data)
    if dataset.info.classes != model.info.classes:
        raise ValueError(f"the model knows {model.info.classes} but the dataset has {dataset.info.classes}")
    split = dataset.eval_split(split or model.config.data.eval_split)
    if not split:
        raise ValueError(
            f"{dataset.info.name} has no split val, validation or test with masks to compare with; name one of its own "
            f"with --split: {', '.join(dataset.info.splits)}"
        )
    boundary = model.config.eval.boundary != "never"
    results = evaluate_split(model.predictor(), dataset, split, boundary=boundary)
    if is_main():
        path = (
            Path(output)
            if output
            else workdir / _file_name(split, checkpoint, model.config, settings(workdirs.read_config(workdir)))
        )
        place = mirror.shown(workdir)
        print(f"{dataset.info.name} {split}: {results['images']} images, checkpoint {model.step} of {place}")
        try:
            _report(results, model, split, path)
        except OSError as error:
            if output:
                raise
            logger.warning("%s cannot be written (%s); --output=FILE.json puts it elsewhere", mirror.shown(path), error)
    return results


def _report(results: dict[str, Any], model: workdirs.Trained, split: str, path: Path) -> None:
    """Prints the table, then writes the JSON."""
    how, info = model.config.eval, model.info
    scales = f"scales {how.scales}" if tuple(how.scales) != (1.0,) else ""
    ways = filter(None, [how.mode, "flip" if how.flip else "", scales, how.post.name])
    print(f"inference: {', '.join(ways)}")
    print(format_table(results, info.classes), flush=True)
    content = {
        "dataset": info.name,
        "path": model.config.data.path,
        "split": split,
        "checkpoint": model.step,
        "eval": dataclasses.asdict(how),
        **workdirs.as_json(results, info.classes),
    }
    if note := boundary_note(results):
        print(note, flush=True)
        content["boundary_f_note"] = note
    write_json(path, content)
    mirror.send_output(path)
    print(f"written to {mirror.shown(path)}")


def _file_name(split: str, checkpoint: str, config: Settings, own: Settings) -> str:
    """Other data, checkpoints or ways of evaluation do not overwrite what the run's own config gave."""
    how, usual = config.eval, own.eval
    path = workdirs.absolute(config.data.path, config.data.name)
    others_name = config.data.name if config.data.name != own.data.name else ""
    scales = "_".join(f"{scale:g}" for scale in how.scales)
    other = [
        f"checkpoint_{checkpoint}" if checkpoint != "best" else "",
        Path(path).name if path != workdirs.absolute(own.data.path, own.data.name) else others_name,
        how.mode if how.mode != usual.mode else "",
        ("flip" if how.flip else "no_flip") if how.flip != usual.flip else "",
        f"scales_{scales}" if tuple(how.scales) != tuple(usual.scales) else "",
        *([how.post.name, *_changed_numbers(how.post, usual.post)] if how.post.name else []),
    ]
    return f"evaluation_{'_'.join(filter(None, [split, *other]))}.json".replace("/", "_")


def _changed_numbers(options: Options, usual: Options) -> list[str]:
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return [f"{name}_{value:g}" for name, value in numbers.items() if value != getattr(usual, name)]


def evaluate_split(
    predictor: Predictor, dataset: Dataset, split: str, limit: int = 0, *, boundary: bool = True
) -> dict[str, Any]:
    """Metrics over the images of a split that have a mask, shared out over processes.

    Args:
      predictor: of the model.
      dataset: with the split.
      split: its name.
      limit: at most this many images, evenly over the split; 0 = all.
      boundary: whether boundary F is measured, for which the host needs longer than for the rest.
    """
    indices = evenly(dataset.masked_indices(split), limit)
    records, classes = dataset.originals(split), dataset.info.num_classes
    mine = processes.share(indices)

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        record = records[index]
        image = decode_image(record["image"])
        return image, decode_mask(record["mask"], (image.shape[0], image.shape[1]))

    def with_boundary(found: Scored) -> tuple[Scored, BoundaryF]:
        return found, BoundaryF.from_model_output(found.truth, found.labels, classes)

    confusion, calibration, edges = ConfusionMatrix.empty(classes), Calibration.empty(), BoundaryF.empty(classes)
    scored = predictor.score(in_order(read, mine))
    pairs = in_order(with_boundary, scored) if boundary else ((found, edges) for found in scored)
    for found, more in tqdm(
        pairs, total=len(mine), desc=f"evaluating {split}", leave=False, disable=None if is_main() else True
    ):
        confusion, calibration = confusion.merge(found.confusion), calibration.merge(found.calibration)
        edges = edges.merge(more) if boundary else edges
    results = confusion.over_processes().compute() | calibration.over_processes().compute()
    if boundary:
        results |= edges.over_processes().compute()
    return results | {"images": len(indices)}


def evenly(items: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of the items, spread evenly over them; 0 = all."""
    count = min(limit, len(items)) if limit else len(items)
    return [items[i * len(items) // count] for i in range(count)]
