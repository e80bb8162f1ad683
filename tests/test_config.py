"""The config: what validation refuses and how it says so, storing as JSON, and comparing two runs."""

import json
import re

import pytest
from ml_collections import ConfigDict

from semiseg_jax import cli
from semiseg_jax.config import (
    FREE_FIELDS,
    OPEN_FIELDS,
    default_config,
    differences,
    fields,
    from_json,
    parse_arg,
    settings,
    to_json,
    with_method,
)
from semiseg_jax.config_files import load_config
from semiseg_jax.methods import METHODS


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
    assert settings(default_config()).method == "supervised"


def test_each_call_gives_an_independent_config():
    changed = default_config()
    changed.optimizer.momentum = 0.5
    assert default_config().optimizer.momentum == 0.9


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("stepz", ["config.stepz", "Did you mean steps?"]),
        ("data.quotas", ["config.data.quotas", "Did you mean quota?"]),
        ("optimizer.lerning_rate", ["config.optimizer.lerning_rate", "Did you mean learning_rate?"]),
        ("distributed.zzz", ["config.distributed.zzz", "coordinator, enabled, process, processes"]),
        ("terms.zzz", ["config.terms.zzz", "absent_tags, boxes, cross_entropy"]),
        ("zzz", ["config.zzz", "The fields here are accumulate, augment, balance_classes"]),
    ],
)
def test_unknown_field_fails_naming_it_and_the_known_ones(path, said):
    config = default_config()
    assign(config, path, 1)
    with pytest.raises(ValueError, match="is no field") as error:
        settings(config)
    for part in said:
        assert part in str(error.value)


def test_a_checkpoint_is_not_chosen_by_boundaries_that_are_never_measured():
    config = default_config()
    config.checkpoint.metric = "boundary_f"
    assert settings(config)
    config.eval.boundary = "never"
    with pytest.raises(ValueError, match=r"checkpoint.metric is boundary_f, which eval.boundary='never' turns off"):
        settings(config)


@pytest.mark.parametrize("path", ["steps", "data.quota", "optimizer.momentum", "eval", "terms.boxes", "terms"])
def test_a_field_that_is_not_there_has_its_default(path):
    config = default_config()
    node, leaf = parent_and_leaf(config, path)
    del node[leaf]
    assert settings(config) == settings(default_config())


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
        settings(config)


@pytest.mark.parametrize(
    ("path", "value"),
    [("optimizer.learning_rate", 1), ("class_weights", [1.0, 2.0]), ("augment.crop", [32, 32]), ("ema", 0)],
)
def test_integers_pass_as_floats_and_lists_as_tuples(path, value):
    config = default_config()
    assign(config, path, value)
    assert settings(config)


@pytest.mark.parametrize(
    ("path", "value", "known"),
    [
        ("parallel", "xmap", "shard_map, pmap"),
        ("dtype", "float16", "float32, bfloat16"),
        ("optimizer.name", "lamb", "adamw, sgd"),
        ("optimizer.schedule", "step", "cosine, poly, constant"),
        ("augment.scale_draw", "linear", "log, uniform, window"),
        ("adversarial.output_stride", 64, "8, 16, 32"),
        ("eval.mode", "crop", "whole, slide"),
        ("eval.weights", "ema", "auto, raw"),
    ],
)
def test_bad_choice_fails_with_the_known_ones(path, value, known):
    config = default_config("adversarial")
    assign(config, path, value)
    with pytest.raises(ValueError, match=rf"config\.{path} is {value!r}; known: {known}"):
        settings(config)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("steps", 0),
        ("accumulate", 0),
        ("eval.every", -1),
        ("log.every", 0),
        ("eval.batch_size", 0),
        ("data.threads", -1),
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
        ("augment.rotate", -1.0),
        ("augment.rotate", 181.0),
    ],
)
def test_value_out_of_range_fails_naming_the_field(path, value):
    config = default_config()
    assign(config, path, value)
    with pytest.raises(ValueError, match=rf"config\.{path} is {re.escape(str(value))} but must be"):
        settings(config)


