"""What evaluation costs beside the network: CPU time an image and memory, for a network that costs next to nothing.

    python experiments/benchmarks/evaluation.py                             # 40 images of 1024x2048 with 19 classes
    python experiments/benchmarks/evaluation.py --images=200 --boundary=both --layout=whole,shrunk,slide

Images are generated, stored as JPEG and masks as PNG, with void at borders and in places, as street scenes have them.
Each row of the table is a process of its own: CPU time is user and system time of all its threads from the first image
to the last, after one pass over a few images, which compiles. Memory is the largest resident set.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import cv2
import jax
import numpy as np
from absl import app, flags

from semiseg_jax.data.datasets import Dataset
from semiseg_jax.data.records import DatasetInfo
from semiseg_jax.data.types import IGNORE, Supervision
from semiseg_jax.engine.inference import Inference, Predictor
from semiseg_jax.engine.parallel import keep_memory
from semiseg_jax.verbs.evaluate import evaluate_split

FLAGS = flags.FLAGS
flags.DEFINE_integer("images", 40, "images of the set")
flags.DEFINE_integer("classes", 19, "classes")
flags.DEFINE_list("size", ["1024", "2048"], "height and width of an image")
flags.DEFINE_integer("batch_size", 2, "images of a batch")
flags.DEFINE_list("layout", ["whole", "shrunk", "slide"], "shrunk: to a half, for the network")
flags.DEFINE_list("boundary", ["no", "yes"], "with or without boundary F")
flags.DEFINE_string("one", "", "internal: folder of the set; runs one row and prints it as JSON")


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.one:
        print(json.dumps(measure(Path(FLAGS.one), FLAGS.layout[0], FLAGS.boundary[0] == "yes")))
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        size = "x".join(FLAGS.size)
        print(f"{FLAGS.images} images of {size}, {FLAGS.classes} classes, batches of {FLAGS.batch_size}")
        print(f"{'layout':<10}{'boundary F':>12}{'CPU s/image':>14}{'s/image':>10}{'first pass':>12}{'memory':>12}")
        for layout in FLAGS.layout:
            for boundary in FLAGS.boundary:
                flagged = [f"--{name}={getattr(FLAGS, name)}" for name in ("images", "classes", "batch_size")]
                flagged += [f"--size={','.join(FLAGS.size)}", f"--layout={layout}", f"--boundary={boundary}"]
                command = [sys.executable, __file__, f"--one={folder}", *flagged]
                row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                print(
                    f"{layout:<10}{boundary:>12}{row['cpu']:>14.3f}{row['wall']:>10.3f}{row['first']:>10.1f} s"
                    f"{row['memory']:>8.0f} MiB",
                    flush=True,
                )


def measure(folder: Path, layout: str, boundary: bool) -> dict[str, float]:
    keep_memory()  # as `semiseg evaluate` does
    height, width = map(int, FLAGS.size)
    canvas = (height // 2, width // 2) if layout == "shrunk" else (height, width)
    window = (height // 2, height // 2)
    options = Inference(canvas, window, "slide" if layout == "slide" else "whole", FLAGS.batch_size)
    shares = np.random.default_rng(0).dirichlet(np.full(FLAGS.classes, 0.2), size=4).astype(np.float32)
    predictor = Predictor(by_colour, {"shares": shares}, options, FLAGS.classes)
    records = Records(folder, FLAGS.images)
    rows = [{"kinds": [Supervision.DENSE]}] * FLAGS.images
    names = tuple(f"class {k}" for k in range(FLAGS.classes))
    info = DatasetInfo("stored", names, ((0, 0, 0),) * FLAGS.classes, None, {"val": rows})
    dataset = Stored(cast(Any, records), info)
    start = time.perf_counter()
    evaluate_split(predictor, dataset, "val", 2 * FLAGS.batch_size, boundary=boundary)
    first = time.perf_counter() - start
    start, cpu = time.perf_counter(), time.process_time()
    evaluate_split(predictor, dataset, "val", boundary=boundary)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu": cpu / FLAGS.images, "wall": wall / FLAGS.images, "first": first, "memory": memory}


def by_colour(variables: Any, images: jax.Array) -> jax.Array:
    """Probabilities that are sums of the colour's channels: a network that does little but write its output."""
    red, green, blue = (images[..., channel, None] for channel in range(3))
    a, b, c, rest = variables["shares"]
    return (red * a + green * b + blue * c + (3 - red - green - blue) * rest) / 3


class Records:
    """The stored files as records."""

    def __init__(self, folder: Path, images: int):
        self.folder, self.images = folder, images

    def __getitem__(self, index: int) -> dict[str, bytes]:
        return {
            "image": (self.folder / f"{index}.jpg").read_bytes(),
            "mask": (self.folder / f"{index}.png").read_bytes(),
        }


class Stored(Dataset):
    def originals(self, split: str) -> Any:
        del split
        return self.source


def generate(folder: Path) -> None:
    """Regions with curved borders, about as long as in street scenes, in colours of their own; void as patches."""
    height, width = map(int, FLAGS.size)
    colors = np.random.default_rng(0).integers(30, 200, (FLAGS.classes, 3))
    for number in range(FLAGS.images):
        rng = np.random.default_rng(number)
        best, mask = np.full((height, width), -1, np.float32), np.zeros((height, width), np.uint8)
        for klass in range(FLAGS.classes):
            grid = rng.random((height // 128 + 2, width // 128 + 2)).astype(np.float32)
            field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
            mask[field > best] = klass
            best = np.maximum(best, field)
        image = colors[mask] + rng.integers(-15, 15, (height, width, 3))
        mask[(best > 1.05) | (np.arange(height) > 0.95 * height)[:, None]] = IGNORE
        cv2.imwrite(str(folder / f"{number}.jpg"), image.astype(np.uint8))
        cv2.imwrite(str(folder / f"{number}.png"), mask)


if __name__ == "__main__":
    app.run(main)
