"""The config: what validation refuses and how it says so, storing as JSON, and comparing two runs."""

import importlib.util
import json
import operator
import re
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from semiseg_jax.config import (
    FREE_FIELDS,
    OPEN_FIELDS,
    default_config,
    differences,
    from_json,
    parse_arg,
    to_json,
)
from semiseg_jax.config_checks import validate
from semiseg_jax.methods import make_method
from semiseg_jax.verbs.workdir import dummy_batch

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def parent_and_leaf(config: ConfigDict, path: str) -> tuple[ConfigDict, str]:
    *parents, leaf = path.split(".")
    for part in parents:
        config = config[part]
    return config, leaf


def assign(config: ConfigDict, path: str, value) -> None:
    """Sets a field past the type checks of ConfigDict, as a config file that builds its own dicts can."""
    node, leaf = parent_and_leaf(config, path)
    with node.ignore_type():
        node[leaf] = value


def test_default_config_validates():
    assert validate(default_config()) is None


def test_each_call_gives_an_independent_config():
    changed = default_config()
    changed.optimizer.momentum = 0.5
    assert default_config().optimizer.momentum == 0.9


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("stepz", ["'stepz'", "did you mean steps?"]),
        ("data.quotas", ["'data.quotas'", "did you mean data.quota?"]),
        ("optimizer.lerning_rate", ["'optimizer.lerning_rate'", "did you mean optimizer.learning_rate?"]),
        ("distributed.zzz", ["'distributed.zzz'", "coordinator, enabled, process, processes"]),
        ("zzz", ["'zzz'", "known here: accumulate, adversarial, augment"]),
    ],
)
def test_unknown_field_fails_naming_it_and_the_known_ones(path, said):
    config = default_config()
    assign(config, path, 1)
    with pytest.raises(ValueError, match="config has no field") as error:
        validate(config)
    for part in said:
        assert part in str(error.value)


@pytest.mark.parametrize("path", ["steps", "data.quota", "optimizer.momentum", "eval"])
def test_missing_field_fails_naming_it(path):
    config = default_config()
    node, leaf = parent_and_leaf(config, path)
    del node[leaf]
    with pytest.raises(ValueError, match=f"lacks the field {path}"):
        validate(config)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("steps", "10"),
        ("steps", 1.5),
        ("steps", True),
        ("dtype", 32),
        ("ema", "0.9"),
        ("ema", True),
        ("class_weights", "1,2"),
        ("class_weights", 1.0),
        ("data.skip_bad", 1),
        ("data.quota", 8),
        ("data.canvas", 512),
        ("augment.crop", 96),
        ("augment", 3),
        ("model", "unet"),
        ("optimizer.nesterov", 0),
        ("eval.scales", 1.0),
    ],
)
def test_wrong_type_fails_naming_the_field(path, value):
    config = default_config()
    assign(config, path, value)
    with pytest.raises(ValueError, match=rf"config\.{path}\b"):
        validate(config)


@pytest.mark.parametrize(
    ("path", "value"),
    [("optimizer.learning_rate", 1), ("class_weights", [1.0, 2.0]), ("augment.crop", [32, 32]), ("ema", 0)],
)
def test_integers_pass_as_floats_and_lists_as_tuples(path, value):
    config = default_config()
    assign(config, path, value)
    assert validate(config) is None


