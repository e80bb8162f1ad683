"""XLA's compiler for TPUs aborts on the gradient of two convolutions with LeakyReLU between them. For a report upstream.

    pip install "jax[tpu]"                              # seen with jax 0.10.2 and libtpu 0.0.42; no TPU is needed
    python experiments/upstream/space_to_batch.py       # aborts: space_to_batch_converter.cc ... Check failed
    python experiments/upstream/space_to_batch.py --form=product

With few images, the pass that moves space into the batch does so to the first convolution's gradient and not to the
mask of the select that LeakyReLU's gradient is. The same function as a product of x with its slope compiles.
"""

import argparse
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

FORMS = {
    "select": lambda x: jnp.where(x >= 0, x, 0.2 * x),
    "maximum": lambda x: jnp.maximum(x, 0.2 * x),
    "product": lambda x: x * jnp.where(x >= 0, 1.0, 0.2),
}


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--form", choices=FORMS, default="select")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--side", type=int, default=321)
    parser.add_argument("--channels", type=int, nargs="+", default=[21, 64, 128])
    parser.add_argument("--topology", default="v5e:2x4")
    given = parser.parse_args()

    def loss(kernels: list[jax.Array], x: jax.Array) -> jax.Array:
        for kernel in kernels[:-1]:
            x = FORMS[given.form](convolve(x, kernel))
        return jnp.sum(jnp.square(convolve(x, kernels[-1])))

    device = topologies.get_topology_desc(given.topology, "tpu").devices[0]
    here = NamedSharding(Mesh(np.array([device]), ("data",)), PartitionSpec())

    def shape(*sides: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sides, jnp.float32, sharding=here)

    kernels = [shape(4, 4, *pair) for pair in zip(given.channels, given.channels[1:], strict=False)]
    image = shape(given.images, given.side, given.side, given.channels[0])
    jax.jit(jax.grad(loss)).lower(kernels, image).compile()
    print(f"{given.form}: compiled for {given.topology}, {given.images} images of {given.side}x{given.side}")


if __name__ == "__main__":
    main()
