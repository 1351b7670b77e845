"""Stage 2: let a teacher correct mistakes.

Reads   mistakes           (Question, ReasoningPath) whose final answer is wrong
Writes  corrections        one per mistake, accepted, rejected with a reason, or failed with the last error

One bad reply is data: it is kept as rejected, with the key of the raw reply in the journal. A mistake that got no
reply at all is `failed`, and the next run asks again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from lema_local.arithmetic import chain_equations
from lema_local.corrections import (
    UnparseableReply,
    judge_correction,
    list_steps,
    parse_reply,
    read_location,
)
from lema_local.errors import InputError, LemaError
from lema_local.records import Correction, Question, ReasoningPath
from lema_local.students.base import Message
from lema_local.teachers import MistakePrompt
from lema_local.teachers.base import Answered, Desk, Failed, RawReply, Teacher, TeacherRequest
from lema_local.teachers.settings import AS_THE_STAGE_SAYS, CallBlock, TeacherSettings

Mistake = tuple[Question, ReasoningPath]
_NOTHING_READ: Mapping[str, object] = {
    "incorrect_step": None,
    "explanation": None,
    "corrected_solution": None,
    "final_answer": None,
    "reason": None,
    "checks": {},
}
MistakeVerdict = Literal["wrong", "no_answer", "truncated"]


class CorrectSettings(CallBlock):
    """How mistakes are chosen and how the teacher is asked."""

    include: tuple[MistakeVerdict, ...] = ("wrong",)
    """Which paths are mistakes. `no_answer` and `truncated` ones are mostly no reasoning to learn from."""
    max_per_question: int | None = Field(default=None, ge=1)
    """At most so many mistakes of one question; None: all."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many mistakes in all; None: all."""
    attempts: int = Field(default=1, ge=1)
    """Corrections asked for per mistake until one is accepted. The paper's text reads as one."""
    temperature: float | None = Field(default=0.0, ge=0, le=2)
    """Of the first attempt; null: the provider's default."""
    retry_temperature: float | None = Field(default=0.7, ge=0, le=2)
    """Of further attempts: at 0 they would say the same again."""
    seed: int | None = None
    """Sent to the teacher; many providers ignore it."""
    shows_gold: bool = False
    """Show the teacher the gold rationale. The paper never does."""
    locates_first: bool = False
    """Ask in two calls: first for the incorrect step alone, then for the correction of that step."""
    asks_json: bool = False
    """Ask for JSON, of teachers that have a mode for it; the others are asked as usual."""


def select_mistakes(
    paths: Iterable[ReasoningPath], questions: Iterable[Question], settings: CorrectSettings
) -> Iterator[Mistake]:
    """Yield the paths that are to be corrected, with their questions, in the order of the paths.

    Raises:
        InputError: If a path's question is not among the questions.
    """
    by_id = {question.id: question for question in questions}
    taken: Counter[str] = Counter()
    for path in paths:
        if path.verdict not in settings.include:
            continue
        if settings.limit is not None and taken.total() >= settings.limit:
            return
        if (question := by_id.get(path.question_id)) is None:
            raise InputError(
                f"the path of question {path.question_id} has no question",
                hint="give the questions that the paths were sampled on",
            )
        if settings.max_per_question is None or taken[question.id] < settings.max_per_question:
            taken[question.id] += 1
            yield question, path


SolutionKey = tuple[str, tuple[str, ...]]
"""A question's id and the chain of equations of a wrong solution of it: one mistake, in whatever words."""


def solution_key(question_id: str, steps: Sequence[str]) -> SolutionKey:
    """Return what tells one mistake from another; a solution without equations is told by its words."""
    return question_id, chain_equations("\n".join(steps)) or tuple(steps)


@dataclass(frozen=True, slots=True)
class NewMistakes:
    """The paths of a later round that may be worth a correction."""

    paths: list[ReasoningPath]
    """Each mistake once."""
    already_known: int
    """Mistakes that have an accepted correction from an earlier round."""


