"""Methods by name. A method is one file and one config."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from semiseg_jax.methods.adversarial import Adversarial
from semiseg_jax.methods.base import Method, Network, Site, Stage, State
from semiseg_jax.methods.gated_crf import GatedCRF
from semiseg_jax.methods.label_uncertainty import LabelUncertainty
from semiseg_jax.methods.mean_teacher import MeanTeacher
from semiseg_jax.methods.supervised import Supervised
from semiseg_jax.methods.total_variation import TotalVariation
from semiseg_jax.methods.transfer import Transfer
from semiseg_jax.methods.unimatch import UniMatch

__all__ = ["METHODS", "Method", "Network", "Site", "Stage", "State", "make_method"]

METHODS: Mapping[str, Callable[[ConfigDict, int], Method]] = {
    "adversarial": Adversarial,
    "gated_crf": GatedCRF,
    "label_uncertainty": LabelUncertainty,
    "mean_teacher": MeanTeacher,
    "supervised": Supervised,
    "total_variation": TotalVariation,
    "transfer": Transfer,
    "unimatch": UniMatch,
}


def make_method(config: ConfigDict, num_classes: int) -> Method:
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}; known methods: {', '.join(sorted(METHODS))}")
    return METHODS[config.method](config, num_classes)
