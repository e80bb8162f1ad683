"""The config of a run: assembled from the options of rooms, terms and method; written, read and compared.

A config is an `ml_collections.ConfigDict`, so that --config.FIELD reaches every field. `settings` gives its typed form,
which all code below the commands takes.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from semiseg_jax.config_arguments import parse_arg, set_fields
from semiseg_jax.engine.settings import Settings
from semiseg_jax.methods import METHODS, find_method
from semiseg_jax.methods.terms import known_terms
from semiseg_jax.options import OptionError, Options, described, read, unknown_field
from semiseg_jax.registry import name_of

__all__ = [
    "FREE_FIELDS", "OPEN_FIELDS", "RENAMED", "changed_fields", "default_config", "differences", "fields", "from_json",
    "parse_arg", "set_fields", "settings", "to_json", "with_method",
]  # fmt: skip

# Fields that may differ from the run that made a workdir: they change neither the numbers nor the checkpoints' meaning.
# A dataset may be moved: that its images are the same is checked when training goes on.
FREE_FIELDS = ("log", "eval", "checkpoint", "data.threads", "data.data_dir", "data.path", "distributed", "shard_state")
# Dicts whose keys the user invents; assigned as a whole.
OPEN_FIELDS = ("data.quota", "data.assign", "data.simulate", "data.options", "data.class_map", "model")
# Fields that had another name, or another meaning, when older workdirs were made.
RENAMED = {
    "total_variation.rounds": "rounds.number",
    "total_variation.round_steps": "rounds.steps",
    "total_variation.cut": "rounds.cut",
}


def default_config(method: str | type = "supervised", *, extra_terms: Sequence[str | type] = ()) -> ConfigDict:
    """All fields of a run of this method. `configs/*.py` start from this and change what they need.

    Args:
      method: its name, "package.module:Class", or the class itself, which may stand in a notebook.
      extra_terms: terms of your own, named likewise.
    """
    method = name_of(method)
    # A text is passed on, for `known_terms` to say that it is no tuple.
    further: Sequence[str] = extra_terms if isinstance(extra_terms, str) else tuple(map(name_of, extra_terms))
    fields = _plain_dict(Settings(method=method, extra_terms=tuple(further)))
    del fields["own"]
    chosen = find_method(method)
    known = known_terms(further, chosen.own_terms)
    fields["terms"] = {name: _plain_dict(term.Options()) for name, term in known.items()}
    for section, options in chosen.sections.items():
        if section in fields:
            raise ValueError(f"method {method!r} calls its section {section!r}, which is a field of every config")
        fields[section] = _plain_dict(options())
    return ConfigDict(fields)


def with_method(config: ConfigDict, method: str | type, extra_terms: Sequence[str | type] | None = None) -> ConfigDict:
    """The config with another method: the options of that method have their defaults, all else stays."""
    extra_terms = config.extra_terms if extra_terms is None else extra_terms
    changed = default_config(method, extra_terms=extra_terms)
    now = dict(_leaves(changed.to_dict()))
    for path, value in _leaves(config.to_dict()):
        if path in now and path not in ("method", "extra_terms"):
            _set(changed, path, value)
    for field in OPEN_FIELDS:
        _set(changed, field, ConfigDict(_get(config, field)))
    return changed


def settings(config: ConfigDict | Settings) -> Settings:
    """The typed form of a config. Raises `ValueError` for fields that do not exist and values that cannot be."""
    if isinstance(config, Settings):
        return config
    values = config.to_dict()
    method = find_method(str(values.get("method", "supervised")))
    known = known_terms(values.get("extra_terms", ()), method.own_terms)
    common = [field.name for field in dataclasses.fields(Settings) if field.name not in ("own", "terms")]
    terms = values.pop("terms", {})
    if not isinstance(terms, Mapping):
        raise OptionError("config.terms", f"is {terms!r} but must be a dict")
    for name in terms:
        if name not in known:
            raise OptionError(f"config.terms.{name}", unknown_field(name, list(known)))
    own = {name: values.pop(name, {}) for name in method.sections}
    for name in set(values) - set(common):
        if not _belongs_to_another_method(name):
            raise OptionError(f"config.{name}", unknown_field(name, [*common, "terms", *own]))
        del values[name]
    found = read(Settings, values)
    return dataclasses.replace(
        found,
        terms={name: read(term.Options, terms.get(name, {}), f"config.terms.{name}") for name, term in known.items()},
        own={name: read(method.sections[name], value, f"config.{name}") for name, value in own.items()},
    )


def fields(method: str | None = None) -> Iterator[tuple[str, Any, str]]:
    """(path, default, meaning) of every field: of all our methods, or of one."""
    yield from described(Settings)
    own = {} if method is None else find_method(method).own_terms
    for name, term in known_terms((), own).items():
        yield from described(term.Options, f"terms.{name}.")
    seen = set()
    for each in METHODS.values() if method is None else [find_method(method)]:
        for section, options in each.sections.items():
            for path, default, meaning in described(options, f"{section}."):
                if path not in seen:
                    yield path, default, meaning
                seen.add(path)


def to_json(config: ConfigDict) -> str:
    return json.dumps(_listed(config.to_dict()), indent=2, sort_keys=True)


def from_json(text: str) -> ConfigDict:
    """The stored config over today's defaults, so that workdirs survive fields that were added or renamed since."""
    stored = _tuples(json.loads(text))
    config = default_config(stored.get("method", "supervised"), extra_terms=stored.get("extra_terms", ()))
    now, steps = dict(_leaves(config.to_dict())), stored.get("steps", 1)
    of_any_method = {path for path, _, _ in fields()}
    for path, value in list(_leaves(stored)):
        at = _renamed(path)
        if at.endswith(("start", "ramp")) and isinstance(value, int | float) and value > 1:
            value = min(value / steps, 1.0)  # it was a number of steps
        if at == "distributed.enabled" and isinstance(value, bool):
            value = "yes" if value else "auto"  # before there was a detection
        if any(f"{at}.".startswith(f"{field}.") for field in OPEN_FIELDS):
            continue
        if at in now:
            _set(config, at, value)
        elif at not in of_any_method and not _off(stored, at):
            raise ValueError(
                f"the stored config has a field {path!r} that this version does not know; use the version that made "
                "the workdir (versions.json), or train again"
            )
    for field in OPEN_FIELDS:
        with contextlib.suppress(KeyError):
            _set(config, field, ConfigDict(_get(stored, field)))
    return config


