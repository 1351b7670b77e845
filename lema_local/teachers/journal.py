"""The journal: every raw reply of a teacher, committed before anything parses it, so that nothing is paid twice.

One SQLite file under `LEMA_HOME`, shared by all runs and all processes of a user. Three things stand in it:

- `requests`: what was asked, by the key that says when two requests are the same;
- `replies`: what came back, whole;
- `calls`: the ledger, one row per request sent. It is written *before* the request goes out, so that a call whose
  process was killed is found, booked at its worst case and marked unknown.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
import zlib
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lema_local.errors import InputError
from lema_local.home import lema_home
from lema_local.teachers.base import RawReply, TeacherRequest
from lema_local.teachers.journal_file import JournalFile

CallState = Literal["in_flight", "answered", "free", "unknown"]
"""`free`: failed at no cost; `unknown`: no reply came, booked at its worst case."""

_REPLY_COLUMNS = (
    "request_key, ordinal, max_tokens, finish_reason, reported_model, prompt_tokens, completion_tokens, cost_usd, "
    "latency_s, words"
)


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A reply that stands in the journal."""

    reply: RawReply
    """Its `body` is left empty; `Journal.read` reads it."""
    reply_key: str
    max_tokens: int
    """The limit under which it was written."""

    @property
    def is_cut(self) -> bool:
        """Whether the limit ended it."""
        return self.reply.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Ticket:
    """Leave to send one request: its row in the ledger is written."""

    call_id: int
    request_key: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Busy:
    """The same request is in flight already, here or in another process: its reply will do for both."""


