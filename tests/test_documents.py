"""What README and docs show and name exists: commands, fields, files, links, extras, names of Python; their blocks run.

A code block that cannot run here stands below a comment that says why: <!-- skip: next "needs weights" -->. Its
`semiseg` commands are still read by the command line, which assembles the config and starts nothing.
"""

import functools
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
import unittest

import pytest
from documents import (
    DOCUMENTS,
    ROOT,
    SMALL,
    anchors,
    blocks,
    commands,
    make_place,
    name_of,
    prose,
    record_verbs,
    semiseg_commands,
)
from shared_programs import shared_programs

import semiseg_jax
from semiseg_jax import cli
from semiseg_jax.config import default_config, settings
from semiseg_jax.config_files import shipped_configs
from semiseg_jax.models import MODELS

EVERY = pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENTRY_POINTS = ("semiseg_jax.methods", "semiseg_jax.trackers")  # groups of them


@pytest.fixture
def here(tmp_path, monkeypatch):
    make_place(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@functools.cache
def every_field() -> set[str]:
    """Those that the generated table lists, and their sections."""
    fields = re.findall(r"^\| `([\w.]+)` \|", (ROOT / "docs" / "fields.md").read_text(), re.MULTILINE)
    named = {field.rsplit(".", depth)[0] for field in fields for depth in range(field.count(".") + 1)}
    options = set().union(*(inspect.signature(model).parameters for model in MODELS.values()))
    return named | {"model.name"} | {f"model.{option}" for option in options}


# Reading all commands takes seconds; those of the README are read in every run of the tests.
COMMANDS = pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.name == "README.md" else pytest.mark.heavy) for path in DOCUMENTS],
    ids=name_of,
)


@COMMANDS
def test_the_command_line_takes_every_command_that_is_shown(path, here, monkeypatch):
    for source in blocks(path, "python"):
        if found := re.match(r"# (\w+\.py)\n", source):
            (here / found[1]).write_text(source)
    monkeypatch.syspath_prepend(str(here))
    called = record_verbs(monkeypatch, lambda *_: default_config())
    for args in semiseg_commands(path):
        before = len(called)
        cli.main(args)
        assert len(called) > before, f"semiseg {' '.join(args)}"  # what it says is below
        verb, given = called[-1]
        if verb in ("train", "preflight"):
            settings(given[0])  # checks everything that needs no data
    for name in ("my_method", "my_term", "my_dataset", "my_network"):
        sys.modules.pop(name, None)


@EVERY
def test_other_programs_that_are_shown_exist(path):
    for source in [*blocks(path, "bash"), *re.findall(r"`([^`\n]+)`", prose(path))]:
        for file in re.findall(r"\bpython(?:3)? ([\w/]+\.py)", source.replace("NAME.py", "losses.py")):
            if file.startswith(("experiments/", "tests/")):
                assert (ROOT / file.replace("claims/losses", "claims/claims")).exists(), file
    extras = PROJECT["optional-dependencies"]
    for line in re.findall(r"pip install ([^`\n]+)", path.read_text()):
        for names in re.findall(r"(?:semiseg[-_]jax|py3-none-any\.whl|['\" ]\.)[^'\"\s\[]*\[([\w,-]+)\]", line):
            assert set(names.split(",")) <= extras.keys(), line
        for version in re.findall(r"semiseg_jax-([\d.]+)-py3", line):
            assert version == semiseg_jax.__version__


@EVERY
def test_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"\w+:", target):
            assert target.startswith("https://"), target
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{name_of(path)} links to {target}"
        assert not anchor or anchor in anchors(found), f"{name_of(path)} links to {target}"


@EVERY
def test_files_and_configs_that_are_named_exist(path):
    text = path.read_text()
    for name in re.findall(r"`((?:experiments|tests|docs|configs|semiseg_jax|\.ci)/[\w./]+)`", text):
        assert (ROOT / name.replace("NAME", "losses")).exists() or "NAME" in name, name
    for name in re.findall(r"--config=(\w+)", text):
        assert name in {*shipped_configs(), "NAME", "FILE"}, name


