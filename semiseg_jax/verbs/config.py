"""`semiseg config`: what a run of a config will do, before it does it."""

import sys
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from semiseg_jax.config import changed_fields, default_config, settings, to_json
from semiseg_jax.data.datasets import make_builder
from semiseg_jax.data.pools import parse_quota
from semiseg_jax.engine.batch_sizes import rows_of
from semiseg_jax.engine.optimizers import Optimizer
from semiseg_jax.engine.settings import Settings
from semiseg_jax.methods import Stage, make_method
from semiseg_jax.methods.terms import Weighted
from semiseg_jax.verbs.workdir import dummy_batch

WIDTH = 118  # of a line
CLASSES = 21  # where the dataset is not there to ask


def show_config(config: ConfigDict, *, everything: bool = False, classes: int = 0) -> str:
    """Prints method, stages, networks, terms, schedule, batch and the fields that differ from the defaults.

    Args:
      config: from `semiseg_jax.load_config(NAME)` or `semiseg_jax.default_config()`.
      everything: print all fields as JSON instead.
      classes: how many; 0 = those of the dataset, or 21 where it is not there.

    Returns:
      What was printed.
    """
    if everything:
        settings(config)  # refuses what is wrong
        text = to_json(config)
    else:
        text = "\n".join(_clipped(line) for line in _summary(config, classes))
    print(text, flush=True)
    return text


def _summary(config: ConfigDict, classes: int) -> Iterator[str]:
    run = settings(config)
    yield _row("data", _data(run))
    classes, source = number_of_classes(run, classes)
    try:
        method = make_method(run, classes)
        stages = method.stages()
    except ValueError as error:
        yield _row("method", run.method)
        yield _row("not yet", f"it cannot run: {error}")
        stages = []
    else:
        about = (sys.modules[type(method).__module__].__doc__ or "").strip().partition("\n")[0]
        yield _row("method", about.replace("`", ""))
    for number, stage in enumerate(stages):
        yield _row("stages" if not number else "", _stage(stage, classes))
    if stages:
        yield _row("", f"parameters of {classes} classes, {source}")
    for number, line in enumerate(_terms(run)):
        yield _row("terms" if not number else "", line)
    yield _row("schedule", _schedule(run.optimizer))
    yield _row("batch", _batch(run))
    yield _row("evaluation", _evaluation(run))
    changes = changed_fields(default_config(run.method, extra_terms=run.extra_terms), config)
    yield f"{len(changes)} fields differ from the defaults" + (" (in brackets):" if changes else "")
    for path, (default, value) in changes.items():
        yield f"  {path} = {_shown(value)}  ({_shown(default)})"


def _row(title: str, text: str) -> str:
    return f"{title:<12}{text}"


def _data(run: Settings) -> str:
    place = f" in {run.data.path}" if run.data.path else ""
    made = f", weak labels drawn from masks: {', '.join(run.data.simulate)}" if run.data.simulate else ""
    return f"{run.data.name}{place}, split {run.data.train_split}{made}"


def number_of_classes(run: Settings, asked: int) -> tuple[int, str]:
    if asked:
        return asked, "as asked for"
    if run.class_weights:
        return len(run.class_weights), "as many as class_weights"
    try:
        return len(make_builder(run.data).class_names), f"those of {run.data.name}"
    except (OSError, ValueError):
        return CLASSES, "a guess, as the dataset is not there; --classes=N says how many"


def _stage(stage: Stage, classes: int) -> str:
    state = jax.eval_shape(stage.init, jax.random.PRNGKey(0), dummy_batch((64, 64), classes))
    networks = [
        f"{name} with {sum(leaf.size for leaf in jax.tree.leaves(network.params)) / 1e6:.2f} M parameters"
        for name, network in state.networks.items()
    ]
    warm = ", from the weights of the stage before" if stage.warm_start else ""
    return f"{stage.name}: {stage.config.steps} steps{warm}; {', '.join(networks)}"


def _terms(run: Settings) -> Iterator[str]:
    for name, options in run.terms.items():
        if options.weight:
            yield f"{name} x {options.weight:g}" + _when(options, run.steps) + _of_kinds(options)


def _when(options: Weighted, steps: int) -> str:
    start, full = round(options.start * steps), round((options.start + options.ramp) * steps)
    if full > start:
        return f", from step {start} on, in full from step {full} on"
    return f", from step {start} on" if start else ""


def _of_kinds(options: Weighted) -> str:
    kinds = getattr(options, "kinds", ())
    return f", rows of {', '.join(kinds)}" if kinds else ""


def _schedule(optimizer: Optimizer) -> str:
    parts = [f"{optimizer.name}, learning rate {optimizer.learning_rate:g}, {optimizer.schedule}"]
    parts += [f"{optimizer.warmup_steps} steps of warm-up"] if optimizer.warmup_steps else []
    parts += [f"decay {optimizer.weight_decay:g}"] if optimizer.weight_decay else []
    parts += [f"x {factor:g} for {pattern}" for pattern, factor in optimizer.multipliers]
    return ", ".join(parts)


def _batch(run: Settings) -> str:
    quota, devices = parse_quota(run.data.quota), run.devices or jax.device_count()
    unit = sum(quota.values())
    try:
        (rows,) = rows_of([run], devices)
    except ValueError as error:
        return f"does not fit the {devices} device(s) here: {error}"
    times = rows // unit * devices * run.accumulate
    kinds = " + ".join(f"{count * times} {kind.name.lower()}" for kind, count in quota.items())
    micro = f", in {run.accumulate} micro-batches" if run.accumulate > 1 else ""
    height, width = run.augment.crop
    return (
        f"{rows * devices * run.accumulate} crops of {height}x{width} per update on {devices} device(s): {kinds}{micro}"
    )


def _evaluation(run: Settings) -> str:
    ways = [run.eval.mode, *(["mirrored"] if run.eval.flip else [])]
    ways += [f"scales {', '.join(map(str, run.eval.scales))}"] if run.eval.scales != (1.0,) else []
    ways += [f"then {run.eval.post.name}"] if run.eval.post.name else []
    average = "averaged weights" if run.ema and run.eval.weights == "auto" else "weights as they are"
    return f"every {run.eval.every} steps, {', '.join(ways)}, {average}; the best by {run.checkpoint.metric} is kept"


def _shown(value: object) -> str:
    return f"({', '.join(map(_shown, value))})" if isinstance(value, list) else str(value) if value != "" else '""'


def _clipped(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."