def test_class_weights_are_either_given_or_balanced():
    config = default_config()
    config.balance_classes, config.class_weights = 0.5, (1.0, 2.0)
    with pytest.raises(ValueError, match=r"config\.balance_classes and class_weights exclude each other"):
        settings(config)


@pytest.mark.parametrize("multipliers", [("stem", 10.0), (10.0, "stem"), (("stem",),), ((10.0, "stem"),)])
def test_multipliers_are_pairs(multipliers):
    config = default_config()
    config.optimizer.multipliers = multipliers
    needed = r"config\.optimizer\.multipliers is .* but must be a (tuple of a text and a number|text)"
    with pytest.raises(ValueError, match=needed):
        settings(config)


def test_curvilinear_total_variation_knows_no_contrast():
    config = default_config()
    config.terms.total_variation.norm, config.terms.total_variation.contrast = "curvilinear", 0.2
    with pytest.raises(ValueError, match=r"config\.terms\.total_variation\.contrast goes with norm 'l1' or 'l2'"):
        settings(config)


@pytest.mark.parametrize("path", OPEN_FIELDS)
def test_open_dicts_may_hold_any_key(path):
    config = default_config()
    values = {
        "data.simulate": {"whatever": {}},
        "data.class_map": {"whatever": {"what": "ever"}},
        "model": {"name": "unet", "whatever": 1},
    }
    value = values.get(path, {"whatever": 1})
    assign(config, path, value)
    assert settings(config)


def test_json_round_trip_of_the_default_changes_nothing():
    config = from_json(to_json(default_config()))
    settings(config)
    assert config.to_dict() == default_config().to_dict()


def test_json_round_trip_replaces_open_dicts_as_a_whole():
    config = default_config()
    config.data.quota = {"scribble": 3}
    config.data.assign = {"scribble": 0.25, "dense": 4}
    config.data.simulate = {"points": {"number": 2}}
    config.data.class_map = {"coco": {"airplane": "aeroplane"}}
    config.model = ConfigDict({"name": "unet", "widths": (8, 16), "norm": "batch"})
    config.optimizer.multipliers = (("classifier/.*", 10.0),)
    restored = from_json(to_json(config))
    assert restored.data.quota.to_dict() == {"scribble": 3}  # without the default's "dense"
    assert restored.data.assign.to_dict() == {"scribble": 0.25, "dense": 4}
    assert restored.data.simulate.to_dict() == {"points": {"number": 2}}
    assert restored.data.class_map.to_dict() == {"coco": {"airplane": "aeroplane"}}
    assert restored.model.name == "unet"
    assert list(restored.model.widths) == [8, 16]
    assert [tuple(pair) for pair in restored.optimizer.multipliers] == [("classifier/.*", 10.0)]
    assert differences(config, restored) == []
    settings(restored)


def test_emptied_open_dict_stays_empty_through_json():
    config = default_config()
    config.data.quota = {}
    assert from_json(to_json(config)).data.quota.to_dict() == {}


def test_json_of_an_older_program_gets_todays_defaults_for_the_fields_it_lacks():
    stored = json.loads(to_json(default_config()))
    stored["steps"] = 7
    del stored["ema"], stored["log"], stored["model"], stored["data"]["quota"], stored["eval"]["overlap"]
    config = from_json(json.dumps(stored))
    settings(config)
    expected = default_config()
    expected.steps = 7
    assert config.to_dict() == expected.to_dict()


def test_json_with_a_field_that_no_longer_exists_fails_naming_it():
    stored = json.loads(to_json(default_config()))
    stored["optimizer"]["lookahead"] = 5
    with pytest.raises(ValueError, match=r"optimizer\.lookahead"):
        settings(from_json(json.dumps(stored)))


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
    with pytest.raises(ValueError, match="'size' is unknown; known: path, crop"):
        parse_arg("size=3", path="", crop=1)
    with pytest.raises(ValueError, match="'pth' is unknown; did you mean 'path'"):
        parse_arg("pth=x", path="", crop=1)


