"""The training loop in one process: exact resume, guards, and every bad input that a run can meet."""

import re
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from runs import assert_same_run, logged, saved_arrays

from semiseg_jax.config import differences, from_json, to_json
from semiseg_jax.data import pipeline
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.data.records import decode_mask
from semiseg_jax.engine.checkpoints import CheckpointError
from semiseg_jax.engine.inputs import balanced_weights, make_input
from semiseg_jax.methods.supervised import Supervised
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.evaluate import evaluate, evaluate_split
from semiseg_jax.verbs.train import NonFiniteLossError, train


def terminate_at(step: int):
    """A callback that sends SIGTERM to this process after `step` steps."""

    def on_step(done: int) -> None:
        if done == step:
            signal.raise_signal(signal.SIGTERM)

    return on_step


def on_folder(config: ConfigDict, root: Path, quota: dict[str, int]) -> None:
    config.data.assign = ConfigDict()
    config.data.quota = ConfigDict(quota)
    config.data.name, config.data.path = "folder", str(root)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tiny_config, tmp_path, devices, mapper):
    tiny_config.parallel, tiny_config.devices = mapper, devices
    tiny_config.ema = 0.9
    straight = train(tiny_config, tmp_path / "straight")
    stopped = train(tiny_config, tmp_path / "resumed", on_step=terminate_at(3))
    assert stopped.preempted
    assert stopped.step == 3
    resumed = train(tiny_config, tmp_path / "resumed")
    assert resumed.step == straight.step == 6
    assert_same_run(tmp_path / "straight", tmp_path / "resumed", 6)


def test_both_mappers_train_the_same_parameters(tiny_config, tmp_path):
    for mapper in ("shard_map", "pmap"):
        config = ConfigDict(tiny_config.to_dict())
        config.parallel = mapper
        train(config, tmp_path / mapper)
    assert_same_run(tmp_path / "shard_map", tmp_path / "pmap", 6)


@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
@pytest.mark.parametrize("devices", [(2, 1), (1, 2)])
def test_resume_on_other_devices_goes_on(tiny_config, tmp_path, devices, mapper):
    tiny_config.batch_size = 4
    tiny_config.devices, after = devices
    tiny_config.parallel = mapper
    train(tiny_config, tmp_path, on_step=terminate_at(3))
    config = from_json(to_json(tiny_config))
    with config.unlocked():
        config.devices = after
    (tmp_path / "config.json").write_text(to_json(config))
    assert train(config, tmp_path).step == 6


def test_a_finished_run_trains_no_further_and_reports_its_metrics(tiny_config, tmp_path):
    first = train(tiny_config, tmp_path)
    again = train(tiny_config, tmp_path)
    assert again.step == 6
    assert again.metrics["miou"] == first.metrics["miou"]


def test_the_workdir_holds_what_a_reader_needs(tiny_config, tmp_path, capfd):
    tiny_config.log.panel_rows = 4
    tiny_config.log.tensorboard = True
    train(tiny_config, tmp_path)
    for name in ("config.json", "versions.json", "dataset.json", "metrics.jsonl", "parameters_supervised.txt"):
        assert (tmp_path / name).stat().st_size
    assert sorted(p.name for p in (tmp_path / "panels").iterdir()) == [
        "supervised_000003.png",
        "supervised_000006.png",
    ]
    assert list((tmp_path / "tensorboard").iterdir())
    assert differences(from_json((tmp_path / "config.json").read_text()), tiny_config) == []
    assert {"miou", "pixel_accuracy", "fw_iou", "boundary_f"} <= logged(tmp_path, "eval")[6].keys()
    assert "cross_entropy" in logged(tmp_path, "train")[6]
    said = capfd.readouterr().out
    assert re.search(r"warning: no pixel of [a-z, ]+ was found; train longer, .*balance_classes", said)


def test_best_and_last_checkpoints_are_kept(tiny_config, tmp_path):
    tiny_config.checkpoint.every = 1
    train(tiny_config, tmp_path)
    steps = {int(p.name) for p in (tmp_path / "checkpoints" / "supervised").iterdir() if p.name.isdigit()}
    assert 6 in steps
    assert steps <= {3, 6}


