"""The notebooks: every cell runs, every picture shows something, and the files hold no outputs."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).parent / "helpers" / "run_notebook.py"
NOTEBOOKS = sorted((Path(__file__).parents[1] / "experiments" / "notebooks").glob("*.ipynb"))
# What takes the place of their parameters: a few steps show that every cell runs.
SMALL = {
    "quickstart": ["STEPS=4"],
    "results": ["STEPS=4"],
    "your_labels": ["STEPS=4"],
    "your_method": ["STEPS=4"],
    "your_model": ["STEPS=3"],
}
NEEDS = {"your_labels": ["anywidget"]}


def run(notebook: Path, folder: Path, *values: str) -> subprocess.CompletedProcess[str]:
    """The notebook in a fresh Python that starts from `folder`, drawing to memory."""
    quick = {"MPLBACKEND": "Agg", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiling takes longer than running
    path = os.pathsep.join(filter(None, [str(RUNNER.parents[2]), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(RUNNER), str(notebook), *values],
        cwd=folder,
        env={**os.environ, "TFDS_DATA_DIR": str(folder.parent / "datasets"), "PYTHONPATH": path, **quick},
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
def test_every_cell_runs_and_every_picture_shows_something(notebook, tmp_path):
    for package in NEEDS.get(notebook.stem, ()):
        pytest.importorskip(package)
    done = run(notebook, tmp_path, *SMALL.get(notebook.stem, ()))
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
            ast.parse("".join(cell["source"]))  # plain Python, without %magic
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert notebook.stat().st_size < 100_000


def test_notebooks_begin_with_the_same_cell_that_installs_from_an_address_that_the_reader_gives():
    starts = set()
    for notebook in NOTEBOOKS:
        first = next(cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code")
        text = "".join(first["source"])
        assert text.startswith('REPOSITORY = ""  # ')
        starts.add(re.sub(r'"matplotlib".*', "", text))  # what else each needs
    assert len(starts) == 1


@pytest.mark.heavy
def test_a_failing_cell_is_named_with_its_line(write_notebook, tmp_path):
    done = run(write_notebook("a = 1", "b = a\nb / 0"), tmp_path)
    assert done.returncode == 1
    assert "b / 0" in done.stderr
    assert done.stderr.splitlines()[-1] == "failed: sample.ipynb, cell 2 (b = a): ZeroDivisionError: division by zero"


@pytest.mark.heavy
def test_parameters_are_replaced_and_a_class_of_a_cell_is_found_by_its_name(write_notebook, tmp_path):
    notebook = write_notebook(
        "A = 1", "class C: pass", "import pkgutil\nassert pkgutil.resolve_name('__main__:C') is C"
    )
    cells = json.loads(notebook.read_text())
    cells["cells"][0]["metadata"] = {"tags": ["parameters"]}
    cells["cells"].append({"cell_type": "code", "source": ["print('A is', A)"]})
    notebook.write_text(json.dumps(cells))
    assert run(notebook, tmp_path, "A=2").stdout.splitlines() == ["A is 2", "[]"]
    assert "has no parameter B" in run(notebook, tmp_path, "B=2").stderr


@pytest.mark.heavy
def test_pictures_without_content_are_reported(write_notebook, tmp_path):
    start = "import matplotlib.pyplot as plt\nfigure, (left, right) = plt.subplots(1, 2)\n"
    start += "left.set_title('left')\nright.set_title('right')\nleft.imshow([[0, 1]])\n"
    done = run(write_notebook(start, start + "right.imshow([[2, 2]])", start + "right.plot([0, 1])"), tmp_path)
    assert [figure["blank"] for figure in json.loads(done.stdout)] == [["right"], ["right"], []]
