"""The SQLite file under the journal: opening, schema, one writing thread, and which processes are alive.

How durable. Replies are committed with `synchronous=FULL`: they survive `kill -9` and a power cut. Rows of calls in
flight are committed with `synchronous=NORMAL`, without waiting for the disk: they survive `kill -9` and every crash
of the process; a power cut may lose those written after the last reply, which are the calls in flight at that
moment. One thread writes, and takes whatever has queued up into one transaction: 64 calls in flight share a sync.

Who is alive. Each open journal holds a lock on a file of its own, which the operating system gives up when the
process ends, however it ends. A call in flight whose session's lock can be taken will never be answered.
"""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import filelock

from lema_local.errors import LemaError, RunStateError

T = TypeVar("T")

MIGRATIONS = (
    """
    CREATE TABLE requests (
        request_key TEXT PRIMARY KEY,
        teacher     TEXT NOT NULL,   -- the model as asked for
        identity    TEXT NOT NULL,
        content     BLOB NOT NULL    -- zlib of JSON: messages, temperature, top_p, seed, stop, response_format, attempt
    );
    CREATE TABLE replies (
        id                INTEGER PRIMARY KEY,
        request_key       TEXT NOT NULL REFERENCES requests (request_key),
        ordinal           INTEGER NOT NULL,  -- 0 for the first reply to this request
        call_id           INTEGER,
        max_tokens        INTEGER NOT NULL,
        finish_reason     TEXT NOT NULL,
        reported_model    TEXT,
        prompt_tokens     INTEGER,
        completion_tokens INTEGER,
        cost_usd          REAL NOT NULL,
        latency_s         REAL NOT NULL,
        received_at       REAL NOT NULL,     -- seconds since 1970
        words             BLOB NOT NULL,     -- zlib of JSON: text, reasoning
        body              BLOB NOT NULL,     -- zlib of JSON: the reply as the provider sent it
        UNIQUE (request_key, ordinal)
    );
    CREATE TABLE calls (
        id          INTEGER PRIMARY KEY,
        request_key TEXT NOT NULL,
        session     TEXT NOT NULL,
        scope       TEXT NOT NULL,           -- what it was made for: the folder of a stage, a file
        teacher     TEXT NOT NULL,
        max_tokens  INTEGER NOT NULL,
        state       TEXT NOT NULL CHECK (state IN ('in_flight', 'answered', 'free', 'unknown')),
        worst_usd   REAL NOT NULL,
        cost_usd    REAL,                    -- null while in flight
        sent_at     REAL NOT NULL,
        ended_at    REAL,
        error       TEXT
    );
    CREATE INDEX calls_in_flight ON calls (request_key) WHERE state = 'in_flight';
    CREATE INDEX calls_by_scope ON calls (scope);
    CREATE TABLE sessions (
        id         TEXT PRIMARY KEY,
        host       TEXT NOT NULL,
        pid        INTEGER NOT NULL,
        started_at REAL NOT NULL
    );
    """,
    """
    CREATE TABLE batches (
        batch_id       TEXT PRIMARY KEY,
        teacher        TEXT NOT NULL,
        identity       TEXT NOT NULL,
        url            TEXT,
        scope          TEXT NOT NULL,
        requests_path  TEXT NOT NULL,
        sha256         TEXT NOT NULL,   -- of the file of requests
        prompt_usd     REAL,            -- dollars a token in a batch; null where nobody knows
        completion_usd REAL,
        created_at     REAL NOT NULL,
        state          TEXT NOT NULL CHECK (state IN ('exported', 'submitting', 'submitted', 'ended')),
        remote_id      TEXT,            -- the provider's name for it
        remote_status  TEXT
    );
    CREATE TABLE batch_items (
        batch_id    TEXT NOT NULL REFERENCES batches (batch_id),
        request_key TEXT NOT NULL,
        max_tokens  INTEGER NOT NULL,
        worst_usd   REAL NOT NULL,
        state       TEXT NOT NULL CHECK (state IN ('open', 'answered', 'failed')),
        PRIMARY KEY (batch_id, request_key)
    ) WITHOUT ROWID;
    CREATE INDEX batch_items_open ON batch_items (request_key) WHERE state = 'open';
    -- Everything that was or may be billed. What is out in a batch is in flight without a process behind it.
    CREATE VIEW booked AS
        SELECT id, scope, teacher, state, cost_usd, worst_usd FROM calls
        UNION ALL
        SELECT NULL, scope, teacher, 'in_flight', NULL, worst_usd FROM batch_items JOIN batches USING (batch_id)
        WHERE batch_items.state = 'open' AND batches.state IN ('submitting', 'submitted');
    """,
)
"""Scripts that bring the file from version n to n + 1; `PRAGMA user_version` counts those applied."""

_BATCH = 256


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    is_durable: bool
    future: Future[Any]


