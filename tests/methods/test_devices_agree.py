"""One device, two devices and two processes compute the same losses and gradients for the same global batch."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import step_once as script
from step_once import WAYS, losses_of, step_once


def assert_agree(result, expected):
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def one_device():
    return step_once("shard_map", devices=1)


def test_one_and_two_devices_take_the_same_step(one_device):
    assert_agree(step_once("shard_map", 2), one_device)


@pytest.fixture(scope="module")
def twenty_losses():
    return losses_of("shard_map", devices=1)


@pytest.mark.heavy
@pytest.mark.parametrize("way", WAYS)
def test_two_devices_take_the_same_twenty_steps_as_one(twenty_losses, way):
    assert twenty_losses[-1] < 0.7 * twenty_losses[0]
    np.testing.assert_allclose(losses_of(way, 2), twenty_losses, rtol=1e-5)


@pytest.mark.heavy
def test_two_processes_agree_with_one_device(one_device, twenty_losses, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, script.__file__, address, "2", str(i), str(tmp_path / f"{i}.npz")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    for i in range(2):
        found = dict(np.load(tmp_path / f"{i}.npz"))
        for way in WAYS:
            np.testing.assert_allclose(found.pop(way), twenty_losses, rtol=1e-5, err_msg=way)
        for way in ("shard_map", "pmap"):
            gradient = {name.removeprefix(f"{way}/"): value for name, value in found.items() if name.startswith(way)}
            assert_agree(gradient, one_device)
