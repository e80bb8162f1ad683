"""XLA's compiler for TPUs aborts on the gradient of a convolution that looks at one-hot maps. For a report upstream.

    pip install "jax[tpu]"                                 # seen with jax 0.10.2, libtpu 0.0.42.1; no TPU is needed
    python experiments/upstream/space_to_batch.py          # aborts: space_to_batch_converter.cc ... Check failed
    python experiments/upstream/space_to_batch.py --maps=barrier                         # compiles

    space_to_batch_converter.cc:2007] Check failed: PropagateOnBackpropFilterConv(consumer) is OK (INVALID_ARGUMENT:
    Operands to select must be the same shape; got f32[...] and pred[...].

So it does for v5e with 2 images of 64x64, and with 2 or 4 of 321x321; for v4 and v6e with 2 of 321x321. With 16 images
of 64x64 and 21 classes it compiles.

Where there are few images, the converter moves space into the batch. One-hot maps are booleans converted to float32.
It seems that the conversion has become part of the convolution by then, and that what lies outside the image is set, in
the float32 cotangent, to a zero of the other operand's type, which is boolean.
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--maps", choices=("one_hot", "barrier"), default="one_hot")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--topology", default="v5e:2x4")
    given = parser.parse_args()

    def loss(kernel: jax.Array, labels: jax.Array) -> jax.Array:
        maps = jax.nn.one_hot(labels, given.classes)
        if given.maps == "barrier":
            maps = lax.optimization_barrier(maps)
        layout = ("NHWC", "HWIO", "NHWC")
        features = lax.conv_general_dilated(maps, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=layout)
        return jnp.sum(jnp.square(features))

    device = topologies.get_topology_desc(given.topology, "tpu").devices[0]
    here = NamedSharding(Mesh(np.array([device]), ("data",)), PartitionSpec())
    kernel = jax.ShapeDtypeStruct((4, 4, given.classes, given.features), np.float32, sharding=here)
    labels = jax.ShapeDtypeStruct((given.images, given.side, given.side), np.int32, sharding=here)
    jax.jit(jax.grad(loss)).lower(kernel, labels).compile()
    print(f"{given.maps}: compiled for {given.topology}, {given.images} images of {given.side}x{given.side}")


if __name__ == "__main__":
    main()
