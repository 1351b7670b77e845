"""The reference teacher: no model, no cost. It derives the correction from the gold rationale.

It finds the first wrong step (`mistakes.py`), says why in the words of the problem, and goes on in the gold
rationale's own steps. It answers in the very form of a model's reply and stands behind the same desk, so that a
run goes one way with every teacher; what it earns is the baseline that a paid teacher has to beat.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fractions import Fraction
from time import perf_counter

from lema_local.arithmetic import Claim, find_numbers, format_number
from lema_local.errors import BackendError
from lema_local.prompts import format_correction
from lema_local.records import Question
from lema_local.steps import state_answer
from lema_local.students.base import Message
from lema_local.teachers.base import RawReply, TeacherRequest
from lema_local.teachers.mistakes import Fault, find_fault, read_words

_VERSION = "1"
"""Raised when a reply to the same request would change: it is part of the journal's key."""


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
    identity = f"lema-local/{_VERSION}"
    reads_gold = True

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
            model=f"{self.name} {_VERSION}",
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
    if fault is None and gold_rationale:
        return "Incorrect Step: None. Every step agrees with the gold rationale."
    if fault is None or not gold_rationale:
        return (
            "There is no gold rationale, and without one the reference teacher cannot correct this solution."
        )
    corrected = [*(_close(line) for line in fault.needed), state_answer(gold_answer)]
    reply = format_correction(fault.step, explain_fault(question, gold_answer, steps, fault), corrected)
    return f"Incorrect Step: {reply}"


def _read_request(request: TeacherRequest) -> tuple[str, str | None, str, list[str]]:
    try:
        content = json.loads(request.messages[-1]["content"])
        return content["question"], content["gold_rationale"], content["gold_answer"], content["steps"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BackendError("the reference teacher was sent a request that it cannot read") from error


# --- words --------------------------------------------------------------------------------------------------


def explain_fault(question: str, gold_answer: str, steps: Sequence[str], fault: Fault) -> str:
    """Return why a step is wrong, in one or two short sentences."""
    match fault.kind:
        case "arithmetic" if fault.claim is not None:
            return _explain_arithmetic(fault.claim)
        case "goes_too_far":
            return f"The answer {gold_answer} is already found before this step, and nothing more is asked."
        case "misstates":
            return f"The steps before lead to {gold_answer}, and this step states another answer."
        case "stops_early":
            return f"This is not yet what is asked. {_say_needed(question, fault)}"
        case _:
            return _explain_reasoning(question, fault)


def _explain_arithmetic(claim: Claim) -> str:
    right = format_number(claim.value)
    if right == (said := format_number(claim.stated)):
        said = claim.right
    return f"{claim.left} is {right}, not {said}."


def _explain_reasoning(question: str, fault: Fault) -> str:
    claim, contrast = fault.claim, fault.contrast
    if claim is None or contrast is None:
        return f"This does not follow from the problem. {_say_needed(question, fault)}"
    quote = _quote(question, contrast, claim)
    return f"It is {contrast.left}, not {claim.left}" + (f": {quote}" if quote else ".")


def _say_needed(question: str, fault: Fault) -> str:
    first = _close(fault.needed[0]) if fault.needed else ""
    quote = _quote(question, fault.contrast, None) if fault.contrast else ""
    return f"{quote} {first}".strip()


def _quote(question: str, right: Claim, wrong: Claim | None) -> str:
    """Return the problem's sentence that holds the numbers in which the right computation differs."""
    used = set(wrong.operands) if wrong else set()
    wanted = [number for number in right.operands if number not in used] or list(right.operands)
    sentences = [sentence for sentence in _split_sentences(question) if not sentence.endswith("?")]
    best = max(sentences, key=lambda sentence: _count_shared(sentence, wanted), default="")
    return best if _count_shared(best, wanted) else ""


def _count_shared(sentence: str, numbers: Sequence[Fraction]) -> int:
    found = {*find_numbers(sentence), *read_words(sentence)}
    return sum(number in found or number * 100 in found for number in set(numbers))


def _split_sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in re.split(r"(?<=[.!?])\s+", text) if sentence.strip()]


def _close(line: str) -> str:
    line = " ".join(line.split())
    return line if line.endswith((".", "!", "?")) else f"{line}."