def test_non_finite_loss_names_term_and_step_and_keeps_the_last_good_checkpoint(tiny_config, tmp_path, monkeypatch):
    original = Supervised.train_step

    def poisoned(self, state, batch):
        after, metrics = original(self, state, batch)
        bad = jax.numpy.where(state.step == 4, jax.numpy.nan, 0.0)
        after = jax.tree.map(lambda x: x + bad.astype(x.dtype) if x.dtype == jax.numpy.float32 else x, after)
        return after, {**metrics, "cross_entropy": metrics["cross_entropy"] + bad}

    monkeypatch.setattr(Supervised, "train_step", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"cross_entropy became nan at step 5.*last good checkpoint is step 3"):
        train(tiny_config, tmp_path)
    assert all(np.isfinite(array).all() for array in saved_arrays(tmp_path, 3).values())
    monkeypatch.undo()


def test_batches_without_any_labelled_pixel_train_without_nan(tiny_config, tmp_path, make_folder):
    root = make_folder()
    for path in (root / "masks").iterdir():
        Image.fromarray(np.full((40, 48), 255, np.uint8)).save(path)
    on_folder(tiny_config, root, {"dense": 2})
    result = train(tiny_config, tmp_path / "run")
    assert result.step == 6
    assert logged(tmp_path / "run", "train")[6]["cross_entropy"] == 0.0


@pytest.mark.parametrize("kind", ["unlabeled", "tags", "box"])
def test_a_quota_that_teaches_nothing_is_refused(tiny_config, tmp_path, kind):
    tiny_config.data.assign = ConfigDict()
    tiny_config.data.quota = ConfigDict({kind: 2})
    with pytest.raises(ValueError, match="method 'supervised' learns from points, scribble, partial, dense only"):
        train(tiny_config, tmp_path)


def test_a_folder_without_masks_trains_without_evaluation(tiny_config, tmp_path, make_folder, capsys):
    on_folder(tiny_config, make_folder(masks=False, scribbles=True), {"scribble": 2})
    result = train(tiny_config, tmp_path / "run")
    assert (result.step, result.metrics) == (6, {})
    assert "trains without evaluation" in capsys.readouterr().out
    assert saved_arrays(tmp_path / "run", 6)


def test_a_start_that_failed_does_not_claim_the_workdir(tiny_config, tmp_path):
    tiny_config.method = "magic"
    with pytest.raises(ValueError, match="unknown method"):
        train(tiny_config, tmp_path)
    tiny_config.method = "supervised"
    tiny_config.steps = 3
    assert train(tiny_config, tmp_path).step == 3


def test_a_second_run_in_the_same_workdir_is_refused(tiny_config, tmp_path):
    seen = []

    def start_another(step: int) -> None:
        with pytest.raises(ValueError, match="another run is going on"), workdirs.lock(tmp_path):
            pass
        seen.append(step)

    train(tiny_config, tmp_path, on_step=start_another)
    assert len(seen) == 6


def test_sigterm_on_an_evaluation_step_saves_at_once_and_the_evaluation_follows(tiny_config, tmp_path):
    train(tiny_config, tmp_path / "straight")
    assert train(tiny_config, tmp_path / "resumed", on_step=terminate_at(3)).preempted
    assert logged(tmp_path / "resumed", "eval") == {}
    assert (tmp_path / "resumed" / "checkpoints" / "supervised" / "3").is_dir()
    train(tiny_config, tmp_path / "resumed")
    assert logged(tmp_path / "straight", "eval") == logged(tmp_path / "resumed", "eval")


