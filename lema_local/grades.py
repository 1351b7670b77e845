"""What people think of corrections: one SQLite file, every click kept, the latest one counts.

A grade belongs to the words that were read: a correction that is made anew has another `correction_id` and no grade.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from lema_local.errors import InputError
from lema_local.records import Correction

Grade = Literal["excellent", "good", "poor", "wrong_step"]
"""The paper's three (section 2.1: 35, 11 and 4 of 50 were excellent, good and poor), and its most telling fault."""
Mark = Literal["excellent", "good", "poor", "wrong_step", "skip"]
"""A grade, or `skip`: seen and left open."""
GRADES: tuple[Grade, ...] = get_args(Grade)
MARKS: tuple[Mark, ...] = get_args(Mark)
GRADES_FILE = "grades.sqlite"
"""In the run's folder."""

_SCHEMA = """
CREATE TABLE clicks (
    id            INTEGER PRIMARY KEY,
    reviewer      TEXT NOT NULL,
    correction_id TEXT NOT NULL,
    question_id   TEXT NOT NULL,
    teacher       TEXT NOT NULL,
    mark          TEXT NOT NULL,
    is_undone     INTEGER NOT NULL DEFAULT 0,
    clicked_at    TEXT NOT NULL
);
CREATE INDEX clicks_by_reviewer ON clicks (reviewer, correction_id);
CREATE TABLE notes (
    reviewer      TEXT NOT NULL,
    correction_id TEXT NOT NULL,
    note          TEXT NOT NULL,
    written_at    TEXT NOT NULL,
    PRIMARY KEY (reviewer, correction_id)
);
"""
_VERSION = 1
_CURRENT = """
SELECT reviewer, correction_id, teacher, mark FROM clicks
WHERE id IN (SELECT max(id) FROM clicks WHERE is_undone = 0 GROUP BY reviewer, correction_id) ORDER BY id
"""


class Graded(NamedTuple):
    """One reviewer's latest mark of one correction."""

    reviewer: str
    correction_id: str
    teacher: str
    mark: Mark


def correction_id(correction: Correction) -> str:
    """Return a hash of a correction's place and words: 16 hex digits."""
    one = correction
    known = (
        one.question_id, one.student, one.sample_index, one.teacher, one.attempt,
        one.original_steps, one.incorrect_step, one.explanation, one.corrected_solution,
    )  # fmt: skip
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


class GradeBook:
    """The file of grades. Each call is a transaction of its own: what was clicked is on the disk on return.

    Args:
        path: Created with its schema where there is none.

    Raises:
        InputError: If it cannot be opened or written, or is of another version (every method).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.parent.is_dir():
            raise InputError(f"no folder {path.parent} for grades", hint="give a file with --grades FILE")
        with self._open() as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                database.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {_VERSION};COMMIT;")
            elif version != _VERSION:
                raise InputError(
                    f"{path} is of version {version} of the grades' form, this program reads {_VERSION}",
                    hint="use the program that wrote it, or name another file with --grades FILE",
                )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=20)) as database, database:
                yield database
        except sqlite3.Error as err:
            raise InputError(
                f"cannot use {self.path}: {err}",
                hint="a folder that may not be written: name a file elsewhere with --grades FILE; a damaged file:"
                " move it away",
            ) from err

    def mark(self, reviewer: str, correction: Correction, mark: Mark) -> None:
        """Write down one click."""
        row = (
            reviewer, correction_id(correction), correction.question_id, correction.teacher, mark, _now(),
        )  # fmt: skip
        with self._open() as database:
            database.execute(
                "INSERT INTO clicks (reviewer, correction_id, question_id, teacher, mark, clicked_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )

    def undo(self, reviewer: str) -> str | None:
        """Take back a reviewer's latest click; return its correction's id, None where there is nothing to take back."""
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            found = database.execute(
                "SELECT id, correction_id FROM clicks WHERE reviewer = ? AND is_undone = 0 ORDER BY id DESC LIMIT 1",
                (reviewer,),
            ).fetchone()
            if found is None:
                return None
            database.execute("UPDATE clicks SET is_undone = 1 WHERE id = ?", (found[0],))
            return str(found[1])

    def note(self, reviewer: str, known_id: str, note: str) -> None:
        """Keep a reviewer's note on a correction; an empty one removes it."""
        with self._open() as database:
            if note.strip():
                database.execute(
                    "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)", (reviewer, known_id, note, _now())
                )
            else:
                database.execute(
                    "DELETE FROM notes WHERE reviewer = ? AND correction_id = ?", (reviewer, known_id)
                )

    def notes(self) -> dict[tuple[str, str], str]:
        """Return the notes by (reviewer, correction_id)."""
        with self._open() as database:
            rows = database.execute("SELECT reviewer, correction_id, note FROM notes ORDER BY written_at")
            return {(reviewer, known_id): note for reviewer, known_id, note in rows}

    def current(self) -> list[Graded]:
        """Return every reviewer's latest mark of every correction, skips too, in the order of the clicks."""
        with self._open() as database:
            return [Graded(*row) for row in database.execute(_CURRENT)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_grades(path: Path) -> dict[str, list[Grade]]:
    """Return the reviewers' grades by `correction_id`; skips are no grades.

    Raises:
        InputError: If there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"no grades at {path}", hint="grade corrections first: lema review RUN")
    found: dict[str, list[Grade]] = {}
    for one in GradeBook(path).current():
        if one.mark != "skip":
            found.setdefault(one.correction_id, []).append(one.mark)
    return found


def grades_by_reviewer(graded: list[Graded]) -> Mapping[str, dict[str, Grade]]:
    """Return {reviewer: {correction_id: grade}} without the skips."""
    found: dict[str, dict[str, Grade]] = {}
    for one in graded:
        if one.mark != "skip":
            found.setdefault(one.reviewer, {})[one.correction_id] = one.mark
    return found
