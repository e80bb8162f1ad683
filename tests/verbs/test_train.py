"""The training loop in one process: exact resume, what a run leaves, guards, and odd data."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
import signal
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_tiny_config
from ml_collections import ConfigDict
from PIL import Image
from runs import assert_same_run, logged, on_folder, saved_arrays

from semiseg_jax.config import differences, from_json, settings, to_json
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.data.pools import make_pools
from semiseg_jax.data.records import decode_mask
from semiseg_jax.data.types import Supervision
from semiseg_jax.engine.checkpoints import CheckpointError
from semiseg_jax.engine.inputs import balanced_weights, make_input
from semiseg_jax.engine.optimizers import make_schedule
from semiseg_jax.methods.supervised import Supervised
from semiseg_jax.verbs import train as train_verb
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.evaluate import evaluate, evaluate_split
from semiseg_jax.verbs.train import NonFiniteLossError, Result, train


def terminate_at(step: int):
    """A callback that sends SIGTERM to this process after `step` steps."""

    def on_step(done: int) -> None:
        if done == step:
            signal.raise_signal(signal.SIGTERM)

    return on_step


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that several tests look at, each through a copy or without changing it."""

    config: ConfigDict
    workdir: Path
    result: Result
    said: str

    def copy(self, to: Path) -> ConfigDict:
        shutil.copytree(self.workdir, to)
        return ConfigDict(self.config.to_dict())


def run_once(config: ConfigDict, workdir: Path, on_step) -> Run:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        result = train(config, workdir, on_step=on_step)
    return Run(config, workdir, result, said.getvalue())


def shared_config(data_dir: str) -> ConfigDict:
    config = make_tiny_config(data_dir)
    config.ema = 0.9
    config.checkpoint.every = 1
    config.log.update({"panel_rows": 4, "tensorboard": True})
    return config


@pytest.fixture(scope="module")
def straight(data_dir, few_shapes, tmp_path_factory) -> Run:
    """An uninterrupted run. Another one is tried at each of its steps."""
    workdir, refused = tmp_path_factory.mktemp("straight"), []

    def start_another(step: int) -> None:
        with pytest.raises(ValueError, match="another run is going on"), workdirs.lock(workdir):
            pass
        refused.append(step)

    run = run_once(shared_config(data_dir), workdir, start_another)
    assert refused == [1, 2, 3, 4, 5, 6]
    return run


@pytest.fixture(scope="module")
def stopped(data_dir, few_shapes, tmp_path_factory) -> Run:
    """The same run, stopped by SIGTERM at step 3, which is a step of evaluation."""
    return run_once(shared_config(data_dir), tmp_path_factory.mktemp("stopped"), terminate_at(3))


def test_sigterm_on_an_evaluation_step_saves_at_once_without_evaluating(stopped):
    assert stopped.result.preempted
    assert stopped.result.step == 3
    assert logged(stopped.workdir, "eval") == {}
    assert (stopped.workdir / "checkpoints" / "supervised" / "3").is_dir()


def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(straight, stopped, tmp_path):
    config = stopped.copy(tmp_path / "resumed")
    assert train(config, tmp_path / "resumed").step == straight.result.step == 6
    assert_same_run(straight.workdir, tmp_path / "resumed", 6)
    assert logged(straight.workdir, "eval") == logged(tmp_path / "resumed", "eval")  # that of step 3 is made up for


def test_sigterm_saves_where_nothing_else_would(straight, tmp_path):
    config = ConfigDict(straight.config.to_dict())
    config.checkpoint.every = 100
    assert train(config, tmp_path, on_step=terminate_at(2)).step == 2
    assert (tmp_path / "checkpoints" / "supervised" / "2").is_dir()


def test_a_run_is_read_back_with_its_averages(straight):
    read = jax.tree.leaves(workdirs.load(straight.workdir, checkpoint="last").variables["params"])
    saved = saved_arrays(straight.workdir, 6)
    averages = [value for name, value in saved.items() if "ema" in name and "batch_stats" not in name]
    plain = [value for name, value in saved.items() if name.startswith("['networks']['segmenter']['params']")]
    for value, average in zip(read, averages, strict=True):
        np.testing.assert_array_equal(value, average)
    assert any((value != average).any() for value, average in zip(plain, averages, strict=True))


