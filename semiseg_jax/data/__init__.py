"""Datasets, weak labels and the input pipeline: from files to `Batch`."""

from semiseg_jax.data.types import IGNORE, Batch, Example, Supervision

__all__ = ["IGNORE", "Batch", "Example", "Supervision"]
