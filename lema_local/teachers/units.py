"""Units of measure in a step of text: `50 inches is 4 feet` is as wrong as `50/12=4`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from lema_local.arithmetic import Claim, format_number

_SIZES = {
    "second": ("time", 1), "minute": ("time", 60), "hour": ("time", 3600), "day": ("time", 86400),
    "week": ("time", 604800), "month": ("months", 1), "year": ("months", 12),
    "inch": ("length", 1), "foot": ("length", 12), "feet": ("length", 12), "yard": ("length", 36),
    "mile": ("length", 63360), "cent": ("money", 1), "nickel": ("money", 5), "dime": ("money", 10),
    "quarter": ("money", 25), "dollar": ("money", 100), "ounce": ("weight", 1), "pound": ("weight", 16),
    "pint": ("volume", 1), "quart": ("volume", 2), "gallon": ("volume", 8),
}  # fmt: skip
"""What each unit measures, and how many of the smallest one it is."""
_STATED = re.compile(
    r"(\d[\d,]*(?:\.\d+)?) ([a-z]+) (?:is|are|equals?|=) (\d[\d,]*(?:\.\d+)?) ([a-z]+)(?! (?:and|\d))"
)
_ROUNDED = Fraction(2, 100)


def find_conversions(text: str) -> Iterator[Claim]:
    """Yield what a text says one unit comes to in another one; what is rounded to two hundredths counts as true."""
    for left, unit, right, other in _STATED.findall(text.lower()):
        one, two = _find_size(unit), _find_size(other)
        if one is None or two is None or one[0] != two[0] or one == two:
            continue
        number, stated = Fraction(left.replace(",", "")), Fraction(right.replace(",", ""))
        value = number * one[1] / two[1]
        is_true = abs(value - stated) <= _ROUNDED * value
        written = f"{format_number(number)} {unit} in {other}"
        yield Claim(written, right, value, stated, is_true, (number,), (value,), (value,), "")


def _find_size(unit: str) -> tuple[str, int] | None:
    return next((_SIZES[word] for word in (unit, unit[:-1], unit[:-2]) if word in _SIZES), None)