@pytest.mark.heavy
def test_pmap_saves_where_it_is_stopped_and_resumed_equals_shard_map_bit_for_bit(straight, tmp_path):
    config = ConfigDict(straight.config.to_dict())
    config.parallel = "pmap"
    config.checkpoint.every, config.log.every = 100, 1
    assert train(config, tmp_path, on_step=terminate_at(4)).preempted
    assert (tmp_path / "checkpoints" / "supervised" / "4").is_dir()  # where nothing else would have been saved
    train(config, tmp_path)
    assert_same_run(straight.workdir, tmp_path, 6)


def test_a_second_run_in_the_same_workdir_is_refused(straight):
    """At each step of the first one, which the fixture checks; afterwards the workdir is free."""
    with workdirs.lock(straight.workdir):
        refused = pytest.raises(ValueError, match="another run is going on")
        with refused, workdirs.lock(straight.workdir):
            pass
    with workdirs.lock(straight.workdir):
        assert (straight.workdir / ".lock").is_file()


def test_a_finished_run_trains_no_further_reports_its_metrics_and_says_how_to_go_on(
    straight, tmp_path, monkeypatch, capsys
):
    config, steps = straight.copy(tmp_path / "run"), []
    monkeypatch.setattr("semiseg_jax.verbs.scoring.evaluate_split", None)
    again = train(config, tmp_path / "run", on_step=steps.append)
    assert steps == []
    assert again.step == 6
    assert again.metrics["miou"] == straight.result.metrics["miou"]
    assert "is finished already; a larger --config.steps makes a longer run of it" in capsys.readouterr().out


@pytest.mark.heavy
def test_a_finished_run_is_made_longer_in_its_workdir_and_that_goes_on_exactly(straight, tmp_path, capsys):
    config, steps = straight.copy(tmp_path / "run"), []
    config.steps = 8
    result = train(config, tmp_path / "run", on_step=steps.append)
    assert steps == [7, 8]
    assert result.step == 8
    assert "THE RUN BECOMES LONGER, 8 steps instead of 6" in capsys.readouterr().out
    stopped = straight.copy(tmp_path / "stopped")
    stopped.steps = 8
    with pytest.raises(KeyboardInterrupt):
        train(stopped, tmp_path / "stopped", on_step=_interrupt)
    train(stopped, tmp_path / "stopped")
    assert "BECOMES LONGER" in capsys.readouterr().out
    assert logged(tmp_path / "stopped", "train")[8]["loss"] == logged(tmp_path / "run", "train")[8]["loss"]
    config.steps = 6
    with pytest.raises(ValueError, match=r"steps: 8 -> 6\n.*only its steps may grow"):
        train(config, tmp_path / "run")


def _interrupt(step):
    raise KeyboardInterrupt


def test_the_workdir_holds_what_a_reader_needs(straight):
    workdir = straight.workdir
    for name in ("config.json", "versions.json", "dataset.json", "metrics.jsonl", "parameters_supervised.txt"):
        assert (workdir / name).stat().st_size
    assert sorted(p.name for p in (workdir / "panels").iterdir()) == ["supervised_000003.png", "supervised_000006.png"]
    assert list((workdir / "tensorboard").iterdir())
    assert differences(from_json((workdir / "config.json").read_text()), straight.config) == []
    assert {"miou", "pixel_accuracy", "fw_iou", "ece", "class_precision"} <= logged(workdir, "eval")[6].keys()
    assert "boundary_f" not in logged(workdir, "eval")[6]  # which takes longer than all others together
    assert "cross_entropy" in logged(workdir, "train")[6]
    assert re.search(r"warning: no pixel of [a-z, ]+ was found; train longer, .*balance_classes", straight.said)
    assert re.search(r"IoU by class: [a-z]+ 0\.\d\d, ", straight.said)
    assert f"next: semiseg evaluate --workdir={workdir}, semiseg predict" in straight.said


@pytest.mark.heavy
@pytest.mark.parametrize("field", ["checkpoint.metric=boundary_f", "eval.boundary=always"])
def test_boundaries_are_measured_in_training_where_that_is_asked_for(tiny_config, tmp_path, field):
    path, value = field.split("=")
    section, name = path.split(".")
    tiny_config[section][name] = value
    result = train(tiny_config, tmp_path)
    assert 0 <= result.metrics["boundary_f"] <= 1
    assert "boundary_f" in logged(tmp_path, "eval")[6]


