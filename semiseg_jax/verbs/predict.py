"""`semiseg predict`: label maps, colour pictures and overlays for files, folders and globs."""

import functools
import glob
import json
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from tqdm.auto import tqdm

from semiseg_jax.data.datasets import Dataset
from semiseg_jax.data.records import IMAGE_SUFFIXES, DatasetInfo, Record, decode_image
from semiseg_jax.data.remote import refuse
from semiseg_jax.data.threads import THREADS, in_order
from semiseg_jax.engine import mirror, pictures, processes
from semiseg_jax.engine.checkpoints import write_json
from semiseg_jax.engine.inference import Prediction
from semiseg_jax.engine.parallel import barrier, is_main, keep_memory
from semiseg_jax.exports import stablehlo
from semiseg_jax.exports.stablehlo import Saved
from semiseg_jax.verbs import workdir as workdirs

logger = logging.getLogger("semiseg_jax")

DRAWN = ("index", "color", "overlay")
KINDS = (*DRAWN, "probabilities")
Read = Callable[[], np.ndarray]


class Source(NamedTuple):
    """An image to predict. It is read again to be drawn over, and not kept until then."""

    name: str
    stem: str  # of the files that are written: the path below the folder that was given, without suffix
    read: Read


@processes.together
def predict(
    workdir: str | Path = "",
    inputs: str | Path | Sequence[str | Path] = (),
    *,
    output: str | Path = "",
    checkpoint: str = "best",
    config: ConfigDict | None = None,
    limit: int = 0,
    write: str | Sequence[str] = DRAWN,
    exported: str | Path = "",
) -> dict[str, Any]:
    """Writes files NAME_KIND for every image, and `predictions.json` -> what that holds. Several processes share it.

    Args:
      workdir: of `semiseg_jax.train`.
      inputs: image files, folders (searched recursively; their sub-folders are kept) or globs; none = the evaluation
        split of the training data.
      output: the folder to write into; by default `predictions` in the workdir.
      checkpoint: "best", "last" or a step.
      config: the run's own config by default; an altered copy changes the inference mode.
      limit: at most this many images; 0 = all.
      write: what to write of each image, or names joined by commas: "index" (class indices, PNG), "color" and "overlay"
        (PNG), "probabilities" (NumPy .npy, [H,W,K] float16).
      exported: a file of `semiseg export --format=stablehlo` in place of a workdir; `inputs` must then be given, and
        `predictions` is in the current folder.

    A file that cannot be read is listed under "failed" and the others go on.
    """
    keep_memory()
    kinds = _kinds(write)
    check_limit(limit)
    refuse(output, "--output")
    model, folder = _opened(workdir, exported, checkpoint, config)
    output = Path(output) if output else folder / "predictions"
    sources = _sources(model, inputs)[: limit or None]
    names = _unique_names({source.name: source.stem for source in sources})
    processes.check_same(list(names), "images to predict")
    mirror.fetch_output(output, "predictions.json")
    if is_main():
        _warn_of_others(output, set(names))
    mine = processes.share([(source.name, source.read) for source in sources])
    failed: list[dict[str, str]] = []

    def draw(found: tuple[str, Read, Prediction]) -> dict[str, Any]:
        name, source, prediction = found
        written = _write(output, names[name], kinds, source, prediction, model.info)
        return {"file": name, **written, **_describe(prediction, model.info)}

    everything = "probabilities" in kinds
    found = stream(model, mine, failed, probabilities=everything)
    rows = in_order(draw, found, ahead=1 if everything else THREADS)
    rows = tqdm(rows, total=len(mine), desc="predicting", disable=None if is_main() else True)
    done, failed = together_again(list(names), list(rows), failed)
    summary = {
        "checkpoint": model.step,
        "classes": list(model.info.classes),
        "colors": model.info.colors,
        "images": done,
        "failed": failed,
    }
    if is_main():
        write_json(output / "predictions.json", summary)
        for failure in failed:
            logger.error("%s: %s", failure["file"], failure["error"])
    mirror.send_output(output)  # of this process
    barrier("predictions written")
    if is_main():
        ending = f", {len(failed)} files failed" if failed else ""
        print(f"{len(done)} predictions in {mirror.shown(output)}{ending}", flush=True)
    return summary


def _opened(
    workdir: str | Path, exported: str | Path, checkpoint: str, config: ConfigDict | None
) -> tuple[workdirs.Trained | Saved, Path]:
    """The model of a workdir or of a file, and the folder beside which predictions lie by default."""
    if not exported:
        workdirs.join(workdir, config)
        folder = mirror.reading(workdir)
        return workdirs.load(folder, checkpoint=checkpoint, config=config), folder
    if str(workdir):
        raise ValueError(f"give a workdir or an exported model, not both: {workdir} and {exported}")
    refuse(exported, "--model")
    processes.join(processes.Distributed())
    workdirs.use_compilation_cache()
    return stablehlo.read(exported), Path()