@pytest.mark.parametrize(
    ("path", "value", "known"),
    [
        ("parallel", "xmap", "shard_map, pmap"),
        ("dtype", "float16", "float32, bfloat16"),
        ("optimizer.name", "lamb", "adamw, sgd"),
        ("optimizer.schedule", "step", "cosine, poly, constant"),
        ("eval.mode", "crop", "whole, slide"),
        ("eval.weights", "ema", "auto, raw"),
    ],
)
def test_bad_choice_fails_with_the_known_ones(path, value, known):
    config = default_config()
    assign(config, path, value)
    with pytest.raises(ValueError, match=rf"config\.{path} is '{value}'; known: {known}"):
        validate(config)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("steps", 0),
        ("accumulate", 0),
        ("eval.every", -1),
        ("log.every", 0),
        ("eval.batch_size", 0),
        ("data.threads", 0),
        ("eval.overlap", 1.0),
        ("eval.overlap", -0.1),
        ("ema", 1.0),
        ("ema", -0.5),
        ("balance_classes", 1.5),
        ("balance_classes", -0.5),
        ("terms.gated_crf.pixel", (5,)),
        ("terms.gated_crf.pixel", (5, -1)),
        ("terms.total_variation.contrast", -0.1),
        ("terms.boxes.mean_start", -3.0),
        ("terms.boxes.bootstrap_variance", -1.0),
        ("terms.boxes.min_share", 7.0),
        ("terms.boxes.min_crossed", 1.5),
        ("optimizer.power", -1.0),
        ("optimizer.betas", (0.9, 1.0)),
        ("class_weights", (1.0, -1.0)),
    ],
)
def test_value_out_of_range_fails_naming_the_field(path, value):
    config = default_config()
    assign(config, path, value)
    with pytest.raises(ValueError, match=rf"config\.{path} is {re.escape(str(value))} but must be"):
        validate(config)


def test_class_weights_are_either_given_or_balanced():
    config = default_config()
    config.balance_classes, config.class_weights = 0.5, (1.0, 2.0)
    with pytest.raises(ValueError, match=r"config\.balance_classes and config\.class_weights exclude each other"):
        validate(config)


def test_norms_that_are_frozen_do_not_decay():
    config = default_config()
    config.model.norm, config.optimizer.decay_vectors = "frozen", True
    with pytest.raises(ValueError, match=r"optimizer\.decay_vectors would shrink the scales of model\.norm='frozen'"):
        validate(config)


def test_curvilinear_total_variation_knows_no_contrast():
    config = default_config()
    config.terms.total_variation.norm, config.terms.total_variation.contrast = "curvilinear", 0.2
    with pytest.raises(ValueError, match=r"config\.terms\.total_variation\.contrast goes with norm 'l1' or 'l2'"):
        validate(config)


@pytest.mark.parametrize("path", OPEN_FIELDS)
def test_open_dicts_may_hold_any_key(path):
    config = default_config()
    assign(config, path, {"whatever": 1})
    assert validate(config) is None


def test_json_round_trip_of_the_default_changes_nothing():
    config = from_json(to_json(default_config()))
    validate(config)
    assert config.to_dict() == default_config().to_dict()


def test_json_round_trip_replaces_open_dicts_as_a_whole():
    config = default_config()
    config.data.quota = {"scribble": 3}
    config.data.assign = {"scribble": 0.25, "dense": 4}
    config.data.simulate = {"points": {"number": 2}}
    config.model = ConfigDict({"name": "unet", "widths": (8, 16), "norm": "batch"})
    config.optimizer.multipliers = (("classifier/.*", 10.0),)
    restored = from_json(to_json(config))
    assert restored.data.quota.to_dict() == {"scribble": 3}  # without the default's "dense"
    assert restored.data.assign.to_dict() == {"scribble": 0.25, "dense": 4}
    assert restored.data.simulate.to_dict() == {"points": {"number": 2}}
    assert restored.model.name == "unet"
    assert list(restored.model.widths) == [8, 16]
    assert [tuple(pair) for pair in restored.optimizer.multipliers] == [("classifier/.*", 10.0)]
    assert differences(config, restored) == []
    validate(restored)


def test_emptied_open_dict_stays_empty_through_json():
    config = default_config()
    config.data.quota = {}
    assert from_json(to_json(config)).data.quota.to_dict() == {}


def test_json_of_an_older_program_gets_todays_defaults_for_the_fields_it_lacks():
    stored = json.loads(to_json(default_config()))
    stored["steps"] = 7
    del stored["ema"], stored["log"], stored["model"], stored["data"]["quota"], stored["eval"]["overlap"]
    config = from_json(json.dumps(stored))
    validate(config)
    expected = default_config()
    expected.steps = 7
    assert config.to_dict() == expected.to_dict()


