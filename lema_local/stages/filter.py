"""Stage 4: keep the corrections that may be learned from.

Reads   corrections        as the teacher stage judged them, with the questions
Writes  accepted           judged once more from the record alone: nothing rests on an earlier verdict
        rejected           all others, each with its reason; `failed` ones (no reply) stay `failed`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from lema_local.arithmetic import chain_equations
from lema_local.corrections import CheckName, ParsedCorrection, judge_correction
from lema_local.errors import InputError
from lema_local.grades import Grade, correction_id
from lema_local.records import Correction, Question
from lema_local.steps import number_steps, split_steps


class FilterSettings(BaseModel):
    """What rejects a correction besides a wrong final answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rejecting_checks: tuple[CheckName, ...] = ()
    """Checks that reject too; the default is the paper's rule, the final answer alone (section 2.1)."""
    drop_duplicates: bool = False
    """Keep one of several corrections of a question that have the same equations, mistake and correction alike."""
    drop_graded: tuple[Grade, ...] = ()
    """Drop what a person graded so in `lema review`, such as `[poor, wrong_step]`; one reviewer is enough."""
    grades: str | None = None
    """File of grades; None: `grades.sqlite` in the run's folder."""


@dataclass(slots=True)
class Filtered:
    """Accepted and rejected corrections, in the order they came."""

    accepted: list[Correction] = field(default_factory=list)
    rejected: list[Correction] = field(default_factory=list)


# Whether a reply changed the first steps or skipped one is seen in the reply only, not in the record.
_SEEN_IN_REPLY = ("first_steps_unchanged", "starts_at_step")


def filter_corrections(
    corrections: Iterable[Correction],
    questions: Iterable[Question],
    settings: FilterSettings,
    grades: Mapping[str, Sequence[Grade]] | None = None,
) -> Filtered:
    """Split corrections into accepted and rejected ones.

    Args:
        corrections: With any verdict; they are judged again.
        questions: All that they belong to.
        settings: What rejects.
        grades: People's grades by `correction_id`; read with `drop_graded` only.

    Raises:
        InputError: If a correction's question is not among the questions.
        LemaError: If a gold answer cannot be parsed.
    """
    by_id = {question.id: question for question in questions}
    filtered = Filtered()
    seen: set[tuple[object, ...]] = set()
    for correction in corrections:
        if (question := by_id.get(correction.question_id)) is None:
            raise InputError(
                f"the correction of question {correction.question_id} has no question",
                hint="give the questions that the paths were sampled on",
            )
        judged = judge_again(correction, question, settings.rejecting_checks)
        if settings.drop_graded and judged.verdict == "accepted":
            judged = _drop_graded(
                judged, (grades or {}).get(correction_id(correction), ()), settings.drop_graded
            )
        if settings.drop_duplicates and judged.verdict == "accepted":
            judged = _drop_seen(judged, seen)
        (filtered.accepted if judged.verdict == "accepted" else filtered.rejected).append(judged)
    return filtered


def judge_again(
    correction: Correction, question: Question, rejecting_checks: tuple[CheckName, ...] = ()
) -> Correction:
    """Return a correction with the verdict that its own words earn; one without words is never accepted."""
    if (
        not correction.original_steps
        or (correction.incorrect_step or 0) < 1
        or not correction.corrected_solution
    ):
        if correction.verdict != "accepted":
            return correction  # it could not be parsed, or there was no reply: with its reason
        reason = "it lacks the incorrect step, the mistake's steps or the corrected solution"
        return correction.model_copy(update={"verdict": "rejected", "reason": reason})
    assert correction.incorrect_step is not None
    parsed = ParsedCorrection(
        correction.incorrect_step, correction.explanation or "", split_steps(correction.corrected_solution)
    )
    was = {name: correction.checks[name] for name in _SEEN_IN_REPLY if name in correction.checks}
    judgement = judge_correction(parsed, question, correction.original_steps, rejecting_checks, was)
    return correction.model_copy(
        update={
            "final_answer": judgement.final_answer,
            "verdict": judgement.verdict,
            "reason": judgement.reason,
            "checks": judgement.checks,
        }
    )


def _drop_graded(correction: Correction, given: Sequence[Grade], dropped: Sequence[Grade]) -> Correction:
    found = next((grade for grade in dropped if grade in given), None)
    if found is None:
        return correction
    reason = f"a reviewer graded it {found.replace('_', ' ')}"
    return correction.model_copy(update={"verdict": "rejected", "reason": reason})


def _drop_seen(correction: Correction, seen: set[tuple[object, ...]]) -> Correction:
    original = number_steps(correction.original_steps)
    corrected = correction.corrected_solution or ""
    key = (
        correction.question_id,
        correction.incorrect_step,
        chain_equations(original) or original,
        chain_equations(corrected) or corrected,
    )
    if key in seen:
        reason = "it has the same equations as another correction of this question"
        return correction.model_copy(update={"verdict": "rejected", "reason": reason})
    seen.add(key)
    return correction
