"""What a run says while it goes: a progress line, `metrics.jsonl` and TensorBoard files."""

import contextlib
import dataclasses
import json
import math
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from semiseg_jax.engine.files import write_whole
from semiseg_jax.engine.parallel import is_main
from semiseg_jax.engine.trackers import Tracked
from semiseg_jax.options import OptionError, Options, option


@dataclasses.dataclass(frozen=True)
class Log(Options):
    """What a run says and draws while it goes."""

    every: int = option(20, "steps between reports", low=1)
    tensorboard: bool = option(True, "write TensorBoard files beside metrics.jsonl")
    report: bool = option(False, "write report.html into the workdir at the end; it needs matplotlib")
    panel_rows: int = option(6, "images in the panel that each evaluation draws; 0 = none", low=0)
    hidden_masks: int = option(
        0, "images of each kind whose hidden mask each evaluation opens, to score labels that the method made", low=0
    )
    profile: str = option("", "steps of each stage to trace for Perfetto or XProf, such as 10:15; empty = none")
    tracker: str = option(
        "", "where numbers and pictures go besides: wandb, trackio, mlflow or package.module:Class; empty = nowhere"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.profile and not 0 < self.profiled[0] <= self.profiled[1]:
            raise OptionError("profile", f"is {self.profile!r} but must be the first and the last step, such as 10:15")

    @property
    def profiled(self) -> tuple[int, int]:
        """The first and the last step to trace; zeros where there is none."""
        found = re.fullmatch(r"(\d+):(\d+)", self.profile)
        return (int(found[1]), int(found[2])) if found else (0, 0)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, if it is there, but for half a line that a killed run left."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


class MetricWriter:
    """Numbers to `metrics.jsonl`, TensorBoard and a tracker, pictures to the last two; from the first process only."""

    def __init__(
        self,
        workdir: Path,
        stage: str = "",
        start: int = 0,
        *,
        tensorboard: bool,
        tracker: str = "",
        config: Mapping[str, Any] | None = None,
    ):
        """Goes on after step `start` of `stage`; what a killed run wrote of later steps is removed."""
        self._file, self._stage = None, stage
        self._places: list[_Board | Tracked] = []  # where numbers and pictures go besides
        if not is_main():
            return
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if not self._is_later(line, start)]
            write_whole(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", buffering=1)
        if tensorboard:
            self._places.append(_Board(workdir / "tensorboard" / stage, start))  # each stage is a curve of its own
        if tracker:
            self._places.append(Tracked(tracker, config or {}, workdir, stage))

    def scalars(self, step: int, values: Mapping[str, Any], prefix: str) -> None:
        """Writes numbers; vectors go to the file alone, matrices nowhere."""
        if self._file is None:
            return
        row = {name: _finite(np.asarray(value).tolist()) for name, value in values.items() if np.ndim(value) <= 1}
        self._file.write(json.dumps({"stage": self._stage, "step": step, "kind": prefix, **row}) + "\n")
        single = {f"{prefix}/{name}": float(value) for name, value in values.items() if np.ndim(value) == 0}
        for place in self._places:
            place.scalars(step, single)

    def _is_later(self, line: str, start: int) -> bool:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # half a line of a killed run
            return True
        return row.get("stage") == self._stage and row["step"] > start

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        for place in self._places:
            place.picture(step, name, picture)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        for place in self._places:
            place.close()


class _Board:
    """A TensorBoard file. Events are written at once: a thread that fails, as on a full disk, would stop the run."""

    def __init__(self, folder: Path, start: int):
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        if start:  # what a killed run wrote of later steps is void
            self._write(start + 1, session_log={"status": "START"})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX import summary

        for name, value in values.items():
            self._write(step, summary=summary.scalar(name, value))

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        from tensorboardX import summary

        self._write(step, summary=summary.image(name, picture, dataformats="HWC"))

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event(wall_time=time.time(), step=step, **content))
        if time.monotonic() > self._flushed + 30:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()


class Progress:
    """One line with ETA, images/s and losses; terminals and notebooks redraw it, in a log each report is a line."""

    def __init__(self, total: int, start: int, images_per_step: int, name: str, unit: str = "step"):
        self.images_per_step = images_per_step
        self.total, self.name, self.unit = total, name, unit
        self._last_step, self._last_time = start, time.perf_counter()
        self._rate: float = 0.0
        self._bar = None
        if is_main() and (sys.stderr.isatty() or "ipykernel" in sys.modules):
            self._bar = tqdm(total=total, initial=start, desc=name, unit=unit, dynamic_ncols=True)

    def report(self, step: int, values: Mapping[str, float]) -> float:
        """Shows the values -> images a second since the last report."""
        now = time.perf_counter()
        speed = (step - self._last_step) / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        self._rate = speed if not self._rate else 0.7 * self._rate + 0.3 * speed
        rate = speed * self.images_per_step
        speed_shown = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(f"{speed_shown} img/s  {shown}", refresh=False)
            self._bar.update(step - self._bar.n)
        elif is_main():
            eta = _clock((self.total - step) / max(self._rate, 1e-9))
            line = f"[{self.name}] {self.unit} {step}/{self.total}  ETA {eta}  {speed_shown} img/s  {shown}"
            print(line.rstrip(), flush=True)
        return rate

    def pulse(self, step: int) -> None:
        """Reports without values, in a log at most every ten seconds."""
        quiet = self._bar is None and time.perf_counter() - self._last_time < 10
        if step == self.total or not quiet:
            self.report(step, {})

    def skip(self) -> None:
        """Restarts the clock after work that is not training."""
        self._last_time = time.perf_counter()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if math.isfinite(value) else None


def say(text: str) -> None:
    """A line for people, without tearing a progress bar; from the first process only."""
    if is_main():
        tqdm.write(text)
        sys.stdout.flush()


def _clock(seconds: float) -> str:
    seconds = int(seconds)
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"
