"""`lema correct` against a server that misbehaves: everything ends accounted for, nothing is paid twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from command import hear_interrupts, tiny
from fake_teacher import ERRORS, FakeTeacher, FakeTeacherProcess, closed_port
from sums import write_inputs

from lema_local.cli import lema
from lema_local.cli.reparse import reparse
from lema_local.jsonl import read_partial, read_records, write_records
from lema_local.records import Correction
from lema_local.resuming import ResumedFile

KEY = "sk-MARKED0123456789abcdefghijklmn"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def arguments(folder: Path, url: str, *more: str, out: str = "out.jsonl") -> list[str]:
    return [
        *("correct", str(folder / "paths.jsonl"), "--questions", str(folder / "questions.jsonl")),
        *("--teacher", "openai/fake", "--teacher-url", url, "--out", str(folder / out), "--json", *more),
    ]


def run(*words: str) -> Result:
    result = CliRunner().invoke(lema, ["--quiet", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def summary(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def comparable(corrections: list[Correction]) -> list[Correction]:
    return [one.model_copy(update={"reply_key": None}) for one in corrections]


def check_faults(folder: Path, count: int) -> None:
    """Meet 30 % faults of mixed kinds; see that everything ends accounted for and that a second run is free."""
    write_inputs(folder, count)
    faults = [*ERRORS, "empty", "length", "refusal", "wrong_model", "large", "control"]
    with FakeTeacher(fault_rate=0.3, faults=faults, hang_s=8.0) as server:
        more = [
            "--timeout",
            "5",
            "--concurrency",
            "32",
            "--max-usd",
            "50",
            "--price-in",
            "1",
            "--price-out",
            "10",
        ]
        first = summary(run(*arguments(folder, server.url, *more)))
        asked = server.requests
        second = summary(run(*arguments(folder, server.url, *more)))
        third = summary(run(*arguments(folder, server.url, *more, out="again.jsonl")))
        assert server.requests == asked, "what was answered is not asked again"
    print(json.dumps(first), dict(server.met))  # the account, for who runs this with -s
    assert first["total"] == count == first["accepted"] + first["rejected"] + first["failed"]
    assert first["failed"] == 0
    assert first["calls"] == asked
    assert sum(first["faults"].values()) == sum(server.met[fault] for fault in ERRORS)
    assert first["unknown_calls"] == sum(server.met[fault] for fault in ("timeout", "drop", "malformed"))
    assert first["empty"] == server.met["empty"]
    assert first["filtered"] == server.met["refusal"]
    assert first["cut"] == server.met["length"]
    assert first["accepted"] > 0.6 * count
    assert max(Counter(server.answered).values()) <= 2, "only a cut reply is asked for once more"
    assert (second["calls"], second["accepted"]) == (0, first["accepted"])
    assert (third["calls"], third["accepted"]) == (0, first["accepted"])
    assert third["from_journal"] == count
    one, other = (read_records(folder / name, Correction) for name in ("out.jsonl", "again.jsonl"))
    assert one == other
    assert [correction.question_id for correction in one] == [f"q{number}" for number in range(count)]


def test_thirty_percent_faults_of_mixed_kinds_end_accounted_for(folder: Path) -> None:
    check_faults(folder, 120)


@pytest.mark.slow
def test_two_thousand_mistakes_with_thirty_percent_faults_end_accounted_for(folder: Path) -> None:
    check_faults(folder, 2000)


def test_the_budget_ends_with_exit_3_and_the_command_that_goes_on(folder: Path) -> None:
    write_inputs(folder, 60)
    with FakeTeacher(latency_s=0.01, usage=[1000, 100]) as server:
        words = arguments(folder, server.url, "--price-in", "1", "--price-out", "10", "--concurrency", "64")
        first = run(*words, "--max-usd", "0.05")
        assert first.exit_code == 3
        assert "the budget of $0.0500 is used up" in first.stderr
        assert "--max-usd 0.1" in first.stderr
        assert server.requests * 0.002 <= 0.05
        kept = read_partial(folder / "out.jsonl.partial", Correction)
        assert len(kept) == server.requests > 5
        assert run(*words, "--max-usd", "0.05").exit_code == 3
        assert server.requests == len(kept), "the cap is that of the file, however often the command is run"
        assert run(*words, "--max-calls", str(len(kept) + 5)).exit_code == 3
        done = summary(run(*words, "--max-usd", "1"))
        assert server.requests == 60
    assert done["accepted"] + done["rejected"] == 60
    assert done["scope_cost_usd"] == pytest.approx(60 * 0.002)


def test_failed_ones_are_tried_again_by_the_next_run(folder: Path) -> None:
    write_inputs(folder, 12)
    with FakeTeacher(fault_rate=0.5, faults=["500"], max_faults_each=1) as server:
        first = summary(run(*arguments(folder, server.url, "--retries", "0")))
        assert 0 < first["failed"] < 12
        assert first["accepted"] + first["rejected"] + first["failed"] == 12
        second = summary(run(*arguments(folder, server.url, "--retries", "0")))
    assert second["failed"] == 0
    assert second["calls"] == first["failed"]


def test_fresh_asks_anew_and_other_settings_are_refused(folder: Path) -> None:
    write_inputs(folder, 5)
    with FakeTeacher() as server:
        words = arguments(folder, server.url)
        summary(run(*words))
        other = run(*words, "--temperature", "0.5")
        assert other.exit_code == 2
        assert "made with another prompt or other settings" in other.stderr
        summary(run(*words, "--max-tokens", "2000", "--concurrency", "2", "--retries", "1"))
        assert server.requests == 5
        assert summary(run(*words, "--fresh"))["calls"] == 5
        assert server.requests == 10


def test_refusals_at_the_start_end_at_once_with_the_providers_words(folder: Path) -> None:
    write_inputs(folder, 50)
    for status in (400, 401, 403, 404):
        body = '{"error": {"message": "no such thing here"}}'
        with FakeTeacher(status=status, error_body=body, latency_s=0.05) as server:
            result = run(*arguments(folder, server.url, out=f"{status}.jsonl"))
        assert result.exit_code == 1
        assert "no such thing here" in result.stderr
        assert server.requests == 1


def test_bad_input_is_one_message_with_exit_2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(folder, 2)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    words = arguments(folder, "http://127.0.0.1:9/v1")
    with closed_port() as url:
        assert "cannot be reached" in run(*arguments(folder, url)).stderr
    without_url = [word for word in words if word not in {"--teacher-url", "http://127.0.0.1:9/v1"}]
    result = run(*without_url)
    assert result.exit_code == 2
    assert "OPENAI_API_KEY is not set" in result.stderr
    assert not (folder / "out.jsonl.partial").exists()
    words[1] = str(folder / "nowhere.jsonl")
    assert run(*words).exit_code == 2


def test_the_reference_teacher_goes_the_same_way(folder: Path) -> None:
    write_inputs(folder, 10)
    words = arguments(folder, "", out="reference.jsonl")
    del words[words.index("--teacher-url") : words.index("--teacher-url") + 2]
    words[words.index("--teacher") + 1] = "reference"
    first = summary(run(*words))
    assert (first["accepted"], first["cost_usd"]) == (10, 0.0)
    journal = json.loads(run("journal", "spent", "--json").stdout)
    assert [(line["teacher"], line["answered"]) for line in journal] == [("reference", 10)]


def test_the_journal_shows_exports_and_forgets(folder: Path) -> None:
    write_inputs(folder, 3)
    with FakeTeacher(fault_rate=1.0, faults=["control"]) as server:
        summary(run(*arguments(folder, server.url)))
    lines = [json.loads(line) for line in run("journal", "show", "--json").stdout.splitlines()]
    assert len(lines) == 3
    shown = run("journal", "show", lines[0]["reply_key"]).stdout
    assert "Incorrect Step" in shown
    assert "\x1b" not in shown
    assert (
        json.loads(run("journal", "show", lines[0]["reply_key"], "--json").stdout)["body"]["model"] == "fake"
    )
    assert run("journal", "show", "nokey").exit_code == 2
    assert "3 replies" in run("journal", "export", str(folder / "all.jsonl")).stdout
    exported = [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()]
    assert {line["reply_key"] for line in exported} == {line["reply_key"] for line in lines}
    assert "$" in run("journal", "spent").stdout
    assert run("journal", "prune", "--older-than", "0").exit_code == 1, "it asks first"
    assert "3 replies forgotten" in run("journal", "prune", "--older-than", "0", "--yes").stdout
    assert run("journal", "show").stdout == ""
    assert json.loads(run("journal", "spent", "--json").stdout)[0]["answered"] == 3


def test_no_key_is_left_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(folder, 8)
    monkeypatch.setenv("LEMA_TEACHER_KEY", KEY)
    error = json.dumps({"error": {"message": f"bad key {KEY}"}})
    shown = ""
    with FakeTeacher() as server:
        shown += run("--debug", *arguments(folder, server.url)).output
        assert server.headers[-1]["authorization"] == f"Bearer {KEY}"
        server.weather.status, server.weather.error_body = 500, error
        result = run(*arguments(folder, server.url, "--fresh", "--retries", "0", out="500.jsonl"))
        shown += result.output
        server.weather.status = 401
        shown += run(*arguments(folder, server.url, "--fresh", out="401.jsonl")).output
    assert "bad key ***" in shown
    assert KEY not in shown
    home = Path(os.environ["LEMA_HOME"])
    files = [path for place in (folder, home) for path in place.rglob("*") if path.is_file()]
    assert any(path.name == "journal.sqlite" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    exported = folder / "all.jsonl"
    run("journal", "export", str(exported))
    assert KEY not in exported.read_text()


def start(words: list[str]) -> subprocess.Popen[str]:
    code = "from lema_local.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "--quiet", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )


def check_kills(folder: Path, count: int, kills: int, seed: int) -> None:
    """Kill a real process at random moments; see what the server was asked and what the journal says."""
    write_inputs(folder, count)
    concurrency = 8
    rng = random.Random(seed)
    with FakeTeacherProcess(latency_s=0.05, usage=[100, 50]) as server:
        more = ("--concurrency", str(concurrency), "--price-in", "1", "--price-out", "10")
        words = arguments(folder, server.url, *more)
        for _ in range(kills):
            goal = server.counts()["requests"] + rng.randrange(1, count // (kills + 1))
            process = start(words)
            while server.counts()["requests"] < goal and process.poll() is None:
                time.sleep(rng.uniform(0.005, 0.02))
            process.send_signal(signal.SIGKILL)
            process.communicate()
        process = start(words)
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        counts = server.counts()
        again = summary(run(*arguments(folder, server.url, *more, out="again.jsonl")))
        assert server.counts()["requests"] == counts["requests"]
    done = json.loads(output)
    assert done["accepted"] + done["rejected"] == count
    repeated = counts["requests"] - counts["distinct"]
    assert repeated <= kills * concurrency
    assert read_records(folder / "out.jsonl", Correction) == read_records(folder / "again.jsonl", Correction)
    assert again["from_journal"] == count
    with sqlite3.connect(Path(os.environ["LEMA_HOME"]) / "journal.sqlite") as db:
        states = dict(db.execute("SELECT state, count(*) FROM calls GROUP BY state").fetchall())
        booked = db.execute(
            "SELECT min(cost_usd = worst_usd), min(worst_usd) FROM calls WHERE state='unknown'"
        )
        is_worst, worst = booked.fetchone()
    db.close()
    assert states["answered"] == count, "no request whose reply was committed is sent again"
    assert set(states) <= {"answered", "unknown"}
    assert repeated <= states.get("unknown", 0) <= kills * concurrency
    assert states.get("unknown", 0) == 0 or (is_worst and worst > 0)


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_kill_9_repeats_at_most_what_was_in_flight(folder: Path) -> None:
    check_kills(folder, count=80, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_twenty_kills_repeat_at_most_what_was_in_flight(folder: Path) -> None:
    check_kills(folder, count=1000, kills=20, seed=2)


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(folder: Path) -> None:
    write_inputs(folder, 200)
    with FakeTeacherProcess(latency_s=0.1) as server:
        process = start(arguments(folder, server.url, "--concurrency", "4"))
        while server.counts()["requests"] < 12 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        asked = server.counts()["requests"]
        assert "Traceback" not in errors
        assert "To go on: lema" in errors
        done = summary(run(*arguments(folder, server.url, "--limit", "20")))
        assert done["total"] == 20
        assert server.counts()["requests"] - asked <= max(0, 20 - asked)


def test_two_processes_on_one_journal_ask_once(folder: Path) -> None:
    write_inputs(folder, 40)
    with FakeTeacherProcess(latency_s=0.05) as server:
        running = [start(arguments(folder, server.url, out=f"{name}.jsonl")) for name in ("a", "b")]
        ended = [process.communicate() for process in running]
        assert [process.returncode for process in running] == [0, 0], ended
        assert server.counts()["requests"] == 40
    one, other = (read_records(folder / f"{name}.jsonl", Correction) for name in ("a", "b"))
    assert comparable(one) == comparable(other)
    assert len(one) == 40


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_two_processes_do_not_write_one_file(folder: Path) -> None:
    write_inputs(folder, 4)
    with FakeTeacherProcess(latency_s=600.0) as server:
        words = arguments(folder, server.url)
        process = start(words)
        while server.counts()["requests"] == 0 and process.poll() is None:
            time.sleep(0.02)
        second = run(*words)
        assert (second.exit_code, "another process is writing" in second.stderr) == (2, True)
        assert server.counts()["requests"] == 1
        process.kill()
        process.communicate()
    with ResumedFile(folder / "out.jsonl", Correction):
        pass  # a killed process keeps nobody out
    assert not (folder / "out.jsonl.lock").exists()


def test_replies_are_read_again_free_of_charge(folder: Path) -> None:
    write_inputs(folder, 6)
    with FakeTeacher() as server:
        summary(run(*arguments(folder, server.url)))
    out, again = folder / "out.jsonl", folder / "again.jsonl"
    made = read_records(out, Correction)
    spoilt = made[0].model_copy(
        update={"verdict": "rejected", "reason": "an older parser", "incorrect_step": None}
    )
    unknown = made[1].model_copy(update={"reply_key": "gone"})
    write_records(out, [spoilt, unknown, *made[2:]])
    runner = CliRunner().invoke(
        reparse, [str(out), "--questions", str(folder / "questions.jsonl"), "--out", str(again)]
    )
    assert runner.exit_code == 0, runner.output
    assert "1  rejected to accepted" in runner.stdout
    assert read_records(again, Correction) == [made[0], unknown, *made[2:]]


COUNT_CONNECTIONS = """
    import json, sys
    seen = set()
    def note(event, args):
        if event == "socket.connect" and isinstance(args[1], tuple):
            seen.add(f"{args[1][0]}:{args[1][1]}")
        if event == "socket.getaddrinfo":
            seen.add(f"look-up of {args[0]}")
    sys.addaudithook(note)
    from lema_local.cli import lema
    try:
        lema.main(sys.argv[1:], standalone_mode=False)
    finally:
        print(json.dumps(sorted(seen)))
