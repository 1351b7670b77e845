"""Why a step is wrong, in words: what it does, what belongs there, and the sentence that says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from lema_local.arithmetic import Claim, find_claims, find_numbers, format_number
from lema_local.steps import split_steps
from lema_local.teachers.mistakes import Fault
from lema_local.teachers.tracing import read_content, read_words
from lema_local.teachers.wording import find_sentence


def explain_fault(question: str, gold_answer: str, steps: Sequence[str], fault: Fault) -> str:
    """Return why a step is wrong, in one or two short sentences."""
    claim, contrast = fault.claim, fault.contrast
    if fault.kind == "arithmetic" and claim is not None:
        return _explain_arithmetic(claim)
    if fault.kind == "goes_too_far":
        return f"The answer {gold_answer} is found before this step, and nothing more is asked."
    if fault.kind == "misstates":
        return f"The steps before lead to {gold_answer}, and this step states another answer."
    if fault.kind == "misreads" and fault.told:
        return f"This is not what the problem says: {close_sentence(fault.told)}"
    if fault.kind == "equation":
        told = find_sentence(question, steps[fault.step - 1]) or question
        return f"{fault.told}, and this equation is not what the problem says: {close_sentence(told)}"
    if contrast is None:
        return f"This does not follow from the problem. {_find_line(fault)}".strip()
    reason = _find_reason(question, steps, fault)
    if fault.kind == "stops_early":
        return f"The answer is not reached yet, {contrast.left} is still missing: {reason}"
    if fault.kind == "leaves_out":
        return f"It leaves out {contrast.left}: {reason}"
    if fault.kind == "confuses" and claim is not None:
        other = close_sentence(fault.told)
        return f"{_say_claim(claim)} is right for something else: {other} Here it is {_say_claim(contrast)}."
    if claim is not None and claim.operators:
        return f"It is {_say_claim(contrast)}, not {_say_claim(claim)}: {reason}"
    text = steps[fault.step - 1]
    if fault.value is None or len(read_content(text) & read_content(fault.contrast_line)) > 1:
        return f"It is {_say_claim(contrast)}, not {_say_value(fault)}: {reason}"
    told = find_sentence(question, text) or fault.contrast_line
    return f"{_say_value(fault)} does not follow from the problem: {close_sentence(told)}"


def _find_line(fault: Fault) -> str:
    """Return the gold line that belongs in the wrong step's place, or the first one needed that has an equation."""
    line = fault.contrast_line or next((line for line in fault.needed if "=" in line), "")
    return close_sentence(line) if line else ""


def _say_claim(claim: Claim) -> str:
    return f"{claim.left}={format_number(claim.stated)}"


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
    if len(wanted) > 2 and (sentence := find_sentence(question, steps[fault.step - 1])):
        return close_sentence(sentence)
    words = read_content(fault.contrast_line)
    told = _split_sentences(question)
    found = [
        step for step in steps[: fault.step - 1] if wanted & {claim.stated for claim in find_claims(step)}
    ]
    scores = {sentence: _score(sentence, wanted, words) for sentence in [*told, *found]}
    best = max(scores, key=lambda sentence: scores[sentence], default="")
    if best and scores[best] >= _ENOUGH:
        return close_sentence(best)
    # With the right numbers in the wrong computation, what is asked for tells the right one.
    return told[-1] if fault.kind == "stops_early" and told else close_sentence(fault.contrast_line)


def _read_operands(claim: Claim) -> list[Fraction]:
    """Return the numbers of an equation; a fraction is one number, as the problem tells it: a half, two thirds."""
    shares = [
        Fraction(int(above), int(below)) for above, below in _SHARE.findall(claim.left) if above < below
    ]
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


def close_sentence(line: str) -> str:
    """Return a line as a sentence, with a full stop where it has no end."""
    line = " ".join(line.split()).rstrip(" ,;:")
    return line if line.endswith((".", "!", "?")) else f"{line}."
