"""What importing loads, and that dependencies between the rooms of the package point downwards only."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import semiseg_jax

PACKAGE = Path(semiseg_jax.__file__).parent
# Which rooms the modules of a room may import from; jax and other packages are not restricted here.
ROOMS = {
    "ops": {"ops"},
    "losses": {"losses", "ops"},
    "models": {"models", "ops", "losses", "options", "registry"},
    "data": {"data", "ops", "options", "registry"},
    "exchange": {"exchange", "data", "ops", "options"},
    "notebook": {"notebook", "exchange", "engine", "data", "options"},
    "engine": {"engine", "data", "models", "losses", "ops", "options", "registry"},
    "methods": {"methods", "engine", "data", "models", "losses", "ops", "options", "registry"},
    "exports": {"exports", "engine", "data", "models", "ops", "options"},
    "report": {"report", "engine", "data", "ops", "options"},
    "verbs": {
        "verbs",
        "report",
        "exports",
        "methods",
        "engine",
        "exchange",
        "data",
        "models",
        "losses",
        "ops",
        "config",
        "config_files",
        "registry",
        "options",
    },
    "config": {"config", "config_arguments", "methods", "engine", "data", "models", "options", "registry"},
    "config_files": {"config_files", "config_arguments"},
    "config_arguments": {"config_arguments"},
    "presets": {"presets", "config_arguments"},
    "options": {"options"},
    "registry": {"registry"},
}
HEAVY = ("flax", "optax", "tensorflow_datasets", "orbax", "PIL", "cv2", "grain", "tensorflow", "torch", "clu")


def modules_after(code: str) -> set[str]:
    """Top-level packages that a fresh Python has loaded after `code`."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    shown = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(json.loads(shown.stdout.splitlines()[-1]))


def test_losses_load_nothing_heavier_than_jax():
    loaded = modules_after("import semiseg_jax.losses")
    assert "jax" in loaded
    assert not loaded & set(HEAVY)


def test_the_package_itself_loads_nothing_heavy():
    loaded = modules_after("import semiseg_jax")
    assert not loaded & {"jax", *HEAVY}


@pytest.mark.heavy
def test_importing_every_module_loads_neither_tensorflow_nor_torch():
    code = (
        "import importlib, pkgutil, semiseg_jax\n"
        "for module in pkgutil.walk_packages(semiseg_jax.__path__, 'semiseg_jax.'):\n"
        "    importlib.import_module(module.name)\n"
        "[getattr(semiseg_jax, name) for name in semiseg_jax.__all__]"
    )
    loaded = modules_after(code)
    assert {"flax", "orbax", "grain", "tensorflow_datasets"} <= loaded
    assert not loaded & {"tensorflow", "torch"}


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a file imports from, inside functions too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("semiseg_jax.")}


def test_every_room_has_a_rule():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= ROOMS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_modules_import_from_their_own_room_or_rooms_below(room):
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else sorted((PACKAGE / room).rglob("*.py"))
    assert files
    upwards = {
        str(path.relative_to(PACKAGE)): sorted(imported_rooms(path) - ROOMS[room])
        for path in files
        if imported_rooms(path) - ROOMS[room]
    }
    assert not upwards


def test_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        semiseg_jax.nothing  # noqa: B018
