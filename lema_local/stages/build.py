"""Stage 5: build the training files of the arms, comparable by construction.

Reads   questions, accepted corrections, accepted further rationales, test questions
Writes  cot                gold and further rationales, and each corrected solution as a plain rationale
        lema               the same with each correction in the place of its corrected solution
        cot_unmatched      on request: gold and further rationales alone, the paper's main table (its table 1)
        certificates       what the arms share with the test questions, and what of it was removed

`cot` and `lema` so hold the same questions, in the same order, as often (the control of arXiv 2310.20689, figure 4);
whatever differs between them is what the corrections bring. What is removed for contamination is removed from all.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lema_local.arithmetic import strip_marks
from lema_local.contamination import KINDS, Certificate, Hit, Kind, Text, find_hits
from lema_local.corrections import choose_nested
from lema_local.datasets.table import is_held_out
from lema_local.errors import InputError
from lema_local.jsonl import write_records
from lema_local.prompts import (
    CORRECTION_CUES,
    CotPrompt,
    format_choices,
    format_correction_parts,
    load_cot_prompt,
)
from lema_local.records import Correction, Question, Rationale, TrainingExample
from lema_local.runs import fingerprint, hash_file, write_text
from lema_local.steps import number_steps, split_steps, state_answer, states_answer

Arm = Literal["cot", "lema", "cot_unmatched"]
MATCHED: tuple[Arm, ...] = ("cot", "lema")
UNMATCHED: Arm = "cot_unmatched"
Part = Literal["step", "explanation", "solution"]
PARTS: tuple[Part, ...] = ("step", "explanation", "solution")
Measure = Callable[[str], int]
"""How long a completion is: in trained tokens, or in characters."""
MAX_LISTED = 1000

_INSTRUCTION = "For the following {kind}, the original solution is incorrect."
"""Of a correction example's prompt; it asserts the mistake, the teacher's prompt only allows for one."""


class BuildSettings(BaseModel):
    """What the training files hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: Literal["examples", "tokens", "characters", "none"] = "examples"
    """What `cot` and `lema` have in common. examples: as many in each. tokens: as many trained tokens by the student's
    own tokenizer; the shorter arm is filled up by repeating examples of its own, and its optimizer steps hold more of
    them, so that steps, passes and tokens are equal. characters: the same without a tokenizer. none: no corrected
    solutions in `cot`, as in the paper's main table."""
    layout: Literal["numbered", "prose"] = "numbered"
    """numbered: `Step k:` lines. prose: one paragraph, the paper's for plain rationales."""
    leave_out: list[Part] = []
    """The paper's ablations (its figure 12): corrections without the incorrect `step`, without the `explanation`,
    without the corrected `solution`."""
    cot_prompt: str = "cot-zero-shot"
    """The prompt that plain rationales answer, in training and in the evaluation."""
    remove_contaminated: list[Kind] = Field(default_factory=lambda: list(KINDS))
    """Kinds of overlap with a test question for which a training question is left out: `exact` (the same text),
    `numbers` (the same but for its numbers), `ngram` (13 words in a row); the others are only listed."""
    max_corrections: int | None = Field(default=None, ge=1)
    """Build from so many of the accepted corrections, chosen by a hash: a smaller number's are among a larger one's.
    None: all."""
    allow_test: bool = False
    """Build from test questions too; every example is then marked: no result of it may be reported."""
    seed: int = 0
    """Chooses the examples that `match: tokens` repeats."""

    @field_validator("leave_out")
    @classmethod
    def _keep_something(cls, parts: list[Part]) -> list[Part]:
        if set(parts) >= set(PARTS):
            raise ValueError("all parts of a correction are left out; leave at least one")
        return parts


def build_arms(
    questions: Iterable[Question],
    accepted: Iterable[Correction],
    rationales: Iterable[Rationale],
    settings: BuildSettings,
    arms: Sequence[Arm] = MATCHED,
) -> dict[Arm, list[TrainingExample]]:
    """Return the examples of each arm, not yet cleared of test questions nor matched in length.

    Args:
        questions: All that may be trained on; gold rationales are taken from these.
        accepted: Corrections that passed the filter.
        rationales: Further rationales; those that were not accepted are left out.
        settings: Matching and layout.
        arms: Which.

    Raises:
        InputError: If test questions are among them, a record's question is missing, a correction was rejected, or
            there is nothing to train on.
        PromptError: If the prompt cannot be loaded.
    """
    by_id = {question.id: question for question in questions}
    accepted = choose_nested(accepted, settings.max_corrections)
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
        corrections.append(_build_correction(question, correction, settings))
    plain = [] if settings.match == "none" else corrected
    own: dict[Arm, list[TrainingExample]] = {"cot": plain, "lema": corrections, "cot_unmatched": []}
    built = {arm: shared + own[arm] for arm in arms}
    if not any(built.values()):
        raise InputError(
            "there is nothing to train on: no gold rationale, no accepted rationale and no accepted correction",
            hint="more samples a question find more mistakes; gold_rationale in --map names your own rationales",
        )
    if any(map(is_held_out, by_id.values())):
        built = {arm: [_mark_test(example) for example in examples] for arm, examples in built.items()}
    return built


