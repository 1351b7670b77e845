"""Scores of teachers on a sample: what is counted, and what is said where nothing can be."""

from __future__ import annotations

from typing import Any

import pytest

from lema_local.corrections import UnparseableReply, read_location, read_named_step
from lema_local.datasets import LabelledMistake
from lema_local.teacher_bench import (
    UNREAD,
    Case,
    Finding,
    cases_of_labelled,
    compare_findings,
    draw_sample,
    score_teacher,
)


def labelled(number: int, label: int | None, gold: str | None = "6") -> LabelledMistake:
    return LabelledMistake(
        id=f"l{number}", dataset="d", question="2 * 3 =" if gold else "Why?", steps=["2 * 3 = 7.", "So 7."],
        incorrect_step=label, gold_answer=gold, final_answer="7", has_correct_answer=None,
    )  # fmt: skip


def finding(named: int | None, *, is_accepted: bool = False, **more: Any) -> Finding:
    facts: dict[str, Any] = {"reason": None, "cost_usd": 0.01, "latency_s": 2.0, "is_answered": True}
    return Finding(named, is_accepted, **(facts | more))


def cases(*labels: int | None, gold: str | None = "6") -> list[Case]:
    return cases_of_labelled([labelled(number, label, gold) for number, label in enumerate(labels)])


def test_naming_is_counted_on_wrong_and_on_right_solutions_apart() -> None:
    found = [finding(1, is_accepted=True), finding(2), finding(UNREAD), finding(None), finding(1)]
    score = score_teacher("t", cases(1, 1, 1, None, None), found, reads_gold=False)
    assert (score.on_wrong.hits, score.on_wrong.n) == (1, 3)
    assert (score.on_right.hits, score.on_right.n) == (1, 2)
    assert score.harmonic_mean.value == pytest.approx(2 * (1 / 3) * 0.5 / (1 / 3 + 0.5))
    assert (score.accepted.hits, score.accepted.n) == (1, 3), "right solutions need no correction"
    assert (score.usd_per_kept.value, score.seconds_per_kept.value) == (pytest.approx(0.05), 10.0)


def test_what_cannot_be_computed_is_none_with_the_reason() -> None:
    score = score_teacher("t", cases(1, gold=None), [finding(1)], reads_gold=True)
    assert (score.accepted.share, score.accepted.why_not) == (None, "no gold answers")
    assert (score.on_right.share, score.on_right.why_not) == (None, "no right solution in the sample")
    assert (score.harmonic_mean.value, score.harmonic_mean.why_not) == (
        None,
        "no right solution in the sample",
    )
    assert (score.usd_per_kept.value, score.usd_per_kept.why_not) == (None, "no gold answers")
    assert score.note is not None


def test_the_gold_answer_of_an_expression_is_what_it_comes_to() -> None:
    (case,) = cases_of_labelled([labelled(0, 1, gold="7")])
    assert case.question.gold_answer == "6"


def test_agreement_is_of_the_cases_that_both_answered() -> None:
    one = [finding(1, is_accepted=True), finding(2), finding(UNREAD), finding(None)]
    other = [finding(1), finding(3, is_accepted=True), finding(UNREAD), finding(None, is_answered=False)]
    (found,) = compare_findings({"a": one, "b": other})
    assert (found.same_step.hits, found.same_step.n) == (1, 3)
    assert (found.both_accepted, found.only_one_accepted, found.only_other_accepted) == (0, 1, 1)
    assert compare_findings({"a": one}) == []


def test_a_sample_is_the_same_every_time_and_keeps_the_order() -> None:
    names = [f"q{number}" for number in range(50)]
    drawn = draw_sample(names, 10, str)
    assert drawn == draw_sample(names, 10, str) == sorted(drawn, key=names.index)
    assert drawn != names[:10]
    assert drawn != draw_sample(names, 10, str, seed=1)
    assert draw_sample(names, 90, str) == names


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Step 3.\nExplanation: no.", 3),
        ("**Incorrect Step:** Step 2\nExplanation: it leaves out the 7.", 2),
        ("Incorrect Step: None. All 4 steps are right.", None),
        ("None. All is right.", None),
        ('```json\n{"incorrect_step": 4, "explanation": "x"}\n```', 4),
        ("<think>Step 1?</think>\nIncorrect Step: Step 5.", 5),
        ("2. It is wrong.", 2),
    ],
)
def test_the_named_step_is_read_whatever_else_a_reply_lacks(text: str, named: int | None) -> None:
    assert read_named_step(text) == named


@pytest.mark.parametrize("text", ["", "There are 12 apples.", "I will not."])
def test_a_reply_that_says_nothing_of_steps_names_none(text: str) -> None:
    with pytest.raises(UnparseableReply):
        read_named_step(text)


def test_a_reply_that_was_to_name_the_step_alone_may_say_it_in_a_sentence() -> None:
    assert read_location("The first incorrect step is Step 4.") == 4
