"""What the journal knows of batches: which requests were written into which file, what is out, what came back.

A batch is a file of requests that a provider works through within a day, at batch prices. Each request in it is an
item, known by the batch and the request's key; a reply goes into the journal under that key as any other reply does,
so that the stage that wanted it finds it there. From the submission on an item is booked at its worst case until it
is answered, fails, or its batch has ended.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lema_local.errors import InputError
from lema_local.teachers.base import RawReply, TeacherRequest
from lema_local.teachers.journal import Journal, Ticket, insert_reply, insert_request
from lema_local.teachers.prices import Price

BatchState = Literal["exported", "submitting", "submitted", "ended"]
"""`submitting`: the provider may or may not have it; only a process that was killed leaves it so."""
Taken = Literal["answered", "failed", "duplicate", "unknown"]
"""What became of a line: `duplicate`: its item has its reply already; `unknown`: this journal never asked it."""

_COLUMNS = (
    "batch_id, teacher, identity, url, scope, requests_path, sha256, prompt_usd, completion_usd, state, remote_id, "
    "remote_status"
)


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One request of a batch."""

    request_key: str
    request: TeacherRequest
    worst_usd: float


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch, as the journal knows it."""

    batch_id: str
    teacher: str
    identity: str
    url: str | None
    scope: str
    """What its replies are for, in the ledger."""
    requests_path: Path
    """Where the file of requests was written."""
    sha256: str
    """Of that file."""
    price: Price | None
    """In a batch; None: not known."""
    state: BatchState = "exported"
    remote_id: str | None = None
    """The provider's name for it; None before the submission."""
    remote_status: str | None = None
    """The provider's last word on it."""


@dataclass(frozen=True, slots=True)
class BatchCount:
    """How far a batch is."""

    items: int
    answered: int
    failed: int
    open: int
    """Without a reply so far."""
    open_usd: float
    """What the open ones may cost, in dollars."""


