"""Configs by name and by file; those of configs/: their arguments, and the settings of the papers."""

import operator
import re
from pathlib import Path

import jax
import pytest

from semiseg_jax.config import default_config, differences, from_json, settings, to_json
from semiseg_jax.config_files import explain_config, first_line, load_config, shipped_configs
from semiseg_jax.methods import make_method
from semiseg_jax.presets import changed
from semiseg_jax.verbs.workdir import dummy_batch

CONFIGS = shipped_configs()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(path: Path, body: str = "return default_config()", before: str = "") -> Path:
    path.write_text(
        f"from semiseg_jax.config import default_config, parse_arg\n{before}\ndef get_config(arg=''):\n    {body}\n"
    )
    return path


def getter(name: str):
    """A config's `get_config`, by the route of the command line."""
    return lambda arg="": load_config(f"{name}:{arg}")


@pytest.mark.parametrize("name", ["supervised", "gated_crf", "total_variation"])
def test_kinds_of_labels_share_a_batch(name):
    get = getter(name)
    assert get("labels=dense+scribble+points").data.quota.to_dict() == {"dense": 3, "scribble": 3, "points": 2}
    with pytest.raises(ValueError, match=r"batch=1 leaves no row for some of labels=dense\+points"):
        get("labels=dense+points,batch=1")
    for labels in ("", "dense+", "dense+dense"):
        with pytest.raises(ValueError, match=f"labels='{re.escape(labels)}' must be different kinds"):
            get(f"labels={labels}")


@pytest.mark.parametrize("name", ["adversarial", "mean_teacher", "unimatch"])
def test_of_a_folder_all_masks_are_used_unless_fewer_are_asked_for(name):
    get = getter(name)
    assert get("path=DIR").data.assign.to_dict() == {}
    assert get("path=my, own/a,b,steps=9").data.path == "my, own/a,b"
    assert get("path=DIR,labelled=50").data.assign.to_dict() == {"dense": 50, "unlabeled": 1.0}
    assert get("dataset=folder+images,path=A+B").data.assign.to_dict() == {}  # all masks, beside plain images
    assert get("").data.assign.to_dict() == {"dense": 0.125, "unlabeled": 0.875}


@pytest.mark.parametrize("name", ["adversarial", "mean_teacher", "unimatch", "label_uncertainty"])
def test_a_published_list_passes_through_the_arguments_of_a_config(name):
    argument, others = ("masks", "box") if name == "label_uncertainty" else ("labelled", "unlabeled")
    for file in (name, str(CONFIGS[name])):
        config = load_config(f"{file}:path=a:b,{argument}=voc:u2pl:1/8,steps=5")
        assert config.data.assign.to_dict() == {"dense": "voc:u2pl:1/8", others: 1.0}
        assert (config.data.path, config.steps) == ("a:b", 5)
        assert settings(from_json(to_json(config))).data.assign["dense"] == "voc:u2pl:1/8"


def test_an_unknown_list_or_one_of_another_family_is_refused_before_there_are_data():
    config = load_config("adversarial:path=DIR,labelled=voc:upl:1/8")
    with pytest.raises(ValueError, match=r"config\.data\.assign is wrong: no published list .* mean voc:u2pl:1/8 or"):
        settings(config)
    config.data.assign = {"dense": "voc:u2pl:1/8", "unlabeled": "voc:cps:1/8"}
    with pytest.raises(ValueError, match=r"assign is wrong: the lists 'voc:u2pl:1/8' and 'voc:cps:1/8' are of two fam"):
        settings(config)


def test_strong_classes_are_named_or_are_a_published_group():
    strong = {arg: getter("transfer")(f"strong={arg}").data.strong_classes for arg in ("cat+dog", "", "voc:fold1")}
    assert strong["cat+dog"] == ("cat", "dog")
    assert strong[""] == ()
    assert len(strong["voc:fold1"]) == 15
    with pytest.raises(ValueError, match="no group of classes is called 'voc:frist10'; did you mean voc:first10 or"):
        getter("transfer")("strong=voc:frist10")


