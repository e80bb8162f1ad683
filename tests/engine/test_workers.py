"""Workers: other processes that end when they are not needed, whatever they do."""

import os
import time
from concurrent.futures import wait

from semiseg_jax.engine.workers import Here, cores, workers


def test_workers_are_other_processes_and_end_at_once_with_the_block():
    start = time.monotonic()
    with workers(2) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
        busy = [pool.submit(time.sleep, 300) for _ in range(3)]
        wait(busy, timeout=0.01)
    assert time.monotonic() - start < 60
    assert all(future.done() for future in busy)


def test_work_done_here_is_done_when_it_is_submitted():
    future = Here().submit(divmod, 7, 2)
    assert future.done()
    assert future.result() == (3, 1)


def test_there_is_a_core():
    assert cores() >= 1