"""


def connections(words: list[str]) -> tuple[list[str], str]:
    """Return every connection and look-up that a command tries, and what it says."""
    command = [sys.executable, "-c", textwrap.dedent(COUNT_CONNECTIONS), *words, "--offline"]
    # As for a user: nothing but the flag keeps LiteLLM and the hub from looking around.
    told = {"LITELLM_LOCAL_MODEL_COST_MAP", "HF_HUB_OFFLINE"}
    environment = {name: value for name, value in os.environ.items() if name not in told}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seen: list[str] = json.loads(done.stdout.splitlines()[-1])
    return seen, done.stderr


def test_offline_connects_to_the_named_teacher_alone(folder: Path) -> None:
    write_inputs(folder, 3)
    with FakeTeacherProcess() as server:
        seen, errors = connections(arguments(folder, server.url))
        assert seen == [f"127.0.0.1:{server.port}", "look-up of 127.0.0.1"], errors
        assert server.counts()["requests"] == 3


def test_offline_also_keeps_questions_from_being_fetched(folder: Path) -> None:
    write_inputs(folder, 1)
    with FakeTeacherProcess() as server:
        words = arguments(folder, server.url)
        words[words.index("--questions") + 1] = "gsm8k@train"
        seen, errors = connections(words)
    assert seen == ["look-up of 127.0.0.1"], errors
    assert "gsm8k" in errors


def test_offline_holds_for_a_whole_run(folder: Path) -> None:
    with FakeTeacherProcess() as server:
        words = ["run", "quickstart", "--run", str(folder / "run"), "--until", "filter", *tiny()]
        seen, errors = connections([*words, "--teacher", "openai/fake", "--teacher-url", server.url])
        assert seen == [f"127.0.0.1:{server.port}", "look-up of 127.0.0.1"], errors
        assert server.counts()["requests"] > 0
    seen, errors = connections([*words, "--teacher", "gpt-4o", "--run", str(folder / "other")])
    assert seen == []
    assert "gpt-4o cannot be asked with --offline" in errors


def test_offline_refuses_a_teacher_elsewhere_before_any_connection(folder: Path) -> None:
    write_inputs(folder, 1)
    words = arguments(folder, "")
    del words[words.index("--teacher-url") : words.index("--teacher-url") + 2]
    words[words.index("--teacher") + 1] = "gpt-4o"
    seen, errors = connections(words)
    assert seen == []
    assert "cannot be asked with --offline" in errors
