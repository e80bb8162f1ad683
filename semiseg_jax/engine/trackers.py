"""Where a run's numbers and pictures go besides its workdir: wandb, trackio, mlflow, or a class of your own.

Their packages are imported when a config asks for one. Where they send what they are given is set by their own
environment variables: `WANDB_PROJECT`, `TRACKIO_PROJECT`, `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME` and so on.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from semiseg_jax.engine.files import write_whole
from semiseg_jax.registry import find

logger = logging.getLogger("semiseg_jax")

_PROJECT = "semiseg_jax"  # for those that must have one, where their variable does not say another
_GIVE_UP = 3  # errors in a row, after which a tracker is left alone: each may have taken minutes


class Tracker(Protocol):
    """One run of a tracker, that is one stage of a run. Made without arguments; only the first process starts it."""

    def start(self, config: Mapping[str, Any], workdir: Path, name: str, before: str) -> str:
        """Starts the run `name`, or goes on with the one whose id is `before` -> its id."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """image: [H,W,3] uint8."""

    def close(self) -> None: ...


class Wandb:
    """Weights & Biases."""

    def __init__(self) -> None:
        import wandb

        self._package = wandb

    def start(self, config: Mapping[str, Any], workdir: Path, name: str, before: str) -> str:
        again = {"id": before, "resume": "allow"} if before else {}
        self._run = self._package.init(name=name, config=dict(config), dir=str(workdir), **again)
        self._run.define_metric("*", step_metric="step")  # its own count may not go back, as a killed run does
        return str(self._run.id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({name: self._package.Image(image), "step": step})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """Trackio, whose runs are known by their names."""

    def __init__(self) -> None:
        import trackio

        self._package = trackio

    def start(self, config: Mapping[str, Any], workdir: Path, name: str, before: str) -> str:
        project = os.environ.get("TRACKIO_PROJECT", _PROJECT)
        kept, resume = before or name, "allow" if before else "never"
        self._run = self._package.init(project, name=kept, config=dict(config), resume=resume)
        return str(self._run.name)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({name: self._package.Image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """MLflow."""

    def __init__(self) -> None:
        import mlflow

        self._package = mlflow

    def start(self, config: Mapping[str, Any], workdir: Path, name: str, before: str) -> str:
        run = self._package.start_run(run_id=before) if before else self._package.start_run(run_name=name)
        self._id = str(run.info.run_id)
        if not before:
            self._package.log_params({field: str(value)[:500] for field, value in config.items()})
        return self._id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._package.log_metrics(dict(values), step=step, run_id=self._id)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self._package.log_image(image, key=name, step=step)

    def close(self) -> None:
        self._package.end_run()


TRACKERS: Mapping[str, Callable[[], Tracker]] = {"wandb": Wandb, "trackio": Trackio, "mlflow": MLflow}


def make_tracker(name: str) -> Tracker:
    """The tracker that `log.tracker` names. Raises where its package is missing."""
    try:
        return find(name, TRACKERS, "trackers")()
    except ImportError as error:
        how = f'pip install "semiseg-jax[{name}]"' if name in TRACKERS else "install its package"
        raise ValueError(
            f"log.tracker: {name} cannot be imported ({error}); {how}, or leave log.tracker empty"
        ) from None


class Tracked:
    """The tracker of one stage, whose errors are told once and stop no training. Its id is kept in the workdir."""

    def __init__(self, name: str, config: Mapping[str, Any], workdir: Path, stage: str):
        self._name, self._failures, self._told = name, 0, False
        self._tracker = make_tracker(name)
        ids = workdir / "tracker.json"
        known: dict[str, str] = json.loads(ids.read_text()) if ids.exists() else {}
        key, title = f"{name} {stage}".rstrip(), "-".join(part for part in (workdir.absolute().name, stage) if part)
        before = known.get(key, "")
        try:
            known[key] = self._tracker.start(dict(_flat(config)), workdir, title, before)
        except Exception as error:
            if not before:
                raise ValueError(f"log.tracker: {name} did not start: {error}") from error
            self._failed(error)  # a run that goes on is worth more than its tracker
            self._failures = _GIVE_UP
        else:
            write_whole(ids, json.dumps(known, indent=2))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._call(lambda: self._tracker.scalars(step, values))

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self._call(lambda: self._tracker.picture(step, name, image))

    def close(self) -> None:
        self._call(self._tracker.close)

    def _call(self, action: Callable[[], None]) -> None:
        if self._failures >= _GIVE_UP:
            return
        try:
            action()
            self._failures = 0
        except Exception as error:
            self._failures += 1
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if not self._told:
            logger.warning(
                "log.tracker: %s failed, and training goes on; metrics.jsonl has every number (%s: %s)",
                self._name, type(error).__name__, error,
            )  # fmt: skip
        self._told = True


def _flat(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a config by their paths."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
