"""What a run costs while it goes: how long steps take, how well the devices are used, and a trace of some steps."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from semiseg_jax.engine.hardware import CHIPS
from semiseg_jax.engine.parallel import is_main
from semiseg_jax.engine.writers import say
from semiseg_jax.models import operations

# Operations a second of one device in products of bfloat16 (float16 before Ampere), as its maker states them for dense
# numbers, by the name that JAX gives it. The longest name that begins the device's counts.
PEAKS = {chip.kind: chip.bfloat16 for chip in CHIPS.values()} | {
    "TPU v5": CHIPS["v5p"].bfloat16,
    "TPU v5 lite": CHIPS["v5e"].bfloat16,
    "TPU v6 lite": CHIPS["v6e"].bfloat16,
    "Tesla V100": 125e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100 PCIe": 756e12,
}
_UNDER_WAY = 2  # steps that may be handed over before the first of them has ended


def peak_of(kind: str) -> float:
    """Operations a second of a device of this kind; 0 where it is not known, as of a CPU."""
    known = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(known, key=len)] if known else 0.0


class Clock:
    """Seconds between the ends of steps.

    A step is handed over long before it ends. So the clock waits for one that was handed over earlier, while the
    devices have others to work on: they never wait for the clock.
    """

    def __init__(self) -> None:
        self._under_way: deque[Any] = deque()
        self._ended: float | None = None  # the last step that did
        self._seconds: list[float] = []

    def handed_over(self, results: Any) -> None:
        self._under_way.append(results)
        if len(self._under_way) > _UNDER_WAY:
            self._wait()

    def _wait(self) -> None:
        jax.block_until_ready(self._under_way.popleft())
        now = time.perf_counter()
        if self._ended is not None:
            self._seconds.append(now - self._ended)
        self._ended = now

    def take(self) -> list[float]:
        """The seconds of all steps since the last call, once the last of them has ended."""
        while self._under_way:
            self._wait()
        seconds, self._seconds = self._seconds, []
        return seconds

    def skip(self) -> None:
        """Lets work that is not training pass without counting it to a step."""
        self._ended = None


class Trace:
    """A trace of the first and the last of `steps` and those between them, zeros for none; by the first process."""

    def __init__(self, steps: tuple[int, int], folder: Path):
        self._first, self._last = steps if is_main() else (0, 0)
        self._folder, self._on = folder, False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the call that hands the step over."""
        if 0 < self._first <= number <= self._last and not self._on:
            jax.profiler.start_trace(str(self._folder))
            self._on = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def handed_over(self, number: int, results: Any) -> None:
        if self._on and number >= self._last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        if self._on:
            jax.profiler.stop_trace()
            self._on = False
            say(
                f"steps are traced in {self._folder}: open its *.trace.json.gz at ui.perfetto.dev, or "
                f"`pip install xprof` and `xprof {self._folder}`"
            )


class Watch:
    """The clock, the trace and the use of the devices of one stage."""

    def __init__(self, steps: tuple[int, int], folder: Path, devices: int):
        self._trace, self._clock = Trace(steps, folder), Clock()
        self._peak = devices * peak_of(jax.devices()[0].device_kind)
        self._operations = 0  # of a step on all devices
        self.saved = 0.0  # seconds, for saving to begin: what is left goes on in the background
        self.step, self.skip, self.close = self._trace.step, self._clock.skip, self._trace.close

    def count(self, step: Callable[..., Any], *inputs: Any) -> None:
        """Counts the operations of a step, before its first call, where it is known what the devices could do."""
        if self._peak:
            self._operations = operations(step, *inputs)

    def handed_over(self, number: int, results: Any) -> None:
        self._trace.handed_over(number, results)
        self._clock.handed_over(results)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Around the call that saves a checkpoint."""
        started = time.perf_counter()
        yield
        self.saved += time.perf_counter() - started

    def report(self) -> dict[str, float]:
        """Percentiles of the seconds of steps since the last report, and the share of the peak that they reached."""
        seconds = self._clock.take()
        if not seconds:
            return {}
        found = {f"step_seconds_p{part}": float(np.percentile(seconds, part)) for part in (50, 90, 99)}
        if self._operations:
            found["model_flop_utilisation"] = self._operations / (float(np.mean(seconds)) * self._peak)
        return found
