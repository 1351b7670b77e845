"""The reference teacher on real solutions: a real 1B student's mistakes, and steps that people have labelled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lema_local.answers import cut_at_next_question, extract_answer
from lema_local.arithmetic import evaluate
from lema_local.corrections import UnparseableReply, judge_correction, parse_reply
from lema_local.datasets import read_labelled
from lema_local.records import Question
from lema_local.steps import split_steps, state_answer, states_answer
from lema_local.teachers.mistakes import find_fault
from lema_local.teachers.reference import write_correction


@pytest.fixture(scope="module")
def data() -> Path:
    if "LEMA_DATA" not in os.environ:
        pytest.skip("LEMA_DATA is not set: no folder with real data")
    return Path(os.environ["LEMA_DATA"])


def test_it_names_the_first_wrong_step_of_labelled_arithmetic(data: Path) -> None:
    labelled = read_labelled(data / "labelled_mistakes" / "bigbench_mistake_multistep_arithmetic.jsonl")
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for solution in labelled:
        gold = str(evaluate(solution.question.rstrip(" =")))
        assert gold == solution.gold_answer
        fault = find_fault(solution.question, None, gold, solution.steps)
        named = fault.step if fault else None
        hits[solution.incorrect_step is None].append(named == solution.incorrect_step)
    on_wrong, on_right = (sum(hits[is_right]) / len(hits[is_right]) for is_right in (False, True))
    harmonic = 2 * on_wrong * on_right / (on_wrong + on_right)
    print(
        f"\nwrong {on_wrong:.3f} of {len(hits[False])}, right {on_right:.3f} of {len(hits[True])}, mean {harmonic:.3f}"
    )
    assert (len(hits[False]), len(hits[True])) == (238, 62)
    assert on_wrong > 0.95
    assert on_right > 0.70
    assert harmonic > 0.82


def _read_mistakes(path: Path) -> list[tuple[Question, list[str]]]:
    mistakes = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text = cut_at_next_question(row["code"][0])
        answer = extract_answer(text)
        if row["score"][0] or answer is None:
            continue
        question = Question(
            id=f"gsm8k/test/{row['idx']}",
            dataset="gsm8k",
            split="test",
            question=row["question"],
            gold_answer=row["gt"],
            gold_rationale=row["gt_cot"],
        )
        steps = split_steps(text)
        mistakes.append((question, steps if states_answer(steps[-1]) else [*steps, state_answer(answer)]))
    return mistakes


def test_its_corrections_of_a_real_students_mistakes_reach_the_gold_answer(data: Path) -> None:
    mistakes = _read_mistakes(data / "student_outputs" / "rho-math-1b_gsm8k_cot.jsonl")
    accepted = sound = first = 0
    for question, steps in mistakes:
        reply = write_correction(question.question, question.gold_rationale, question.gold_answer, steps)
        try:
            parsed = parse_reply(reply, steps)
        except UnparseableReply:
            continue
        judgement = judge_correction(parsed, question, steps)
        accepted += judgement.verdict == "accepted"
        sound += judgement.checks["arithmetic_holds"]
        first += parsed.incorrect_step == 1
        assert judgement.checks["step_exists"]
        assert judgement.checks["starts_at_step"]
    print(
        f"\n{len(mistakes)} mistakes: {accepted} corrected, arithmetic holds in {sound}, step 1 named in {first}"
    )
    assert len(mistakes) > 700
    assert accepted > 0.98 * len(mistakes)
    assert sound > 0.97 * len(mistakes)
    assert first < 0.35 * len(mistakes)
