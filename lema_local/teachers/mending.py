"""Mend slips of arithmetic in a solution and work out again, in its own words, what follows from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from lema_local.arithmetic import find_claims, find_numbers, format_number
from lema_local.steps import state_answer, states_answer
from lema_local.teachers.tracing import key, read_value

_NUMBER = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\d|,\d|\.\d)|(?<![\d.])\.\d+")
_MAX_ROUNDS = 6
"""Slips in one step that are mended one after the other."""


def mend_slips(steps: Sequence[str], first: int, gold_answer: str) -> list[str] | None:
    """Return the steps from the first slip on, mended; None where that does not reach the gold answer.

    Args:
        steps: A solution whose last step states its answer.
        first: 1-based step of the first slip; the steps before it are right.
        gold_answer: A number.
    """
    answer = read_value(gold_answer)
    if answer is None or not steps or not states_answer(steps[-1]):
        return None
    moved: dict[Fraction, Fraction] = {}
    mended = [_mend_step(step, moved) for step in steps[first - 1 : -1]]
    stated = find_numbers(_put(steps[-1], moved))
    is_sound = all(claim.is_true for step in mended for claim in find_claims(step))
    if not is_sound or len(stated) != 1 or key(stated[0]) != key(answer):
        return None
    return [*mended, state_answer(gold_answer)]


def _mend_step(step: str, moved: dict[Fraction, Fraction]) -> str:
    """Put the moved values into a step, mend what it then gets wrong, and note what moved."""
    step = _put(step, moved)
    for _ in range(_MAX_ROUNDS):
        wrong = next((claim for claim in find_claims(step) if not claim.is_true), None)
        if wrong is None:
            return step
        slip = {key(wrong.stated): wrong.value}
        moved |= slip
        step = _put_behind(step, slip)
    return step


def _put_behind(step: str, moved: dict[Fraction, Fraction]) -> str:
    """Put values in behind the first equals sign only: in `9+0=9` the operand is no slip."""
    before, sign, after = step.partition("=")
    return before + sign + _put(after, moved) if sign else _put(step, moved)


def _put(text: str, moved: dict[Fraction, Fraction]) -> str:
    return "".join(_replace(text, moved))


def _replace(text: str, moved: dict[Fraction, Fraction]) -> Iterator[str]:
    end = 0
    for match in _NUMBER.finditer(text):
        value = moved.get(key(Fraction(match.group().replace(",", ""))))
        if value is not None:
            yield text[end : match.start()] + _write(value, like=match.group())
            end = match.end()
    yield text[end:]


def _write(value: Fraction, like: str) -> str:
    written = format_number(value)
    if "," in like and value.denominator == 1:
        return f"{int(value):,}"
    return written
