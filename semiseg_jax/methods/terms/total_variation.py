"""Total variation of the prediction: few and short boundaries."""

import dataclasses

import jax

from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.losses import curvilinear_total_variation, total_variation
from semiseg_jax.methods.base import Metrics
from semiseg_jax.methods.terms.base import Term, TermInput, TermOptions
from semiseg_jax.ops.images import standardize
from semiseg_jax.options import OptionError, option


@dataclasses.dataclass(frozen=True)
class TotalVariationOptions(TermOptions):
    start: float = option(0.05, "share of the steps before it counts", low=0, high=1)
    ramp: float = option(0.1, "share of the steps over which it then grows", low=0, high=1)
    norm: str = option("l1", "anisotropic, isotropic, or for thin lines", choices=("l1", "l2", "curvilinear"))
    contrast: float = option(
        0.0, "of l1 and l2: colour difference (standardised) that makes a boundary cheap; 0 = never", low=0
    )
    sigma: float = option(1.0, "of curvilinear: half the width of a line, in pixels", low=1e-6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrast and self.norm == "curvilinear":
            raise OptionError("contrast", "goes with norm 'l1' or 'l2', not with 'curvilinear'")


class TotalVariation(Term):
    """TV(P) at full resolution, of every valid pixel."""

    Options = TotalVariationOptions

    def __call__(self, seen: TermInput) -> tuple[jax.Array, Metrics]:
        options, probs, where = self.options, seen.probs, seen.rows_of(self.kinds)
        if options.norm == "curvilinear":
            return curvilinear_total_variation(probs, where=where, sigma=options.sigma, axis_name=AXIS), {}
        edges = {"image": standardize(seen.batch["image"]), "contrast": options.contrast} if options.contrast else {}
        return total_variation(probs, norm=options.norm, where=where, axis_name=AXIS, **edges), {}
