"""Programs of StableHLO suit the device that they run on."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from semiseg_jax.exports import stablehlo
from semiseg_jax.ops.convolution import depthwise_convolve


def test_on_a_cpu_the_convolutions_are_those_that_are_fast_there():
    def forward(weights, images):
        return depthwise_convolve(images, weights["kernel"], pads=[(1, 1), (1, 1)])

    weights = {"kernel": np.random.default_rng(0).normal(size=(3, 3, 1, 3)).astype(np.float32)}
    parts = stablehlo.programs(forward, weights, (64, 64), ((64, 32), (64, 32)), flip=False)
    network = export.deserialize(bytearray(parts["network.bin"]))
    assert network.platforms == stablehlo.PLATFORMS
    assert "feature_group_count = 3" in network.mlir_module()  # for the other devices
    images = jnp.ones((1, 32, 64, 3))
    compiled = jax.jit(network.call).lower(weights, images).compile()
    assert "convolution(" not in compiled.as_text()
    np.testing.assert_allclose(compiled(weights, images), forward(weights, images), rtol=1e-6)