def test_json_with_a_field_that_no_longer_exists_fails_naming_it():
    stored = json.loads(to_json(default_config()))
    stored["optimizer"]["lookahead"] = 5
    with pytest.raises(ValueError, match=r"optimizer\.lookahead"):
        validate(from_json(json.dumps(stored)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("log.every", 99),
        ("eval.flip", True),
        ("checkpoint.metric", "pixel_accuracy"),
        ("data.threads", 1),
        ("data.data_dir", "/elsewhere"),
        ("distributed.enabled", True),
    ],
)
def test_differences_ignores_free_fields(path, value):
    new = default_config()
    assign(new, path, value)
    assert any(path == field or path.startswith(field + ".") for field in FREE_FIELDS)
    assert differences(default_config(), new) == []


def test_differences_lists_every_changed_field_with_both_values():
    new = default_config()
    new.steps = 5
    new.optimizer.name = "sgd"
    new.data.quota = {"scribble": 2}
    assert differences(default_config(), new) == [
        "data.quota.dense: 8 -> absent",
        "data.quota.scribble: absent -> 2",
        "optimizer.name: adamw -> sgd",
        "steps: 1000 -> 5",
    ]


def test_differences_takes_lists_and_tuples_for_the_same():
    new = default_config()
    assign(new, "augment.crop", [96, 96])
    assert differences(default_config(), new) == []


def test_parse_arg_types_values_after_their_defaults():
    given = parse_arg("name=voc,crop=64,rate=1e-3,flag,other=False", name="", crop=1, rate=0.5, flag=False, other=True)
    assert given.to_dict() == {"name": "voc", "crop": 64, "rate": 1e-3, "flag": True, "other": False}
    assert type(given.crop) is int


def test_parse_arg_without_text_gives_the_defaults():
    assert parse_arg("", path="", batch=8).to_dict() == {"path": "", "batch": 8}


def test_parse_arg_takes_one_of_the_words_of_a_tuple():
    assert parse_arg("", setting=("small", "paper")).setting == "small"
    assert parse_arg("setting=paper", setting=("small", "paper")).setting == "paper"
    with pytest.raises(ValueError, match="setting='papr' is unknown; known: small, paper"):
        parse_arg("setting=papr", setting=("small", "paper"))


def test_parse_arg_keeps_equals_signs_of_a_value():
    assert parse_arg("path=a=b", path="").path == "a=b"


def test_parse_arg_unknown_name_fails_with_the_known_ones():
    with pytest.raises(ValueError, match="'pth' is unknown; known: path, crop"):
        parse_arg("pth=x", path="", crop=1)


def test_parse_arg_wrong_type_fails_naming_the_argument():
    with pytest.raises(ValueError, match="crop='big' must be of type int"):
        parse_arg("crop=big", crop=1)
    with pytest.raises(ValueError, match="simulated='flase' must be of type bool"):
        parse_arg("simulated=flase", simulated=True)


@pytest.mark.parametrize("name", ["supervised", "gated_crf", "total_variation"])
def test_kinds_of_labels_share_a_batch(name):
    get = load(name).get_config
    assert get("labels=dense+scribble+points").data.quota.to_dict() == {"dense": 3, "scribble": 3, "points": 2}
    with pytest.raises(ValueError, match=r"batch=1 leaves no row for some of labels=dense\+points"):
        get("labels=dense+points,batch=1")


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


def load(name: str):
    path = next(path for path in CONFIGS if path.stem == name)
    spec = importlib.util.spec_from_file_location(f"config_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    "model.name": "deeplab_v2", "augment.crop": (321, 321), "steps": 20_000,
    "optimizer.name": "sgd", "optimizer.learning_rate": 2.5e-4, "optimizer.momentum": 0.9, "optimizer.schedule": "poly",
    "adversarial.adversarial_labelled_weight": 0.01, "adversarial.adversarial_unlabelled_weight": 0.001,
    "adversarial.semi_weight": 0.1, "adversarial.semi_start": 5000 / 20_000, "adversarial.threshold": 0.2,
    "adversarial.features": 64, "adversarial.optimizer.learning_rate": 1e-4, "adversarial.optimizer.name": "adamw",
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
            "model.backbone": "resnet34", "augment.crop": (256, 256), "augment.scale": (0.5, 2.0), "batch_size": 48,
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
