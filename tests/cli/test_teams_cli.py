"""`lema correct` and `lema augment` with several teachers, a fallback, and other ways to ask; over real HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_teacher import FakeTeacher
from test_correct_cli import run, summary, write_inputs

from lema_local.jsonl import read_records
from lema_local.records import Correction, Rationale


def command(folder: Path, *more: str, out: str = "out.jsonl") -> list[str]:
    files = ["correct", str(folder / "paths.jsonl"), "--questions", str(folder / "questions.jsonl")]
    return [*files, "--out", str(folder / out), "--json", *more]


def read_sum(body: dict[str, Any]) -> tuple[str, str, int]:
    """Return the last sum that is asked about."""
    a, b = body["messages"][-1]["content"].rpartition("What is ")[2].partition("?")[0].split(" + ")
    return a, b, int(a) + int(b)


def solve(body: dict[str, Any]) -> str:
    """Correct it."""
    a, b, c = read_sum(body)
    return (
        f"Incorrect Step: Step 1.\nExplanation: It is {c}.\n"
        f"Correct Solution: {{\nStep 1: {a} + {b} = {c}.\nStep 2: The answer is {c}.\n}}"
    )


def half_blind(body: dict[str, Any]) -> str:
    """Correct every other sum, and say nothing of use to the rest."""
    return solve(body) if read_sum(body)[2] % 3 else "I cannot see a mistake here."


def corrections(folder: Path, out: str = "out.jsonl") -> list[Correction]:
    return read_records(folder / out, Correction)


def test_several_teachers_share_the_mistakes_by_weight(tmp_path: Path) -> None:
    write_inputs(tmp_path, 200)
    with FakeTeacher(solve) as one, FakeTeacher(solve) as other:
        words = ["--teacher", "openai/big=3", "--teacher-url", one.url, "--teacher", "openai/small"]
        done = summary(run(*command(tmp_path, *words, "--teacher-url", other.url)))
        asked = (one.requests, other.requests)
        again = summary(run(*command(tmp_path, *words, "--teacher-url", other.url, out="again.jsonl")))
        refused = run(*command(tmp_path, "--teacher", "openai/big", "--teacher-url", one.url))
    assert done["accepted"] == 200 == sum(asked)
    assert 0.6 < asked[0] / 200 < 0.9, "three of four"
    assert {name: row["accepted"] for name, row in done["by_teacher"].items()} == {
        "openai/big": asked[0],
        "openai/small": asked[1],
    }
    assert (again["calls"], corrections(tmp_path)) == (0, corrections(tmp_path, "again.jsonl"))
    assert refused.exit_code == 2
    assert "were made" in refused.stderr


def test_a_fallback_gets_only_what_the_first_could_not_correct(tmp_path: Path) -> None:
    write_inputs(tmp_path, 60)
    with FakeTeacher(half_blind) as cheap, FakeTeacher(solve, usage=[1000, 100]) as paid:
        words = [
            *("--teacher", "openai/cheap", "--teacher-url", cheap.url),
            *("--fallback", "openai/paid", "--fallback-url", paid.url),
            *("--fallback-price-in", "1", "--fallback-price-out", "10"),
        ]
        stopped = run(*command(tmp_path, *words, "--max-calls", "70"))
        done = summary(run(*command(tmp_path, *words)))
        again = summary(run(*command(tmp_path, *words)))
        told = run(*[word for word in command(tmp_path, *words) if word != "--json"])
        asked = (cheap.requests, paid.requests)
    assert stopped.exit_code == 3
    assert done["accepted"] == 60
    found = corrections(tmp_path)
    by_fallback = [one for one in found if one.asked.get("is_fallback")]
    assert asked == (60, len(by_fallback))
    assert {one.teacher for one in by_fallback} == {"openai/paid"}
    assert 5 < len(by_fallback) < 55
    account = done["fallback"]
    assert account["asked"] == account["accepted"] == len(by_fallback)
    assert account["cost_usd"] == pytest.approx(0.002 * len(by_fallback))
    assert account["spared_usd"] == pytest.approx(0.002 * (60 - len(by_fallback)))
    assert (again["calls"], again["fallback"]) == (0, account)
    assert f"{60 - len(by_fallback)} that others corrected" in told.stdout


def test_an_answer_by_the_first_teacher_leaves_the_fallback_alone(tmp_path: Path) -> None:
    write_inputs(tmp_path, 5)
    with FakeTeacher(solve) as first, FakeTeacher(solve) as fallback:
        words = ["--teacher", "openai/a", "--teacher-url", first.url, "--fallback", "openai/b"]
        done = summary(run(*command(tmp_path, *words, "--fallback-url", fallback.url)))
        assert fallback.requests == 0
    assert done["fallback"]["spared_usd"] is None
    missing = run(*command(tmp_path, *words, "--fallback", "gpt-4o", out="new.jsonl"))
    assert missing.exit_code == 2, "a missing key of the fallback is told before anything is asked"


def test_locating_first_and_json_stand_in_what_is_asked_and_kept(tmp_path: Path) -> None:
    write_inputs(tmp_path, 6)

    def reply(body: dict[str, Any]) -> str:
        if "answer with it alone" in body["messages"][-1]["content"] + body["messages"][0]["content"]:
            return "The wrong one is **Step 1**."
        return solve(body)

    with FakeTeacher(reply) as server:
        words = ["--teacher", "openai/x", "--teacher-url", server.url]
        located = summary(run(*command(tmp_path, *words, "--locate-first")))
        cues = [body["messages"][-1]["content"][-22:] for body in server.bodies]
        again = summary(run(*command(tmp_path, *words, "--locate-first", out="b.jsonl")))
        kept = summary(run(*command(tmp_path, *words, "--locate-first")))
        as_json = summary(run(*command(tmp_path, *words, "--ask-json", out="c.jsonl")))
        refused = run(*command(tmp_path, *words))
        last = server.bodies[-1]
        read_again = run(
            "reparse", str(tmp_path / "out.jsonl"), "--questions", str(tmp_path / "questions.jsonl")
        )
    assert (located["accepted"], located["calls"]) == (6, 12)
    assert [one.asked["located_step"] for one in corrections(tmp_path)] == [1] * 6
    assert sum(cue == "Incorrect Step: Step 1." for cue in ("I" + cue for cue in cues)) == 6
    assert (again["calls"], kept["calls"]) == (0, 0)
    assert last["response_format"] == {"type": "json_object"}
    assert "JSON object" in last["messages"][0]["content"]
    assert (as_json["total"], {one.asked["is_json"] for one in corrections(tmp_path, "c.jsonl")}) == (
        6,
        {True},
    )
    assert "0 verdicts changed" in read_again.stdout
    assert refused.exit_code == 2
    assert "other settings" in refused.stderr


def test_a_system_prompt_and_reasoning_effort_arrive_and_reasoning_is_kept_apart(tmp_path: Path) -> None:
    write_inputs(tmp_path, 2)
    with FakeTeacher(lambda body: f"<think>Step 9. No!</think>\n{solve(body)}") as server:
        words = ["--teacher", "openai/x", "--teacher-url", server.url, "--system-prompt", "Be kind."]
        done = summary(run(*command(tmp_path, *words, "--reasoning-effort", "low")))
        assert server.bodies[-1]["messages"][0] == {"role": "system", "content": "Be kind."}
        assert server.bodies[-1]["reasoning_effort"] == "low"
        plain = summary(run(*command(tmp_path, *words, out="plain.jsonl")))
    assert (done["accepted"], done["calls"], plain["calls"]) == (2, 2, 2), "another effort is another request"
    text = (tmp_path / "out.jsonl").read_text()
    assert "No!" not in text
    key = json.loads(text.splitlines()[0])["reply_key"]
    assert "Step 9. No!" in run("journal", "show", key).stdout


def test_rationales_are_shared_too_and_the_reference_teacher_is_left_out(tmp_path: Path) -> None:
    write_inputs(tmp_path, 20)

    def write(body: dict[str, Any]) -> str:
        a, b, c = read_sum(body)
        return f"Step 1: We add {b} to {a}: {b} + {a} = {c}.\nStep 2: The answer is {c}."

    with FakeTeacher(write) as one, FakeTeacher(write) as other:
        words = [
            "--teacher",
            "openai/a",
            "--teacher-url",
            one.url,
            "--teacher",
            "openai/b",
            "--teacher-url",
            other.url,
        ]
        files = ["augment", str(tmp_path / "questions.jsonl"), "--out", str(tmp_path / "r.jsonl"), "--json"]
        done = summary(run(*files, *words, "--teacher", "reference"))
        assert one.requests + other.requests == 20
        assert one.requests
        assert other.requests
    assert (done["total"], done["accepted"]) == (20, 20)


def test_a_fallback_writes_the_rationales_that_the_first_failed_on(tmp_path: Path) -> None:
    write_inputs(tmp_path, 24)

    def write(body: dict[str, Any]) -> str:
        a, b, c = read_sum(body)
        return f"Step 1: We add {b} to {a}: {b} + {a} = {c}.\nStep 2: The answer is {c}."

    def write_some(body: dict[str, Any]) -> str:
        a, b, c = read_sum(body)
        if c % 3 == 0:
            return "It is clear."
        # The gold rationale's equations: right, but nothing new.
        return f"Step 1: {a} + {b} = {c}.\nStep 2: The answer is {c}." if c % 3 == 1 else write(body)

    with FakeTeacher(write_some) as cheap, FakeTeacher(write, usage=[1000, 100]) as paid:
        words = [
            *("augment", str(tmp_path / "questions.jsonl"), "--out", str(tmp_path / "r.jsonl"), "--json"),
            *("--teacher", "openai/cheap", "--teacher-url", cheap.url, "--count", "2"),
            *("--fallback", "openai/paid", "--fallback-url", paid.url),
            *("--fallback-price-in", "1", "--fallback-price-out", "10"),
        ]
        stopped = run(*words, "--max-calls", "50")
        done = summary(run(*words))
        again = summary(run(*words))
        told = run(*[word for word in words if word != "--json"]).stdout
        asked = (cheap.requests, paid.requests)
    assert stopped.exit_code == 3
    found = read_records(tmp_path / "r.jsonl", Rationale)
    its = [one for one in found if one.is_fallback]
    failed_on = {f"q{number}" for number in range(24) if (number * 4 + 7) % 3 == 0}
    assert {one.question_id for one in its} == failed_on
    assert asked == (48, 2 * len(failed_on)) == (48, len(its))
    # The second rationale of a question says the same as the first.
    assert sum(one.verdict == "accepted" for one in its) == len(failed_on) == done["fallback"]["accepted"]
    assert done["fallback"]["cost_usd"] == pytest.approx(0.002 * len(its))
    assert (again["calls"], again["fallback"]) == (0, done["fallback"])
    assert f"openai/paid was asked for {len(its)} rationales" in told


def test_reading_again_tells_what_the_filter_keeps(tmp_path: Path) -> None:
    write_inputs(tmp_path, 6)
    with FakeTeacher(lambda body: solve(body).replace("Step 1: ", "Step 1: As 1 + 1 = 3, ")) as server:
        summary(run(*command(tmp_path, "--teacher", "openai/x", "--teacher-url", server.url)))
    again = [
        "reparse",
        str(tmp_path / "out.jsonl"),
        "--questions",
        str(tmp_path / "questions.jsonl"),
        "--json",
    ]
    assert summary(run(*again))["kept_by_the_filter"] == {"before": 6, "after": 6, "gained": 0, "lost": 0}
    strict = summary(run(*again, "--reject-on", "arithmetic_holds"))
    assert strict["kept_by_the_filter"] == {"before": 0, "after": 0, "gained": 0, "lost": 0}
    text = (tmp_path / "out.jsonl").read_text().replace('"rejected"', '"accepted"')
    first, *rest = [json.loads(line) for line in text.splitlines()]
    broken = first | {
        "corrected_solution": "Step 1: The answer is 0.",
        "verdict": "rejected",
        "reason": "old parser",
    }
    (tmp_path / "out.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [broken, *rest]))
    told = summary(run(*again))
    assert told["verdicts_changed"] == {"rejected to accepted": 1}
    assert told["kept_by_the_filter"] == {"before": 5, "after": 6, "gained": 1, "lost": 0}
    assert run(*again, "--reject-on", "beauty").exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--teacher", "reference=0"], "a weight is above 0"),
        (["--teacher", "reference", "--teacher-url", "-", "--teacher-url", "-"], "2 times --teacher-url"),
        (["--teacher", "openai/x", "--teacher-url", "ftp://x"], "no URL of an endpoint"),
        (["--teacher", "reference", "--fallback", "llamacpp/nowhere.gguf"], "no file nowhere.gguf"),
    ],
)
def test_teachers_that_cannot_be_are_told_before_anything_is_asked(
    tmp_path: Path, words: list[str], message: str
) -> None:
    write_inputs(tmp_path, 1)
    result = run(*command(tmp_path, *words))
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out.jsonl").exists()
