"""What a teacher is, whatever stands behind it: requests in, raw replies out, each reply journaled first.

Every teacher goes one way. `Teacher.reply` makes one raw reply; `TeacherDesk` (desk.py) stands in front of it
with the journal, the budget and the scheduler. The reference teacher, which uses no model, reads its request
from the same messages and answers in the same form as a model would.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from lema_local.students.base import Message

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

    def worst_case_usd(self, request: TeacherRequest) -> float:
        """The most that this request can cost: prompt tokens and `max_tokens` at the model's price.

        Raises:
            BackendUnavailable: If the price is not known.
        """

    async def reply(self, request: TeacherRequest) -> RawReply:
        """Ask once.

        Raises:
            BackendTransient: Safe to try again (`retry_after_s` on it where the server gave one).
            BackendError: Not safe to try again; the provider's words.
        """

    async def close(self) -> None:
        """Close connections, give memory back."""