@dataclass(frozen=True, slots=True)
class InBatch:
    """The same request is out in a batch, which will be billed: its reply is to be fetched, not asked for again."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class Spending:
    """What calls cost."""

    calls: int
    """Requests sent, further tries included."""
    answered: int
    unknown: int
    """Calls without a reply, booked at their worst case."""
    in_flight: int
    spent_usd: float
    """Dollars, the worst case of unknown calls and of those in flight included."""
    unknown_usd: float


def request_key(teacher: str, identity: str, request: TeacherRequest) -> str:
    """Return the key under which replies to a request are kept: a hash of all that can change them.

    `max_tokens` is not among it: a finished reply fits any limit.
    """
    content = {"teacher": teacher, "identity": identity, **content_of(request)}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def content_of(request: TeacherRequest) -> dict[str, Any]:
    """Return what a request says, as it is kept."""
    return {
        "messages": list(request.messages),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop": list(request.stop),
        "response_format": request.response_format,
        "attempt": request.attempt,
    }


class Journal:
    """The journal, open. Safe to use from several threads; several processes may have it open.

    Args:
        path: The file, created if missing; None: `journal.sqlite` under `LEMA_HOME`.

    Raises:
        RunStateError: If the file is no journal, or one of a newer version.
        LemaError: If it cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or lema_home() / "journal.sqlite"
        self.file = JournalFile(self.path)

    def close(self) -> None:
        """Write what is queued and close the file. Calls still in flight are booked at their worst case."""
        self.file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, key: str, max_tokens: int, *, after: int = 0) -> StoredReply | None:
        """Return the reply that fits a request: the newest finished one, else one cut at this limit or above.

        Args:
            key: From `request_key`.
            max_tokens: The request's limit.
            after: Leave out replies up to this number (see `last_reply`): to ask anew.
        """
        with self.file.reading() as db:
            return _find(db, key, max_tokens, after)

    def last_reply(self) -> int:
        """Return the number of the newest reply; 0 in an empty journal."""
        with self.file.reading() as db:
            (number,) = db.execute("SELECT coalesce(max(id), 0) FROM replies").fetchone()
        return int(number)

    def claim(
        self,
        key: str,
        teacher: str,
        identity: str,
        request: TeacherRequest,
        *,
        worst_usd: float,
        scope: str,
        after: int = 0,
    ) -> Future[StoredReply | Ticket | Busy | InBatch]:
        """Ask for leave to send a request; the ledger's row is committed when the future is done.

        Returns:
            A fitting reply, if another process brought it meanwhile; `Busy` while one is asking; `InBatch` while it
            is out in one (unless asked anew); else a ticket, to be given back through `settle_reply` or
            `settle_failure`.
        """

        def work(db: sqlite3.Connection) -> StoredReply | Ticket | Busy | InBatch:
            if (stored := _find(db, key, request.max_tokens, after)) is not None:
                return stored
            holders = db.execute(
                "SELECT session FROM calls WHERE request_key=? AND state='in_flight'", (key,)
            ).fetchall()
            if not all(self.file.end_if_dead(db, session) for (session,) in holders):
                return Busy()
            if not after and (batch_id := find_in_batch(db, key)) is not None:
                return InBatch(batch_id)
            insert_request(db, key, teacher, identity, request)
            row = (key, self.file.session, scope, teacher, request.max_tokens, worst_usd, time.time())
            call = db.execute(
                "INSERT INTO calls (request_key, session, scope, teacher, max_tokens, state, worst_usd, sent_at) "
                "VALUES (?, ?, ?, ?, ?, 'in_flight', ?, ?)",
                row,
            )
            assert call.lastrowid is not None
            return Ticket(call.lastrowid, key, request.max_tokens)

        return self.file.write(work, is_durable=False)

    def settle_reply(self, ticket: Ticket, reply: RawReply) -> Future[StoredReply]:
        """Keep a reply; it stands on the disk when the future is done."""

        def work(db: sqlite3.Connection) -> StoredReply:
            now = time.time()
            ordinal = insert_reply(db, ticket, reply, now)
            _end_call(db, ticket, "answered", reply.cost_usd, now, None)
            return StoredReply(reply, name_reply(ticket.request_key, ordinal), ticket.max_tokens)

        return self.file.write(work)

    def settle_failure(self, ticket: Ticket, error: str, *, cost_usd: float | None) -> Future[None]:
        """Book a call that got no reply.

        Args:
            ticket: From `claim`.
            error: The last error's words, keys masked.
            cost_usd: Dollars; None where that cannot be known: the worst case is booked.
        """

        def work(db: sqlite3.Connection) -> None:
            _end_call(db, ticket, "unknown" if cost_usd is None else "free", cost_usd, time.time(), error)

        return self.file.write(work, is_durable=False)

    def read(self, reply_key: str) -> StoredReply:
        """Return a reply by its own key, with the body as the provider sent it.

        Raises:
            InputError: If there is no such reply.
        """
        key, _, ordinal = reply_key.partition(".")
        with self.file.reading() as db:
            row = db.execute(
                f"SELECT {_REPLY_COLUMNS}, body FROM replies WHERE request_key=? AND ordinal=?",  # noqa: S608
                (key, int(ordinal or 0)),
            ).fetchone()
        if row is None:
            raise InputError(
                f"the journal {self.path} holds no reply {reply_key}", hint="lema journal show lists them"
            )
        stored = _stored(row[:-1])
        return replace(stored, reply=replace(stored.reply, body=unpack(row[-1])))

    def spending(self, scope: str | None = None) -> Spending:
        """Return what the calls for a scope cost, and for all within it where it is a folder; None: all calls."""
        query = """
            SELECT count(*), coalesce(sum(state = 'answered'), 0), coalesce(sum(state = 'unknown'), 0),
                   coalesce(sum(state = 'in_flight'), 0), coalesce(sum(coalesce(cost_usd, worst_usd)), 0.0),
                   coalesce(sum(iif(state = 'unknown', cost_usd, 0.0)), 0.0)
            FROM booked WHERE ?1 IS NULL OR scope = ?1 OR (scope > ?2 AND scope < ?3)
        """
        inner = (
            f"{scope}{os.sep}",
            f"{scope}{chr(ord(os.sep) + 1)}",
        )  # all that begins with the folder's name and /
        # What this process has queued counts too: calls that were just ended are otherwise still in flight.
        self.file.write(lambda db: None, is_durable=False).result()
        with self.file.reading() as db:
            return Spending(*db.execute(query, (scope, *inner)).fetchone())


