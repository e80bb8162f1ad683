"""Does the input pipeline keep up? Images/s of the pipeline alone, and step time with it against one cached batch.

    python experiments/benchmarks/input_pipeline.py                                   # the quickstart
    python experiments/benchmarks/input_pipeline.py --path=DIR --labels=points --crop=160

Blocks of steps on the real pipeline and on a cached batch take turns in one run; the ratio of their medians is what
counts, the times themselves depend on the machine.
"""

import time
from typing import Any

import jax
import numpy as np
from absl import app, flags

from configs import quickstart, supervised
from semiseg_jax.config import settings
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.engine import parallel
from semiseg_jax.engine.inputs import make_input
from semiseg_jax.methods import make_method
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.train import guard

FLAGS = flags.FLAGS
flags.DEFINE_string("path", "", "dataset folder; empty = the quickstart on `shapes`")
flags.DEFINE_string("labels", "dense", "kind of labels of the folder")
flags.DEFINE_integer("crop", 160, "crop for the folder")
flags.DEFINE_integer("blocks", 8, "blocks of each kind")
flags.DEFINE_integer("steps", 10, "steps a block")


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.path:
        config = supervised.get_config(f"path={FLAGS.path},labels={FLAGS.labels},crop={FLAGS.crop}")
    else:
        config = quickstart.get_config()
    config = settings(config)
    workdirs.use_compilation_cache()
    dataset = open_dataset(config.data)
    devices = parallel.Devices.create(config.parallel)
    inputs = make_input(config, dataset, devices.count, devices.local_count)
    stage = make_method(config, dataset.info.num_classes).stages()[0]
    state = stage.init(jax.random.PRNGKey(0), workdirs.dummy_batch(config.augment.crop, dataset.info.num_classes))
    state = devices.replicate(parallel.fetch(state))
    step = devices.map(guard(stage, config.augment))
    cached, _ = inputs.next(devices)
    state, _ = jax.block_until_ready(step(state, cached))

    def block(state: Any, real: bool) -> tuple[Any, float]:
        """Steps as the training loop takes them: the next batch is fetched while the device works."""
        batch = inputs.next(devices)[0] if real else cached
        start = time.perf_counter()
        for _ in range(FLAGS.steps):
            state, metrics = step(state, batch)
            batch = inputs.next(devices)[0] if real else cached
        jax.block_until_ready(metrics)
        return state, (time.perf_counter() - start) / FLAGS.steps

    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * FLAGS.blocks + 2):
        real = number % 2 == 0
        state, seconds = block(state, real)
        if number >= 2:  # the first pair warms caches and read threads
            times[real].append(seconds)
    with_pipeline, without = (float(np.median(times[real])) for real in (True, False))

    start, batches = time.perf_counter(), 40
    for _ in range(batches):
        inputs.next(devices)
    alone = batches * inputs.rows / (time.perf_counter() - start)

    print(f"{'dataset':<28}{'rows':>6}{'pipeline alone':>18}{'cached batch':>16}{'real pipeline':>16}{'ratio':>8}")
    name = FLAGS.path.rstrip("/").rsplit("/", 1)[-1] or "quickstart"
    print(
        f"{name:<28}{inputs.rows:>6}{alone:>12.0f} img/s{1e3 * without:>10.1f} ms/st{1e3 * with_pipeline:>10.1f} ms/st"
        f"{with_pipeline / without:>8.3f}"
    )


if __name__ == "__main__":
    app.run(main)
