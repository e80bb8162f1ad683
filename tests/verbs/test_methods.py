"""Every method from end to end on a small `shapes` set: exact resume, panels, prediction; the stages of `transfer`."""

import signal
import sys

import jax
import numpy as np
import pytest
from method_steps import TinyBackbone
from ml_collections import ConfigDict
from runs import assert_same_run, logged, saved_arrays

from semiseg_jax.config import settings, with_method
from semiseg_jax.data import records
from semiseg_jax.data.augment import on_canvas
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.data.pools import make_pools, parse_quota
from semiseg_jax.data.types import IGNORE, Supervision
from semiseg_jax.engine import parallel
from semiseg_jax.engine.inputs import make_input
from semiseg_jax.methods import FinishContext, make_method
from semiseg_jax.methods.base import with_variables
from semiseg_jax.models import backbones
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.evaluate import evaluate
from semiseg_jax.verbs.train import train


def configure(config: ConfigDict, method: str) -> ConfigDict:
    config = with_method(config, method)
    config.data.assign = {}
    config.data.quota = {
        "total_variation": {"partial": 2},
        "gated_crf": {"scribble": 2},
        "label_uncertainty": {"dense": 1, "box": 1},
    }.get(method, {"dense": 1, "unlabeled": 1})
    if "unlabeled" in config.data.quota:
        config.data.assign = {"dense": 0.5, "unlabeled": 0.5}
    if method in ("total_variation", "gated_crf"):
        config.terms[method].weight = 0.1
    config.terms.boxes.weight = float(method == "label_uncertainty")
    if "adversarial" in config:
        config.adversarial.features = 4
    config.ema = 0.9
    return config


def stop_at(step: int, stage_ends: int = 0):
    """A callback that sends SIGTERM to this process after `step` steps, in the stage after `stage_ends` others."""
    ended = 0

    def on_step(done: int) -> None:
        nonlocal ended
        if done == step and ended == stage_ends:
            signal.raise_signal(signal.SIGTERM)
        ended += done == 6

    return on_step


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=pytest.mark.heavy) for name in ("label_uncertainty", "gated_crf", "unimatch")],
)
def test_a_method_trains_and_draws_its_panel(tiny_config, tmp_path, method):
    tiny_config = configure(tiny_config, method)
    tiny_config.steps = 2
    tiny_config.log.panel_rows = 2
    tiny_config.log.hidden_masks = 2 * (method == "label_uncertainty")
    train(tiny_config, tmp_path)
    assert (tmp_path / "panels" / f"{method}_000002.png").stat().st_size
    scores = logged(tmp_path, "eval")[2]
    assert 0 <= scores["miou"] <= 1
    if method == "label_uncertainty":
        assert 0 <= scores["made_share_box"] <= 1


@pytest.mark.heavy
def test_two_networks_resume_exactly_and_a_game_that_is_over_is_said_once_in_plain_words(tiny_config, tmp_path, capsys):
    tiny_config = configure(tiny_config, "adversarial")
    tiny_config.adversarial.update({"threshold": 1.0, "semi_start": 0.0})
    tiny_config.log.panel_rows = 2
    train(tiny_config, tmp_path / "straight")
    assert capsys.readouterr().out.count("the discriminator accepts hardly a pixel at threshold 1.0") == 1
    last = logged(tmp_path / "straight", "train")[6]
    assert len(last["confidence_histogram"]) == 10
    assert last["weight_semi"] == pytest.approx(0.1)
    assert 0 < last["learning_rate_discriminator"] < last["learning_rate_segmenter"]
    assert (tmp_path / "straight" / "panels" / "adversarial_000006.png").stat().st_size
    assert train(tiny_config, tmp_path / "resumed", on_step=stop_at(3)).preempted
    train(tiny_config, tmp_path / "resumed")
    assert_same_run(tmp_path / "straight", tmp_path / "resumed", 6, "adversarial")


