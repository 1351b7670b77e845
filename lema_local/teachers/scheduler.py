"""One request on its way to a teacher: slot, reservation, ledger row, call, further tries, journal.

Runs on the desk's event loop. A call is paid for at the moment it is sent, so everything is booked before that:
the reservation in the budget, the row in the journal's ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import tenacity

from lema_local.errors import BackendError, BackendUnavailable, LemaError
from lema_local.teachers.base import CallFailed, Failed, RawReply, RequestRefused, Teacher, TeacherRequest
from lema_local.teachers.budget import Budget, Reservation
from lema_local.teachers.journal import Busy, InBatch, Journal, StoredReply, Ticket, request_key
from lema_local.teachers.prices import likely_tokens
from lema_local.teachers.throttle import Pace, Throttle

_LOOK_AGAIN_S = 0.2
"""How often the journal is looked at while another process asks the same request."""


class CallSettings(Protocol):
    """What a stage's settings say about calls; see `DeskSettings`."""

    @property
    def concurrency(self) -> int:
        """Calls in flight at most."""

    @property
    def timeout_s(self) -> float:
        """Seconds for one call."""

    @property
    def retries(self) -> int:
        """Further tries."""

    @property
    def rpm(self) -> int | None:
        """Requests a minute at most."""

    @property
    def tpm(self) -> int | None:
        """Tokens a minute at most."""

    @property
    def max_tokens_on_cut(self) -> int | None:
        """The limit of the one further try after a cut reply."""


@dataclass(frozen=True, slots=True)
class DeskSettings:
    """How a teacher is asked. None of it can change a reply but `max_tokens_on_cut` and `is_fresh`."""

    concurrency: int = 8
    """Calls in flight at most; fewer while the provider says that it is too much."""
    rpm: int | None = None
    """Requests a minute at most; None: as many as the provider takes."""
    tpm: int | None = None
    """Tokens a minute at most, those of prompts and replies together; None: likewise."""
    timeout_s: float = 300.0
    """Seconds for one call, counted by the teacher from the sending."""
    grace_s: float = 120.0
    """Seconds more after which a call that the teacher has not ended is ended from here. Generous: on a busy
    machine the first call is sent only after a minute of imports."""
    retries: int = 8
    """Further tries after a time-out, a broken connection, a 429 or a 5xx. With the waits below 8 take some
    two to four minutes, or as long as the server asks."""
    first_wait_s: float = 1.0
    """Seconds before the first further try, on average; each next wait is twice as long."""
    longest_wait_s: float = 60.0
    """Where it stops growing. A `Retry-After` is honoured beyond it."""
    longest_retry_after_s: float = 6 * 3600.0
    """A server that asks to wait longer than this ends the run instead."""
    max_tokens_on_cut: int | None = None
    """Ask once more with this limit where a reply was cut by a smaller one; None: a cut reply stays."""
    failures_in_a_row: int = 10
    """Requests in a row that found no answer after all tries end the run: the teacher is gone."""
    is_fresh: bool = False
    """Leave replies that the journal held at the start aside, and ask anew."""
    drain_s: float = 5.0
    """On an interrupt, seconds to wait for calls in flight; those that take longer are booked as unknown."""

    @classmethod
    def from_stage(cls, settings: CallSettings, *, is_fresh: bool = False) -> DeskSettings:
        """Return the settings that a stage of a recipe asks for."""
        return cls(
            concurrency=settings.concurrency,
            rpm=settings.rpm,
            tpm=settings.tpm,
            timeout_s=settings.timeout_s,
            retries=settings.retries,
            max_tokens_on_cut=settings.max_tokens_on_cut,
            is_fresh=is_fresh,
        )


