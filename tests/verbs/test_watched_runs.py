"""What a run says of its own pace, and the trace that it writes when asked to."""

import gzip
import json

import pytest
from ml_collections import ConfigDict

from semiseg_jax.engine import watching
from semiseg_jax.verbs.train import train


def train_rows(workdir) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "train"]


@pytest.mark.heavy
def test_steps_are_timed_counted_and_traced(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(watching.PEAKS, "cpu", 1e12)
    tiny_config.log.profile = "4:5"
    tiny_config.eval.every = 6
    tiny_config.checkpoint.every = 2
    train(tiny_config, tmp_path)
    for row in train_rows(tmp_path):
        assert 0 < row["step_seconds_p50"] <= row["step_seconds_p90"] <= row["step_seconds_p99"]
        assert 0 < row["model_flop_utilisation"] < 1
        assert row["checkpoint_seconds"] >= 0
    assert train_rows(tmp_path)[-1]["checkpoint_seconds"] > 0
    (trace,) = (tmp_path / "profile" / "supervised").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert {"4", "5"} == {event["args"]["step_num"] for event in events if "step_num" in event.get("args", {})}
    assert list((tmp_path / "profile" / "supervised").rglob("*.xplane.pb"))
    assert str(tmp_path / "profile" / "supervised") in capsys.readouterr().out


def test_steps_that_will_not_come_are_refused_before_training(tiny_config, tmp_path):
    tiny_config.log.profile = "5:7"
    with pytest.raises(ValueError, match=r"log\.profile is '5:7' but there are only 6 steps"):
        train(tiny_config, tmp_path)
    tiny_config.log.profile = "7:5"
    with pytest.raises(ValueError, match=r"config\.log\.profile is '7:5' but must be the first and the last step"):
        train(tiny_config, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_tracker_that_is_not_there_is_refused_before_training(tiny_config, tmp_path):
    tiny_config.log = ConfigDict({**tiny_config.log.to_dict(), "tracker": "nowhere"})
    with pytest.raises(ValueError, match=r"unknown tracker 'nowhere'.*Known trackers: mlflow, trackio, wandb"):
        train(tiny_config, tmp_path)
    assert not tmp_path.joinpath("config.json").exists()