def find_new(
    paths: Iterable[ReasoningPath], corrected: Iterable[Correction], settings: CorrectSettings
) -> NewMistakes:
    """Return the mistakes among the paths that no accepted correction answers yet."""
    known = {
        solution_key(one.question_id, one.original_steps) for one in corrected if one.verdict == "accepted"
    }
    found: dict[SolutionKey, ReasoningPath] = {}
    already: set[SolutionKey] = set()
    for path in paths:
        if path.verdict not in settings.include:
            continue
        key = solution_key(path.question_id, list_steps(path))
        if key in known:
            already.add(key)
        else:
            found.setdefault(key, path)
    return NewMistakes(list(found.values()), len(already))


def correct_mistakes(
    mistakes: Iterable[Mistake],
    desk: Desk,
    prompt: MistakePrompt,
    settings: CorrectSettings,
    teacher: TeacherSettings = AS_THE_STAGE_SAYS,
) -> Iterator[Correction]:
    """Yield one correction per mistake, as replies come.

    With several attempts, mistakes whose correction was rejected are asked about again, in rounds; what a mistake
    ends with is the first accepted correction, or its last one.

    Args:
        mistakes: With their questions.
        desk: The teacher.
        prompt: What it is asked.
        settings: The stage's.
        teacher: What is set for this teacher alone.

    Raises:
        BudgetReached: Corrections already yielded stay valid; the mistakes left have none.
        BackendError: If the teacher does not answer any more; likewise.
        PromptError: If the gold rationale is to be shown and a question has none.
    """
    left = mistakes
    for attempt in range(settings.attempts):
        is_last = attempt == settings.attempts - 1
        rejected: list[Mistake] = []
        for mistake, correction in _try_once(left, desk, prompt, settings, teacher, attempt):
            if correction.verdict == "rejected" and not is_last:
                rejected.append(mistake)
            else:
                yield correction
        left = rejected


@dataclass(frozen=True, slots=True)
class _Located:
    """A mistake with what was found out before its correction is asked for."""

    mistake: Mistake
    asked: Mapping[str, Any] = field(default_factory=dict)
    cost_usd: float = 0.0


def _try_once(
    mistakes: Iterable[Mistake],
    desk: Desk,
    prompt: MistakePrompt,
    settings: CorrectSettings,
    teacher: TeacherSettings,
    attempt: int,
) -> Iterator[tuple[Mistake, Correction]]:
    """Yield each mistake with what one attempt made of it."""
    asked = describe_asking(desk, settings)
    located: Iterable[_Located] = (_Located(mistake, asked) for mistake in mistakes)
    if asked.get("locates_first"):
        found = list(_locate(mistakes, desk, prompt, settings, teacher, attempt, asked))
        yield from (one for one in found if not isinstance(one, _Located))
        located = [one for one in found if isinstance(one, _Located)]
    requests = (
        (one, build_request(*one.mistake, prompt, settings, attempt, teacher, one.asked)) for one in located
    )
    for one, outcome in desk.ask_many(requests):
        yield (
            one.mistake,
            read_outcome(*one.mistake, outcome, desk.name, attempt, one.asked, cost_before_usd=one.cost_usd),
        )


def _locate(
    mistakes: Iterable[Mistake],
    desk: Desk,
    prompt: MistakePrompt,
    settings: CorrectSettings,
    teacher: TeacherSettings,
    attempt: int,
    asked: Mapping[str, Any],
) -> Iterator[_Located | tuple[Mistake, Correction]]:
    """Yield each mistake with its incorrect step, or with the correction that it ends as where none was named."""
    requests = (
        (mistake, build_locating_request(*mistake, prompt, settings, attempt, teacher))
        for mistake in mistakes
    )
    for mistake, outcome in desk.ask_many(requests):
        end = read_outcome(*mistake, outcome, desk.name, attempt, asked)
        if isinstance(outcome, Failed):
            yield mistake, end
            continue
        try:
            found = {"located_step": read_location(outcome.reply.text), "locating_key": outcome.reply_key}
        except UnparseableReply as err:
            yield (
                mistake,
                end.model_copy(update={**_NOTHING_READ, "verdict": "rejected", "reason": err.reason}),
            )
        else:
            yield _Located(mistake, {**asked, **found}, outcome.reply.cost_usd)


