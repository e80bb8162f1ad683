"""Methods, terms, networks and datasets of other packages have the rights of ours."""

import importlib.metadata
import sys

import jax
import numpy as np
import outside
import pytest
from method_steps import forward, gradients, make_batch, make_config, method_of

from semiseg_jax import cli, models
from semiseg_jax.config import default_config, differences, fields, from_json, settings, to_json, with_method
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.methods import find_method
from semiseg_jax.methods.terms import known_terms
from semiseg_jax.registry import find


@pytest.fixture
def installed(monkeypatch):
    """Packages that bring things: `installed(methods={"sharp": "outside:Sharp"})`."""

    def install(**groups):
        entries = {
            f"semiseg_jax.{group}": importlib.metadata.EntryPoints(
                importlib.metadata.EntryPoint(name, value, f"semiseg_jax.{group}") for name, value in named.items()
            )
            for group, named in groups.items()
        }
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries.get(group, ()))

    return install


@pytest.mark.parametrize("group", ["methods", "terms", "models", "datasets"])
def test_an_unknown_name_lists_what_is_known_and_what_is_near(group, installed):
    installed(**{group: {"theirs": "outside:Sharp"}})
    with pytest.raises(
        ValueError, match=rf"unknown {group[:-1]} 'thers'. Did you mean 'theirs'\?.*ours, theirs"
    ) as error:
        find("thers", {"ours": object()}, group)
    assert '"package.module:Class"' in str(error.value)


def test_ours_go_before_those_of_packages_which_go_before_a_path(installed):
    installed(methods={"ours": "outside:Sharp", "theirs": "outside:Sharp"})
    assert find("ours", {"ours": 1}, "methods") == 1
    assert find("theirs", {}, "methods") is find("outside:Sharp", {}, "methods") is outside.Sharp


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no module mine_absent; install its package, or start from the folder that holds it"),
        ("import absent_library", "there is no module absent_library"),
        ("class Mine(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero; SEMISEG_TRACEBACK=1"),
        ("", "has no attribute 'Mine'"),
    ],
)
def test_what_cannot_be_imported_is_said_in_words(content, message, tmp_path, monkeypatch, installed):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"mine_{abs(hash(message))}" if content is not None else "mine_absent"
    if content is not None:
        (tmp_path / f"{name}.py").write_text(content)
    installed(methods={"installed": f"{name}:Mine"})
    for called in (f"{name}:Mine", "installed"):
        with pytest.raises(ValueError, match=f"method '{called}' cannot be imported: .*{message}"):
            find_method(called)


def test_the_command_sees_modules_in_the_current_folder_and_hides_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.path", ["/nowhere", *sys.path])
    (tmp_path / "mine_here.py").write_text("from outside import *\n")
    (tmp_path / "outside.py").write_text("raise RuntimeError('the one in the folder')\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(
        "from semiseg_jax.config import default_config\n"
        "def get_config():\n"
        "    return default_config('mine_here:Sharp')\n"
    )
    assert cli.main(["summary", "--config=config.py", "--classes=3", "--config.sharp.sharpness=3", "--features"]) == 0
    shown = capsys.readouterr().out
    assert "1x48x48x24" in shown.split("features by name")[1].split("down0 ")[1].splitlines()[0]
    monkeypatch.setitem(sys.modules, "mine_here", None)
    assert cli.main(["summary", "--config=config.py", "--classes=3"]) == 1
    assert "cannot be imported" in capsys.readouterr().err


def test_installed_things_are_listed_with_where_they_come_from(installed, capsys):
    installed(**{group: {"theirs": "outside:Thing"} for group in ("methods", "terms", "models", "datasets")})
    for kind in ("methods", "models", "datasets"):
        assert cli.main(["list", kind]) == 0
        assert "\ntheirs" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["outside:Sharp", "sharp"])
def test_a_method_from_outside_has_fields_checks_and_a_stage_of_its_own(name, installed):
    installed(methods={"sharp": "outside:Sharp"})
    config = default_config(name)
    assert config.sharp.sharpness == 2.0
    assert config.terms.entropy.power == 1.0
    assert {"sharp.sharpness", "terms.entropy.power"} <= {path for path, _, _ in fields(name)}
    config.sharp.sharpness = 5.0
    config.terms.entropy.weight = 0.5
    again = from_json(to_json(config))
    assert differences(config, again) == []
    method = method_of(again)
    assert [stage.name for stage in method.stages()] == [name.rpartition(":")[2]]
    config.sharp.sharpness = -1.0
    with pytest.raises(ValueError, match=r"config\.sharp\.sharpness is -1\.0 but must be at least 0"):
        settings(config)
    assert "sharp" not in with_method(config, "supervised")
    assert "entropy" not in with_method(config, "supervised").terms


def test_the_stage_of_a_method_may_have_a_name_of_its_own():
    assert [stage.name for stage in method_of(default_config("outside:Renamed")).stages()] == ["another_name"]


def test_a_method_from_outside_computes_with_its_options_terms_and_features():
    config = make_config("outside:Sharp")
    config.terms.entropy.weight = 0.5
    metrics = forward(config, make_batch(["dense"]))[1]
    assert metrics["sharpness"] == 2.0
    assert float(metrics["loss"]) == pytest.approx(float(metrics["cross_entropy"] + 0.5 * metrics["entropy"]), rel=1e-5)


