"""Which mistakes are new, which student goes on, when rounds end; their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lema_local.errors import RecipeError, RunStateError
from lema_local.pipeline.rounds import choose_student, describe_rise
from lema_local.recipe import load_recipe
from lema_local.records import Correction, CorrectionVerdict, PathVerdict, ReasoningPath
from lema_local.rounds import (
    RoundInput,
    RoundRecord,
    has_ended,
    read_round,
    read_rounds,
    round_folder,
    save_round,
    write_rounds,
)
from lema_local.runs import RunFolder
from lema_local.stages.correct import CorrectSettings, find_new, list_steps
from lema_local.stages.evaluate import share_of


def path(text: str, index: int = 0, verdict: PathVerdict = "wrong", question: str = "q") -> ReasoningPath:
    return ReasoningPath(
        question_id=question, sample_index=index, seed=0, student="s", text=text, final_answer="7",
        verdict=verdict, rule="phrase", stop_reason="end", prompt_tokens=None, completion_tokens=None,
    )  # fmt: skip


def correction(of: ReasoningPath, verdict: CorrectionVerdict = "accepted") -> Correction:
    return Correction(
        question_id=of.question_id, sample_index=of.sample_index, student="s", teacher="t", teacher_reported=None,
        original_steps=list_steps(of), incorrect_step=1, explanation="", corrected_solution="", final_answer="8",
        verdict=verdict, reason=None, reply_key=None, cost_usd=0.0,
    )  # fmt: skip


FIRST = path("Step 1: She has 3+3=7 pears.\nStep 2: The answer is 7.")


@pytest.mark.parametrize(
    ("one", "new", "known"),
    [
        (FIRST, 0, 1),
        (path("Step 1: That makes 3+3=7.\nStep 2: The answer is 7."), 0, 1),  # the same in other words
        (path("Step 1: She has 3+4=7 pears.\nStep 2: The answer is 7."), 1, 0),
        (path(FIRST.text, question="another"), 1, 0),
        (path("It is seven. The answer is 7."), 1, 0),
        (path(FIRST.text, verdict="correct"), 0, 0),
        (path(FIRST.text, verdict="truncated"), 0, 0),
    ],
)
def test_a_mistake_is_known_by_its_chain_of_equations(one: ReasoningPath, new: int, known: int) -> None:
    found = find_new([one], [correction(FIRST)], CorrectSettings())
    assert (len(found.paths), found.already_known) == (new, known)


def test_a_mistake_whose_correction_was_rejected_is_new() -> None:
    assert find_new([FIRST], [correction(FIRST, "rejected")], CorrectSettings()).paths == [FIRST]


def test_a_new_mistake_in_several_words_is_taken_once() -> None:
    twice = [
        path("Step 1: 2+2=5.\nStep 2: The answer is 5."),
        path("Step 1: It is 2+2=5.\nStep 2: The answer is 5.", 1),
    ]
    assert find_new(twice, [], CorrectSettings()).paths == twice[:1]


VALIDATION = {"base": share_of(9, 10), "cot": share_of(5, 10), "lema": share_of(5, 10)}


def test_the_best_arm_goes_on_the_first_of_equals_and_never_the_base() -> None:
    assert choose_student(VALIDATION) == "cot"
    assert choose_student(VALIDATION, "lema") == "lema"


def record(number: int, correct: int) -> RoundRecord:
    validation = {"base": share_of(4, 10), "cot": share_of(correct, 10)}
    return RoundRecord(
        round=number,
        sampled_from="base",
        student="cot",
        validation=validation,
        new_mistakes=1,
        already_known=0,
    )


@pytest.mark.parametrize(
    ("now", "before", "rose", "beaten"),
    [
        (5, [], True, "the base 4"),
        (4, [], False, "the base 4"),
        (7, [6], True, "cot of round 1 6"),
        (6, [6], False, "cot of round 1 6"),
        (6, [7, 5], False, "cot of round 1 7"),
    ],
)
def test_validation_rises_where_the_best_before_is_exceeded(
    now: int, before: list[int], rose: bool, beaten: str
) -> None:
    told, has_risen = describe_rise(record(9, now), [record(*one) for one in enumerate(before, 1)])
    assert has_risen is rose
    assert told == f"cot answers {now} of 10 held-out questions rightly, {beaten}"


def test_a_round_keeps_to_the_student_that_it_was_begun_from(tmp_path: Path) -> None:
    folder = round_folder(RunFolder(tmp_path), 2)
    save_round(folder, RoundInput(number=2, arm="cot"))
    save_round(folder, RoundInput(number=2, arm="cot"))
    assert read_round(folder) == RoundInput(number=2, arm="cot")
    with pytest.raises(RunStateError, match="was begun from the student cot, and now lema"):
        save_round(folder, RoundInput(number=2, arm="lema"))
    (folder.path / "round.json").write_text("{")
    with pytest.raises(RunStateError, match="is damaged"):
        read_round(folder)


def test_rounds_have_ended_unless_more_are_asked_for(tmp_path: Path) -> None:
    assert not has_ended(tmp_path, 2)
    write_rounds(tmp_path, [record(1, 5)])
    assert not has_ended(tmp_path, 2)
    done = [record(1, 5), record(2, 6).model_copy(update={"stopped": "all_done"})]
    write_rounds(tmp_path, done)
    assert read_rounds(tmp_path) == done
    assert has_ended(tmp_path, 2)
    assert not has_ended(tmp_path, 3)
    write_rounds(tmp_path, [record(1, 4).model_copy(update={"stopped": "no_rise"})])
    assert has_ended(tmp_path, 3)


def test_rounds_need_held_out_questions_and_an_arm_that_exists() -> None:
    without = ["rounds.count=2", "questions.validation=null", "rounds.student_from=lemma"]
    with pytest.raises(RecipeError) as told:
        load_recipe(Path("quickstart"), without)
    assert "chosen on held-out questions, and there are none" in str(told.value)
    assert "rounds.student_from: no arm 'lemma'; there are best, cot, lema" in str(told.value)
