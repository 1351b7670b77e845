"""Read a solution as moves: each computes a value, as a function of the numbers that the problem gives.

Two computations that come to one number need not be the same computation. So each move has *forms*: what it comes to
when every number of the problem is shifted a little, all exact. Equal forms mean the same function of what is given
(`60/2*4` and `4/2*60`); equal values alone may be chance (`18-6` and `30-18`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice, product

from lema_local.arithmetic import (
    Claim,
    Expression,
    NotArithmetic,
    find_claims,
    find_numbers,
    read_expression,
    strip_marks,
)
from lema_local.steps import states_answer

_MAX_FORMS = 32
"""A number may be given, computed before, or a constant: so many readings of one equation are followed."""
_TIMES = re.compile(r"\b\d+(?:\.\d+)? times\b")
"""`2 times as big` says how numbers belong together, and brings none in."""
_FRACTION = re.compile(r"(\d+)/(\d+)")
_CONSTANTS = frozenset(map(Fraction, (0, 1, 2, 3, 4, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000)))
"""Numbers that a solution may bring in by itself: a half, a week, a dozen, a percent."""
_TWOFOLD = frozenset(map(Fraction, (1, 2, 7, 12, 60, 100)))
"""Those that are so common that they may be meant so even where the problem gives them."""
_PRIMES = (
    101, 211, 307, 401, 503, 601, 701, 809, 907, 1009, 1103, 1201, 1301, 1409, 1511, 1601, 1709, 1801, 1901, 2003,
    2111, 2203, 2309, 2411, 2503, 2609, 2707, 2801, 2903, 3001,
)  # fmt: skip

WORDS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14", "fifteen": "15",
    "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20", "thirty": "30",
    "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90", "hundred": "100",
    "thousand": "1000", "half": "1/2", "twice": "2", "double": "2", "doubles": "2", "doubled": "2", "thrice": "3",
    "triple": "3", "quarter": "1/4", "third": "1/3", "dozen": "12", "couple": "2", "pair": "2", "pairs": "2",
    "both": "2",
}  # fmt: skip
_COMPOUND = re.compile(
    r"\b(twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)[- ](one|two|three|four|five|six|seven|eight|nine)\b"
)
COMMON = frozenset({
    "after", "all", "also", "and", "are", "because", "been", "before", "but", "can", "each", "finally", "find",
    "first", "for", "from", "get", "gets", "had", "has", "have", "her", "his", "how", "into", "its", "let", "makes",
    "many", "means", "more", "much", "needs", "next", "not", "now", "one", "she", "takes", "than", "that", "the",
    "their", "them", "then", "there", "therefore", "they", "this", "thus", "total", "was", "were", "what", "when",
    "which", "will", "with", "would", "you",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Move:
    """One value that a solution computes, or introduces without a computation."""

    step: int
    """0-based."""
    value: Fraction
    """As the step states it."""
    claim: Claim | None
    operands: tuple[Fraction, ...]
    plain: str
    """The step's words without its numbers."""
    forms: frozenset[Fraction]
    """What the computation comes to in the shifted problem; empty where the value has no computation."""
    operand_forms: frozenset[Fraction]
    shifted: Expression | None
    """The computation in the shifted problem, with its terms and factors; None where there is none."""
    has_own_numbers: bool
    """A number in it is neither given, nor computed before, nor a common constant."""
    is_guess: bool = False
    """Its value came without a computation, and no single one of known numbers gives it."""

    @property
    def is_sound(self) -> bool:
        """Whether its arithmetic holds."""
        return self.claim is None or self.claim.is_true


class Givens:
    """The numbers of a problem and what they are shifted to."""

    def __init__(self, question: str) -> None:
        digits = sorted(set(find_numbers(question)))
        told = sorted({number for number in read_words(question) if number > 2} - set(digits))
        self.numbers = frozenset(map(key, [*digits, *read_words(question)]))
        shifts = (Fraction(prime, 10007) for prime in _PRIMES)
        shifted = {number: number + shift for number, shift in zip([*digits, *told], shifts, strict=False)}
        self._forms: dict[Fraction, set[Fraction]] = defaultdict(set)
        for number, form in shifted.items():
            # A percentage is met as 30, 0.3, 0.7 and 1.3.
            self._add(number, form)
            self._add(number / 100, form / 100)
            self._add(1 - number / 100, 1 - form / 100)
            self._add(1 + number / 100, 1 + form / 100)
        for above, below in _FRACTION.findall(question):
            one, other = shifted.get(Fraction(above)), shifted.get(Fraction(below))
            if one and other and int(below):
                share = Fraction(int(above), int(below))
                self._add(share, one / other)
                self._add(1 - share, 1 - one / other)

    def _add(self, number: Fraction, form: Fraction) -> None:
        self._forms[key(number)].add(form)

    def find_forms(self, number: Fraction) -> set[Fraction]:
        """Return what a number is shifted to; nothing where it is not given."""
        return self._forms.get(key(number), set())