class BatchBook:
    """The batches of a journal.

    Args:
        journal: Where they stand; stays open.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    # -- Looking

    def find(self, batch_id: str) -> Batch | None:
        """Return a batch; None where this journal has none of that name."""
        found = self._select("batch_id=?", batch_id)
        return found[0] if found else None

    def find_file(self, path: Path) -> Batch:
        """Return the batch whose requests were written into a file.

        Raises:
            InputError: If none was, by this journal.
        """
        found = self._select("requests_path=?", str(path.resolve()))
        if not found:
            raise InputError(
                f"{path} was not written by lema batch export, or under another LEMA_HOME",
                hint=f"its replies are kept in {self._journal.path}",
            )
        return found[-1]

    def list_unfinished(self) -> list[Batch]:
        """Return the batches that have not ended, oldest first."""
        return self._select("state!=?", "ended")

    def _select(self, where: str, value: str) -> list[Batch]:
        with self._journal.file.reading() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM batches WHERE {where} ORDER BY created_at, rowid",  # noqa: S608
                (value,),
            ).fetchall()
        return [_batch(*row) for row in rows]

    def count(self, batch_id: str) -> BatchCount:
        """Return how far a batch is."""
        with self._journal.file.reading() as db:
            row = db.execute(
                "SELECT count(*), coalesce(sum(state='answered'), 0), coalesce(sum(state='failed'), 0), "
                "coalesce(sum(state='open'), 0), coalesce(sum(iif(state='open', worst_usd, 0.0)), 0.0) "
                "FROM batch_items WHERE batch_id=?",
                (batch_id,),
            ).fetchone()
        return BatchCount(*row)

    def find_out(self, keys: Sequence[str]) -> set[str]:
        """Return those of the requests that are out in a batch."""
        query = (
            "SELECT request_key FROM batch_items JOIN batches USING (batch_id) WHERE batch_items.state='open' "
            "AND batches.state IN ('submitting', 'submitted')"
        )
        with self._journal.file.reading() as db:
            return {key for (key,) in db.execute(query)} & set(keys)

    # -- Sending

    def register(self, batches: Sequence[tuple[Batch, Sequence[BatchItem]]]) -> None:
        """Note batches with their items, all or none, on the disk itself."""

        def work(db: sqlite3.Connection) -> None:
            for batch, items in batches:
                _insert_batch(db, batch, items)

        self._journal.file.write(work).result()

    def move(
        self, batch_id: str, state: BatchState, remote_id: str | None = None, remote_status: str | None = None
    ) -> None:
        """Note a batch's state, and what the provider said; None: nothing new."""
        change = (
            "UPDATE batches SET state=?, remote_id=coalesce(?, remote_id), "
            "remote_status=coalesce(?, remote_status) WHERE batch_id=?"
        )
        values = (state, remote_id, remote_status, batch_id)
        self._journal.file.write(lambda db: _do(db, change, values)).result()

    # -- Taking in

    def take_reply(self, batch: Batch, key: str, reply: RawReply) -> tuple[Taken, float]:
        """Keep one item's reply, on the disk itself; return what became of it, and what it cost in dollars.

        A reply without its tokens costs the worst case.
        """

        def work(db: sqlite3.Connection, max_tokens: int, worst_usd: float) -> float:
            cost = worst_usd if reply.completion_tokens is None else reply.cost_usd
            call_id = self._book(db, batch, key, max_tokens, worst_usd, "answered", cost, None)
            ticket = Ticket(call_id, key, max_tokens)
            insert_reply(db, ticket, replace(reply, cost_usd=cost), time.time())
            return cost

        return self._settle(batch, key, "answered", work)

    def take_failure(self, batch: Batch, key: str, error: str, *, may_have_cost: bool) -> tuple[Taken, float]:
        """Book one item that got no reply; return what became of it, and what is booked in dollars.

        Args:
            batch: Of the item.
            key: The request's.
            error: The provider's words, keys masked.
            may_have_cost: It is booked at its worst case; False: nothing was billed.
        """

        def work(db: sqlite3.Connection, max_tokens: int, worst_usd: float) -> float:
            state, cost = ("unknown", worst_usd) if may_have_cost else ("free", 0.0)
            self._book(db, batch, key, max_tokens, worst_usd, state, cost, error)
            return cost

        return self._settle(batch, key, "failed", work)

    def end(self, batch: Batch, *, may_have_cost: bool) -> int:
        """Close a batch that the provider will add nothing to; return how many items stayed without a reply.

        Args:
            batch: Which one.
            may_have_cost: They are booked at their worst case; False: nothing was billed for them.
        """
        with self._journal.file.reading() as db:
            rows = db.execute(
                "SELECT request_key FROM batch_items WHERE batch_id=? AND state='open'", (batch.batch_id,)
            ).fetchall()
        for (key,) in rows:
            self.take_failure(
                batch, key, "the batch ended without a line for it", may_have_cost=may_have_cost
            )
        self.move(batch.batch_id, "ended")
        return len(rows)

    def _settle(
        self,
        batch: Batch,
        key: str,
        state: Literal["answered", "failed"],
        book: Callable[[sqlite3.Connection, int, float], float],
    ) -> tuple[Taken, float]:
        def work(db: sqlite3.Connection) -> tuple[Taken, float]:
            item = db.execute(
                "SELECT state, max_tokens, worst_usd FROM batch_items WHERE batch_id=? AND request_key=?",
                (batch.batch_id, key),
            ).fetchone()
            if item is None:
                return "unknown", 0.0
            before, max_tokens, worst_usd = item
            # A reply may still come for an item that failed in an earlier file; nothing replaces a reply.
            if before in {"answered", state}:
                return "duplicate", 0.0
            cost = book(db, max_tokens, worst_usd)
            db.execute(
                "UPDATE batch_items SET state=? WHERE batch_id=? AND request_key=?",
                (state, batch.batch_id, key),
            )
            return state, cost

        return self._journal.file.write(work).result()

    def _book(
        self,
        db: sqlite3.Connection,
        batch: Batch,
        key: str,
        max_tokens: int,
        worst_usd: float,
        state: str,
        cost_usd: float,
        error: str | None,
    ) -> int:
        """Write the ledger's row of one item; return its id."""
        now = time.time()
        row = (key, self._journal.file.session, batch.scope, batch.teacher, max_tokens, state)
        call = db.execute(
            "INSERT INTO calls (request_key, session, scope, teacher, max_tokens, state, worst_usd, cost_usd, "
            "sent_at, ended_at, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, worst_usd, cost_usd, now, now, error),
        )
        assert call.lastrowid is not None
        return call.lastrowid


def _do(db: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> None:
    db.execute(statement, values)


def _insert_batch(db: sqlite3.Connection, batch: Batch, items: Sequence[BatchItem]) -> None:
    price = (batch.price.prompt_usd, batch.price.completion_usd) if batch.price else (None, None)
    db.execute(
        "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(
                batch.batch_id,
                batch.teacher,
                batch.identity,
                batch.url,
                batch.scope,
                str(batch.requests_path),
            ),
            *(batch.sha256, *price, time.time(), batch.state, batch.remote_id, batch.remote_status),
        ),
    )
    for item in items:
        insert_request(db, item.request_key, batch.teacher, batch.identity, item.request)
    db.executemany(
        "INSERT INTO batch_items VALUES (?, ?, ?, ?, 'open')",
        [(batch.batch_id, item.request_key, item.request.max_tokens, item.worst_usd) for item in items],
    )


def _batch(
    batch_id: str,
    teacher: str,
    identity: str,
    url: str | None,
    scope: str,
    requests_path: str,
    sha256: str,
    prompt_usd: float | None,
    completion_usd: float | None,
    state: BatchState,
    remote_id: str | None,
    remote_status: str | None,
) -> Batch:
    price = None if prompt_usd is None or completion_usd is None else Price(prompt_usd, completion_usd)
    path = Path(requests_path)
    return Batch(
        batch_id, teacher, identity, url, scope, path, sha256, price, state, remote_id, remote_status
    )