@dataclass(slots=True)
class DeskCount:
    """What a desk did. Dollars are those of its own calls; replies from the journal are free."""

    answered: int = 0
    from_journal: int = 0
    failed: int = 0
    cut: int = 0
    """Replies that their limit ended (those asked again with a larger one included)."""
    empty: int = 0
    """Replies without a word that nothing had cut or filtered."""
    filtered: int = 0
    """Replies that the provider's filter took away."""
    calls: int = 0
    """Requests sent, further tries included."""
    unknown: int = 0
    """Calls without a reply that may have been billed: booked at their worst case."""
    cost_usd: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    """Failed calls by kind."""

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for a manifest or a summary."""
        # Not `asdict`: it takes a Counter apart.
        counts: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        return counts | {"faults": dict(self.faults.most_common())}


class Halt:
    """Why no further call is to be sent; what waits is woken by it. Set on the event loop, read anywhere."""

    def __init__(self) -> None:
        self.error: LemaError | None = None
        self._is_set = asyncio.Event()

    def stop(self, error: LemaError) -> None:
        """Send no further call."""
        if self.error is None:
            self.error = error
            self._is_set.set()

    def check(self) -> None:
        """Raise what stopped the calls, if anything did."""
        if self.error is not None:
            raise self.error

    async def sleep(self, seconds: float) -> None:
        """Sleep; raise at once where the calls are stopped meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_set.wait(), seconds)
        self.check()


class _AskedElsewhere(Exception):
    """The same request is in flight already, here or in another process."""


class _AskedInBatch(Exception):
    """The same request is out in a batch."""


@dataclass(frozen=True, slots=True)
class Served:
    """What became of a request."""

    result: StoredReply | Failed
    is_from_journal: bool = False


