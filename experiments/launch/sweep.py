"""Trains one config with every combination of some fields, and shows which was best.

    python experiments/launch/sweep.py --config=quickstart --workdir=runs/sweep --jobs=1 \\
        --set optimizer.learning_rate=1e-3,1e-4 --set seed=0,1

Each run has a folder of its own below the workdir, where its output is in log.txt. The same command again skips what is
finished and goes on with the rest. What stands after `--` goes to every run: `-- --config.steps=500`. Commas between
brackets belong to a value: `--set 'augment.crop=(64,64),(96,96)'`. The table is printed, and kept as summary.json and
summary.csv in the workdir; `--summary` prints it and trains nothing.

`--gpus=0,1,2` gives each run one of these GPUs; `--slurm` writes an array of the same runs, to be given to `sbatch`.
"""

import argparse
import concurrent.futures
import contextlib
import csv
import dataclasses
import itertools
import json
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes of a run that saved, and can go on
_VALUE = re.compile(r"(?:\([^)]*\)|\[[^\]]*\]|\{[^}]*\}|[^,])+")  # up to a comma outside of brackets

SLURM = """#!/usr/bin/env bash
# {count} runs of a sweep: sbatch {path}
#SBATCH --job-name={name}
#SBATCH --array=0-{last}%{jobs}
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={folder}/slurm-%a.log
set -uo pipefail
cd {here} || exit
srun {command} --only="$SLURM_ARRAY_TASK_ID"{flags}
code=$?
# 143 says: stopped by SIGTERM, saved. A job that was cancelled, or that Slurm queues again itself, no longer runs.
if [ "$code" -eq 143 ] && [ "$(squeue --noheader --format=%T --job="$SLURM_JOB_ID")" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
# The runs, by their number in the array:
{listed}
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """One combination of values."""

    fields: dict[str, str]
    workdir: Path
    flags: list[str]  # of `semiseg train`

    @property
    def record(self) -> Path:
        """Says that the run is finished, and which flags it had."""
        return self.workdir / "sweep.json"

    def is_finished(self) -> bool:
        if not self.record.exists():
            return False
        before = json.loads(self.record.read_text())["flags"]
        if before != self.flags:
            raise SystemExit(
                f"{self.workdir} holds a finished run of other flags:\n  {shlex.join(before)}\nand not\n  "
                f"{shlex.join(self.flags)}\nUse another --workdir."
            )
        return True

    def scores(self, metric: str) -> list[tuple[float, int]]:
        """(score, step) of every evaluation of its last stage."""
        path = self.workdir / "metrics.jsonl"
        rows = [row for row in _rows(path) if row["kind"] == "eval"]
        unknown = [row for row in rows if not isinstance(row.get(metric), float | int | None) or metric not in row]
        if unknown:
            numbers = sorted(name for name, value in unknown[0].items() if isinstance(value, float))
            raise SystemExit(f"--metric={metric} is not among the metrics of {path}: {', '.join(numbers)}")
        return [
            (row[metric], row["step"]) for row in rows if row["stage"] == rows[-1]["stage"] and row[metric] is not None
        ]


def _rows(path: Path) -> list[dict[str, Any]]:
    """Of a metrics.jsonl, if it is there, but for half a line that a killed run left."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    given = _parse(argv)
    runs = make_runs(given.config, given.set, given.workdir, given.flags)
    given.workdir.mkdir(parents=True, exist_ok=True)
    if given.slurm:
        print(f"sbatch {write_array(runs, given)}")
        return 0
    if given.summary:
        print(summarise(runs, given.workdir, given.metric))
        return 0
    if given.only is not None and not 0 <= given.only < len(runs):
        raise SystemExit(f"--only={given.only} is none of the {len(runs)} runs, which are counted from 0")
    chosen = runs if given.only is None else [runs[given.only]]
    codes = Pool(given.gpus or [""] * given.jobs).train(chosen)
    if given.only is None:
        print(summarise(runs, given.workdir, given.metric))
    stopped = [code for code in codes if code in STOPPED]
    return stopped[0] if stopped else max(codes, default=0)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="of `semiseg train`")
    parser.add_argument("--set", action="append", required=True, metavar="FIELD=A,B", help="a field and its values")
    parser.add_argument("--workdir", type=Path, required=True, help="a folder on a disk; each run has one below it")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--gpus", type=lambda text: text.split(","), help="one run at a time on each of these")
    parser.add_argument("--metric", default="miou", help="of evaluations, by which runs are compared; more is better")
    parser.add_argument("--summary", action="store_true", help="only print the table")
    parser.add_argument("--slurm", action="store_true", help="only write an array script for sbatch")
    parser.add_argument("--only", type=int, help="train this one run, counted from 0")
    parser.add_argument("flags", nargs="*", metavar="-- flags", help="of `semiseg train`, for every run")
    given = parser.parse_args(argv)
    if given.jobs < 1:
        parser.error("--jobs must be at least 1")
    return given


