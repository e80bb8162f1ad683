"""A surrogate of the mean IoU itself."""

import dataclasses

import jax

from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.losses import lovasz_softmax
from semiseg_jax.methods.base import Metrics
from semiseg_jax.methods.terms.base import LabelTerm, TermInput, TermOptions
from semiseg_jax.options import option


@dataclasses.dataclass(frozen=True)
class LovaszOptions(TermOptions):
    per_image: bool = option(False, "each image alike, instead of the whole batch at once")


class Lovasz(LabelTerm):
    """The Lovasz extension of the intersection over union, averaged over the classes that the labels have."""

    Options = LovaszOptions

    def __call__(self, seen: TermInput) -> tuple[jax.Array, Metrics]:
        where = seen.rows_of(self.kinds)
        return lovasz_softmax(
            seen.outputs["logits"],
            seen.batch["label"],
            per_image=self.options.per_image,
            where=where,
            axis_name=AXIS,
        ), {}
