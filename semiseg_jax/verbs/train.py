"""`semiseg train`: the training loop, read from top to bottom."""

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from semiseg_jax.config import settings
from semiseg_jax.data.augment import Augment
from semiseg_jax.data.datasets import Dataset, open_dataset
from semiseg_jax.data.types import Example
from semiseg_jax.engine import panels, parallel, pictures
from semiseg_jax.engine.checkpoints import Checkpoints
from semiseg_jax.engine.inference import Predictor
from semiseg_jax.engine.inputs import balanced_weights, make_input
from semiseg_jax.engine.made_scores import made_label_scores
from semiseg_jax.engine.settings import Settings
from semiseg_jax.engine.writers import MetricWriter, Progress, say
from semiseg_jax.methods import FinishContext, Method, Stage, State, make_method
from semiseg_jax.methods.base import Variables, with_variables
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.evaluate import evaluate_split


class NonFiniteLossError(RuntimeError):
    """A loss or gradient became infinite or NaN; no checkpoint holds its traces."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a training ended."""

    step: int
    metrics: Mapping[str, Any]  # of the last evaluation
    signal: int = 0  # that stopped the run early, after saving; the same command goes on

    @property
    def preempted(self) -> bool:
        return bool(self.signal)


def train(config: ConfigDict, workdir: str | Path, *, on_step: Callable[[int], None] | None = None) -> Result:
    """Trains what `config` describes, or goes on where the workdir's last checkpoint stands.

    SIGTERM and, with one process, Ctrl-C save and stop after the step in hand; a second Ctrl-C stops at once.

    Args:
      config: from `semiseg_jax.load_config(NAME)` or `semiseg_jax.default_config()`.
      workdir: checkpoints, metrics, pictures and the resolved config go here.
      on_step: called with the number of steps done after each step.
    """
    parallel.keep_memory()
    stored = workdirs.anchored(config)
    config = settings(stored)
    parallel.initialize(config.distributed)
    workdirs.use_compilation_cache()
    workdir = Path(workdir)
    workdirs.check(stored, workdir)
    devices = parallel.Devices.create(config.parallel, config.devices)
    with parallel.stop_signals() as stop_signal:
        if parallel.is_main():
            open_dataset(config.data)  # builds it; the other processes wait and then only open it
        parallel.barrier("dataset built")
        dataset = open_dataset(config.data)
        eval_split = dataset.eval_split(config.data.eval_split)
        if eval_split and config.data.strong_classes:
            _check_apart(dataset, config.data.train_split, eval_split)
        method = make_method(_balanced(config, dataset), dataset.info.num_classes)
        _check_background(method, dataset)
        result = Result(0, {})
        before: dict[str, Variables] = {}  # of the networks of the last stage
        for stage in method.stages():
            run = _Run(stored, workdir, devices, dataset, method, stage, eval_split if stage.scored else "", before)
            with workdirs.lock(workdir):
                result = run.train(stop_signal, on_step)
            if result.signal:
                break
            before = parallel.fetch({name: network.averaged for name, network in run.state.networks.items()})
    return result


def _check_background(method: Method, dataset: Dataset) -> None:
    """Some terms and methods treat class 0 as background."""
    what, info = method.needs_background, dataset.info
    if what and info.background != 0:
        named = "none" if info.background is None else f"{info.classes[info.background]!r}, class {info.background}"
        raise ValueError(
            f"{what} needs a dataset whose class 0 is background, but here that is {named}; the classes are "
            f'{", ".join(info.classes)}. Name the first class "background", or set "background": 0 in dataset.json'
        )


def _balanced(config: Settings, dataset: Dataset) -> Settings:
    """With `balance_classes`, the config with weights of this dataset's classes."""
    if not config.balance_classes:
        return config
    weights = balanced_weights(config.data, dataset, config.balance_classes)
    names = zip(dataset.info.classes, weights, strict=True)
    say("class weights: " + ", ".join(f"{name} {weight:.2f}" for name, weight in names))
    return config.replace(class_weights=weights, balance_classes=0.0)


