"""Building the arms: exact formats, and fair by construction."""

from __future__ import annotations

from pathlib import Path

import pytest

from lema_local.contamination import Certificate
from lema_local.errors import InputError
from lema_local.records import Correction, Question, Rationale
from lema_local.runs import hash_file
from lema_local.stages.build import (
    BuildSettings,
    build_arms,
    count_examples,
    match_arms,
    remove_contaminated,
    write_arms,
)

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


def _many(count: int) -> tuple[list[Question], list[Correction]]:
    questions = [QUESTION.model_copy(update={"id": f"q{n}"}) for n in range(count)]
    return questions, [CORRECTION.model_copy(update={"question_id": f"q{n}"}) for n in range(count)]


@pytest.mark.parametrize("match", ["tokens", "characters"])
def test_arms_matched_in_length_are_about_as_long(match: str) -> None:
    questions, corrections = _many(40)
    settings = BuildSettings.model_validate({"match": match})
    measure = (lambda text: len(text.split()) + 1) if match == "tokens" else len
    built = build_arms(questions, corrections, [], settings)
    arms = match_arms(built, settings, measure)
    cot, lema = (sum(measure(one.completion) for one in arms[arm]) for arm in ("cot", "lema"))
    assert abs(cot - lema) <= max(measure(one.completion) for one in arms["cot"]) / 2
    counts = count_examples(arms, measure)
    assert counts["cot"]["completion_tokens"] == cot
    assert counts["cot"]["repeated"] == counts["cot"]["examples"] - 80 > 0
    assert counts["lema"]["repeated"] == 0
    ids = [example.id for example in arms["cot"]]
    assert len(ids) == len(set(ids))
    assert arms == match_arms(built, settings, measure)


def test_arms_matched_in_examples_are_left_as_they_are() -> None:
    built = build_arms(*_many(3), [], BuildSettings())
    assert match_arms(built, BuildSettings()) == built


def test_the_third_arm_is_the_papers_main_table() -> None:
    arms = build_arms(
        [QUESTION], [CORRECTION], [RATIONALE], BuildSettings(), ("cot", "lema", "cot_unmatched")
    )
    assert [example.id for example in arms["cot_unmatched"]] == ["q/gold", "q/rationale/t/1"]
    assert arms["cot_unmatched"] == arms["lema"][:2]


@pytest.mark.parametrize(
    ("left_out", "asked", "cue", "completion"),
    [
        (
            ["step"],
            "Explain why the solution is incorrect and correct the solution starting from the incorrect step.",
            "Explanation:",
            " They double.\nCorrect Solution: {\n...\nStep 2: It is 7*2=14.\nStep 3: The answer is 14.\n}",
        ),
        (
            ["explanation"],
            "Identify the incorrect step and correct the solution starting from that step.",
            "Incorrect Step:",
            " Step 2.\nCorrect Solution: {\n...\nStep 2: It is 7*2=14.\nStep 3: The answer is 14.\n}",
        ),
        (
            ["solution"],
            "Identify the incorrect step and explain why it is incorrect.",
            "Incorrect Step:",
            " Step 2.\nExplanation: They double.",
        ),
        (
            ["step", "explanation"],
            "Correct the solution starting from the incorrect step.",
            "Correct Solution:",
            " {\n...\nStep 2: It is 7*2=14.\nStep 3: The answer is 14.\n}",
        ),
    ],
)
def test_an_ablation_leaves_a_part_out_of_prompt_and_completion(
    left_out: list[str], asked: str, cue: str, completion: str
) -> None:
    settings = BuildSettings.model_validate({"leave_out": left_out})
    example = build_arms([QUESTION], [CORRECTION], [], settings)["lema"][-1]
    assert f"the original solution is incorrect. {asked}\nQuestion: " in example.prompt
    assert example.prompt.endswith(f"}}\n{cue}")
    assert example.completion == completion
    assert (
        build_arms([QUESTION], [CORRECTION], [], settings)["cot"]
        == (build_arms([QUESTION], [CORRECTION], [], BuildSettings())["cot"])
    )


def test_a_correction_without_any_part_is_refused() -> None:
    with pytest.raises(ValueError, match="leave at least one"):
        BuildSettings.model_validate({"leave_out": ["step", "explanation", "solution"]})


def test_nothing_to_train_on_is_said() -> None:
    with pytest.raises(InputError, match="nothing to train on"):
        build_arms([QUESTION.model_copy(update={"gold_rationale": None})], [], [], BuildSettings())


def test_a_contaminated_question_leaves_every_arm_with_all_that_was_made_of_it() -> None:
    other = QUESTION.model_copy(update={"id": "r", "question": "What is three and four, doubled, then?"})
    test = [other.model_copy(update={"id": "t", "split": "test", "question": QUESTION.question.upper()})]
    questions = [QUESTION, other]
    built = build_arms(questions, [CORRECTION], [RATIONALE], BuildSettings())
    kept, certificates = remove_contaminated(built, questions, test, BuildSettings())
    assert {arm: [one.id for one in some] for arm, some in kept.items()} == {
        "cot": ["r/gold"],
        "lema": ["r/gold"],
    }
    found = certificates["lema"]
    assert found.found == {"exact": 1, "numbers": 0, "ngram": 0}  # the question has twelve words
    assert found.left == {"exact": 0, "numbers": 0, "ngram": 0}
    assert (found.removed_examples, found.removed_questions, found.examples) == (3, 1, 1)
    assert found.test_sets == {"gsm8k/test": 1}
    assert "none shares its text" in found.sentence


def test_hits_are_only_listed_on_request() -> None:
    test = [QUESTION.model_copy(update={"id": "t", "split": "test"})]
    settings = BuildSettings(remove_contaminated=[])
    built = build_arms([QUESTION], [CORRECTION], [], settings)
    kept, certificates = remove_contaminated(built, [QUESTION], test, settings)
    assert kept == built
    assert certificates["cot"].left["exact"] == 1
    first = certificates["cot"].hits[0]
    assert (first.question_id, first.kind, first.test_id) == ("q", "exact", "t")
    assert "1 word for word" in certificates["cot"].sentence


def test_training_files_of_nothing_but_test_questions_are_refused() -> None:
    test = [QUESTION.model_copy(update={"id": "t", "split": "test"})]
    built = build_arms([QUESTION], [CORRECTION], [], BuildSettings())
    with pytest.raises(InputError, match="all training questions share their text"):
        remove_contaminated(built, [QUESTION], test, BuildSettings())


def test_the_certificate_lies_beside_its_file_with_the_files_hash(tmp_path: Path) -> None:
    built = build_arms([QUESTION], [CORRECTION], [], BuildSettings())
    arms, certificates = remove_contaminated(built, [QUESTION], [], BuildSettings())
    write_arms(tmp_path, arms, certificates)
    for arm in ("cot", "lema"):
        certificate = Certificate.model_validate_json((tmp_path / f"{arm}.contamination.json").read_text())
        assert certificate.sha256 == hash_file(tmp_path / f"{arm}.jsonl")


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
