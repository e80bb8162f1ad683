"""Pure array operations. Imports jax only."""

from semiseg_jax.ops.pairwise import local_filter, potts_energy

__all__ = ["local_filter", "potts_energy"]
