"""Runs are many small programs."""

import pytest


@pytest.fixture(autouse=True)
def _fast(fast_compilation):
    """Every test here compiles fast."""
