"""The examples of methods and datasets from outside, from end to end: train, resume, evaluate, predict."""

import csv
import json
import signal

import numpy as np
import pytest
from PIL import Image
from runs import assert_same_run, logged

from experiments.examples import boxinst_config, corrmatch_config, csv_table_config
from semiseg_jax.verbs.evaluate import evaluate
from semiseg_jax.verbs.predict import predict
from semiseg_jax.verbs.train import train

pytestmark = pytest.mark.heavy


def tiny(config, tiny_config):
    """The config of an example, as small and short as tests have it."""
    for name in ("steps", "ema", "augment", "model", "eval", "log"):
        config[name] = tiny_config[name]
    config.data.data_dir, config.data.threads = tiny_config.data.data_dir, 1
    return config


def check_evaluates_and_predicts(workdir):
    assert 0 <= evaluate(workdir, split="val")["miou"] <= 1
    predict(workdir, limit=2)
    assert len(json.loads((workdir / "predictions" / "predictions.json").read_text())["images"]) == 2


def test_corrmatch_trains_resumes_exactly_evaluates_and_predicts(tiny_config, tmp_path):
    config = tiny(corrmatch_config.get_config("batch=4"), tiny_config)
    config.data.assign = {"dense": 0.5, "unlabeled": 0.5}
    config.corrmatch.update({"features": "down1", "channels": 8, "seeds": 8, "threshold": 0.1, "momentum": 0.9})
    config.log.hidden_masks = 2
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(config, straight)
    assert train(config, resumed, on_step=lambda step: step == 3 and signal.raise_signal(signal.SIGTERM)).preempted
    train(config, resumed)
    assert_same_run(straight, resumed, 6, "CorrMatch")
    last = logged(straight, "train")[6]
    assert last["threshold"] > 0.1
    assert 0 < last["accepted"] <= last["accepted_regions"]
    assert 0 < logged(straight, "eval")[6]["made_share_unlabeled"] <= 1
    check_evaluates_and_predicts(resumed)


def test_boxinst_trains_evaluates_and_predicts(tiny_config, tmp_path):
    config = tiny(boxinst_config.get_config("batch=2"), tiny_config)
    train(config, tmp_path)
    rows = logged(tmp_path, "train").values()
    assert all(row["projection"] > 0 and row["boxes_outside"] > 0 for row in rows)
    check_evaluates_and_predicts(tmp_path)


def test_a_csv_table_trains_evaluates_and_predicts(tiny_config, tmp_path):
    rng, rows = np.random.default_rng(0), []
    for number in range(6):
        mask = np.zeros((40, 48), np.uint8)
        mask[8 + number : 24 + number, 10:30] = 1
        image = np.where(mask[..., None] > 0, 200, 50) + rng.integers(0, 20, (40, 48, 3))
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"image{number}.png")
        Image.fromarray(mask).save(tmp_path / f"mask{number}.png")
        rows.append((f"image{number}.png", f"mask{number}.png", "square", "train" if number < 4 else "val"))
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "mask", "tags", "split"), *rows])
    config = csv_table_config.get_config(f"path={tmp_path / 'table.csv'},classes=background+square,batch=2")
    config = tiny(config, tiny_config)
    config.data.data_dir = str(tmp_path / "built")
    train(config, tmp_path / "run")
    check_evaluates_and_predicts(tmp_path / "run")