def test_boxes_are_drawn_from_masks_where_some_masks_are_withheld():
    get = getter("label_uncertainty")
    for arg, simulated in (("", {}), (",masks=5", {"box": {}}), (",setting=paper,weights=none", {"box": {}})):
        config = get(f"path=DIR{arg}")
        assert config.data.simulate.to_dict() == simulated
        assert bool(config.data.assign) == bool(simulated)


@pytest.mark.parametrize(
    ("name", "arg"),
    [
        ("gated_crf", "setting=paper,weights=none"),
        ("adversarial", "setting=paper,weights=none"),
        ("adversarial", "setting=released,weights=none"),
        ("transfer", "setting=paper,weights=none,strong=cat+dog"),
    ],
)
def test_settings_of_papers_train_on_the_published_images_of_voc_as_they_are(name, arg):
    data = getter(name)(f"{arg},dataset=voc,path=VOCdevkit").data
    assert (data.name, data.path, data.train_split, data.eval_split) == ("voc", "VOCdevkit", "train_aug", "val")
    assert data.max_side == 0
    assert not data.simulate
    assert data.assign.to_dict() == ({"dense": 0.125, "unlabeled": 0.875} if name == "adversarial" else {})
    assert getter(name)(f"{arg},path=DIR").data.train_split == "train"


def test_on_cityscapes_labels_are_uncertain_in_boxes_of_vehicles_and_persons():
    get = getter("label_uncertainty")
    for setting in ("small", "paper"):
        data = get(f"setting={setting},weights=none,dataset=cityscapes,path=DIR").data
        assert data.options.to_dict() == {"classes": "vehicles+persons"}
        assert data.assign.to_dict() == {"dense": 0.18, "box": 0.8200000000000001}
        assert not data.simulate
    assert data.canvas == (512, 1024)
    assert not get("path=DIR").data.options


def test_on_cityscapes_the_adversarial_setting_sees_whole_images_at_half_their_size():
    config = getter("adversarial")("setting=paper,weights=none,dataset=cityscapes,path=DIR")
    assert config.augment.crop == config.data.canvas == (512, 1024)
    assert (config.augment.scale, config.steps, config.batch_size) == ((1.0, 1.0), 40_000, 4)
    assert config.adversarial.semi_start * config.steps == 5000


def test_thin_structures_change_the_norm_of_the_term_and_its_weight_where_none_is_given():
    get = getter("total_variation")
    plain, thin = get("weight=0.1"), get("weight=0.1,thin=true")
    assert thin.terms.total_variation.norm == "curvilinear"
    thin.terms.total_variation.norm = plain.terms.total_variation.norm
    assert differences(plain, thin) == []
    assert get("thin=true").terms.total_variation.weight == 0.1
    assert get("thin=true,weight=0.3").terms.total_variation.weight == get("").terms.total_variation.weight == 0.3


@pytest.mark.parametrize("name", ["label_uncertainty", "adversarial", "mean_teacher", "unimatch", "transfer"])
def test_a_batch_of_one_row_has_no_room_for_masks(name):
    with pytest.raises(ValueError, match="batch=1 leaves no row for masks"):
        getter(name)("batch=1")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_file_loads_validates_and_says_how_to_run_it(name):
    config = load_config(name)
    settings(config)
    assert differences(config, from_json(to_json(config))) == []
    text = explain_config(name)
    assert f"    semiseg train --config={name}" in text
    assert len(first_line(CONFIGS[name])) > 20


@pytest.mark.parametrize("name", CONFIGS)
def test_the_explanation_of_a_config_has_an_argument_a_line_with_its_default(name):
    lines = explain_config(name).splitlines()
    listed = dict(line[2:].partition("   or ")[0].split("=") for line in lines if re.match(r"  \w+=", line))
    given = ",".join(f"{argument}={value}" for argument, value in listed.items())
    assert differences(load_config(name), load_config(f"{name}:{given}")) == []  # fixed arguments are told elsewhere
    with pytest.raises(ValueError, match=f"known: {', '.join(listed)}$"):
        load_config(f"{name}:no_such_argument=1")


