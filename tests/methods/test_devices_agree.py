"""One device, two devices and two processes compute the same losses and gradients for the same global batch."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import step_once as script
from step_once import WAYS, step_once, twenty_steps


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
def twenty():
    return twenty_steps("shard_map", devices=1)


@pytest.mark.heavy
@pytest.mark.parametrize("way", WAYS)
def test_two_devices_take_the_same_twenty_steps_as_one(twenty, way):
    assert twenty[-1, 0] < 0.95 * twenty[0, 0]  # it learns
    np.testing.assert_allclose(twenty_steps(way, 2), twenty, rtol=1e-5)


@pytest.mark.heavy
def test_two_processes_take_the_same_twenty_steps_as_one_device(twenty, tmp_path):
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
        for way, found in np.load(tmp_path / f"{i}.npz").items():
            np.testing.assert_allclose(found, twenty, rtol=1e-5, err_msg=way)