def test_parse_arg_tells_a_misspelt_name_behind_a_path_from_a_folder_with_commas():
    assert parse_arg("path=a,b=c,crop=2", path="", crop=1).path == "a,b=c"
    assert parse_arg("path=a,crops", path="", crop=1).path == "a,crops"
    with pytest.raises(ValueError, match="'corp' is unknown; did you mean 'crop'"):
        parse_arg("path=a,corp=2", path="", crop=1)


def test_parse_arg_wrong_type_fails_naming_the_argument():
    with pytest.raises(ValueError, match="crop='big' must be of type int"):
        parse_arg("crop=big", crop=1)
    with pytest.raises(ValueError, match="simulated='flase' must be of type bool"):
        parse_arg("simulated=flase", simulated=True)


# Numbers that may be negative.
ANY_NUMBER = {"seed", "data.seed"}
# Texts that no list of choices limits; what they name is looked for when it is used.
FREE_TEXT = {
    "data.name", "data.path", "data.data_dir", "data.train_split", "data.eval_split", "data.made_labels",
    "pretrained.path", "distributed.coordinator", "transfer.classifier_backbone", "transfer.classifier_weights",
    "log.tracker",
}  # fmt: skip


def scalars():
    for path, default, _ in fields():
        if isinstance(default, int | float | str) and not isinstance(default, bool) and path != "method":
            yield path, "zzz" if isinstance(default, str) else -7


@pytest.mark.parametrize(("path", "value"), scalars())
def test_an_impossible_value_of_any_field_is_refused_by_its_name(path, value):
    section = path.partition(".")[0]
    owners = [name for name, method in METHODS.items() if section in method.sections]
    config = default_config(owners[-1] if owners else "supervised")
    assign(config, path, value)
    if path in ANY_NUMBER | FREE_TEXT:
        assert settings(config)
    else:
        with pytest.raises(ValueError, match=rf"config\.{path} is {value!r}"):
            settings(config)


def test_another_method_brings_its_own_fields_and_keeps_all_others():
    config = load_config("quickstart")
    changed = with_method(config, "unimatch")
    assert changed.consistency.threshold == 0.95
    assert differences(config, changed)[-1] == "method: gated_crf -> unimatch"
    back = with_method(changed, "gated_crf")
    assert back.to_dict() == config.to_dict()


def test_a_config_that_is_not_of_this_method_is_told_by_the_command_line(capsys):
    assert cli.main(["config", "--config=supervised", "--config.adversarial.features=8"]) == 1
    assert "belongs to adversarial and transfer, but the method here is 'supervised'" in capsys.readouterr().err
    assert cli.main(["config", "--config=total_variation", "--config.total_variation.rounds=2"]) == 1
    assert "config.total_variation.rounds is now called config.rounds.number" in capsys.readouterr().err
    assert (
        cli.main(["config", "--config=supervised", "--config.method=adversarial", "--config.adversarial.features=8"])
        == 0
    )
    assert "adversarial.features = 8  (64)" in capsys.readouterr().out


def test_a_workdir_from_before_the_methods_had_their_own_sections_is_still_read():
    stored = json.loads(to_json(load_config("total_variation:rounds=2,weight=0.5")))
    rounds = stored.pop("rounds")
    stored["total_variation"] = {"rounds": 2, "round_steps": rounds["steps"], "cut": rounds["cut"]}
    stored |= {"adversarial": {"features": 64}, "transfer": {"rounds": 1}, "consistency": {"threshold": 0.95}}
    stored["terms"]["total_variation"]["start"] = 500  # steps, of 2,000
    for name in ("dice", "lovasz", "focal"):
        del stored["terms"][name]
    config = from_json(json.dumps(stored))
    expected = load_config("total_variation:rounds=2,weight=0.5")
    expected.terms.total_variation.start = 0.25
    assert config.to_dict() == expected.to_dict()
