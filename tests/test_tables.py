"""Tables of the documents are what their commands print, and what a run will do fits a screen."""

import contextlib
import io
import os
from pathlib import Path

import pytest

from semiseg_jax import cli, load_config
from semiseg_jax.command_help import HELP
from semiseg_jax.config_files import arguments_of, shipped_configs
from semiseg_jax.verbs.config import show_config
from semiseg_jax.verbs.list import field_table, setting_table

ROOT = Path(__file__).parent.parent
RENEW = "SEMISEG_RENEW_TABLES"


def command_helps() -> str:
    """What every command says of itself, as a section each."""
    sections = []
    for command in HELP:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert cli.main([command, "--help"]) == 0
        sections.append(f"## semiseg {command}\n\n```text\n{printed.getvalue().strip()}\n```")
    return "\n\n".join(sections)


# file -> (the name of the table in it, the function that makes it)
TABLES = {
    "configs/README.md": ("settings", setting_table),
    "docs/fields.md": ("fields", field_table),
    "docs/commands.md": ("commands", command_helps),
}


def every_setting() -> list:
    specs = []
    for name in shipped_configs():
        strong = ",strong=disk" if name == "transfer" else ""
        for setting in arguments_of(name).get("setting", ("",)):
            spec = f"{name}:setting={setting},weights=none{strong}" if setting else name
            large = setting not in ("", "small")  # networks of the papers take seconds to trace
            specs.append(pytest.param(spec, marks=pytest.mark.heavy) if large else spec)
    return specs


@pytest.mark.parametrize("path", TABLES)
def test_a_table_is_what_its_command_prints(path):
    name, make = TABLES[path]
    file = ROOT / path
    before, _, rest = file.read_text().partition(f"<!-- {name} -->")
    _, _, after = rest.partition(f"<!-- /{name} -->")
    expected = f"{before}<!-- {name} -->\n\n{make()}\n\n<!-- /{name} -->{after}"
    if os.environ.get(RENEW):
        file.write_text(expected)
    assert file.read_text() == expected, f"write it anew: {RENEW}=1 python -m pytest -n 0 tests/test_tables.py"


@pytest.mark.parametrize("spec", every_setting())
def test_what_a_run_will_do_fits_a_screen(spec, capsys):
    config = load_config(spec)
    config.devices = 1
    lines = show_config(config).splitlines()
    assert capsys.readouterr().out.splitlines() == lines
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 120
    text = "\n".join(lines)
    assert "it cannot run" not in text
    for word in (
        "method",
        "stages",
        "parameters",
        "cross_entropy x 1",
        "learning rate",
        "per update on",
        "differ from",
    ):
        assert word in text


def test_everything_is_json_that_lists_every_field():
    import json

    shown = json.loads(show_config(load_config("adversarial"), everything=True))
    assert shown["adversarial"]["optimizer"]["learning_rate"] == 1e-4
    assert shown["terms"]["dice"]["weight"] == 0


def test_a_config_that_cannot_run_yet_says_why():
    assert "needs data.strong_classes" in show_config(load_config("transfer"))
    config = load_config("gated_crf:setting=paper,weights=none")
    config.batch_size = 7
    assert "batch_size 7 is not divisible by 2 devices" in show_config(config)
