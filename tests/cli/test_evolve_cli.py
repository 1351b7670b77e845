"""`lema evolve` against a server that misbehaves: every draw ends accounted for, nothing is paid twice."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path
from typing import Any

import pytest
from command import start
from fake_teacher import ERRORS, FakeTeacher
from made_records import make_correction
from new_questions import write_question
from test_correct_cli import run, summary

from lema_local.jsonl import read_records, write_records
from lema_local.quickstart.problems import generate_questions
from lema_local.records import EvolvedQuestion, Question


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEMA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    words = itertools.product(("red", "small", "old", "wide"), ("owl", "fox", "elk", "hen", "cod"))
    questions = [
        Question(
            id=f"q{index}", dataset="gsm8k", split="train", gold_answer="7",
            question=f"A {colour} {animal} finds 3 seeds, then 4 more seeds. How many has the {animal}?",
        )
        for index, (colour, animal) in enumerate(words)
    ]  # fmt: skip
    write_records(tmp_path / "questions.jsonl", questions)
    write_records(tmp_path / "accepted.jsonl", [make_correction(one.id) for one in questions])
    return tmp_path


def words(folder: Path, url: str, *more: str, out: str = "new.jsonl") -> list[str]:
    return [
        *("evolve", str(folder / "accepted.jsonl"), "--questions", str(folder / "questions.jsonl")),
        *("--teacher", "openai/fake", "--teacher-url", url, "--out", str(folder / out), "--count", "24"),
        *("--price-in", "1", "--price-out", "10", "--json", *more),
    ]


def evolved(folder: Path, out: str = "new") -> list[EvolvedQuestion]:
    return read_records(folder / f"{out}.evolved.jsonl", EvolvedQuestion)


def test_every_draw_is_accounted_for_and_a_second_run_is_free(folder: Path) -> None:
    with FakeTeacher(write_question, fault_rate=0.3, faults=list(ERRORS), hang_s=8.0) as server:
        first = summary(run(*words(folder, server.url, "--timeout", "5", "--max-usd", "50")))
        asked = server.requests
        again = summary(run(*words(folder, server.url, "--timeout", "5", "--max-usd", "50")))
        assert server.requests == asked
    records = evolved(folder)
    assert len(records) == first["total"] == 24
    assert first["accepted"] + first["rejected"] + first["failed"] == 24
    assert first["failed"] == 0
    assert (again["calls"], again["accepted"]) == (0, first["accepted"])
    kept = read_records(folder / "new.jsonl", Question)
    assert [one.id for one in kept] == [one.id for one in records if one.verdict == "accepted"]
    assert 0 < len(kept) < 24  # some of its answers are no numbers
    for one in records:
        if one.verdict == "accepted":
            a, b = re.findall(r"there are (\d+) .* then\s+(\d+) more", one.question)[0]
            assert one.gold_answer == str(int(a) + int(b))
            assert len(one.votes) == 3


def test_the_budget_ends_it_with_exit_3_and_it_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTeacher(write_question) as server:
        stopped = run(*words(folder, server.url, "--max-usd", "0.012", "--concurrency", "2"))
        assert stopped.exit_code == 3, stopped.output
        assert "lema evolve" in stopped.output
        assert 0 < server.answered.total() < 40
        summary(run(*words(folder, server.url, "--max-usd", "50")))
        paid = server.answered.total()
    assert len(evolved(folder)) == 24
    monkeypatch.setenv("LEMA_HOME", str(folder / "another"))
    with FakeTeacher(write_question) as server:
        assert summary(run(*words(folder, server.url, out="whole.jsonl")))["calls"] == paid


def test_killed_at_any_moment_it_ends_as_undisturbed(folder: Path) -> None:
    with FakeTeacher(write_question, latency_s=0.05) as server:
        summary(run(*words(folder, server.url, out="whole.jsonl")))
        for stop_at in (10, 40, 70):
            before = server.requests
            more = ("--concurrency", "4")
            process = start(*words(folder, server.url, *more), home=folder / "other")
            while server.requests < before + stop_at and process.poll() is None:
                time.sleep(0.02)
            process.kill()
            process.communicate()
        last = start(*words(folder, server.url), home=folder / "other")
        _, errors = last.communicate(timeout=120)
        assert last.returncode == 0, errors
    whole = [one.model_copy(update={"reply_key": None, "votes": []}) for one in evolved(folder, "whole")]
    assert [one.model_copy(update={"reply_key": None, "votes": []}) for one in evolved(folder)] == whole


def test_embedded_problems_are_varied_without_a_model(folder: Path) -> None:
    questions = [Question.model_validate(one) for one in generate_questions("train", 30)]
    write_records(folder / "questions.jsonl", questions)
    write_records(folder / "accepted.jsonl", [make_correction(one.id) for one in questions])
    command = [
        *("evolve", str(folder / "accepted.jsonl"), "--questions", str(folder / "questions.jsonl")),
        *("--teacher", "reference", "--count", "40", "--out", str(folder / "new.jsonl")),
    ]
    told = run(*command)
    assert told.exit_code == 0, told.output
    kept = read_records(folder / "new.jsonl", Question)
    assert len(kept) > 25
    assert {one.split for one in kept} == {"train"}
    assert not {one.question for one in kept} & {one.question for one in questions}
    copied = run(*command[:-1], str(folder / "other.jsonl"), "--test", str(folder / "new.jsonl"))
    assert copied.exit_code == 0, copied.output
    assert read_records(folder / "other.jsonl", Question) == []
    assert "near copy of another question" in copied.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accepted": []}, "no accepted corrections"),
        ({"--teacher": "reference", "--teacher-url": None}, "embedded problems alone"),
        ({"--questions": "gone.jsonl"}, "gone.jsonl"),
        ({"--prompt": "evolve-maths"}, "evolve-maths"),
    ],
)
def test_bad_input_is_told_in_one_message(folder: Path, change: dict[str, Any], message: str) -> None:
    if "accepted" in change:
        write_records(folder / "accepted.jsonl", [])
    flags = {
        "--questions": str(folder / "questions.jsonl"), "--teacher": "openai/fake",
        "--teacher-url": "http://127.0.0.1:9/v1", "--out": str(folder / "new.jsonl"),
        **{name: value for name, value in change.items() if name.startswith("--")},
    }  # fmt: skip
    given = [word for name, value in flags.items() if value is not None for word in (name, value)]
    result = run("evolve", str(folder / "accepted.jsonl"), *given)
    assert result.exit_code == 2, result.output
    assert message in result.output


def test_questions_by_another_teacher_are_not_gone_on_with(folder: Path) -> None:
    with FakeTeacher(write_question) as server:
        summary(run(*words(folder, server.url)))
        other = [word if word != "openai/fake" else "openai/other" for word in words(folder, server.url)]
        refused = run(*other)
        assert refused.exit_code == 2
        assert "made by openai/fake" in refused.output
