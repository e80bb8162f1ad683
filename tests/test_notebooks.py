"""The notebooks: every cell runs, every picture shows something, and the files hold no outputs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).parent / "helpers" / "run_notebook.py"
NOTEBOOKS = sorted((Path(__file__).parents[1] / "experiments" / "notebooks").glob("*.ipynb"))


def run(notebook: Path) -> subprocess.CompletedProcess[str]:
    """The notebook in a fresh Python, in its own directory as under Jupyter, drawing to memory."""
    return subprocess.run(
        [sys.executable, str(RUNNER), str(notebook)],
        cwd=notebook.parent,
        # Compiling takes longer than running.
        env={**os.environ, "MPLBACKEND": "Agg", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def write_notebook(tmp_path):
    """Cells -> a notebook file."""

    def write(*sources: str) -> Path:
        cells = [{"cell_type": "code", "source": source.splitlines(keepends=True)} for source in sources]
        path = tmp_path / "sample.ipynb"
        path.write_text(json.dumps({"cells": cells}))
        return path

    return write


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.heavy
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_and_every_picture_shows_something(notebook):
    done = run(notebook)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures
    assert not [figure for figure in figures if figure["blank"] or not figure["axes"]]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_small_and_hold_no_outputs(notebook):
    content = json.loads(notebook.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) >= (4, 5)
    names = [cell["id"] for cell in content["cells"]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names)
    for cell in content["cells"]:
        assert isinstance(cell["metadata"], dict)
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert notebook.stat().st_size < 100_000


@pytest.mark.heavy
def test_a_failing_cell_is_named_with_its_line(write_notebook):
    done = run(write_notebook("a = 1", "b = a\nb / 0"))
    assert done.returncode == 1
    assert "b / 0" in done.stderr
    assert done.stderr.splitlines()[-1] == "failed: sample.ipynb, cell 2 (b = a): ZeroDivisionError: division by zero"


@pytest.mark.heavy
def test_pictures_without_content_are_reported(write_notebook):
    start = "import matplotlib.pyplot as plt\nfigure, (left, right) = plt.subplots(1, 2)\n"
    start += "left.set_title('left')\nright.set_title('right')\nleft.imshow([[0, 1]])\n"
    done = run(write_notebook(start, start + "right.imshow([[2, 2]])", start + "right.plot([0, 1])"))
    assert [figure["blank"] for figure in json.loads(done.stdout)] == [["right"], ["right"], []]
