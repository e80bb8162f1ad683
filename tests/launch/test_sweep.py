"""Sweeps: every combination once, finished runs skipped, one table, and the same list for Slurm."""

import csv
import json
import os
import signal
import subprocess
import threading

import pytest
from launched import tiny_config_file

from experiments.launch import sweep

VALUES = ["optimizer.learning_rate=1e-3,1e-4", "seed=0,1"]


def arguments(workdir, *more: str) -> list[str]:
    settings = [part for value in VALUES for part in ("--set", value)]
    return ["--config=quickstart", f"--workdir={workdir}", *settings, *more]


def written(workdir, name: str, scores: dict[int, float], stage: str = "one") -> None:
    """What a run leaves behind."""
    folder = workdir / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as file:
        for step, score in scores.items():
            file.write(json.dumps({"stage": stage, "step": step, "kind": "eval", "miou": score}) + "\n")


@pytest.fixture
def trained(monkeypatch):
    """Stands in for processes that train: the commands, and the exit codes that they give by the name of the run."""
    started, codes = [], {}

    class Process:
        def __init__(self, command, env, **options):
            self.name = command[-1].rpartition("/")[2]
            started.append((self.name, command[3:-1], env.get("CUDA_VISIBLE_DEVICES")))

        def wait(self) -> int:
            return codes.get(self.name, 0)

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return started, codes


def test_every_combination_is_a_run_with_a_folder_of_its_own(tmp_path, trained):
    started, _ = trained
    assert sweep.main(arguments(tmp_path, "--", "--config.steps=5")) == 0
    assert [name for name, _, _ in started] == [
        "optimizer.learning_rate=1e-3_seed=0",
        "optimizer.learning_rate=1e-3_seed=1",
        "optimizer.learning_rate=1e-4_seed=0",
        "optimizer.learning_rate=1e-4_seed=1",
    ]
    assert started[1][1] == [
        "train", "--config=quickstart", "--config.optimizer.learning_rate=1e-3", "--config.seed=1", "--config.steps=5"
    ]  # fmt: skip


def test_commas_between_brackets_belong_to_a_value(tmp_path):
    runs = sweep.make_runs(
        "quickstart", ['data.quota={"dense": 1, "box": 1},{"dense": 2}', "augment.crop=(64,64)"], tmp_path, []
    )
    assert [run.fields["data.quota"] for run in runs] == ['{"dense": 1, "box": 1}', '{"dense": 2}']
    assert {run.fields["augment.crop"] for run in runs} == {"(64,64)"}
    assert all("/" not in run.workdir.name and " " not in run.workdir.name for run in runs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [(["seed"], "must be FIELD=VALUE"), (["seed=0", "seed=1"], "given twice"), (["seed=0,0"], "share a folder")],
)
def test_values_that_make_no_sense_are_refused(tmp_path, settings, message):
    with pytest.raises(SystemExit, match=message):
        sweep.make_runs("quickstart", settings, tmp_path, [])


def test_what_is_finished_is_skipped_and_what_failed_is_tried_again(tmp_path, trained, capsys):
    started, codes = trained
    codes["optimizer.learning_rate=1e-4_seed=0"] = 1
    assert sweep.main(arguments(tmp_path)) == 1
    assert "failed with exit code 1" in capsys.readouterr().out
    started.clear()
    codes.clear()
    assert sweep.main(arguments(tmp_path)) == 0
    assert [name for name, _, _ in started] == ["optimizer.learning_rate=1e-4_seed=0"]
    assert "3 of 4 runs are finished already" in capsys.readouterr().out


def test_a_run_that_was_stopped_is_not_finished(tmp_path, trained):
    _, codes = trained
    codes["optimizer.learning_rate=1e-3_seed=0"] = 143
    assert sweep.main(arguments(tmp_path)) == 143
    assert not (tmp_path / "optimizer.learning_rate=1e-3_seed=0" / "sweep.json").exists()


def test_sigterm_lets_runs_save_and_starts_no_further_one(tmp_path, monkeypatch):
    started = []

    class Process:
        def __init__(self, command, **options):
            started.append(self)
            self.heard = threading.Event()

        def send_signal(self, number: int) -> None:
            assert number == signal.SIGTERM
            self.heard.set()

        def wait(self) -> int:
            os.kill(os.getpid(), signal.SIGTERM)  # as if it came from outside
            assert self.heard.wait(10)
            return 143

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert sweep.main(arguments(tmp_path)) == 143
    assert len(started) == 1


def test_finished_runs_of_another_config_are_not_taken_for_these(tmp_path, trained):
    sweep.main(arguments(tmp_path))
    with pytest.raises(SystemExit, match="finished run of other flags"):
        sweep.main(arguments(tmp_path, "--", "--config.steps=7"))


