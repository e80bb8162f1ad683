"""Two real processes train one run: one set of checkpoints and logs, and both stop at the same step on SIGTERM."""

import os
import re
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from runs import logged

import semiseg_jax
from semiseg_jax.data import shapes

pytestmark = pytest.mark.heavy

CONFIG = """
from ml_collections import ConfigDict
from semiseg_jax.config import default_config
from semiseg_jax.data import shapes

shapes.SIZES = {{"train": 24, "val": 6}}

def get_config():
    config = default_config()
    config.steps = {steps}
    config.data.data_dir = {data_dir!r}
    config.data.quota = {{"dense": 1, "scribble": 1}}
    config.data.threads = 1
    config.augment.crop = (32, 32)
    config.model = ConfigDict({{"name": "unet", "widths": (8, 8)}})
    config.eval.every = {steps}
    config.eval.batch_size = 2
    config.log.every = 1
    config.log.panel_rows = 2
    return config
"""


@pytest.fixture
def start(tmp_path, data_dir):
    def run(steps):
        config = tmp_path / "config.py"
        config.write_text(CONFIG.format(data_dir=data_dir, steps=steps))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}", "--config.distributed.enabled=True"]
        flags += [f"--config.distributed.coordinator={address}", "--config.distributed.processes=2"]
        return [
            subprocess.Popen(
                [sys.executable, "-m", "semiseg_jax.cli", "train", *flags, f"--config.distributed.process={i}"],
                env=os.environ | {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for i in range(2)
        ]

    return run


def test_two_processes_leave_one_run_that_one_process_can_read(start, tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SIZES", {"train": 24, "val": 6})
    processes = start(4)
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted(logged(tmp_path / "run", "train")) == [1, 2, 3, 4]
    written = logged(tmp_path / "run", "eval")[4]
    assert semiseg_jax.evaluate(tmp_path / "run")["miou"] == pytest.approx(written["miou"], rel=1e-6)
    assert written["images"] == 6


def test_sigterm_to_one_process_stops_both_at_the_same_step(start, tmp_path):
    processes = start(100_000)
    for line in processes[0].stdout:
        if re.search(r"step \d+/", line):
            processes[1].send_signal(signal.SIGTERM)
            break
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], outputs
    step = int(re.search(r"saved at step (\d+)", outputs[0])[1])
    model = semiseg_jax.load(tmp_path / "run", checkpoint="last")
    assert model.step == step
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(model.variables))
