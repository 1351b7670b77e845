"""Algebra in processes that can be killed: model text may hang any solver.

A small pool of worker processes (Pebble) runs `solver`. Each answer has `solver.TIMEOUT_S` seconds of a worker's time
and `solver.MEMORY_MIB` of memory; what goes over ends as undecided, and the other answers go on. The pool starts
with the first question that needs it, works from any thread, and ends with the process.
"""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.context
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import Any, TypeVar

from lema_local.answers import solver
from lema_local.answers.comparison import Comparison

WALL_TIMEOUT_S = 10.0 if solver.COUNTS_CPU else solver.TIMEOUT_S
"""By the clock: a busy machine must not turn right answers into undecided ones."""
WORKERS = max(2, min(8, (os.cpu_count() or 2) // 2))
"""Answers in work at once."""


_HAS_FORKSERVER = "forkserver" in multiprocessing.get_all_start_methods()
_Process: Any = getattr(multiprocessing.context, "ForkServerProcess" if _HAS_FORKSERVER else "SpawnProcess")


class Worker(_Process):  # type: ignore[misc]
    """A process that does not run the caller's script again: that one needs no `if __name__ == "__main__"`."""

    _lock = threading.Lock()

    def start(self) -> None:
        """Start the process as if there were no script."""
        main: dict[str, Any] = vars(sys.modules["__main__"])
        with self._lock:
            kept: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
            main.pop("__file__", None)
            main["__spec__"] = None
            try:
                super().start()
            finally:
                main.update(kept)


def _choose_context() -> Any:
    """Return how workers are started: safe from any thread, and for scripts of any form.

    With a fork server that has the libraries loaded, the worker that replaces a killed one is there at once.
    """
    context: Any = multiprocessing.get_context("forkserver" if _HAS_FORKSERVER else "spawn")
    if _HAS_FORKSERVER:
        context.set_forkserver_preload(["lema_local.answers.warm"])
    return type("Context", (type(context),), {"Process": Worker})()


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

        return ProcessPool(max_workers=WORKERS, initializer=solver.prepare_worker, context=_choose_context())

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


def compare_in_worker(gold: str, prediction: str) -> Comparison | None:
    """Compare two cleaned answers where the solver is; None where that does not end within its limits."""
    compared: Comparison | None = _ask(solver.compare, gold, prediction)
    return compared


def is_readable_in_worker(gold: str) -> bool | None:
    """Whether a cleaned gold answer can be compared with; None where that does not end within its limits."""
    answer: bool | None = _ask(solver.is_readable, gold)
    return answer


@lru_cache(maxsize=8192)
def _ask(function: Callable[..., Any], *texts: str) -> Any:
    """Return what a function of `solver` returns in a worker; None where the worker had to be killed."""
    from pebble import ProcessExpired

    try:
        return _POOL.get().schedule(function, args=texts, timeout=WALL_TIMEOUT_S).result()
    except (FutureTimeout, ProcessExpired, BrokenProcessPool, MemoryError):
        return None


Item = TypeVar("Item")
Result = TypeVar("Result")
TOGETHER = 32
"""Most items that a thread does one after the other: most need no worker, and a thread for each would cost more."""


def map_answers(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield `function(item)` for each, in order; several at once, so that one that hangs holds up few others."""
    size = max(1, min(TOGETHER, len(items) // (4 * WORKERS)))
    groups = [items[start : start + size] for start in range(0, len(items), size)]
    threads = ThreadPoolExecutor(WORKERS + 1)
    try:
        for results in threads.map(lambda group: [function(item) for item in group], groups):
            yield from results
    finally:
        threads.shutdown(cancel_futures=True)
