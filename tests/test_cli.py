"""The command line: help, messages instead of tracebacks, exit codes, and overrides that arrive at the verbs."""

import importlib
import platform
import types

import jax
import pytest

import semiseg_jax
from semiseg_jax import cli
from semiseg_jax.config import default_config, to_json
from semiseg_jax.config_files import shipped_configs
from semiseg_jax.data.published import CLASS_GROUPS, published_lists

COMMANDS = [
    "train",
    "evaluate",
    "predict",
    "prepare",
    "import-labels",
    "export-labels",
    "inspect",
    "summary",
    "config",
    "preflight",
    "list",
    "convert-weights",
]


@pytest.fixture
def config_file(tmp_path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(
        "from semiseg_jax.config import default_config, parse_arg\n"
        "def get_config(arg=''):\n"
        "    config = default_config()\n"
        "    config.steps = parse_arg(arg, steps=11).steps\n"
        "    config.data.quota = {'dense': 2, 'scribble': 6}\n"
        "    return config\n"
    )
    return str(path)


@pytest.fixture
def workdir(tmp_path) -> str:
    (tmp_path / "config.json").write_text(to_json(default_config()))
    return str(tmp_path)


@pytest.fixture
def verb(monkeypatch):
    """Replaces a verb by a recorder: `calls = verb("train", result)` -> list of (args, kwargs)."""

    def replace(name: str, result=None) -> list:
        calls: list = []

        def record(*args, **kwargs):
            calls.append((args, kwargs))
            return result

        monkeypatch.setattr(importlib.import_module(f"semiseg_jax.verbs.{name}"), name, record)
        return calls

    return replace


@pytest.fixture
def trained(verb):
    return verb("train", types.SimpleNamespace(signal=0))


@pytest.mark.parametrize(("args", "code"), [([], 2), (["--help"], 0), (["-h"], 0), (["help"], 0)])
def test_usage_lists_every_command_and_an_example(args, code, capsys):
    assert cli.main(args) == code
    shown = capsys.readouterr().out
    assert all(f"semiseg {command} " in shown for command in COMMANDS)
    assert "semiseg train --config=quickstart --workdir=" in shown


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_an_example_and_its_flags(command, flag, capsys):
    assert cli.main([command, flag]) == 0
    shown = capsys.readouterr().out
    examples = [line for line in shown.splitlines() if line.startswith(f"  semiseg {command} ")]
    assert examples
    assert "--verbosity" in shown
    if command in ("train", "evaluate", "predict"):
        assert "--workdir" in shown


def test_help_wins_over_other_flags(capsys):
    assert cli.main(["evaluate", "--workdir=nowhere", "--help"]) == 0
    assert "semiseg evaluate" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "prepare", "inspect", "summary"])
