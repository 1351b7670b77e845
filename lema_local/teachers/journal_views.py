"""Looking into the journal: what was asked, what it cost; taking it elsewhere, and making it smaller."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lema_local.teachers.journal import Journal, name_reply, unpack

_DAY_S = 86_400.0
_PAGE = 500


@dataclass(frozen=True, slots=True)
class ReplyLine:
    """One reply, in one line."""

    reply_key: str
    received_at: float
    """Seconds since 1970."""
    teacher: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float
    opening: str
    """The first words of the reply."""


@dataclass(frozen=True, slots=True)
class SpendingLine:
    """What one teacher cost for one scope."""

    teacher: str
    scope: str
    calls: int
    answered: int
    free: int
    """Calls that failed at no cost."""
    unknown: int
    """Calls without a reply, booked at their worst case."""
    in_flight: int
    spent_usd: float
    unknown_usd: float


def list_replies(journal: Journal, limit: int, teacher: str | None = None) -> list[ReplyLine]:
    """Return the newest replies, newest first."""
    with journal.file.reading() as db:
        rows = db.execute(
            "SELECT request_key, ordinal, received_at, teacher, finish_reason, prompt_tokens, completion_tokens, "
            "cost_usd, words FROM replies JOIN requests USING (request_key) "
            "WHERE ?1 IS NULL OR teacher = ?1 ORDER BY replies.id DESC LIMIT ?2",
            (teacher, limit),
        ).fetchall()
    return [
        ReplyLine(
            name_reply(key, ordinal), at, by, finish, prompt_tokens, completion_tokens, cost, _open(words)
        )
        for key, ordinal, at, by, finish, prompt_tokens, completion_tokens, cost, words in rows
    ]


def _open(words: bytes) -> str:
    """Return the first words of a reply in one line."""
    return " ".join(unpack(words)["text"].split())[:80]


def list_spending(journal: Journal) -> list[SpendingLine]:
    """Return what was spent, by teacher and scope, in the order of the first call."""
    query = """
        SELECT teacher, scope, count(*), sum(state = 'answered'), sum(state = 'free'), sum(state = 'unknown'),
               sum(state = 'in_flight'), sum(coalesce(cost_usd, worst_usd)),
               sum(iif(state = 'unknown', cost_usd, 0.0))
        FROM booked GROUP BY teacher, scope ORDER BY min(id) IS NULL, min(id)
    """
    with journal.file.reading() as db:
        return [SpendingLine(*row) for row in db.execute(query)]


def read_whole(journal: Journal, reply_key: str) -> dict[str, Any]:
    """Return a reply with its request and its body.

    Raises:
        InputError: If there is no such reply.
    """
    stored = journal.read(reply_key)
    key = reply_key.partition(".")[0]
    with journal.file.reading() as db:
        teacher, identity, content = db.execute(
            "SELECT teacher, identity, content FROM requests WHERE request_key=?", (key,)
        ).fetchone()
    reply = stored.reply
    return {
        "reply_key": reply_key,
        "teacher": teacher,
        "identity": identity,
        "request": unpack(content) | {"max_tokens": stored.max_tokens},
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "cost_usd": reply.cost_usd,
        "latency_s": reply.latency_s,
        "text": reply.text,
        "reasoning": reply.reasoning,
        "body": reply.body,
    }


def iterate_whole(journal: Journal) -> Iterator[dict[str, Any]]:
    """Yield every reply with its request and its body, oldest first."""
    last = 0
    while True:
        with journal.file.reading() as db:
            rows = db.execute(
                "SELECT id, request_key, ordinal FROM replies WHERE id > ? ORDER BY id LIMIT ?", (last, _PAGE)
            ).fetchall()
        if not rows:
            return
        for number, key, ordinal in rows:
            yield read_whole(journal, name_reply(key, ordinal))
            last = number


def prune(journal: Journal, *, older_than_days: float, teacher: str | None = None) -> int:
    """Forget replies, and give their space back; return how many. The ledger of calls stays.

    Args:
        journal: Where they stand.
        older_than_days: Replies received longer ago than this.
        teacher: Only this teacher's; None: all.
    """
    before = time.time() - older_than_days * _DAY_S

    def work(db: sqlite3.Connection) -> int:
        gone = db.execute(
            "DELETE FROM replies WHERE received_at < ?1 AND (?2 IS NULL OR request_key IN "
            "(SELECT request_key FROM requests WHERE teacher = ?2))",
            (before, teacher),
        ).rowcount
        db.execute(
            "DELETE FROM requests WHERE request_key NOT IN (SELECT request_key FROM replies) "
            "AND request_key NOT IN (SELECT request_key FROM calls WHERE state = 'in_flight') "
            "AND request_key NOT IN (SELECT request_key FROM batch_items WHERE state = 'open')"
        )
        return int(gone)

    count = journal.file.write(work).result()
    journal.file.shrink()
    return count
