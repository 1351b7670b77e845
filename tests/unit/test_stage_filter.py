"""The filter: judged again from the record, nothing lost."""

from __future__ import annotations

import pytest

from lema_local.errors import InputError
from lema_local.grades import correction_id
from lema_local.records import Correction, Question
from lema_local.stages.filter import FilterSettings, filter_corrections

QUESTION = Question(
    id="q",
    dataset="d",
    split="train",
    question="3+4, twice?",
    gold_answer="14",
    gold_rationale="3+4=7\n7*2=14",
)


def make_correction(**changes: object) -> Correction:
    """Return an accepted correction of a wrong path, with some fields changed."""
    fields: dict[str, object] = {
        "question_id": "q",
        "sample_index": 0,
        "student": "s",
        "teacher": "t",
        "teacher_reported": None,
        "original_steps": ["3+4=7", "7+2=9", "The answer is 9."],
        "incorrect_step": 2,
        "explanation": "It is doubled.",
        "corrected_solution": "Step 2: 7*2=14\nStep 3: The answer is 14.",
        "final_answer": "14",
        "verdict": "accepted",
        "reason": None,
        "checks": {"first_steps_unchanged": True, "starts_at_step": True},
        "reply_key": "k",
        "cost_usd": 0.0,
    }
    return Correction.model_validate(fields | changes)


WRONG = {"corrected_solution": "Step 2: 7*2=15\nStep 3: The answer is 15."}


def test_a_right_correction_is_accepted_with_all_checks_recorded() -> None:
    filtered = filter_corrections([make_correction(checks={})], [QUESTION], FilterSettings())
    assert filtered.rejected == []
    assert filtered.accepted[0].checks["arithmetic_holds"]
    assert filtered.accepted[0].final_answer == "14"


def test_the_verdict_is_found_anew_whatever_the_record_says() -> None:
    lying = make_correction(**WRONG, verdict="accepted", final_answer="14")
    strict = make_correction(verdict="rejected", reason="an older rule")
    filtered = filter_corrections([lying, strict], [QUESTION], FilterSettings())
    assert [one.reason for one in filtered.rejected] == ["its final answer 15 is not the gold answer 14"]
    assert [(one.verdict, one.reason) for one in filtered.accepted] == [("accepted", None)]


def test_every_correction_is_on_one_side_with_a_reason() -> None:
    corrections = [
        make_correction(),
        make_correction(**WRONG),
        make_correction(
            incorrect_step=None, corrected_solution=None, verdict="rejected", reason="the reply is empty"
        ),
        make_correction(incorrect_step=None, corrected_solution=None, verdict="failed", reason="timed out"),
    ]
    filtered = filter_corrections(corrections, [QUESTION], FilterSettings())
    assert len(filtered.accepted) == 1
    assert [one.verdict for one in filtered.rejected] == ["rejected", "rejected", "failed"]
    assert all(one.reason for one in filtered.rejected)


def test_a_further_check_rejects_when_asked_to() -> None:
    sloppy = make_correction(corrected_solution="Step 2: 7*2=13, or rather 14\nStep 3: The answer is 14.")
    assert filter_corrections([sloppy], [QUESTION], FilterSettings()).accepted
    strict = FilterSettings(rejecting_checks=("arithmetic_holds",))
    assert (
        filter_corrections([sloppy], [QUESTION], strict).rejected[0].reason == "its arithmetic does not hold"
    )


def test_what_only_the_reply_showed_is_kept() -> None:
    changed = make_correction(checks={"first_steps_unchanged": False, "starts_at_step": True})
    strict = FilterSettings(rejecting_checks=("first_steps_unchanged",))
    assert filter_corrections([changed], [QUESTION], strict).rejected


def test_duplicates_are_told_by_their_equations() -> None:
    same = make_correction(
        sample_index=1,
        original_steps=["He has 3 + 4 = 7 of them.", "Then 7 + 2 = 9.", "The answer is 9."],
        corrected_solution="Step 2: So 7 * 2 = 14.\nStep 3: The answer is 14.",
    )
    other = make_correction(sample_index=2, original_steps=["3+4=7", "7-2=5", "The answer is 5."])
    corrections = [make_correction(), same, other]
    assert len(filter_corrections(corrections, [QUESTION], FilterSettings()).accepted) == 3
    filtered = filter_corrections(corrections, [QUESTION], FilterSettings(drop_duplicates=True))
    assert [one.sample_index for one in filtered.accepted] == [0, 2]
    assert "same equations" in (filtered.rejected[0].reason or "")


def test_a_correction_without_its_question_is_an_error() -> None:
    with pytest.raises(InputError, match="has no question"):
        filter_corrections([make_correction(question_id="other")], [QUESTION], FilterSettings())


def test_what_one_reviewer_graded_poor_is_dropped_where_it_is_asked_for() -> None:
    good, poor = make_correction(), make_correction(sample_index=1)
    grades = {correction_id(good): ["good"], correction_id(poor): ["excellent", "poor"]}
    assert len(filter_corrections([good, poor], [QUESTION], FilterSettings(), grades).accepted) == 2
    filtered = filter_corrections([good, poor], [QUESTION], FilterSettings(drop_graded=("poor",)), grades)
    assert [one.sample_index for one in filtered.accepted] == [0]
    assert filtered.rejected[0].reason == "a reviewer graded it poor"