@EVERY
def test_fields_that_are_named_exist(path):
    """In text, `terms.gated_crf.weight`; where a name could be something else too, only those of a known section."""
    fields = every_field()
    sections = {field.partition(".")[0] for field in fields if "." in field}
    for name in re.findall(r"`(?:config\.|--config\.)?([a-z_]+(?:\.[a-z_]+)+)\b(?=[=`])", prose(path)):
        section = name.partition(".")[0]
        if section in sections and not name.endswith((".json", ".py", ".md", ".txt", ".png")):
            assert name in fields, name


@EVERY
def test_names_of_python_that_are_named_exist(path):
    for name in re.findall(r"`((?:semiseg_jax|ops|losses|models)(?:\.\w+)+)`", prose(path)):
        module, _, attribute = name.rpartition(".")
        module = module if module.startswith("semiseg_jax") else f"semiseg_jax.{module}"
        if name not in ENTRY_POINTS:
            assert hasattr(importlib.import_module(module), attribute), name


def test_numbers_of_results_are_those_of_the_rows(monkeypatch):
    """Pictures carry a digest of their numbers, so that another matplotlib may draw them."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    results_page = importlib.import_module("results_page")
    assert not results_page.outdated(), "write it anew: python experiments/results_page.py"


def test_the_readme_is_short_and_begins_with_its_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    first, second, *_ = blocks(ROOT / "README.md", "bash")
    assert "semiseg train --config=quickstart" in first
    assert "pytest" in second
    assert all(len(block.splitlines()) == 1 for block in (first, second))


def run_shell(example) -> None:
    for words in commands(example.parsed):
        assert words[0] == "semiseg", f"{words[0]} does not run here; say why above the block"
        assert cli.main([*words[1:], *small_flags(words)]) == 0, " ".join(words)


def small_flags(words: list[str]) -> list[str]:
    """What makes a command short, but for what it says itself."""
    if not any(word.startswith("--config=") for word in words):
        return ["--config.data.data_dir=built"] if words[1] == "prepare" else []
    shares = '--config.data.assign={"dense": 0.2, "scribble": 0.5, "unlabeled": 0.3}'
    flags = [*SMALL, shares] if "--config=quickstart" in words else SMALL
    said = {word.partition("=")[0] for word in words}
    return [flag for flag in flags if flag.partition("=")[0] not in said]


@pytest.mark.heavy
@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if set(re.findall(r"^```(bash|python)", path.read_text(), re.M))], ids=name_of
)
def test_code_blocks_run(path, here, few_shapes, monkeypatch):
    sybil = pytest.importorskip("sybil")
    from sybil.evaluators.python import PythonEvaluator
    from sybil.parsers.markdown import CodeBlockParser, SkipParser

    load = semiseg_jax.load_config
    monkeypatch.setattr(semiseg_jax, "load_config", lambda spec: with_small(load(spec)))
    parsers = SkipParser(), CodeBlockParser("python", PythonEvaluator()), CodeBlockParser("bash", run_shell)
    document = sybil.Document.parse(str(path), *parsers)
    document.namespace["has_maxflow"] = importlib.util.find_spec("maxflow") is not None
    with shared_programs():
        for example in document.examples():
            try:
                example.evaluate()
            except unittest.SkipTest as reason:  # the comment above the block
                print(f"{name_of(path)}:{example.line} is skipped: {reason}")


def with_small(config):
    """What SMALL says, for a config in Python."""
    config.steps, config.augment.crop = 2, (32, 32)
    config.model = {"name": "unet", "widths": (8, 8)}
    config.eval.update({"every": 2, "batch_size": 2, "max_images": 2})
    config.log.tensorboard, config.data.data_dir, config.data.threads = False, "built", 1
    return config


@pytest.mark.heavy
def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("latex2mathml")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path / 'site'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(r"<(?:script|link|img)[^>]*?(?:src|href)=\"?(https?:[^\s\">]*)", page.read_text())
        assert not [address for address in loaded if "canonical" not in address], page.name
