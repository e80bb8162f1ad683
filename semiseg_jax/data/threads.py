"""Work on the host that goes on in threads."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Out = TypeVar("Out")
THREADS = min(4, os.cpu_count() or 1)


def in_order(function: Callable[[Item], Out], items: Iterable[Item], *, ahead: int = THREADS) -> Iterator[Out]:
    """`map` in threads: results and errors in order, with at most `ahead` items in work or waiting to be taken."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        waiting: deque[Future[Out]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