class JournalFile:
    """The file, open. Safe to use from several threads; several processes may have it open.

    Args:
        path: Created with its folder if missing.

    Raises:
        RunStateError: If the file is no journal, or one of a newer version.
        LemaError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.session = uuid.uuid4().hex
        self._sessions_dir = path.with_name(path.name + ".sessions")
        with self._told_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sessions_dir.mkdir(exist_ok=True)
            with filelock.FileLock(path.with_name(path.name + ".lock"), timeout=60):
                self._writer = self._connect()
                self._migrate()
            self._reader = self._connect()
            self._own_lock = filelock.FileLock(
                self._sessions_dir / f"{self.session}.lock", thread_local=False
            )
            self._own_lock.acquire(timeout=10)
        self._reading = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_on, name="journal", daemon=True)
        self._thread.start()
        self.is_open = True
        self.write(self._begin_session).result()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            # macOS: an ordinary sync does not reach the platter there.
            connection.execute("PRAGMA fullfsync=ON")
            connection.execute("PRAGMA checkpoint_fullfsync=ON")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _migrate(self) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            self._writer.close()
            raise RunStateError(
                f"{self.path} was written by a newer version of this program (schema {version}, known: "
                f"{len(MIGRATIONS)})",
                hint="update lema-local, or set LEMA_HOME to another folder",
            )
        self._writer.execute("PRAGMA synchronous=FULL")
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            self._writer.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version={number}; COMMIT;")

    # -- Sessions

    def _begin_session(self, db: sqlite3.Connection) -> None:
        row = (self.session, platform.node(), os.getpid(), time.time())
        db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", row)
        for (session,) in db.execute("SELECT id FROM sessions WHERE id != ?", (self.session,)).fetchall():
            self.end_if_dead(db, session)

    def end_if_dead(self, db: sqlite3.Connection, session: str) -> bool:
        """Book the calls of a session whose process is gone at their worst case; True if it is gone."""
        if session == self.session:
            return False
        lock = filelock.FileLock(self._sessions_dir / f"{session}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        _end_session(db, session)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
        return True

    # -- Closing

    def close(self) -> None:
        """Write what is queued and close. Calls still in flight are booked at their worst case."""
        if not self.is_open:
            return
        last = self.write(lambda db: _end_session(db, self.session))
        self.is_open = False
        self._jobs.put(None)
        self._thread.join()
        with self._reading:
            self._reader.close()
        self._own_lock.release()
        Path(self._own_lock.lock_file).unlink(missing_ok=True)
        last.result()

    # -- Errors

    @contextlib.contextmanager
    def _told_errors(self) -> Iterator[None]:
        """Turn SQLite's and the system's errors into ours."""
        try:
            yield
        except (sqlite3.Error, OSError, filelock.Timeout) as err:
            raise self._tell(err) from err

    def _tell(self, err: BaseException) -> LemaError:
        if isinstance(err, sqlite3.DatabaseError) and "not a database" in str(err):
            return RunStateError(
                f"{self.path} is not a journal: {err}",
                hint="move it away, or set LEMA_HOME to another folder",
            )
        return LemaError(
            f"cannot write the journal {self.path}: {err}; replies committed before are kept",
            hint="free some space or mend the permissions, then run the same command again",
        )

    # -- Reading and writing

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the reading connection to one thread at a time."""
        with self._reading, self._told_errors():
            yield self._reader

    def write(self, work: Callable[[sqlite3.Connection], T], *, is_durable: bool = True) -> Future[T]:
        """Queue a piece of work for the next transaction.

        Args:
            work: Gets the connection inside a transaction; must not fail but by SQLite's errors.
            is_durable: Whether the commit has to reach the disk itself before the future is done.

        Returns:
            Done after the commit; a `LemaError` in it means that the whole transaction did not happen.
        """
        if not self.is_open:
            raise RuntimeError("the journal is closed")
        future: Future[T] = Future()
        self._jobs.put(_Job(work, is_durable, future))
        return future

    def shrink(self) -> None:
        """Give the space of deleted rows back to the file system.

        Raises:
            LemaError: If there is not room for a second copy for the moment.
        """
        with self.reading() as db:
            db.execute("VACUUM")

    def _write_on(self) -> None:
        is_last = False
        while not is_last:
            jobs = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while len(jobs) < _BATCH:
                    jobs.append(self._jobs.get_nowait())
            is_last = None in jobs
            self._write_batch([job for job in jobs if job is not None])
        self._writer.close()

    def _write_batch(self, batch: list[_Job]) -> None:
        """Do jobs in one transaction; their futures are done after the commit, or none of them counts."""
        db = self._writer
        try:
            db.execute(f"PRAGMA synchronous={'FULL' if any(job.is_durable for job in batch) else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            results = [job.work(db) for job in batch]
            db.execute("COMMIT")
        except (sqlite3.Error, OSError) as err:
            if db.in_transaction:
                db.execute("ROLLBACK")
            for job in batch:
                job.future.set_exception(self._tell(err))
            return
        for job, result in zip(batch, results, strict=True):
            job.future.set_result(result)


def _end_session(db: sqlite3.Connection, session: str) -> None:
    db.execute(
        "UPDATE calls SET state='unknown', cost_usd=worst_usd, ended_at=?, "
        "error='the process ended before the reply came' WHERE session=? AND state='in_flight'",
        (time.time(), session),
    )
    db.execute("DELETE FROM sessions WHERE id=?", (session,))
