"""Exports beside prediction: how far the outputs are apart, the size of the file, and the time an image takes.

    python experiments/benchmarks/exports.py                                      # StableHLO
    python experiments/benchmarks/exports.py --python=onnx_env/bin/python         # and ONNX: see docs/export.md

Networks have random weights, of a spread that makes predictions sure, and see random images of three sizes: one that
fits the canvas, a smaller one, and a larger one, which is shrunk. Times are of one image at a time, the median of some,
after a first one that compiles; `predict` is `Predictor`, which `semiseg predict` runs.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from semiseg_jax.config import default_config, settings
from semiseg_jax.data.records import DatasetInfo
from semiseg_jax.exports import stablehlo
from semiseg_jax.methods import Segmentation, make_method
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.export import save

FLAGS = flags.FLAGS
flags.DEFINE_list("networks", ["unet", "deeplab_mobile", "deeplab_v3plus"], "the networks")
flags.DEFINE_list("canvas", ["256", "320"], "height and width of the canvas")
flags.DEFINE_list("sizes", ["256x320", "100x141", "480x640"], "height x width of the images")
flags.DEFINE_integer("classes", 5, "classes")
flags.DEFINE_integer("repeat", 5, "images that are timed")
flags.DEFINE_string("python", "", "an interpreter that has jax2onnx and onnxruntime; empty = no ONNX")

# What the other interpreter runs: prints the median time, and writes the probabilities.
_ONNX = """
import json, statistics, sys, time
import numpy as np, onnxruntime
session, image, times = onnxruntime.InferenceSession(sys.argv[1]), np.load(sys.argv[2]), []
for _ in range(int(sys.argv[4]) + 1):
    start = time.perf_counter()
    found = session.run(["probabilities"], {"images": image[None]})[0]
    times.append(time.perf_counter() - start)
np.save(sys.argv[3], found[0])
print(statistics.median(times[1:]))
"""


def main(argv: list[str]) -> None:
    del argv
    print(
        f"{'network':<16}{'image':<10}{'format':<11}{'difference':>11}{'MiB':>7}{'first':>9}{'then':>9}{'predict':>9}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in FLAGS.networks:
            measure(make(name), name, Path(folder))


def make(name: str) -> workdirs.Trained:
    """A network with random weights, as if it were trained."""
    config = default_config()
    config.model = {"name": name}
    options = settings(config)
    names = tuple(f"class {k}" for k in range(FLAGS.classes))
    info = DatasetInfo("random", names, ((0, 0, 0),) * FLAGS.classes, 0, {})
    method = make_method(options, FLAGS.classes)
    assert isinstance(method, Segmentation)
    like = jax.eval_shape(method.model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32))
    variables = jax.tree_util.tree_map_with_path(drawn, like)
    height, width = map(int, FLAGS.canvas)
    return workdirs.Trained(options, method, variables, info, (height, width), 0)


def drawn(path: tuple, like: jax.ShapeDtypeStruct) -> np.ndarray:
    """Weights under which activations neither fade nor grow, and predictions are sure of something."""
    name, rng = jax.tree_util.keystr(path), np.random.default_rng(len(jax.tree_util.keystr(path)))
    if "kernel" in name:
        values = (
            rng.standard_normal(like.shape) * np.sqrt(2 / np.prod(like.shape[:-1])) * (5 if "classifier" in name else 1)
        )
    elif "scale" in name:
        values = rng.uniform(0.3, 0.7, like.shape)
    elif "var" in name:
        values = rng.uniform(0.5, 1.5, like.shape)
    else:
        values = 0.1 * rng.standard_normal(like.shape)
    return values.astype(np.float32)


def measure(model: workdirs.Trained, name: str, folder: Path) -> None:
    file = folder / f"{name}.semiseg"
    save(model, file, {}, compare=False)
    saved = stablehlo.read(file)
    predictor = model.predictor()
    program, weights = jax.jit(saved.program.call), jax.device_put(dict(saved.weights))
    for size in FLAGS.sizes:
        height, width = map(int, size.split("x"))
        image = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
        expected, _, usual = timed(lambda image: next(iter(predictor([image]))), image)
        found, first, then = timed(lambda image: np.asarray(program(weights, image[None])["probabilities"])[0], image)
        show(name, size, "stablehlo", found, expected, file, first, then, usual)
        if FLAGS.python:
            other = folder / f"{name}_{size}.onnx"
            save(model, other, {}, format="onnx", size=size, python=FLAGS.python, compare=False)
            found, then = in_onnx_runtime(other, image, folder)
            show(name, size, "onnx", found, expected, other, 0.0, then, usual)


def timed(call: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> tuple[np.ndarray, float, float]:
    """What it gives, the time of the first call, and the median of the others."""
    times = []
    for _ in range(FLAGS.repeat + 1):
        start = time.perf_counter()
        found = call(image)
        times.append(time.perf_counter() - start)
    return found, times[0], float(np.median(times[1:]))


def in_onnx_runtime(file: Path, image: np.ndarray, folder: Path) -> tuple[np.ndarray, float]:
    np.save(folder / "image.npy", image)
    command = [FLAGS.python, "-c", _ONNX, file, folder / "image.npy", folder / "probs.npy", str(FLAGS.repeat)]
    run = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return np.load(folder / "probs.npy"), float(json.loads(run.stdout.splitlines()[-1]))


def show(
    name: str, size: str, format: str, found: np.ndarray, expected: np.ndarray, file: Path,
    first: float, then: float, usual: float,
) -> None:  # fmt: skip
    difference, mebibytes = np.abs(found - expected).max(), file.stat().st_size / 2**20
    starting = f"{first:>7.2f} s" if first else " " * 9
    print(
        f"{name:<16}{size:<10}{format:<11}{difference:>11.1g}{mebibytes:>7.1f}{starting}{then:>7.3f} s{usual:>7.3f} s",
        flush=True,
    )


if __name__ == "__main__":
    app.run(main)
