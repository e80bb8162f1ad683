"""`semiseg train`: the training loop, read from top to bottom."""

import dataclasses
import hashlib
import json
import logging
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from semiseg_jax import config as config_lib
from semiseg_jax.data import pipeline
from semiseg_jax.data.augment import Augment
from semiseg_jax.data.datasets import Dataset, open_dataset
from semiseg_jax.data.types import Example
from semiseg_jax.engine import panels, parallel, pictures
from semiseg_jax.engine.checkpoints import CheckpointError, Checkpoints
from semiseg_jax.engine.inference import Predictor
from semiseg_jax.engine.writers import MetricWriter, Progress
from semiseg_jax.methods import Method, Stage, State, make_method
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.evaluate import evaluate_split

logger = logging.getLogger("semiseg_jax")


class NonFiniteLossError(RuntimeError):
    """A loss or gradient became infinite or NaN; no checkpoint holds its traces."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a training ended."""

    step: int
    metrics: Mapping[str, Any]  # of the last evaluation
    preempted: bool = False  # stopped by SIGTERM after saving; the same command goes on


def train(config: ConfigDict, workdir: str | Path, *, on_step: Callable[[int], None] | None = None) -> Result:
    """Trains what `config` describes, or goes on where the workdir's last checkpoint stands.

    Args:
      config: from `configs/*.py` or `semiseg_jax.default_config()`.
      workdir: checkpoints, metrics, pictures and the resolved config go here.
      on_step: called with the number of steps done after each step.
    """
    config_lib.validate(config)
    parallel.initialize(config.distributed)
    workdirs.use_compilation_cache()
    workdir = Path(workdir)
    workdirs.claim(config, workdir, " ".join(sys.argv))
    devices = parallel.Devices.create(config.parallel, config.devices)
    if parallel.is_main():
        open_dataset(config.data)  # builds it; the other processes wait and then only open it
    parallel.barrier("dataset built")
    dataset = open_dataset(config.data)
    method = make_method(config, dataset.info.num_classes)
    result = Result(0, {})
    for stage in method.stages(config):
        result = _run_stage(config, workdir, devices, dataset, method, stage, on_step)
        if result.preempted:
            break
    return result


def _run_stage(
    config: ConfigDict,
    workdir: Path,
    devices: parallel.Devices,
    dataset: Dataset,
    method: Method,
    stage: Stage,
    on_step: Callable[[int], None] | None,
) -> Result:
    inputs = make_input(config, dataset, devices=devices.count, local_devices=devices.local_count)
    eval_split = dataset.eval_split(config.data.eval_split)
    workdirs.write_dataset(workdir, dataset.info, inputs.loader.layout.canvas)
    state = jax.jit(stage.init)(jax.random.PRNGKey(config.seed), workdirs.dummy_batch(config, dataset.info.num_classes))
    _write_overview(workdir, stage, state)
    state = devices.replicate(parallel.fetch(state))
    checkpoints = Checkpoints(workdirs.checkpoint_dir(workdir, stage), config.checkpoint.metric)
    start = checkpoints.latest() or 0
    if start:
        state, saved = checkpoints.restore(start, state)
        if devices.mapper == "pmap":
            state = devices.replicate(parallel.fetch(state))
        inputs.resume(saved, start)
        logger.info("goes on from step %d of %s", start, workdir)
    step_fn = devices.map(guard(stage, make_augment(config)))
    writer = MetricWriter(workdir, tensorboard=config.log.tensorboard)
    progress = Progress(stage.steps, start, inputs.rows, stage.name)
    rows = _panel_rows(config, inputs.loader, dataset, eval_split)

    def evaluate(step: int, state: State) -> dict[str, Any]:
        variables = parallel.fetch(method.eval_variables(state, config.eval.weights))
        options = workdirs.inference_options(config, inputs.loader.layout.canvas)
        predictor = Predictor(method.predict, variables, options, dataset.info.num_classes)
        results = evaluate_split(predictor, dataset, eval_split, config.eval.max_images)
        progress.write(f"step {step}: {eval_split} mIoU {results['miou']:.4f}  "
                       f"pixel accuracy {results['pixel_accuracy']:.4f}")  # fmt: skip
        writer.scalars(step, results, "eval")
        if rows and parallel.is_main():
            picture = panels.draw(rows, predictor, dataset)
            pictures.save(workdir / "panels" / f"{stage.name}_{step:06d}.png", picture)
            writer.picture(step, "panel", picture)
        return results

    pending: list[tuple[int, Any]] = []
    results: dict[str, Any] = {}
    step, stopped = start, False
    upcoming = inputs.next(devices) if start < stage.steps else None
    with _preemption() as preempted:
        while step < stage.steps and not stopped:
            assert upcoming is not None
            batch, iterator_state = upcoming
            state, metrics = step_fn(state, batch)
            step += 1
            pending.append((step, metrics))
            # The device is busy with this step while the host hands over the next batch.
            upcoming = inputs.next(devices) if step < stage.steps else None
            if on_step:
                on_step(step)
            stopped = preempted(step)
            evaluates = not stopped and (step % config.eval.every == 0 or step == stage.steps)
            saves = evaluates or stopped or (config.checkpoint.every and step % config.checkpoint.every == 0)
            if saves or step % config.log.every == 0:
                _report(pending, writer, progress, checkpoints, inputs.loader.replaced)
            if evaluates:
                results = evaluate(step, state)
            if saves:
                scalars = {k: v for k, v in results.items() if np.ndim(v) == 0} if evaluates else None
                checkpoints.save(step, devices.to_global(state), iterator_state, scalars)
                progress.skip()
    if start == stage.steps:  # nothing was left to do
        results = evaluate(start, state)
    checkpoints.close()
    writer.close()
    progress.close()
    if stopped:
        progress.write(f"stopped by SIGTERM, saved at step {step}; the same command goes on from there")
        return Result(step, results, preempted=True)
    if parallel.is_main():
        stage.finish(state, workdir)
    return Result(step, results)