def _off(stored: Mapping[str, Any], path: str) -> bool:
    """Whether a field belongs to a term of weight 0, such as one of a package that is no longer installed."""
    room, name, *_ = *path.split("."), ""
    return room == "terms" and stored["terms"][name].get("weight") == 0


def _renamed(path: str) -> str:
    for old, new in RENAMED.items():
        if f"{path}.".startswith(f"{old}."):
            return new + path.removeprefix(old)
    return path


def _get(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree[part]
    return tree


def _set(tree: Any, path: str, value: Any) -> None:
    parent, _, leaf = path.rpartition(".")
    (_get(tree, parent) if parent else tree)[leaf] = value


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """`field: old -> new` for every field that differs and is not free to."""
    return [
        f"{path}: {before} -> {after}"
        for path, (before, after) in changed_fields(old, new).items()
        if not any((path + ".").startswith(f + ".") for f in FREE_FIELDS)
    ]


def changed_fields(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Field: (old, new) wherever the two differ."""
    before, after = flat(old), flat(new)
    return {
        path: (before.get(path, "absent"), after.get(path, "absent"))
        for path in sorted(before.keys() | after.keys())
        if before.get(path, "absent") != after.get(path, "absent")
    }


def flat(config: ConfigDict) -> dict[str, Any]:
    """{path of each field: value}, tuples as lists."""
    return dict(_leaves(_listed(config.to_dict())))


def _belongs_to_another_method(name: str) -> bool:
    """A section that an older workdir, or a config whose method was changed in Python, may still hold."""
    return name == "total_variation" or any(name in method.sections for method in METHODS.values())


def _plain_dict(options: Options) -> dict[str, Any]:
    return dataclasses.asdict(options)


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _listed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    return value


def _tuples(value: Any) -> Any:
    """JSON has no tuples: its lists become tuples again."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