def test_help_of_a_command_with_a_config_explains_the_config_too(command, capsys):
    assert cli.main([command, "--config=gated_crf:labels=points", "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"  semiseg {command} " in shown
    assert "  --config.FIELD: overrides any field" in shown
    assert "Clicks or scribbles and the Gated CRF loss" in shown
    assert "\n  setting=small   or paper\n  labels=scribble\n" in shown


def test_help_with_an_unknown_config_fails_naming_it(capsys):
    assert cli.main(["train", "--config=gated_crv", "--help"]) == 1
    assert "did you mean --config=gated_crf?" in capsys.readouterr().err


def test_version_is_one_line_with_the_versions_of_jax_and_python(capsys):
    assert cli.main(["--version"]) == 0
    shown = capsys.readouterr().out
    assert (
        shown == f"semiseg_jax {semiseg_jax.__version__}, jax {jax.__version__}, Python {platform.python_version()}\n"
    )


def test_published_splits_are_listed_a_line_each_with_their_size_and_where_they_come_from(capsys):
    assert cli.main(["list", "splits"]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(shown) == [*published_lists(), *CLASS_GROUPS]
    assert shown["voc:cps:1/16"].startswith("662 images, 93 in voc:train; charlesCXK/TorchSemiSeg 5e0c29c DATA/")
    assert shown["voc:cps:1/16"].endswith("train_aug_labeled_1-16.txt; the same in LiheYoung/UniMatch")
    assert shown["cityscapes:val"].startswith("500 images; LiheYoung/UniMatch 0324f3d splits/cityscapes/val.txt; the")
    assert shown["voc:first10"].startswith("10 classes for strong=: aeroplane, bicycle")


def test_configs_are_listed_a_line_each(capsys):
    assert cli.main(["list", "configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_configs())
    assert lines[1].split(maxsplit=1)[1].startswith("Clicks or scribbles and the Gated CRF loss")


@pytest.mark.parametrize("args", [[], ["nets"], ["configs", "models"]])
def test_list_of_anything_else_fails_saying_what_can_be_listed(args, capsys):
    assert cli.main(["list", *args]) == 1
    assert "knows: configs, methods, terms" in capsys.readouterr().err


def test_a_shipped_config_is_trained_by_its_name_with_arguments_and_overrides(tmp_path, monkeypatch, trained):
    monkeypatch.chdir(tmp_path)
    spec = "quickstart:labels=masks"
    for config in (
        [f"--config={spec}"],
        ["--config", spec],
        [f"-config={spec}"],
        ["--config=supervised", f"--config={spec}"],
    ):
        assert cli.main(["train", *config, "--workdir=w", "--config.steps=7"]) == 0
    for (config, workdir), _ in trained:
        assert (workdir, config.steps, config.method, config.augment.crop) == ("w", 7, "supervised", (64, 64))


def test_unknown_command_fails_and_lists_the_known_ones(capsys):
    assert cli.main(["trian"]) == 2
    message = capsys.readouterr().err
    assert "unknown command 'trian'" in message
    assert "semiseg train" in message


@pytest.mark.parametrize(
    ("args", "missing"),
    [
        (["train", "--workdir=x"], "--config is missing"),
        (["train", "--workdir=x", "--config.steps=3"], "--config is missing"),
        (["inspect"], "--config is missing"),
        (["evaluate"], "--workdir is missing"),
        (["evaluate", "--config.eval.flip=True"], "--workdir is missing"),
        (["predict", "photo.png"], "--workdir is missing"),
        (["predict", "--wrkdir=x"], "--workdir is missing; there is no flag --wrkdir"),
        (["prepare"], "a folder or --config is missing"),
        (["summary"], "--config is missing"),
        (["convert-weights", "one.pth"], "two files, please"),
    ],
)
def test_missing_flag_fails_with_an_example(args, missing, capsys):
    assert cli.main(args) == 1
    message = capsys.readouterr().err
    assert missing in message
    assert f"semiseg {args[0]} " in message
    assert "Traceback" not in message


def test_train_without_workdir_fails_with_an_example(config_file, capsys):
    assert cli.main(["train", f"--config={config_file}"]) == 1
    assert "--workdir is missing" in capsys.readouterr().err


@pytest.mark.parametrize("spelling", [["--config=no/such.py"], ["--config", "no/such.py"], ["--config=no/such.py:a=1"]])
@pytest.mark.parametrize("command", ["train", "prepare", "inspect", "summary"])
def test_missing_config_file_fails_naming_it(command, spelling, capsys):
    assert cli.main([command, *spelling]) == 1
    assert "config 'no/such.py' is neither a file nor the name of a config" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_folder_without_a_run_fails_saying_so(command, tmp_path, capsys):
    assert cli.main([command, f"--workdir={tmp_path}"]) == 1
    assert "is not a workdir" in capsys.readouterr().err


UNKNOWN_FIELDS = [
    ("--config.nope=1", "'nope'", "accumulate, augment, balance_classes"),
    ("--config.optimizer.nope=1", "'optimizer.nope'", "learning_rate, momentum"),
    ("--config.data.quoto={}", "'data.quoto'", "did you mean 'quota'?"),
    ("--config.stpes=3", "'stpes'", "did you mean 'steps'?"),
    ("--config.steps.nope=1", "'nope'", "config.steps is a value"),
]


@pytest.mark.parametrize(("override", "field", "known"), UNKNOWN_FIELDS)
@pytest.mark.parametrize("command", ["train", "prepare", "inspect", "summary"])
def test_override_of_an_unknown_field_fails_with_the_known_ones(command, override, field, known, config_file, capsys):
    assert cli.main([command, f"--config={config_file}", override]) == 1
    message = capsys.readouterr().err
    assert field in message
    assert known in message


@pytest.mark.parametrize(("override", "field", "known"), UNKNOWN_FIELDS)
def test_override_of_an_unknown_field_of_a_workdir_fails_with_the_known_ones(override, field, known, workdir, capsys):
    assert cli.main(["evaluate", f"--workdir={workdir}", override]) == 1
    message = capsys.readouterr().err
    assert field in message
    assert known in message


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--config.steps=many"], "config.steps=many"),
        (["--worddir=x"], "there is no flag --worddir; did you mean --workdir?"),
        (["--data_dir=x"], "there is no flag --data_dir; did you mean --config.data.data_dir?"),
        (["--qqq"], "there is no flag --qqq; `semiseg train --help` lists them"),
        (["stray"], "what is 'stray'?"),
    ],
)
def test_flags_that_make_no_sense_fail_naming_them(args, said, config_file, trained, capsys):
    assert cli.main(["train", f"--config={config_file}", "--workdir=w", *args]) == 1
    assert said in capsys.readouterr().err
    assert not trained


def test_unknown_argument_of_a_config_file_is_one_line_not_a_traceback(config_file, trained, capsys):
    assert cli.main(["train", f"--config={config_file}:stepz=3", "--workdir=w"]) == 1
    message = capsys.readouterr().err
    assert "config argument 'stepz' is unknown; did you mean 'steps'?; known: steps" in message
    assert "Traceback" not in message


def test_overrides_arrive_typed(config_file, trained):
    args = ["--config.optimizer.learning_rate=1", "--config.augment.crop=(32,64)", "--config.eval.scales=(0.5,1.0)"]
    args += ["--config.eval.flip", "--config.dtype", "bfloat16", "--config.optimizer.nesterov=True"]
    assert cli.main(["train", f"--config={config_file}:steps=5", "--workdir=w", *args]) == 0
    config, workdir = trained[0][0]
    assert workdir == "w"
    assert config.steps == 5
    assert config.optimizer.learning_rate == 1.0
    assert config.augment.crop == (32, 64)
    assert config.eval.scales == (0.5, 1.0)
    assert config.eval.flip is True
    assert config.dtype == "bfloat16"
    assert config.optimizer.nesterov is True


def test_a_tilde_is_the_home_folder_behind_the_name_of_a_flag_too(config_file, trained, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert cli.main(["train", f"--config={config_file}", "--workdir=~/runs/a~b", "--config.data.path=~/data"]) == 0
    config, workdir = trained[0][0]
    assert (config.data.path, workdir) == ("/home/me/data", "/home/me/runs/a~b")


def test_overrides_of_one_call_do_not_leak_into_the_next(config_file, trained):
    cli.main(["train", f"--config={config_file}", "--workdir=w", "--config.seed=5"])
    cli.main(["train", f"--config={config_file}", "--workdir=w"])
    assert [args[0].seed for args, _ in trained] == [5, 0]


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ('--config.data.quota={"dense": 1}', ("data", "quota"), {"dense": 1}),
        ('--config.data.quota={"points": 4, "tags": 1}', ("data", "quota"), {"points": 4, "tags": 1}),
        ('--config.data.assign={"dense": 0.5, "scribble": 10}', ("data", "assign"), {"dense": 0.5, "scribble": 10}),
        ('--config.data.simulate={"scribble": {}}', ("data", "simulate"), {"scribble": {}}),
        ('--config.model={"name": "unet", "widths": (8, 8)}', ("model",), {"name": "unet", "widths": (8, 8)}),
    ],
)
def test_dict_override_replaces_the_dict_as_a_whole(override, path, expected, config_file, trained):
    assert cli.main(["train", f"--config={config_file}", "--workdir=w", override]) == 0
    node = trained[0][0][0]
    for part in path:
        node = node[part]
    assert node.to_dict() == expected


def test_one_entry_of_a_dict_can_be_overridden_too(config_file, trained):
    assert cli.main(["train", f"--config={config_file}", "--workdir=w", "--config.data.quota.scribble=1"]) == 0
    assert trained[0][0][0].data.quota.to_dict() == {"dense": 2, "scribble": 1}


@pytest.mark.parametrize(("signal", "code"), [(0, 0), (15, 143), (2, 130)])
def test_a_stopped_training_exits_with_the_code_of_its_signal(signal, code, config_file, verb):
    verb("train", types.SimpleNamespace(signal=signal))
    assert cli.main(["train", f"--config={config_file}", "--workdir=w"]) == code


def test_evaluate_passes_flags_and_overrides_of_the_stored_config(workdir, verb):
    calls = verb("evaluate", {})
    args = ["--split=test", "--checkpoint=last", "--output=o.json", '--config.data.quota={"box": 1}']
    assert cli.main(["evaluate", "--workdir", workdir, "--config.eval.window=(16,16)", *args]) == 0
    (given,), options = calls[0]
    assert str(given) == workdir
    assert (options["split"], options["checkpoint"], str(options["output"])) == ("test", "last", "o.json")
    assert options["config"].eval.window == (16, 16)
    assert options["config"].data.quota.to_dict() == {"box": 1}


def test_predict_passes_positional_inputs_in_order(workdir, verb):
    calls = verb("predict", {"images": [{}], "failed": []})
    args = ["predict", "photos/", f"--workdir={workdir}", "more/*.jpg", "one.png", "--output=there", "--limit=3"]
    args += ["--write=index,probabilities"]
    assert cli.main(args) == 0
    (given, inputs), options = calls[0]
    assert (str(given), list(inputs)) == (workdir, ["photos/", "more/*.jpg", "one.png"])
    assert (options["output"], options["limit"], options["checkpoint"]) == ("there", 3, "best")
    assert options["write"] == "index,probabilities"


@pytest.mark.parametrize(("images", "failed", "code"), [(2, 0, 0), (1, 1, 1), (0, 2, 1), (0, 0, 0)])
def test_predict_fails_when_an_image_failed(images, failed, code, workdir, verb):
    verb("predict", {"images": [{}] * images, "failed": [{}] * failed})
    assert cli.main(["predict", f"--workdir={workdir}", "x.png"]) == code


def test_prepare_takes_a_folder_or_a_config(config_file, verb):
    calls = verb("prepare", {})
    assert cli.main(["prepare", "somewhere"]) == 0
    assert cli.main(["prepare", f"--config={config_file}", "--config.seed=4"]) == 0
    assert (calls[0][0][0].data.name, calls[0][0][0].data.path) == ("folder", "somewhere")
    assert calls[1][0][0].seed == 4


def test_prepare_refuses_two_folders(capsys):
    assert cli.main(["prepare", "one", "two"]) == 1
    assert "one folder" in capsys.readouterr().err


def test_inspect_passes_the_output(config_file, verb):
    calls = verb("inspect")
    assert cli.main(["inspect", f"--config={config_file}", "--output=b.png"]) == 0
    assert str(calls[0][0][1]) == "b.png"


def test_inspect_takes_a_folder_or_a_config(config_file, capsys):
    assert cli.main(["inspect", f"--config={config_file}", "folder"]) == 1
    assert "a folder or --config, please, not both" in capsys.readouterr().err
    assert cli.main(["inspect", "one", "two"]) == 1
    assert "one folder, please" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [ValueError, TypeError, RuntimeError, FileNotFoundError])
def test_errors_of_a_verb_are_one_message(kind, config_file, monkeypatch, capsys):
    def fail(*_, **__):
        raise kind("the reason")

    monkeypatch.setattr(importlib.import_module("semiseg_jax.verbs.train"), "train", fail)
    monkeypatch.delenv("SEMISEG_TRACEBACK", raising=False)
    assert cli.main(["train", f"--config={config_file}", "--workdir=w"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("semiseg train: the reason\n")
    assert ("SEMISEG_TRACEBACK" in shown) == (kind in (TypeError, RuntimeError))
    monkeypatch.setenv("SEMISEG_TRACEBACK", "1")
    with pytest.raises(kind, match="the reason"):
        cli.main(["train", f"--config={config_file}", "--workdir=w"])