def describe_asking(desk: Desk | Teacher, settings: CorrectSettings) -> dict[str, Any]:
    """Return how a teacher is asked, where that differs from the paper's way: for `Correction.asked`."""
    if desk.reads_gold:
        return {}
    asked: dict[str, Any] = {}
    if settings.shows_gold:
        asked["shows_gold"] = True
    if settings.locates_first:
        asked["locates_first"] = True
    if settings.asks_json:
        asked["is_json"] = desk.can_write_json
    return asked


def build_request(
    question: Question,
    path: ReasoningPath,
    prompt: MistakePrompt,
    settings: CorrectSettings,
    attempt: int = 0,
    teacher: TeacherSettings = AS_THE_STAGE_SAYS,
    asked: Mapping[str, Any] = MappingProxyType({}),
) -> TeacherRequest:
    """Return the request for one attempt at one mistake.

    Args:
        question: The problem.
        path: The wrong solution.
        prompt: Makes the messages.
        settings: The stage's.
        attempt: 0-based.
        teacher: What is set for this teacher alone.
        asked: As `describe_asking` says, with the `located_step` where it was located first.
    """
    return request_correction(question, list_steps(path), prompt, settings, attempt, teacher, asked)


def request_correction(
    question: Question,
    steps: Sequence[str],
    prompt: MistakePrompt,
    settings: CorrectSettings,
    attempt: int = 0,
    teacher: TeacherSettings = AS_THE_STAGE_SAYS,
    asked: Mapping[str, Any] = MappingProxyType({}),
) -> TeacherRequest:
    """Return the request for the correction of a solution that is given in steps; see `build_request`."""
    messages = prompt.render(
        question,
        steps,
        "chat",
        shows_gold=settings.shows_gold,
        located_step=asked.get("located_step"),
        is_json=asked.get("is_json", False),
    )
    assert not isinstance(messages, str)
    form = {"type": "json_object"} if asked.get("is_json") else None
    return _to_request(messages, settings, attempt, teacher, form)


def build_locating_request(
    question: Question,
    path: ReasoningPath,
    prompt: MistakePrompt,
    settings: CorrectSettings,
    attempt: int = 0,
    teacher: TeacherSettings = AS_THE_STAGE_SAYS,
) -> TeacherRequest:
    """Return the request for the incorrect step alone; see `build_request`."""
    messages = prompt.render_locating(question, list_steps(path), "chat", shows_gold=settings.shows_gold)
    assert not isinstance(messages, str)
    return _to_request(messages, settings, attempt, teacher, None)


def _to_request(
    messages: tuple[Message, ...],
    settings: CorrectSettings,
    attempt: int,
    teacher: TeacherSettings,
    response_format: dict[str, Any] | None,
) -> TeacherRequest:
    request = TeacherRequest(
        messages=messages,
        temperature=settings.retry_temperature if attempt else settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        response_format=response_format,
        attempt=attempt,
        max_tokens=settings.max_tokens,
    )
    return teacher.shape(request, is_first=attempt == 0)


