"""The flags of one `semiseg` command."""

import ast
import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from semiseg_jax.config_files import explain_config, load_config

_FIELDS = "--config.FIELD: overrides any field, e.g. --config.data.threads=2; `semiseg list fields` explains them"


class UsageError(ValueError):
    """A command line that makes no sense."""


class Flags:
    """A private set of flags, so that importing this module defines nothing globally."""

    def __init__(self, command: str, text: str):
        self.command, self.text = command, text
        self.notes: list[str] = []  # that help shows below the flags
        self.values = flags.FlagValues()
        flags.DEFINE_boolean("help", False, "show this help", flag_values=self.values, short_name="h")
        logging_level = "messages of the libraries: -2 errors, -1 warnings, 0 info"
        flags.DEFINE_integer("verbosity", -2, logging_level, flag_values=self.values)

    def string(self, name: str, default: str, help: str) -> None:
        flags.DEFINE_string(name, default, help, flag_values=self.values)

    def boolean(self, name: str, default: bool, help: str) -> None:
        flags.DEFINE_boolean(name, default, help, flag_values=self.values)

    def integer(self, name: str, default: int, help: str) -> None:
        flags.DEFINE_integer(name, default, help, flag_values=self.values)

    def number(self, name: str, default: float, help: str) -> None:
        flags.DEFINE_float(name, default, help, flag_values=self.values)

    def config_dict(self, config: ConfigDict, args: Sequence[str]) -> None:
        """Defines the flags --config.FIELD. Another method, given by one of them, brings the fields of its own."""
        from semiseg_jax.config import with_method

        method, _ = take(args, "config.method")
        extra, _ = take(args, "config.extra_terms")
        extra_terms = _names(extra) if extra else config.extra_terms
        if (method and method != config.method) or extra_terms != tuple(config.extra_terms):
            config = with_method(config, method or config.method, extra_terms)
        try:
            config_flags.DEFINE_config_dict(
                "config",
                config,
                "fields of the run's config",
                flag_values=self.values,
                sys_argv=["semiseg", *args],
            )
        except (AttributeError, KeyError) as error:
            raise UsageError(_unknown_field(config, args) or f"config: {error}") from error

    def parse_with_config(self, args: Sequence[str]) -> list[str] | None:
        """`parse` for a command with --config=NAME or FILE: what it stands for is the base of --config.* overrides."""
        spec, rest = take(args, "config")
        if wants_help(args):
            self.notes += ["--config: NAME, FILE.py, or either with :name=value,...; explained beside --help", _FIELDS]
            self.print_help()
            if spec:
                print(f"\n--config={spec}\n\n{explain_config(spec)}")
            return None
        if spec:
            self.config_dict(load_config(spec), rest)
        return self.parse(rest)

    def parse_with_workdir(self, args: Sequence[str]) -> list[str] | None:
        """`parse` for a command that reads a trained model: its stored config is the base of --config.* overrides."""
        self.string("workdir", "", "folder of the training run; or gs://..., s3://...")
        if wants_help(args):
            self.notes.append(_FIELDS)
            return self.parse(args)
        from semiseg_jax.verbs.workdir import read_config

        workdir, _ = take(args, "workdir")
        if not workdir:
            raise UsageError(self.missing("workdir", args))
        self.config_dict(read_config(workdir), args)
        return self.parse(args)

    def parse(self, args: Sequence[str]) -> list[str] | None:
        """-> positional arguments, or None where help was asked for and printed."""
        if wants_help(args):
            self.print_help()
            return None
        try:
            rest = self.values(["semiseg", *args])[1:]
        except flags.UnrecognizedFlagError as error:
            if error.flagname.startswith("config."):
                raise UsageError(self.missing("config")) from None
            raise UsageError(self._unknown(error.flagname)) from None
        except flags.IllegalFlagValueError as error:
            if "as a ConfigDict" in str(error):
                flag = str(error).split(":")[0].removeprefix("flag ")
                raise UsageError(f"{flag} must be a dict, such as '{{\"name\": value}}'") from None
            raise
        logging.set_verbosity(self.values.verbosity)
        return rest

    def print_help(self) -> None:
        print(f"semiseg {self.command}\n\n{self.text}\n\nFlags:")
        for flag in sorted({self.values[name].name for name in self.values} - {"help"}):
            print(f"  --{flag}: {self.values[flag].help} (default: {self.values[flag].default!r})")
        for note in self.notes:
            print(f"  {note}")

    def get(self, name: str) -> Any:
        """The value of a flag whose name has dashes."""
        return self.values[name].value

    def config(self) -> ConfigDict:
        if "config" not in self.values:
            raise UsageError(self.missing("config"))
        return self.values.config

    def required(self, name: str) -> str:
        value = getattr(self.values, name)
        if not value:
            raise UsageError(self.missing(name))
        return value

    def missing(self, name: str, args: Sequence[str] = ()) -> str:
        given = [arg.partition("=")[0].strip("-") for arg in args if arg.startswith("--")]
        near = difflib.get_close_matches(name, given, n=1)
        slip = f"; there is no flag --{near[0]}" if near else ""
        return f"--{name} is missing{slip}:\n\n{self.text}"

    def _unknown(self, name: str) -> str:
        """What to say of a flag that is none: it may be a field of the config, or a slip."""
        known = [*self.values, "config"]
        paths = list(_paths(self.values["config"].value)) if "config" in self.values else []
        meant = [f"config.{path}" for path in paths if path.rpartition(".")[2] == name]
        meant = meant or difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean --{' or --'.join(meant)}?" if meant else f"; `semiseg {self.command} --help` lists them"
        return f"there is no flag --{name}{hint}"


