"""Pure array operations. Imports jax only."""
