"""What ONNX gets in place of functions that ONNX Runtime lacks."""

import flax.linen as nn
import numpy as np
import pytest

from semiseg_jax.exports.onnx_process import _max_pool


@pytest.mark.parametrize(
    "options",
    [
        {"window_shape": (2, 2)},
        {"window_shape": (2, 2), "strides": (2, 2)},
        {"window_shape": (3, 3), "strides": (2, 2), "padding": "SAME"},
        {"window_shape": (3, 2), "strides": (2, 1), "padding": ((1, 1), (0, 1))},
    ],
)
def test_the_largest_of_each_window_is_that_of_flax(options):
    x = np.random.default_rng(0).normal(size=(2, 9, 12, 3)).astype(np.float32)
    np.testing.assert_array_equal(_max_pool(x, **options), nn.max_pool(x, **options))