def match_arms(
    arms: Mapping[Arm, list[TrainingExample]], settings: BuildSettings, measure: Measure = len
) -> dict[Arm, list[TrainingExample]]:
    """Return the arms with `cot` and `lema` of equal length, where the settings ask for it.

    Args:
        arms: As `remove_contaminated` leaves them.
        settings: What is matched.
        measure: Trained tokens of a completion where tokens are matched; characters by default.
    """
    if settings.match not in ("tokens", "characters"):
        return dict(arms)
    matched = {arm: arms[arm] for arm in MATCHED if arm in arms}
    return {**arms, **_fill_up(matched, settings.seed, measure)}


def remove_contaminated(
    arms: Mapping[Arm, list[TrainingExample]],
    questions: Iterable[Question],
    test: Sequence[Question],
    settings: BuildSettings,
) -> tuple[dict[Arm, list[TrainingExample]], dict[Arm, Certificate]]:
    """Return the arms without what they share with test questions, and what is to be said of each.

    A question is left out with all that was made of it, from every arm: matched arms stay matched. The certificates
    lack the hash of the file, which is not written yet.

    Raises:
        InputError: If nothing is left to train on.
    """
    known = {question.id: question.question for question in questions}
    hits = find_hits(_list_texts(arms, known), test)
    # A trial on test questions would lose them all; its examples are marked instead.
    removing: list[Kind] = [] if settings.allow_test else settings.remove_contaminated
    left_out = {hit.question_id for hit in hits if hit.kind in removing}
    kept = {arm: [one for one in some if one.question_id not in left_out] for arm, some in arms.items()}
    if not all(kept.values()) and all(arms.values()):
        raise InputError(
            f"all training questions share their text with test questions, the first is {hits[0].question_id}"
            f" (= {hits[0].test_id})",
            hint="train on other questions, or set build.remove_contaminated to the kinds that shall be removed",
        )
    test_sets = Counter(f"{one.dataset}/{one.split}" for one in test)
    test_mark = fingerprint({one.id: one.question for one in test})
    certificates = {}
    for arm, examples in arms.items():
        ids = {one.question_id for one in examples}
        own = [hit for hit in hits if hit.question_id in ids]
        certificates[arm] = Certificate(
            file=f"{arm}.jsonl",
            sha256="",
            examples=len(kept[arm]),
            questions=len(ids - left_out),
            test_sets=dict(test_sets),
            test_sha256=test_mark,
            removing=removing,
            removed_examples=len(examples) - len(kept[arm]),
            removed_questions=len(ids & left_out),
            found=_count_kinds(own),
            left=_count_kinds(hit for hit in own if hit.question_id not in left_out),
            hits=own[:MAX_LISTED],
        )
    return kept, certificates


def write_arms(
    folder: Path, arms: Mapping[Arm, Sequence[TrainingExample]], certificates: Mapping[Arm, Certificate]
) -> None:
    """Write each arm's training file, and beside it what its certificate says, with the file's hash."""
    for arm, examples in arms.items():
        path = folder / f"{arm}.jsonl"
        write_records(path, examples)
        if arm in certificates:
            whole = certificates[arm].model_copy(
                update={"sha256": hash_file(path), "examples": len(examples)}
            )
            write_text(folder / f"{arm}.contamination.json", whole.model_dump_json(indent=2) + "\n")


def _list_texts(
    arms: Mapping[Arm, Iterable[TrainingExample]], questions: Mapping[str, str]
) -> Iterator[Text]:
    """Yield each trained question and each completion once."""
    examples = {example.id: example for some in arms.values() for example in some}
    for question_id in dict.fromkeys(example.question_id for example in examples.values()):
        yield Text(question_id, "question", questions[question_id])
    seen: set[tuple[str, str]] = set()
    for example in examples.values():
        key = (example.question_id, example.completion)
        if key not in seen:
            seen.add(key)
            yield Text(example.question_id, "completion", example.completion)


def _count_kinds(hits: Iterable[Hit]) -> dict[Kind, int]:
    """Return distinct training questions by kind of hit."""
    by_kind: dict[Kind, set[str]] = {kind: set() for kind in KINDS}
    for hit in hits:
        by_kind[hit.kind].add(hit.question_id)
    return {kind: len(ids) for kind, ids in by_kind.items()}


