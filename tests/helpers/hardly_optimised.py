"""A fixture for modules of many small programs, which then compile three times as fast."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def hardly_optimised():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def fully_optimised():
    """For a test in such a module that wants the programs that users run."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