def configure_rounds(config: ConfigDict) -> ConfigDict:
    config = configure(config, "total_variation")
    config.data.quota = {"dense": 1, "partial": 1}
    config.data.assign = {"dense": 0.5, "partial": 0.5}
    config.rounds.update({"number": 3, "steps": 6})
    config.rounds.cut.beta = 1e4  # one class an image, so that given pixels can disagree
    return config


@pytest.mark.heavy
def test_later_rounds_of_total_variation_go_on_from_cuts_and_averages(tiny_config, tmp_path, monkeypatch):
    tiny_config = configure_rounds(tiny_config)
    tiny_config.log.update({"hidden_masks": 2, "panel_rows": 2})
    straight, starts = tmp_path / "straight", []

    def start_from(state, name, variables):
        starts.append(variables["params"])
        return with_variables(state, name, variables)

    with monkeypatch.context() as patch:
        patch.setattr("semiseg_jax.verbs.train.with_variables", start_from)
        train(tiny_config, straight)
    for stage, start in zip(("total_variation", "total_variation_2"), starts, strict=True):
        saved = saved_arrays(straight, 6, stage)
        averages = [value for name, value in saved.items() if "ema" in name]
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(start), averages)
        plain = [value for name, value in saved.items() if name.startswith("['networks']['segmenter']['params']")]
        assert any((value != average).any() for value, average in zip(plain, averages, strict=True))
    assert (straight / "panels" / "total_variation_000006.png").stat().st_size
    stages = ("total_variation", "total_variation_2", "total_variation_3")
    dataset, seen = open_dataset(settings(tiny_config).data), logged(straight, "train", stages[0])
    pools = make_pools(
        dataset.info,
        "train",
        parse_quota(tiny_config.data.quota.to_dict()),
        tiny_config.data.assign.to_dict(),
        0,
    )
    partial = {
        row["id"].decode(): row["partial"].astype(int).T
        for row in map(dataset.records("train").__getitem__, pools[Supervision.PARTIAL].tolist())
    }
    for folder in ("labels_2", "labels_3"):
        made = {path.stem: records.decode_mask(path.read_bytes(), (0, 0)) for path in (straight / folder).glob("*.png")}
        assert made.keys() == partial.keys()  # masks need no other labels
        for name, (y, x, given) in partial.items():
            np.testing.assert_array_equal(made[name][y, x], given)
    assert len(list((straight / "maps" / stages[0]).glob("*.png"))) == len(partial)
    assert "total_variation" in seen[6]
    assert seen[6]["labelled_pixels"] < 0.6
    later = logged(straight, "train", stages[1])[6]
    assert "total_variation" not in later
    assert later["labelled_pixels"] > 0.9
    assert 0 < logged(straight, "eval", stages[1])[6]["made_miou_partial"] < 1
    assert 0 <= evaluate(straight, split="val")["miou"] <= 1


def test_cuts_alone_need_no_term(tiny_config):
    tiny_config = configure_rounds(tiny_config)
    tiny_config.terms.total_variation.weight = 0.0
    stages = make_method(settings(tiny_config), 7).stages()
    assert [stage.name for stage in stages] == ["total_variation", "total_variation_2", "total_variation_3"]
    tiny_config.rounds.number = 1
    with pytest.raises(ValueError, match=r"needs terms\.total_variation\.weight to be positive"):
        make_method(settings(tiny_config), 7)


