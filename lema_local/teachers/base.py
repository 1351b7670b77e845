"""What a teacher is, whatever stands behind it: requests in, raw replies out, each reply journaled first.

Every teacher goes one way. `Teacher.reply` makes one raw reply; `TeacherDesk` (desk.py) stands in front of it
with the journal, the budget and the scheduler. The reference teacher, which uses no model, reads its request
from the same messages and answers in the same form as a model would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from lema_local.errors import BackendError, BackendTransient
from lema_local.students.base import Message

Item = TypeVar("Item")
FinishReason = Literal["stop", "length", "content_filter", "other"]


@dataclass(frozen=True, slots=True)
class TeacherRequest:
    """One question to a teacher. Everything that can change the reply is in here, and so in the journal's key."""

    messages: tuple[Message, ...]
    temperature: float | None = 0.0
    """None: the provider's default (some models refuse to be told)."""
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    response_format: dict[str, Any] | None = None
    attempt: int = 0
    """0-based; a further attempt at the same messages is another request."""
    max_tokens: int = 1024
    """Not part of the key: a finished reply fits any limit, a cut one only the same or a smaller."""
    timeout_s: float = 300.0
    """Seconds after which the teacher gives the call up; not part of the key. The desk sets it."""


@dataclass(frozen=True, slots=True)
class RawReply:
    """A teacher's words and what they cost, before anything is parsed."""

    text: str
    model: str | None
    """The model as the reply named itself."""
    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float
    latency_s: float
    reasoning: str | None = None
    """A thinking model's reasoning text, kept apart from its answer."""
    body: dict[str, Any] = field(default_factory=dict)
    """The whole reply as the provider sent it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply that stands in the journal."""

    reply: RawReply
    reply_key: str
    is_from_journal: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that got no reply, with the last error's words (keys masked). A later run asks again."""

    reason: str


class CallFailed(BackendTransient):
    """One call that got no reply; it may be tried again.

    Args:
        message: The provider's words, keys masked.
        retry_after_s: Seconds that the server asked to wait; None where it did not say.
        is_rate_limit: Too many calls, or too many at once.
        may_have_cost: The request may have been worked on and billed, though no reply came (a time-out, a
            connection that broke). It is booked at its worst case.
        is_unreachable: Nobody listens there.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after_s: float | None = None,
        is_rate_limit: bool = False,
        may_have_cost: bool = False,
        is_unreachable: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        self.is_rate_limit = is_rate_limit
        self.may_have_cost = may_have_cost
        self.is_unreachable = is_unreachable


class RequestRefused(BackendError):
    """The provider will not answer this request, however often it is asked.

    Args:
        message: The provider's words, keys masked.
        is_only_this: True where the request's own content is why (too long for the context, a content filter);
            False where the reason may lie in settings that every request shares.
    """

    def __init__(self, message: str, *, hint: str | None = None, is_only_this: bool) -> None:
        super().__init__(message, hint=hint)
        self.is_only_this = is_only_this


class Teacher(Protocol):
    """Whoever writes corrections."""

    @property
    def name(self) -> str:
        """As asked for on the command line: `gpt-4o`, `openai/local`, `reference`."""

    @property
    def identity(self) -> str:
        """Part of the journal's key beside the name; empty for a provider's own model.

        For an endpoint its URL and the model it reports, for a file its hash, for `reference` the code's version.
        """

    @property
    def reads_gold(self) -> bool:
        """True for the reference teacher: its request carries the gold rationale and answer as data."""

    @property
    def can_write_json(self) -> bool:
        """Whether it has a mode in which its reply is sure to be JSON (`response_format`)."""

    def worst_case_usd(self, request: TeacherRequest) -> float:
        """The most that this request can cost: prompt tokens and `max_tokens` at the model's price.

        Raises:
            BackendUnavailable: If the price is not known.
        """

    async def reply(self, request: TeacherRequest) -> RawReply:
        """Ask once.

        Raises:
            CallFailed: Safe to try again.
            RequestRefused: This request will never be answered.
            BackendError: No request will be answered (no such model, a wrong key); the provider's words.
        """

    async def close(self) -> None:
        """Close connections, give memory back."""


class Desk(Protocol):
    """A teacher with journal, budget and scheduler in front of it, as a stage sees it."""

    @property
    def name(self) -> str:
        """The teacher as asked for."""

    @property
    def reads_gold(self) -> bool:
        """Whether the teacher is told the gold rationale and answer."""

    @property
    def can_write_json(self) -> bool:
        """Whether the teacher has a mode in which its reply is sure to be JSON."""

    def ask_many(
        self, requests: Iterable[tuple[Item, TeacherRequest]]
    ) -> Iterator[tuple[Item, Answered | Failed]]:
        """Yield each item with its reply, as replies come; requests are drawn as they are needed.

        Raises:
            BudgetReached: After everything in flight has come in and been yielded.
            BackendError: If no request will be answered any more; what was yielded stays valid.
        """
