"""`semiseg report`: one page about trained runs, to look at and to send around."""

import heapq
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from tqdm.auto import tqdm

from semiseg_jax import config as config_lib
from semiseg_jax.data.datasets import Dataset, open_dataset
from semiseg_jax.data.records import Record, decode_image, decode_mask, given_labels
from semiseg_jax.data.remote import refuse
from semiseg_jax.data.threads import in_order
from semiseg_jax.data.types import Supervision
from semiseg_jax.engine import panels, pictures
from semiseg_jax.engine.files import write_whole
from semiseg_jax.engine.inference import Predictor
from semiseg_jax.engine.inputs import make_input
from semiseg_jax.engine.metrics import Calibration, ConfusionMatrix
from semiseg_jax.engine.parallel import keep_memory
from semiseg_jax.engine.writers import read_rows
from semiseg_jax.report.content import Panel, Run, Score
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.evaluate import evenly

logger = logging.getLogger("semiseg_jax")

_SIDE = 320  # of the pictures in a page, at most
_DRAWN = (Supervision.SCRIBBLE, Supervision.POINTS, Supervision.PARTIAL)


def report(
    runs: str | Path | Sequence[str | Path],
    output: str | Path = "",
    *,
    checkpoint: str = "best",
    images: int = 8,
    limit: int = 500,
) -> Path:
    """Writes a page that needs nothing beside it: scores, curves, classes, calibration, pictures -> its path.

    Args:
      runs: workdirs of `semiseg_jax.train`. Those that differ in their seed alone become mean and spread.
      output: the .html to write; by default report.html in the workdir, or in the current folder for several.
      checkpoint: "best", "last" or a step.
      images: how many of the worst and of the most uncertain images are shown, of each run.
      limit: at most this many images of the evaluation split are looked at, spread evenly over it; 0 = all.
    """
    try:
        from semiseg_jax.report.page import page
    except ImportError as error:
        raise ImportError(f"a report draws with matplotlib: pip install 'semiseg-jax[report]' ({error})") from None
    keep_memory()
    refuse(output, "--output")
    named = [runs] if isinstance(runs, str | Path) else list(runs)
    for run in named:
        refuse(run, "a workdir of a report")
    folders = [Path(run) for run in named]
    if not folders:
        raise ValueError("name at least one workdir")
    names = _names(folders)
    found = [_read(folder, name, checkpoint, images, limit) for folder, name in zip(folders, names, strict=True)]
    path = Path(output) if output else (folders[0] if len(folders) == 1 else Path()) / "report.html"
    write_whole(path, page(found))
    print(f"written to {path}: {path.stat().st_size / 2**20:.1f} MiB, open it in a browser", flush=True)
    return path


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-count:]) for own in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(folder) for folder in folders]


def _read(folder: Path, name: str, checkpoint: str, images: int, limit: int) -> Run:
    model = workdirs.load(folder, checkpoint=checkpoint)
    stored = workdirs.read_config(folder)
    history = read_rows(folder / "metrics.jsonl")
    versions = folder / "versions.json"
    seen: dict[str, Any] = {}
    labels = ", ".join(f"{rows} rows of {kind}" for kind, rows in stored.data.quota.items())
    try:
        dataset = open_dataset(model.config.data)
    except (OSError, ValueError) as error:
        logger.warning("%s: its data cannot be opened, so the page has no pictures of it (%s)", name, error)
    else:
        seen, labels = _look(model, dataset, images, limit, name)
    return Run(
        name=name,
        config=config_lib.flat(stored),
        classes=model.info.classes,
        colors=model.info.colors,
        checkpoint=model.step,
        labels=labels,
        cost=_cost(model, history),
        history=history,
        versions=json.loads(versions.read_text()) if versions.is_file() else {},
        **seen,
    )


