"""`semiseg train`: the training loop, read from top to bottom."""

import contextlib
import dataclasses
import gc
import shutil
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
from semiseg_jax.data.datasets import Dataset
from semiseg_jax.data.types import Example
from semiseg_jax.engine import mirror, parallel, processes
from semiseg_jax.engine.checkpoints import SHARDED_ALONE, Checkpoints
from semiseg_jax.engine.watching import Watch
from semiseg_jax.engine.writers import MetricWriter, Progress, say
from semiseg_jax.methods import FinishContext, Method, Stage, State, make_method
from semiseg_jax.methods.base import Stopped, Variables, with_variables
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.advice import advice
from semiseg_jax.verbs.report import report
from semiseg_jax.verbs.scoring import Scorer
from semiseg_jax.verbs.stages import Plan, balanced, check_longer, plan_stages

OnStep = Callable[[int], None]


class NonFiniteLossError(RuntimeError):
    """A loss or gradient became infinite or NaN; no checkpoint holds its traces."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a training ended."""

    step: int
    metrics: Mapping[str, Any]  # of the last evaluation; of a run that was finished before, single numbers alone
    signal: int = 0  # that stopped the run early, after saving; the same command goes on

    @property
    def preempted(self) -> bool:
        return bool(self.signal)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What all stages share."""

    stored: ConfigDict
    workdir: Path
    devices: parallel.Devices
    first_devices: int  # how many there were when the run began
    dataset: Dataset
    method: Method
    stop: parallel.StopSignal
    on_step: OnStep | None
    stages: int  # that it has


@processes.together
def train(config: ConfigDict, workdir: str | Path, *, on_step: OnStep | None = None) -> Result:
    """Trains what `config` describes, or goes on where the workdir's last checkpoint stands.

    SIGTERM and, with one process, Ctrl-C save and stop after the step in hand, or between two stages after the image in
    hand; a second Ctrl-C stops at once.

    Args:
      config: from `semiseg_jax.load_config(NAME)` or `semiseg_jax.default_config()`.
      workdir: checkpoints, metrics, pictures and the resolved config go here.
      on_step: called with the number of steps done after each step.
    """
    parallel.keep_memory()
    stored = workdirs.anchored(config)
    config = settings(stored)
    processes.join(config.distributed)
    workdirs.use_compilation_cache()
    with parallel.stop_signals() as stop, mirror.training(workdir) as workdir:
        shorter = workdirs.check(stored, workdir)
        devices = parallel.Devices.create(config.parallel, config.devices, config.shard_state)
        if config.shard_state and not mirror.is_shared(workdir):
            raise ValueError(SHARDED_ALONE)
        dataset = workdirs.open_together(config.data, planned=True)
        method = make_method(balanced(config, dataset), dataset.info.num_classes)
        first = workdirs.first_devices(workdir, devices.count)
        plans = plan_stages(method, dataset, workdir, devices, first)
        if shorter:
            check_longer(plans, shorter, mirror.shown(workdir))
        run = _Run(stored, workdir, devices, first, dataset, method, stop, on_step, len(plans))
        with workdirs.lock(workdir):
            result = Result(0, {})
            weights: dict[str, Variables] = {}
            while plans and not result.signal:
                plan = plans.popleft()
                result, weights = _train_stage(run, plan, weights, bool(plans) and plans[0].wants_weights)
                del plan  # its iterator keeps batches ready
                gc.collect()  # predictors and compiled programs refer to each other in circles, and to parameters
            if not result.signal:
                _end(workdir, config.log.report)
    return result


def _end(workdir: Path, wants_report: bool) -> None:
    """Says what a finished run is for. A page that cannot be written is no reason for it to fail."""
    place = mirror.shown(workdir)
    page = f", semiseg report {place}" if place == str(workdir) else ""  # which is made of local files
    say(f"next: semiseg evaluate --workdir={place}, semiseg predict --workdir={place} IMAGES{page}")
    if not wants_report or jax.process_count() > 1:  # the page reads the checkpoint alone
        return
    try:
        report(workdir)
    except (ImportError, OSError, ValueError) as error:
        say(f"no report.html: {error}")


def _train_stage(
    run: _Run, plan: Plan, before: Mapping[str, Variables], hands_over: bool
) -> tuple[Result, dict[str, Variables]]:
    """One stage, from weights of the one before -> (how it ended, its own weights if it `hands_over` them)."""
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(
            workdirs.checkpoint_dir(run.workdir, plan.stage),
            plan.config.checkpoint.metric,
            shared=mirror.is_shared(run.workdir),
        )
        stack.callback(checkpoints.close)
        if plan.is_over(checkpoints) and not hands_over:
            place = mirror.shown(run.workdir)
            say(f"{plan.stage.name} in {place} is finished already; a larger --config.steps makes a longer run of it")
            return Result(plan.config.steps, checkpoints.scores.get(plan.config.steps, {})), {}
        plan.inputs.check_made_labels()
        state, step = _start(run, plan, checkpoints, before)
        _introduce(run, plan, state, step)
        writer = _writer(run, plan, step)
        stack.callback(writer.close)
        progress = Progress(plan.config.steps, step, plan.inputs.rows, plan.stage.name)
        stack.callback(progress.close)
        loop = _Loop(run, plan, checkpoints, writer, progress)
        stack.callback(loop.watch.close)
        state, result = loop.train(state, step)
    if not result.signal:
        result = dataclasses.replace(result, signal=_finish(run, plan, state))
    handed = {name: network.averaged for name, network in state.networks.items()} if hands_over else {}
    return result, parallel.fetch(handed)


def _writer(run: _Run, plan: Plan, step: int) -> MetricWriter:
    log, config = plan.config.log, run.stored.to_dict()
    return MetricWriter(
        run.workdir, plan.stage.name, step, tensorboard=log.tensorboard, tracker=log.tracker, config=config
    )  # fmt: skip


def _start(run: _Run, plan: Plan, checkpoints: Checkpoints, before: Mapping[str, Variables]) -> tuple[State, int]:
    """State and input as the last checkpoint, if there is one, holds them -> (the state on the devices, its step)."""
    stage, devices = plan.stage, run.devices
    batch = workdirs.dummy_batch(plan.config.augment.crop, run.dataset.info.num_classes)
    # This program runs once, in a blink, and optimising it takes a CPU 15 to 20 s.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    init, rng = jax.jit(stage.init, compiler_options=quick), jax.random.PRNGKey(plan.config.seed)
    step = checkpoints.latest() or 0
    if step:
        state, saved = checkpoints.restore(step, checkpoints.like(jax.eval_shape(init, rng, batch), devices))
        plan.inputs.resume(saved, step)
        if devices.mapper == "pmap" or not checkpoints.shared:
            state = devices.replicate(parallel.fetch(state))
    else:
        state = stage.start(init(rng, batch))
        for name in before if stage.warm_start else ():
            state = with_variables(state, name, before[name])
        state = devices.replicate(parallel.fetch(state))
        _forget_host_work(run, plan)
    workdirs.claim(run.stored, run.workdir, " ".join(sys.argv), run.first_devices)
    workdirs.write_dataset(run.workdir, run.dataset.info, plan.inputs.loader.layout.canvas)
    return state, step


def _forget_host_work(run: _Run, plan: Plan) -> None:
    """What an earlier run of this stage, whose checkpoints are gone, made of them."""
    if parallel.is_main() or not mirror.is_shared(run.workdir):
        plan.done.unlink(missing_ok=True)
        if plan.made:
            shutil.rmtree(plan.made, ignore_errors=True)


def _introduce(run: _Run, plan: Plan, state: State, step: int) -> None:
    """Says what is going to happen, and writes the parameter overview."""
    if not parallel.is_main():
        return
    config, name = plan.config, plan.stage.name
    pools = plan.inputs.loader.pools
    sizes = {
        network: sum(leaf.size for leaf in jax.tree.leaves(content.params))
        for network, content in state.networks.items()
    }
    networks = ", ".join(f"{network} with {size:,} parameters" for network, size in sizes.items())
    start = f"goes on from step {step} of" if step else "trains for"
    say(f"{name} {start} {config.steps} steps in {mirror.shown(run.workdir)}: {networks}")
    drawn = ", ".join(f"{len(np.unique(pool))} {kind.name.lower()}" for kind, pool in pools.items())
    say(f"{plan.inputs.rows} images a step on {run.devices.count} device(s), drawn from {drawn}")
    unused = run.dataset.labels_beside(config.data.train_split, pools)
    if config.data.name != "shapes" and unused and not config.data.assign:
        listed = ", ".join(f"{count} {kind.name.lower()}" for kind, count in unused.items())
        say(f"images also have labels that this run does not use: {listed}; data.quota names the kinds that it uses")
    if not plan.eval_split and plan.stage.scored:
        say("no split val, validation or test has masks to compare with: trains without evaluation")
    tables = [
        f"{network}\n{parameter_overview.get_parameter_overview(content.params, include_stats=False)}"
        for network, content in state.networks.items()
    ]
    run.workdir.joinpath(f"parameters_{name}.txt").write_text("\n\n".join(tables) + "\n")


class _Loop:
    """The steps of one stage, and what is reported, saved and scored between them."""

    def __init__(self, run: _Run, plan: Plan, checkpoints: Checkpoints, writer: MetricWriter, progress: Progress):
        self.run, self.plan, self.checkpoints, self.writer, self.progress = run, plan, checkpoints, writer, progress
        self.scorer = Scorer(plan, run.method, run.dataset, run.workdir, writer)
        self.pending: list[tuple[int, Any]] = []  # metrics on the devices
        self.waited: Mapping[str, float] = {}  # for what, when it was last reported
        folder = run.workdir / "profile" / plan.stage.name
        self.watch = Watch(plan.config.log.profiled, folder, run.devices.count)
        self.warned = ""

    def train(self, state: State, step: int) -> tuple[State, Result]:
        """Steps on from `step` -> (the last state, how training ended)."""
        run, plan, config, inputs = self.run, self.plan, self.plan.config, self.plan.inputs
        step_fn = run.devices.map(guard(plan.stage, config.augment))
        results: Mapping[str, Any] = self.checkpoints.scores.get(step, {})
        if plan.unscored(self.checkpoints, step):
            results = self._score(step, state)
        self.progress.skip()
        upcoming = inputs.next(run.devices) if step < config.steps else None
        if upcoming:
            self.watch.count(step_fn, state, upcoming[0])
        stopped_by = run.stop()
        while step < config.steps and not stopped_by:
            assert upcoming is not None
            batch, position = upcoming
            with self.watch.step(step + 1):
                state, metrics = step_fn(state, batch)
            step += 1
            self.pending.append((step, metrics))
            # The device is busy with this step while the host hands over the next batch.
            if step < config.steps:
                upcoming = inputs.next(run.devices)
            self.watch.handed_over(step, metrics)
            if run.on_step:
                run.on_step(step)
            stopped_by = run.stop()
            due = plan.due(step)
            saves = due or stopped_by or (config.checkpoint.every and step % config.checkpoint.every == 0)
            if saves or step % config.log.every == 0:
                self._report()
            if saves:
                with self.watch.saving():
                    self.checkpoints.save(step, run.devices.to_global(state), position)
            if due and plan.eval_split and (not stopped_by or step == config.steps):
                results = self._score(step, state)
            if saves:
                self.progress.skip()
                self.watch.skip()
        self.checkpoints.finish()
        if step < config.steps:
            saved = self.checkpoints.latest()
            _say_stopped(stopped_by, f"saved at step {saved}" if saved else "nothing was trained yet")
            return state, Result(step, results, signal=stopped_by)
        self._conclude(results)
        return state, Result(step, results)

    def _conclude(self, results: Mapping[str, Any]) -> None:
        """Says what the stage learned and what to do next."""
        config, place = self.plan.config, mirror.shown(self.run.workdir)
        for line in advice(
            self.checkpoints.scores,
            results,
            self.run.dataset.info.classes,
            steps=config.steps,
            metric=config.checkpoint.metric,
            weighted=bool(config.balance_classes or config.class_weights),
            can_grow=self.run.stages == 1,
        ):
            say(line)
        say(f"done: the best checkpoint is step {self.checkpoints.choose('best')} in {place}")

    def _score(self, step: int, state: State) -> dict[str, Any]:
        results = self.scorer(step, state)
        self.checkpoints.score(step, results)
        return results

    def _report(self) -> None:
        """Writes the means since the last report, and stops at the first step whose metrics are not finite."""
        if not self.pending:
            return
        further = self.watch.report()  # before anything else waits for these steps
        host = [(step, parallel.fetch(metrics)) for step, metrics in self.pending]
        self.pending.clear()
        for step, values in host:
            _check_finite(step, values, self.checkpoints)
        last, inputs = host[-1][0], self.plan.inputs
        means = {name: np.mean([values[name] for _, values in host], axis=0) for name in host[0][1]}
        scalars = {name: float(value) for name, value in means.items() if not value.ndim}
        further["images_per_second"] = self.progress.report(last, scalars)
        waited = {"data_seconds": inputs.waited, "checkpoint_seconds": self.watch.saved}
        further |= {name: (total - self.waited.get(name, 0.0)) / len(host) for name, total in waited.items()}
        self.waited = waited
        if inputs.loader.replaced:
            further["replaced_records"] = inputs.loader.replaced
        self.writer.scalars(last, {**means, **self.plan.stage.rates(last - 1), **further}, "train")
        warning = self.plan.stage.watch(last, scalars)
        if warning and warning != self.warned:
            say(f"warning at step {last}: {warning}")
        self.warned = warning


def _finish(run: _Run, plan: Plan, state: State) -> int:
    """The stage's host work, once -> the signal that stopped it, or 0. A second start goes on with it."""
    if not plan.stage.finish or plan.done.exists():
        return 0
    # Processes that do not see each other's files each make all of them.
    share = (jax.process_index(), jax.process_count()) if mirror.is_shared(run.workdir) else (0, 1)
    context = FinishContext(run.workdir, run.dataset, plan.inference, run.stop, *share)
    try:
        plan.stage.finish(parallel.fetch(state), context)
        done = True
    except Stopped:
        done = False
    stopped_by = run.stop.agree()
    if parallel.sum_over_processes(np.array(done, np.int64)) == jax.process_count():
        if parallel.is_main():
            plan.done.touch()
        return 0
    _say_stopped(stopped_by, f"in the work after stage {plan.stage.name}")
    return stopped_by


def _say_stopped(by: int, where: str) -> None:
    say(f"stopped by {signal.Signals(by).name}, {where}; the same command goes on from there")


def guard(stage: Stage, augment: Augment) -> parallel.Step:
    """Augmentation and train step in one program; a step with a non-finite metric leaves the state as it was."""

    def step(state: State, examples: Example) -> tuple[State, Any]:
        after, metrics = stage.train_step(state, augment(examples))
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(value)) for value in metrics.values()]))
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state), metrics

    return step


def _check_finite(step: int, values: Mapping[str, Any], checkpoints: Checkpoints) -> None:
    broken = [name for name, value in values.items() if not np.all(np.isfinite(value))]
    if not broken:
        return
    checkpoints.wait()
    terms = [name for name in broken if name not in ("loss", "grad_norm")] or broken
    last = checkpoints.latest()
    kept = f"the last good checkpoint is step {last} in {checkpoints.place}" if last else "none was saved yet"
    raise NonFiniteLossError(
        f"{', '.join(terms)} became {values[terms[0]]} at step {step}; {kept}. "
        "A lower learning rate, optimizer.clip_norm or float32 may help."
    )
