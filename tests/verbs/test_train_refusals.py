"""What `train` refuses, before it writes a checkpoint, and how it says so."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict
from runs import on_folder

from semiseg_jax.engine import mirror
from semiseg_jax.verbs.train import train


@pytest.mark.parametrize("kind", ["unlabeled", "tags", "box"])
def test_a_quota_that_teaches_nothing_is_refused(tiny_config, tmp_path, kind):
    tiny_config.data.assign = ConfigDict()
    tiny_config.data.quota = ConfigDict({kind: 2})
    with pytest.raises(ValueError, match="method 'supervised' learns from points, scribble, partial, dense only"):
        train(tiny_config, tmp_path)


def test_state_in_shards_over_hosts_without_a_shared_folder_is_refused_before_training(
    tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(mirror, "is_shared", lambda workdir: False)
    tiny_config.shard_state = True
    with pytest.raises(ValueError, match="only a folder that all of them see can hold"):
        train(tiny_config, tmp_path)


def test_a_start_that_failed_does_not_claim_the_workdir(tiny_config, tmp_path):
    tiny_config.method = "magic"
    with pytest.raises(ValueError, match="unknown method"):
        train(tiny_config, tmp_path)
    assert not (tmp_path / "config.json").exists()


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
        (edit("method", "magic"), r"unknown method 'magic'\. Known methods: .*supervised"),
        (edit("data.name", "nowhere"), r"unknown dataset 'nowhere'\. Known datasets: "),
        (edit("data.quota", {"dense": 1, "guess": 1}), "unknown supervision kind 'guess'; known kinds: .*scribble"),
        (edit("data.quota", {"dense": 0}), "must give a positive number of rows"),
        (edit("data.quota", {"points": 2}), "data.assign says nothing of points"),
        (edit("model.name", "vgg"), r"unknown model 'vgg'\. Known models: .*unet"),
        (edit("data.quota", {"dense": "2"}), "config.data.quota.dense is '2' but must be a whole number"),
        (edit("eval.boundary", "maybe"), "config.eval.boundary is 'maybe'; known: auto, always, never"),
        (edit("checkpoint.metric", "mIoU"), "config.checkpoint.metric is 'mIoU'; known: miou"),
        (edit("eval.scales", ()), "config.eval.scales is"),
        (
            edit("augment.crop", (64,)),
            "config.augment.crop is .* but must be a tuple of a whole number and a whole number",
        ),
        (edit("augment.scale", (2.0, 1.0)), "config.augment.scale is .* increasing"),
        (edit("optimizer.learning_rate", -1.0), "config.optimizer.learning_rate is -1.0"),
        (edit("data.path", "somewhere"), "data.path and data.simulate belong to datasets of files"),
        (edit("model.depth", 3), "model 'unet' has no option depth; its options: .*widths"),
        (edit("optimzer", 1), r"config\.optimzer is no field\. Did you mean optimizer\?"),
        (edit("optimizer.lr", 1.0), r"config\.optimizer\.lr is no field"),
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


@pytest.mark.parametrize("changes", [
    {"method": "transfer", "data.strong_classes": ("square",), "terms.made_labels.weight": 1.0,
     "data.quota": {"dense": 1, "tags": 1}},
    {"terms.boxes.weight": 1.0, "data.quota": {"dense": 1, "box": 1}},
])  # fmt: skip
def test_boxes_and_transfer_need_a_background(tiny_config, tmp_path, make_folder, changes):
    make_folder.classes = ("sky", "square", "car")
    on_folder(tiny_config, make_folder(tags=True, boxes=True), {"dense": 2})
    for path, value in changes.items():
        edit(path, value)(tiny_config)
    with pytest.raises(ValueError, match=r"whose class 0 is background, but here that is none.*sky, square, car"):
        train(tiny_config, tmp_path)


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


def test_a_missing_dataset_folder_is_named(tiny_config, tmp_path):
    on_folder(tiny_config, Path("nowhere at all"), {"dense": 2})
    with pytest.raises(ValueError, match="nowhere at all is no dataset of the layout 'folder'"):
        train(tiny_config, tmp_path)