class Scheduler:
    """Sends requests to one teacher.

    Args:
        teacher: Who is asked.
        journal: Where calls are booked and replies kept.
        budget: The cap.
        settings: How calls are made.
        scope: What the calls are made for, in the ledger.
        collect: Gets each request that would be sent, with its key; nothing is sent then.
    """

    def __init__(
        self,
        teacher: Teacher,
        journal: Journal,
        budget: Budget,
        settings: DeskSettings,
        scope: str,
        collect: Callable[[str, TeacherRequest], None] | None = None,
    ) -> None:
        self._collect = collect
        self._teacher = teacher
        self._journal = journal
        self._budget = budget
        self._settings = settings
        self._scope = scope
        self._throttle = Throttle(settings.concurrency)
        self._pace = Pace(settings.rpm, settings.tpm) if settings.rpm or settings.tpm else None
        self._settled = asyncio.Event()
        self._after = journal.last_reply() if settings.is_fresh else 0
        self._failures_in_a_row = 0
        self._was_answered = False
        self.count = DeskCount()

    # -- Journal

    def find(self, request: TeacherRequest) -> StoredReply | None:
        """Return the journal's reply to a request where that ends the matter. Any thread may ask."""
        stored = self._look_up(request)
        longer = None if stored is None else self.lengthen(request, stored)
        return stored if longer is None else self._look_up(longer)

    def _look_up(self, request: TeacherRequest) -> StoredReply | None:
        return self._journal.find(self.key_of(request), request.max_tokens, after=self._after)

    def key_of(self, request: TeacherRequest) -> str:
        """Return the journal's key of a request."""
        return request_key(self._teacher.name, self._teacher.identity, request)

    def lengthen(self, request: TeacherRequest, stored: StoredReply) -> TeacherRequest | None:
        """Return the request with a larger limit, where its reply was cut and one is allowed."""
        limit = self._settings.max_tokens_on_cut
        if not stored.is_cut or limit is None or limit <= request.max_tokens:
            return None
        return replace(request, max_tokens=limit)

    # -- One request

    async def serve(self, request: TeacherRequest, halt: Halt) -> Served:
        """Return what becomes of a request; where it ends all calls, set `halt`.

        Raises:
            LemaError: What set `halt`.
        """
        if self._collect is not None:
            stored = self._look_up(request)
            longer = None if stored is None else self.lengthen(request, stored)
            self._collect(self.key_of(request), longer or request)
            return Served(Failed("put into a batch"))
        try:
            served = await self._obtain(request, halt)
            if isinstance(served.result, StoredReply) and (longer := self.lengthen(request, served.result)):
                served = await self._obtain(longer, halt)
        except LemaError as err:
            self.stop(err, halt)
            raise
        return served

    def stop(self, error: LemaError, halt: Halt) -> None:
        """Send nothing further; what waits for a slot or a pause ends at once."""
        halt.stop(error)
        self._throttle.let_go()

    async def _obtain(self, request: TeacherRequest, halt: Halt) -> Served:
        while True:
            try:
                return await self._try_on(request, halt)
            except _AskedElsewhere:
                await halt.sleep(_LOOK_AGAIN_S)
            except _AskedInBatch as err:
                return Served(Failed(f"it is out in batch {err}: lema batch fetch brings its reply"))
            except CallFailed as err:
                return self._give_up(err)
            except RequestRefused as err:
                if not err.is_only_this and not self._was_answered:
                    raise BackendError(str(err), hint=err.hint) from err
                return Served(Failed(str(err)))

    async def _try_on(self, request: TeacherRequest, halt: Halt) -> Served:
        """Call until there is a reply or the tries are used up."""
        try:
            return await self._attempt(request, halt)
        except CallFailed as err:
            failed = [err]
        # Only now: what tenacity sets up for one call takes a fifth of our own share of the processor's time.
        tries = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(CallFailed),
            stop=tenacity.stop_after_attempt(1 + self._settings.retries),
            wait=self._wait_s,
            sleep=halt.sleep,
            reraise=True,
        )

        async def attempt() -> Served:
            if failed:
                raise failed.pop()
            return await self._attempt(request, halt)

        return await tries(attempt)

    def _wait_s(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked_s = error.retry_after_s if isinstance(error, CallFailed) else None
        return wait_before_next_try(self._settings, state.attempt_number, asked_s)

    def _give_up(self, err: CallFailed) -> Served:
        """Book a request as failed; raise where the teacher is gone altogether."""
        if err.is_unreachable and not self._was_answered:
            raise BackendUnavailable(str(err), hint=err.hint) from err
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._settings.failures_in_a_row:
            raise BackendError(
                f"{self._failures_in_a_row} requests in a row found no answer; the last one: {err}",
                hint=err.hint,
            ) from err
        return Served(Failed(str(err)))

    # -- One call

    async def _attempt(self, request: TeacherRequest, halt: Halt) -> Served:
        await self._throttle.acquire()
        try:
            halt.check()
            if self._pace and (wait_s := self._pace.reserve(likely_tokens(request))) > 0:
                await halt.sleep(wait_s)
            reservation = await self._reserve(request, halt)
            settled = await self._call(request, reservation)
        finally:
            self._throttle.release()
        if isinstance(settled, StoredReply):
            return Served(settled, is_from_journal=True)
        ticket, reply = settled
        if self._pace:
            used = (reply.prompt_tokens or 0) + (reply.completion_tokens or 0)
            self._pace.settle(likely_tokens(request), used)
        stored = await asyncio.wrap_future(self._journal.settle_reply(ticket, reply))
        return Served(stored)

    async def _reserve(self, request: TeacherRequest, halt: Halt) -> Reservation:
        worst_usd = self._worst_usd(request)
        while (reservation := self._budget.reserve(worst_usd)) is None:
            # Calls in flight may cost less than they could: wait for one to settle.
            self._settled.clear()
            await self._settled.wait()
            halt.check()
        return reservation

    def _worst_usd(self, request: TeacherRequest) -> float:
        try:
            return self._teacher.worst_case_usd(request)
        except BackendUnavailable:
            # Without a cap in dollars the price need not be known.
            if self._budget.max_usd is not None:
                raise
            return 0.0

    async def _call(
        self, request: TeacherRequest, reservation: Reservation
    ) -> StoredReply | tuple[Ticket, RawReply]:
        """Book and send one call; a reply that came meanwhile from elsewhere is taken instead."""
        claim = await self._claim(request, reservation)
        if isinstance(claim, StoredReply):
            return claim
        sent_at = time.monotonic()
        self.count.calls += 1
        try:
            async with asyncio.timeout(self._settings.timeout_s + self._settings.grace_s):
                reply = await self._teacher.reply(replace(request, timeout_s=self._settings.timeout_s))
        except TimeoutError:
            err = CallFailed("the call did not end", may_have_cost=True)
            self._note_failure(claim, reservation, err, sent_at)
            raise err from None
        except BackendError as err:
            self._note_failure(claim, reservation, err, sent_at)
            raise
        except asyncio.CancelledError:
            self._book_failure(claim, reservation, "interrupted before the reply came", may_have_cost=True)
            raise
        self._settle(reservation, reply.cost_usd)
        self._note_reply(reply)
        return claim, reply

    async def _claim(self, request: TeacherRequest, reservation: Reservation) -> StoredReply | Ticket:
        teacher = self._teacher
        future = self._journal.claim(
            self.key_of(request),
            teacher.name,
            teacher.identity,
            request,
            worst_usd=reservation.worst_usd,
            scope=self._scope,
            after=self._after,
        )
        try:
            claim = await asyncio.wrap_future(future)
        except BaseException:
            self._withdraw(reservation)
            raise
        if not isinstance(claim, Ticket):
            self._withdraw(reservation)
        if isinstance(claim, Busy):
            raise _AskedElsewhere
        if isinstance(claim, InBatch):
            raise _AskedInBatch(claim.batch_id)
        return claim

    # -- Accounts

    def _settle(self, reservation: Reservation, cost_usd: float) -> None:
        self._budget.settle(reservation, cost_usd)
        self.count.cost_usd += cost_usd
        self._settled.set()

    def _withdraw(self, reservation: Reservation) -> None:
        self._budget.withdraw(reservation)
        self._settled.set()

    def _note_reply(self, reply: RawReply) -> None:
        self._was_answered = True
        self._failures_in_a_row = 0
        self.count.cut += reply.finish_reason == "length"
        self.count.filtered += reply.finish_reason == "content_filter"
        self.count.empty += not reply.text.strip() and reply.finish_reason not in {"length", "content_filter"}
        self._throttle.note_reply()

    def _note_failure(
        self, ticket: Ticket, reservation: Reservation, err: BackendError, sent_at: float
    ) -> None:
        may_have_cost = isinstance(err, CallFailed) and err.may_have_cost
        self._book_failure(ticket, reservation, str(err), may_have_cost=may_have_cost)
        self.count.faults[kind_of_failure(err)] += 1
        if not isinstance(err, CallFailed):
            return
        asked_s = err.retry_after_s
        if asked_s is not None and asked_s > self._settings.longest_retry_after_s:
            raise BackendError(
                f"{err} (the server asks to wait {asked_s:.0f} s)", hint="go on later"
            ) from err
        if err.is_rate_limit:
            self._throttle.note_rate_limit(sent_at, asked_s)

    def _book_failure(
        self, ticket: Ticket, reservation: Reservation, error: str, *, may_have_cost: bool
    ) -> None:
        # A call that may have been billed is booked at its worst case: the cap must hold against the bill.
        self._settle(reservation, reservation.worst_usd if may_have_cost else 0.0)
        self.count.unknown += may_have_cost
        self._journal.settle_failure(ticket, error, cost_usd=None if may_have_cost else 0.0)


def kind_of_failure(err: BackendError) -> str:
    """Return one word for the account of failed calls."""
    if not isinstance(err, CallFailed):
        return "refused"
    if err.is_rate_limit:
        return "rate limit"
    if err.is_unreachable:
        return "unreachable"
    return "no reply" if err.may_have_cost else "server error"


def wait_before_next_try(settings: DeskSettings, tries: int, asked_s: float | None) -> float:
    """Return the seconds before the next try: doubled each time, half of it by chance, and as long as asked.

    Args:
        settings: With the first and the longest wait.
        tries: Tries so far, from 1.
        asked_s: Seconds that the server asked to wait; None where it did not.
    """
    backoff_s = min(settings.longest_wait_s, settings.first_wait_s * 2.0 ** min(tries - 1, 30))
    if asked_s is None:
        return backoff_s * random.uniform(0.5, 1.0)
    # By chance, so that calls refused together do not come back together.
    return asked_s + min(backoff_s, 1.0) * random.uniform(0.1, 1.0)
