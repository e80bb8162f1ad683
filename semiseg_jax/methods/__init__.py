"""Methods by name. A method is one file, with its options, and a line here; or a class of another package."""

from collections.abc import Mapping

from semiseg_jax.engine.settings import Settings
from semiseg_jax.methods.adversarial import Adversarial
from semiseg_jax.methods.base import FinishContext, Method, Network, Stage, State
from semiseg_jax.methods.gated_crf import GatedCRF
from semiseg_jax.methods.label_uncertainty import LabelUncertainty
from semiseg_jax.methods.mean_teacher import MeanTeacher
from semiseg_jax.methods.segmentation import Segmentation
from semiseg_jax.methods.supervised import Supervised
from semiseg_jax.methods.total_variation import TotalVariation
from semiseg_jax.methods.transfer import Transfer
from semiseg_jax.methods.unimatch import UniMatch
from semiseg_jax.registry import find

__all__ = [
    "METHODS", "FinishContext", "Method", "Network", "Segmentation", "Stage", "State", "find_method", "make_method"
]  # fmt: skip

METHODS: Mapping[str, type[Method]] = {
    "adversarial": Adversarial,
    "gated_crf": GatedCRF,
    "label_uncertainty": LabelUncertainty,
    "mean_teacher": MeanTeacher,
    "supervised": Supervised,
    "total_variation": TotalVariation,
    "transfer": Transfer,
    "unimatch": UniMatch,
}


def find_method(name: str) -> type[Method]:
    """One of ours, one of an installed package, or the class that "package.module:Class" names."""
    found: type[Method] = find(name, METHODS, "methods")
    if not isinstance(found, type) or not all(hasattr(found, part) for part in ("sections", "own_terms", "stages")):
        raise ValueError(
            f"method {name!r} must be a class that derives from semiseg_jax.methods.Segmentation, or from "
            "semiseg_jax.methods.Method"
        )
    return found


def make_method(config: Settings, num_classes: int) -> Method:
    return find_method(config.method)(config, num_classes)