def _cost(model: workdirs.Trained, history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    params = sum(leaf.size for leaf in jax.tree.leaves(model.variables["params"]))
    speeds = [row["images_per_second"] for row in history if row.get("images_per_second")]
    steps = max((row["step"] for row in history), default=0)
    cost = {"steps": f"{steps:,}", "parameters": f"{params / 1e6:.2f} M"}
    if speeds:
        cost["images/s"] = f"{float(np.median(speeds)):.3g}"
    return cost


def _look(model: workdirs.Trained, dataset: Dataset, images: int, limit: int, name: str) -> tuple[dict[str, Any], str]:
    """Score and pictures of a run, and its labels in words."""
    predictor = model.predictor()
    loader = make_input(model.config, dataset, 1, 1).loader
    labels = ", ".join(f"{len(np.unique(pool)):,} {kind.name.lower()}" for kind, pool in loader.pools.items())
    rows = panels.training_rows(loader, dataset, len(loader.pools))
    predicted = predictor.labels(row.image for row in rows)
    training = [_training_panel(row, found, model) for row, found in zip(rows, predicted, strict=True)]
    split = dataset.eval_split(model.config.data.eval_split)
    seen: dict[str, Any] = {"training": training}
    if split:
        seen |= _scored(model, predictor, dataset, split, images, limit, name)
    return seen, labels


def _training_panel(row: panels.PanelRow, labels: np.ndarray, model: workdirs.Trained) -> Panel:
    colors = model.info.colors
    views = {"image": row.image} | ({"labels given": row.given} if row.given is not None else {})
    views["prediction"] = pictures.colorize(labels, colors)
    if row.truth is not None:
        views["truth"] = pictures.colorize(row.truth, colors)
    return Panel(row.caption.replace("\n", ": "), {title: _small(view) for title, view in views.items()})


def _scored(
    model: workdirs.Trained, predictor: Predictor, dataset: Dataset, split: str, images: int, limit: int, name: str
) -> dict[str, Any]:
    everything = dataset.masked_indices(split)
    chosen = evenly(everything, limit)
    records, classes = dataset.originals(split), dataset.info.num_classes

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        record = records[index]
        image = decode_image(record["image"])
        return image, decode_mask(record["mask"], (image.shape[0], image.shape[1]))

    confusion, bins = ConfusionMatrix.empty(classes), Calibration.empty()
    facts: list[tuple[int, float, float]] = []
    scored = predictor.score(in_order(read, chosen))
    for index, found in zip(chosen, tqdm(scored, total=len(chosen), desc=name, leave=False, disable=None), strict=True):
        confusion, bins = confusion.merge(found.confusion), bins.merge(found.calibration)
        facts.append((index, found.confusion.compute()["miou"], found.confidence))
    worst = heapq.nsmallest(images, facts, key=lambda fact: fact[1])
    unsure = heapq.nsmallest(images, facts, key=lambda fact: fact[2])
    order = list(dict.fromkeys([*worst, *unsure]))
    labels = predictor.labels(read(index)[0] for index, _, _ in order)
    drawn = {
        fact: _panel(dataset, split, records[fact[0]], fact, found) for fact, found in zip(order, labels, strict=True)
    }
    return {
        "score": Score(split, len(chosen), len(everything), confusion, bins),
        "worst": [drawn[fact] for fact in worst],
        "unsure": [drawn[fact] for fact in unsure],
    }


def _panel(dataset: Dataset, split: str, record: Record, fact: tuple[int, float, float], labels: np.ndarray) -> Panel:
    index, miou, confidence = fact
    info, row = dataset.info, dataset.info.splits[split][index]
    image = decode_image(record["image"])
    size = (image.shape[0], image.shape[1])
    views = {"image": image}
    kinds = [kind for kind in _DRAWN if kind in row["kinds"]]
    if kinds and "full" not in row:
        views["labels given"] = pictures.draw_labels(image, given_labels(record, kinds, size), info.colors)
    views["prediction"] = pictures.colorize(labels, info.colors)
    views["truth"] = pictures.colorize(decode_mask(record["mask"], size), info.colors)
    return Panel(str(row["id"]), {title: _small(view) for title, view in views.items()}, miou, confidence)


def _small(picture: np.ndarray) -> np.ndarray:
    factor = _SIDE / max(picture.shape[:2])
    if factor >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