def _paths(config: ConfigDict, start: str = "") -> Iterator[str]:
    """Every field, with the sections that it lies in."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _paths(value, f"{start}{key}.")
        else:
            yield start + key


def _names(text: str) -> tuple[str, ...]:
    """The value of --config.extra_terms."""
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        names = text
    if not isinstance(names, tuple | list):
        raise UsageError(f"--config.extra_terms is {text} but must be a tuple, such as '(\"package.module:Class\",)'")
    return tuple(names)


def wants_help(args: Sequence[str]) -> bool:
    return any(arg in ("--help", "-h", "-help") for arg in args)


def take(args: Sequence[str], name: str) -> tuple[str, list[str]]:
    """The value of a flag before the flags are parsed, "" where it is not given, and all other arguments."""
    value, rest, left = "", [], iter(args)
    for arg in left:
        flag, equals, text = arg.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            value = text if equals else next(left, "")
        else:
            rest.append(arg)
    return value, rest


def _unknown_field(config: ConfigDict, args: Sequence[str]) -> str:
    """What is wrong with the first `--config.*` override of a field that does not exist; "" where all exist."""
    from semiseg_jax.config import RENAMED
    from semiseg_jax.methods import METHODS

    for arg in args:
        if not arg.startswith("--config."):
            continue
        path = arg.split("=", 1)[0].removeprefix("--config.")
        for old, new in RENAMED.items():
            if f"{path}.".startswith(f"{old}."):
                return f"config.{path} is now called config.{new}{path.removeprefix(old)}"
        parts = path.split(".")
        owners = [name for name, method in METHODS.items() if parts[0] in method.sections]
        if owners and parts[0] not in config:
            return f"config.{path} belongs to {' and '.join(owners)}, but the method here is {config.method!r}"
        node: Any = config
        for depth, part in enumerate(parts):
            if not isinstance(node, ConfigDict):
                return f"config.{'.'.join(parts[:depth])} is a value and has no field {part!r}"
            if part not in node:
                near = difflib.get_close_matches(part, node, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                known = ", ".join(sorted(node))
                return f"config has no field {'.'.join(parts)!r}; {hint}{part!r} is not one of: {known}"
            node = node[part]
    return ""
