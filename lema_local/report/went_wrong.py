"""Where arms go wrong, before training and after: the first wrong step, and what kind of mistake it is.

The reference teacher's reading of a solution (`teachers.mistakes`) tells both, from the gold rationale and by
arithmetic alone. It takes milliseconds an answer: where more than 1,500 are wrong, questions are chosen by chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from lema_local.corrections import list_steps
from lema_local.records import Prediction, Question
from lema_local.report.data import KindChange, Outcomes, WrongAnswers, is_base
from lema_local.report.files import RunReader, choose_by_hash, find_questions
from lema_local.report.outcomes import find_base, read_predictions
from lema_local.teachers.explaining import explain_fault
from lema_local.teachers.mistakes import Fault, find_fault
from lema_local.teachers.tracing import read_value

MOST_CLASSIFIED = 1500
"""Wrong answers."""
LONGEST = 6000
"""Characters of an answer that is read."""
UNTOLD = "untold"
KIND_WORDS = {
    "arithmetic": "false arithmetic",
    "leaves_gold": "a wrong computation",
    "leaves_out": "a computation left out",
    "confuses": "a computation for something else",
    "misreads": "something that the problem does not say",
    "equation": "an equation that does not fit",
    "stops_early": "stopped before the answer",
    "goes_too_far": "went on beyond the answer",
    "misstates": "stated another answer than it found",
    UNTOLD: "wrong, but no step could be named",
    "no_answer": "no final answer",
    "truncated": "cut off before a final answer",
    "undecided": "no verdict could be reached",
}
"""By kind of a fault, or by verdict where there is no answer to read."""
LAST_POSITION = 5


class WrongStep(NamedTuple):
    """What is wrong with a wrong answer."""

    kind: str
    steps: list[str]
    step: int | None
    """1-based; None where none could be named."""
    explanation: str
    """Empty where no step could be named."""


def read_wrong_step(prediction: Prediction, question: Question | None) -> WrongStep:
    """Return where a wrong answer first goes wrong, as far as arithmetic tells."""
    if len(prediction.text) > LONGEST:
        return WrongStep(prediction.verdict if prediction.verdict != "wrong" else UNTOLD, [], None, "")
    steps = list_steps(prediction)
    fault = None
    if question is not None and prediction.verdict == "wrong":
        fault = _find_fault(question, steps)
    if question is None or fault is None:
        return WrongStep(UNTOLD if prediction.verdict == "wrong" else prediction.verdict, steps, None, "")
    why = explain_fault(question.question, question.gold_answer, steps, fault)
    return WrongStep(fault.kind, steps, fault.step, why)


def can_be_read(question: Question) -> bool:
    """Whether the gold side says enough to tell more than false arithmetic."""
    return bool(question.gold_rationale) and read_value(question.gold_answer) is not None


def _find_fault(question: Question, steps: list[str]) -> Fault | None:
    rationale = question.gold_rationale if can_be_read(question) else None
    return find_fault(question.question[:LONGEST], rationale, question.gold_answer, steps)


def classify_wrong(reader: RunReader, outcomes: Outcomes, seed: int) -> Iterator[WrongAnswers]:
    """Yield for each dataset where its wrong answers go wrong, by arm."""
    datasets = list(dict.fromkeys(dataset for _, dataset in outcomes))
    wrong = {dataset: _count_wrong(outcomes, dataset) for dataset in datasets}
    chosen = {
        dataset: _choose(by_id, MOST_CLASSIFIED // len(datasets), seed) for dataset, by_id in wrong.items()
    }
    ids = {key for some in chosen.values() for key in some}
    questions = find_questions(reader, ids)
    read = read_predictions(reader, ids)
    for dataset in datasets:
        if chosen[dataset]:
            rows = {arm: some for (arm, other), some in read.items() if other == dataset}
            base = find_base(outcomes, dataset)
            yield _classify(dataset, rows, base, questions, chosen[dataset], len(wrong[dataset]))


def _count_wrong(outcomes: Outcomes, dataset: str) -> Counter[str]:
    rows = (by_id for (_, other), by_id in outcomes.items() if other == dataset)
    return Counter(key for by_id in rows for key, one in by_id.items() if not one.is_correct)


def _choose(wrong: Mapping[str, int], most: int, seed: int) -> set[str]:
    """Choose questions by chance until so many wrong answers are taken."""
    chosen: set[str] = set()
    left = most
    for key in choose_by_hash(((key, key) for key in wrong), len(wrong), seed):
        if left <= 0:
            break
        chosen.add(key)
        left -= wrong[key]
    return chosen


def _classify(
    dataset: str,
    rows: Mapping[str, Iterable[Prediction]],
    base: str | None,
    questions: Mapping[str, Question],
    chosen: Collection[str],
    wrong: int,
) -> WrongAnswers:
    found = {
        arm: {
            one.question_id: read_wrong_step(one, questions.get(one.question_id))
            if not one.is_correct
            else None
            for one in some
        }
        for arm, some in rows.items()
    }
    changes = {
        arm: _count_kind_changes(found[base], by_id)
        for arm, by_id in found.items()
        if base is not None and not is_base(arm)
    }
    return WrongAnswers(
        dataset=dataset,
        classified=len(chosen),
        questions=wrong,
        with_rationale=sum(key in questions and can_be_read(questions[key]) for key in chosen),
        kinds={arm: _by_kind(one.kind for one in by_id.values() if one) for arm, by_id in found.items()},
        positions={
            arm: _by_position(one.step for one in by_id.values() if one) for arm, by_id in found.items()
        },
        changes=changes,
    )


def _by_kind(kinds: Iterable[str]) -> dict[str, int]:
    counts = Counter(kinds)
    order = list(KIND_WORDS)
    return {
        kind: counts[kind]
        for kind in sorted(counts, key=lambda one: order.index(one) if one in order else 99)
    }


def _by_position(steps: Iterable[int | None]) -> dict[str, int]:
    return count_positions(step for step in steps if step is not None)


def count_positions(steps: Iterable[int]) -> dict[str, int]:
    """Return how many wrong steps are the first, the second ... of their solution."""
    counts = Counter(min(step, LAST_POSITION) for step in steps)
    names = [*map(str, range(1, LAST_POSITION)), f"{LAST_POSITION} or later"]
    return {name: counts[position] for position, name in enumerate(names, 1)}


def _count_kind_changes(
    before: Mapping[str, WrongStep | None], after: Mapping[str, WrongStep | None]
) -> list[KindChange]:
    both = [(before[key], after[key]) for key in before if key in after]
    kinds = _by_kind(one.kind for pair in both for one in pair if one)
    return [
        KindChange(
            kind=kind,
            before=(was := sum(one is not None and one.kind == kind for one, _ in both)),
            away=(away := sum(one is not None and one.kind == kind and other is None for one, other in both)),
            new=(new := sum(one is None and other is not None and other.kind == kind for one, other in both)),
            turned=(after_count := sum(other is not None and other.kind == kind for _, other in both))
            - (was - away + new),
            after=after_count,
        )
        for kind in kinds
    ]
