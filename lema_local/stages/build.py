"""Stage 5: build the training files of the arms, comparable by construction.

Reads   questions, accepted corrections, accepted further rationales, right paths, test questions
Writes  cot                gold and further rationales, and each corrected solution as a plain rationale
        lema, ...          the same with each correction in the place of its corrected solution, in the arm's format
        cot_unmatched      on request: gold and further rationales alone, the paper's main table (its table 1)
        preference         pairs alone: each correction against its mistake
        certificates       what the arms share with the test questions, and what of it was removed

`cot` and `lema` so hold the same questions, in the same order, as often (the control of arXiv 2310.20689, figure 4);
whatever differs between them is what the corrections bring. What is removed for contamination is removed from all.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from lema_local.arithmetic import strip_marks
from lema_local.contamination import KINDS, Certificate, Hit, Kind, Text, find_hits
from lema_local.corrections import choose_nested
from lema_local.datasets.table import is_held_out
from lema_local.errors import InputError
from lema_local.formats import FORMATS, Arm, FormatSettings, render_rationale
from lema_local.formats.base import source_of
from lema_local.jsonl import write_records
from lema_local.prompts import CotPrompt, load_cot_prompt
from lema_local.records import (
    AnyExample,
    Correction,
    Question,
    Rationale,
    ReasoningPath,
    TrainingExample,
)
from lema_local.runs import fingerprint, hash_file, write_text
from lema_local.steps import split_steps

MATCHED: tuple[Arm, ...] = tuple(arm for arm, one in FORMATS.items() if one.render and one.has_shared)
"""Arms that hold the same plain rationales and an example for each correction: these are made comparable."""
ALWAYS: tuple[Arm, ...] = ("cot", "lema")
"""Arms whose files every run has."""
Built = dict[Arm, list[AnyExample]]
Measure = Callable[[str], int]
"""How long a completion is: in trained tokens, or in characters."""
MAX_LISTED = 1000


class BuildSettings(FormatSettings):
    """What the training files hold."""

    match: Literal["examples", "tokens", "characters", "none"] = "examples"
    """What `cot` and the arms of corrections have in common. examples: as many in each. tokens: as many trained tokens
    by the student's own tokenizer; shorter arms are filled up by repeating examples of their own, and their optimizer
    steps hold more of them, so that steps, passes and tokens are equal. characters: the same without a tokenizer. none:
    no corrected solutions in `cot`, as in the paper's main table."""
    remove_contaminated: list[Kind] = Field(default_factory=lambda: list(KINDS))
    """Kinds of overlap with a test question for which a training question is left out: `exact` (the same text),
    `numbers` (the same but for its numbers), `ngram` (13 words in a row); the others are only listed."""
    max_corrections: int | None = Field(default=None, ge=1)
    """Build from so many of the accepted corrections, chosen by a hash: a smaller number's are among a larger one's.
    None: all."""
    allow_test: bool = False
    """Build from test questions too; every example is then marked: no result of it may be reported."""
    seed: int = 0
    """Chooses the examples that `match: tokens` repeats, and the right paths of `critique`."""


def build_arms(
    questions: Iterable[Question],
    accepted: Iterable[Correction],
    rationales: Iterable[Rationale],
    settings: BuildSettings,
    arms: Sequence[Arm] = ALWAYS,
    right_paths: Iterable[ReasoningPath] = (),
) -> Built:
    """Return the examples of each arm, not yet cleared of test questions nor matched in length.

    Args:
        questions: All that may be trained on; gold rationales are taken from these.
        accepted: Corrections that passed the filter.
        rationales: Further rationales; those that were not accepted are left out.
        settings: Matching and layout.
        arms: Which.
        right_paths: Sampled paths, for formats that show right solutions too; the wrong ones are left out.

    Raises:
        InputError: If test questions are among them, a record's question is missing, a correction was rejected,
            there is nothing to train on, or a format needs right paths and there are none.
        PromptError: If the prompt cannot be loaded.
    """
    by_id = {question.id: question for question in questions}
    accepted = choose_nested(accepted, settings.max_corrections)
    if not settings.allow_test:
        _refuse_test(by_id.values())
    prompt = load_cot_prompt(settings.cot_prompt)
    corrections = [(_find_question(by_id, one.question_id), one) for one in accepted]
    for _, correction in corrections:
        _require_accepted(correction)
    shared = _build_shared(by_id, rationales, prompt, settings)
    built = {
        arm: [*(shared if FORMATS[arm].has_shared else ()), *_build_own(arm, corrections, prompt, settings)]
        for arm in arms
    }
    for arm in arms if corrections else ():
        built[arm] += _build_right(arm, right_paths, by_id, settings, len(corrections))
    _require_examples(built)
    if any(map(is_held_out, by_id.values())):
        return {arm: [_mark_test(example) for example in examples] for arm, examples in built.items()}
    return built


