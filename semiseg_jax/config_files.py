"""Configs by file or by name. Those in the folder `configs/` ship with the package and are found from any folder."""

import ast
import contextlib
import difflib
import importlib.machinery
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from semiseg_jax.config_arguments import ArgumentProbe

_PACKAGE = Path(__file__).parent
# File or name, and argument; the letter of a Windows drive belongs to the file.
_SPEC = re.compile(r"((?:[A-Za-z]:(?=[\\/]))?[^:]*):?(.*)", re.DOTALL)


def shipped_configs() -> dict[str, Path]:
    """Name -> file of every config that ships with the package."""
    installed = _PACKAGE / "configs"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "configs"  # the second in a checkout
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def load_config(spec: str) -> ConfigDict:
    """The config that `"NAME"`, `"NAME:arguments"`, `"FILE.py"` or `"FILE.py:arguments"` stands for.

    Args:
      spec: the name of a config that ships with the package (`semiseg list configs`), or the path of a file with a
        function `get_config`. What follows a colon is its argument, e.g. `"gated_crf:path=DIR,labels=points"`.

    Returns:
      The config, whose fields may then be changed.
    """
    path, arg = _find(spec)
    module = _load(path)
    with _blamed(path):
        config = module.get_config(arg) if arg else module.get_config()
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"config file {path}: get_config returned {type(config).__name__}; it must return the ConfigDict that "
            "semiseg_jax.default_config() gives, with some fields changed"
        )
    return config


def explain_config(spec: str) -> str:
    """The text at the top of a config's file, and the arguments that it takes with their defaults."""
    path, _ = _find(spec)
    defaults = arguments_of(spec)
    lines = [(_load(path).__doc__ or f"{path} has no text at its top.").strip(), ""]
    if not defaults:
        return "\n".join([*lines, "It takes no arguments."])
    lines.append("Arguments, after a colon and joined by commas, with their defaults:")
    for name, default in defaults.items():
        first, *others = default if isinstance(default, tuple) else (default,)
        value = str(first).lower() if isinstance(first, bool) else str(first)
        lines.append(f"  {name}={value}" + (f"   or {', '.join(others)}" if others else ""))
    return "\n".join(lines)


def arguments_of(spec: str) -> dict[str, str | int | float | bool | tuple[str, ...]]:
    """The arguments that a config takes, with their defaults; a tuple lists the words that are possible."""
    path, _ = _find(spec)
    module, probe = _load(path), ArgumentProbe()
    with contextlib.suppress(Exception):  # it may refuse to be without an argument; what it asked for is known by then
        module.get_config(probe)
    return probe.defaults


def first_line(path: Path) -> str:
    """The first line of the text at the top of a Python file, which is not run."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _find(spec: str) -> tuple[Path, str]:
    """Name or file, and argument. A shipped name is that config, whatever files lie around."""
    name, arg = _SPEC.fullmatch(spec).groups()  # type: ignore[union-attr]  # it matches any text
    shipped = shipped_configs()
    if name in shipped:
        return shipped[name], arg
    if Path(name).is_file():
        return Path(name), arg
    near = difflib.get_close_matches(Path(name).stem, shipped, n=1)
    if not near and Path(f"{name}.py").is_file():
        near = [f"{name}.py"]
    raise ValueError(
        f"config {name!r} is neither a file nor the name of a config that ships with semiseg_jax"
        + (f"; did you mean --config={near[0]}?" if near else "")
        + f"\nShipped: {', '.join(shipped)}"
    )


def _load(path: Path) -> ModuleType:
    name = f"semiseg_config_{path.stem}"
    loader = importlib.machinery.SourceFileLoader(name, str(path))  # which, unlike others, takes any suffix
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look up the module that they are in
    with _blamed(path):
        loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise ValueError(
            f"config file {path} has no function get_config(arg=''); it returns semiseg_jax.default_config() with some "
            "fields changed"
        )
    return module


@contextlib.contextmanager
def _blamed(path: Path) -> Iterator[None]:
    """Names the config file that raised and its line. A ValueError tells of an argument and is passed on as it is."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"config file {path}" + (f", line {lines[-1]}" if lines else "")
        raise ValueError(f"{place}: {type(error).__name__}: {error}") from error