class _Reader:
    """Reads the steps of one solution, and remembers what was computed on the way."""

    def __init__(self, givens: Givens, mental: Mapping[Fraction, frozenset[Fraction]]) -> None:
        self.givens = givens
        self.mental = mental
        self.known = set(givens.numbers)
        self.told: set[Fraction] = set()
        """Values that came without a computation and mean nothing known."""
        self.computed: dict[Fraction, frozenset[Fraction]] = defaultdict(frozenset)

    def read_step(self, index: int, step: str) -> Iterator[Move]:
        plain = read_plain(step)
        claims = find_claims(step)
        last: Claim | None = None
        for claim in claims:
            move = self._read_claim(index, claim, plain)
            if last is not None and key(last.stated) == key(claim.value):
                # In "50 + 0.3*50 = 50 + 15 = 65" the 15 is explained by what stands before it.
                move = replace(
                    move, forms=move.forms | self.computed[key(claim.value)], has_own_numbers=False
                )
            last = claim
            yield move
            # Numbers are looked up without their sign: what -60 means is kept as what 60 means.
            sign = -1 if claim.stated < 0 else 1
            self.computed[key(claim.stated)] |= {sign * form for form in move.forms}
            self.known |= {key(claim.stated), *keys(claim.operands)}
        if not claims:
            yield from self._read_told(index, step, plain)

    def _read_claim(self, index: int, claim: Claim, plain: str) -> Move:
        readings = [self._read_number(abs(number)) for number in claim.operands]
        found = list(_find_forms(claim.left, readings))
        return Move(
            step=index,
            value=claim.stated,
            claim=claim,
            operands=claim.operands,
            plain=plain,
            forms=frozenset(expression.value for expression in found),
            operand_forms=frozenset(form for reading in readings for form in reading),
            shifted=found[0] if found else None,
            has_own_numbers=any(map(self._is_own, claim.operands)),
        )

    def _read_told(self, index: int, step: str, plain: str) -> Iterator[Move]:
        """A step without an equation introduces the last number that is new in it."""
        numbers = find_numbers(_TIMES.sub(" ", step))
        # "1 egg" may say no more than "an egg".
        fresh = [number for number in numbers if key(number) not in self.known and number != 1]
        if fresh:
            rest = tuple(number for number in numbers if number not in fresh)
            forms = self.mental.get(key(fresh[-1]), frozenset())
            is_guess = self.is_guessed(fresh[-1])
            yield Move(index, fresh[-1], None, rest, plain, forms, frozenset(), None, True, is_guess)
            self.known |= keys(fresh)
            if not forms:
                self.told.add(key(fresh[-1]))

    def is_guessed(self, value: Fraction) -> bool:
        """Whether a value that came without a computation cannot come from two known numbers by one either."""
        known = [*self.known, *_CONSTANTS]
        for one in known:
            found = {
                one + value,
                one - value,
                one * value,
                value / one if one else value,
                one / value if value else one,
            }
            if keys(found) & {key(other) for other in known}:
                return False
        return True

    def _read_number(self, number: Fraction) -> list[Fraction]:
        forms = self.computed[key(number)] | self.givens.find_forms(number)
        forms = forms or self.mental.get(key(number), frozenset())
        return sorted(forms | {number} if not forms or number in _TWOFOLD else forms)

    def _is_own(self, number: Fraction) -> bool:
        if key(number) in self.told:
            return True
        is_common = abs(number) in _CONSTANTS or key(number) in self.mental
        return not (is_common or self.computed[key(number)] or self.givens.find_forms(number))


def read_moves(
    steps: Sequence[str], givens: Givens, mental: Mapping[Fraction, frozenset[Fraction]] | None = None
) -> list[Move]:
    """Return the moves of a solution.

    Args:
        steps: Its steps.
        givens: The problem's numbers.
        mental: What a number means that comes out of nowhere, by its key: the gold rationale's forms of that value.
    """
    reader = _Reader(givens, mental or {})
    return [
        move for i, step in enumerate(steps) if not states_answer(step) for move in reader.read_step(i, step)
    ]


def _find_forms(expression: str, readings: Sequence[list[Fraction]]) -> Iterator[Expression]:
    for chosen in islice(product(*readings), _MAX_FORMS):
        try:
            yield read_expression(expression, chosen)
        except NotArithmetic:
            continue


def key(value: Fraction) -> Fraction:
    """Return a value in the precision in which people write it, without its sign: 8/3 and 2.67 are one."""
    value = abs(value)
    return value if value.denominator == 1 else round(value, 2 if value >= 1 else 3)


def keys(values: Iterable[Fraction]) -> frozenset[Fraction]:
    """Return the keys of several values."""
    return frozenset(map(key, values))


def read_value(answer: str) -> Fraction | None:
    """Return the number that an answer is; None where it is none."""
    numbers = find_numbers(answer)
    if len(numbers) != 1:
        return None
    return -numbers[0] if answer.strip().lstrip("$ ").startswith("-") else numbers[0]


def read_words(text: str) -> list[Fraction]:
    """Return the numbers that are written as words: `twice`, `three`, `a dozen`."""
    text = text.lower()
    compounds = [Fraction(WORDS[tens]) + Fraction(WORDS[ones]) for tens, ones in _COMPOUND.findall(text)]
    words = re.findall(r"[a-z]+", _COMPOUND.sub(" ", text))
    return [*compounds, *(Fraction(WORDS[word]) for word in words if word in WORDS)]


def read_plain(step: str) -> str:
    """Return a step's words without its numbers."""
    return " ".join(re.findall(r"[^\W\d_]+", strip_marks(step).lower()))


def read_content(text: str) -> set[str]:
    """Return the stems of a text's telling words."""
    words = re.findall(r"[a-z]{3,}", text.lower())
    return {word.rstrip("s")[:6] for word in words if word not in COMMON}
