"""What the stages of a run are going to do. All of it is checked before the first one trains."""

import dataclasses
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from semiseg_jax.data.datasets import Dataset
from semiseg_jax.engine import batch_sizes
from semiseg_jax.engine.checkpoints import Checkpoints
from semiseg_jax.engine.inference import Inference
from semiseg_jax.engine.inputs import Input, balanced_weights, make_input
from semiseg_jax.engine.parallel import Devices
from semiseg_jax.engine.settings import Settings
from semiseg_jax.engine.trackers import make_tracker
from semiseg_jax.engine.writers import Log, say
from semiseg_jax.methods import Method, Stage
from semiseg_jax.verbs import workdir as workdirs


@dataclasses.dataclass(frozen=True)
class Plan:
    """One stage, with everything that it needs but its state."""

    stage: Stage
    config: Settings  # with the absolute path of made labels
    inputs: Input
    inference: Inference
    eval_split: str  # empty where nothing is evaluated
    workdir: Path

    @property
    def done(self) -> Path:
        """A file that marks that the stage's host work is done."""
        return self.workdir / f"{self.stage.name}.done"

    @property
    def made(self) -> Path | None:
        """The folder that its host work fills."""
        return self.workdir / self.stage.makes if self.stage.makes else None

    @property
    def has_checkpoint(self) -> bool:
        return workdirs.has_checkpoint(self.workdir, self.stage)

    @property
    def wants_weights(self) -> bool:
        """Whether it is still to start from the weights of the stage before."""
        return self.stage.warm_start and not self.has_checkpoint

    def due(self, step: int) -> bool:
        """Whether a checkpoint and a score are due after this step."""
        return step % self.config.eval.every == 0 or step == self.config.steps

    def unscored(self, checkpoints: Checkpoints, step: int) -> bool:
        """Whether the run was stopped after it saved this step, and before it knew its score."""
        return bool(step and self.due(step) and self.eval_split and step not in checkpoints.scores)

    def is_over(self, checkpoints: Checkpoints) -> bool:
        trained = checkpoints.latest() == self.config.steps and not self.unscored(checkpoints, self.config.steps)
        return trained and (self.stage.finish is None or self.done.exists())


def plan_stages(
    method: Method, dataset: Dataset, workdir: Path, devices: Devices, first_devices: int = 0
) -> deque[Plan]:
    """Plans of the stages in their order. Raises what would keep any of them from its start.

    The run began on `first_devices`, or begins on these (0).
    """
    stages = [_kept_batch(stage, first_devices or devices.count, devices.count) for stage in method.stages()]
    batch_sizes.rows_of([stage.config for stage in stages], devices.count)
    data = stages[0].config.data
    eval_split = dataset.eval_split(data.eval_split)
    if eval_split and data.strong_classes:
        _check_apart(dataset, data.train_split, eval_split)
    _check_background(method, dataset)
    plans: deque[Plan] = deque()
    for stage in stages:
        plan = _plan(stage, dataset, workdir, devices, eval_split)
        if plan.made and plan.made.exists() and not (workdir / "config.json").exists():
            raise ValueError(f"{plan.made} exists, but no run made it; use another --workdir")
        if plan.inputs.loader.made_labels not in [str(earlier.made) for earlier in plans]:
            plan.inputs.check_made_labels()
        if not plan.has_checkpoint:
            stage.check()
        plans.append(plan)
    _check_watched(stages[0].config.log, max(plan.config.steps for plan in plans))
    return plans


def check_longer(plans: Sequence[Plan], before: int, workdir: str) -> None:
    """A run of one stage that was for `before` steps may go on for more of them; says what that does."""
    steps = plans[0].config.steps
    if len(plans) > 1:
        raise ValueError(
            f"the run in {workdir} has {len(plans)} stages of {before} steps, and each starts from what the one before "
            f"it made; steps={steps} needs another --workdir"
        )
    say(
        f"{plans[0].stage.name}: THE RUN BECOMES LONGER, {steps} steps instead of {before}. Learning rate and terms "
        "follow the schedule of the longer run from here on, so that the learning rate rises at once (a warm restart)"
    )


def _kept_batch(stage: Stage, first_devices: int, devices: int) -> Stage:
    """A stage with as many images an update as when the run began."""
    if line := batch_sizes.changed(stage.config, first_devices, devices):
        say(f"{stage.name}: {line}")
    batch_size = batch_sizes.kept(stage.config, first_devices, devices)
    return dataclasses.replace(stage, config=stage.config.replace(batch_size=batch_size))


def _plan(stage: Stage, dataset: Dataset, workdir: Path, devices: Devices, eval_split: str) -> Plan:
    made = stage.config.data.made_labels
    config = stage.config.replace(data={"made_labels": str(workdir / made) if made else ""})
    inputs = make_input(config, dataset, devices.count, devices.local_count)
    return Plan(
        stage,
        config,
        inputs,
        inference=workdirs.inference_options(config, inputs.loader.layout.canvas),
        eval_split=eval_split if stage.scored else "",
        workdir=workdir,
    )


def balanced(config: Settings, dataset: Dataset) -> Settings:
    """With `balance_classes`, the config with weights of this dataset's classes."""
    if not config.balance_classes:
        return config
    weights = balanced_weights(config.data, dataset, config.balance_classes)
    names = zip(dataset.info.classes, weights, strict=True)
    say("class weights: " + ", ".join(f"{name} {weight:.2f}" for name, weight in names))
    return config.replace(class_weights=weights, balance_classes=0.0)


def _check_watched(log: Log, longest: int) -> None:
    """`longest` is the number of steps of the longest stage."""
    if log.profiled[1] > longest:
        raise ValueError(f"log.profile is {log.profile!r} but there are only {longest} steps")
    if log.tracker:
        make_tracker(log.tracker)  # raises where its package is missing


def _check_background(method: Method, dataset: Dataset) -> None:
    """Some terms and methods treat class 0 as background."""
    what, info = method.needs_background, dataset.info
    if what and info.background != 0:
        named = "none" if info.background is None else f"{info.classes[info.background]!r}, class {info.background}"
        raise ValueError(
            f"{what} needs a dataset whose class 0 is background, but here that is {named}; the classes are "
            f'{", ".join(info.classes)}. Name the first class "background", or set "background": 0 in dataset.json'
        )


def _check_apart(dataset: Dataset, train_split: str, eval_split: str) -> None:
    """Masks that training may not see must not choose its checkpoint either."""
    trained = {row["id"] for row in dataset.info.splits[train_split]}
    shared = [row["id"] for row in dataset.info.splits[eval_split] if row["id"] in trained]
    if shared:
        raise ValueError(
            f"data.strong_classes hides masks of split {train_split!r}, but {len(shared)} of its images are evaluated "
            f"in split {eval_split!r}, the first is {shared[0]!r}"
        )