def match_arms(arms: Built, settings: BuildSettings, measure: Measure = len) -> Built:
    """Return the arms with those that can be compared of equal length, where the settings ask for it.

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
    arms: Built, questions: Iterable[Question], test: Sequence[Question], settings: BuildSettings
) -> tuple[Built, dict[Arm, Certificate]]:
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
    folder: Path, arms: Mapping[Arm, Sequence[AnyExample]], certificates: Mapping[Arm, Certificate]
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


def _list_texts(arms: Mapping[Arm, Iterable[AnyExample]], questions: Mapping[str, str]) -> Iterator[Text]:
    """Yield each trained question and each completion once."""
    examples = {example.id: example for some in arms.values() for example in some}
    for question_id in dict.fromkeys(example.question_id for example in examples.values()):
        yield Text(question_id, "question", questions[question_id])
    seen: set[tuple[str, str]] = set()
    for question_id, target in ((one.question_id, text) for one in examples.values() for text in one.targets):
        if (question_id, target) not in seen:
            seen.add((question_id, target))
            yield Text(question_id, "completion", target)


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
    arms: Mapping[Arm, Sequence[AnyExample]], measure: Measure | None = None
) -> dict[str, dict[str, int]]:
    """Return by arm: examples by what they were made from, words and characters of all completions.

    Args:
        arms: Their examples.
        measure: Counts a completion's trained tokens; None: they are not counted.
    """
    counts = {arm: _count_arm(examples) for arm, examples in arms.items()}
    if measure is not None:
        for arm, examples in arms.items():
            counts[arm]["completion_tokens"] = sum(_measure(one, measure) for one in examples)
    return {str(arm): count for arm, count in counts.items()}


def _count_arm(examples: Sequence[AnyExample]) -> dict[str, int]:
    origins = Counter(str(example.source["kind"]) for example in examples)
    targets = [text for example in examples for text in example.targets]
    return {
        "examples": len(examples),
        **{origin: origins[origin] for origin in ("gold", "rationale", "corrected", "correction")},
        **({"right_path": origins["right_path"]} if origins["right_path"] else {}),
        "questions": len({example.question_id for example in examples}),
        "repeated": sum("/repeat-" in example.id for example in examples),
        "completion_words": sum(len(text.split()) for text in targets),
        "completion_characters": sum(map(len, targets)),
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
            source = source_of("gold", question)
            examples.append(
                render_rationale(f"{question.id}/gold", question, steps, source, prompt, settings)
            )
    for rationale in rationales:
        question = _find_question(by_id, rationale.question_id)
        if rationale.verdict != "accepted":
            continue
        name = f"{question.id}/rationale/{rationale.teacher}/{rationale.attempt}"
        source = source_of("rationale", rationale)
        steps = split_steps(rationale.text)
        examples.append(render_rationale(name, question, steps, source, prompt, settings))
    return examples


def _build_own(
    arm: Arm, corrections: Sequence[tuple[Question, Correction]], prompt: CotPrompt, settings: BuildSettings
) -> list[AnyExample]:
    """An arm's examples of the corrections, one each."""
    render = FORMATS[arm].render
    if render is None or (arm == "cot" and settings.match == "none"):
        return []
    return [render(question, correction, prompt, settings) for question, correction in corrections]


def _build_right(
    arm: Arm,
    paths: Iterable[ReasoningPath],
    by_id: Mapping[str, Question],
    settings: BuildSettings,
    corrections: int,
) -> list[TrainingExample]:
    """An arm's examples of right solutions, where its format has them."""
    render = FORMATS[arm].render_right
    count = corrections if settings.right_paths is None else settings.right_paths
    if render is None or not count:
        return []
    right = [path for path in paths if path.verdict == "correct" and path.question_id in by_id]
    if not right:
        raise InputError(
            f"{arm} needs right paths, and none were kept: without them it would learn that every solution is wrong",
            hint="give the sampled paths (1_sample/paths.jsonl), or build.right_paths: 0 to do without",
        )
    chosen = _spread_over_questions(right, settings.seed)[:count]
    return [render(by_id[path.question_id], path, settings) for path in chosen]


def _spread_over_questions(paths: Sequence[ReasoningPath], seed: int) -> list[ReasoningPath]:
    """Return the paths in an order drawn by lot: one of each question, then a second one, and so on."""
    drawn = sorted(paths, key=lambda path: (path.question_id, path.student, path.sample_index))
    random.Random(f"{seed}/right").shuffle(drawn)
    turns = Counter[str]()
    turn_of = []
    for path in drawn:
        turn_of.append(turns[path.question_id])
        turns[path.question_id] += 1
    return [path for _, path in sorted(zip(turn_of, drawn, strict=True), key=lambda one: one[0])]


def _require_examples(built: Built) -> None:
    if not any(built.values()):
        raise InputError(
            "there is nothing to train on: no gold rationale, no accepted rationale and no accepted correction",
            hint="more samples a question find more mistakes; gold_rationale in --map names your own rationales",
        )
    if empty := [arm for arm, examples in built.items() if not examples and not FORMATS[arm].has_shared]:
        raise InputError(
            f"there is nothing to train {empty[0]} on, since no correction was accepted",
            hint="more samples a question find more mistakes; a stronger teacher corrects more of them",
        )


# --- arms ---------------------------------------------------------------------------------------------------


def _measure(example: AnyExample, measure: Measure) -> int:
    """Return how long the part of an example is that carries loss."""
    masked = example.masked if isinstance(example, TrainingExample) else []
    without = sum(measure(example.targets[0][start:end]) - measure("") for start, end in masked)
    return sum(map(measure, example.targets)) - without


def _fill_up(arms: Built, seed: int, measure: Measure) -> Built:
    """Repeat examples of the shorter arms until their completions are together as long as the longest one's."""
    sizes = {arm: [_measure(example, measure) for example in examples] for arm, examples in arms.items()}
    goal = max(map(sum, sizes.values()))
    return {
        arm: [*examples, *_repeat(examples, sizes[arm], goal - sum(sizes[arm]), seed)]
        for arm, examples in arms.items()
    }


def _repeat(
    examples: Sequence[AnyExample], sizes: Sequence[int], missing: int, seed: int
) -> list[AnyExample]:
    repeated: list[AnyExample] = []
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


def _mark_test(example: AnyExample) -> AnyExample:
    mark = "built from test questions: no result of a training on it may be reported"
    return example.model_copy(update={"source": {**example.source, "never_report": mark}})
