"""Finds methods, terms, networks and datasets by name: our own, those of installed packages, and any class."""

import difflib
import importlib
import importlib.metadata
from collections.abc import Mapping
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
        return outside[name].load()
    if ":" in name:
        return _imported(name, group)
    names = sorted({*known, *outside})
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"unknown {group[:-1]} {name!r}.{hint} Known {group}: {', '.join(names)}. One of your own is named "
        '"package.module:Class"'
    )


def from_packages(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """What installed packages add to a group, by name."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=f"semiseg_jax.{group}")}


def _imported(name: str, group: str) -> Any:
    path, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(path)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and path.startswith(error.name or "?")
        where = "; install its package, or start from the folder that holds it" if missing else ""
        raise ValueError(f"{group[:-1]} {name!r} cannot be imported: {error}{where}") from error
    except AttributeError:
        raise ValueError(f"{group[:-1]} {name!r}: module {path} has no {attribute!r}") from None
    return found
