"""The argument of a config, `"dataset=voc,labels=points"`: how configs read it and help lists it."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class ArgumentProbe(str):
    """The empty argument of a `get_config`; it takes down what `parse_arg` is asked for, so that help can list it."""

    defaults: dict[str, str | int | float | bool | tuple[str, ...]]

    def __new__(cls) -> "ArgumentProbe":
        probe = super().__new__(cls)
        probe.defaults = {}
        return probe


def parse_arg(arg: str, **defaults: str | int | float | bool | tuple[str, ...]) -> ConfigDict:
    """`"dataset=voc,labels=points"` -> values over `defaults`, typed as these. Unknown names fail.

    A tuple lists the words that are possible, the default first.
    """
    if isinstance(arg, ArgumentProbe):
        arg.defaults.update(defaults)
    given: dict[str, str] = {}
    last = ""
    for item in filter(None, arg.split(",")):
        name, sign, text = item.partition("=")
        misspelt = bool(sign and _meant(name, defaults))
        if last == "path" and name not in defaults and not misspelt:  # a folder's name may hold commas
            given[last] += f",{item}"
            continue
        given[name], last = text if sign else "true", name
    values: dict[str, Any] = {name: value[0] if isinstance(value, tuple) else value for name, value in defaults.items()}
    for name, text in given.items():
        if name not in defaults:
            meant = f"; did you mean {near!r}?" if (near := _meant(name, defaults)) else ""
            raise ValueError(f"config argument {name!r} is unknown{meant}; known: {', '.join(defaults)}")
        kind = type(values[name])
        try:
            values[name] = YES_OR_NO[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise ValueError(f"config argument {name}={text!r} must be of type {kind.__name__}") from None
        choices = defaults[name]
        if isinstance(choices, tuple) and text not in choices:
            raise ValueError(f"config argument {name}={text!r} is unknown; known: {', '.join(choices)}")
    return ConfigDict(values)


def _meant(name: str, known: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)), "")


def set_fields(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets path -> value, such as `optimizer.learning_rate`; a dict as a whole replaces what was there."""
    for path, value in values.items():
        *parents, leaf = path.split(".")
        node = config
        for part in parents:
            node = node[part]
        node[leaf] = ConfigDict(value) if isinstance(value, dict) else value
