"""`semiseg train`, killed from outside and started again, ends where an uninterrupted run ends, bit for bit."""

import re
import signal
import subprocess
import sys

import pytest
from runs import assert_same_run

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
    """Starts `semiseg train` on a workdir with the given devices and mapper."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(data_dir=data_dir))

    def run(workdir, devices, mapper):
        flags = [f"--config={config}", f"--config.devices={devices}", f"--config.parallel={mapper}"]
        return subprocess.Popen(
            [sys.executable, "-m", "semiseg_jax.cli", "train", *flags, f"--workdir={workdir}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def kill_halfway(process: subprocess.Popen, how: signal.Signals) -> int:
    """Sends the signal when half of the steps are reported -> exit code."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        reported = re.search(r"step (\d+)/240", line)
        if reported and int(reported[1]) >= 120:
            process.send_signal(how)
            break
    else:
        pytest.fail("the run ended before it could be killed:\n" + "".join(lines[-20:]))
    process.communicate(timeout=120)
    return process.returncode


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output


@pytest.mark.parametrize(
    ("how", "devices", "mapper"),
    [
        (signal.SIGKILL, 1, "shard_map"),
        (signal.SIGKILL, 1, "pmap"),
        (signal.SIGKILL, 2, "shard_map"),
        (signal.SIGKILL, 2, "pmap"),
        (signal.SIGTERM, 2, "shard_map"),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits(start, tmp_path, how, devices, mapper):
    finish(start(tmp_path / "straight", devices, mapper))
    code = kill_halfway(start(tmp_path / "killed", devices, mapper), how)
    assert code == (143 if how == signal.SIGTERM else -signal.SIGKILL)
    saved = [int(p.name) for p in (tmp_path / "killed" / "checkpoints" / "supervised").iterdir() if p.name.isdigit()]
    assert saved
    assert 0 < max(saved) < 240
    finish(start(tmp_path / "killed", devices, mapper))
    assert_same_run(tmp_path / "straight", tmp_path / "killed", 240)
