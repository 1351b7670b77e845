"""Algebra in processes that can be killed: model text may hang any solver.

A small pool of worker processes (Pebble) runs `solver`. Each question has `TIMEOUT_S` seconds and
`MEMORY_MIB` of memory; what goes over ends as undecided, and the other questions go on. The pool starts with the
first question that needs it, works from any thread, and ends with the process.
"""

from __future__ import annotations

import atexit
import multiprocessing
import threading
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import Any

from lema_local.answers import solver
from lema_local.answers.comparison import Comparison

TIMEOUT_S = 2.0
START_TIMEOUT_S = 120.0
"""A worker imports sympy first; a busy machine may take long over that, and it is not the answer's fault."""
WORKERS = 2
_MAX_BRACKETS = 60


class _Pool:
    """The process-wide pool; made on first use, replaced when it breaks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: Any = None

    def get(self) -> Any:
        with self._lock:
            if self._pool is None or not self._pool.active:
                from pebble import ProcessPool

                # `spawn` is safe from any thread and the same on every platform.
                self._pool = ProcessPool(
                    max_workers=WORKERS,
                    initializer=solver.limit_resources,
                    context=multiprocessing.get_context("spawn"),
                )
                self._pool.schedule(solver.warm_up).result(timeout=START_TIMEOUT_S)
            return self._pool

    def is_running(self) -> bool:
        return self._pool is not None and bool(self._pool.active)

    def stop(self) -> None:
        with self._lock:
            if self._pool is not None:
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
def _ask(function: Any, *texts: str) -> bool | None:
    from pebble import ProcessExpired

    if any(text.count("(") + text.count("{") + text.count("[") > _MAX_BRACKETS for text in texts):
        return None
    try:
        answer = _POOL.get().schedule(function, args=texts, timeout=TIMEOUT_S).result()
    except (FutureTimeout, ProcessExpired, BrokenProcessPool, MemoryError, RecursionError):
        return None
    return None if answer is None else bool(answer)