def make_runs(config: str, settings: Sequence[str], workdir: Path, flags: Sequence[str]) -> list[Run]:
    """All combinations; the last field changes fastest."""
    choices: dict[str, list[str]] = {}
    for setting in settings:
        field, equals, text = setting.partition("=")
        values = [value.strip() for value in _VALUE.findall(text)]
        if not field or not equals or not values:
            raise SystemExit(f"--set {setting} must be FIELD=VALUE,VALUE,..., such as seed=0,1")
        if field in choices:
            raise SystemExit(f"--set {field} is given twice")
        choices[field] = values
    runs = []
    for chosen in itertools.product(*choices.values()):
        fields = dict(zip(choices, chosen, strict=True))
        name = "_".join(f"{field}={re.sub('[^A-Za-z0-9.+-]+', '-', value)}" for field, value in fields.items())
        given = [f"--config={config}", *(f"--config.{field}={value}" for field, value in fields.items()), *flags]
        runs.append(Run(fields, workdir / name, given))
    folders = [run.workdir for run in runs]
    twice = {folder.name for folder in folders if folders.count(folder) > 1}
    if twice:
        raise SystemExit(f"two runs would share a folder: {', '.join(sorted(twice))}")
    return runs


class Pool:
    """Trains runs, one at a time on each place; a place is a GPU, or "" for all that there is."""

    def __init__(self, places: Sequence[str]):
        self.count, self._free = len(places), queue.SimpleQueue[str]()
        for place in places:
            self._free.put(place)
        self._lock, self._going, self._stopped = threading.Lock(), set[subprocess.Popen](), False

    def train(self, runs: Sequence[Run]) -> list[int]:
        """-> the exit code of each run, 0 for those that were finished before."""
        left = [run for run in runs if not run.is_finished()]
        if len(left) < len(runs):
            print(f"{len(runs) - len(left)} of {len(runs)} runs are finished already", flush=True)
        with self._passes_on_signals(), concurrent.futures.ThreadPoolExecutor(self.count) as threads:
            codes = [threads.submit(self._train, run) for run in left]
            # A signal that comes just as a wait begins is heard when it ends; so none is long.
            while concurrent.futures.wait(codes, timeout=1).not_done:
                pass
            return [code.result() for code in codes]

    def _train(self, run: Run) -> int:
        place = self._free.get()
        try:
            code = self._run(run, {"CUDA_VISIBLE_DEVICES": place} if place else {})
        finally:
            self._free.put(place)
        if code == 0:
            run.record.write_text(json.dumps({"flags": run.flags}, indent=2))
        elif code not in STOPPED:
            print(f"failed with exit code {code}: {run.workdir / 'log.txt'} says why", flush=True)
        return code

    def _run(self, run: Run, extra: dict[str, str]) -> int:
        command = [sys.executable, "-m", "semiseg_jax.cli", "train", *run.flags, f"--workdir={run.workdir}"]
        run.workdir.mkdir(parents=True, exist_ok=True)
        with (run.workdir / "log.txt").open("a") as log:
            with self._lock:
                if self._stopped:
                    return STOPPED[0]
                print(f"trains {run.workdir.name}", flush=True)
                process = subprocess.Popen(
                    command, env={**os.environ, **extra}, stdout=log, stderr=log, start_new_session=True
                )
                self._going.add(process)
            code = process.wait()
        with self._lock:
            self._going.discard(process)
        return 128 - code if code < 0 else code

    @contextlib.contextmanager
    def _passes_on_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C let what is going on save and stop, and start nothing further; the second one ends it."""

        def pass_on(number: int, frame: Any) -> None:
            how = signal.SIGKILL if self._stopped else signal.SIGTERM
            self._stopped = True
            with self._lock:  # which only threads hold, and this runs in the first one
                for process in self._going:
                    process.send_signal(how)

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def summarise(runs: Sequence[Run], workdir: Path, metric: str) -> str:
    """The table of all runs, the best first; also written as summary.json and summary.csv."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        best, step = max(run.scores(metric), default=(None, None), key=lambda found: (found[0], -found[1]))
        state = "finished" if run.is_finished() else "begun" if run.workdir.exists() else "to do"
        rows.append({**run.fields, metric: best, "step": step, "state": state, "workdir": str(run.workdir)})
    rows.sort(key=lambda row: (row[metric] is None, -(row[metric] or 0.0)))
    (workdir / "summary.json").write_text(json.dumps(rows, indent=2))
    with (workdir / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    shown = [name for name in rows[0] if name != "workdir"]
    lines = ["| " + " | ".join(shown) + " |", "|" + " --- |" * len(shown)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in shown) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def write_array(runs: Sequence[Run], given: argparse.Namespace) -> Path:
    """A script for sbatch whose tasks are the runs."""
    command = [sys.executable, str(Path(__file__).absolute()), f"--config={given.config}", f"--workdir={given.workdir}"]
    for setting in given.set:
        command += ["--set", setting]
    listed = "\n".join(f"# {number}: {run.workdir.name}" for number, run in enumerate(runs))
    path = given.workdir / "array.sh"
    text = SLURM.format(
        count=len(runs), last=len(runs) - 1, jobs=given.jobs, name=given.workdir.absolute().name, path=path,
        folder=given.workdir, here=shlex.quote(os.getcwd()), command=shlex.join(command), listed=listed,
        flags=f" -- {shlex.join(given.flags)}" if given.flags else "",
    )  # fmt: skip
    path.write_text(text)
    return path


if __name__ == "__main__":
    sys.exit(main())