def test_what_is_no_method_term_network_or_dataset_is_refused_saying_what_it_must_be():
    with pytest.raises(ValueError, match=r"must be a class that derives from semiseg_jax\.methods\.Segmentation"):
        find_method("outside:not_a_class")
    with pytest.raises(ValueError, match=r"must be a class that derives from semiseg_jax\.methods\.terms\.Term"):
        known_terms(("outside:Sharp",))
    with pytest.raises(ValueError, match=r"must be a class that derives from semiseg_jax\.models\.Segmenter"):
        models.make_model("outside:not_a_class", 3)
    with pytest.raises(ValueError, match="must have the attributes num_classes, dtype, axis_name; it lacks dtype"):
        models.make_model("outside:Incomplete", 3)
    config = default_config()
    config.data.name = "outside:no_dataset"
    with pytest.raises(ValueError, match=r"dataset 'outside:no_dataset' must make a semiseg_jax\.data\.records"):
        open_dataset(settings(config).data)


def test_a_class_itself_names_a_method_or_a_term():
    assert default_config(outside.Sharp, extra_terms=(outside.Entropy,)).method == "outside:Sharp"
    config = with_method(make_config("supervised"), outside.Sharp, [outside.Entropy])
    assert (config.method, config.extra_terms) == ("outside:Sharp", ("outside:Entropy",))
    assert find_method(config.method) is outside.Sharp


def test_a_class_of_a_notebook_is_found_and_its_absence_is_explained(monkeypatch):
    class Inner(outside.Sharp):
        pass

    with pytest.raises(ValueError, match="stands inside of a function, where no config can name it"):
        default_config(Inner)
    mine = type("Mine", (outside.Sharp,), {"__module__": "__main__", "__qualname__": "Mine"})
    with pytest.raises(ValueError, match="stands in a notebook or script: run its cell first, or put it in a file"):
        default_config(mine)
    monkeypatch.setattr(sys.modules["__main__"], "Mine", mine, raising=False)
    assert find_method(default_config(mine).method) is mine


def test_a_term_from_outside_joins_any_method():
    config = make_config("supervised")
    plain = float(forward(config, make_batch(["dense"]))[1]["loss"])
    config = with_method(config, "supervised", ("outside:Entropy", "outside:Named"))
    assert {"entropy", "named"} <= set(config.terms)
    config.terms.entropy.weight = 0.5
    metrics = forward(from_json(to_json(config)), make_batch(["dense"]))[1]
    assert float(metrics["loss"]) == pytest.approx(plain + 0.5 * float(metrics["entropy"]), rel=1e-5)


def test_terms_of_one_name_are_refused_and_so_is_a_text_where_a_tuple_is_meant(capsys):
    with pytest.raises(ValueError, match="term 'outside:Boxes' is called 'boxes', as another term is"):
        default_config(extra_terms=("outside:Boxes",))
    with pytest.raises(ValueError, match="must be a tuple, such as"):
        default_config(extra_terms="outside:Entropy")
    for value in ("outside:Entropy", "'outside:Entropy'"):
        assert cli.main(["summary", "--config=supervised", f"--config.extra_terms={value}"]) == 1
        assert "must be a tuple, such as '(\"package.module:Class\",)'" in capsys.readouterr().err


def test_a_term_of_a_package_that_is_gone_matters_only_where_it_was_on(installed):
    installed(terms={"entropy": "outside:Entropy"})
    config = default_config()
    off = to_json(config)
    config.terms.entropy.weight = 1.0
    on = to_json(config)
    installed()
    assert "entropy" not in from_json(off).terms
    with pytest.raises(ValueError, match=r"has a field 'terms\.entropy\.\w+' that this version does not know"):
        from_json(on)


@pytest.mark.parametrize("name", ["outside:Tiny", "tiny"])
def test_a_network_from_outside_serves_every_method(name, installed):
    installed(models={"tiny": "outside:Tiny"})
    config = make_config("unimatch", quota={"dense": 1, "unlabeled": 1})
    config.model = {"name": name, "width": 6}
    grads, _, metrics = gradients(config, make_batch(["dense", "unlabeled"]))
    assert grads["segmenter"]["encoder"]["kernel"].shape == (4, 4, 3, 6)
    assert np.isfinite(metrics["loss"])
    with pytest.raises(ValueError, match=f"model '{name}' has no option widht; its options: variance, width"):
        models.make_model(name, 3, widht=6)


def test_a_dataset_from_outside_is_built_with_its_options(tmp_path):
    config = default_config()
    config.data.update({"name": "outside:Grey", "data_dir": str(tmp_path), "options": {"count": 2}})
    dataset = open_dataset(settings(config).data)
    assert [len(dataset.records(split)) for split in ("train", "val")] == [2, 2]
    config.data.options = {"number": 2}
    with pytest.raises(ValueError, match=r"config\.data\.options\.number is no field"):
        open_dataset(settings(config).data)


def test_features_cost_nothing_where_no_method_asks_for_them():
    plain, with_features = (method_of(make_config(name)) for name in ("supervised", "outside:Sharp"))
    variables = jax.eval_shape(plain.init, jax.random.key(0), make_batch(["dense"])).networks["segmenter"].variables
    image = make_batch(["dense"])["image"]
    assert "features" not in jax.eval_shape(plain.look, variables, image)
    assert jax.eval_shape(with_features.look, variables, image)["features"]["down0"].shape == (1, 16, 16, 4)
    programs = [
        str(jax.make_jaxpr(lambda v, x, m=m: m.predict(v, x))(variables, image)) for m in (plain, with_features)
    ]
    assert programs[0] == programs[1]
