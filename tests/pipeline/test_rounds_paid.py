"""Two rounds with a teacher that is paid by the call: new questions, their answers, corrections, and the cap on all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command import lema, tiny
from fake_teacher import FakeTeacher
from new_questions import write_question
from test_going_round import read_lines

from lema_local.jsonl import read_records
from lema_local.records import Question

TRAIN = "0_questions/train.jsonl"


def answer(run: Path, request: dict[str, Any]) -> str:
    """Make a question or answer one; solve one of the run's questions, or correct a solution of it."""
    asked = request["messages"][-1]["content"]
    is_mistake = asked.endswith("Incorrect Step:")
    if asked.endswith("New question:") or (not is_mistake and "there are" in asked):
        return write_question(request)
    if new := re.search(r"there are (\d+) .* then\s+(\d+) more", asked):
        a, b = map(int, new.groups())
        steps, gold = [f"{a} + {b} = {a + b}."], str(a + b)
    else:
        question = next(one for one in read_records(run / TRAIN, Question) if one.question in asked)
        steps, gold = (question.gold_rationale or "").splitlines(), question.gold_answer
    lines = [*steps, f"The answer is {gold}."]
    solution = "\n".join(f"Step {number}: {line}" for number, line in enumerate(lines, 1))
    if not is_mistake:
        return solution
    return f"Step 1.\nExplanation: It begins wrongly.\nCorrect Solution:\n{{\n{solution}\n}}"


def test_one_cap_holds_over_the_rounds_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with FakeTeacher(lambda request: answer(run, request), usage=[100, 50]) as server:
        small = tiny(
            "questions.train={source: quickstart@train, limit: 16}",
            "questions.test=[{source: quickstart@test, limit: 8}]",
            "train.validate_every_steps=null",
            "train.arms=[lema,preference]",
            "export.merge=[]",
            "export.fidelity_prompts=1",
            "augment={limit: 2}",
            "evolve.questions=8",
            "rounds={count: 2, data: replace, needs_rise: false, min_new_mistakes: 1, start_from: adapter}",
            f"teacher={{model: openai/fake, url: {server.url}, price_in: 1, price_out: 10}}",
        )

        def command(max_calls: int) -> tuple[str | Path, ...]:
            cap = ("--set", f"teacher.max_calls={max_calls}")
            return ("run", "quickstart", "--run", run, *small, *cap, "--yes")

        stopped = lema(*command(25), home=tmp_path / "home")
        assert stopped.returncode == 3, stopped.stderr
        mistakes = len(read_lines(run / "2_correct/corrections.jsonl"))
        assert server.answered.total() == 25
        assert "teacher.max_calls" in stopped.stderr
        assert not (run / "round_2/0_questions").exists(), "the cap was to be reached in the evolution"
        done = lema(*command(1000), home=tmp_path / "home")
        assert done.returncode == 0, done.stderr
        calls = server.answered.total()

    corrected = [read_lines(run / one / "2_correct/corrections.jsonl") for one in ("", "round_2")]
    evolved = read_lines(run / "round_2/0_evolve/evolved.jsonl")
    written = {one["question"] for one in evolved if one["votes"]}  # what was written twice is answered once
    assert len(evolved) == 8
    asked = {
        "2_correct": mistakes,
        "3_augment": 2,
        "round_2/0_evolve": 8 + 3 * len(written),
        "round_2/2_correct": len(corrected[1]),
        "round_2/3_augment": 0,
    }
    assert calls == sum(asked.values())
    for stage, count in asked.items():
        cost_usd = json.loads((run / stage / "manifest.json").read_text())["cost_usd"]
        assert cost_usd == pytest.approx(count * (100 * 1 + 50 * 10) / 1e6), stage

    accepted = read_lines(run / "round_2/4_filter/accepted.jsonl")
    examples = read_lines(run / "round_2/5_build/lema.jsonl")
    pairs = read_lines(run / "round_2/5_build/preference.jsonl")
    of_round_two = {one["question_id"] for one in accepted}
    assert {one["question_id"] for one in examples if one["kind"] == "correction"} == of_round_two
    assert sum(one["kind"] == "correction" for one in examples) == len(accepted)
    assert {one["question_id"] for one in pairs} <= of_round_two
    for arm in ("lema", "preference"):
        made = json.loads((run / f"round_2/6_train/{arm}/manifest.json").read_text())["made_from"]
        before = json.loads((run / f"6_train/{arm}/manifest.json").read_text())
        assert made["start"] == before["fingerprint"]
