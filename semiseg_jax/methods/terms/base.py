"""What a term of the loss is, and the weighted sum of those that a config turns on.

Each takes what it needs from the batch by masks: rows that it has no use for change nothing in it. A term of weight 0
is never traced.
"""

import abc
import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from semiseg_jax.data.types import Batch, Supervision
from semiseg_jax.engine.settings import Settings
from semiseg_jax.methods.base import Metrics, scheduled
from semiseg_jax.models.segmenter import Outputs
from semiseg_jax.options import Options, option

ALL = frozenset(Supervision)
LABELLED = frozenset({Supervision.DENSE, Supervision.PARTIAL, Supervision.SCRIBBLE, Supervision.POINTS})
Kinds = frozenset[Supervision]
# By name: class maps [B,H,W] of integers, heat maps [B,H,W] of floats in [0,1].
Pictures = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Weighted(Options):
    """What every term has."""

    weight: float = option(0.0, "0 = off", low=0)
    start: float = option(0.0, "share of the steps before it counts", low=0, high=1)
    ramp: float = option(0.0, "share of the steps over which it then grows", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class TermOptions(Weighted):
    """What most terms have."""

    kinds: tuple[str, ...] = option((), "only rows of these kinds; () = all that it has a use for")


@dataclasses.dataclass(frozen=True)
class TermInput:
    """A batch, and what the network says of it."""

    outputs: Outputs
    batch: Batch
    step: jax.Array

    @property
    def probs(self) -> jax.Array:
        return jax.nn.softmax(self.outputs["logits"])

    def rows_of(self, kinds: Kinds) -> jax.Array:
        """[B,H,W] bool: the valid pixels of rows of these kinds; of all rows where there are none."""
        if not kinds:
            return self.batch["valid"]
        chosen = jnp.isin(self.batch["kind"], jnp.array(sorted(kinds)))
        return self.batch["valid"] & chosen[:, None, None]


class Term(abc.ABC):
    """Base of the terms. A term is made of its options, the settings of the stage and the number of classes."""

    name: ClassVar[str] = ""  # of a term from outside, in config.terms; "" = that of its class in lower case
    Options: ClassVar[type[Weighted]] = TermOptions  # fields of config.terms.NAME
    useful: Kinds = ALL  # kinds of rows that the term has a use for
    suffices = False  # whether it alone can train a network
    on_by_default = False  # then a batch that gives it nothing to do is no mistake
    needs_variance = False  # of the network
    needs_background = False  # whether it treats class 0 as background
    tempers_all = False  # whether the variance of the network tempers what exact labels say, too
    takes: Kinds = frozenset()  # kinds of rows whose labels are its own, and no business of the cross-entropy

    def __init__(self, options: Any, config: Settings, num_classes: int):
        del num_classes
        self.options, self.steps = options, config.steps
        self.kinds = frozenset(Supervision.parse(name) for name in getattr(options, "kinds", ()))

    def join(self, others: Mapping[str, "Term"]) -> None:
        """Called once with all terms of the sum, for a term that depends on which others there are."""
        del others

    @property
    def looks_at(self) -> Kinds:
        """What it reads of the rows that the config lets it see."""
        return self.useful & (self.kinds or ALL)

    def weight(self, step: jax.Array) -> jax.Array:
        return scheduled(self.options.weight, self.options.start, self.options.ramp, step, self.steps)

    @abc.abstractmethod
    def __call__(self, seen: TermInput) -> tuple[jax.Array, Metrics]:
        """-> (value, before its weight, and further metrics)"""

    def pictures(self, seen: TermInput) -> Pictures:
        """What a panel shows of the term."""
        del seen
        return {}


def class_weights(config: Settings, num_classes: int) -> tuple[float, ...] | None:
    """`config.class_weights`, of which only the ratios matter."""
    weights = config.class_weights
    if weights and len(weights) != num_classes:
        raise ValueError(f"class_weights has {len(weights)} entries but there are {num_classes} classes")
    return weights or None


def made_for(config: Settings) -> Kinds:
    """The kinds of rows that learn from labels that a program made."""
    return frozenset(map(Supervision.parse, config.data.made_for))


class LabelTerm(Term):
    """Base of the terms that learn from labels of single pixels, those that a program made (data.made_labels) too."""

    useful = LABELLED
    suffices = True

    def __init__(self, options: Any, config: Settings, num_classes: int):
        super().__init__(options, config, num_classes)
        self.class_weights = class_weights(config, num_classes)
        if config.data.made_labels:
            self.useful = LABELLED | made_for(config)


class Sum:
    """The terms that a config turns on, and their weighted sum."""

    def __init__(self, known: Mapping[str, type[Term]], config: Settings, num_classes: int):
        self.active: dict[str, Term] = {
            name: known[name](options, config, num_classes)
            for name, options in config.terms.items()
            if options.weight > 0
        }
        for term in self.active.values():
            term.join(self.active)

    @property
    def trains_on(self) -> Kinds:
        return frozenset[Supervision]().union(*(term.looks_at for term in self.active.values() if term.suffices))

    def idle(self, kinds: Collection[Supervision]) -> dict[str, Kinds]:
        """Terms that were asked for and that a batch of these kinds gives nothing to do, and what each looks at."""
        return {
            name: term.looks_at
            for name, term in self.active.items()
            if not term.on_by_default and not term.looks_at & frozenset(kinds)
        }

    @property
    def looks_at(self) -> Kinds:
        return frozenset[Supervision]().union(*(term.looks_at for term in self.active.values()))

    @property
    def needs_variance(self) -> bool:
        return any(term.needs_variance for term in self.active.values())

    @property
    def needs_background(self) -> str:
        """The first term that treats class 0 as background, if there is one."""
        return next((name for name, term in self.active.items() if term.needs_background), "")

    def __call__(self, seen: TermInput) -> tuple[jax.Array, Metrics]:
        total = jnp.zeros(())
        metrics: Metrics = {}
        for name, term in self.active.items():
            value, details = term(seen)
            total += term.weight(seen.step) * value
            metrics |= {name: value, **details}
        return total, metrics

    def weights(self, step: jax.Array) -> Metrics:
        """What each term counts for in this step, under `weight_NAME`."""
        return {f"weight_{name}": term.weight(step) for name, term in self.active.items()}

    def pictures(self, seen: TermInput) -> Pictures:
        found: Pictures = {}
        for term in self.active.values():
            found |= term.pictures(seen)
        return found
