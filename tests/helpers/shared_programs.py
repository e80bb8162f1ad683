"""Runs of one config in one session share their compiled programs: tracing them is most of what a short run costs."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from semiseg_jax.data.augment import Augment
from semiseg_jax.engine.inference import Evaluation, Inference, Predictor
from semiseg_jax.engine.parallel import Devices
from semiseg_jax.engine.settings import Settings
from semiseg_jax.engine.writers import Log
from semiseg_jax.methods import Method, Stage, make_method
from semiseg_jax.verbs import train, workdir

_methods: dict[Any, Method] = {}
_stages: dict[Any, Any] = {}
_steps: dict[Any, Callable] = {}
_mapped: dict[Any, Callable] = {}
_forwards: dict[Any, Callable] = {}
_EVAL = Evaluation()
_guard, _map, _init = train.guard, Devices.map, Predictor.__init__


@contextlib.contextmanager
def shared_programs() -> Iterator[None]:
    """A test that changes what a method computes needs a config of its own, such as another seed."""
    with pytest.MonkeyPatch.context() as patch:
        for verb in (train, workdir):
            patch.setattr(verb, "make_method", _shared_method)
        patch.setattr(train, "guard", _shared_step)
        patch.setattr(Devices, "map", _shared_program)
        patch.setattr(Predictor, "__init__", _shared_forward)
        yield


def _programs_of(config: Settings) -> str:
    """The config without what changes no program."""
    return repr(config.replace(checkpoint={"every": 0}, log=Log(hidden_masks=config.log.hidden_masks), eval=_EVAL))


def _shared_method(config: Settings, num_classes: int) -> Method:
    """A method whose stages are those of an earlier one, but for what they do beside training."""
    key = (_programs_of(config), config.eval.weights, num_classes)
    method = make_method(config, num_classes)
    _stages.setdefault(key, method.stages())
    first = _methods.setdefault(key, method)
    method.stages = lambda: [  # type: ignore[method-assign]
        dataclasses.replace(
            stage, config=stage.config.replace(checkpoint=config.checkpoint, log=config.log, eval=config.eval)
        )
        for stage in _stages[key]
    ]
    method.predict = first.predict  # type: ignore[method-assign]
    return method


def _shared_step(stage: Stage, augment: Augment) -> Callable:
    key = (stage.train_step, augment)
    if key not in _steps:
        _steps[key] = _guard(stage, augment)
    return _steps[key]


def _shared_program(devices: Devices, step: Callable) -> Callable:
    if step not in _steps.values():
        return _map(devices, step)
    key = (step, devices)
    if key not in _mapped:
        _mapped[key] = _map(devices, step)
    return _mapped[key]


def _shared_forward(
    predictor: Predictor, predict: Callable, variables: Any, options: Inference, num_classes: int
) -> None:
    _init(predictor, predict, variables, options, num_classes)
    predictor._forward = _forwards.setdefault((predict, options.flip), predictor._forward)
