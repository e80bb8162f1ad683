"""Cross-entropy over labelled pixels, whoever made the labels."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.data.types import IGNORE
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.engine.settings import Settings
from semiseg_jax.losses import partial_cross_entropy, uncertainty_cross_entropy
from semiseg_jax.methods.base import Metrics
from semiseg_jax.methods.terms.base import ALL, LabelTerm, Term, TermInput, TermOptions, Weighted, made_for
from semiseg_jax.ops.reduce import masked_mean
from semiseg_jax.options import option

AVERAGES = ("pixels", "images")


@dataclasses.dataclass(frozen=True)
class CrossEntropyOptions(TermOptions):
    weight: float = option(1.0, "methods need it, but for those from outside: above 0", low=0)
    average: str = option("pixels", "over all pixels, or images: each image alike", choices=AVERAGES)


@dataclasses.dataclass(frozen=True)
class MadeLabelsOptions(Weighted):
    average: str = option("pixels", "over all pixels, or images: each image alike", choices=AVERAGES)


class CrossEntropy(LabelTerm):
    """Cross-entropy over the labelled pixels, from full masks, scribbles, clicks and random pixels alike.

    From labels that a program made too, unless the term `made_labels` gives them a weight of their own.
    """

    Options: ClassVar[type[Weighted]] = CrossEntropyOptions
    on_by_default = True
    uncertain = False  # whether a learned variance tempers it

    def join(self, others: Mapping[str, Term]) -> None:
        tempering = [name for name, term in others.items() if term.tempers_all]
        if tempering and self.options.average == "images":
            raise ValueError(
                f"terms.{tempering[0]} tempers all pixels: terms.cross_entropy.average must be 'pixels', not 'images'"
            )
        self.uncertain = bool(tempering)
        taking = {name: term.takes for name, term in others.items() if term.takes and term is not self}
        if taking:
            self.kinds = (self.kinds or ALL).difference(*taking.values())
            if not self.kinds:  # which would mean all rows
                raise ValueError(
                    f"terms.{', '.join(taking)} takes all rows of terms.cross_entropy.kinds={self.options.kinds}"
                )

    def __call__(self, seen: TermInput) -> tuple[jax.Array, Metrics]:
        logits, label, where = seen.outputs["logits"], seen.batch["label"], seen.rows_of(self.kinds)
        labelled = lax.pmean(jnp.mean(label != IGNORE), AXIS)
        if self.uncertain:
            value = uncertainty_cross_entropy(
                logits,
                seen.outputs["variance"],
                label,
                class_weights=self.class_weights,
                where=where,
                axis_name=AXIS,
            )
        elif self.options.average == "pixels":
            value = self._over(logits, label, where, AXIS)
        else:
            images = jax.vmap(lambda x, y, m: self._over(x[None], y[None], m[None], None))(logits, label, where)
            value = masked_mean(images, jnp.any((label != IGNORE) & where, axis=(1, 2)), AXIS)
        return value, {"labelled_pixels": labelled}

    def _over(self, logits: jax.Array, label: jax.Array, where: jax.Array, axis_name: str | None) -> jax.Array:
        return partial_cross_entropy(logits, label, class_weights=self.class_weights, where=where, axis_name=axis_name)


class MadeLabels(CrossEntropy):
    """Cross-entropy over labels that a program made (`data.made_labels`), which it takes from the cross-entropy."""

    Options = MadeLabelsOptions
    on_by_default = False

    def __init__(self, options: Any, config: Settings, num_classes: int):
        super().__init__(options, config, num_classes)
        self.useful = self.kinds = self.takes = made_for(config)
        if not config.data.made_labels:
            raise ValueError("terms.made_labels learns from the label maps in data.made_labels, which names no folder")

    def join(self, others: Mapping[str, Term]) -> None:
        """The rows are its own already."""
        del others
