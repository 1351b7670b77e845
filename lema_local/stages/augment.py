"""Stage 3: let a teacher write further rationales (CoT augmentation).

Reads   questions          Iterable[Question]
Writes  rationales         accepted, rejected with a reason, or failed with the last error

A rationale is kept if its final answer is the gold answer and it is written in steps (paper, section 3.2, footnote
4), unless an earlier one of the question, or the gold rationale, has the same equations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from pydantic import Field

from lema_local.answers import grade_path
from lema_local.arithmetic import chain_equations
from lema_local.errors import InputError, LemaError
from lema_local.records import Question, Rationale
from lema_local.steps import number_steps, split_steps
from lema_local.teachers.asking import QuestionPrompt, draw_request
from lema_local.teachers.base import Answered, Desk, Failed, TeacherRequest
from lema_local.teachers.settings import AS_THE_STAGE_SAYS, CallBlock, TeacherSettings

Asked = tuple[Question, int]
"""A question and the attempt, 0-based."""


class AugmentSettings(CallBlock):
    """How many further rationales, and how the teacher is asked."""

    rationales_per_question: int = Field(default=1, ge=1)
    """Asked for; fewer are kept. The paper asked GPT-4 for some four per question."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many questions; None: all."""
    temperature: float | None = Field(default=0.7, ge=0, le=2)
    """At 0 every further rationale of a question is the same."""


def augment_rationales(
    questions: Iterable[Question],
    desk: Desk,
    prompt: QuestionPrompt,
    settings: AugmentSettings,
    teacher: TeacherSettings = AS_THE_STAGE_SAYS,
    earlier: Mapping[str, Sequence[Rationale]] = MappingProxyType({}),
) -> Iterator[Rationale]:
    """Yield `rationales_per_question` rationales per question, a question's in the order of the attempts.

    Args:
        questions: To be solved.
        desk: The teacher.
        prompt: What it is asked.
        settings: The stage's.
        teacher: What is set for this teacher alone.
        earlier: By a question's id, rationales that stand already: their attempts are not asked, and their equations
            are no new ones.

    Raises:
        InputError: If the teacher is one that reads the gold rationale: it has no other to give.
        BudgetReached: Rationales already yielded stay valid.
        BackendError: If the teacher does not answer any more; likewise.
    """
    if desk.reads_gold:
        raise InputError(
            f"the teacher {desk.name} writes no rationales of its own", hint="choose another teacher"
        )
    waiting: dict[str, dict[int, Rationale]] = {}
    requests = _build_requests(questions, prompt, settings, teacher, earlier)
    for (question, attempt), outcome in desk.ask_many(requests):
        of_question, stand = waiting.setdefault(question.id, {}), earlier.get(question.id, ())
        of_question[attempt] = read_outcome(question, outcome, desk.name, attempt)
        if len(of_question) + len(stand) == settings.rationales_per_question:
            yield from reject_duplicates(question, waiting.pop(question.id), stand)


def _build_requests(
    questions: Iterable[Question],
    prompt: QuestionPrompt,
    settings: AugmentSettings,
    teacher: TeacherSettings,
    earlier: Mapping[str, Sequence[Rationale]],
) -> Iterator[tuple[Asked, TeacherRequest]]:
    for count, question in enumerate(questions):
        if settings.limit is not None and count >= settings.limit:
            return
        stand = {rationale.attempt for rationale in earlier.get(question.id, ())}
        for attempt in sorted(set(range(settings.rationales_per_question)) - stand):
            request = draw_request(
                question, attempt, prompt, settings, teacher, temperature=settings.temperature
            )
            yield (question, attempt), request


def read_outcome(question: Question, outcome: Answered | Failed, teacher: str, attempt: int) -> Rationale:
    """Return the rationale that a teacher's reply is."""
    rationale = Rationale(
        question_id=question.id,
        teacher=teacher,
        teacher_reported=None,
        attempt=attempt,
        text="",
        final_answer=None,
        verdict="failed",
        reason=None,
        reply_key=None,
        cost_usd=0.0,
    )
    if isinstance(outcome, Failed):
        return rationale.model_copy(update={"reason": outcome.reason})
    reply = outcome.reply
    told: dict[str, object] = {
        "teacher_reported": reply.model,
        "reply_key": outcome.reply_key,
        "cost_usd": reply.cost_usd,
        "text": number_steps(split_steps(reply.text)),
    }
    return rationale.model_copy(update=told | _judge(question, reply.text, reply.finish_reason == "length"))


def _judge(question: Question, text: str, is_cut: bool) -> dict[str, object]:
    if not text.strip():
        return {"verdict": "rejected", "reason": "the reply is empty"}
    try:
        grade = grade_path(text, question, stop_reason="length" if is_cut else "end")
    except LemaError as err:  # the gold answer cannot be read: no verdict on this question
        return {"verdict": "rejected", "reason": str(err)}
    reason = {
        "correct": None,
        "wrong": f"its final answer {str(grade.final_answer)[:80]} is not the gold answer {question.gold_answer[:80]}",
        "no_answer": "it states no final answer",
        "truncated": "the reply was cut before its final answer",
        "undecided": "its final answer cannot be compared with the gold answer",
    }[grade.verdict]
    if reason is None and len(split_steps(text)) < 2:
        reason = "it is not written in steps"
    return {
        "final_answer": grade.final_answer,
        "verdict": "rejected" if reason else "accepted",
        "reason": reason,
    }


SAME_EQUATIONS = "it has the same equations as the gold or an earlier rationale"


def reject_duplicates(
    question: Question, rationales: Mapping[int, Rationale], earlier: Iterable[Rationale] = ()
) -> Iterator[Rationale]:
    """Yield a question's rationales by attempt; accepted ones whose equations came before are rejected."""
    seen = {_list_equations(rationale) for rationale in earlier}
    if question.gold_rationale:
        seen.add(chain_equations(question.gold_rationale))
    for _, rationale in sorted(rationales.items()):
        chain = _list_equations(rationale)
        if rationale.verdict == "accepted" and chain in seen:
            yield rationale.model_copy(update={"verdict": "rejected", "reason": SAME_EQUATIONS})
            continue
        seen.add(chain)
        yield rationale


def _list_equations(rationale: Rationale) -> tuple[str, ...]:
    return chain_equations(rationale.text) or (rationale.text,)
