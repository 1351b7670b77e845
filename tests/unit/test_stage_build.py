"""Building the arms: exact formats, and fair by construction."""

from __future__ import annotations

import pytest

from lema_local.errors import InputError
from lema_local.records import Correction, Question, Rationale
from lema_local.stages.build import BuildSettings, build_arms, count_examples

QUESTION = Question(
    id="q",
    dataset="gsm8k",
    split="train",
    question="Mia has 3 apples and gets 4. Then they double. How many?",
    gold_answer="14",
    gold_rationale="Mia has 3+4=<<3+4=7>>7 apples\nThey double to 7*2=<<7*2=14>>14.",
)
CORRECTION = Correction(
    question_id="q",
    sample_index=3,
    student="s",
    teacher="t",
    teacher_reported="t-1",
    original_steps=["Mia has 3+4=7.", "It is 7+2=9.", "The answer is 9."],
    incorrect_step=2,
    explanation="They double.",
    corrected_solution="Step 2: It is 7*2=14.\nStep 3: The answer is 14.",
    final_answer="14",
    verdict="accepted",
    reason=None,
    reply_key="k",
    cost_usd=0.01,
)
RATIONALE = Rationale(
    question_id="q",
    teacher="t",
    teacher_reported=None,
    attempt=1,
    text="Step 1: 3+4 is 7.\nStep 2: 7*2 is 14.\nStep 3: The answer is 14.",
    final_answer="14",
    verdict="accepted",
    reason=None,
    reply_key=None,
    cost_usd=0.0,
)
ASKED = (
    "Please solve the following math problem.\nQuestion: Mia has 3 apples and gets 4. Then they double. How many?\n"
    "Answer: Let's think step by step.\n"
)


def _build(settings: BuildSettings | None = None, **changes: object) -> dict[str, list[tuple[str, str, str]]]:
    questions = [QUESTION.model_copy(update=changes)]
    arms = build_arms(questions, [CORRECTION], [RATIONALE], settings or BuildSettings())
    return {arm: [(example.id, example.prompt, example.completion) for example in arms[arm]] for arm in arms}


def test_plain_rationales_are_step_lines_behind_the_zero_shot_prompt() -> None:
    assert _build()["cot"] == [
        (
            "q/gold",
            ASKED,
            "Step 1: Mia has 3+4=7 apples\nStep 2: They double to 7*2=14.\nStep 3: The answer is 14.",
        ),
        ("q/rationale/t/1", ASKED, "Step 1: 3+4 is 7.\nStep 2: 7*2 is 14.\nStep 3: The answer is 14."),
        (
            "q/s/3/t/0/corrected",
            ASKED,
            "Step 1: Mia has 3+4=7.\nStep 2: It is 7*2=14.\nStep 3: The answer is 14.",
        ),
    ]


def test_prose_is_one_paragraph() -> None:
    completions = [completion for *_, completion in _build(BuildSettings(layout="prose"))["cot"]]
    assert completions == [
        "Mia has 3+4=7 apples. They double to 7*2=14. The answer is 14.",
        "3+4 is 7. 7*2 is 14. The answer is 14.",
        "Mia has 3+4=7. It is 7*2=14. The answer is 14.",
    ]


def test_a_correction_example_is_the_papers_cue_and_ellipsis_included() -> None:
    assert _build()["lema"][-1] == (
        "q/s/3/t/0/correction",
        "For the following math problem, the original solution is incorrect. Identify the incorrect step, explain why"
        " it is incorrect, and correct the solution starting from that step.\n"
        "Question: Mia has 3 apples and gets 4. Then they double. How many?\n"
        "Original Solution: {\nStep 1: Mia has 3+4=7.\nStep 2: It is 7+2=9.\nStep 3: The answer is 9.\n}\n"
        "Incorrect Step:",
        " Step 2.\nExplanation: They double.\n"
        "Correct Solution: {\n...\nStep 2: It is 7*2=14.\nStep 3: The answer is 14.\n}",
    )


def test_a_first_step_has_no_ellipsis() -> None:
    first = CORRECTION.model_copy(
        update={"incorrect_step": 1, "corrected_solution": "Step 1: (3+4)*2=14\nStep 2: The answer is 14."}
    )
    arms = build_arms([QUESTION], [first], [], BuildSettings())
    assert arms["lema"][-1].completion.endswith(
        "Correct Solution: {\nStep 1: (3+4)*2=14\nStep 2: The answer is 14.\n}"
    )
    assert arms["cot"][-1].completion == "Step 1: (3+4)*2=14\nStep 2: The answer is 14."


