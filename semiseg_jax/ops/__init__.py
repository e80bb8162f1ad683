"""Pure array operations. Imports jax only."""

from semiseg_jax.ops.crf import mean_field
from semiseg_jax.ops.diffusion import grid_diffusion, label_diffusion, self_diffusion
from semiseg_jax.ops.images import standardize
from semiseg_jax.ops.kernels import Kernel
from semiseg_jax.ops.mrf import potts_mrf
from semiseg_jax.ops.pairwise import local_filter, potts_energy
from semiseg_jax.ops.slic import superpixels

__all__ = [
    "Kernel",
    "grid_diffusion",
    "label_diffusion",
    "local_filter",
    "mean_field",
    "potts_energy",
    "potts_mrf",
    "self_diffusion",
    "standardize",
    "superpixels",
]