def test_given_labels_stay_where_cuts_say_otherwise(tiny_config, tmp_path):
    tiny_config = configure_rounds(tiny_config)
    (tmp_path / "labels").mkdir()
    dataset = open_dataset(settings(tiny_config).data)
    for row in dataset.info.splits["train"]:
        label = np.full(row["size"], 2, np.uint8)
        (tmp_path / "labels" / f"{row['id']}.png").write_bytes(records.encode_png(label))
    made = {"made_labels": str(tmp_path / "labels"), "made_for": ("partial",)}
    loader = make_input(settings(tiny_config).replace(data=made), dataset, 1, 1).loader
    index = int(loader.pools[Supervision.PARTIAL][0])
    record = loader.records[index]
    row = loader.example(record, Supervision.PARTIAL)
    one = {**row, "seed": np.uint32(0), "id": np.zeros(2, np.int32)}
    label = np.asarray(on_canvas(loader.layout.canvas)(jax.tree.map(lambda x: np.asarray(x)[None], one))["label"])[0]
    y, x, given = record["partial"].astype(int).T
    assert len(set(given.tolist())) > 1
    np.testing.assert_array_equal(label[y, x], given)
    others = np.ones_like(label, bool)
    others[y, x] = False
    assert set(np.unique(label[others])) <= {2, IGNORE}
    mask = loader.example(record, Supervision.DENSE)["mask"]
    assert set(np.unique(mask)) - {2, IGNORE}  # a row of kind dense keeps its mask


