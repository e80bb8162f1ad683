"""The files of configs/: their arguments, and the settings of the papers."""

import importlib.util
import operator
import re
from pathlib import Path

import jax
import pytest

from semiseg_jax.config import differences, from_json, to_json
from semiseg_jax.config_checks import validate
from semiseg_jax.methods import make_method
from semiseg_jax.verbs.workdir import dummy_batch

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def load(name: str):
    path = next(path for path in CONFIGS if path.stem == name)
    spec = importlib.util.spec_from_file_location(f"config_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["supervised", "gated_crf", "total_variation"])
def test_kinds_of_labels_share_a_batch(name):
    get = load(name).get_config
    assert get("labels=dense+scribble+points").data.quota.to_dict() == {"dense": 3, "scribble": 3, "points": 2}
    with pytest.raises(ValueError, match=r"batch=1 leaves no row for some of labels=dense\+points"):
        get("labels=dense+points,batch=1")
    for labels in ("", "dense+", "dense+dense"):
        with pytest.raises(ValueError, match=f"labels='{re.escape(labels)}' must be different kinds"):
            get(f"labels={labels}")


@pytest.mark.parametrize("name", ["adversarial", "mean_teacher", "unimatch"])
def test_of_a_folder_all_masks_are_used_unless_fewer_are_asked_for(name):
    get = load(name).get_config
    assert get("path=DIR").data.assign.to_dict() == {}
    assert get("path=DIR,labelled=50").data.assign.to_dict() == {"dense": 50, "unlabeled": 1.0}
    assert get("").data.assign.to_dict() == {"dense": 0.125, "unlabeled": 0.875}


def test_boxes_are_drawn_from_masks_where_some_masks_are_withheld():
    get = load("label_uncertainty").get_config
    for arg, simulated in (("", {}), (",masks=5", {"box": {}}), (",setting=paper", {"box": {}})):
        config = get(f"path=DIR{arg}")
        assert config.data.simulate.to_dict() == simulated
        assert bool(config.data.assign) == bool(simulated)


@pytest.mark.parametrize("name", ["label_uncertainty", "adversarial", "mean_teacher", "unimatch", "transfer"])
def test_a_batch_of_one_row_has_no_room_for_masks(name):
    with pytest.raises(ValueError, match="batch=1 leaves no row for masks"):
        load(name).get_config("batch=1")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_loads_validates_and_says_how_to_run_it(path):
    module = load(path.stem)
    config = module.get_config()
    validate(config)
    assert differences(config, from_json(to_json(config))) == []
    assert f"semiseg train --config=configs/{path.name}" in module.__doc__


@pytest.mark.parametrize(
    ("name", "arg"),
    [
        ("total_variation", "setting=paper"),
        ("total_variation", "rounds=3"),
        ("gated_crf", "setting=paper"),
        ("label_uncertainty", "setting=paper"),
        ("adversarial", "setting=paper"),
        ("adversarial", "setting=released"),
        ("transfer", "setting=paper,strong=dog"),
        ("unimatch", "labelled=50"),
    ],
)
def test_every_setting_of_a_paper_makes_networks_and_optimisers(name, arg):
    config = load(name).get_config(arg)
    validate(config)
    method = make_method(config, 21)
    batch = dummy_batch((64, 64), 21)
    for stage in method.stages(config):
        state = jax.eval_shape(stage.init, jax.random.PRNGKey(0), batch)
        assert state.networks


ADVERSARIAL = {
    "model.name": "deeplab_v2", "augment.crop": (321, 321), "augment.scale_draw": "uniform",
    "steps": 20_000,
    "optimizer.name": "sgd", "optimizer.learning_rate": 2.5e-4, "optimizer.momentum": 0.9, "optimizer.schedule": "poly",
    "adversarial.adversarial_labelled_weight": 0.01, "adversarial.adversarial_unlabelled_weight": 0.001,
    "adversarial.semi_weight": 0.1, "adversarial.semi_start": 5000 / 20_000, "adversarial.threshold": 0.2,
    "adversarial.features": 64, "adversarial.output_stride": 32, "adversarial.sees_image": False,
    "adversarial.optimizer.learning_rate": 1e-4, "adversarial.optimizer.name": "adamw",
    "adversarial.optimizer.weight_decay": 0.0,  # that is Adam
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "arg", "documented"),
    [
        ("adversarial", "setting=paper", ADVERSARIAL | {
            "optimizer.nesterov": True, "optimizer.weight_decay": 1e-4, "adversarial.optimizer.betas": (0.9, 0.999),
        }),
        ("adversarial", "setting=released", ADVERSARIAL | {
            "optimizer.nesterov": False, "optimizer.weight_decay": 5e-4, "adversarial.optimizer.betas": (0.9, 0.99),
            "model.aspp_branches": 2, "augment.flip": 0.0, "augment.scale": (1.0, 1.0),
        }),
        ("gated_crf", "setting=paper,labels=points", {
            "model.backbone": "resnet34", "augment.crop": (256, 256), "augment.scale": (0.5, 2.0),
            "augment.scale_draw": "window", "batch_size": 48,
            "steps": 90_000, "optimizer.name": "sgd", "optimizer.learning_rate": 0.007, "optimizer.momentum": 0.9,
            "optimizer.weight_decay": 1e-4, "optimizer.schedule": "poly", "terms.gated_crf.weight": 0.1,
            "terms.gated_crf.start": 450 / 90_000, "terms.gated_crf.radius": 5, "terms.gated_crf.sources": "valid",
            "terms.gated_crf.kernels": ({"weight": 1.0, "xy": 6.0, "rgb": 0.1},),
        }),
    ],
    ids=["adversarial", "adversarial released", "gated_crf"],
)  # fmt: skip
def test_settings_of_papers_have_the_numbers_that_are_documented(name, arg, documented):
    config = load(name).get_config(arg)
    found = {field: operator.attrgetter(field)(config) for field in documented}
    assert found == documented


@pytest.mark.parametrize("name", ["gated_crf", "label_uncertainty"])
def test_settings_of_papers_train_all_layers_alike_from_pretrained_weights(name):
    config = load(name).get_config("setting=paper,weights=resnet.npz")
    assert config.pretrained.path == "resnet.npz"
    assert config.model.name == "deeplab_v3plus"
    assert config.optimizer.multipliers == ()


@pytest.mark.parametrize("argument", ["crop=64", "batch=2", "steps=5", "layout=torchvision"])
def test_what_the_setting_of_a_paper_fixes_is_no_argument_beside_it(argument):
    name = argument.partition("=")[0]
    with pytest.raises(ValueError, match=f"'{name}' is fixed by setting=released"):
        load("adversarial").get_config(f"setting=released,{argument}")
    load("adversarial").get_config(f"setting=small,{argument}")


def test_supervised_config_takes_arguments():
    module = load("supervised")
    config = module.get_config("path=somewhere,labels=scribble,crop=64,batch=2,steps=5")
    validate(config)
    assert (config.data.name, config.data.path) == ("folder", "somewhere")
    assert config.data.quota.to_dict() == {"scribble": 2}
    assert (config.augment.crop, config.steps) == ((64, 64), 5)


def test_the_quickstart_can_be_run_on_its_masks_alone():
    mixed, alone = (load("quickstart").get_config(arg) for arg in ("", "labels=masks"))
    assert alone.data.quota.to_dict() == {"dense": sum(mixed.data.quota.values())}
    assert alone.data.assign == mixed.data.assign  # and so the same masks
    assert not any(options.weight for name, options in alone.terms.items() if name != "cross_entropy")