def test_the_arms_differ_in_the_corrections_alone() -> None:
    arms = build_arms([QUESTION], [CORRECTION], [RATIONALE], BuildSettings())
    assert arms["cot"][:2] == arms["lema"][:2]
    assert [example.question_id for example in arms["cot"]] == [
        example.question_id for example in arms["lema"]
    ]
    assert [example.kind for example in arms["lema"]] == ["cot", "cot", "correction"]
    assert {example.kind for example in arms["cot"]} == {"cot"}


def test_every_example_carries_the_record_it_was_made_from() -> None:
    arms = build_arms([QUESTION], [CORRECTION], [RATIONALE], BuildSettings())
    made_from = [example.source["kind"] for example in [*arms["cot"], arms["lema"][-1]]]
    assert made_from == ["gold", "rationale", "corrected", "correction"]
    assert Correction.model_validate(arms["lema"][-1].source["record"]) == CORRECTION


def test_unmatched_arms_are_the_papers_main_table() -> None:
    counts = count_examples(build_arms([QUESTION], [CORRECTION], [RATIONALE], BuildSettings(match="none")))
    assert (counts["cot"]["examples"], counts["lema"]["examples"]) == (2, 3)


def test_arms_matched_in_tokens_are_about_as_long() -> None:
    questions = [QUESTION.model_copy(update={"id": f"q{n}"}) for n in range(40)]
    corrections = [CORRECTION.model_copy(update={"question_id": f"q{n}"}) for n in range(40)]
    arms = build_arms(questions, corrections, [], BuildSettings(match="tokens"))
    counts = count_examples(arms)
    lengths = [counts[arm]["completion_characters"] for arm in ("cot", "lema")]
    assert abs(lengths[0] - lengths[1]) < 100
    assert counts["cot"]["repeated"] == counts["cot"]["examples"] - 80 > 0
    assert counts["lema"]["repeated"] == 0
    ids = [example.id for example in arms["cot"]]
    assert len(ids) == len(set(ids))
    assert arms == build_arms(questions, corrections, [], BuildSettings(match="tokens"))


def test_counts_tell_what_each_arm_holds() -> None:
    counts = count_examples(build_arms([QUESTION], [CORRECTION], [RATIONALE], BuildSettings()))
    assert counts["lema"] == {
        "examples": 3,
        "gold": 1,
        "rationale": 1,
        "corrected": 0,
        "correction": 1,
        "questions": 1,
        "repeated": 0,
        "completion_words": 55,
        "completion_characters": 255,
        "never_report": 0,
    }


def test_test_questions_are_refused() -> None:
    with pytest.raises(InputError, match="1 test question"):
        _build(split="test")


def test_a_dataset_that_is_for_tests_alone_is_refused_in_any_split() -> None:
    with pytest.raises(InputError, match="test question"):
        build_arms([QUESTION.model_copy(update={"split": "test"})], [], [], BuildSettings())


def test_a_trial_on_test_questions_is_marked_in_every_example() -> None:
    question = QUESTION.model_copy(update={"split": "test"})
    arms = build_arms([question], [CORRECTION], [], BuildSettings(allow_test=True))
    assert all("never_report" in example.source for examples in arms.values() for example in examples)
    assert count_examples(arms)["cot"]["never_report"] == 2


@pytest.mark.parametrize("verdict", ["rejected", "failed"])
def test_a_correction_that_was_not_accepted_is_refused(verdict: str) -> None:
    with pytest.raises(InputError, match=verdict):
        build_arms([QUESTION], [CORRECTION.model_copy(update={"verdict": verdict})], [], BuildSettings())


def test_a_rationale_that_was_not_accepted_is_left_out() -> None:
    rejected = RATIONALE.model_copy(update={"verdict": "rejected"})
    assert len(build_arms([QUESTION], [], [rejected], BuildSettings())["cot"]) == 1


def test_a_missing_question_is_an_error() -> None:
    with pytest.raises(InputError, match="question q is not among"):
        build_arms([], [CORRECTION], [], BuildSettings())


def test_a_question_without_a_gold_rationale_gives_its_corrections_only() -> None:
    bare = QUESTION.model_copy(update={"gold_rationale": None})
    arms = build_arms([bare], [CORRECTION], [], BuildSettings())
    assert [len(examples) for examples in arms.values()] == [1, 1]


def test_choices_stand_in_the_correction_prompt() -> None:
    question = QUESTION.model_copy(update={"choices": ["14", "9"], "gold_answer": "A"})
    arms = build_arms([question], [CORRECTION], [], BuildSettings())
    assert "\nCandidate Answers: (A) 14, (B) 9\nOriginal Solution: {" in arms["lema"][-1].prompt
