"""What a run writes: JSON lines, TensorBoard files and progress lines."""

import json
import re

import numpy as np
import pytest

from semiseg_jax.engine import writers
from semiseg_jax.engine.writers import MetricWriter, Progress


def lines(workdir) -> list[dict]:
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_scalars_become_valid_json_lines_with_null_for_what_is_not_finite(tmp_path):
    writer = MetricWriter(tmp_path / "run", tensorboard=False)
    writer.scalars(2, {"loss": np.float32(0.5), "miou": float("nan"), "up": np.inf, "count": 3}, "train")
    writer.scalars(4, {"loss": 0.25, "iou": np.array([0.1, np.nan])}, "eval")
    writer.close()
    assert lines(tmp_path / "run") == [
        {"stage": "", "step": 2, "kind": "train", "loss": 0.5, "miou": None, "up": None, "count": 3.0},
        {"stage": "", "step": 4, "kind": "eval", "loss": 0.25, "iou": [0.1, None]},
    ]


def test_lines_are_on_disk_before_the_writer_is_closed(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.scalars(1, {"loss": 1.0}, "train")
    assert len(lines(tmp_path)) == 1
    writer.close()


def test_run_that_goes_on_adds_to_the_file(tmp_path):
    for step in (1, 2):
        writer = MetricWriter(tmp_path, start=step - 1, tensorboard=False)
        writer.scalars(step, {"loss": 1.0}, "train")
        writer.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_what_a_killed_run_wrote_after_its_checkpoint_is_removed(tmp_path):
    writer = MetricWriter(tmp_path, "one", tensorboard=False)
    for step in (1, 2, 3):
        writer.scalars(step, {"loss": 1.0}, "train")
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "one", "st')
    MetricWriter(tmp_path, "another", 0, tensorboard=False).close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    MetricWriter(tmp_path, "one", 2, tensorboard=False).close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_a_kill_while_the_history_is_rewritten_leaves_it_as_it_was(tmp_path, monkeypatch):
    writer = MetricWriter(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        writer.scalars(step, {"loss": 1.0}, "train")
    writer.close()

    def killed(path, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            MetricWriter(tmp_path, start=1, tensorboard=False)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("tensorboard", [True, False])
def test_tensorboard_file_appears_when_asked_for(tmp_path, tensorboard):
    writer = MetricWriter(tmp_path, "one", tensorboard=tensorboard)
    writer.scalars(1, {"loss": 1.0, "miou": float("nan")}, "train")
    writer.picture(1, "panel", np.zeros((8, 8, 3), np.uint8))
    writer.close()
    files = list(tmp_path.glob("tensorboard/one/events*"))
    assert len(files) == int(tensorboard)
    if tensorboard:
        content = files[0].read_bytes()
        assert b"train/loss" in content
        assert b"panel" in content


def test_only_the_first_process_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writers, "is_main", lambda: False)
    writer = MetricWriter(tmp_path, tensorboard=True)
    writer.scalars(1, {"loss": 1.0}, "train")
    writer.picture(1, "panel", np.zeros((8, 8, 3), np.uint8))
    writer.close()
    progress = Progress(10, 0, 4, "run")
    progress.report(5, {"loss": 1.0})
    writers.say("text")
    progress.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


class Clock:
    """Stands in for the time module: it moves only when told to."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(writers, "time", clock)
    return clock


def test_each_report_is_a_line_with_step_eta_speed_and_values(clock, capsys):
    progress = Progress(total=100, start=0, images_per_step=8, name="supervised")
    clock.now += 5
    assert progress.report(10, {"loss": 0.123456, "grad_norm": 2.0}) == pytest.approx(16)
    progress.close()
    shown = capsys.readouterr().out
    assert shown == "[supervised] step 10/100  ETA 0:45  16 img/s  loss 0.1235  grad_norm 2\n"


def test_eta_counts_hours(clock, capsys):
    progress = Progress(total=1000, start=0, images_per_step=1, name="run")
    clock.now += 100
    progress.report(10, {})
    assert re.search(r"ETA 2:45:00 ", capsys.readouterr().out)


def test_run_that_goes_on_counts_only_its_own_steps(clock):
    progress = Progress(total=100, start=50, images_per_step=2, name="run")
    clock.now += 1
    assert progress.report(55, {}) == pytest.approx(10)


def test_time_that_is_skipped_does_not_slow_the_rate(clock):
    progress = Progress(total=100, start=0, images_per_step=1, name="run")
    clock.now += 1000
    progress.skip()
    clock.now += 1
    assert progress.report(10, {}) == pytest.approx(10)


def test_a_pulse_shows_progress_in_a_log_every_ten_seconds_and_at_the_end(clock, capsys):
    progress = Progress(total=100, start=0, images_per_step=1, name="labels", unit="image")
    for image in (1, 2, 3):
        clock.now += 4
        progress.pulse(image)
    progress.pulse(100)
    assert capsys.readouterr().out.splitlines() == [
        "[labels] image 3/100  ETA 6:28  0.25 img/s",
        "[labels] image 100/100  ETA 0:00  97000000000 img/s",
    ]
