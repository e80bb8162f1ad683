"""What a report knows of runs, without any drawing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from semiseg_jax.engine.metrics import Calibration, ConfusionMatrix


@dataclasses.dataclass(frozen=True)
class Panel:
    """One image and what is known of it. Pictures are [H,W,3] uint8, by title, in the order in which they are shown."""

    name: str
    views: Mapping[str, np.ndarray]
    miou: float | None = None  # of this image
    confidence: float | None = None  # mean over its pixels of the largest probability


@dataclasses.dataclass(frozen=True)
class Score:
    """How a run does on a split, over the images that were looked at."""

    split: str
    images: int
    of: int  # images of the split that have a mask
    confusion: ConfusionMatrix
    calibration: Calibration

    @property
    def numbers(self) -> Mapping[str, Any]:
        return self.confusion.compute() | self.calibration.compute()


@dataclasses.dataclass(frozen=True)
class Run:
    """One workdir."""

    name: str
    config: Mapping[str, Any]  # path: value
    classes: Sequence[str]
    colors: Sequence[Sequence[int]]
    checkpoint: int
    labels: str  # in words: images by kind
    cost: Mapping[str, str]  # in words
    history: Sequence[Mapping[str, Any]]  # the lines of metrics.jsonl
    versions: Mapping[str, Any]
    score: Score | None = None
    training: Sequence[Panel] = ()
    worst: Sequence[Panel] = ()
    unsure: Sequence[Panel] = ()

    @property
    def seed(self) -> Any:
        return self.config.get("seed")

    @property
    def miou(self) -> float | None:
        """Of the score or, where the data could not be looked at, what training measured at the checkpoint."""
        if self.score:
            return float(self.score.numbers["miou"])
        return dict(self.curve("miou", "eval")).get(self.checkpoint)

    def curve(self, name: str, kind: str) -> list[tuple[int, float]]:
        """(step, value) of the last stage that reports it."""
        rows = [row for row in self.history if row["kind"] == kind and isinstance(row.get(name), int | float)]
        last = rows[-1]["stage"] if rows else ""
        return [(row["step"], float(row[name])) for row in rows if row["stage"] == last]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone."""

    name: str
    runs: Sequence[Run]

    @property
    def miou(self) -> list[float]:
        return [run.miou for run in self.runs if run.miou is not None]

    @property
    def scores(self) -> list[Score]:
        return [run.score for run in self.runs if run.score]


_SEEDS = ("seed", "data.seed")
_PLACES = ("log", "data.data_dir", "data.threads", "distributed", "checkpoint")


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs of one config are one group, in the order in which they were named."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        same = {path: value for path, value in run.config.items() if path not in _SEEDS and not _is_place(path)}
        found.setdefault(repr(sorted(same.items(), key=lambda item: item[0])), []).append(run)
    return [Group(_common_name([run.name for run in members]), members) for members in found.values()]


def differing(groups: Sequence[Group]) -> dict[str, list[str]]:
    """{field: its value in each group} of the fields in which the groups differ."""
    configs = [group.runs[0].config for group in groups]
    paths = sorted(set().union(*configs))
    values = {path: [_shown(config.get(path, "absent")) for config in configs] for path in paths if not _is_place(path)}
    return {path: row for path, row in values.items() if len(set(row)) > 1 and path not in _SEEDS}


def _is_place(path: str) -> bool:
    return any(f"{path}.".startswith(f"{place}.") for place in _PLACES)


def _shown(value: Any) -> str:
    return '""' if value == "" else str(value)


def _common_name(names: Sequence[str]) -> str:
    """What the names share at their start, or the first one."""
    if len(names) == 1:
        return names[0]
    shared = ""
    for letters in zip(*names, strict=False):
        if len(set(letters)) > 1:
            break
        shared += letters[0]
    return shared.rstrip("_-. 0123456789/") or names[0]
