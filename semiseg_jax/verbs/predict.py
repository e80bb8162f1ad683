"""`semiseg predict`: label maps, colour pictures and overlays for files, folders and globs."""

import glob
import json
import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm.auto import tqdm

from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.data.records import IMAGE_SUFFIXES, decode_image
from semiseg_jax.engine import pictures
from semiseg_jax.engine.checkpoints import write_json
from semiseg_jax.verbs import workdir as workdirs

logger = logging.getLogger("semiseg_jax")


def predict(
    workdir: str | Path,
    inputs: str | Path | Sequence[str | Path] = (),
    *,
    output: str | Path = "",
    checkpoint: str = "best",
    config: ConfigDict | None = None,
    limit: int = 0,
) -> dict[str, Any]:
    """Writes NAME_index.png, NAME_color.png and NAME_overlay.png for every image -> what `predictions.json` holds.

    Args:
      workdir: of `semiseg_jax.train`.
      inputs: image files, folders (searched recursively) or globs; none = the evaluation split of the training data.
      output: the folder to write into; by default `predictions` in the workdir.
      checkpoint: "best", "last" or a step.
      config: the run's own config by default; an altered copy changes the inference mode.
      limit: at most this many images; 0 = all.

    A file that cannot be read is listed under "failed" and the others go on.
    """
    workdir = Path(workdir)
    model = workdirs.load(workdir, checkpoint=checkpoint, config=config)
    output = Path(output) if output else workdir / "predictions"
    sources: list[tuple[str, Any]]
    if inputs:
        sources = [(str(path), path) for path in find_images(inputs)]
    else:
        dataset = open_dataset(model.config.data)
        split = dataset.eval_split(model.config.data.eval_split) or model.config.data.train_split
        records = dataset.records(split)
        sources = [(row["id"], (records, i)) for i, row in enumerate(dataset.info.splits[split])]
    sources = sources[: limit or None]
    failed: list[dict[str, str]] = []
    read: list[tuple[str, np.ndarray]] = []

    def stream() -> Iterator[np.ndarray]:
        for name, source in sources:
            try:
                data = source.read_bytes() if isinstance(source, Path) else source[0][source[1]]["image"]
                image = decode_image(data)
            except (OSError, ValueError) as error:
                failed.append({"file": name, "error": str(error)})
                continue
            read.append((name, image))
            yield image

    names = _unique_names([name for name, _ in sources])
    _warn_of_others(output, set(names))
    done = []
    for probs in tqdm(model.predictor()(stream()), total=len(sources), desc="predicting", disable=None):
        name, image = read.pop(0)
        done.append(_write(output, names[name], name, image, probs, model))
    summary = {
        "checkpoint": model.step,
        "classes": list(model.info.classes),
        "colors": model.info.colors,
        "images": done,
        "failed": failed,
    }
    write_json(output / "predictions.json", summary)
    for failure in failed:
        logger.error("%s: %s", failure["file"], failure["error"])
    print(
        f"{len(done)} predictions in {output}" + (f", {len(failed)} files failed" if failed else ""),
        flush=True,
    )
    return summary


def find_images(inputs: str | Path | Sequence[str | Path]) -> list[Path]:
    """Files, the images below folders, and what globs match, each once, in order."""
    found: dict[Path, None] = {}
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif glob.has_magic(str(given)) and not path.exists():
            matches = sorted(p for p in map(Path, glob.glob(str(given), recursive=True)) if p.is_file())
        else:
            matches = [path]
        if not matches:
            raise ValueError(f"no image found in {given!r} (looked for {', '.join(IMAGE_SUFFIXES)})")
        found |= dict.fromkeys(matches)
    return list(found)


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
            path,
            len(others),
            others[0],
        )


def _write(output: Path, stem: str, name: str, image: np.ndarray, probs: np.ndarray, model: Any) -> dict[str, Any]:
    labels = probs.argmax(-1).astype(np.uint8)
    info = model.info
    drawn = {
        "index": labels,
        "color": pictures.colorize(labels, info.colors),
        "overlay": pictures.overlay(image, labels, info.colors, background=info.background),
    }
    for kind, picture in drawn.items():
        pictures.save(output / f"{stem}_{kind}.png", picture)
    shares = np.bincount(labels.ravel(), minlength=info.num_classes) / labels.size
    return {
        "file": name,
        **{kind: f"{stem}_{kind}.png" for kind in drawn},
        "size": list(labels.shape),
        "share": {info.classes[k]: round(float(shares[k]), 5) for k in np.flatnonzero(shares)},
        "mean_confidence": round(float(probs.max(-1).mean()), 5),
    }


def _unique_names(names: Sequence[str]) -> dict[str, str]:
    """Output stems: the file's own, with a number where two inputs share one."""
    stems: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        base = stem = Path(name).stem
        number = 2
        while stem in used:
            stem, number = f"{base}-{number}", number + 1
        used.add(stem)
        stems[name] = stem
    return stems