def together_again(order: Sequence[str], *mine: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Lists of rows that this process made -> those of all processes, by their "file" in the `order`."""
    place = {name: number for number, name in enumerate(order)}
    found = processes.gather(mine)
    return [
        sorted((row for part in parts for row in part), key=lambda row: place[row["file"]])
        for parts in zip(*found, strict=True)
    ]


def stream(
    model: workdirs.Trained | Saved,
    sources: Iterable[tuple[str, Read]],
    failed: list[dict[str, str]],
    *,
    probabilities: bool = False,
    certainty: bool = False,
) -> Iterator[tuple[str, Read, Prediction]]:
    """Predictions of the images in order; what cannot be read is added to `failed`."""
    read: deque[tuple[str, Read]] = deque()

    def images() -> Iterator[np.ndarray]:
        for name, source in sources:
            try:
                image = source()
            except (OSError, ValueError) as error:
                failed.append({"file": name, "error": str(error)})
                continue
            read.append((name, source))
            yield image

    found = model.predictor().predictions(images(), probabilities=probabilities, certainty=certainty)
    for prediction in found:
        yield (*read.popleft(), prediction)


def check_limit(limit: int) -> None:
    if limit < 0:
        raise ValueError(f"limit is {limit} but must be a number of images, or 0 for all")


def _kinds(write: str | Sequence[str]) -> list[str]:
    kinds = [kind.strip() for kind in write.split(",")] if isinstance(write, str) else list(write)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"write={','.join(kinds)!r} must name some of {', '.join(KINDS)}")
    return list(dict.fromkeys(kinds))


def _sources(model: workdirs.Trained | Saved, inputs: str | Path | Sequence[str | Path]) -> list[Source]:
    if inputs:
        found = find_images(inputs).items()
        return [Source(str(path), stem, functools.partial(read_file, path)) for path, stem in found]
    if isinstance(model, Saved):
        raise ValueError("name images, folders or globs to predict: an exported model does not know the training data")
    dataset, split = evaluation_split(model)
    records = dataset.originals(split)
    rows = enumerate(dataset.info.splits[split])
    return [Source(row["id"], _stem(row["id"]), functools.partial(_read_record, records, n)) for n, row in rows]


def _stem(id: str) -> str:
    """An ID, which may have dots, without the suffix of an image."""
    path = Path(id)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def evaluation_split(model: workdirs.Trained) -> tuple[Dataset, str]:
    dataset = workdirs.open_together(model.config.data)
    return dataset, dataset.eval_split(model.config.data.eval_split) or model.config.data.train_split


def read_file(path: Path) -> np.ndarray:
    return decode_image(path.read_bytes())


def _read_record(records: Sequence[Record], number: int) -> np.ndarray:
    return decode_image(records[number]["image"])


def find_images(inputs: str | Path | Sequence[str | Path]) -> dict[Path, str]:
    """Files, the images below folders, and what globs match, each once, in order -> the stem of each.

    The stem of an image below a folder is its path from there, `day/one` of `day/one.jpg`: sub-folders are kept.
    """
    found: dict[Path, str] = {}
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    for given in inputs:
        refuse(given, "an image to predict")
        path = Path(given)
        if path.is_dir():
            below = (p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
            matches = {p: p.relative_to(path).with_suffix("").as_posix() for p in sorted(below)}
        elif glob.has_magic(str(given)) and not path.exists():
            files = (p for p in map(Path, glob.glob(str(given), recursive=True)) if p.is_file())
            matches = {p: p.stem for p in sorted(files)}
        else:
            matches = {path: path.stem}
        if not matches:
            raise ValueError(f"no image found in {given!r} (looked for {', '.join(IMAGE_SUFFIXES)})")
        found |= {p: stem for p, stem in matches.items() if p not in found}
    if found and not any(path.exists() for path in found):  # else a slip would empty predictions.json
        raise ValueError(f"none of the images is there, the first is {next(iter(found))}")
    return found


def _warn_of_others(output: Path, names: Collection[str]) -> None:
    """Pictures of an earlier call for other images stay, or are overwritten where the names agree."""
    path = output / "predictions.json"
    try:
        listed = [row["file"] for row in json.loads(path.read_text())["images"]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if others := [name for name in listed if name not in names]:
        logger.warning(
            "%s lists %d other images, such as %s, and is written anew for these; --output=DIR keeps calls apart",
            mirror.shown(path),
            len(others),
            others[0],
        )


def _write(
    output: Path, stem: str, kinds: Sequence[str], source: Read, prediction: Prediction, info: DatasetInfo
) -> dict[str, str]:
    """-> the name of each file."""
    labels, written = prediction.labels, {}
    for kind in kinds:
        written[kind] = f"{stem}_{kind}.{'npy' if kind == 'probabilities' else 'png'}"
        path = output / written[kind]
        if kind == "index":
            pictures.save(path, labels)
        elif kind == "color":
            pictures.save(path, pictures.colorize(labels, info.colors))
        elif kind == "overlay":
            pictures.save(path, pictures.overlay(source(), labels, info.colors, background=info.background))
        else:
            assert prediction.probs is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, prediction.probs.astype(np.float16))
    return written


def _describe(prediction: Prediction, info: DatasetInfo) -> dict[str, Any]:
    labels = prediction.labels
    shares = np.bincount(labels.ravel(), minlength=info.num_classes) / labels.size
    return {
        "size": list(labels.shape),
        "share": {info.classes[k]: round(float(shares[k]), 5) for k in np.flatnonzero(shares)},
        "mean_confidence": round(prediction.confidence, 5),
    }


def _unique_names(stems: Mapping[str, str]) -> dict[str, str]:
    """The stem of each name, with a number where two share one."""
    unique: dict[str, str] = {}
    used: set[str] = set()
    for name, base in stems.items():
        stem, number = base, 2
        while stem in used:
            stem, number = f"{base}-{number}", number + 1
        used.add(stem)
        unique[name] = stem
    return unique
