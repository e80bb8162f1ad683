"""Methods are tested with programs that compile fast: XLA's own convolutions, and hardly any optimisation."""

import jax
import pytest

from semiseg_jax.models import layers
from semiseg_jax.ops import convolution


@pytest.fixture(autouse=True)
def _fast_compilation(monkeypatch):
    def convolve(x, kernel, *, stride=1, dilation=1, pads):
        return convolution._library(x, kernel, stride, dilation, pads)

    monkeypatch.setattr(layers, "convolve", convolve)
    before = jax.config.jax_disable_most_optimizations
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
