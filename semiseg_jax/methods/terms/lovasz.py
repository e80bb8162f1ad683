"""A surrogate of the mean IoU itself."""

import dataclasses
from typing import Any

import jax

from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.engine.settings import Settings
from semiseg_jax.losses import lovasz_softmax
from semiseg_jax.methods.base import Metrics
from semiseg_jax.methods.terms.base import LABELLED, MADE, Term, TermInput, TermOptions
from semiseg_jax.options import option


@dataclasses.dataclass(frozen=True)
class LovaszOptions(TermOptions):
    per_image: bool = option(False, "each image alike, instead of the whole batch at once")


class Lovasz(Term):
    """The Lovasz extension of the intersection over union, averaged over the classes that the labels have."""

    Options = LovaszOptions
    useful = LABELLED
    suffices = True

    def __init__(self, options: Any, config: Settings, num_classes: int):
        super().__init__(options, config, num_classes)
        if config.data.made_labels:
            self.useful = LABELLED | MADE

    def __call__(self, seen: TermInput) -> tuple[jax.Array, Metrics]:
        where = seen.rows_of(self.kinds)
        return lovasz_softmax(
            seen.outputs["logits"],
            seen.batch["label"],
            per_image=self.options.per_image,
            where=where,
            axis_name=AXIS,
        ), {}
