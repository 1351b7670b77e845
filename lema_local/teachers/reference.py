"""The reference teacher: no model, no cost. It derives the correction from the gold rationale.

It finds the first wrong step (`mistakes.py`), says why in the words of the problem, and goes on in the gold
rationale's own steps. It answers in the very form of a model's reply and stands behind the same desk, so that a
run goes one way with every teacher; what it earns is the baseline that a paid teacher has to beat.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from time import perf_counter

from lema_local.arithmetic import Claim, find_claims, find_numbers, format_number
from lema_local.errors import BackendError
from lema_local.prompts import format_correction
from lema_local.records import Question
from lema_local.steps import split_steps, state_answer
from lema_local.students.base import Message
from lema_local.teachers.base import RawReply, TeacherRequest
from lema_local.teachers.mending import mend_slips
from lema_local.teachers.mistakes import Fault, find_fault, reaches_answer
from lema_local.teachers.tracing import read_content, read_words

SOURCES = (
    "arithmetic", "steps", "prompts", "teachers.reference", "teachers.mistakes", "teachers.mending",
    "teachers.tracing", "answers.extraction", "answers.choices", "answers.numbers", "answers.surface",
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
    corrected = mended or [*(_close(line) for line in fault.needed), state_answer(gold_answer)]
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
    claim, contrast = fault.claim, fault.contrast
    if fault.kind == "arithmetic" and claim is not None:
        return _explain_arithmetic(claim)
    if fault.kind == "goes_too_far":
        return f"The answer {gold_answer} is found before this step, and nothing more is asked."
    if fault.kind == "misstates":
        return f"The steps before lead to {gold_answer}, and this step states another answer."
    if contrast is None:
        equation = next((line for line in fault.needed if "=" in line), "")
        return f"This does not follow from the problem. {_close(equation) if equation else ''}".strip()
    reason = _find_reason(question, steps, fault)
    if fault.kind == "stops_early":
        return f"The answer is not reached yet, {contrast.left} is still missing: {reason}"
    if fault.kind == "leaves_out":
        return f"It leaves out {contrast.left}: {reason}"
    wrong = claim.left if claim is not None and claim.operators else _say_value(fault)
    return f"It is {contrast.left}, not {wrong}: {reason}"


def _say_value(fault: Fault) -> str:
    return "this" if fault.value is None else format_number(fault.value)


def _explain_arithmetic(claim: Claim) -> str:
    right, said = format_number(claim.value), format_number(claim.stated)
    return f"{claim.left} is {right}, not {said if said != right else claim.right}."


def _find_reason(question: str, steps: Sequence[str], fault: Fault) -> str:
    """Return what the right computation rests on, in words that stand there already.

    That is the problem's sentence, or the earlier step, that brings in the number which the wrong computation lacks;
    where no such sentence is found, the gold line itself.
    """
    assert fault.contrast is not None
    used = set(fault.claim.operands) if fault.claim else set()
    right = _read_operands(fault.contrast)
    wanted = {number for number in right if number not in used} or set(right[1:])
    words = read_content(fault.contrast_line)
    told = _split_sentences(question)
    found = [
        step for step in steps[: fault.step - 1] if wanted & {claim.stated for claim in find_claims(step)}
    ]
    scores = {sentence: _score(sentence, wanted, words) for sentence in [*told, *found]}
    best = max(scores, key=lambda sentence: scores[sentence], default="")
    if best and scores[best] >= _ENOUGH:
        return _close(best)
    # With the right numbers in the wrong computation, what is asked for tells the right one.
    return told[-1] if fault.kind == "stops_early" and told else _close(fault.contrast_line)


def _read_operands(claim: Claim) -> list[Fraction]:
    """Return the numbers of an equation; a fraction is one number, as the problem tells it: a half, two thirds."""
    shares = [Fraction(int(above), int(below)) for above, below in _SHARE.findall(claim.left) if int(below)]
    parts = {part for share in shares for part in (share.numerator, share.denominator)}
    return [*(number for number in claim.operands if number not in parts), *shares]


_SHARE = re.compile(r"(?<![\d.,)])(\d)/(\d)(?![\d.,])")
_ENOUGH = 2.0
"""One number that the right computation brings in, or two of its telling words."""


def _score(sentence: str, wanted: set[Fraction], words: set[str]) -> float:
    found = {*find_numbers(sentence), *read_words(sentence)}
    numbers = sum(number in found or number * 100 in found for number in wanted)
    shared = len(words & read_content(sentence))
    return 2.0 * numbers + shared / 4 if wanted else float(shared)


def _split_sentences(text: str) -> list[str]:
    return [sentence for part in _QUOTE_END.split(" ".join(text.split())) for sentence in split_steps(part)]


_QUOTE_END = re.compile(r"""(?<=[.!?]["”')])\s+""")


def _close(line: str) -> str:
    line = " ".join(line.split()).rstrip(" ,;:")
    return line if line.endswith((".", "!", "?")) else f"{line}."
