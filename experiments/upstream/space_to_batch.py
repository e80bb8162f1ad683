"""XLA's compiler for TPUs aborts on the gradient of a convolution that looks at one-hot maps. For a report upstream.

    pip install "jax[tpu]"                                 # seen with jax 0.10.2, libtpu 0.0.42; no TPU is needed
    python experiments/upstream/space_to_batch.py          # aborts: space_to_batch_converter.cc ... Check failed
    python experiments/upstream/space_to_batch.py --maps=barrier                         # compiles
    python experiments/upstream/space_to_batch.py --maps=float                           # compiles

The converter moves space into the batch where there are few images. One-hot maps are booleans converted to float32, and
it seems that the conversion has become part of the convolution by then: the mask of the cotangent gets a boolean zero
beside float32 values ("Operands to select must be the same shape; got f32[...] and pred[...]").
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


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--maps", choices=("one_hot", "barrier", "float"), default="one_hot")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--side", type=int, default=321)
    parser.add_argument("--channels", type=int, nargs="+", default=[21, 64, 128])
    parser.add_argument("--topology", default="v5e:2x4")
    given = parser.parse_args()
    classes = given.channels[0]

    def loss(kernels: list[jax.Array], labels: jax.Array) -> jax.Array:
        x = labels if given.maps == "float" else jax.nn.one_hot(labels, classes)
        if given.maps == "barrier":
            x = lax.optimization_barrier(x)
        for kernel in kernels[:-1]:
            x = jax.nn.leaky_relu(convolve(x, kernel), 0.2)
        return jnp.sum(jnp.square(convolve(x, kernels[-1])))

    device = topologies.get_topology_desc(given.topology, "tpu").devices[0]
    here = NamedSharding(Mesh(np.array([device]), ("data",)), PartitionSpec())

    def shape(*sides: int, dtype: type = np.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sides, dtype, sharding=here)

    kernels = [shape(4, 4, *pair) for pair in zip(given.channels, given.channels[1:], strict=False)]
    labels = shape(given.images, given.side, given.side, dtype=np.int32)
    if given.maps == "float":
        labels = shape(*labels.shape, classes)
    jax.jit(jax.grad(loss)).lower(kernels, labels).compile()
    print(f"{given.maps}: compiled for {given.topology}, {given.images} images of {given.side}x{given.side}")


if __name__ == "__main__":
    main()
