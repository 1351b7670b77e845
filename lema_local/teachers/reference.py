"""The reference teacher: no model, no cost. It derives the correction from the gold rationale.

It finds the first wrong step (`mistakes.py`), says why in the words of the problem, and goes on in the gold
rationale's own steps. It answers in the very form of a model's reply and stands behind the same desk, so that a
run goes one way with every teacher; what it earns is the baseline that a paid teacher has to beat.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from time import perf_counter

from lema_local.errors import BackendError
from lema_local.prompts import format_correction
from lema_local.records import Question
from lema_local.steps import state_answer
from lema_local.students.base import Message
from lema_local.teachers.base import RawReply, TeacherRequest
from lema_local.teachers.explaining import close_sentence, explain_fault
from lema_local.teachers.mending import mend_slips
from lema_local.teachers.mistakes import find_fault, reaches_answer

SOURCES = (
    "arithmetic", "steps", "prompts", "teachers.reference", "teachers.mistakes", "teachers.gold", "teachers.mending",
    "teachers.explaining", "teachers.wording", "teachers.equations", "teachers.units", "teachers.tracing",
    "answers.extraction", "answers.choices", "answers.numbers", "answers.surface",
)  # fmt: skip
"""The modules of `lema_local` that a reply is made by."""


@cache
def hash_sources() -> str:
    """Return a short hash of the code that makes the replies, whatever its line ends: part of the journal's key."""
    root = Path(__file__).resolve().parents[1]
    found = hashlib.sha256()
    for name in SOURCES:
        found.update(root.joinpath(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8").encode())
    return found.hexdigest()[:12]


def reference_request(question: Question, steps: Sequence[str]) -> tuple[Message, ...]:
    """Return the messages of a request to the reference teacher: one JSON object that carries the gold too."""
    content = {
        "question": question.question,
        "gold_rationale": question.gold_rationale,
        "gold_answer": question.gold_answer,
        "steps": list(steps),
    }
    return (Message(role="user", content=json.dumps(content, ensure_ascii=False)),)


class ReferenceTeacher:
    """Corrects from the gold rationale."""

    name = "reference"
    reads_gold = True
    can_write_json = False

    @property
    def identity(self) -> str:
        """The code's hash."""
        return f"lema-local {hash_sources()}"

    def worst_case_usd(self, request: TeacherRequest) -> float:
        """Nothing: no model is asked."""
        return 0.0

    async def reply(self, request: TeacherRequest) -> RawReply:
        """Return the correction as a model would write it, or a sentence that says why there is none.

        Raises:
            BackendError: If the request was not made by `reference_request`.
        """
        started = perf_counter()
        question, gold_rationale, gold_answer, steps = _read_request(request)
        text = write_correction(question, gold_rationale, gold_answer, steps)
        return RawReply(
            text=text,
            model=f"{self.name} {hash_sources()}",
            finish_reason="stop",
            prompt_tokens=0,
            completion_tokens=0,
            cost_usd=0.0,
            latency_s=perf_counter() - started,
        )

    async def close(self) -> None:
        """Nothing to give back."""


def write_correction(
    question: str, gold_rationale: str | None, gold_answer: str, steps: Sequence[str]
) -> str:
    """Return a reply: `Step k.`, explanation and corrected solution, or why it cannot be given."""
    fault = find_fault(question, gold_rationale, gold_answer, steps)
    mended = mend_slips(steps, fault.step, gold_answer) if fault and fault.kind == "arithmetic" else None
    if fault is None:
        told = "agrees with the gold rationale" if gold_rationale else "holds by its own arithmetic"
        return f"Incorrect Step: None. Every step {told}."
    if not gold_rationale and not mended:
        why = explain_fault(question, gold_answer, steps, fault)
        return f"Incorrect Step: Step {fault.step}.\nExplanation: {why} There is no gold rationale to go on from."
    if gold_rationale and not reaches_answer(question, gold_rationale, gold_answer):
        return (
            f"The gold rationale does not reach the gold answer {gold_answer}, so nothing can be built on it."
        )
    corrected = mended or [*(close_sentence(line) for line in fault.needed), state_answer(gold_answer)]
    reply = format_correction(fault.step, explain_fault(question, gold_answer, steps, fault), corrected)
    return f"Incorrect Step: {reply}"


def _read_request(request: TeacherRequest) -> tuple[str, str | None, str, list[str]]:
    try:
        content = json.loads(request.messages[-1]["content"])
        return content["question"], content["gold_rationale"], content["gold_answer"], content["steps"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BackendError("the reference teacher was sent a request that it cannot read") from error
