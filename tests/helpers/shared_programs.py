"""Runs of one config in one session share their compiled programs: tracing them is most of what a short run costs."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ml_collections import ConfigDict

from semiseg_jax.config import to_json
from semiseg_jax.data.augment import Augment
from semiseg_jax.engine.parallel import Devices
from semiseg_jax.methods import Method, Stage, make_method
from semiseg_jax.verbs import train

_methods: dict[Any, Method] = {}
_stages: dict[Any, Any] = {}
_steps: dict[Any, Callable] = {}
_mapped: dict[Any, Callable] = {}
_guard, _map = train.guard, Devices.map


@contextlib.contextmanager
def shared_programs() -> Iterator[None]:
    """A test that changes what a method computes needs a config of its own, such as another seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "make_method", _shared_method)
        patch.setattr(train, "guard", _shared_step)
        patch.setattr(Devices, "map", _shared_program)
        yield


def _shared_method(config: ConfigDict, num_classes: int) -> Method:
    key = (to_json(config), num_classes)
    if key not in _methods:
        method = make_method(config, num_classes)
        make_stages = method.stages

        def stages(run_config: ConfigDict) -> Any:
            of = (id(method), to_json(run_config))
            if of not in _stages:
                _stages[of] = make_stages(run_config)
            return _stages[of]

        method.stages = stages  # type: ignore[method-assign]
        _methods[key] = method
    return _methods[key]


def _shared_step(stage: Stage, augment: Augment) -> Callable:
    key = (id(stage), augment)
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
