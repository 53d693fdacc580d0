"""The process that runs one model in one engine, turn by turn, as its parent asks: JSON lines in, JSON lines out.

    python -m dualtoken.lab.worker

Between turns it waits for its next line and uses no processor time, so that many of them can be alive at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dualtoken.errors import UserError, first_line
from dualtoken.lab.worker_engines import ENGINES, Run
from dualtoken.machine import peak_rss

MOST_ITERATIONS = 200  # a turn
LEAST_ITERATIONS = 2


class Session:
    """A model in an engine. Its public methods are what the parent may ask for; each returns what is answered."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._before = 0.0

    def open(self, engine: str, source: dict[str, Any], image_size: int, threads: int) -> dict[str, Any]:
        """Import the engine and load the model."""
        self._engine = ENGINES[engine](threads)
        self._before = peak_rss() / 2**20
        self._engine.load(source, image_size)
        return {}

    def prepare(self, batch_size: int, image_size: int) -> dict[str, Any]:
        """Compile for a shape, run it twice, and tell the memory: the peak so far above that of the imports, MiB."""
        images = np.random.default_rng(0).standard_normal((batch_size, 3, image_size, image_size), dtype=np.float32)
        self._run = None  # what the last shape held is free before this one takes its own
        self._run, detail = self._engine.prepare(images)
        for _ in range(2):
            self._run()
        settle()
        return {"peak_mib": peak_rss() / 2**20 - self._before, "detail": detail}

    def turn(self, seconds: float) -> dict[str, Any]:
        """Run once unmeasured, then for about `seconds`: the milliseconds of each iteration."""
        assert self._run is not None
        times = measure(self._run, seconds)
        settle()
        return {"ms": times}


def measure(run: Run, seconds: float) -> list[float]:
    """Milliseconds of iterations that take about `seconds` together, at least two; one more before is not counted."""
    run()  # caches and threads were somebody else's
    times: list[float] = []
    while len(times) < LEAST_ITERATIONS or (sum(times) < 1e3 * seconds and len(times) < MOST_ITERATIONS):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def settle(limit: float = 2.0) -> None:
    """Wait until the engine's threads, which look for more work for a while, have slept for a fiftieth of a second.

    Else they would take time from whose turn is next.

    Args:
        limit: seconds after which it is given up.
    """
    end, quiet = time.perf_counter() + limit, 0
    while quiet < 4 and time.perf_counter() < end:
        used = time.process_time()
        time.sleep(0.005)
        quiet = quiet + 1 if time.process_time() - used < 0.0005 else 0


def main() -> None:
    """Answer line by line until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    session = Session()
    for line in sys.stdin:
        request = json.loads(line)
        method: Callable[..., dict[str, Any]] = getattr(session, request.pop("ask"))
        try:
            answer = method(**request)
        except Exception as error:  # an engine may refuse a model in any way: the row says how
            answer = {"error": reason(error)}
        print(json.dumps(answer), file=answers, flush=True)


def reason(error: Exception) -> str:
    """The first line of what went wrong, at most 300 characters of it."""
    known = isinstance(error, UserError)
    return (first_line(error) if known else f"{type(error).__name__}: {first_line(error)}")[:300]


if __name__ == "__main__":
    main()
