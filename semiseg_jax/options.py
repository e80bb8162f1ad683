"""Options of a room, a term or a method: frozen dataclasses whose fields carry their meaning and their limits.

    @dataclasses.dataclass(frozen=True)
    class Blur(Options):
        sigma: float = option(1.0, "width in pixels", low=0)

`Blur(sigma=-1.0)` raises an error that names the field; `read(Blur, {"sigma": 2})` makes one of what a config holds.
"""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class OptionError(ValueError):
    """A field that does not exist, or a value that it cannot have."""

    def __init__(self, field: str, problem: str):
        super().__init__(f"{field} {problem}")
        self.field, self.problem = field, problem


def option(
    default: T,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    choices: Sequence[Any] = (),
) -> T:
    """A field with its default and one line of meaning.

    Args:
      default: dicts are copied for each instance.
      meaning: shown by `semiseg list fields`.
      low, high, below: limits of a number, or of every number in a tuple; `below` is not allowed itself.
      choices: the values that are possible, if only these are.
    """
    about = {"meaning": meaning, "low": low, "high": high, "below": below, "choices": tuple(choices)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=functools.partial(dict, default), metadata=about)  # type: ignore[return-value]
    return dataclasses.field(default=default, metadata=about)


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of all options: types and limits of every field are checked when one is made.

    A class that has more to check does so in its own `__post_init__`, after `super().__post_init__()`.
    """

    def __post_init__(self) -> None:
        cls: Any = type(self)
        types_of = _types(cls)
        for field in dataclasses.fields(self):
            value = _as(types_of[field.name], getattr(self, field.name), field.name)
            object.__setattr__(self, field.name, value)
            _check_limits(field.name, value, field.metadata)


def read(cls: type[T], values: Mapping[str, Any], path: str = "config") -> T:
    """The options that a dict holds; fields that it lacks have their defaults. Errors name fields below `path`."""
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise OptionError(f"{path}.{name}", unknown_field(name, known))
    try:
        return cls(**values)
    except OptionError as error:
        raise OptionError(f"{path}.{error.field}", error.problem) from None


def unknown_field(name: str, known: Sequence[str]) -> str:
    """What is wrong with a field that does not exist."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"is no field.{hint} The fields here are {', '.join(sorted(known))}"


def described(cls: type, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """(path, default, meaning) of every field, also of options within options."""
    for field in dataclasses.fields(cls):
        kind = _types(cls)[field.name]
        if isinstance(kind, type) and issubclass(kind, Options):
            yield from described(kind, f"{path}{field.name}.")
        elif "meaning" in field.metadata:
            made = field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            yield path + field.name, default, field.metadata["meaning"]


@functools.cache
def _types(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _as(kind: Any, value: Any, name: str) -> Any:
    """The value as its field's type asks: lists become tuples, whole numbers floats, dicts options."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if isinstance(kind, types.UnionType):
        for part in parts:
            try:
                return _as(part, value, name)
            except OptionError:
                continue
    elif origin is tuple:
        if isinstance(value, Sequence) and not isinstance(value, str):
            kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
            if len(kinds) == len(value):
                return tuple(_as(part, item, name) for part, item in zip(kinds, value, strict=True))
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {key: _as(parts[1], item, f"{name}.{key}") for key, item in value.items()}
    elif issubclass(kind, Options):
        if isinstance(value, kind):
            return value
        if isinstance(value, Mapping):
            return read(kind, value, name)
    elif isinstance(value, bool) is not (kind is bool):
        pass
    elif kind is float and isinstance(value, int | float):
        return float(value)
    elif isinstance(value, kind):
        return value
    raise OptionError(name, f"is {value!r} but must be {_in_words(kind)}")


def _in_words(kind: Any) -> str:
    words = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_in_words, parts))
    if origin is tuple:
        words_of = [_in_words(part) for part in parts if part is not Ellipsis]
        return f"a tuple, each item {words_of[0]}" if parts[-1] is Ellipsis else f"a tuple of {' and '.join(words_of)}"
    return words.get(kind, "a dict")


def _check_limits(name: str, value: Any, about: Mapping[str, Any]) -> None:
    choices = about.get("choices")
    if choices and value not in choices:
        raise OptionError(name, f"is {value!r}; known: {', '.join(str(choice) or 'empty' for choice in choices)}")
    low, high, below = (about.get(limit) for limit in ("low", "high", "below"))
    if (low, high, below) == (None, None, None):
        return
    top = below if high is None else high
    allowed = f"at least {low}" if top is None else f"in [{low}, {top}{']' if below is None else ')'}"
    numbers = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if (low is not None and not number >= low) or (top is not None and not number <= top) or number == below:
            raise OptionError(name, f"is {value!r} but must be {allowed} ({about['meaning']})")
