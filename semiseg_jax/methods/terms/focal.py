"""Cross-entropy in which pixels that are already right count little."""

import dataclasses

import jax

from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.losses import focal_loss
from semiseg_jax.methods.base import Metrics
from semiseg_jax.methods.terms.base import LabelTerm, TermInput, TermOptions
from semiseg_jax.options import option


@dataclasses.dataclass(frozen=True)
class FocalOptions(TermOptions):
    gamma: float = option(2.0, "how much less; 0 = cross-entropy", low=0)


class Focal(LabelTerm):
    """Cross-entropy times (1 - probability of the label) ** gamma."""

    Options = FocalOptions

    def __call__(self, seen: TermInput) -> tuple[jax.Array, Metrics]:
        where = seen.rows_of(self.kinds)
        return focal_loss(
            seen.outputs["logits"],
            seen.batch["label"],
            gamma=self.options.gamma,
            class_weights=self.class_weights,
            where=where,
            axis_name=AXIS,
        ), {}
