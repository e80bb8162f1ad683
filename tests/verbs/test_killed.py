"""`semiseg train`, killed from outside and started again, ends where an uninterrupted run ends, bit for bit."""

import os
import re
import signal
import subprocess
import sys

import pytest
from runs import assert_same_run

pytestmark = pytest.mark.heavy

CONFIG = """
from ml_collections import ConfigDict
from semiseg_jax.config import default_config
from semiseg_jax.data import shapes

shapes.SIZES = {{"train": 24, "val": 6}}

def get_config():
    config = default_config()
    config.steps = 240
    config.data.data_dir = {data_dir!r}
    config.data.quota = {{"dense": 1, "scribble": 1}}
    config.data.threads = 1
    config.augment.crop = (32, 32)
    config.model = ConfigDict({{"name": "unet", "widths": (8, 8)}})
    config.ema = 0.9
    config.eval.every = 240
    config.eval.batch_size = 2
    config.checkpoint.every = 30
    config.log.every = 1
    config.log.panel_rows = 0
    config.log.tensorboard = False
    return config
"""


@pytest.fixture
def start(tmp_path, data_dir):
    """Starts `semiseg train` on a workdir, on two devices."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(data_dir=data_dir))

    def run(workdir):
        flags = [f"--config={config}", "--config.devices=2"]
        return subprocess.Popen(
            [sys.executable, "-m", "semiseg_jax.cli", "train", *flags, f"--workdir={workdir}"],
            env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_NUM_CPU_DEVICES": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def kill_at(step: int, process: subprocess.Popen, how: signal.Signals) -> int:
    """Sends the signal when this step is reported -> exit code."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        reported = re.search(r"step (\d+)/240", line)
        if reported and int(reported[1]) >= step:
            process.send_signal(how)
            break
    else:
        pytest.fail("the run ended before it could be killed:\n" + "".join(lines[-20:]))
    process.communicate(timeout=120)
    return process.returncode


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output


def last_saved(workdir) -> int:
    steps = [int(p.name) for p in (workdir / "checkpoints" / "supervised").iterdir() if p.name.isdigit()]
    return max(steps, default=0)


def test_a_run_that_is_killed_twice_goes_on_to_the_same_bits(start, tmp_path):
    finish(start(tmp_path / "straight"))
    killed = tmp_path / "killed"
    assert kill_at(80, start(killed), signal.SIGKILL) == -signal.SIGKILL
    first = last_saved(killed)
    assert 0 < first < 160
    assert kill_at(160, start(killed), signal.SIGTERM) == 143
    assert first < last_saved(killed) < 240
    finish(start(killed))
    assert_same_run(tmp_path / "straight", killed, 240)