@pytest.mark.parametrize("killed_at", [3, 6])
def test_an_evaluation_that_is_killed_loses_no_training(tiny_config, tmp_path, monkeypatch, killed_at):
    train(tiny_config, tmp_path / "straight")
    steps = []

    def killed(*args, **kwargs):
        if steps[-1] == killed_at:
            raise KeyboardInterrupt
        return evaluate_split(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("semiseg_jax.verbs.train.evaluate_split", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config, tmp_path / "resumed", on_step=steps.append)
    assert steps[-1] == killed_at
    steps.clear()
    result = train(tiny_config, tmp_path / "resumed", on_step=steps.append)
    assert steps == list(range(killed_at + 1, 7))
    assert result.metrics["miou"] == logged(tmp_path / "straight", "eval")[6]["miou"]
    assert logged(tmp_path / "straight", "eval") == logged(tmp_path / "resumed", "eval")
    kept = [tmp_path / run / "checkpoints" / "supervised" / "scores.json" for run in ("straight", "resumed")]
    assert kept[0].read_text() == kept[1].read_text()


def test_sigterm_on_the_last_step_is_a_finished_run(tiny_config, tmp_path):
    assert not train(tiny_config, tmp_path, on_step=terminate_at(6)).preempted


def test_every_resume_after_a_change_of_devices_is_exact(tiny_config, tmp_path):
    def free_devices(count: int) -> ConfigDict:
        config = from_json(to_json(tiny_config))
        config.devices = count
        (tmp_path / "run" / "config.json").write_text(to_json(config))
        return config

    tiny_config.update({"batch_size": 4, "devices": 2, "steps": 6})
    tiny_config.eval.every = 6
    train(tiny_config, tmp_path / "run", on_step=terminate_at(2))
    config = free_devices(1)
    shutil.copytree(tmp_path / "run", tmp_path / "straight")
    train(config, tmp_path / "straight")
    train(config, tmp_path / "run", on_step=terminate_at(4))
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "straight", tmp_path / "run", 6)


def test_accumulated_micro_batches_train(tiny_config, tmp_path):
    tiny_config.accumulate = 2
    assert train(tiny_config, tmp_path).step == 6


def test_images_smaller_than_the_crop_are_padded(tiny_config, tmp_path, make_folder):
    on_folder(tiny_config, make_folder(), {"dense": 2})
    tiny_config.augment.crop = (64, 64)
    assert train(tiny_config, tmp_path / "run").step == 6


def test_folder_without_code_trains_on_every_kind_at_once(tiny_config, tmp_path, make_folder):
    tiny_config.data.assign = ConfigDict()
    tiny_config.data.quota = ConfigDict({"dense": 1, "scribble": 1, "points": 1, "box": 1, "tags": 1, "partial": 1})
    tiny_config.data.simulate = ConfigDict({"partial": {"fraction": 0.05}})
    tiny_config.data.name = "folder"
    tiny_config.data.path = str(make_folder(scribbles=True, points=True, boxes=True, tags=True))
    assert train(tiny_config, tmp_path / "run").step == 6