def test_training_logs_what_is_scheduled_and_how_long_it_waits_for_data(straight):
    rows = [json.loads(line) for line in (straight.workdir / "metrics.jsonl").read_text().splitlines()]
    rows = {row["step"]: row for row in rows if row["kind"] == "train"}
    schedule = make_schedule(settings(straight.config).optimizer, 6)
    for step, row in rows.items():
        assert row["learning_rate"] == pytest.approx(float(schedule(step - 1)))
        assert row["weight_cross_entropy"] == 1.0
        assert row["data_seconds"] >= 0
        assert row["images_per_second"] > 0
    assert "learning_rate" not in straight.said


def test_best_and_last_checkpoints_are_kept(straight):
    steps = {int(p.name) for p in (straight.workdir / "checkpoints" / "supervised").iterdir() if p.name.isdigit()}
    assert 6 in steps
    assert steps <= {3, 6}


def test_the_last_step_is_saved_and_scored_where_it_is_no_multiple(tiny_config, tmp_path):
    tiny_config.steps, tiny_config.eval.every = 2, 5
    train(tiny_config, tmp_path / "run")
    assert list(logged(tmp_path / "run", "eval")) == [2]
    assert (tmp_path / "run" / "checkpoints" / "supervised" / "2").exists()


def test_workdir_of_another_config_is_refused_and_left_alone(straight):
    before = (straight.workdir / "config.json").read_text()
    config = ConfigDict(straight.config.to_dict())
    config.optimizer.learning_rate = 0.5
    with pytest.raises(ValueError, match=r"optimizer.learning_rate: 0.002 -> 0.5"):
        train(config, straight.workdir)
    assert (straight.workdir / "config.json").read_text() == before


@pytest.mark.heavy
def test_changed_evaluation_settings_may_go_on_in_the_same_workdir(stopped, tmp_path):
    config = stopped.copy(tmp_path / "run")
    config.eval.flip = True
    config.log.every = 1
    assert train(config, tmp_path / "run").step == 6


def test_class_count_that_does_not_fit_the_checkpoint_is_refused(stopped, tmp_path, make_folder):
    config = stopped.copy(tmp_path / "run")
    on_folder(config, make_folder(), {"dense": 2})
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"(?s)does not fit.*classifier"):
        train(config, tmp_path / "run")