def test_the_explanation_of_a_config_lists_words_to_choose_from():
    assert "  setting=small   or paper, released\n" in explain_config("adversarial:setting=paper")
    assert "  simulated=true\n" in explain_config("label_uncertainty")


@pytest.mark.parametrize(
    ("name", "arg"),
    [
        ("total_variation", "setting=paper"),
        ("total_variation", "rounds=3"),
        ("gated_crf", "setting=paper,weights=none"),
        ("label_uncertainty", "setting=paper,weights=none"),
        ("adversarial", "setting=paper,weights=none"),
        ("adversarial", "setting=released,weights=none"),
        ("transfer", "setting=paper,weights=none,strong=dog"),
        ("unimatch", "labelled=50"),
    ],
)
def test_every_setting_of_a_paper_makes_networks_and_optimisers(name, arg):
    config = getter(name)(arg)
    settings(config)
    method = make_method(settings(config), 21)
    batch = dummy_batch((64, 64), 21)
    for stage in method.stages():
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
        ("adversarial", "setting=paper,weights=none", ADVERSARIAL | {
            "optimizer.nesterov": True, "optimizer.weight_decay": 1e-4, "adversarial.optimizer.betas": (0.9, 0.999),
        }),
        ("adversarial", "setting=released,weights=none", ADVERSARIAL | {
            "optimizer.nesterov": False, "optimizer.weight_decay": 5e-4, "adversarial.optimizer.betas": (0.9, 0.99),
            "model.aspp_branches": 2, "augment.flip": 0.0, "augment.scale": (1.0, 1.0),
        }),
        ("gated_crf", "setting=paper,weights=none,labels=points", {
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
    config = getter(name)(arg)
    found = {field: operator.attrgetter(field)(config) for field in documented}
    assert found == documented


@pytest.mark.parametrize("name", ["gated_crf", "label_uncertainty"])
def test_settings_of_papers_train_all_layers_alike_from_pretrained_weights(name):
    config = getter(name)("setting=paper,weights=resnet.npz")
    assert config.pretrained.path == "resnet.npz"
    assert config.model.name == "deeplab_v3plus"
    assert config.optimizer.multipliers == ()


@pytest.mark.parametrize("argument", ["crop=64", "batch=2", "steps=5", "layout=torchvision"])
def test_what_the_setting_of_a_paper_fixes_is_no_argument_beside_it(argument):
    name = argument.partition("=")[0]
    with pytest.raises(ValueError, match=f"'{name}' is fixed by setting=released"):
        getter("adversarial")(f"setting=released,{argument}")
    getter("adversarial")(f"setting=small,{argument}")


def test_supervised_config_takes_arguments():
    config = load_config("supervised:path=somewhere,labels=scribble,crop=64,batch=2,steps=5")
    settings(config)
    assert (config.data.name, config.data.path) == ("folder", "somewhere")
    assert config.data.quota.to_dict() == {"scribble": 2}
    assert (config.augment.crop, config.steps) == ((64, 64), 5)


def test_the_quickstart_can_be_run_on_its_masks_alone():
    mixed, alone = (getter("quickstart")(arg) for arg in ("", "labels=masks"))
    assert alone.data.quota.to_dict() == {"dense": sum(mixed.data.quota.values())}
    assert alone.data.assign == mixed.data.assign  # and so the same masks
    assert not any(options.weight for name, options in alone.terms.items() if name != "cross_entropy")


def test_the_folder_of_configs_is_what_ships():
    folder = Path(__file__).parents[1] / "configs"
    assert {path.stem for path in folder.glob("*.py")} == CONFIGS.keys()
    assert list(CONFIGS) == sorted(CONFIGS)


def test_a_shipped_config_is_found_by_its_name_from_any_folder(elsewhere):
    assert load_config("quickstart").steps == 1080
    assert load_config("supervised:path=a:b,steps=3").data.path == "a:b"


def test_a_name_means_the_shipped_config_and_a_path_means_the_file(elsewhere):
    for file in ("quickstart", "quickstart.py"):
        write_config(elsewhere / file)
    assert load_config("quickstart").steps == 1080
    for spec in ("quickstart.py", "./quickstart", str(elsewhere / "quickstart.py")):
        assert load_config(spec).steps == 1000


def test_a_file_may_have_any_suffix_or_none(elsewhere):
    write_config(elsewhere / "mine")
    write_config(elsewhere / "mine.config")
    assert load_config("mine").steps == load_config("mine.config").steps == 1000


def test_the_letter_of_a_drive_is_part_of_the_file():
    with pytest.raises(ValueError, match=re.escape(r"config 'C:\\mine\\quick.py' is neither")):
        load_config(r"C:\mine\quick.py:steps=3")
    with pytest.raises(ValueError, match="config 'c' is neither"):
        load_config("c:path=x")


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("quikstart", "did you mean --config=quickstart?"),
        ("configs/gated_crf.py:labels=points", "did you mean --config=gated_crf?"),
        ("mine:steps=3", "did you mean --config=mine.py?"),
        ("zzz", f"Shipped: {', '.join(CONFIGS)}"),
    ],
)
def test_an_unknown_config_fails_with_what_was_meant_or_what_there_is(spec, hint, elsewhere):
    write_config(elsewhere / "mine.py")
    with pytest.raises(ValueError, match=re.escape(hint)):
        load_config(spec)