def test_each_gpu_gets_one_run_at_a_time(tmp_path, trained):
    started, _ = trained
    sweep.main(arguments(tmp_path, "--gpus=2,5"))
    assert {gpu for _, _, gpu in started} <= {"2", "5"}
    assert None not in {gpu for _, _, gpu in started}


def test_the_table_shows_the_best_score_of_each_run_and_the_best_run_first(tmp_path, trained, capsys):
    sweep.main(arguments(tmp_path))
    written(tmp_path, "optimizer.learning_rate=1e-3_seed=0", {10: 0.9}, stage="classifier")  # an earlier stage's
    written(tmp_path, "optimizer.learning_rate=1e-3_seed=0", {10: 0.5, 20: 0.7, 30: 0.6})
    written(tmp_path, "optimizer.learning_rate=1e-4_seed=1", {10: 0.8, 20: None})
    capsys.readouterr()
    assert sweep.main(arguments(tmp_path, "--summary")) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| optimizer.learning_rate | seed | miou | step | state |",
        "| --- | --- | --- | --- | --- |",
        "| 1e-4 | 1 | 0.8000 | 10 | finished |",
        "| 1e-3 | 0 | 0.7000 | 20 | finished |",
        "| 1e-3 | 1 |  |  | finished |",
        "| 1e-4 | 0 |  |  | finished |",
    ]
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert [row["miou"] for row in rows] == [0.8, 0.7, None, None]
    with (tmp_path / "summary.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["1", "0", "1", "0"]


@pytest.mark.parametrize("only", ["4", "-1"])
def test_a_run_that_is_not_there_is_refused(tmp_path, only):
    with pytest.raises(SystemExit, match=f"--only={only} is none of the 4 runs"):
        sweep.main(arguments(tmp_path, f"--only={only}"))


def test_half_a_line_of_a_killed_run_is_passed_over(tmp_path, capsys):
    name = "optimizer.learning_rate=1e-3_seed=0"
    written(tmp_path, name, {10: 0.5})
    with (tmp_path / name / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "one", "st')
    assert sweep.main(arguments(tmp_path, "--summary")) == 0
    assert "| 0.5000 | 10 |" in capsys.readouterr().out


def test_a_metric_of_each_class_cannot_rank_runs(tmp_path):
    written(tmp_path, "optimizer.learning_rate=1e-3_seed=0", {10: [0.5, 0.4]})
    with pytest.raises(SystemExit, match=r"--metric=miou is not among"):
        sweep.main(arguments(tmp_path, "--summary"))


def test_a_metric_that_no_evaluation_has_is_refused_with_those_that_exist(tmp_path):
    written(tmp_path, "optimizer.learning_rate=1e-3_seed=0", {10: 0.5})
    with pytest.raises(SystemExit, match=r"--metric=f1 is not among .*: miou"):
        sweep.main(arguments(tmp_path, "--summary", "--metric=f1"))


def test_the_array_of_slurm_has_the_same_runs(tmp_path, capsys):
    assert sweep.main(arguments(tmp_path, "--slurm", "--jobs=2", "--", "--config.steps=5")) == 0
    script = tmp_path / "array.sh"
    assert capsys.readouterr().out == f"sbatch {script}\n"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert "#SBATCH --array=0-3%2" in text
    assert "# 3: optimizer.learning_rate=1e-4_seed=1" in text
    assert '--only="$SLURM_ARRAY_TASK_ID" -- --config.steps=5' in text


def test_a_task_of_the_array_trains_its_own_run(tmp_path, trained):
    started, _ = trained
    assert sweep.main(arguments(tmp_path, "--only=2")) == 0
    assert [name for name, _, _ in started] == ["optimizer.learning_rate=1e-4_seed=0"]
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.heavy
def test_a_run_is_trained_once_and_its_score_is_in_the_table(tmp_path, data_dir, monkeypatch, capfd):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    config = tiny_config_file(tmp_path, data_dir)
    flags = [f"--config={config}", f"--workdir={tmp_path / 'sweep'}", "--set", "seed=0"]
    assert sweep.main(flags) == 0, (tmp_path / "sweep" / "seed=0" / "log.txt").read_text()
    (row,) = json.loads((tmp_path / "sweep" / "summary.json").read_text())
    assert (row["seed"], row["state"], row["step"]) == ("0", "finished", 2)
    assert 0 <= row["miou"] <= 1
    before = os.stat(tmp_path / "sweep" / "seed=0" / "log.txt").st_mtime_ns
    capfd.readouterr()
    assert sweep.main(flags) == 0
    assert "1 of 1 runs are finished already" in capfd.readouterr().out
    assert os.stat(tmp_path / "sweep" / "seed=0" / "log.txt").st_mtime_ns == before