def edit(path: str, value):
    def apply(config: ConfigDict) -> None:
        *parents, leaf = path.split(".")
        node = config
        for name in parents:
            node = node[name]
        with node.unlocked():
            node[leaf] = ConfigDict(value) if isinstance(value, dict) else value

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("method", "magic"), "unknown method 'magic'; known methods: .*supervised"),
        (edit("data.name", "nowhere"), "unknown dataset 'nowhere'; known datasets: folder, shapes"),
        (edit("data.quota", {"dense": 1, "guess": 1}), "unknown supervision kind 'guess'; known kinds: .*scribble"),
        (edit("data.quota", {"dense": 0}), "must give a positive number of rows"),
        (edit("data.quota", {"points": 2}), "data.assign says nothing of points"),
        (edit("model.name", "vgg"), "unknown model 'vgg'; known models: .*unet"),
        (edit("data.quota", {"dense": "2"}), "config.data.quota.dense is '2' but must be a whole number"),
        (edit("checkpoint.metric", "mIoU"), "config.checkpoint.metric is 'mIoU'; known: miou"),
        (edit("eval.scales", ()), "config.eval.scales is"),
        (edit("augment.crop", (64,)), "config.augment.crop is .* but must be two numbers"),
        (edit("augment.scale", (2.0, 1.0)), "config.augment.scale is .* increasing"),
        (edit("optimizer.learning_rate", -1.0), "config.optimizer.learning_rate is -1.0"),
        (edit("data.path", "somewhere"), "data.path and data.simulate belong to dataset 'folder'"),
        (edit("model.depth", 3), "model 'unet' has no option depth; its options: .*widths"),
        (edit("optimzer", 1), "config has no field 'optimzer'; did you mean optimizer?"),
        (edit("optimizer.lr", 1.0), "config has no field 'optimizer.lr'"),
        (edit("batch_size", 3), "batch_size 3 is not divisible by 2 devices"),
        (edit("batch_size", 2), "data.quota asks for 2 rows but a micro-batch of one device has 1"),
        (edit("data.train_split", "training"), "shapes has no split 'training'; it has: train, val"),
        (edit("data.eval_split", "exam"), "shapes has no split 'exam'; it has: train, val"),
        (edit("class_weights", (1.0, 2.0)), "class_weights has 2 entries but there are 7 classes"),
        (edit("data.assign", {"dense": 0.0, "scribble": 1.0}), "data.assign leaves no image .* for dense"),
        (edit("data.assign", {"dense": 30, "scribble": 2}), "wants 30 images for dense but only 24"),
        (edit("devices", 3), "asks for 3 devices but there are 2"),
    ],
)
def test_a_config_that_cannot_run_says_why_before_training(tiny_config, tmp_path, change, message):
    change(tiny_config)
    with pytest.raises(ValueError, match=message):
        train(tiny_config, tmp_path)
    assert not (tmp_path / "checkpoints").exists() or not list((tmp_path / "checkpoints").glob("*/[0-9]*"))


@pytest.mark.parametrize("change", [edit("method", "transfer"), edit("terms.boxes.weight", 1.0)])
def test_boxes_and_transfer_need_a_background(tiny_config, tmp_path, make_folder, change):
    make_folder.classes = ("sky", "road", "car")
    on_folder(tiny_config, make_folder(), {"dense": 2})
    change(tiny_config)
    with pytest.raises(ValueError, match=r"whose class 0 is background, but here that is none.*sky, road, car"):
        train(tiny_config, tmp_path)


def test_balanced_classes_are_the_same_run_as_their_weights_given(tiny_config, tmp_path, capfd):
    given = ConfigDict(tiny_config.to_dict())
    tiny_config.balance_classes = 0.5
    train(tiny_config, tmp_path / "balanced", on_step=terminate_at(3))
    train(tiny_config, tmp_path / "balanced")
    dataset = open_dataset(tiny_config.data)
    given.class_weights = balanced_weights(tiny_config.data, dataset, 0.5)
    assert min(given.class_weights) == 1 < max(given.class_weights)
    assert given.class_weights[dataset.info.background] == 1
    train(given, tmp_path / "given")
    assert_same_run(tmp_path / "balanced", tmp_path / "given", 6)
    said = capfd.readouterr().out
    assert f"class weights: {dataset.info.classes[0]} 1.00" in said
    assert "was found" not in said  # this advice has been taken


def test_fully_balanced_classes_weigh_the_same_and_missing_ones_no_more_than_the_rarest(tiny_config, make_folder):
    on_folder(tiny_config, make_folder(), {"dense": 2})
    data = tiny_config.data
    dataset = open_dataset(data)
    masks = [decode_mask(record["mask"], (0, 0)) for record in dataset.records("train")]
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=256)[: dataset.info.num_classes]
    weights = np.array(balanced_weights(data, dataset, 1.0))
    np.testing.assert_allclose(weights, counts.max() / np.maximum(counts, counts[counts > 0].min()), rtol=1e-3)
    data.quota = ConfigDict({"unlabeled": 1})
    with pytest.raises(ValueError, match="balance_classes: no label names a class"):
        balanced_weights(data, dataset, 1.0)


def test_kind_without_images_is_named_with_a_way_out(tiny_config, tmp_path, make_folder):
    on_folder(tiny_config, make_folder(), {"scribble": 2})
    with pytest.raises(ValueError, match=r"no image of split 'train' of folder has scribble labels.*data.simulate"):
        train(tiny_config, tmp_path / "run")


