"""Stage 5: build the training files of the arms, comparable by construction.

Reads   questions, accepted corrections, accepted further rationales
Writes  cot                gold and further rationales, and each corrected solution as a plain rationale
        lema               the same with each correction in the place of its corrected solution

Both arms so hold the same questions, in the same order, as often (the control of arXiv 2310.20689, figure 4);
whatever differs between them is what the corrections bring.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lema_local.arithmetic import strip_marks
from lema_local.datasets.table import is_held_out
from lema_local.errors import InputError
from lema_local.prompts import CotPrompt, format_choices, format_correction, load_cot_prompt
from lema_local.records import Correction, Question, Rationale, TrainingExample
from lema_local.steps import number_steps, split_steps, state_answer, states_answer

Arm = Literal["cot", "lema"]
ARMS: tuple[Arm, ...] = ("cot", "lema")

INSTRUCTION = (
    "For the following math problem, the original solution is incorrect. Identify the incorrect step, explain why it"
    " is incorrect, and correct the solution starting from that step."
)
"""Of a correction example's prompt; it asserts the mistake, the teacher's prompt only allows for one."""


class BuildSettings(BaseModel):
    """What the training files hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: Literal["examples", "tokens", "none"] = "examples"
    """examples: as many in each arm. tokens: the shorter arm is filled up by repeating examples of its own until
    its completions are as long (in characters; training counts the tokens). none: no corrected solutions in `cot`,
    as in the paper's main table."""
    layout: Literal["numbered", "prose"] = "numbered"
    """numbered: `Step k:` lines. prose: one paragraph, the paper's for plain rationales."""
    cot_prompt: str = "cot-zero-shot"
    """The prompt that plain rationales answer, in training and in the evaluation."""
    allow_test: bool = False
    """Build from test questions too; every example is then marked: no result of it may be reported."""
    seed: int = 0
    """Chooses the examples that `match: tokens` repeats."""


def build_arms(
    questions: Iterable[Question],
    accepted: Iterable[Correction],
    rationales: Iterable[Rationale],
    settings: BuildSettings,
) -> dict[Arm, list[TrainingExample]]:
    """Return the examples of each arm.

    Args:
        questions: All that may be trained on; gold rationales are taken from these.
        accepted: Corrections that passed the filter.
        rationales: Further rationales; those that were not accepted are left out.
        settings: Matching and layout.

    Raises:
        InputError: If test questions are among them, a record's question is missing, or a correction was rejected.
        PromptError: If the prompt cannot be loaded.
    """
    by_id = {question.id: question for question in questions}
    if not settings.allow_test:
        _refuse_test(by_id.values())
    prompt = load_cot_prompt(settings.cot_prompt)
    shared = _build_shared(by_id, rationales, prompt, settings)
    corrected: list[TrainingExample] = []
    corrections: list[TrainingExample] = []
    for correction in accepted:
        question = _find_question(by_id, correction.question_id)
        _require_accepted(correction)
        corrected.append(_build_corrected(question, correction, prompt, settings))
        corrections.append(_build_correction(question, correction))
    plain = [] if settings.match == "none" else corrected
    arms: dict[Arm, list[TrainingExample]] = {"cot": shared + plain, "lema": shared + corrections}
    if settings.match == "tokens":
        arms = _fill_up(arms, settings.seed)
    if any(map(is_held_out, by_id.values())):
        arms = {arm: [_mark_test(example) for example in examples] for arm, examples in arms.items()}
    return arms


def build_held_out(questions: Iterable[Question], settings: BuildSettings) -> list[TrainingExample]:
    """Return the gold rationales of held-out questions as examples to look at on the way, the same for each arm."""
    by_id = {question.id: question for question in questions}
    return _build_shared(by_id, [], load_cot_prompt(settings.cot_prompt), settings)


def count_examples(arms: Mapping[Arm, Sequence[TrainingExample]]) -> dict[str, dict[str, int]]:
    """Return by arm: examples by what they were made from, words and characters of all completions."""
    return {arm: _count_arm(examples) for arm, examples in arms.items()}


def _count_arm(examples: Sequence[TrainingExample]) -> dict[str, int]:
    origins = [str(example.source["kind"]) for example in examples]
    return {
        "examples": len(examples),
        **{origin: origins.count(origin) for origin in ("gold", "rationale", "corrected", "correction")},
        "questions": len({example.question_id for example in examples}),
        "repeated": sum("/repeat-" in example.id for example in examples),
        "completion_words": sum(len(example.completion.split()) for example in examples),
        "completion_characters": sum(len(example.completion) for example in examples),
        "never_report": sum("never_report" in example.source for example in examples),
    }


def _refuse_test(questions: Iterable[Question]) -> None:
    found = [question.id for question in questions if is_held_out(question)]
    if found:
        raise InputError(
            f"{len(found)} test question(s) among those to be trained on, the first is {found[0]}",
            hint="train on another split; --allow-test builds a trial that may never be reported on",
        )


def _find_question(by_id: Mapping[str, Question], question_id: str) -> Question:
    if question_id not in by_id:
        raise InputError(
            f"question {question_id} is not among the questions", hint="give the questions sampled on"
        )
    return by_id[question_id]


