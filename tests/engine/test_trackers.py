"""Trackers: what they are told, that a run goes on in the same one, and that their errors stop no training."""

import json
import logging
import sys
import types

import numpy as np
import pytest

from semiseg_jax.engine.trackers import make_tracker
from semiseg_jax.engine.writers import MetricWriter

CONFIG = {"steps": 5, "data": {"quota": {"dense": 2}, "options": {}}}
PICTURE = np.zeros((8, 8, 3), np.uint8)


class Recorded:
    """A tracker from outside, named in a config as `test_trackers:Recorded`."""

    calls: list[tuple] = []  # noqa: RUF012
    fails: set[str] = set()  # noqa: RUF012

    def _note(self, *call) -> None:
        Recorded.calls.append(call)
        if call[0] in Recorded.fails:
            raise ConnectionError("the server is gone")

    def start(self, config, workdir, name, before):
        self._note("start", config, workdir, name, before)
        return before or f"id-{name}"

    def scalars(self, step, values):
        self._note("scalars", step, values)

    def picture(self, step, name, image):
        self._note("picture", step, name, image.shape)

    def close(self):
        self._note("close")


@pytest.fixture
def recorded(monkeypatch):
    module = types.ModuleType("recorded_tracker")
    module.Recorded = Recorded
    monkeypatch.setitem(sys.modules, "recorded_tracker", module)
    monkeypatch.setattr(Recorded, "calls", [])
    monkeypatch.setattr(Recorded, "fails", set())
    return Recorded


def writer(workdir, start: int = 0, tracker: str = "recorded_tracker:Recorded", stage: str = "one") -> MetricWriter:
    return MetricWriter(workdir, stage, start, tensorboard=False, tracker=tracker, config=CONFIG)


def test_a_tracker_hears_the_config_and_all_numbers_and_pictures(recorded, tmp_path):
    writing = writer(tmp_path / "mine")
    writing.scalars(1, {"loss": np.float32(0.5), "iou": np.ones(3)}, "train")
    writing.picture(1, "panel", PICTURE)
    writing.close()
    flat = {"steps": 5, "data.quota.dense": 2, "data.options": {}}
    assert recorded.calls == [
        ("start", flat, tmp_path / "mine", "mine-one", ""),
        ("scalars", 1, {"train/loss": 0.5}),
        ("picture", 1, "panel", (8, 8, 3)),
        ("close",),
    ]


def test_a_run_that_goes_on_does_so_in_the_same_tracker_run_and_each_stage_has_its_own(recorded, tmp_path):
    for stage in ("one", "two", "one"):
        writer(tmp_path / "mine", stage=stage).close()
    assert [call[4] for call in recorded.calls if call[0] == "start"] == ["", "", "id-mine-one"]
    assert json.loads((tmp_path / "mine" / "tracker.json").read_text()) == {
        "recorded_tracker:Recorded one": "id-mine-one",
        "recorded_tracker:Recorded two": "id-mine-two",
    }


@pytest.fixture
def warned(caplog):
    """What our logger says, which the command line keeps from the root logger."""
    logger = logging.getLogger("semiseg_jax")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_errors_while_training_are_told_once_and_training_goes_on(recorded, tmp_path, warned):
    writing = writer(tmp_path)
    recorded.fails.add("scalars")
    for step in (1, 2):
        writing.scalars(step, {"loss": 1.0}, "train")
    recorded.fails.clear()
    writing.scalars(3, {"loss": 1.0}, "train")
    writing.close()
    assert [call[0] for call in recorded.calls] == ["start", "scalars", "scalars", "scalars", "close"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    told = {record.getMessage() for record in warned.records}
    (message,) = told
    assert "the server is gone" in message
    assert "training goes on" in message


def test_a_tracker_that_keeps_failing_is_left_alone(recorded, tmp_path):
    writing = writer(tmp_path)
    recorded.fails.add("scalars")
    for step in range(6):
        writing.scalars(step, {"loss": 1.0}, "train")
    assert [call[0] for call in recorded.calls] == ["start", *["scalars"] * 3]


def test_one_that_does_not_start_is_refused_but_a_run_that_goes_on_does_without_it(recorded, tmp_path, warned):
    recorded.fails.add("start")
    with pytest.raises(ValueError, match=r"log\.tracker: .*Recorded did not start: the server is gone"):
        writer(tmp_path)
    recorded.fails.clear()
    writer(tmp_path).close()
    recorded.fails.add("start")
    calls = len(recorded.calls)
    writing = writer(tmp_path, start=1)
    writing.scalars(2, {"loss": 1.0}, "train")
    writing.close()
    assert len(recorded.calls) == calls + 1
    assert "the server is gone" in warned.text


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_package_that_is_not_there_is_named_with_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"log\.tracker: {name} cannot be imported .*semiseg-jax\[{name}\]"):
        make_tracker(name)


