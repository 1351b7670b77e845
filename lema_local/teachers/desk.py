"""The desk in front of a teacher: journal, budget and scheduler, the same for every teacher.

The caller's thread draws the requests, looks into the journal and gets the replies; a second thread runs an event
loop with the calls. So requests may be made lazily by code that takes its time, and replies do not wait for it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from types import TracebackType
from typing import Any, TypeVar

from lema_local.errors import LemaError
from lema_local.teachers.base import Answered, Failed, Teacher, TeacherRequest
from lema_local.teachers.budget import Budget
from lema_local.teachers.journal import Journal, StoredReply
from lema_local.teachers.scheduler import DeskCount, DeskSettings, Halt, Scheduler, Served

T = TypeVar("T")
Item = TypeVar("Item")

_POLL_S = 0.5
"""How long to block at most: on Windows a blocked wait does not see Ctrl-C."""
_LOOK_AHEAD = 2
"""Requests drawn beyond each slot, so that a slot that gets free finds one ready."""


class TeacherDesk:
    """A teacher with everything around it.

    Args:
        teacher: Who is asked; closed with the desk.
        journal: Where replies are kept; stays open when the desk is closed.
        budget: The cap; None: no cap.
        settings: How calls are made.
        scope: What the calls are made for, in the journal's ledger: a run's folder, a file.
        collect: Gets each request that would be sent, with its key; nothing is sent then.
    """

    def __init__(
        self,
        teacher: Teacher,
        journal: Journal,
        budget: Budget | None = None,
        settings: DeskSettings | None = None,
        *,
        scope: str = "",
        collect: Callable[[str, TeacherRequest], None] | None = None,
    ) -> None:
        self.teacher = teacher
        self.settings = settings or DeskSettings()
        self.budget = budget or Budget()
        self._scheduler = Scheduler(teacher, journal, self.budget, self.settings, scope, collect)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="teacher", daemon=True)
        self._thread.start()
        self._is_open = True

    @property
    def name(self) -> str:
        """The teacher as asked for."""
        return self.teacher.name

    @property
    def reads_gold(self) -> bool:
        """Whether requests have to carry the gold rationale and answer."""
        return self.teacher.reads_gold

    @property
    def can_write_json(self) -> bool:
        """Whether the teacher has a mode in which its reply is sure to be JSON."""
        return self.teacher.can_write_json

    @property
    def count(self) -> DeskCount:
        """What was done so far."""
        return self._scheduler.count

    def key_of(self, request: TeacherRequest) -> str:
        """Return the key under which the journal keeps replies to a request."""
        return self._scheduler.key_of(request)

    def ask_many(
        self, requests: Iterable[tuple[Item, TeacherRequest]]
    ) -> Iterator[tuple[Item, Answered | Failed]]:
        """Yield each item with its reply, as replies come; requests are drawn as they are needed.

        Raises:
            BudgetReached: After everything in flight has come in and been yielded.
            BackendUnavailable: If the teacher cannot be reached at all, or a price is needed and not known.
            BackendError: If no request will be answered any more; what was yielded stays valid.
            LemaError: If the journal cannot be written.
        """
        halt = Halt()
        calls: dict[Future[Served], Item] = {}
        done: queue.SimpleQueue[Future[Served]] = queue.SimpleQueue()
        source = iter(requests)
        is_drawn = False
        try:
            while calls or not is_drawn:
                is_drawn = is_drawn or halt.error is not None
                if not is_drawn and len(calls) < _LOOK_AHEAD * self.settings.concurrency:
                    drawn = next(source, None)
                    if drawn is None:
                        is_drawn = True
                    elif (known := self._scheduler.find(drawn[1])) is not None:
                        yield drawn[0], self._note(Served(known, is_from_journal=True))
                    else:
                        call = self._start(self._scheduler.serve(drawn[1], halt))
                        calls[call] = drawn[0]
                        call.add_done_callback(done.put)
                    continue
                call = _take(done)
                item = calls.pop(call)
                if not isinstance(call.exception(), LemaError):
                    yield item, self._note(call.result())
            halt.check()
        finally:
            self._abandon(calls, halt)

    def _note(self, served: Served) -> Answered | Failed:
        result = served.result
        if isinstance(result, Failed):
            self.count.failed += 1
            return result
        assert isinstance(result, StoredReply)
        self.count.answered += 1
        self.count.from_journal += served.is_from_journal
        return Answered(result.reply, result.reply_key, served.is_from_journal)

    def _start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _abandon(self, calls: Iterable[Future[Served]], halt: Halt) -> None:
        """Nobody waits any more: send nothing further, let what is in flight come in for a while, end the rest."""
        left = set(calls)
        if not left:
            return
        self._loop.call_soon_threadsafe(self._scheduler.stop, LemaError("interrupted"), halt)
        try:
            left = wait_for(left, self.settings.drain_s).not_done
        finally:
            for call in left:
                call.cancel()

    def close(self) -> None:
        """Close the teacher and end the second thread; calls still in flight are booked at their worst case."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._start(self._end()).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.teacher.close()

    def __enter__(self) -> TeacherDesk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()


def _take(done: queue.SimpleQueue[T]) -> T:
    """Wait for the next finished call; an interrupt gets through."""
    while True:
        try:
            return done.get(timeout=_POLL_S)
        except queue.Empty:
            continue