def build_held_out(questions: Iterable[Question], settings: BuildSettings) -> list[TrainingExample]:
    """Return the gold rationales of held-out questions as examples to look at on the way, the same for each arm."""
    by_id = {question.id: question for question in questions}
    return _build_shared(by_id, [], load_cot_prompt(settings.cot_prompt), settings)


def count_examples(
    arms: Mapping[Arm, Sequence[TrainingExample]], measure: Measure | None = None
) -> dict[str, dict[str, int]]:
    """Return by arm: examples by what they were made from, words and characters of all completions.

    Args:
        arms: Their examples.
        measure: Counts a completion's trained tokens; None: they are not counted.
    """
    counts = {arm: _count_arm(examples) for arm, examples in arms.items()}
    if measure is not None:
        for arm, examples in arms.items():
            counts[arm]["completion_tokens"] = sum(measure(one.completion) for one in examples)
    return {str(arm): count for arm, count in counts.items()}


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
            f"{len(found)} test question(s) (or of a validation split) among those to be trained on, "
            f"the first is {found[0]}",
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


def _build_correction(question: Question, correction: Correction, settings: BuildSettings) -> TrainingExample:
    """Layout: arXiv 2310.20689, appendix B.2 and figure 6; the first cue belongs to the prompt, `...` to the target."""
    asked = f"Question: {question.question}\n"
    if question.choices:
        asked += f"Candidate Answers: {format_choices(question.choices)}\n"
    original = number_steps(correction.original_steps)
    kind = "multiple-choice question" if question.choices else "math problem"
    kept = [part for part in PARTS if part not in settings.leave_out]
    texts = format_correction_parts(
        correction.incorrect_step or 1,
        correction.explanation or "",
        split_steps(correction.corrected_solution or ""),
    )
    answer = "\n".join([texts[kept[0]], *(f"{CORRECTION_CUES[part]} {texts[part]}" for part in kept[1:])])
    return TrainingExample(
        id=f"{_name(correction)}/correction",
        kind="correction",
        prompt=f"{_INSTRUCTION.format(kind=kind)} {_ask_for(kept)}\n{asked}Original Solution: {{\n{original}\n}}\n"
        f"{CORRECTION_CUES[kept[0]]}",
        completion=f" {answer}",
        question_id=question.id,
        source={"kind": "correction", "record": correction.model_dump()},
    )


def _ask_for(parts: Sequence[Part]) -> str:
    """Return the instruction's second sentence: `Identify the incorrect step, explain ..., and correct ...`."""
    that = "that step" if "step" in parts else "the incorrect step"
    it = "it is incorrect" if "step" in parts else "the solution is incorrect"
    words = {
        "step": "identify the incorrect step",
        "explanation": f"explain why {it}",
        "solution": f"correct the solution starting from {that}",
    }
    *first, last = [words[part] for part in parts]
    joint = ", and " if len(first) > 1 else " and "
    sentence = f"{', '.join(first)}{joint}{last}." if first else f"{last}."
    return sentence[0].upper() + sentence[1:]


def _name(correction: Correction) -> str:
    path = f"{correction.question_id}/{correction.student}/{correction.sample_index}"
    return f"{path}/{correction.teacher}/{correction.attempt}"


def _join_prose(steps: Sequence[str]) -> str:
    return " ".join(step if step.endswith((".", "!", "?")) else f"{step}." for step in steps)


# --- arms ---------------------------------------------------------------------------------------------------


def _fill_up(
    arms: Mapping[Arm, list[TrainingExample]], seed: int, measure: Measure
) -> dict[Arm, list[TrainingExample]]:
    """Repeat examples of the shorter arm until its completions are together as long as the longer one's."""
    sizes = {arm: [measure(example.completion) for example in examples] for arm, examples in arms.items()}
    goal = max(map(sum, sizes.values()))
    return {
        arm: [*examples, *_repeat(examples, sizes[arm], goal - sum(sizes[arm]), seed)]
        for arm, examples in arms.items()
    }


def _repeat(
    examples: Sequence[TrainingExample], sizes: Sequence[int], missing: int, seed: int
) -> list[TrainingExample]:
    repeated: list[TrainingExample] = []
    order = list(zip(examples, sizes, strict=True))
    turn = 0
    while order and missing > 0:
        turn += 1
        random.Random(f"{seed}/{turn}").shuffle(order)
        for example, size in order:
            # Stop where one more would lead further from the goal than leaving it out.
            if size > 2 * missing:
                return repeated
            repeated.append(example.model_copy(update={"id": f"{example.id}/repeat-{turn}"}))
            missing -= size
            if missing <= 0:
                break
    return repeated


def _mark_test(example: TrainingExample) -> TrainingExample:
    mark = "built from test questions: no result of a training on it may be reported"
    return example.model_copy(update={"source": {**example.source, "never_report": mark}})
