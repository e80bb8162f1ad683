"""Methods by name. A method is one file and one config."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from semiseg_jax.methods.base import Method, Network, Stage, State
from semiseg_jax.methods.supervised import Supervised

__all__ = ["METHODS", "Method", "Network", "Stage", "State", "make_method"]

METHODS: Mapping[str, Callable[[ConfigDict, int], Method]] = {"supervised": Supervised}


def make_method(config: ConfigDict, num_classes: int) -> Method:
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}; known methods: {', '.join(sorted(METHODS))}")
    return METHODS[config.method](config, num_classes)
