"""Images a second: our pipeline with its augmentation on the device, against a PyTorch DataLoader that does the same.

    python experiments/benchmarks/data_loading.py --path=DIR
    python experiments/benchmarks/data_loading.py --photos=50    # generated photos of 20 megapixels, ours alone

Both read image and mask with OpenCV, scale them at random from 0.5 to 2, crop, mirror half of them, and hand over float
batches. Ours decodes with threads and does the rest in one compiled program; theirs does everything in as many worker
processes as ours has threads, for each image scaling the whole and cutting the crop out, as published code does. The
two take turns, a block of batches each; the numbers are medians. PyTorch is needed for theirs.
"""

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from absl import app, flags

from configs import supervised
from semiseg_jax.config import settings
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.engine.inputs import make_input
from semiseg_jax.engine.settings import Settings

FLAGS = flags.FLAGS
flags.DEFINE_string("path", "", "dataset folder with masks")
flags.DEFINE_integer("photos", 0, "so many generated photos of 20 megapixels instead")
flags.DEFINE_multi_integer("crop", [160, 320], "sides of the crop, a row each")
flags.DEFINE_integer("batch", 16, "images a batch")
flags.DEFINE_multi_integer("threads", [1, 2], "of ours, and workers of theirs, a row each; 0 = one a core")
flags.DEFINE_integer("blocks", 5, "blocks of each contestant")
flags.DEFINE_integer("batches", 30, "batches a block")


def main(argv: list[str]) -> None:
    del argv
    cv2.setNumThreads(0)
    warnings.filterwarnings("ignore", message="os.fork")  # their workers run no JAX
    with tempfile.TemporaryDirectory() as scratch:
        folder = photos(Path(scratch, "photos"), FLAGS.photos) if FLAGS.photos else Path(FLAGS.path)
        print(f"{folder.name}, batches of {FLAGS.batch}")
        print(f"{'crop':>6}{'threads':>9}{'ours':>14}{'CPU ms each':>13}{'DataLoader':>14}{'ratio':>8}")
        for crop, threads in itertools.product(FLAGS.crop, FLAGS.threads):
            row(settings(config(folder, crop, threads, scratch)), folder, crop)


def row(run: Settings, folder: Path, crop: int) -> None:
    contestants: dict[str, Iterator[Any]] = {"ours": ours(run)}
    if not FLAGS.photos:
        contestants["theirs"] = theirs(folder, run, crop)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: list[float] = []
    for number in range(FLAGS.blocks + 1):
        for name, batches in contestants.items():
            start, busy = time.perf_counter(), time.process_time()
            for _ in range(FLAGS.batches):
                next(batches)
            if number:  # the first block compiles and starts workers
                seconds[name].append((time.perf_counter() - start) / (FLAGS.batches * FLAGS.batch))
                if name == "ours":
                    cpu.append((time.process_time() - busy) / (FLAGS.batches * FLAGS.batch))
    rates = {name: 1 / float(np.median(values)) for name, values in seconds.items()}
    other = f"{rates['theirs']:>9.0f} im/s{rates['ours'] / rates['theirs']:>8.2f}" if "theirs" in rates else ""
    each = 1000 * float(np.median(cpu))
    print(f"{crop:>6}{run.data.workers:>9}{rates['ours']:>9.0f} im/s{each:>13.2f}{other}", flush=True)


def config(folder: Path, crop: int, threads: int, scratch: str) -> Any:
    run = supervised.get_config(f"path={folder},crop={crop},batch={FLAGS.batch}")
    run.data.data_dir, run.data.threads = scratch, threads
    run.augment.jitter = 0.0
    return run


def ours(run: Settings) -> Iterator[Any]:
    inputs = make_input(run, open_dataset(run.data), 1, 1)
    augment: Callable[[Any], Any] = jax.jit(run.augment)
    batch = augment(next(inputs.batches))
    while True:  # as in training, the next batch is read while the device works
        following = augment(next(inputs.batches))
        yield jax.block_until_ready(batch)
        batch = following


def theirs(folder: Path, run: Settings, crop: int) -> Iterator[Any]:
    import torch
    from torch.utils.data import DataLoader

    ids = (folder / "splits" / "train.txt").read_text().split()
    images = {path.stem: str(path) for path in (folder / "images").iterdir()}

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(ids)

        def __getitem__(self, index: int) -> Any:
            rng = np.random.default_rng()
            image: Any = cv2.cvtColor(cv2.imread(images[ids[index]]), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
            mask: Any = cv2.imread(str(folder / "masks" / f"{ids[index]}.png"), cv2.IMREAD_UNCHANGED)
            scale = rng.uniform(0.5, 2.0)
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
            mask = cv2.resize(mask, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
            below, right = (max(crop - side, 0) for side in mask.shape)
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(124, 116, 104))
            mask = cv2.copyMakeBorder(mask, 0, below, 0, right, cv2.BORDER_CONSTANT, value=255)
            y, x = (int(rng.integers(side - crop + 1)) for side in mask.shape)
            image, mask = image[y : y + crop, x : x + crop], mask[y : y + crop, x : x + crop]
            if rng.random() < 0.5:
                image, mask = image[:, ::-1], mask[:, ::-1]
            pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
            return pixels, torch.from_numpy(np.ascontiguousarray(mask)).long()

    torch.set_num_threads(1)
    workers = run.data.workers
    while True:
        loader = DataLoader(
            Files(), FLAGS.batch, shuffle=True, num_workers=workers, persistent_workers=True, drop_last=True
        )
        for _ in range(100):
            yield from loader


def photos(folder: Path, count: int) -> Path:
    """Photos of 3648 x 5472 pixels, with masks of two classes."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "dataset.json").write_text('{"classes": ["background", "thing"]}')
    for number in range(count):
        small = rng.integers(0, 256, (57, 86, 3), np.uint8)
        image = cv2.resize(small, (5472, 3648), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "images" / f"{number}.jpg"), image)
        cv2.imwrite(str(folder / "masks" / f"{number}.png"), (image[..., 0] > 128).astype(np.uint8))
    return folder


if __name__ == "__main__":
    app.run(main)