def test_truncated_checkpoint_is_named_and_left_alone(stopped, tmp_path):
    config = stopped.copy(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "supervised" / "3" / "state"
    data = [p for p in folder.rglob("*") if p.is_file() and "/d/" in p.as_posix()]
    assert data
    for path in data:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = {p: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match=r"checkpoint 3 in .* cannot be read"):
        train(config, tmp_path / "run")
    assert {p: p.stat().st_size for p in folder.rglob("*") if p.is_file()} == before


def test_changed_dataset_under_a_checkpoint_is_refused(stopped, tmp_path, monkeypatch):
    config = stopped.copy(tmp_path / "run")
    original = make_pools

    def fewer(*args, **kwargs):
        return {kind: pool[1:] for kind, pool in original(*args, **kwargs).items()}

    monkeypatch.setattr("semiseg_jax.engine.inputs.make_pools", fewer)
    with pytest.raises(CheckpointError, match="the dataset has changed since the checkpoint was saved"):
        train(config, tmp_path / "run")


@pytest.mark.heavy
@pytest.mark.parametrize("killed_at", [3, pytest.param(6, marks=pytest.mark.heavy)])
def test_an_evaluation_that_is_killed_loses_no_training(straight, tmp_path, monkeypatch, killed_at):
    steps, config = [], ConfigDict(straight.config.to_dict())

    def killed(*args, **kwargs):
        if steps[-1] == killed_at:
            raise KeyboardInterrupt
        return evaluate_split(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("semiseg_jax.verbs.scoring.evaluate_split", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path, on_step=steps.append)
    assert steps[-1] == killed_at
    steps.clear()
    result = train(config, tmp_path, on_step=steps.append)
    assert steps == list(range(killed_at + 1, 7))
    assert result.metrics["miou"] == logged(straight.workdir, "eval")[6]["miou"]
    assert logged(straight.workdir, "eval") == logged(tmp_path, "eval")
    kept = [path / "checkpoints" / "supervised" / "scores.json" for path in (straight.workdir, tmp_path)]
    assert kept[0].read_text() == kept[1].read_text()


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(value):
    stage = types.SimpleNamespace(train_step=lambda state, batch: (state + batch, {"loss": 1.0 * batch, "other": 0.0}))
    state, metrics = train_verb.guard(stage, lambda examples: examples)(jnp.float32(3.0), jnp.float32(value))
    assert float(state) == (4.0 if value == 1.0 else 3.0)
    np.testing.assert_equal(float(metrics["loss"]), value)


def test_sigterm_on_the_last_step_is_a_finished_run(stopped, tmp_path):
    config = stopped.copy(tmp_path / "run")
    assert not train(config, tmp_path / "run", on_step=terminate_at(6)).preempted


@pytest.mark.heavy
def test_resume_on_other_devices_goes_on_and_each_further_one_is_exact(tiny_config, tmp_path, caplog):
    tiny_config.devices = 2  # with a batch_size of 0, the run keeps the images an update of the devices it began on
    tiny_config.eval.every = 6

    def on_devices(count: int, workdir: Path) -> ConfigDict:
        config = from_json(to_json(tiny_config))
        config.devices = count
        (workdir / "config.json").write_text(to_json(config))
        return config

    train(tiny_config, tmp_path / "run", on_step=terminate_at(2))
    shutil.copytree(tmp_path / "run", tmp_path / "straight")
    train(on_devices(1, tmp_path / "straight"), tmp_path / "straight")
    assert json.loads((tmp_path / "straight" / "versions.json").read_text())["devices_at_first"] == 2
    assert "4 images an update in 1 part(s) by 1 process(es) instead of 4 images an update in 2 part(s)" in caplog.text
    train(on_devices(1, tmp_path / "run"), tmp_path / "run", on_step=terminate_at(4))
    shutil.copytree(tmp_path / "run", tmp_path / "back")
    train(on_devices(1, tmp_path / "run"), tmp_path / "run")
    assert_same_run(tmp_path / "straight", tmp_path / "run", 6)
    assert train(on_devices(2, tmp_path / "back"), tmp_path / "back").step == 6


def test_non_finite_loss_names_term_and_step_and_keeps_the_last_good_checkpoint(tiny_config, tmp_path, monkeypatch):
    original = Supervised.train_step

    def poisoned(self, state, batch):
        after, metrics = original(self, state, batch)
        bad = jax.numpy.where(state.step == 4, jax.numpy.nan, 0.0)
        after = jax.tree.map(lambda x: x + bad.astype(x.dtype) if x.dtype == jax.numpy.float32 else x, after)
        return after, {**metrics, "cross_entropy": metrics["cross_entropy"] + bad}

    monkeypatch.setattr(Supervised, "train_step", poisoned)
    tiny_config.seed = 1  # no other run may share this program
    with pytest.raises(NonFiniteLossError, match=r"cross_entropy became nan at step 5.*last good checkpoint is step 3"):
        train(tiny_config, tmp_path)
    assert all(np.isfinite(array).all() for array in saved_arrays(tmp_path, 3).values())


@pytest.mark.heavy
def test_batches_without_any_labelled_pixel_train_without_nan(tiny_config, tmp_path, make_folder, monkeypatch):
    monkeypatch.setattr("semiseg_jax.data.folder.read_mask", lambda source, id, size: np.full(size, 255, np.uint8))
    on_folder(tiny_config, make_folder(), {"dense": 2})
    result = train(tiny_config, tmp_path / "run")
    assert result.step == 6
    assert logged(tmp_path / "run", "train")[6]["cross_entropy"] == 0.0


def test_masks_without_any_class_do_not_fill_the_quota(tiny_config, tmp_path, make_folder, caplog):
    root = make_folder()
    for path in (root / "masks").iterdir():
        Image.fromarray(np.full((40, 48), 255, np.uint8)).save(path)
    on_folder(tiny_config, root, {"dense": 2})
    with pytest.raises(ValueError, match="no image of split 'train' of folder has dense labels"):
        train(tiny_config, tmp_path / "run")
    assert "im0.png and 5 more: hold no class, and count as no mask" in caplog.text


@pytest.mark.heavy
def test_a_folder_without_masks_trains_without_evaluation(tiny_config, tmp_path, make_folder, capsys):
    on_folder(tiny_config, make_folder(masks=False, scribbles=True), {"scribble": 2})
    result = train(tiny_config, tmp_path / "run")
    assert (result.step, result.metrics) == (6, {})
    assert "trains without evaluation" in capsys.readouterr().out
    assert saved_arrays(tmp_path / "run", 6)


@pytest.mark.heavy
def test_folder_of_images_below_the_crop_trains_on_every_kind_at_once(tiny_config, tmp_path, make_folder):
    tiny_config.data.assign = ConfigDict()
    tiny_config.data.quota = ConfigDict({"dense": 1, "scribble": 1, "points": 1, "box": 1, "tags": 1, "partial": 1})
    tiny_config.data.simulate = ConfigDict({"partial": {"fraction": 0.05}})
    tiny_config.data.name = "folder"
    tiny_config.data.path = str(make_folder(scribbles=True, points=True, boxes=True, tags=True))
    tiny_config.augment.crop = (64, 64)
    assert train(tiny_config, tmp_path / "run").step == 6


@pytest.mark.heavy
def test_balanced_classes_train_with_the_weights_of_their_shares_and_go_on(tiny_config, tmp_path, capfd, monkeypatch):
    tiny_config.balance_classes, tiny_config.steps = 0.5, 2
    dataset, given = open_dataset(settings(tiny_config).data), []
    make_method = train_verb.make_method

    def look(config, classes):
        given.append(config.class_weights)
        return make_method(config, classes)

    monkeypatch.setattr(train_verb, "make_method", look)
    train(tiny_config, tmp_path, on_step=terminate_at(1))
    assert train(tiny_config, tmp_path).step == 2
    weights = balanced_weights(tiny_config.data, dataset, 0.5)
    assert given == [weights, weights]
    assert min(weights) == 1 < max(weights)
    assert weights[dataset.info.background] == 1
    said = capfd.readouterr().out
    assert f"class weights: {dataset.info.classes[0]} 1.00" in said
    assert "was found" in said
    assert "--config.balance_classes" not in said


def test_fully_balanced_classes_weigh_the_same_and_missing_ones_no_more_than_the_rarest(tiny_config, make_folder):
    on_folder(tiny_config, make_folder(), {"dense": 2})
    data = settings(tiny_config).data
    dataset = open_dataset(data)
    masks = [decode_mask(record["mask"], (0, 0)) for record in dataset.records("train")]
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=256)[: dataset.info.num_classes]
    weights = np.array(balanced_weights(data, dataset, 1.0))
    np.testing.assert_allclose(weights, counts.max() / np.maximum(counts, counts[counts > 0].min()), rtol=1e-3)
    unlabelled = dataclasses.replace(data, quota={"unlabeled": 1})
    with pytest.raises(ValueError, match="balance_classes: no label names a class"):
        balanced_weights(unlabelled, dataset, 1.0)


@pytest.mark.heavy
def test_a_run_goes_on_wherever_it_is_called_from_and_its_folder_is_moved_to(
    tiny_config, tmp_path, make_folder, monkeypatch, capsys
):
    root = make_folder(scribbles=True)
    on_folder(tiny_config, Path(root.name), {"dense": 2})
    tiny_config.data.data_dir = "built"
    monkeypatch.chdir(root.parent)
    train(tiny_config, tmp_path / "run", on_step=terminate_at(3))
    assert "labels that this run does not use: 4 scribble" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "run")
    assert evaluate(tmp_path / "run")["images"] == 2
    assert not Path("built").exists()  # what is built already is found
    shutil.move(root, tmp_path / "moved")
    tiny_config.data.path = "../moved"
    assert train(tiny_config, tmp_path / "run").step == 6


@pytest.mark.parametrize(("batch_size", "accumulate", "rows"), [(8, 1, 8), (0, 2, 8), (16, 2, 16)])
def test_input_rows_follow_batch_size_and_micro_batches(tiny_config, batch_size, accumulate, rows):
    """On two devices; each micro-batch of each of them has the quota of one dense and one scribble row."""
    tiny_config.update({"batch_size": batch_size, "accumulate": accumulate})
    inputs = make_input(settings(tiny_config), open_dataset(settings(tiny_config).data), 2, 2)
    assert inputs.rows == rows
    kinds = next(inputs.batches)["kind"].reshape(2 * accumulate, -1)
    half = kinds.shape[1] // 2
    assert (kinds[:, :half] == Supervision.DENSE).all()
    assert (kinds[:, half:] == Supervision.SCRIBBLE).all()
