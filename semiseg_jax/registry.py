"""Finds methods, terms, networks and datasets by name: our own, those of installed packages, and any class."""

import difflib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any


def find(name: str, known: Mapping[str, Any], group: str) -> Any:
    """What a config calls `name`.

    Args:
      name: a key of `known`; the name of an entry point of an installed package; or "package.module:Class".
      known: what this package brings.
      group: "methods", "terms", "models" or "datasets"; entry points stand under `semiseg_jax.GROUP`.
    """
    if name in known:
        return known[name]
    outside = from_packages(group)
    if name in outside:
        return _loaded(f"{group[:-1]} {name!r}", outside[name].load)
    if ":" in name:
        return _loaded(f"{group[:-1]} {name!r}", lambda: pkgutil.resolve_name(name), _advice(name))
    names = sorted({*known, *outside})
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"unknown {group[:-1]} {name!r}.{hint} Known {group}: {', '.join(names)}. One of your own is named "
        '"package.module:Class"'
    )


def name_of(thing: str | type) -> str:
    """What a config calls a class, "package.module:Class", which may stand in a notebook. Names stay as they are."""
    if isinstance(thing, str):
        return thing
    if "<locals>" in thing.__qualname__:
        raise ValueError(f"{thing.__qualname__} stands inside of a function, where no config can name it; move it out")
    return f"{thing.__module__}:{thing.__qualname__}"


def _advice(name: str) -> str:
    if not name.startswith("__main__:"):
        return ""
    return "; it stands in a notebook or script: run its cell first, or put it in a file FILE.py and name it FILE:Class"


def from_packages(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """What installed packages add to a group, by name."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=f"semiseg_jax.{group}")}


def _loaded(what: str, load: Callable[[], Any], further: str = "") -> Any:
    """What is loaded, or an error in words, also where the module itself fails."""
    try:
        return load()
    except ModuleNotFoundError as error:
        advice = f"there is no module {error.name}; install its package, or start from the folder that holds it"
        raise ValueError(f"{what} cannot be imported: {advice}") from error
    except Exception as error:
        problem = f"{type(error).__name__}: {error}{further or '; SEMISEG_TRACEBACK=1 shows where'}"
        raise ValueError(f"{what} cannot be imported: {problem}") from error