def guard(stage: Stage, augment: Augment) -> parallel.Step:
    """Augmentation and train step in one program; a step with a non-finite metric leaves the state as it was."""

    def step(state: State, examples: Example) -> tuple[State, Any]:
        after, metrics = stage.train_step(state, augment(examples))
        finite = jnp.all(jnp.isfinite(jnp.stack([jnp.asarray(value, jnp.float32) for value in metrics.values()])))
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state), metrics

    return step


def make_augment(config: ConfigDict) -> Augment:
    options: dict[str, Any] = config.augment.to_dict()
    return Augment(**options)


@dataclasses.dataclass
class Input:
    """The data of one stage on this process."""

    loader: pipeline.ExampleLoader
    batches: Any  # a Grain iterator of `Example`
    rows: int  # images an update over all processes
    mixture: dict[str, Any]
    restart: Callable[[int], Any]

    def next(self, devices: parallel.Devices) -> tuple[Any, dict[str, Any]]:
        """The next batch on the devices, and the state that makes the iterator go on after it."""
        examples = next(self.batches)
        return devices.split(examples), {"position": self.batches.get_state(), "mixture": self.mixture}

    def resume(self, saved: Mapping[str, Any], step: int) -> None:
        """Goes on exactly where the checkpoint stands; on other devices, with a fresh order of the same images."""
        before, now = dict(saved["mixture"]), dict(self.mixture)
        if before["images"] != now["images"]:
            raise CheckpointError(
                "the dataset has changed since the checkpoint was saved (other images or another assignment of kinds); "
                "train in another --workdir"
            )
        if before == now:
            self.batches.set_state(saved["position"])
            return
        logger.warning("devices or batch layout changed from %s to %s: the order of images starts afresh", before, now)
        self.batches = self.restart(step)


def make_input(config: ConfigDict, dataset: Dataset, *, devices: int, local_devices: int) -> Input:
    """Pools, layout and iterator of `config.data` for this process."""
    data = config.data
    quota = pipeline.parse_quota(data.quota.to_dict())
    pools = pipeline.make_pools(dataset.info, data.train_split, quota, data.assign.to_dict(), data.seed)
    strict = bool(data.assign)
    layout = pipeline.make_layout(dataset.info, data.train_split, pools, data.canvas, strict)
    records = dataset.records(data.train_split)
    loader = pipeline.ExampleLoader(records, dataset.info, pools, layout, strict=strict)
    rows = parallel.rows_per_device(config.batch_size, sum(quota.values()), devices, config.accumulate)
    shard = pipeline.Shard(rows, local_devices * config.accumulate, jax.process_index(), jax.process_count())

    def batches(offset: int) -> Any:
        return pipeline.make_batches(loader, quota, shard, seed=config.seed + offset, threads=data.threads)

    ids = {kind.name: [dataset.info.splits[data.train_split][i]["id"] for i in pool] for kind, pool in pools.items()}
    mixture = {
        "images": hashlib.sha256(json.dumps(ids, sort_keys=True).encode()).hexdigest()[:16],
        "rows": shard.rows,
        "units": shard.units,
        "processes": shard.processes,
    }
    return Input(loader, batches(0), rows * devices * config.accumulate, mixture, batches)


def _panel_rows(
    config: ConfigDict, loader: pipeline.ExampleLoader, dataset: Dataset, split: str
) -> list[panels.PanelRow]:
    limit = config.log.panel_rows
    if not limit or not parallel.is_main():
        return []
    training = panels.training_rows(loader, dataset, max(1, limit // 2))
    return training + panels.evaluation_rows(dataset, split, limit - len(training))


def _report(
    pending: list[tuple[int, Any]], writer: MetricWriter, progress: Progress, checkpoints: Checkpoints, replaced: int
) -> None:
    """Writes the means since the last report, and stops at the first step whose metrics are not finite.

    `replaced` is the number of unreadable records so far; it is written when there are any.
    """
    if not pending:
        return
    host = [(step, {k: float(v) for k, v in parallel.fetch(metrics).items()}) for step, metrics in pending]
    pending.clear()
    for step, values in host:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            checkpoints.wait()
            terms = [name for name in broken if name not in ("loss", "grad_norm")] or broken
            last = checkpoints.latest()
            kept = (
                f"the last good checkpoint is step {last} in {checkpoints.directory}" if last else "none was saved yet"
            )
            raise NonFiniteLossError(
                f"{', '.join(terms)} became {values[terms[0]]} at step {step}; {kept}. "
                "A lower learning rate, optimizer.clip_norm or float32 may help."
            )
    means = {name: float(np.mean([values[name] for _, values in host])) for name in host[0][1]}
    last = host[-1][0]
    means["images_per_second"] = progress.report(last, means)
    if replaced:
        means["replaced_records"] = replaced
    writer.scalars(last, means, "train")


def _write_overview(workdir: Path, stage: Stage, state: State) -> None:
    if not parallel.is_main():
        return
    tables = [
        f"{name}\n{parameter_overview.get_parameter_overview(network.params, include_stats=False)}"
        for name, network in state.networks.items()
    ]
    workdir.joinpath(f"parameters_{stage.name}.txt").write_text("\n\n".join(tables) + "\n")


@contextmanager
def _preemption() -> Iterator[Callable[[int], bool]]:
    """Asks after each step whether to save and stop. Several processes agree on the step through JAX."""
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield lambda step: received.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