# Packing is left to the journal's own thread: compressing takes the processor's time, but not Python's lock.


def insert_request(
    db: sqlite3.Connection, key: str, teacher: str, identity: str, request: TeacherRequest
) -> None:
    """Write what is asked, where it does not stand there yet."""
    if db.execute("SELECT 1 FROM requests WHERE request_key=?", (key,)).fetchone() is None:
        row = (key, teacher, identity, pack(content_of(request)))
        db.execute("INSERT INTO requests VALUES (?, ?, ?, ?)", row)


def insert_reply(db: sqlite3.Connection, ticket: Ticket, reply: RawReply, now: float) -> int:
    """Write a reply; return which of its request's replies it is, from 0."""
    words = pack({"text": reply.text, "reasoning": reply.reasoning})
    body = pack(reply.body)
    (ordinal,) = db.execute(
        "SELECT coalesce(max(ordinal) + 1, 0) FROM replies WHERE request_key=?", (ticket.request_key,)
    ).fetchone()
    db.execute(
        f"INSERT INTO replies (call_id, received_at, body, {_REPLY_COLUMNS}) "  # noqa: S608 - constants
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(ticket.call_id, now, body, ticket.request_key, ordinal, ticket.max_tokens),
            *(reply.finish_reason, reply.model, reply.prompt_tokens, reply.completion_tokens),
            *(reply.cost_usd, reply.latency_s, words),
        ),
    )
    return int(ordinal)


def find_in_batch(db: sqlite3.Connection, key: str) -> str | None:
    """Return the batch in which a request is out, sent and not answered yet; None where it is in none."""
    row = db.execute(
        "SELECT batch_id FROM batch_items JOIN batches USING (batch_id) WHERE request_key=? "
        "AND batch_items.state='open' AND batches.state IN ('submitting', 'submitted') LIMIT 1",
        (key,),
    ).fetchone()
    return None if row is None else str(row[0])


def _find(db: sqlite3.Connection, key: str, max_tokens: int, after: int) -> StoredReply | None:
    row = db.execute(
        f"SELECT {_REPLY_COLUMNS} FROM replies WHERE request_key=? AND id>? "  # noqa: S608 - constants
        "AND (finish_reason!='length' OR max_tokens>=?) ORDER BY finish_reason='length', id DESC LIMIT 1",
        (key, after, max_tokens),
    ).fetchone()
    return None if row is None else _stored(row)


def _stored(row: tuple[Any, ...]) -> StoredReply:
    key, ordinal, max_tokens, finish, reported, prompt, completion, cost, latency, words = row
    content = unpack(words)
    reply = RawReply(
        content["text"], reported, finish, prompt, completion, cost, latency, reasoning=content["reasoning"]
    )
    return StoredReply(reply, name_reply(key, ordinal), max_tokens)


def _end_call(
    db: sqlite3.Connection,
    ticket: Ticket,
    state: CallState,
    cost: float | None,
    now: float,
    error: str | None,
) -> None:
    db.execute(
        "UPDATE calls SET state=?, cost_usd=coalesce(?, worst_usd), ended_at=?, error=? WHERE id=?",
        (state, cost, now, error, ticket.call_id),
    )


def name_reply(key: str, ordinal: int) -> str:
    """Return a reply's own key: the request's, and behind it which of its replies, where it has several."""
    return key if ordinal == 0 else f"{key}.{ordinal}"


def pack(content: dict[str, Any]) -> bytes:
    """Return a column's content, packed."""
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode(), level=1)


def unpack(content: bytes) -> dict[str, Any]:
    """Return a packed column's content."""
    unpacked: dict[str, Any] = json.loads(zlib.decompress(content))
    return unpacked
