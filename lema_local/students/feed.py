"""Requests in order, drawn as late as possible, each with the prompt that it shares with its neighbours."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from lema_local.students.base import Prompt, SampleRequest
from lema_local.students.model import Tokens


@dataclass(eq=False, slots=True)
class Job:
    """One prompt, computed once for all the paths that begin with it."""

    tokens: Tokens
    done: int = 0
    """Tokens that have been handed to llama.cpp so far, the shared ones among them."""
    is_ready: bool = False
    """Whether the whole prompt is in memory."""
    slots: list[int] = field(default_factory=list)
    """Slots that wait for the prompt; the first one computes it."""
    holders: set[int] = field(default_factory=set)
    """Slots whose memory begins with the prompt."""


class Feed:
    """Requests with their jobs.

    Args:
        requests: Drawn one by one, never further than asked for.
        tokenize: Called once for each run of equal prompts.
    """

    def __init__(self, requests: Iterable[SampleRequest], tokenize: Callable[[Prompt], Tokens]) -> None:
        self._requests = iter(requests)
        self._tokenize = tokenize
        self._waiting: deque[tuple[SampleRequest, Job]] = deque()
        self._last: tuple[Prompt, Job] | None = None

    def peek(self) -> tuple[SampleRequest, Job] | None:
        """Return the next request and its job; None where there is none left."""
        return self._waiting[0] if self._waiting or self._draw() else None

    def pop(self) -> None:
        """Take the next request away."""
        self._waiting.popleft()

    def look_ahead(self, count: int) -> list[Job]:
        """Return the jobs of the requests drawn so far, at least of the next `count`, each job once."""
        while len(self._waiting) < count and self._draw():
            pass
        return list(dict.fromkeys(job for _, job in self._waiting))

    def __len__(self) -> int:
        return len(self._waiting)

    def _draw(self) -> bool:
        request = next(self._requests, None)
        if request is None:
            return False
        if self._last is None or self._last[0] != request.prompt:
            self._last = (request.prompt, Job(self._tokenize(request.prompt)))
        self._waiting.append((request, self._last[1]))
        return True


def common_length(first: Tokens, second: Tokens) -> int:
    """Return how many tokens two token lists have in common from the start."""
    length = min(len(first), len(second))
    differing = np.flatnonzero(first[:length] != second[:length])
    return int(differing[0]) if len(differing) else length


def common_prefix(jobs: list[Job]) -> Tokens:
    """Return the tokens with which all the jobs begin, never a whole prompt of one of them."""
    first = jobs[0].tokens
    length = min((common_length(first, job.tokens) for job in jobs[1:]), default=0)
    return first[: max(0, min(length, *(len(job.tokens) - 1 for job in jobs)))]