def test_empty_split_is_an_error(tiny_config, tmp_path, make_folder):
    root = make_folder()
    (root / "splits" / "train.txt").write_text("")
    on_folder(tiny_config, root, {"dense": 2})
    with pytest.raises(ValueError, match="split 'train' of folder is empty"):
        train(tiny_config, tmp_path / "run")


def test_workdir_of_another_config_is_refused_and_left_alone(tiny_config, tmp_path):
    train(tiny_config, tmp_path)
    before = (tmp_path / "config.json").read_text()
    tiny_config.optimizer.learning_rate = 0.5
    with pytest.raises(ValueError, match=r"optimizer.learning_rate: 0.002 -> 0.5"):
        train(tiny_config, tmp_path)
    assert (tmp_path / "config.json").read_text() == before


def test_a_run_goes_on_wherever_it_is_called_from_and_its_folder_is_moved_to(
    tiny_config, tmp_path, make_folder, monkeypatch, capsys
):
    root = make_folder(scribbles=True)
    on_folder(tiny_config, Path(root.name), {"dense": 2})
    monkeypatch.chdir(root.parent)
    train(tiny_config, tmp_path / "run", on_step=terminate_at(3))
    assert "labels that data.quota does not ask for: 4 scribble" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "run")
    assert evaluate(tmp_path / "run")["images"] == 2
    shutil.move(root, tmp_path / "moved")
    tiny_config.data.path = "../moved"
    assert train(tiny_config, tmp_path / "run").step == 6


def test_changed_evaluation_settings_may_go_on_in_the_same_workdir(tiny_config, tmp_path):
    train(tiny_config, tmp_path, on_step=terminate_at(3))
    tiny_config.eval.flip = True
    tiny_config.log.every = 1
    assert train(tiny_config, tmp_path).step == 6


def test_class_count_that_does_not_fit_the_checkpoint_is_refused(tiny_config, tmp_path, make_folder):
    train(tiny_config, tmp_path, on_step=terminate_at(3))
    on_folder(tiny_config, make_folder(), {"dense": 2})
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"(?s)does not fit.*classifier"):
        train(tiny_config, tmp_path)


def test_truncated_checkpoint_is_named_and_left_alone(tiny_config, tmp_path):
    train(tiny_config, tmp_path, on_step=terminate_at(3))
    folder = tmp_path / "checkpoints" / "supervised" / "3" / "state"
    data = [p for p in folder.rglob("*") if p.is_file() and "/d/" in p.as_posix()]
    assert data
    for path in data:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = {p: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match=r"checkpoint 3 in .* cannot be read"):
        train(tiny_config, tmp_path)
    assert {p: p.stat().st_size for p in folder.rglob("*") if p.is_file()} == before


def test_changed_dataset_under_a_checkpoint_is_refused(tiny_config, tmp_path, monkeypatch):
    train(tiny_config, tmp_path, on_step=terminate_at(3))
    original = pipeline.make_pools

    def fewer(*args, **kwargs):
        return {kind: pool[1:] for kind, pool in original(*args, **kwargs).items()}

    monkeypatch.setattr(pipeline, "make_pools", fewer)
    with pytest.raises(CheckpointError, match="the dataset has changed since the checkpoint was saved"):
        train(tiny_config, tmp_path)


def test_input_rows_follow_the_batch_size(tiny_config):
    from semiseg_jax.data.datasets import open_dataset

    tiny_config.batch_size = 8
    inputs = make_input(tiny_config, tiny_config.data, open_dataset(tiny_config.data), 2, 2)
    assert inputs.rows == 8
    assert next(inputs.batches)["image"].shape[0] == 8


def test_a_missing_dataset_folder_is_named(tiny_config, tmp_path):
    on_folder(tiny_config, Path("nowhere at all"), {"dense": 2})
    with pytest.raises(ValueError, match="nowhere at all: no such dataset folder"):
        train(tiny_config, tmp_path)
