"""What runs in a worker process: Math-Verify and sympy, with the checks that close their known holes.

Only `symbolic` calls this, always in another process. Exceptions of the solver mean "no verdict".
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

MEMORY_MIB = 1024
"""What an answer may take above what the worker itself needs."""


def limit_resources() -> None:
    """Cap this worker's memory where the platform can (not on Windows) and make it ignore Ctrl-C."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when the work ends
    import math_verify  # noqa: F401
    import sympy  # noqa: F401

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we keep the time ourselves

    try:
        import resource
    except ImportError:
        return
    statm = Path("/proc/self/statm")
    used = int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0
    limit = used + MEMORY_MIB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def warm_up() -> bool:
    """Return True once this worker has loaded its libraries."""
    return can_parse("x+1")


def can_parse(text: str) -> bool:
    """Whether an expression can be read."""
    return bool(_parse(text))


def is_equivalent(gold: str, prediction: str) -> bool | None:
    """Whether two expressions mean the same."""
    from math_verify import verify

    golds, predictions = _parse(gold), _parse(prediction)
    if not golds:
        return None
    if not predictions:
        return False
    return bool(verify(golds, predictions, timeout_seconds=None))


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    return list(parse(f"${text}$", parsing_timeout=None))
