"""The side of `semiseg preflight` that waits: it starts `compile_steps`, and survives it."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict
from tqdm.auto import tqdm

from semiseg_jax.config import to_json

MODULE = "semiseg_jax.verbs.compile_steps"
REMIND = 60.0  # seconds between two lines of a log while a stage is compiled
Found = dict[str, Any]


def tell(text: str) -> None:
    """A line, beside a bar. It asks no device for its number: that would take hold of an accelerator that is here."""
    tqdm.write(text)
    sys.stdout.flush()


def compiled_stages(
    config: ConfigDict, topology: str, classes: int, only: Sequence[str] = (), *, quick: bool = False
) -> list[Found]:
    """Compiles every stage, or `only` some of them -> what was found of each, in their order.

    Where the compiler aborts, another process goes on with the stages that are left.
    """
    found: dict[str, Found] = {}
    while True:
        job = {
            "config": to_json(config),
            "topology": topology,
            "classes": classes,
            "only": list(only),
            "skip": list(found),
            "quick": quick,
        }
        aborted = _run(job, found)
        if aborted is None:
            return list(found.values())
        found[aborted["stage"]] = aborted


def _run(job: Found, found: dict[str, Found]) -> Found | None:
    """Adds the stages that a process compiles to `found` -> the stage that it died of, if it did."""
    with tempfile.TemporaryFile() as errors, _process(errors) as process, _Clock(job["topology"]) as clock:
        process.stdin.write(json.dumps(job) + "\n")  # it stays open: its end would end the process
        process.stdin.flush()
        running = ""
        for event in _events(process.stdout, clock):
            what = event.pop("event")
            if what == "refused":
                raise ValueError(event["error"])
            if what == "start":
                running = event["stage"]
                clock.start(running)
            if what == "done":
                found[event["stage"]] = event
                running = ""
                clock.stop(event)
        code = process.wait()
        if not code and not running:
            return None
        errors.seek(0)
        reason = last_line(errors.read().decode(errors="replace"), code)
    if not running:
        raise RuntimeError(f"the process that compiles ended before it began: {reason}")
    failed = {"stage": running, "problem": "abort", "error": f"the compiler aborted: {reason}"}
    clock.stop(failed)
    return failed


@contextlib.contextmanager
def _process(errors: Any) -> Iterator[Any]:
    """Python with the same packages and folders, whose JAX sees a CPU alone."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "0",  # how long it takes is one of the questions
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "TPU_SKIP_MDS_QUERY": "1",  # nothing here asks a cloud what it is
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nor needs a TPU for itself
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    process: Any = subprocess.Popen(
        [sys.executable, "-m", MODULE],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,  # Ctrl-C reaches the parent, which ends it
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _events(output: Any, clock: "_Clock") -> Iterator[Found]:
    """Lines of JSON as they come; other lines are what libraries say."""
    while True:
        while not select.select([output], [], [], 1.0)[0]:
            clock.tick()
        line = output.readline()
        if not line:
            return
        if line.startswith('{"event"'):
            yield json.loads(line)


def last_line(text: str, code: int = 0) -> str:
    """What a process said of its end.

    >>> last_line("F1 a.cc:1] Check failed: x == y (1 vs. 2)\\n*** Check failure stack trace: ***\\n    @  0x7f  f()")
    'F1 a.cc:1] Check failed: x == y (1 vs. 2)'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    checks = [line for line in lines if "Check failed" in line]
    told = [line for line in lines if not line.startswith(("@", "***", "PC:", "[failure"))]
    if code == -signal.SIGKILL:
        return "it was killed, as a machine does that has no memory left"
    return (checks or told or [f"it ended with code {code} and said nothing"])[-1]


class _Clock:
    """Says which stage is being compiled, and for how long: a bar on a terminal, lines in a log."""

    def __init__(self, topology: str):
        self.topology, self.stage = topology, ""
        self.bar: Any = None
        self.started = self.told = time.monotonic()

    def __enter__(self) -> "_Clock":
        if sys.stderr.isatty():
            self.bar = tqdm(desc="starting", bar_format="{desc}: {elapsed}")
        return self

    def __exit__(self, *unused: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def start(self, stage: str) -> None:
        self.stage, self.started = stage, time.monotonic()
        self.told = self.started
        if self.bar is None:
            tell(f"compiling {stage} for {self.topology}; this can take minutes")
        else:
            self.bar.set_description_str(f"compiling {stage} for {self.topology}")
            self.bar.reset()

    def tick(self) -> None:
        now = time.monotonic()
        if self.bar is not None:
            self.bar.refresh()
        elif self.stage and now - self.told > REMIND:
            tell(f"  still compiling {self.stage}, for {now - self.started:.0f} s")
            self.told = now

    def stop(self, found: Found) -> None:
        seconds = time.monotonic() - self.started
        tell(f"  {self.stage}: {found.get('error') or 'compiled'}, after {seconds:.0f} s")
        self.stage = ""
