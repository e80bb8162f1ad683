"""Label making in real processes: SIGTERM stops it at once, no label is made twice, and two processes share it."""

import collections
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.heavy
pytest.importorskip("maxflow")

CONFIG = """
import os
from ml_collections import ConfigDict
from semiseg_jax.config import default_config
from semiseg_jax.data import shapes
from semiseg_jax.methods import made_labels

shapes.SIZES = {{"train": 40, "val": 4}}
made_labels.WORTH_WORKERS = {worth}
written = made_labels.write_whole


def noted(path, content):
    written(path, content)
    with open({notes!r}, "a") as file:
        file.write(f"{{path.name}} {{os.getpid()}}\\n")


made_labels.write_whole = noted


def get_config():
    config = default_config("total_variation")
    config.steps = 1
    config.data.data_dir = {data_dir!r}
    config.data.quota = {{"partial": 2}}
    config.data.threads = 1
    config.augment.crop = (32, 32)
    config.model = ConfigDict({{"name": "unet", "widths": (8, 8)}})
    config.terms.total_variation.weight = 0.1
    config.rounds.update({{"number": 2, "steps": 1}})
    config.eval.batch_size = 2
    config.log.panel_rows = 0
    config.log.tensorboard = False
    return config
"""


class Runs:
    """Starts `semiseg train` on one workdir, and knows which labels were written by whom."""

    def __init__(self, folder, data_dir: str):
        self.folder, self.data_dir = folder, data_dir

    def start(self, processes: int, worth: float = 1e9) -> list[subprocess.Popen]:
        config, notes = self.folder / "config.py", str(self.folder / "notes")
        config.write_text(CONFIG.format(data_dir=self.data_dir, notes=notes, worth=worth))
        flags = [f"--config={config}", f"--workdir={self.folder / 'run'}"]
        if processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                address = f"127.0.0.1:{free.getsockname()[1]}"
            flags += ["--config.distributed.enabled=True", f"--config.distributed.coordinator={address}"]
            flags += [f"--config.distributed.processes={processes}"]
        return [
            subprocess.Popen(
                [sys.executable, "-m", "semiseg_jax.cli", "train", *flags]
                + ([f"--config.distributed.process={number}"] if processes > 1 else []),
                env=os.environ | {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(processes)
        ]

    def written(self) -> list[tuple[str, str]]:
        """(label map, process) in the order of writing."""
        notes = self.folder / "notes"
        return [tuple(line.split()) for line in notes.read_text().splitlines()] if notes.exists() else []

    def wait_for(self, labels: int, process: subprocess.Popen) -> None:
        while len(self.written()) < labels:
            try:
                process.wait(timeout=0.02)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail("ended before it made labels:\n" + process.stdout.read())


@pytest.fixture
def runs(tmp_path, data_dir) -> Runs:
    return Runs(tmp_path, data_dir)


def finish(processes: list[subprocess.Popen], code: int) -> None:
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), outputs


def assert_each_once(runs: Runs) -> None:
    counts = collections.Counter(name for name, _ in runs.written())
    assert set(counts.values()) == {1}
    assert set(counts) == {path.name for path in (runs.folder / "run" / "labels_2").iterdir()}
    assert len(counts) == 40


def test_sigterm_stops_workers_within_seconds_and_the_same_command_makes_only_the_others(runs):
    (process,) = runs.start(1, worth=0)
    runs.wait_for(3, process)
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    finish([process], 143)
    took = time.monotonic() - start
    print(f"stopped after {took:.2f} s")
    assert took < 5
    assert 3 <= len(runs.written()) < 40
    finish(runs.start(1, worth=0), 0)
    assert_each_once(runs)


def test_two_processes_without_workers_share_labels_stop_together_and_make_each_once(runs):
    processes = runs.start(2)
    runs.wait_for(3, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    finish(processes, 143)
    assert len(runs.written()) < 40
    finish(runs.start(2), 0)
    assert_each_once(runs)
    assert len({process for _, process in runs.written()}) == 4