def test_an_unknown_tracker_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"unknown tracker 'wand'\. Did you mean 'wandb'\?"):
        make_tracker("wand")


# Fakes of the packages: the calls that their documents describe.


class Fake:
    """A module or run that notes what is called."""

    def __init__(self, calls: list, **attributes):
        self._calls = calls
        self.__dict__.update(attributes)

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self._calls.append((name, args, kwargs))
            return self.__dict__.get("returns")

        return call


@pytest.fixture
def fake(monkeypatch):
    def install(package: str, **run) -> list:
        calls: list = []
        module = Fake(calls, returns=Fake(calls, **run), Image=lambda image: ("image", image.shape))
        monkeypatch.setitem(sys.modules, package, module)
        return calls

    return install


def use(name: str, workdir) -> None:
    writing = writer(workdir, tracker=name)
    writing.scalars(3, {"loss": 0.5}, "train")
    writing.picture(3, "panel", PICTURE)
    writing.close()


def test_wandb_is_told_steps_as_a_metric_and_resumes_by_its_id(fake, tmp_path):
    calls = fake("wandb", id="abc")
    use("wandb", tmp_path / "mine")
    use("wandb", tmp_path / "mine")
    starts = [kwargs for name, _, kwargs in calls if name == "init"]
    assert starts[0]["name"] == starts[1]["name"] == "mine-one"
    assert "id" not in starts[0]
    assert (starts[1]["id"], starts[1]["resume"]) == ("abc", "allow")
    logged = [args[0] for name, args, _ in calls if name == "log"]
    assert logged[:2] == [{"train/loss": 0.5, "step": 3}, {"panel": ("image", (8, 8, 3)), "step": 3}]
    assert ("finish", (), {}) in calls


def test_trackio_resumes_by_its_name(fake, tmp_path):
    calls = fake("trackio", name="mine-one")
    use("trackio", tmp_path / "mine")
    use("trackio", tmp_path / "mine")
    starts = [(kwargs["name"], kwargs["resume"]) for name, _, kwargs in calls if name == "init"]
    assert starts == [("mine-one", "never"), ("mine-one", "allow")]
    assert ("log", ({"train/loss": 0.5},), {"step": 3}) in calls


def test_mlflow_resumes_by_its_id_and_hears_the_config_once(fake, tmp_path):
    calls = fake("mlflow", info=types.SimpleNamespace(run_id="abc"))
    use("mlflow", tmp_path / "mine")
    use("mlflow", tmp_path / "mine")
    assert [kwargs for name, _, kwargs in calls if name == "start_run"] == [{"run_name": "mine-one"}, {"run_id": "abc"}]
    assert [args[0]["data.quota.dense"] for name, args, _ in calls if name == "log_params"] == ["2"]
    assert ("log_metrics", ({"train/loss": 0.5},), {"step": 3, "run_id": "abc"}) in calls


@pytest.mark.heavy
def test_mlflow_itself_keeps_what_it_is_told_in_local_files(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a plain folder, which needs no further package
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    for step in (1, 2):
        writing = writer(tmp_path / "mine", start=step - 1, tracker="mlflow")
        writing.scalars(step, {"loss": 1.0 / step}, "train")
        writing.picture(step, "panel", PICTURE)
        writing.close()
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.run_name == "mine-one"
    assert run.data.params["data.quota.dense"] == "2"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]


@pytest.mark.heavy
def test_trackio_itself_keeps_what_it_is_told_in_local_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    for step in (1, 2):
        writing = writer(tmp_path / "mine", start=step - 1, tracker="trackio")
        writing.scalars(step, {"loss": 1.0 / step}, "train")
        writing.picture(step, "panel", PICTURE)
        writing.close()
    (run,) = trackio.Api().runs("semiseg_jax")
    assert run.name == "mine-one"
