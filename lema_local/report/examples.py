"""The examples that a report shows: corrections with what the arms answer now, and test questions that were wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lema_local.records import Correction, Prediction
from lema_local.report.data import AnswerExample, CorrectionExample, Outcomes, is_base
from lema_local.report.files import RunReader, choose_by_hash, find_questions
from lema_local.report.funnel import ACCEPTED, CORRECTIONS
from lema_local.report.outcomes import find_base, read_example_answers, read_predictions
from lema_local.report.went_wrong import read_wrong_step

EXAMPLES_SHOWN = 20
"""Unless the recipe says `report.examples`."""
EXAMPLE_SEED = 0


def count_examples(settings: Mapping[str, Any]) -> int:
    """Return how many examples a run's recipe asks for."""
    block = settings.get("report")
    count = block.get("examples") if isinstance(block, Mapping) else None
    return count if isinstance(count, int) and count >= 0 else EXAMPLES_SHOWN


def choose_corrections(reader: RunReader, count: int) -> list[Correction]:
    """Choose accepted corrections by chance, one of a question: the same ones whenever it is asked."""
    name = ACCEPTED if reader.find(ACCEPTED) else CORRECTIONS
    accepted = (one for one in reader.read(name, Correction) if one.verdict == "accepted")
    keyed = ((f"{one.question_id}:{one.student}:{one.sample_index}:{one.attempt}", one) for one in accepted)
    # A question may have several; only so many more are held as it takes to show different ones.
    several = choose_by_hash(keyed, 4 * count, EXAMPLE_SEED)
    return list({one.question_id: one for one in reversed(several)}.values())[::-1][:count]


def show_corrections(reader: RunReader, count: int) -> list[CorrectionExample]:
    """Return chosen corrections with their questions and the trained arms' answers."""
    chosen = choose_corrections(reader, count)
    ids = {one.question_id for one in chosen}
    questions, answers = find_questions(reader, ids), read_example_answers(reader, ids)
    return [
        CorrectionExample(questions.get(one.question_id), one, answers.get(one.question_id, ()))
        for one in chosen
    ]


def show_answers(reader: RunReader, outcomes: Outcomes, count: int) -> list[AnswerExample]:
    """Choose test questions that the base got wrong, whatever the others answer; return every arm's answers."""
    chosen = choose_by_hash(((key, key) for key in _base_mistakes(outcomes)), count, EXAMPLE_SEED)
    questions = find_questions(reader, set(chosen))
    answers: dict[str, list[Prediction]] = {key: [] for key in chosen}
    for some in read_predictions(reader, set(chosen)).values():
        for one in some:
            answers[one.question_id].append(one)
    shown = []
    for key in chosen:
        # A name that a row of the base does not have: an arm alone was evaluated, and is shown as what was wrong.
        rows = sorted(answers[key], key=lambda one: not is_base(one.arm))
        wrong = read_wrong_step(rows[0], questions.get(key))
        shown.append(AnswerExample(key, questions.get(key), rows, wrong.steps, wrong.step, wrong.explanation))
    return shown


def _base_mistakes(outcomes: Outcomes) -> Iterable[str]:
    for dataset in dict.fromkeys(dataset for _, dataset in outcomes):
        first = find_base(outcomes, dataset) or next(arm for arm, other in outcomes if other == dataset)
        yield from (key for key, one in outcomes[first, dataset].items() if not one.is_correct)