@pytest.mark.parametrize(
    ("quota", "made", "message"),
    [({"dense": 2}, "", "labels images without a mask"), ({"partial": 2}, "somewhere", "makes its own labels")],
)
def test_rounds_refuse_what_they_have_no_use_for(tiny_config, tmp_path, quota, made, message):
    tiny_config = configure_rounds(tiny_config)
    tiny_config.data.quota, tiny_config.data.made_labels = quota, made
    with pytest.raises(ValueError, match=message):
        train(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rounds_without_their_package_are_refused_before_anything_trains(tiny_config, tmp_path, monkeypatch):
    tiny_config = configure_rounds(tiny_config)
    monkeypatch.setitem(sys.modules, "maxflow", None)
    with pytest.raises(ModuleNotFoundError, match=r"rounds\.number above 1 needs PyMaxflow: pip install PyMaxflow"):
        train(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def configure_transfer(config: ConfigDict) -> ConfigDict:
    config = with_method(config, "transfer")
    config.data.assign = {}
    config.data.strong_classes = ("disk", "square", "star")
    config.data.quota = {"dense": 1, "tags": 1}
    config.terms.made_labels.weight = 1.0
    config.adversarial.features = 4
    config.adversarial.class_agnostic = True
    config.adversarial.semi_weight = 0.0
    config.transfer.classifier_crop = (64, 64)
    config.transfer.cam_scales = (1.0,)
    config.transfer.pictures = 2
    config.transfer.rounds = 2
    config.ema = 0.9
    return config


@pytest.fixture(autouse=True)
def _tiny_classifier(monkeypatch):
    monkeypatch.setattr(backbones, "make_backbone", lambda name, /, **options: TinyBackbone(name="backbone"))


@pytest.mark.heavy
def test_transfer_resumes_in_any_stage_and_never_opens_a_mask_of_a_weak_class(tiny_config, tmp_path, monkeypatch):
    tiny_config = configure_transfer(tiny_config)
    dataset = open_dataset(settings(tiny_config).data)
    pools = make_pools(
        dataset.info, "train", parse_quota({"dense": 1, "tags": 1}), {}, 0, tiny_config.data.strong_classes
    )
    weak = [dataset.records("train")[int(i)] for i in pools[Supervision.TAGS]]
    assert weak
    closed = {record["mask"] for record in weak}
    original = records.decode_mask

    def guarded(data, size):
        if data in closed:
            raise ValueError("a mask of a weak class was opened")
        return original(data, size)

    for module in ("data.pipeline", "engine.panels", "verbs.evaluate", "data.records"):
        monkeypatch.setattr(f"semiseg_jax.{module}.decode_mask", guarded)
    tiny_config.log.panel_rows = 4
    train(tiny_config, tmp_path / "straight")
    rows = [row for stage in ("classifier", "l_net", "p_net", "p_net_2")
            for row in logged(tmp_path / "straight", "train", stage).values()]  # fmt: skip
    assert len(rows) == 16
    assert not any("replaced_records" in row for row in rows)  # as an unreadable mask would be

    resumed = tmp_path / "resumed"
    assert train(tiny_config, resumed, on_step=stop_at(2, stage_ends=1)).preempted  # in the L-Net
    before = (resumed / "cams").stat().st_mtime_ns
    assert train(tiny_config, resumed, on_step=stop_at(4, stage_ends=1)).preempted  # in the first P-Net
    assert (resumed / "cams").stat().st_mtime_ns == before  # what is done is not done again
    train(tiny_config, resumed)
    for stage in ("classifier", "l_net", "p_net", "p_net_2"):
        assert_same_run(tmp_path / "straight", resumed, 6, stage)
    for stage in ("classifier", "l_net", "p_net"):
        assert len(list((resumed / "maps" / stage).glob("*.png"))) == 2
    names = {record["id"].decode() for record in weak}
    for folder in ("labels", "labels_2"):
        assert {path.stem for path in (resumed / folder).glob("*.png")} == names
    assert 0 <= evaluate(resumed, split="val")["miou"] <= 1


def test_labels_of_activation_maps_alone_need_no_l_net(tiny_config, tmp_path):
    tiny_config = configure_transfer(tiny_config)
    tiny_config.transfer.labels_from = "cam"
    tiny_config.transfer.rounds = 1
    dataset = open_dataset(settings(tiny_config).data)
    classifier, p_net = make_method(settings(tiny_config), dataset.info.num_classes).stages()
    assert (classifier.name, p_net.name) == ("classifier", "p_net")
    batch = workdirs.dummy_batch(tiny_config.transfer.classifier_crop, dataset.info.num_classes)
    state = jax.jit(classifier.init)(jax.random.PRNGKey(0), batch)
    options = workdirs.inference_options(settings(tiny_config), (96, 96))
    classifier.finish(parallel.fetch(state), FinishContext(tmp_path, dataset, options))
    made = [
        records.decode_mask(path.read_bytes(), (0, 0))
        for path in (tmp_path / p_net.config.data.made_labels).glob("*.png")
    ]
    assert made
    assert set(np.unique(made)) > {IGNORE}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data.strong_classes", (), "needs data.strong_classes"),
        ("data.strong_classes", ("disc",), "has no class 'disc'"),
        ("data.assign", {"dense": 0.5, "tags": 0.5}, "exclude each other"),
        ("data.quota", {"dense": 2}, "needs rows of kind tags"),
        ("log.hidden_masks", 4, "never opens a mask"),
        ("data.eval_split", "train", "24 of its images are evaluated in split 'train'"),
    ],
)
def test_transfer_refuses_what_it_cannot_do(tiny_config, tmp_path, field, value, message):
    tiny_config = configure_transfer(tiny_config)
    section, name = field.split(".")
    tiny_config[section][name] = value
    with pytest.raises(ValueError, match=message):
        train(tiny_config, tmp_path)
    assert not (tmp_path / "checkpoints").exists()  # refused before the first stage trains


def test_made_labels_stand_in_for_masks_and_missing_ones_are_named(tiny_config, tmp_path):
    tiny_config.data.quota = {"dense": 1, "unlabeled": 1}
    tiny_config.data.assign = {"dense": 0.5, "unlabeled": 0.5}
    tiny_config.data.made_labels = str(tmp_path / "made")
    with pytest.raises(ValueError, match=r"lacks 12 of the 12 images of kind unlabeled, the first is train_\d+\.png"):
        train(tiny_config, tmp_path / "run")
    (tmp_path / "made").mkdir()
    for row in open_dataset(settings(tiny_config).data).info.splits["train"]:
        label = np.full(row["size"], 2, np.uint8)
        (tmp_path / "made" / f"{row['id']}.png").write_bytes(records.encode_png(label))
    dataset = open_dataset(settings(tiny_config).data)
    loader = make_input(settings(tiny_config), dataset, 1, 1).loader
    index = int(loader.pools[Supervision.UNLABELED][0])
    assert set(np.unique(loader.example(loader.records[index], Supervision.UNLABELED)["mask"])) <= {2, IGNORE}
