from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from lema_local.errors import LemaError, RunStateError
from lema_local.students.base import Message
from lema_local.teachers.base import FinishReason, RawReply, TeacherRequest
from lema_local.teachers.journal import Busy, Journal, StoredReply, Ticket, request_key
from lema_local.teachers.journal_file import MIGRATIONS

REQUEST = TeacherRequest((Message(role="user", content="1 + 1"),))
KEY = request_key("gpt-4o", "", REQUEST)


@pytest.fixture
def journal(tmp_path: Path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        yield journal


def claim(journal: Journal, request: TeacherRequest = REQUEST, after: int = 0) -> StoredReply | Ticket | Busy:
    key = request_key("gpt-4o", "", request)
    return journal.claim(key, "gpt-4o", "", request, worst_usd=0.5, scope="run", after=after).result()


def answer(
    journal: Journal, text: str, request: TeacherRequest = REQUEST, finish: FinishReason = "stop"
) -> StoredReply:
    ticket = claim(journal, request, after=journal.last_reply())
    assert isinstance(ticket, Ticket)
    reply = RawReply(text, "gpt-4o-2024", finish, 10, 20, 0.25, 1.5, "hm", {"id": "x", "choices": [text]})
    return journal.settle_reply(ticket, reply).result()


def test_a_reply_is_found_again_as_it_was(journal: Journal) -> None:
    stored = answer(journal, "two \x00 \u202e 😀 é")
    found = journal.find(KEY, 1024)
    assert found is not None
    assert found.reply == replace(stored.reply, body={})
    assert found.reply_key == stored.reply_key == KEY


def test_half_a_surrogate_pair_in_a_body_is_kept(journal: Journal) -> None:
    ticket = claim(journal)
    assert isinstance(ticket, Ticket)
    reply = RawReply("x", None, "stop", None, None, 0.0, 0.1, body={"content": "\ud83d"})
    stored = journal.settle_reply(ticket, reply).result()
    assert journal.read(stored.reply_key).reply.body == {"content": "\ud83d"}


def test_the_key_holds_all_that_can_change_a_reply_but_not_the_limit() -> None:
    other = [
        replace(REQUEST, messages=(Message(role="system", content="1 + 1"),)),
        replace(REQUEST, temperature=0.5),
        replace(REQUEST, temperature=None),
        replace(REQUEST, top_p=0.5),
        replace(REQUEST, seed=1),
        replace(REQUEST, stop=("x",)),
        replace(REQUEST, response_format={"type": "json_object"}),
        replace(REQUEST, attempt=1),
    ]
    keys = {request_key("gpt-4o", "", request) for request in other}
    keys |= {request_key("gpt-4", "", REQUEST), request_key("gpt-4o", "http://localhost", REQUEST)}
    assert len(keys) == len(other) + 2
    assert KEY not in keys
    assert request_key("gpt-4o", "", replace(REQUEST, max_tokens=5)) == KEY


def test_a_finished_reply_fits_any_limit_and_a_cut_one_the_same_or_a_smaller(journal: Journal) -> None:
    answer(journal, "tw", replace(REQUEST, max_tokens=100), "length")
    assert journal.find(KEY, 101) is None
    assert journal.find(KEY, 100) is not None
    assert journal.find(KEY, 50) is not None
    answer(journal, "two", replace(REQUEST, max_tokens=200))
    for limit in (50, 200, 4000):
        found = journal.find(KEY, limit)
        assert found is not None
        assert found.reply.text == "two"


def test_asked_anew_the_newest_reply_counts_and_each_has_its_own_key(journal: Journal) -> None:
    first = answer(journal, "two")
    before = journal.last_reply()
    assert journal.find(KEY, 1024, after=before) is None
    second = answer(journal, "II")
    found = journal.find(KEY, 1024)
    assert found is not None
    assert found.reply.text == "II"
    assert (first.reply_key, second.reply_key) == (KEY, f"{KEY}.1")
    assert journal.read(first.reply_key).reply.text == "two"


def test_a_request_in_flight_is_not_sent_twice(journal: Journal) -> None:
    assert isinstance(claim(journal), Ticket)
    assert isinstance(claim(journal), Busy)
    with Journal(journal.path) as other:
        assert isinstance(claim(other), Busy)


def test_a_claim_finds_the_reply_that_another_process_brought(journal: Journal) -> None:
    with Journal(journal.path) as other:
        answer(other, "two")
    found = claim(journal)
    assert isinstance(found, StoredReply)
    assert found.reply.text == "two"


def test_spending_counts_every_call_and_books_those_without_a_reply_at_their_worst_case(
    journal: Journal,
) -> None:
    answer(journal, "two")
    for attempt, cost in ((1, None), (2, 0.0)):
        ticket = claim(journal, replace(REQUEST, attempt=attempt))
        assert isinstance(ticket, Ticket)
        journal.settle_failure(ticket, "time-out", cost_usd=cost).result()
    claim(journal, replace(REQUEST, attempt=3))
    spending = journal.spending("run")
    assert (spending.calls, spending.answered, spending.unknown, spending.in_flight) == (4, 1, 1, 1)
    assert spending.spent_usd == pytest.approx(0.25 + 0.5 + 0.5)
    assert spending.unknown_usd == pytest.approx(0.5)
    assert journal.spending("another run").calls == 0
    assert journal.spending().calls == 4


def test_what_was_made_in_a_folder_counts_for_all_that_it_lies_in(journal: Journal) -> None:
    folder = Path("runs") / "100%_a"
    scopes = (
        folder,
        folder / "2_correct",
        folder / "round_2" / "2_correct",
        Path("runs") / "100%_ab",
        Path("runs"),
    )
    for attempt, scope in enumerate(scopes):
        request = replace(REQUEST, attempt=attempt)
        key = request_key("gpt-4o", "", request)
        journal.claim(key, "gpt-4o", "", request, worst_usd=0.5, scope=str(scope))
    calls = {str(scope): journal.spending(str(scope)).calls for scope in scopes}
    assert list(calls.values()) == [3, 1, 1, 1, 5]


def test_calls_in_flight_when_the_journal_is_closed_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        claim(journal)
    with Journal(path) as journal:
        assert journal.spending().unknown == 1
        assert isinstance(claim(journal), Ticket)


CLAIM_AND_DIE = """
    import os, signal, sys
    from pathlib import Path
    from lema_local.teachers.base import TeacherRequest
    from lema_local.teachers.journal import Journal
    journal = Journal(Path(sys.argv[1]))
    request = TeacherRequest(({"role": "user", "content": "1 + 1"},))
    journal.claim(sys.argv[2], "gpt-4o", "", request, worst_usd=0.5, scope="run").result()
    print("claimed", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_calls_of_a_killed_process_are_unknown_and_may_be_sent_again(journal: Journal) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CLAIM_AND_DIE), str(journal.path), KEY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "claimed\n")
    # The journal that was open all along finds out when it wants the same request.
    assert journal.spending().in_flight == 1
    assert isinstance(claim(journal), Ticket)
    spending = journal.spending()
    assert (spending.unknown, spending.in_flight) == (1, 1)


WRITE_MANY = """
    import sys
    from dataclasses import replace
    from pathlib import Path
    from lema_local.teachers.base import RawReply, TeacherRequest
    from lema_local.teachers.journal import Journal, Ticket, request_key
    with Journal(Path(sys.argv[1])) as journal:
        for number in range(150):
            request = TeacherRequest(({"role": "user", "content": f"{sys.argv[2]} {number}"},))
            key = request_key("t", "", request)
            ticket = journal.claim(key, "t", "", request, worst_usd=0.5, scope="run").result()
            assert isinstance(ticket, Ticket)
            journal.settle_reply(ticket, RawReply("x", "t", "stop", 1, 1, 0.001, 0.1)).result()
"""


def test_two_processes_on_one_journal_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    commands = [[sys.executable, "-c", textwrap.dedent(WRITE_MANY), str(path), name] for name in ("a", "b")]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    with Journal(path) as journal:
        spending = journal.spending("run")
    assert (spending.calls, spending.answered) == (300, 300)
    assert spending.spent_usd == pytest.approx(0.3)


def test_a_file_that_is_no_journal_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_text("not a database, " * 100)
    with pytest.raises(RunStateError, match="is not a journal"):
        Journal(path)


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(RunStateError, match="newer version") as caught:
        Journal(path)
    assert caught.value.exit_code == 2


def make_first_version(path: Path) -> None:
    """Write a journal as the first version of the schema had it, with an answered and a killed call."""
    request = {"messages": [{"role": "user", "content": "1 + 1"}], "temperature": 0.0, "top_p": None}
    request |= {"seed": None, "stop": [], "response_format": None, "attempt": 0}
    packed = [
        zlib.compress(json.dumps(part).encode())
        for part in (request, {"text": "two", "reasoning": None}, {"id": "x"})
    ]
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executescript(f"{MIGRATIONS[0]}; PRAGMA user_version=1;")
        db.execute("INSERT INTO requests VALUES (?, 'gpt-4o', '', ?)", (KEY, packed[0]))
        db.execute(
            "INSERT INTO replies VALUES (1, ?, 0, 1, 1024, 'stop', 'gpt-4o-2024', 10, 20, 0.25, 1.5, 1e9, ?, ?)",
            (KEY, *packed[1:]),
        )
        call = "INSERT INTO calls VALUES (?, ?, 'gone', 'run', 'gpt-4o', 1024, ?, 0.5, ?, 1e9, ?, NULL)"
        db.execute(call, (1, KEY, "answered", 0.25, 1e9))
        db.execute(call, (2, "another", "in_flight", None, None))
        db.execute("INSERT INTO sessions VALUES ('gone', 'host', 1, 1e9)")


def test_a_journal_of_the_first_version_is_migrated_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    make_first_version(path)
    with Journal(path) as journal:
        found = journal.find(KEY, 1024)
        assert found is not None
        assert (found.reply.text, found.reply.cost_usd, found.reply_key) == ("two", 0.25, KEY)
        assert journal.read(KEY).reply.body == {"id": "x"}
        spending = journal.spending("run")
        assert (spending.calls, spending.answered, spending.unknown) == (2, 1, 1)
        assert spending.spent_usd == pytest.approx(0.75)
        answer(journal, "new", replace(REQUEST, attempt=1))
        with journal.file.reading() as db:
            assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
            migrated = schema_of(db)
    with Journal(tmp_path / "new.sqlite") as fresh, fresh.file.reading() as db:
        assert schema_of(db) == migrated


def schema_of(db: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(db.execute("SELECT name, sql FROM sqlite_master"))


def test_a_migration_that_is_interrupted_is_done_whole_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    make_first_version(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        # As a kill in the middle leaves it: a part of the second version, never committed.
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE batches (x)")
        db.execute("PRAGMA user_version=2")
    with Journal(path) as journal:
        assert journal.spending("run").calls == 2


FILL_THE_DISK = """
    import resource, signal, sys
    from pathlib import Path
    from lema_local.errors import LemaError
    from lema_local.teachers.base import RawReply, TeacherRequest
    from lema_local.teachers.journal import Journal
    journal = Journal(Path(sys.argv[1]))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    request = TeacherRequest(({"role": "user", "content": "x"},))
    kept = 0
    try:
        for number in range(1000):
            ticket = journal.claim(str(number), "t", "", request, worst_usd=0.5, scope="run").result()
            body = {"x": [number * 7919 % 10007 + i * i for i in range(2000)]}
            journal.settle_reply(ticket, RawReply("x", "t", "stop", 1, 1, 0.1, 0.1, body=body)).result()
            kept += 1
    except LemaError as err:
        print(kept, err.exit_code, err)
"""


@pytest.mark.skipif(os.name == "nt", reason="resource limits are POSIX")
def test_a_full_disk_is_told_and_what_was_committed_stays(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    command = [sys.executable, "-c", textwrap.dedent(FILL_THE_DISK), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    kept, code, message = done.stdout.split(" ", 2)
    assert code == "1"
    assert "cannot write the journal" in message
    assert int(kept) > 3
    with Journal(path) as journal:
        assert journal.spending().answered == int(kept)


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LemaError, match="cannot write the journal"):
        Journal(tmp_path / "file" / "journal.sqlite")
