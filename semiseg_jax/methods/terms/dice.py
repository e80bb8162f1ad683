"""Overlap of regions, for small classes."""

import dataclasses

import jax

from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.losses import dice_loss
from semiseg_jax.methods.base import Metrics
from semiseg_jax.methods.terms.base import LabelTerm, TermInput, TermOptions
from semiseg_jax.options import option


@dataclasses.dataclass(frozen=True)
class DiceOptions(TermOptions):
    false_positives: float = option(0.5, "price of pixels that are taken for a class; 0.5 and 0.5 are Dice", low=1e-6)
    false_negatives: float = option(0.5, "price of pixels that are missed; higher finds more small objects", low=1e-6)
    per_image: bool = option(False, "each image alike, instead of the whole batch at once")


class Dice(LabelTerm):
    """One minus the overlap of prediction and labels, averaged over the classes that the labels have."""

    Options = DiceOptions

    def __call__(self, seen: TermInput) -> tuple[jax.Array, Metrics]:
        where = seen.rows_of(self.kinds)
        return dice_loss(
            seen.outputs["logits"],
            seen.batch["label"],
            alpha=self.options.false_positives,
            beta=self.options.false_negatives,
            per_image=self.options.per_image,
            where=where,
            axis_name=AXIS,
        ), {}
