"""Equations with one letter in a step of text: what the letter comes to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from lema_local.arithmetic import NotArithmetic, read_expression

_LETTER = re.compile(r"(?<![A-Za-z'’])[b-zB-Z](?![A-Za-z'’])")  # noqa: RUF001
_TEXT = re.compile(r"[A-Za-z]{2,}|[,;:](?=\s)|\.(?=\s|$)")
"""What cannot stand inside an expression."""


@dataclass(frozen=True, slots=True)
class Equation:
    """`4x+32 = 2(x+32)` and its only solution."""

    written: str
    letter: str
    solution: Fraction


def find_equations(text: str) -> Iterator[Equation]:
    """Yield the equations of a text in which one letter stands for a number, where they are linear."""
    for left, right in pairwise(text.split("=")):
        left, right = _TEXT.split(left)[-1].strip(), _TEXT.split(right)[0].strip()
        letters = set(_LETTER.findall(f"{left} {right}"))
        if len(letters) == 1 and (solution := _solve(left, right, letter := letters.pop())) is not None:
            yield Equation(f"{left}={right}".replace(" ", ""), letter, solution)


def _solve(left: str, right: str, letter: str) -> Fraction | None:
    """Return where a line through the values at 0 and 1 is zero; None where those at 0, 1 and 2 lie on no line."""
    try:
        zero, one, two = (_put(left, letter, value) - _put(right, letter, value) for value in range(3))
    except NotArithmetic:
        return None
    slope = one - zero
    return -zero / slope if slope and two - one == slope else None


def _put(side: str, letter: str, value: int) -> Fraction:
    side = re.sub(rf"(?<=[\d)])\s*{letter}(?![A-Za-z])", f"*({value})", side)
    side = re.sub(rf"(?<![A-Za-z]){letter}(?![A-Za-z])", f"({value})", side)
    return read_expression(re.sub(r"(?<=\d)\s*\(", "*(", side)).value
