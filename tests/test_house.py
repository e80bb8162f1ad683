"""The house rules that a program can check: sizes of files and functions, and who may know whose options."""

import ast
import re
from pathlib import Path

import pytest

import semiseg_jax
from semiseg_jax.methods import METHODS

PACKAGE = Path(semiseg_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    long = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            lines = node.end_lineno - node.body[0].lineno + 1 - (len(docstring.splitlines()) if docstring else 0)
            if lines > 60:
                long[node.name] = lines
    assert not long


def sections_of(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Sections that a file declares, and those that it reads."""
    declared, read = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "sections":
            declared |= {key.value for key in getattr(node.value, "keys", []) if isinstance(key, ast.Constant)}
        if isinstance(node, ast.Subscript) and getattr(node.value, "attr", "") == "own":
            read.add(ast.unparse(node.slice).strip("'\""))
    return declared, read


def test_no_method_reads_the_options_of_another():
    for path in sorted((PACKAGE / "methods").glob("*.py")):
        declared, read = sections_of(ast.parse(path.read_text()))
        assert read <= declared, path.name


def test_the_training_loop_knows_no_method_by_name():
    text = (PACKAGE / "verbs" / "train.py").read_text()
    assert not [name for name in METHODS if re.search(rf"\b{name}\b", text)]
