"""Prompts: shipped ones are sound, rendering is exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from lema_local.answers import compare_answers, extract_answer
from lema_local.arithmetic import find_claims
from lema_local.corrections import parse_reply
from lema_local.errors import PromptError
from lema_local.prompts import (
    CorrectionExample,
    CorrectionPrompt,
    CotExample,
    CotPrompt,
    format_choices,
    format_correction,
    list_prompts,
    load_correction_prompt,
    load_cot_prompt,
    load_prompt,
)
from lema_local.records import Question
from lema_local.steps import number_steps, state_answer

QUESTION = Question(
    id="q", dataset="d", split="train", question="What is {steps}?", gold_answer="3", gold_rationale="1+2=3"
)
COT = [
    pytest.param(example, id=f"{name}-{position}")
    for name in list_prompts()
    if isinstance(prompt := load_prompt(name), CotPrompt)
    for position, example in enumerate(prompt.examples)
]
CORRECTIONS = [
    pytest.param(example, id=f"{name}-{position}")
    for name in list_prompts()
    if isinstance(prompt := load_prompt(name), CorrectionPrompt)
    for position, example in enumerate(prompt.examples)
]


def _reaches(steps: list[str], answer: str, choices: list[str] | None) -> bool:
    found = extract_answer(number_steps(steps), choices=choices)
    return found is not None and compare_answers(answer, found, choices=choices).is_equal is True


@pytest.mark.parametrize("example", COT)
def test_a_worked_solution_reaches_its_answer_and_its_arithmetic_holds(example: CotExample) -> None:
    assert _reaches([*example.steps, state_answer(example.answer)], example.answer, example.choices)
    assert all(claim.is_true for step in example.steps for claim in find_claims(step))


@pytest.mark.parametrize("example", CORRECTIONS)
def test_a_worked_correction_turns_a_wrong_solution_into_a_right_one(example: CorrectionExample) -> None:
    first = example.original_steps[: example.incorrect_step - 1]
    assert not _reaches(example.original_steps, example.gold_answer, example.choices)
    assert _reaches([*first, *example.corrected_steps], example.gold_answer, example.choices)


@pytest.mark.parametrize("example", CORRECTIONS)
def test_only_the_named_step_can_be_the_first_wrong_one(example: CorrectionExample) -> None:
    first = example.original_steps[: example.incorrect_step - 1]
    assert all(claim.is_true for step in [*first, *example.corrected_steps] for claim in find_claims(step))
    assert example.corrected_steps[0] != example.original_steps[example.incorrect_step - 1]


@pytest.mark.parametrize("example", CORRECTIONS)
def test_a_worked_correction_is_laid_out_as_the_parser_reads_it(example: CorrectionExample) -> None:
    text = format_correction(example.incorrect_step, example.explanation, example.corrected_steps)
    parsed = parse_reply(text, example.original_steps)
    assert parsed.incorrect_step == parsed.first_label == example.incorrect_step
    assert parsed.corrected_steps == example.corrected_steps


@pytest.mark.parametrize("name", [name for name in list_prompts() if name.startswith("correct-")])
def test_a_correction_prompt_has_four_worked_examples_at_several_steps(name: str) -> None:
    examples = load_correction_prompt(name).examples
    assert len(examples) == 4
    assert len({example.incorrect_step for example in examples}) > 1


def test_the_zero_shot_prompt_is_the_papers() -> None:
    assert load_cot_prompt("cot-zero-shot").render(QUESTION, "completion") == (
        "Please solve the following math problem.\nQuestion: What is {steps}?\nAnswer: Let's think step by step.\n"
    )


def test_a_few_shot_prompt_shows_step_lines_and_ends_before_the_first_step() -> None:
    text = load_cot_prompt("cot-gsm8k").render(QUESTION, "completion")
    assert isinstance(text, str)
    assert 4 <= text.count("Step 1:") <= 8
    assert "\nStep 4: The answer is 56.\n\nQuestion:" in text
    assert text.endswith("\n\nQuestion: What is {steps}?\nAnswer: Let's think step by step.\n")


def test_a_chat_prompt_takes_turns_and_needs_no_system_role() -> None:
    prompt = load_cot_prompt("cot-gsm8k")
    messages = prompt.render(QUESTION, "chat")
    assert not isinstance(messages, str)
    assert [message["role"] for message in messages] == ["user", "assistant"] * len(prompt.examples) + [
        "user"
    ]
    assert messages[0]["content"].startswith(prompt.instruction)
    assert messages[1]["content"].endswith("The answer is 56.")


def test_a_correction_prompt_ends_with_the_cue_and_hides_the_gold() -> None:
    prompt = load_correction_prompt("correct-gsm8k")
    text = prompt.render(QUESTION, ["1+1=2", "The answer is 2."], "completion")
    assert isinstance(text, str)
    assert text.endswith(
        "\n\nQuestion: What is {steps}?\nOriginal Solution: {\nStep 1: 1+1=2\nStep 2: The answer is 2.\n}\n"
        "Incorrect Step:"
    )
    assert "1+2=3" not in text
    assert "}\nIncorrect Step: Step 2.\nExplanation: " in text
    assert "\nCorrect Solution: {\n...\nStep 2: " in text
    assert "\nCorrect Solution: {\nStep 1: " in text


def test_the_gold_rationale_is_shown_only_on_request() -> None:
    prompt = load_correction_prompt("correct-gsm8k")
    messages = prompt.render(QUESTION, ["1+1=2"], "chat", shows_gold=True)
    assert not isinstance(messages, str)
    assert (
        "Reference Solution: {\n1+2=3\n}\nOriginal Solution: {\nStep 1: 1+1=2\n}" in messages[-1]["content"]
    )
    without = QUESTION.model_copy(update={"gold_rationale": None})
    with pytest.raises(PromptError, match="no gold rationale"):
        prompt.render(without, ["1+1=2"], "chat", shows_gold=True)


def test_choices_are_lettered() -> None:
    assert format_choices(["bank", "shop"]) == "(A) bank, (B) shop"
    assert format_choices(None) == ""


OWN = """
kind: cot
name: own
question_format: "Q: {question}\\nA: "
examples:
  - {question: "1+1?", steps: ["1+1=2"], answer: "2"}
