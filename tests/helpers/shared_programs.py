"""Runs of one config in one session share their compiled programs: tracing them is most of what a short run costs."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ml_collections import ConfigDict

from semiseg_jax.config import to_json
from semiseg_jax.data.augment import Augment
from semiseg_jax.engine.inference import Options, Predictor
from semiseg_jax.engine.parallel import Devices
from semiseg_jax.methods import Method, Stage, make_method
from semiseg_jax.verbs import train, workdir

_methods: dict[Any, Method] = {}
_stages: dict[Any, Any] = {}
_steps: dict[Any, Callable] = {}
_mapped: dict[Any, Callable] = {}
_forwards: dict[Any, Callable] = {}
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


def _programs_of(config: ConfigDict) -> str:
    """The config without what changes no program."""
    fields = json.loads(to_json(config))
    fields |= {"checkpoint": {}, "log": fields["log"]["hidden_masks"], "eval": fields["eval"]["weights"]}
    return json.dumps(fields)


def _shared_method(config: ConfigDict, num_classes: int) -> Method:
    key = (_programs_of(config), num_classes)
    if key not in _methods:
        method = make_method(config, num_classes)
        make_stages = method.stages

        def stages(run_config: ConfigDict) -> Any:
            of = (id(method), _programs_of(run_config))
            if of not in _stages:
                _stages[of] = make_stages(run_config)
            return _stages[of]

        method.stages = stages  # type: ignore[method-assign]
        _methods[key] = method
    return _methods[key]


def _shared_step(stage: Stage, augment: Augment) -> Callable:
    key = (stage.train_step, augment)
    if key not in _steps:
        _steps[key] = _guard(stage, augment)
    return _steps[key]


def _shared_program(devices: Devices, step: Callable) -> Callable:
    if step not in _steps.values():
        return _map(devices, step)
    key = (step, devices.mapper, devices.mesh)
    if key not in _mapped:
        _mapped[key] = _map(devices, step)
    return _mapped[key]


def _shared_forward(
    predictor: Predictor, predict: Callable, variables: Any, options: Options, num_classes: int
) -> None:
    _init(predictor, predict, variables, options, num_classes)
    predictor._forward = _forwards.setdefault((predict, options.flip), predictor._forward)