def _require_accepted(correction: Correction) -> None:
    if correction.verdict != "accepted" or correction.incorrect_step is None:
        raise InputError(
            f"the correction of {correction.question_id}, sample {correction.sample_index}, is {correction.verdict}",
            hint="`lema filter` writes the accepted ones into a file of their own",
        )


# --- examples -----------------------------------------------------------------------------------------------


def _build_shared(
    by_id: Mapping[str, Question], rationales: Iterable[Rationale], prompt: CotPrompt, settings: BuildSettings
) -> list[TrainingExample]:
    """The examples that both arms hold: gold rationales, then further ones."""
    examples = []
    for question in by_id.values():
        if question.gold_rationale:
            steps = split_steps(strip_marks(question.gold_rationale))
            source = {"kind": "gold", "record": question.model_dump()}
            examples.append(_build_cot(f"{question.id}/gold", question, steps, source, prompt, settings))
    for rationale in rationales:
        question = _find_question(by_id, rationale.question_id)
        if rationale.verdict != "accepted":
            continue
        name = f"{question.id}/rationale/{rationale.teacher}/{rationale.attempt}"
        source = {"kind": "rationale", "record": rationale.model_dump()}
        examples.append(_build_cot(name, question, split_steps(rationale.text), source, prompt, settings))
    return examples


def _build_cot(
    name: str,
    question: Question,
    steps: Sequence[str],
    source: dict[str, Any],
    prompt: CotPrompt,
    settings: BuildSettings,
) -> TrainingExample:
    if not steps or not states_answer(steps[-1]):
        steps = [*steps, state_answer(question.gold_answer)]
    text = prompt.render(question, "completion")
    assert isinstance(text, str)  # a completion prompt is text
    completion = number_steps(steps) if settings.layout == "numbered" else _join_prose(steps)
    return TrainingExample(
        id=name, kind="cot", prompt=text, completion=completion, question_id=question.id, source=source
    )


def _build_corrected(
    question: Question, correction: Correction, prompt: CotPrompt, settings: BuildSettings
) -> TrainingExample:
    """The correction as a plain rationale: its unchanged first steps, then the corrected ones."""
    first = correction.original_steps[: (correction.incorrect_step or 1) - 1]
    steps = [*first, *split_steps(correction.corrected_solution or "")]
    source = {"kind": "corrected", "record": correction.model_dump()}
    return _build_cot(f"{_name(correction)}/corrected", question, steps, source, prompt, settings)


def _build_correction(question: Question, correction: Correction) -> TrainingExample:
    """Layout: arXiv 2310.20689, appendix B.2 and figure 6; the cue belongs to the prompt, `...` to the target."""
    asked = f"Question: {question.question}\n"
    if question.choices:
        asked += f"Candidate Answers: {format_choices(question.choices)}\n"
    original = number_steps(correction.original_steps)
    answer = format_correction(
        correction.incorrect_step or 1,
        correction.explanation or "",
        split_steps(correction.corrected_solution or ""),
    )
    return TrainingExample(
        id=f"{_name(correction)}/correction",
        kind="correction",
        prompt=f"{INSTRUCTION}\n{asked}Original Solution: {{\n{original}\n}}\nIncorrect Step:",
        completion=f" {answer}",
        question_id=question.id,
        source={"kind": "correction", "record": correction.model_dump()},
    )


def _name(correction: Correction) -> str:
    path = f"{correction.question_id}/{correction.student}/{correction.sample_index}"
    return f"{path}/{correction.teacher}/{correction.attempt}"


def _join_prose(steps: Sequence[str]) -> str:
    return " ".join(step if step.endswith((".", "!", "?")) else f"{step}." for step in steps)


# --- arms ---------------------------------------------------------------------------------------------------


def _fill_up(arms: Mapping[Arm, list[TrainingExample]], seed: int) -> dict[Arm, list[TrainingExample]]:
    """Repeat examples of the shorter arm until its completions have as many characters as the longer one's."""
    sizes = {arm: sum(len(example.completion) for example in examples) for arm, examples in arms.items()}
    goal = max(sizes.values())
    return {arm: [*examples, *_repeat(examples, goal - sizes[arm], seed)] for arm, examples in arms.items()}


def _repeat(examples: Sequence[TrainingExample], missing: int, seed: int) -> list[TrainingExample]:
    repeated: list[TrainingExample] = []
    order = list(examples)
    turn = 0
    while order and missing > 0:
        turn += 1
        random.Random(f"{seed}/{turn}").shuffle(order)
        for example in order:
            # Stop where one more would lead further from the goal than leaving it out.
            if len(example.completion) > 2 * missing:
                return repeated
            repeated.append(example.model_copy(update={"id": f"{example.id}/repeat-{turn}"}))
            missing -= len(example.completion)
            if missing <= 0:
                break
    return repeated


def _mark_test(example: TrainingExample) -> TrainingExample:
    mark = "built from test questions: no result of a training on it may be reported"
    return example.model_copy(update={"source": {**example.source, "never_report": mark}})
