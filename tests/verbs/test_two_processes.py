"""Two real processes share one run: training, evaluation, prediction. They stop together, however one of them ends."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image
from runs import assert_same_run, logged

import semiseg_jax
from semiseg_jax.data import shapes

pytestmark = pytest.mark.heavy

STEPS = 40
CONFIG = """
from ml_collections import ConfigDict
from semiseg_jax.config import default_config
from semiseg_jax.data import shapes

shapes.SIZES = {{"train": 24, "val": 5}}

def get_config():
    config = default_config()
    config.steps = {steps}
    config.data.data_dir = {data_dir!r}
    config.data.quota = {{"dense": 1, "scribble": 1}}
    config.data.threads = 1
    config.augment.crop = (32, 32)
    config.model = ConfigDict({{"name": "unet", "widths": (8, 8)}})
    config.ema = 0.9
    config.eval.every = {steps}
    config.eval.batch_size = 2
    config.checkpoint.every = 10
    config.log.every = 1
    config.log.panel_rows = 0
    config.log.tensorboard = False
    return config
"""
ALL_VERBS = """
import semiseg_jax
config = semiseg_jax.load_config({config!r})
config.log.panel_rows, config.log.tensorboard = 2, True
semiseg_jax.train(config, {workdir!r})
results = semiseg_jax.evaluate({workdir!r})
summary = semiseg_jax.predict({workdir!r}, write="index")
print("found", results["miou"], [row["file"] for row in summary["images"]])
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def by_torchrun(process: int, port: int) -> dict[str, str]:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {**address, "WORLD_SIZE": "2", "RANK": str(process), "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(process)}


def by_slurm(process: int, port: int) -> dict[str, str]:
    task = {"SLURM_PROCID": str(process), "SLURM_LOCALID": str(process), "SLURM_NODEID": "0", "SLURM_JOB_ID": "7"}
    step = {"NUM_TASKS": "2", "NODELIST": "127.0.0.1", "TASKS_PER_NODE": "2"}
    return {**task, **{f"SLURM_STEP_{k}": v for k, v in step.items()}, "JAX_COORDINATOR_PORT": str(port)}


class Pair:
    """Starts two processes that find each other by what a launcher sets."""

    def __init__(self, folder, data_dir: str):
        self.folder, self.data_dir = folder, data_dir
        self.config = folder / "config.py"
        self.started: list[subprocess.Popen] = []

    def start(self, arguments, launcher) -> list[subprocess.Popen]:
        port = free_port()
        plain = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
        processes = [
            subprocess.Popen(
                [sys.executable, *arguments],
                env=plain | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **launcher(process, port)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for process in range(2)
        ]
        self.started += processes
        return processes

    def end(self) -> None:
        """What a test that failed left running would slow down all others."""
        for process in self.started:
            process.kill()

    def train(self, workdir, steps: int = STEPS, launcher=by_slurm) -> list[subprocess.Popen]:
        self.config.write_text(CONFIG.format(data_dir=self.data_dir, steps=steps))
        flags = [f"--config={self.config}", f"--workdir={workdir}"]
        return self.start(["-m", "semiseg_jax.cli", "train", *flags], launcher)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    pair = Pair(folder, str(folder / "built"))  # of a size of its own: five images are not shared evenly
    yield pair
    pair.end()


@pytest.fixture(scope="module")
def straight(pair):
    """A workdir of two processes that trained, evaluated and predicted, and what they printed."""
    workdir = pair.folder / "straight"
    pair.config.write_text(CONFIG.format(data_dir=pair.data_dir, steps=STEPS))
    code = ALL_VERBS.format(config=str(pair.config), workdir=str(workdir))
    return workdir, finish(pair.start(["-c", code], by_torchrun), 0)


def finish(processes: list[subprocess.Popen], code: int) -> list[str]:
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [code, code], outputs
    return outputs


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    for line in process.stdout:
        reported = re.search(r"step (\d+)/", line)
        if reported and int(reported[1]) >= step:
            return
    pytest.fail(f"the run ended before step {step}")


def test_two_processes_leave_one_run_that_one_process_can_read(straight, monkeypatch):
    workdir, outputs = straight
    monkeypatch.setattr(shapes, "SIZES", {"train": 24, "val": 5})
    assert list(logged(workdir, "train")) == list(range(1, STEPS + 1))
    written = logged(workdir, "eval")[STEPS]
    alone = semiseg_jax.evaluate(workdir, output=workdir / "alone.json")
    assert alone["miou"] == pytest.approx(written["miou"], rel=1e-6)
    assert written["images"] == 5
    shared = json.loads((workdir / "evaluation_val.json").read_text())
    assert shared["images"] == 5
    np.testing.assert_allclose(shared["miou"], alone["miou"], rtol=1e-6)
    np.testing.assert_array_equal(shared["confusion"], alone["confusion"])
    found = [re.search(r"found .*", output)[0] for output in outputs]
    assert found[0] == found[1]
    assert sum("written to" in output for output in outputs) == 1
    assert sum("predictions in" in output for output in outputs) == 1


def test_two_processes_predict_each_image_once_and_list_all_of_them(straight, monkeypatch, tmp_path):
    workdir, _ = straight
    monkeypatch.setattr(shapes, "SIZES", {"train": 24, "val": 5})
    alone = semiseg_jax.predict(workdir, output=tmp_path, write="index")
    shared = json.loads((workdir / "predictions" / "predictions.json").read_text())
    assert [row["file"] for row in shared["images"]] == [row["file"] for row in alone["images"]]
    assert len(shared["images"]) == 5
    for row in shared["images"]:
        maps = [np.asarray(Image.open(folder / row["index"])) for folder in (workdir / "predictions", tmp_path)]
        np.testing.assert_array_equal(*maps)


def test_the_end_of_either_process_ends_the_other_with_a_word_and_the_same_command_goes_on_to_the_same_bits(
    pair, straight
):
    killed = pair.folder / "killed"
    for step, victim in ((12, 1), (24, 0)):
        processes = pair.train(killed)
        wait_for_step(processes[0], step)
        processes[victim].kill()
        start = time.monotonic()
        output, _ = processes[1 - victim].communicate(timeout=60)
        print(f"process {1 - victim} ended {time.monotonic() - start:.2f} s after process {victim} was killed")
        processes[victim].communicate()
        assert processes[1 - victim].returncode == 1, output
        assert f"process {victim} of 2 on {socket.gethostname()} ended without a word" in output
        assert "stack trace" not in output
        assert "Traceback" not in output
    finish(pair.train(killed), 0)
    assert_same_run(straight[0], killed, STEPS)


@pytest.mark.parametrize("after", [1, 10], ids=["at the start", "while a checkpoint is saved"])
def test_sigterm_to_one_process_stops_both_at_the_same_step(pair, after):
    workdir = pair.folder / "stopped"
    processes = pair.train(workdir, 100_000)
    wait_for_step(processes[0], after)
    processes[1].send_signal(signal.SIGTERM)
    outputs = finish(processes, 143)
    step = int(re.search(r"saved at step (\d+)", outputs[0])[1])
    model = semiseg_jax.load(workdir, checkpoint="last")
    assert model.step == step
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(model.variables))
    shutil.rmtree(workdir)
