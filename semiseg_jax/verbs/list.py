"""`semiseg list`: configs, fields, methods, terms, models and splits, a line each, and datasets with their cards."""

import dataclasses
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping

from semiseg_jax import registry
from semiseg_jax.config_files import arguments_of, first_line, load_config, shipped_configs
from semiseg_jax.options import Options, described

CARD_WIDTH = 100


def list_names(kind: str) -> None:
    """Prints the names of a kind of things, such as "configs" or "terms", each with a line about it."""
    if kind in TABLES:
        print(TABLES[kind]())
        return
    if kind not in KINDS:
        raise ValueError(f"what is {kind!r}? `semiseg list` knows: {', '.join([*KINDS, *TABLES])}")
    rows = list(KINDS[kind]())
    width = max((len(name) for name, _ in rows), default=0)
    for name, about in rows:
        print(f"{name:{width}}  {about}".rstrip())


def field_table() -> str:
    """Every field of a config with its default and its meaning, as a table in Markdown."""
    from semiseg_jax.config import fields

    lines = ["| field | default | meaning |", "| --- | --- | --- |"]
    for path, default, meaning in fields():
        shown = f'"{default}"' if isinstance(default, str) else str(default)
        lines.append(f"| `{path}` | `{shown}` | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def setting_table() -> str:
    """Every shipped config in each of its settings, as a table in Markdown."""
    from semiseg_jax.config import settings

    lines = [
        "| config | network | crop | images per update | updates | optimiser | terms beside the cross-entropy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in shipped_configs():
        choices = arguments_of(name).get("setting", ("",))
        for setting in choices if isinstance(choices, tuple) else ("",):
            run = settings(load_config(f"{name}:setting={setting},path=DIR,weights=none" if setting else name))
            unit = sum(run.data.quota.values())
            images = str(run.batch_size) if run.batch_size else f"{unit * run.accumulate} on each device"
            terms = [f"{term} {options.weight:g}" for term, options in run.terms.items() if options.weight]
            cells = [
                f"`{name}`" + (f", {setting}" if setting else ""),
                " on ".join([run.model["name"], *([run.model["backbone"]] if "backbone" in run.model else [])]),
                "x".join(map(str, run.augment.crop)),
                images,
                f"{run.steps:,}",
                f"{run.optimizer.name} {run.optimizer.learning_rate:g} {run.optimizer.schedule}",
                ", ".join(terms[1:]) or "none",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _configs() -> Iterable[tuple[str, str]]:
    return [(name, first_line(path)) for name, path in shipped_configs().items()]


def _methods() -> Iterable[tuple[str, str]]:
    from semiseg_jax.methods import METHODS

    return _about(METHODS, "methods", of_module=True)


def _terms() -> Iterable[tuple[str, str]]:
    from semiseg_jax.methods.terms import TERMS

    return _about(TERMS, "terms")


def _models() -> Iterable[tuple[str, str]]:
    from semiseg_jax.models import MODELS

    return _about(MODELS, "models")


def dataset_cards() -> str:
    """Every dataset with a line about it; below that what people ask before they use it, and its options."""
    from semiseg_jax.data.datasets import BUILDERS

    lines = []
    for name, about in _about(BUILDERS, "datasets"):
        lines.append(f"{name}  {about}")
        builder = BUILDERS.get(name)
        card = getattr(builder, "card", None)
        rows = list(dataclasses.asdict(card).items()) if card else []
        for field, default, meaning in described(getattr(builder, "Options", None) or Options):
            shown = f'"{default}"' if isinstance(default, str) else str(default)
            rows.append(("option", f"{field} = {shown}: {meaning}"))
        for head, text in rows:
            lines += textwrap.wrap(
                text,
                CARD_WIDTH,
                initial_indent=f"    {head:9}",
                subsequent_indent=" " * 13,
                break_long_words=False,
                break_on_hyphens=False,
            )
        lines += [""] if rows else []
    return "\n".join(lines).rstrip()


def _splits() -> Iterable[tuple[str, str]]:
    """Published lists of images with where they come from, and published groups of classes."""
    from semiseg_jax.data.published import CLASS_GROUPS, find_list, published_lists

    official = set(find_list("voc:train").ids)
    for name, entry in published_lists().items():
        repository, commit, path = entry.sources[0].split(" ")
        others = sorted({source.split(" ")[0] for source in entry.sources} - {repository})
        also = f"; the same in {', '.join(others)}" if others else ""
        inside = f", {len(official & set(entry.ids))} in voc:train" if entry.dataset == "voc" else ""
        yield name, f"{len(entry.ids)} images{inside}; {repository} {commit[:7]} {path}{also}"
    for name, classes in CLASS_GROUPS.items():
        yield name, f"{len(classes)} classes for strong=: {', '.join(classes)}"


def _about(known: Mapping[str, object], group: str, *, of_module: bool = False) -> Iterable[tuple[str, str]]:
    """Ours with the first line of their text, then those of installed packages with where they come from."""
    for name, thing in known.items():
        target = getattr(thing, "func", thing)  # of a partial
        text = (sys.modules[target.__module__].__doc__ if of_module else target.__doc__) or ""
        yield name, text.strip().partition("\n")[0].removeprefix(f"`{name}`: ")
    for name, entry in registry.from_packages(group).items():
        yield name, entry.value


TABLES: Mapping[str, Callable[[], str]] = {"fields": field_table, "settings": setting_table, "datasets": dataset_cards}
KINDS: Mapping[str, Callable[[], Iterable[tuple[str, str]]]] = {
    "configs": _configs,
    "methods": _methods,
    "terms": _terms,
    "models": _models,
    "splits": _splits,
}
