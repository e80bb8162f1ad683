"""A plugin of pytest for runs of `run.py`: telling tests first, one compilation cache for all runs, a sign of life."""

import os
import time
from pathlib import Path

import pytest

CACHE, FIRST, STATUS = "MUTATION_CACHE", "MUTATION_FIRST", "MUTATION_STATUS"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Tests whose names hold an earlier hint come earlier; the others keep their order."""
    hints = [hint for hint in os.environ.get(FIRST, "").split("\n") if hint]
    items.sort(key=lambda item: next((i for i, hint in enumerate(hints) if hint in item.nodeid), len(hints)))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    """Undoes what the session's fixture did: programs are found by their content, so that all runs may share them."""
    result = yield
    cache = os.environ.get(CACHE)
    if cache and os.environ.get("JAX_COMPILATION_CACHE_DIR") != cache:
        import jax

        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return result


def pytest_runtest_logstart(nodeid, location):
    """Tells the runner which test is running since when, so that it can tell a hang from a long room."""
    if STATUS in os.environ:
        Path(os.environ[STATUS]).write_text(f"{time.time()} {nodeid}")
