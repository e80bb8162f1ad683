"""`semiseg export`: a trained model as one file that runs without this package."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from semiseg_jax import config as config_lib
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.data.letterbox import round_up
from semiseg_jax.data.remote import refuse
from semiseg_jax.engine import mirror
from semiseg_jax.engine.inputs import make_input
from semiseg_jax.engine.views import ROWS, rungs
from semiseg_jax.exports import onnx_file, stablehlo
from semiseg_jax.exports.card import stamped
from semiseg_jax.exports.stablehlo import ExportError
from semiseg_jax.verbs import workdir as workdirs

logger = logging.getLogger("semiseg_jax")
Fields = Mapping[str, Any]

FORMATS = ("stablehlo", "onnx")
ALLOWED = {"float32": 1e-3, "bfloat16": 0.05}  # difference of probabilities; on CPU that of float32 is below 1e-5


def export(
    workdir: str | Path,
    output: str | Path,
    *,
    format: str = "",
    checkpoint: str = "best",
    config: ConfigDict | None = None,
    licence: str = "",
    size: str = "",
    python: str = "",
) -> dict[str, Any]:
    """Writes the model of a run to a file, reads that back and compares it with the run -> its model card.

    Args:
      workdir: of `semiseg_jax.train`.
      output: the file to write.
      format: "stablehlo", which jax reads and images of any size go through, or "onnx", for images of one size; by
        default what the name of the file says.
      checkpoint: "best", "last" or a step.
      config: the run's own config by default; an altered copy changes `eval.flip` and the like.
      licence: of the weights, for the card; nothing is assumed.
      size: of onnx: height and width of the images, such as "480x640"; by default those of the canvas.
      python: of onnx: an interpreter that has jax2onnx and onnxruntime; by default this one.
    """
    format = format or ("onnx" if Path(output).suffix == ".onnx" else "stablehlo")
    if format not in FORMATS:
        raise ValueError(f"--format is {format!r} but must be one of {', '.join(FORMATS)}")
    if not str(output):
        raise ValueError("--output is missing: name the file to write")
    refuse(output, "--output")
    if Path(output).is_dir():
        raise ValueError(f"--output is the folder {output} but must be a file")
    if format == "stablehlo" and (size or python):
        raise ValueError("--size and --python are of --format=onnx; a StableHLO file takes images of any size")
    if format == "onnx":
        onnx_file.check(python)
    workdir = mirror.reading(workdir)
    model = workdirs.load(workdir, checkpoint=checkpoint, config=config)
    card = save(model, output, _facts(model, workdir, licence), format=format, size=size, python=python)
    if model.config.eval.post.name:
        print(f"eval.post is {model.config.eval.post.name}, which no program holds: its outputs are those before it")
    print(f"written to {output}: {Path(output).stat().st_size / 2**20:.1f} MiB, {card['images']}", flush=True)
    return card


def save(
    model: workdirs.Trained,
    output: str | Path,
    facts: Mapping[str, Any],
    *,
    format: str = "stablehlo",
    size: str = "",
    python: str = "",
    compare: bool = True,
) -> dict[str, Any]:
    """Writes a model and what its card says of it, reads it back and compares it -> the card; see `export`."""
    _check(model)
    weights, path = flatten_dict(model.variables, sep="/"), Path(output)
    if format == "stablehlo":
        card = _stablehlo(model, weights, facts, path)
        image = _noise((model.canvas[0] // 3 + 1, model.canvas[1] // 3 + 1))  # on a smaller canvas, with padding
        probs = _run(path, image) if compare else None
    else:
        image = _noise(_parsed(size) if size else model.canvas)
        card, probs = _onnx(model, weights, facts, path, image, python=python)
    if compare and probs is not None:
        _compare(model, image, probs, path)
    return card


def _check(model: workdirs.Trained) -> None:
    """Raises where a program cannot do what `semiseg predict` does."""
    how = model.config.eval
    if how.mode != "whole" or tuple(how.scales) != (1.0,):
        raise ExportError(
            f"an export looks at the whole image at one scale, but the run has eval.mode={how.mode!r} and "
            f"eval.scales={tuple(how.scales)}; add --config.eval.mode=whole --config.eval.scales='(1.0,)'"
        )


def _stablehlo(model: workdirs.Trained, weights: Fields, facts: Fields, path: Path) -> dict[str, Any]:
    largest, steps = _canvas(model)
    parts = stablehlo.programs(_forward(model), weights, largest, steps, flip=model.config.eval.flip)
    images = "batches of any size, images of any size"
    facts = {**facts, "format": "stablehlo", "platforms": stablehlo.PLATFORMS, "images": images}
    card = stamped({**facts, **_inference(model)}, stablehlo.PROMISE)
    stablehlo.write(path, card, weights, parts)
    return card


def _run(path: Path, image: np.ndarray) -> np.ndarray:
    """Probabilities [H,W,K] of an image, by the file."""
    saved = stablehlo.read(path)
    return np.asarray(jax.jit(saved.program.call)(saved.weights, image[None])["probabilities"])[0]


def _onnx(
    model: workdirs.Trained,
    weights: Mapping[str, Any],
    facts: Mapping[str, Any],
    path: Path,
    image: np.ndarray,
    *,
    python: str,
) -> tuple[dict[str, Any], np.ndarray]:
    """-> the card, and what the file makes of an image, whose size is that of the file."""
    largest, steps = _canvas(model)
    shape = (image.shape[0], image.shape[1])
    images = f"batches of any size, images of {shape[0]}x{shape[1]} (height x width) alone"
    card = stamped({**facts, "format": "onnx", "images": images, "size": shape, **_inference(model)}, "")
    options = dict(model.config.model)
    if getattr(getattr(model.method, "model", None), "variance", False):  # terms may have asked for that head
        options["variance"] = True
    order = onnx_file.Order(
        model=options,
        dtype=model.config.dtype,
        classes=model.info.num_classes,
        largest=largest,
        rungs=steps,
        size=shape,
        flip=model.config.eval.flip,
        card=card,
    )
    return card, onnx_file.write(path, order, weights, image, python)


def _inference(model: workdirs.Trained) -> dict[str, Any]:
    """What prediction with the file needs to know."""
    info = model.info
    return {
        "dataset": info.name,
        "classes": info.classes,
        "colors": info.colors,
        "background": info.background,
        "checkpoint": model.step,
        "canvas": model.canvas,
        "window": workdirs.inference_options(model.config, model.canvas).window,
        "eval": dataclasses.asdict(model.config.eval),
        "input": "images [B,H,W,3], uint8 RGB",
        "outputs": {"probabilities": "[B,H,W,classes] float32", "labels": "[B,H,W] uint8, indices of classes"},
    }


def _forward(model: workdirs.Trained) -> Callable[[Any, jax.Array], jax.Array]:
    """The network of flat weights."""
    return lambda weights, images: model.method.predict(unflatten_dict(dict(weights), sep="/"), images)


def _canvas(model: workdirs.Trained) -> tuple[tuple[int, int], list[tuple[int, ...]]]:
    return model.canvas, [rungs(round_up(side, ROWS)) for side in model.canvas]


def _noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)


def _parsed(size: str) -> tuple[int, int]:
    height, sign, width = size.partition("x")
    if not (sign and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"--size is {size!r} but must be height x width in pixels, such as 480x640")
    return int(height), int(width)


def _compare(model: workdirs.Trained, image: np.ndarray, probs: np.ndarray, path: Path) -> None:
    """Prints how far the file is from the run; one that is too far is removed."""
    options = dataclasses.replace(workdirs.inference_options(model.config, model.canvas), post=None)
    expected = next(iter(model.predictor(options)([image])))
    difference = float(np.abs(expected - probs).max())
    print(f"read back: probabilities differ from those of the run by {difference:.1g} at most", flush=True)
    allowed = ALLOWED[model.config.dtype]
    if not difference <= allowed:
        path.unlink()
        raise ExportError(f"what was written differs from the run by {difference:.2g}, more than {allowed:g}; removed")


def _facts(model: workdirs.Trained, workdir: Path, licence: str) -> dict[str, Any]:
    """What a card says of a run."""
    fields = json.dumps(config_lib.flat(workdirs.read_config(workdir)), sort_keys=True, default=str)
    return {
        "method": model.config.method,
        "network": dict(model.config.model),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.variables["params"])),
        "weights": model.config.eval.weights,
        "labels": _labels(model),
        "scores": _scores(workdir, model.step),
        "licence": licence or "not stated",
        "config_sha256": hashlib.sha256(fields.encode()).hexdigest(),
    }


def _labels(model: workdirs.Trained) -> dict[str, Any]:
    """Images by kind of label, where the data is still there; else rows of a batch."""
    try:
        pools = make_input(model.config, open_dataset(model.config.data), 1, 1).loader.pools
    except (OSError, ValueError) as error:
        logger.warning("the data cannot be opened, so the card has rows of a batch instead of counts (%s)", error)
        return {"rows_of_a_batch": dict(model.config.data.quota)}
    return {"images": {kind.name.lower(): len(np.unique(pool)) for kind, pool in pools.items()}}


def _scores(workdir: Path, step: int) -> dict[str, Any]:
    """What `semiseg evaluate` wrote of this checkpoint, by file."""
    scores = {}
    for path in sorted(workdir.glob("evaluation_*.json")):
        try:
            found = json.loads(path.read_text())
        except ValueError:
            continue
        if found.get("checkpoint") == step:
            names = ("split", "images", "miou", "pixel_accuracy", "mean_accuracy", "iou")
            scores[path.stem.removeprefix("evaluation_")] = {name: found[name] for name in names if name in found}
    return scores
