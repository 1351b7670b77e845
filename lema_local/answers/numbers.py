"""Plain numbers, exactly: integers, decimals, fractions, mixed numbers, percentages, number words, units.

A number is a `Fraction` with the precision it was written in. What is not a plain number is left to others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_NUMBER_CHARS = 400
"""Longer digit strings are not numbers that a problem asks for; Python's own limit is 4,300 digits."""
MAX_EXPONENT = 300


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written."""

    value: Fraction
    decimals: int
    """Digits behind the point as written, 0 for integers and fractions."""
    is_fraction: bool
    """Written as a fraction or a mixed number."""
    unit: str = ""
    """What follows the number, in lower case: `dollars per day`, `%`, or nothing."""

    @property
    def is_exact(self) -> bool:
        """Whether equality is exact: integers and fractions are, a decimal holds to its own precision."""
        return self.decimals == 0 or self.value.denominator == 1

    @property
    def plain(self) -> str:
        """The number alone, without unit, currency and separators: `8.24`, `7/2`, `1000`."""
        if self.is_fraction or self.decimals == 0:
            return str(self.value)
        digits = str(round(abs(self.value) * 10**self.decimals)).rjust(self.decimals + 1, "0")
        sign = "-" if self.value < 0 else ""
        return f"{sign}{digits[: -self.decimals]}.{digits[-self.decimals :]}"


_DIGITS = r"(?:\d{1,3}(?:[, ]\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_CURRENCY = r"(?:USD|EUR|GBP|Rs\.?|[$\u00a3\u20ac\u00a5\u20b9])"
_BRACED = rf"\{{\s*(-?{_DIGITS})\s*\}}"
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?")
_NUMBER = re.compile(
    rf"""
    (?P<sign>[-+]?)\s*(?:{_CURRENCY}\s*)?(?P<sign2>-?)\s*
    (?:
        (?P<whole>\d+)?\s*\\frac\s*{_BRACED.replace("(", "(?P<top>", 1)}\s*{_BRACED.replace("(", "(?P<bottom>", 1)}
      | (?:(?P<whole2>\d+)(?:\s+|\s+and\s+))?(?P<top2>{_DIGITS})\s*/\s*(?P<bottom2>{_DIGITS})
      | (?P<mantissa>{_DECIMAL})(?:[eE](?P<exponent>[-+]?\d{{1,4}})(?![\w.])
          |\s*(?:\*|x|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*\{{?\s*(?P<exponent2>[-+]?\d{{1,4}})\s*\}}?)?
    )
    """,
    re.VERBOSE,
)
_WORD = r"(?>[a-zA-Z\u00c0-\u024f][\w'\u00c0-\u024f]*+)"
_POWER = r"(?:\s*\^\s*\{?\s*-?[123]\s*\}?)?"
_MULTIPLIERS = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MULTIPLIER = re.compile(r"[\s-]*(hundred|thousand|million|billion|trillion)s?\b", re.IGNORECASE)
# A unit is words, with powers and slashes: `dollars per day`, `km/h`, `square cm`, `cm^2`, `degrees`, `%`.
_UNIT = re.compile(
    rf"""\s*-?\s*(?:(?:%|["'\u00a2\u00a3\u20ac\u00a5\u20b9])\s*)?
    (?:\(?{_WORD}\.?\)?{_POWER}(?:(?:\s*[/*,-]\s*|\s+)\(?{_WORD}\.?\)?{_POWER})*+)?\s*""",
    re.VERBOSE,
)
# Words that make an expression or a list of what they follow, and so are no unit.
_NO_UNIT = re.compile(
    r"\b(?:and|or|pi|sqrt|sin|cos|tan|log|ln|exp|mod|plus|minus|times(?=\s+[a-z]$)|divided|over|to|if|choose|squared|cubed|"
    r"not|is|are|was|half|thirds?|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|base|"
    r"i|e|remainder|r|isn|aren)\b",
    re.IGNORECASE,
)
_SINGLE_LETTER = re.compile(r"(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])")
_METRIC_LETTERS = frozenset("mgshLlKCFV")
_APPROXIMATELY = re.compile(
    r"^(?:(?:approximately|approx\.?|about|around|roughly|nearly|almost|exactly|only|just|a total of|"
    r"\\approx|~|=)\s*)+",
    re.IGNORECASE,
)

_UNITS_AND_TEENS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_WORD_VALUES = {word: value for value, word in enumerate(_UNITS_AND_TEENS.split())}
_TENS = {
    word: 10 * (position + 2)
    for position, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    )
}
_PART_WORDS = {
    "half": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "eighth": 8,
    "tenth": 10,
}


@lru_cache(maxsize=8192)
def parse_number(text: str) -> Number | None:
    """Return the plain number that a cleaned answer is, units and currency aside; None where it is none."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    if _PLAIN.fullmatch(text):
        return _from_decimal(text)
    text = _APPROXIMATELY.sub("", text)
    if text[:1] == "(" and text[-1:] == ")" and text.count("(") == 1:
        text = text[1:-1].strip()
    match = _NUMBER.match(text)
    if match is None:
        return _parse_words(text)
    number = _from_match(match)
    return None if number is None else _with_unit(number, text[match.end() :])


def _from_decimal(text: str) -> Number:
    _, point, behind = text.partition(".")
    return Number(Fraction(text), len(behind) if point else 0, is_fraction=False)


def _from_match(match: re.Match[str]) -> Number | None:
    sign = -1 if (match["sign"] == "-") != (match["sign2"] == "-") else 1
    top, bottom = match["top"] or match["top2"], match["bottom"] or match["bottom2"]
    if top is None:
        number = _from_decimal(_join_digits(match["mantissa"]))
        exponent = int(match["exponent"] or match["exponent2"] or 0)
        if abs(exponent) > MAX_EXPONENT:
            return None
        value = sign * number.value * Fraction(10) ** exponent
        return Number(value, max(0, number.decimals - exponent), is_fraction=False)
    denominator = int(_join_digits(bottom))
    if denominator == 0:
        return None
    whole = int(match["whole"] or match["whole2"] or 0)
    return Number(sign * (whole + Fraction(int(_join_digits(top)), denominator)), 0, is_fraction=True)


def _join_digits(text: str) -> str:
    return text.replace(",", "").replace(" ", "")


def _with_unit(number: Number, rest: str) -> Number | None:
    """Return the number with the unit that `rest` is, None where `rest` is more than a unit."""
    if not rest.strip():
        return number
    multiplier = _MULTIPLIER.match(rest)
    if multiplier:
        factor = _MULTIPLIERS[multiplier[1].lower()]
        digits = len(str(factor)) - 1
        number = Number(number.value * factor, max(0, number.decimals - digits), number.is_fraction)
        rest = rest[multiplier.end() :]
    if not _UNIT.fullmatch(rest) or _NO_UNIT.search(rest):
        return None
    letters = _SINGLE_LETTER.findall(rest)
    # `12x` is an expression, `12 m` a length.
    if letters and not (_METRIC_LETTERS.issuperset(letters) or re.search(r"[a-zA-Z]{2}", rest)):
        return None
    return Number(
        number.value, number.decimals, number.is_fraction, " ".join(rest.lower().split()).strip(" .-")
    )


def _parse_words(text: str) -> Number | None:
    """Return `twenty-five apples` or `two thirds` as a number; None where the text does not begin with one."""
    words = re.split(r"[\s-]+", text.strip())
    if not words or len(words) > 20:
        return None
    total, current, used = 0, 0, 0
    for position, word in enumerate(words):
        lower = word.lower().strip(",.")
        if lower in _WORD_VALUES or lower in _TENS:
            current += _WORD_VALUES.get(lower, 0) or _TENS.get(lower, 0)
        elif lower == "hundred" and used:
            current *= 100
        elif lower in _MULTIPLIERS and used:
            total, current = total + current * _MULTIPLIERS[lower], 0
        elif (
            lower == "and"
            and used
            and position + 1 < len(words)
            and words[position + 1].lower()
            in {
                **_WORD_VALUES,
                **_TENS,
            }
        ):
            continue
        else:
            break
        used = position + 1
    rest = " ".join(words[used:])
    part = re.fullmatch(r"(half|third|quarter|fourth|fifth|sixth|eighth|tenth)s?(\s.*)?", rest, re.IGNORECASE)
    if part and (used or part[1].lower() == "half"):
        return Number(Fraction(total + current or 1, _PART_WORDS[part[1].lower()]), 0, is_fraction=True)
    if not used:
        return None
    return _with_unit(Number(Fraction(total + current), 0, is_fraction=False), f" {rest}" if rest else "")


def is_equal_number(gold: Number, prediction: Number) -> bool:
    """Whether a prediction is the gold number: exactly, or to the precision that a decimal gold is written in.

    A percentage is its number (`10%` is 10, never 0.1); the same number of another unit is another answer.
    """
    if has_other_unit(gold.unit, prediction.unit):
        return False
    if gold.value == prediction.value:
        return True
    if gold.is_exact:
        return False
    return abs(gold.value - prediction.value) * 2 <= Fraction(1, 10**gold.decimals)


_UNIT_NAMES = {
    alias: names.split()[0]
    for names in (
        "mm millimeter millimeters millimetre millimetres",
        "cm centimeter centimeters centimetre centimetres",
        "m meter meters metre metres",
        "km kilometer kilometers kilometre kilometres",
        "inch inches",
        "ft foot feet",
        "yd yard yards",
        "mi mile miles",
        "mg milligram milligrams",
        "g gram grams",
        "kg kilogram kilograms kilo kilos",
        "lb lbs pound pounds",
        "oz ounce ounces",
        "ml milliliter milliliters millilitre millilitres",
        "l liter liters litre litres",
        "second seconds sec secs s",
        "minute minutes min mins",
        "hour hours hr hrs h",
        "day days",
        "week weeks",
        "month months",
        "year years yr yrs",
        "cent cents",
        "dollar dollars usd",
    )
    for alias in names.split()
}


_MEASURE_WORDS = "|".join(
    sorted(
        [
            *(name for name in _UNIT_NAMES if len(name) > 1),
            "units?",
            "square",
            "sq",
            "cubic",
            "cu",
            "radians?",
            "percent",
        ],
        key=len,
    )[::-1]
)
_TRAILING_MEASURE = re.compile(
    rf"\s*(?:%|(?<![a-zA-Z\\])(?:(?:{_MEASURE_WORDS})\b\.?{_POWER}\s*(?:(?:/|per\b)\s*)?)+)$"
)


def strip_unit(text: str) -> str:
    """Return an expression without a known unit of measure behind it: `36\\pi cm^2` becomes `36\\pi`.

    Units of one letter stay: in an expression they are variables.
    """
    return _TRAILING_MEASURE.sub("", text) or text


def has_other_unit(gold: str, prediction: str) -> bool:
    """Whether both name a unit of measure, and not the same one (`5 hours`, `5 minutes`)."""
    if not gold or not prediction or gold == prediction:
        return False
    known = [_UNIT_NAMES.get(unit.split(" ")[0].strip(".,()")) for unit in (gold, prediction)]
    return None not in known and known[0] != known[1]
