"""Work done ahead in threads, a little way: results in order, and memory that does not grow with the stream."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from dualtoken.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_THREADS = 8


def work_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int | None, most: int
) -> Iterator[tuple[Item, Result]]:
    """(item, work(item)) in order, with at most `most` of them waiting.

    Args:
        work: called in the threads; an error that it raises comes out in its turn.
        items: taken one at a time.
        workers: threads; 0 works in this one, None takes one a CPU core that this process may use, 8 at most.
        most: how far ahead.

    Raises:
        ConfigError: `workers` is negative.
    """
    threads = threads_for(workers)
    if threads == 0:
        yield from ((item, work(item)) for item in items)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > most:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:  # Ctrl-C, or a reader who has seen enough
            pool.shutdown(wait=True, cancel_futures=True)


def threads_for(workers: int | None) -> int:
    """So many threads as `work_ahead` takes.

    Raises:
        ConfigError: `workers` is negative.
    """
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)  # Linux: a container may own fewer cores than there are
        return min(len(affinity(0)) if affinity else os.cpu_count() or 1, MAX_THREADS)
    if workers < 0:
        raise ConfigError(f"workers is {workers}, expected 0 or more.")
    return workers