@pytest.mark.parametrize(
    ("body", "before", "said"),
    [
        ("return missing", "", "line 4: NameError: name 'missing' is not defined"),
        ("return default_config()", "import no_such_package", "line 2: ModuleNotFoundError: No module named"),
        ("return (", "", "SyntaxError"),
        ("return {'steps': 3}", "", "get_config returned dict; it must return the ConfigDict"),
        ("raise ValueError('path is missing')", "", "path is missing"),
    ],
)
def test_a_config_file_that_fails_is_named_with_the_line(body, before, said, elsewhere):
    write_config(elsewhere / "mine.py", body, before)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        load_config("mine.py")
    assert "mine.py" in str(caught.value) or said == "path is missing"


def test_a_file_without_get_config_is_refused(elsewhere):
    (elsewhere / "mine.py").write_text("steps = 3\n")
    with pytest.raises(ValueError, match=r"mine\.py has no function get_config\(arg=''\)"):
        load_config("mine.py")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return default_config()", "It takes no arguments."),
        (
            "given = parse_arg(arg, path='', deep=False)\n    raise ValueError('path is missing')",
            "  path=\n  deep=false",
        ),
    ],
)
def test_a_file_explains_itself_whether_it_takes_arguments_or_insists_on_one(body, said, elsewhere):
    write_config(elsewhere / "mine.py", body)
    assert said in explain_config("mine.py")
    assert "mine.py has no text at its top." in explain_config("mine.py")


def test_the_odd_row_of_a_batch_is_not_a_mask():
    assert load_config("mean_teacher:batch=5").data.quota.to_dict() == {"dense": 2, "unlabeled": 3}


def test_settings_that_disagree_are_refused_and_their_order_is_no_matter():
    one, other = {"steps": 5, "augment.crop": (64, 64)}, {"ema": 0.5, "steps": 5}
    assert changed(default_config(), one, other).to_dict() == changed(default_config(), other, one).to_dict()
    with pytest.raises(ValueError, match="two settings disagree on steps: 5 and 6"):
        changed(default_config(), one, {"steps": 6})


@pytest.mark.parametrize("name", ["adversarial", "gated_crf", "label_uncertainty", "transfer"])
def test_settings_of_papers_ask_for_weights(name):
    with pytest.raises(ValueError, match=r"give weights=FILE, or weights=none"):
        getter(name)("setting=paper")
    assert getter(name)("setting=paper,weights=none").pretrained.path == ""