def read_outcome(
    question: Question,
    path: ReasoningPath,
    outcome: Answered | Failed,
    teacher: str,
    attempt: int = 0,
    asked: Mapping[str, Any] = MappingProxyType({}),
    *,
    cost_before_usd: float = 0.0,
) -> Correction:
    """Return the correction that a teacher's reply is; a bad reply is a rejected one, none a failed one.

    Args:
        question: The problem.
        path: The wrong solution.
        outcome: What came.
        teacher: The teacher's name.
        attempt: 0-based.
        asked: How it was asked.
        cost_before_usd: Dollars for an earlier call that this one rests on.
    """
    correction = Correction(
        question_id=question.id,
        sample_index=path.sample_index,
        student=path.student,
        teacher=teacher,
        teacher_reported=None,
        attempt=attempt,
        original_steps=list_steps(path),
        incorrect_step=None,
        explanation=None,
        corrected_solution=None,
        final_answer=None,
        verdict="failed",
        reason=None,
        reply_key=None,
        cost_usd=cost_before_usd,
        asked=dict(asked),
    )
    if isinstance(outcome, Failed):
        return correction.model_copy(update={"reason": outcome.reason})
    told = {"reply_key": outcome.reply_key, "cost_usd": outcome.reply.cost_usd + cost_before_usd}
    return take_reply(correction.model_copy(update=told), question, outcome.reply)


def take_reply(correction: Correction, question: Question, reply: RawReply) -> Correction:
    """Return a correction with all that a raw reply decides, whatever it said before."""
    text = reply.text
    if (located := correction.asked.get("located_step")) is not None:
        text = f"Step {located}.\n{text}"  # the step was told to the teacher, and is not said again
    found = dict(_NOTHING_READ) | read_text(text, question, correction.original_steps)
    why = explain_finish(reply.finish_reason, reply.completion_tokens)
    if found["verdict"] == "rejected" and why:
        found["reason"] = f"{why}: {found['reason']}"
    return correction.model_copy(update={"teacher_reported": reply.model, **found})


def reparse_corrections(
    corrections: Iterable[Correction],
    questions: Iterable[Question],
    find_reply: Callable[[str], RawReply | None],
) -> Iterator[tuple[Correction, Correction]]:
    """Yield each correction with what today's parser and checks make of the same raw reply, free of charge.

    Args:
        corrections: As a run made them.
        questions: With the gold answers; a correction without its question stays as it is.
        find_reply: Returns a raw reply by its key; None where the journal does not hold it: it stays as it is.
    """
    by_id = {question.id: question for question in questions}
    for correction in corrections:
        question = by_id.get(correction.question_id)
        # Where no step was located there is no reply to the second question.
        is_whole = "located_step" in correction.asked or not correction.asked.get("locates_first")
        reply = find_reply(correction.reply_key) if correction.reply_key is not None and is_whole else None
        yield correction, take_reply(correction, question, reply) if question and reply else correction


def read_text(text: str, question: Question, original_steps: Sequence[str]) -> dict[str, object]:
    """Return the fields of a correction that a reply's text decides."""
    try:
        parsed = parse_reply(text, original_steps)
    except UnparseableReply as err:
        return {"verdict": "rejected", "reason": err.reason}
    read: dict[str, object] = {
        "incorrect_step": parsed.incorrect_step,
        "explanation": parsed.explanation,
        "corrected_solution": parsed.corrected_solution,
    }
    try:
        judgement = judge_correction(parsed, question, original_steps)
    except LemaError as err:  # the gold answer cannot be read: no verdict on this question
        return read | {"verdict": "rejected", "reason": str(err)}
    return read | {
        "final_answer": judgement.final_answer,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "checks": judgement.checks,
    }


def explain_finish(finish_reason: str, tokens: int | None) -> str | None:
    """Return why a reply is not whole; None for a whole one."""
    if finish_reason == "length":
        return f"the reply was cut after {tokens} tokens" if tokens else "the reply was cut"
    return "the provider filtered the reply" if finish_reason == "content_filter" else None


def path_key(record: ReasoningPath | Correction) -> tuple[str, str, int]:
    """Return what names a path, in its own record and in its correction's."""
    return record.question_id, record.student, record.sample_index
