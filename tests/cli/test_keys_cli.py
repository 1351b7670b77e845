"""`lema keys`, and that nothing a run leaves behind holds a key."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result
from command import LEMA, environment, start, tiny
from fake_teacher import FakeTeacher
from sums import write_inputs

from lema_local.cli import lema

KEY = "markedkey0123456789abcdefghijklmn"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.endswith("_API_KEY")] + ["LEMA_TEACHER_KEY"]:
        monkeypatch.delenv(name, raising=False)


def call(*words: str, given: str | None = None) -> Result:
    result = CliRunner().invoke(lema, words, input=given)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert KEY not in result.output
    return result


def test_a_key_is_read_from_stdin_listed_by_name_and_forgotten(
    lema_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("keys", "path").stdout.strip() == str(lema_home / "keys.json")
    assert call("keys", "list").stdout == ""
    assert call("keys", "set", "OPENAI_API_KEY", given=KEY + "\n").exit_code == 0
    assert (lema_home / "keys.json").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    assert json.loads(call("keys", "list", "--json").stdout) == {
        "GROQ_API_KEY": "environment",
        "OPENAI_API_KEY": "file",
    }
    monkeypatch.setenv("OPENAI_API_KEY", "another-one")
    assert "OPENAI_API_KEY  environment (another one in the file)" in call("keys", "list").stdout
    assert "goes before the file" in call("keys", "set", "OPENAI_API_KEY", given=KEY).stderr
    assert call("keys", "remove", "OPENAI_API_KEY").exit_code == 0
    assert call("keys", "remove", "OPENAI_API_KEY").exit_code == 2


def test_a_key_on_the_command_line_is_refused_and_not_repeated() -> None:
    result = call("keys", "set", "OPENAI_API_KEY", "x" + KEY[1:])
    assert result.exit_code == 2
    assert call("keys", "set", "path", given=KEY).exit_code == 2
    assert call("keys", "set", "OPENAI_API_KEY", given="").exit_code == 2


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("correct", "--teacher-url"),
        ("correct", "--fallback-url"),
        ("augment", "--teacher-url"),
        ("batch export", "--teacher-url"),
    ],
)
def test_a_key_in_a_url_is_refused_and_not_repeated(command: str, option: str, tmp_path: Path) -> None:
    write_inputs(tmp_path, 1)
    paths, questions = str(tmp_path / "paths.jsonl"), str(tmp_path / "questions.jsonl")
    words = [*command.split(), questions if command == "augment" else paths, "--teacher", "openai/x"]
    words += [] if command == "augment" else ["--questions", questions]
    if option == "--fallback-url":
        words += ["--teacher-url", "http://127.0.0.1:9/v1", "--fallback", "openai/y"]
    result = call(*words, option, f"http://me:{KEY}@host/v1", "--out", str(tmp_path / "out.jsonl"))
    assert result.exit_code == 2
    assert "holds a password or a key" in result.stderr


def processes_of(process: subprocess.Popen[str]) -> list[str]:
    """Return the command lines of a process and of all below it."""
    found = []
    try:
        parent = psutil.Process(process.pid)
        for one in (parent, *parent.children(recursive=True)):
            found.append(" ".join(one.cmdline()))
    except psutil.NoSuchProcess:
        pass
    return found


def test_a_run_with_a_key_from_the_file_leaves_it_nowhere_else(lema_home: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*LEMA, "keys", "set", "LEMA_TEACHER_KEY"],
        input=KEY + "\n",
        env=environment(lema_home),
        capture_output=True,
        text=True,
        check=True,
    )
    shown = done.stdout + done.stderr
    run_dir = tmp_path / "run"
    error = json.dumps({"error": {"message": f"bad key {KEY}"}})
    seen: set[str] = set()
    with FakeTeacher(fault_rate=0.3, faults=["500", "429"], error_body=error) as server:
        words = ["run", "quickstart", "--run", str(run_dir), "--until", "filter", *tiny("correct.retries=3")]
        words += ["--teacher", "openai/fake", "--teacher-url", server.url]
        process = start(*words, home=lema_home)
        while process.poll() is None:
            seen.update(processes_of(process))
            time.sleep(0.05)
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert server.headers[-1]["authorization"] == f"Bearer {KEY}"
        server.weather.status = 401
        server.weather.error_body = error
        process = start(
            *words, "--set", "correct.temperature=0.5", "--run", str(tmp_path / "other"), home=lema_home
        )
        more_output, more_errors = process.communicate()
        assert process.returncode == 1
        assert "bad key ***" in more_errors
    shown += output + errors + more_output + more_errors
    counts = json.loads((run_dir / "2_correct" / "manifest.json").read_text())["counts"]
    assert counts["faults"] == {"server error": server.met["500"], "rate limit": server.met["429"]}
    assert any("quickstart" in line for line in seen)
    assert KEY not in shown + " ".join(seen)
    files = [path for place in (tmp_path, lema_home) for path in place.rglob("*") if path.is_file()]
    assert {"corrections.jsonl", "manifest.json", "recipe.yaml", "journal.sqlite"} <= {
        path.name for path in files
    }
    assert [path.name for path in files if KEY.encode() in path.read_bytes()] == ["keys.json"]
