"""Algebra in processes that can be killed: model text may hang any solver.

A small pool of worker processes (Pebble) runs `solver`. Each question has `solver.TIMEOUT_S` seconds of a worker's time
and `solver.MEMORY_MIB` of memory; what goes over ends as undecided, and the other questions go on. The pool starts
with the first question that needs it, works from any thread, and ends with the process.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import Any

from lema_local.answers import solver
from lema_local.answers.comparison import Comparison

WALL_TIMEOUT_S = 10.0 if solver.COUNTS_CPU else solver.TIMEOUT_S
"""By the clock: a busy machine must not turn right answers into undecided ones."""
WORKERS = 2
MAX_BRACKETS = 60
"""Deeper or longer nesting is not sent to the solver."""


class _Pool:
    """The process-wide pool; made on first use, made anew when it broke or after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: Any = None
        self._owner = 0

    def get(self) -> Any:
        with self._lock:
            if self._pool is None or self._owner != os.getpid() or not self._pool.active:
                self._pool = self._start()
                self._owner = os.getpid()
            return self._pool

    def _start(self) -> Any:
        from pebble import ProcessPool

        # Both ways are safe from any thread; with a fork server that has the libraries loaded, the worker
        # that replaces a killed one is there at once.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["lema_local.answers.warm"])
        return ProcessPool(max_workers=WORKERS, initializer=solver.prepare_worker, context=context)

    def is_running(self) -> bool:
        return self._pool is not None and self._owner == os.getpid() and bool(self._pool.active)

    def stop(self) -> None:
        with self._lock:
            if self._pool is not None and self._owner == os.getpid():
                self._pool.stop()
                self._pool.join()
            self._pool = None


_POOL = _Pool()
atexit.register(_POOL.stop)


def stop_workers() -> None:
    """End the worker processes; the next question that needs them starts new ones."""
    _POOL.stop()


def has_workers() -> bool:
    """Whether worker processes are running."""
    return _POOL.is_running()


def solve(gold: str, prediction: str) -> Comparison:
    """Compare two cleaned expressions by algebra, within the limits of time and memory."""
    return Comparison(_ask(solver.is_equivalent, gold, prediction), "symbolic")


def can_parse(text: str) -> bool | None:
    """Whether the solver can read an expression; None where it did not answer within its limits."""
    return _ask(solver.can_parse, text)


@lru_cache(maxsize=8192)
def _ask(function: Callable[..., bool | None], *texts: str) -> bool | None:
    from pebble import ProcessExpired

    if any(text.count("(") + text.count("{") + text.count("[") > MAX_BRACKETS for text in texts):
        return None
    try:
        answer: bool | None = _POOL.get().schedule(function, args=texts, timeout=WALL_TIMEOUT_S).result()
    except (FutureTimeout, ProcessExpired, BrokenProcessPool, MemoryError, RecursionError):
        return None
    return answer
