"""A run whose state is divided among devices: exact resume, and going on with a whole state."""

import functools
import shutil
import signal

import jax
import numpy as np
import pytest
from runs import assert_same_run, logged

import semiseg_jax
from semiseg_jax.verbs.train import train


def stop_at_3(step: int) -> None:
    if step == 3:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.heavy
def test_a_divided_run_resumes_bit_for_bit_and_goes_on_undivided_with_the_same_losses(tiny_config, tmp_path):
    tiny_config.update({"shard_state": True, "ema": 0.9, "devices": 2})
    tiny_config.model.widths = (16, 16)
    tiny_config.log.update({"every": 1, "panel_rows": 2})
    tiny_config.eval.every = 6
    train(tiny_config, tmp_path / "straight")
    assert train(tiny_config, tmp_path / "divided", on_step=stop_at_3).step == 3
    shutil.copytree(tmp_path / "divided", tmp_path / "whole")
    assert train(tiny_config, tmp_path / "divided").step == 6
    assert_same_run(tmp_path / "straight", tmp_path / "divided", 6)
    tiny_config.shard_state = False
    assert train(tiny_config, tmp_path / "whole").step == 6
    straight, whole = (logged(tmp_path / name, "train") for name in ("straight", "whole"))
    assert straight.keys() == whole.keys() == set(range(1, 7))
    for step, row in straight.items():
        np.testing.assert_allclose(whole[step]["loss"], row["loss"], rtol=1e-5)
    models = [semiseg_jax.load(tmp_path / name).variables for name in ("straight", "whole")]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *models)