class _Run:
    """One stage: everything is made and checked here, before anything is written."""

    def __init__(
        self,
        stored: ConfigDict,
        workdir: Path,
        devices: parallel.Devices,
        dataset: Dataset,
        method: Method,
        stage: Stage,
        eval_split: str,
        before: Mapping[str, Variables],
    ):
        self.stored, self.workdir, self.devices = stored, workdir, devices
        self.dataset, self.method, self.stage, self.eval_split = dataset, method, stage, eval_split
        made = stage.config.data.made_labels
        self.config = stage.config.replace(data={"made_labels": str(workdir / made) if made else ""})
        self.inputs = make_input(self.config, dataset, devices.count, devices.local_count)
        batch = workdirs.dummy_batch(self.config.augment.crop, dataset.info.num_classes)
        # This program runs once, in a blink, and optimising it takes a CPU 15 to 20 s.
        quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        self.state = jax.jit(stage.init, compiler_options=quick)(jax.random.PRNGKey(self.config.seed), batch)
        if not workdirs.has_checkpoint(workdir, stage):
            self.state = stage.start(self.state)
            for name in before if stage.warm_start else ():
                self.state = with_variables(self.state, name, before[name])
        self.canvas = self.inputs.loader.layout.canvas
        self.predictor: Predictor | None = None
        self.writer: MetricWriter | None = None
        self.panel: list[panels.PanelRow] = []
        self.warned = ""
        self.done = workdir / f"{stage.name}.done"  # marks that the stage's host work is done
        self.pictures = jax.jit(stage.pictures) if stage.pictures else None

    def train(self, stop_signal: Callable[[], int], on_step: Callable[[int], None] | None) -> Result:
        config, stage, inputs, devices = self.config, self.stage, self.inputs, self.devices
        with contextlib.ExitStack() as stack:
            checkpoints = Checkpoints(workdirs.checkpoint_dir(self.workdir, stage), config.checkpoint.metric)
            stack.callback(checkpoints.close)
            step = self._restore(checkpoints)
            if not step and parallel.is_main():
                self.done.unlink(missing_ok=True)
            workdirs.claim(self.stored, self.workdir, " ".join(sys.argv))
            workdirs.write_dataset(self.workdir, self.dataset.info, self.canvas)
            self._introduce(step)
            unscored = step and self._due(step) and self.eval_split and step not in checkpoints.scores
            if step == config.steps and not unscored:
                self._finish()
                return Result(step, self._evaluate(step))
            writer = self.writer = MetricWriter(self.workdir, stage.name, step, tensorboard=config.log.tensorboard)
            stack.callback(writer.close)
            progress = Progress(config.steps, step, inputs.rows, stage.name)
            stack.callback(progress.close)
            self.panel = self._panel_rows()
            step_fn = devices.map(guard(stage, config.augment))

            pending: list[tuple[int, Any]] = []
            # A run that was stopped after it saved a checkpoint, and before it knew its score.
            results = self._score(checkpoints, step) if unscored else {}
            progress.skip()
            upcoming = inputs.next(devices) if step < config.steps else None
            stopped_by = stop_signal()
            while step < config.steps and not stopped_by:
                assert upcoming is not None
                batch, position = upcoming
                self.state, metrics = step_fn(self.state, batch)
                step += 1
                pending.append((step, metrics))
                # The device is busy with this step while the host hands over the next batch.
                if step < config.steps:
                    upcoming = inputs.next(devices)
                if on_step:
                    on_step(step)
                stopped_by = stop_signal()
                due = self._due(step)
                saves = due or stopped_by or (config.checkpoint.every and step % config.checkpoint.every == 0)
                if saves or step % config.log.every == 0:
                    self._report(pending, writer, progress, checkpoints)
                if saves:
                    checkpoints.save(step, devices.to_global(self.state), position)
                if due and self.eval_split and (not stopped_by or step == config.steps):
                    results = self._score(checkpoints, step)
                if saves:
                    progress.skip()
            checkpoints.finish()
            if step < config.steps:
                name = signal.Signals(stopped_by).name
                saved = checkpoints.latest()
                where = f"saved at step {saved}" if saved else "nothing was trained yet"
                say(f"stopped by {name}, {where}; the same command goes on from there")
                return Result(step, results, signal=stopped_by)
            say(f"done: the best checkpoint is step {checkpoints.choose('best')} in {self.workdir}")
        self._finish()
        return Result(step, results)

    def _report(
        self, pending: list[tuple[int, Any]], writer: MetricWriter, progress: Progress, checkpoints: Checkpoints
    ) -> None:
        """Writes the means since the last report, and stops at the first step whose metrics are not finite."""
        if not pending:
            return
        host = [(step, parallel.fetch(metrics)) for step, metrics in pending]
        pending.clear()
        for step, values in host:
            _check_finite(step, values, checkpoints)
        last = host[-1][0]
        means = {name: np.mean([values[name] for _, values in host], axis=0) for name in host[0][1]}
        scalars = {name: float(value) for name, value in means.items() if not value.ndim}
        speed = {"images_per_second": progress.report(last, scalars)}
        replaced = {"replaced_records": count} if (count := self.inputs.loader.replaced) else {}
        writer.scalars(last, means | speed | replaced, "train")
        warning = self.stage.watch(last, scalars)
        if warning and warning != self.warned:
            say(f"warning at step {last}: {warning}")
        self.warned = warning

    def _finish(self) -> None:
        """The stage's host work, once: a run that was stopped in it does it again."""
        if self.stage.finish and parallel.is_main() and not self.done.exists():
            state = parallel.fetch(self.state)
            options = workdirs.inference_options(self.config, self.canvas)
            self.stage.finish(state, FinishContext(self.workdir, self.dataset, options))
            self.done.touch()
        parallel.barrier(f"{self.stage.name} finished")

    def _restore(self, checkpoints: Checkpoints) -> int:
        """Puts the last checkpoint, if there is one, into state and input -> its step."""
        self.state = self.devices.replicate(parallel.fetch(self.state))
        step = checkpoints.latest() or 0
        if step:
            self.state, saved = checkpoints.restore(step, self.devices.like(self.state))
            if self.devices.mapper == "pmap":
                self.state = self.devices.replicate(parallel.fetch(self.state))
            self.inputs.resume(saved, step)
        return step

    def _introduce(self, step: int) -> None:
        """Says what is going to happen, and writes the parameter overview."""
        if not parallel.is_main():
            return
        pools = ", ".join(
            f"{len(np.unique(pool))} {kind.name.lower()}" for kind, pool in self.inputs.loader.pools.items()
        )
        sizes = {
            name: sum(leaf.size for leaf in jax.tree.leaves(network.params))
            for name, network in self.state.networks.items()
        }
        networks = ", ".join(f"{name} with {size:,} parameters" for name, size in sizes.items())
        start = f"goes on from step {step} of" if step else "trains for"
        say(f"{self.stage.name} {start} {self.config.steps} steps in {self.workdir}: {networks}")
        say(f"{self.inputs.rows} images a step on {self.devices.count} device(s), drawn from {pools}")
        unused = self.dataset.labels_beside(self.config.data.train_split, self.inputs.loader.pools)
        if self.config.data.name == "folder" and unused and not self.config.data.assign:
            listed = ", ".join(f"{count} {kind.name.lower()}" for kind, count in unused.items())
            say(f"labels that data.quota does not ask for: {listed}")
        if step == self.config.steps:
            say("it is finished already; a longer run needs another --workdir")
        elif not self.eval_split and self.stage.scored:
            say("no split val, validation or test has masks to compare with: trains without evaluation")
        tables = [
            f"{name}\n{parameter_overview.get_parameter_overview(network.params, include_stats=False)}"
            for name, network in self.state.networks.items()
        ]
        self.workdir.joinpath(f"parameters_{self.stage.name}.txt").write_text("\n\n".join(tables) + "\n")

    def _due(self, step: int) -> bool:
        """Whether a checkpoint and a score are due after this step."""
        return step % self.config.eval.every == 0 or step == self.config.steps

    def _score(self, checkpoints: Checkpoints, step: int) -> dict[str, Any]:
        results = self._evaluate(step)
        checkpoints.score(step, results)
        return results

    def _evaluate(self, step: int) -> dict[str, Any]:
        """Metrics on the evaluation split, logged with a panel while the run goes on."""
        if not self.eval_split:
            return {}
        variables = parallel.fetch(self.method.eval_variables(self.state, self.config.eval.weights))
        if self.predictor is None:
            options = workdirs.inference_options(self.config, self.canvas)
            self.predictor = Predictor(self.method.predict, variables, options, self.dataset.info.num_classes)
        self.predictor.update(variables)
        results = evaluate_split(self.predictor, self.dataset, self.eval_split, self.config.eval.max_images)
        scores = f"mIoU {results['miou']:.4f}  pixel accuracy {results['pixel_accuracy']:.4f}"
        say(f"step {step}: {self.eval_split} {scores}")
        if step == self.config.steps:
            self._warn_of_lost_classes(results["iou"])
        if self.writer is None:
            return results
        state = parallel.fetch(self.state)
        if self.pictures and self.config.log.hidden_masks and parallel.is_main():
            made = made_label_scores(self.inputs.loader, self.pictures, state, self.config.log.hidden_masks)
            results |= made
            if made:
                say("  ".join(f"{name} {value:.4f}" for name, value in made.items()))
        if self.panel:
            picture = panels.draw(self.panel, self.predictor, self.dataset, state, self.pictures)
            pictures.save(self.workdir / "panels" / f"{self.stage.name}_{step:06d}.png", picture)
            self.writer.picture(step, "panel", picture)
        self.writer.scalars(step, results, "eval")
        return results

    def _warn_of_lost_classes(self, iou: np.ndarray) -> None:
        lost = [name for name, value in zip(self.dataset.info.classes, iou, strict=True) if value == 0]
        if lost and not self.config.balance_classes and not self.config.class_weights:
            say(
                f"warning: no pixel of {', '.join(lost)} was found; train longer, or let rare classes count for more "
                "(--config.balance_classes=0.5)"
            )

    def _panel_rows(self) -> list[panels.PanelRow]:
        limit = self.config.log.panel_rows
        if not limit or not self.eval_split or not parallel.is_main():
            return []
        training = panels.training_rows(self.inputs.loader, self.dataset, max(1, limit // 2))
        return training + panels.evaluation_rows(self.dataset, self.eval_split, limit - len(training))


def guard(stage: Stage, augment: Augment) -> parallel.Step:
    """Augmentation and train step in one program; a step with a non-finite metric leaves the state as it was."""

    def step(state: State, examples: Example) -> tuple[State, Any]:
        after, metrics = stage.train_step(state, augment(examples))
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(value)) for value in metrics.values()]))
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state), metrics

    return step


def _check_apart(dataset: Dataset, train_split: str, eval_split: str) -> None:
    """Masks that training may not see must not choose its checkpoint either."""
    trained = {row["id"] for row in dataset.info.splits[train_split]}
    shared = [row["id"] for row in dataset.info.splits[eval_split] if row["id"] in trained]
    if shared:
        raise ValueError(
            f"data.strong_classes hides masks of split {train_split!r}, but {len(shared)} of its images are evaluated "
            f"in split {eval_split!r}, the first is {shared[0]!r}"
        )


def _check_finite(step: int, values: Mapping[str, Any], checkpoints: Checkpoints) -> None:
    broken = [name for name, value in values.items() if not np.all(np.isfinite(value))]
    if not broken:
        return
    checkpoints.wait()
    terms = [name for name in broken if name not in ("loss", "grad_norm")] or broken
    last = checkpoints.latest()
    kept = f"the last good checkpoint is step {last} in {checkpoints.directory}" if last else "none was saved yet"
    raise NonFiniteLossError(
        f"{', '.join(terms)} became {values[terms[0]]} at step {step}; {kept}. "
        "A lower learning rate, optimizer.clip_norm or float32 may help."
    )
