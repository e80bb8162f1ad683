"""Runs whose workdir is on s3://, against a server on this machine: any machine goes on with them, to the same bits."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from runs import assert_same_run, logged

from semiseg_jax.cli import main
from semiseg_jax.data import shapes
from semiseg_jax.data.remote import Store
from semiseg_jax.engine import mirror
from semiseg_jax.verbs.evaluate import evaluate
from semiseg_jax.verbs.predict import predict
from semiseg_jax.verbs.train import train

pytestmark = pytest.mark.heavy

WORKDIR = "s3://runs/mine"


@pytest.fixture(scope="session")
def server():
    """An S3 server with one bucket. It stays for the whole run, since s3fs keeps its connections."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/moto-api/").close()
                break
            except OSError:
                time.sleep(0.1)
        urllib.request.urlopen(urllib.request.Request(f"{address}/runs", method="PUT")).close()
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def machine(server, monkeypatch, tmp_path):
    """number -> from now on this is another machine, without anything in its cache."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(mirror, "LOOK", 0.05)

    def start(number: int) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine {number}"))

    start(0)
    return start


def run_of(tiny_config) -> ConfigDict:
    config = ConfigDict(tiny_config.to_dict())
    config.checkpoint.every = 1
    config.log.update({"panel_rows": 2, "tensorboard": True})
    return config


def stop_at(step: int):
    def on_step(done: int) -> None:
        if done == step:
            signal.raise_signal(signal.SIGTERM)

    return on_step


def test_another_machine_goes_on_with_a_run_to_the_same_bits_and_reads_it(machine, tiny_config, tmp_path, capsys):
    config = run_of(tiny_config)
    train(config, tmp_path / "straight")
    assert train(config, WORKDIR, on_step=stop_at(4)).preempted
    machine(1)
    assert train(config, Path(WORKDIR)).step == 6
    assert "goes on from step 4 of 6 steps in s3://runs/mine" in capsys.readouterr().out

    machine(2)
    fresh = tmp_path / "fresh"
    store = Store(WORKDIR)
    store.read_files([name for name in store.sizes() if not name.endswith(".complete")], fresh)
    assert_same_run(tmp_path / "straight", fresh, 6)
    assert logged(tmp_path / "straight", "eval") == logged(fresh, "eval")
    assert sorted(path.name for path in (fresh / "panels").iterdir()) == [
        "supervised_000003.png",
        "supervised_000006.png",
    ]
    assert any((fresh / "tensorboard").rglob("events*"))

    assert evaluate(WORKDIR)["miou"] == evaluate(tmp_path / "straight")["miou"]
    summary = predict(WORKDIR, limit=2)
    assert "2 predictions in s3://runs/mine/predictions" in capsys.readouterr().out
    written = set(store.sizes())
    assert {"evaluation_val.json", "predictions/predictions.json"} <= written
    assert {f"predictions/{row['index']}" for row in summary["images"]} <= written


def test_a_kill_between_upload_and_marker_leaves_the_earlier_checkpoint_in_use(machine, tiny_config, tmp_path):
    config = run_of(tiny_config)
    train(config, "s3://runs/killed", on_step=stop_at(4))
    store = Store("s3://runs/killed")
    markers = sorted(name for name in store.sizes("checkpoints") if name.endswith(".complete"))
    assert markers[-1] == "checkpoints/supervised/4.complete"
    store.delete(markers[-1:])  # as if the run had been killed before it wrote this
    if len(markers) == 1:
        pytest.fail("no earlier checkpoint was kept")
    machine(1)
    said = []
    train(config, "s3://runs/killed", on_step=said.append)
    assert said[0] == int(markers[-2].split("/")[-1].removesuffix(".complete")) + 1
    assert said[-1] == 6


def test_the_command_line_takes_an_address_and_refuses_a_second_run(machine, tiny_config, tmp_path, capsys):
    with mirror.training("s3://runs/locked"):
        assert main(["train", "--config=quickstart", "--workdir=s3://runs/locked"]) == 1
        assert "another run is going on in s3://runs/locked" in capsys.readouterr().err
    assert main(["evaluate", "--workdir=s3://runs/nothing"]) == 1
    assert "s3://runs/nothing is not a workdir of `semiseg train`" in capsys.readouterr().err
    assert main(["train", "--config=quickstart", "--workdir=s3://no-such-bucket/run"]) == 1
    assert "s3://no-such-bucket/run cannot be written to" in capsys.readouterr().err


CONFIG = """
from ml_collections import ConfigDict
from semiseg_jax.config import default_config
from semiseg_jax.data import shapes

shapes.SIZES = {"train": 24, "val": 6}

def get_config():
    config = default_config()
    config.steps = 2
    config.data.quota = {"dense": 1, "scribble": 1}
    config.data.threads = 1
    config.augment.crop = (32, 32)
    config.model = ConfigDict({"name": "unet", "widths": (8, 8)})
    config.eval.every = 2
    config.eval.batch_size = 2
    config.log.every = 1
    config.log.panel_rows = 0
    config.log.tensorboard = False
    return config
"""


def start_hosts(tmp_path, workdir: str) -> list[subprocess.Popen]:
    """A process on each of two hosts, which share no disk."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = []
    for i in range(2):
        host = tmp_path / f"host {i}"
        host.mkdir(exist_ok=True)
        (host / "config.py").write_text(CONFIG)
        joined = ["--config.distributed.enabled=True", f"--config.distributed.coordinator={address}"]
        joined += ["--config.distributed.processes=2", f"--config.distributed.process={i}"]
        command = ["train", f"--config={host / 'config.py'}", f"--workdir={workdir}", *joined]
        environment = {
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "PYTHONFAULTHANDLER": "1",
            "TFDS_DATA_DIR": str(host / "data"),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "semiseg_jax.cli", *command],
                env=os.environ | environment | {"XDG_CACHE_HOME": str(host / "cache")},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def outputs_of(processes: list[subprocess.Popen]) -> list[str]:
    try:
        return [process.communicate(timeout=240)[0] for process in processes]
    except subprocess.TimeoutExpired:
        for process in processes:
            process.send_signal(signal.SIGABRT)
        pytest.fail("\n\n".join(process.communicate(timeout=60)[0] for process in processes))


def test_two_hosts_without_a_shared_disk_train_one_run_and_go_on_with_it(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SIZES", {"train": 24, "val": 6})
    workdir = "s3://runs/hosts"
    store, scored = Store(workdir), []
    for _ in range(2):
        processes = start_hosts(tmp_path, workdir)
        outputs = outputs_of(processes)
        assert [process.returncode for process in processes] == [0, 0], outputs
        store.read_files(["metrics.jsonl"], tmp_path / "fresh")
        scored.append(logged(tmp_path / "fresh", "eval")[2]["miou"])
        # As if the run had been killed before it was scored; and both hosts are new.
        store.delete(["checkpoints/supervised/scores.json"])
        for i in range(2):
            shutil.rmtree(tmp_path / f"host {i}" / "cache")
    assert "goes on from step 2 of 2 steps in s3://runs/hosts" in outputs[0]
    assert scored[0] == scored[1]
    assert evaluate(workdir, checkpoint="last")["miou"] == pytest.approx(scored[0], rel=1e-6)