"""


def test_a_prompt_of_ones_own_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN, encoding="utf-8")
    prompt = load_cot_prompt(path)
    assert prompt.render(QUESTION, "completion") == (
        "Q: 1+1?\nA: Step 1: 1+1=2\nStep 2: The answer is 2.\n\nQ: What is {steps}?\nA: "
    )


def test_the_fingerprint_follows_the_rendering_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    prints = []
    for text in (OWN, "# a comment\ndescription: words" + OWN, OWN.replace("1+1=2", "1+1 = 2")):
        path.write_text(text, encoding="utf-8")
        prints.append(load_prompt(path).fingerprint)
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot be read as YAML"),
        ("kind: other", "1 problem"),
        (OWN.replace("steps:", "stps:"), r"2 problem\(s\)"),
        ("!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
        ("- 1", "1 problem"),
    ],
)
def test_a_bad_prompt_file_is_told_with_all_its_problems(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PromptError, match=message):
        load_prompt(path)


def test_an_unknown_prompt_names_the_known_ones() -> None:
    with pytest.raises(PromptError, match="no prompt 'cot-gsm9k'") as caught:
        load_prompt("cot-gsm9k")
    assert "cot-gsm8k" in (caught.value.hint or "")


def test_a_prompt_of_the_other_kind_is_refused() -> None:
    with pytest.raises(PromptError, match="for corrections"):
        load_cot_prompt("correct-gsm8k")
    with pytest.raises(PromptError, match="for solutions"):
        load_correction_prompt("cot-gsm8k")
