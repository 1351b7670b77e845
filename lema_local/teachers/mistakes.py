"""Where a wrong solution first goes wrong, found from the gold rationale by arithmetic alone.

A solution is read as moves: each computes a value from others. Its final answer is traced back through the moves it
was made from until values are met that the gold rationale has too (or that are part of one of its sums or products).
The earliest move on that trail which the gold rationale does not know, or whose arithmetic does not hold, is the
fault. What is still needed from there on are the gold lines whose values the path has not reached.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from typing import Literal

from lema_local.answers import extract_answer
from lema_local.arithmetic import Claim, NotArithmetic, evaluate, find_claims, find_numbers, strip_marks
from lema_local.steps import split_steps, states_answer

FaultKind = Literal["arithmetic", "leaves_gold", "stops_early", "goes_too_far", "misstates"]


@dataclass(frozen=True, slots=True)
class Fault:
    """The first wrong step of a solution, and what is needed from there on."""

    step: int
    """1-based."""
    kind: FaultKind
    """arithmetic: a computation does not hold. leaves_gold: it computes what the gold rationale does not need.
    stops_early: what it states is right but is not yet the answer. goes_too_far: the answer was known before.
    misstates: the answer it states is not the one it found."""
    claim: Claim | None
    """The equation that is wrong; None where the step holds none."""
    needed: tuple[str, ...]
    """The gold lines still needed, in order, calculator marks removed; empty where all is known."""
    contrast: Claim | None
    """The gold equation that belongs in the place of `claim`."""


@dataclass(frozen=True, slots=True)
class _Move:
    """One value that a solution computes, or introduces without a computation."""

    step: int
    value: Fraction
    operands: tuple[Fraction, ...]
    claim: Claim | None


_MAX_TERMS = 7
_ALGEBRA = re.compile(r"(?<![\w'])(?:[b-hj-z]|[A-HJ-Z])(?![\w'.])|\d[xyn]\b")


class _Gold:
    """The gold rationale: its lines, the values they compute, the parts of their sums and products."""

    def __init__(self, rationale: str, answer: str) -> None:
        self.lines = [strip_marks(line) for line in split_steps(rationale) if not states_answer(line)]
        self.moves = list(_read_moves(split_steps(rationale), set()))
        self.answer = read_value(answer)
        self.has_algebra = any(_ALGEBRA.search(line) for line in self.lines)

    @cached_property
    def values(self) -> dict[Fraction, int]:
        """Each value with the index of the last line that computes it."""
        return {_key(move.value): move.step for move in self.moves}

    @cached_property
    def parts(self) -> set[Fraction]:
        """What a solution may compute on another way: sums of some terms, products of some factors of a line."""
        sums = {_key(move.value): move.claim.terms for move in self.moves if move.claim}
        products = {_key(move.value): move.claim.factors for move in self.moves if move.claim}
        parts: set[Fraction] = set()
        for move in self.moves:
            if move.claim:
                parts |= set(_combine(_expand(move.claim.terms, sums), is_sum=True))
                parts |= set(_combine(_expand(move.claim.factors, products), is_sum=False))
        return parts

    def is_known(self, value: Fraction) -> bool:
        """Whether the gold rationale reaches a value, or could on another way."""
        return _key(value) in self.values or _key(value) in self.parts

    def find_needed(self, known: set[Fraction]) -> list[int]:
        """Return the lines needed for the answer when some values are known, in order."""
        last = len(self.lines) - 1
        goal = last if self.answer is None else self.values.get(_key(self.answer), last)
        done = {move.step for move in self.moves if _key(move.value) in known}
        if self.has_algebra or not self.moves:
            return [index for index in range(len(self.lines)) if index not in done]
        needed: set[int] = set()
        open_lines = [goal] if goal not in done else []
        while open_lines:
            line = open_lines.pop()
            needed.add(line)
            open_lines += [i for i in self._find_sources(line) if i not in done and i not in needed]
        if self.answer is None or _key(self.answer) not in self.values:
            needed |= {index for index in range(len(self.lines)) if needed and index > min(needed)}
        return sorted(needed)

    def _find_sources(self, line: int) -> Iterator[int]:
        for operand in {
            _key(operand) for move in self.moves if move.step == line for operand in move.operands
        }:
            sources = [move.step for move in self.moves if move.step < line and _key(move.value) == operand]
            yield from sources[-1:]

    def find_claim(self, line: int) -> Claim | None:
        """Return the last equation of a line."""
        return next((move.claim for move in reversed(self.moves) if move.step == line and move.claim), None)


def find_fault(
    question: str, gold_rationale: str | None, gold_answer: str, steps: Sequence[str]
) -> Fault | None:
    """Return the first wrong step of a solution; None where there is none, or none can be told.

    Args:
        question: The problem's text.
        gold_rationale: One step a line; None: only arithmetic is checked.
        gold_answer: The reference answer.
        steps: The solution's steps; the last one states its answer.
    """
    moves = list(_read_moves(steps, _read_givens(question)))
    slip = next((move for move in moves if move.claim and not move.claim.is_true), None)
    if not gold_rationale:
        return Fault(slip.step + 1, "arithmetic", slip.claim, (), None) if slip else None
    gold = _Gold(gold_rationale, gold_answer)
    stated = _read_stated(steps)
    if stated is not None and gold.answer is not None and _key(stated) == _key(gold.answer):
        return _describe(gold, moves, slip, "arithmetic") if slip else None
    if slip and _is_only_slip(moves, slip, stated, gold):
        return _describe(gold, moves, slip, "arithmetic")
    left = _find_deviation(gold, moves, stated, _read_givens(question))
    first = min((move for move in (slip, left) if move), key=lambda move: move.step, default=None)
    if first is not None:
        is_slip = first is slip or (slip is not None and slip.step == first.step)
        return _describe(
            gold, moves, slip if is_slip and slip else first, "arithmetic" if is_slip else "leaves_gold"
        )
    return _describe_statement(gold, moves, stated, len(steps) - 1)


# --- reading ------------------------------------------------------------------------------------------------

_WORDS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "twenty": "20", "thirty": "30", "forty": "40",
    "fifty": "50", "sixty": "60", "hundred": "100", "thousand": "1000", "half": "1/2", "twice": "2", "double": "2",
    "doubles": "2", "doubled": "2", "thrice": "3", "triple": "3", "quarter": "1/4", "third": "1/3", "dozen": "12",
    "couple": "2", "pair": "2", "pairs": "2", "both": "2",
}  # fmt: skip


def read_value(answer: str) -> Fraction | None:
    """Return the number that an answer is; None where it is none."""
    numbers = find_numbers(answer)
    if len(numbers) != 1:
        return None
    return -numbers[0] if answer.strip().lstrip("$ ").startswith("-") else numbers[0]


def read_words(text: str) -> list[Fraction]:
    """Return the numbers that are written as words: `twice`, `three`, `a dozen`."""
    return [Fraction(_WORDS[word]) for word in re.findall(r"[a-z]+", text.lower()) if word in _WORDS]


def _read_givens(question: str) -> set[Fraction]:
    return {_key(number) for number in [*find_numbers(question), *read_words(question)]}


def _read_moves(steps: Sequence[str], givens: set[Fraction]) -> Iterator[_Move]:
    """Yield the moves of a solution. A step without an equation introduces the last number that is new in it."""
    known = set(givens)
    for index, step in enumerate(steps):
        claims = [] if states_answer(step) else find_claims(step)
        for claim in claims:
            known |= {_key(claim.stated), *map(_key, claim.operands)}
            yield _Move(index, claim.stated, claim.operands, claim)
        fresh = [n for n in find_numbers(step) if _key(n) not in known] if not claims else []
        if fresh and not states_answer(step):
            known |= set(map(_key, fresh))
            yield _Move(index, fresh[-1], tuple(n for n in find_numbers(step) if n not in fresh), None)


def _read_stated(steps: Sequence[str]) -> Fraction | None:
    answer = extract_answer(steps[-1]) if steps else None
    return read_value(answer) if answer else None


def _key(value: Fraction) -> Fraction:
    """Return a value in the precision in which people write it, without its sign: 8/3 and 2.67 are one."""
    value = abs(value)
    return value if value.denominator == 1 else round(value, 2 if value >= 1 else 3)


def _expand(parts: Sequence[Fraction], inner: dict[Fraction, tuple[Fraction, ...]]) -> list[Fraction]:
    """Put a line's own terms in the place of each term that it computed: 60-40 with 40=15+25 is 60-15-25."""
    expanded: list[Fraction] = []
    for part in parts:
        below = inner.get(_key(part), (part,))
        sign = -1 if part < 0 and sum(below) > 0 else 1
        expanded += [sign * term for term in below] if len(below) > 1 else [part]
    return expanded if len(expanded) <= _MAX_TERMS else list(parts)


def _combine(parts: Sequence[Fraction], *, is_sum: bool) -> Iterator[Fraction]:
    for size in range(2, len(parts)) if len(parts) <= _MAX_TERMS else ():
        for chosen in combinations(parts, size):
            total = Fraction(0) if is_sum else Fraction(1)
            for part in chosen:
                total = total + part if is_sum else total * part
            yield _key(total)


# --- tracing ------------------------------------------------------------------------------------------------


def _find_deviation(
    gold: _Gold, moves: Sequence[_Move], stated: Fraction | None, givens: set[Fraction]
) -> _Move | None:
    """Return the earliest move on the trail to the stated answer that the gold rationale does not know."""
    final = next(
        (move for move in reversed(moves) if stated is not None and _key(move.value) == _key(stated)), None
    )
    if final is None:
        return next((move for move in moves if not gold.is_known(move.value)), None)
    trail, open_moves = [], [final]
    while open_moves:
        move = open_moves.pop()
        if move in trail or _is_gold(gold, move):
            continue
        trail.append(move)
        open_moves += _find_makers(move, moves, givens)
    return min(trail, key=lambda move: move.step, default=None)


def _is_gold(gold: _Gold, move: _Move) -> bool:
    return gold.is_known(move.value) and (move.claim is None or move.claim.is_true)


def _find_makers(move: _Move, moves: Sequence[_Move], givens: set[Fraction]) -> list[_Move]:
    """Return the moves that a move's operands come from; a number of the question comes from there."""
    makers = []
    before = [other for other in moves[: moves.index(move)] if other.step < move.step or other.claim]
    for operand in map(_key, move.operands):
        maker = next((other for other in reversed(before) if _key(other.value) == operand), None)
        if maker and (operand not in givens or maker is before[-1]):
            makers.append(maker)
    return makers


def _is_only_slip(moves: Sequence[_Move], slip: _Move, stated: Fraction | None, gold: _Gold) -> bool:
    """Whether the solution reaches the gold answer once the slip is mended and all behind it worked out again."""
    if stated is None or gold.answer is None or slip.claim is None:
        return False
    mended = {_key(slip.value): slip.claim.value}
    for move in moves[moves.index(slip) + 1 :]:
        if move.claim and (value := _work_out(move.claim.left, mended)) is not None:
            mended[_key(move.value)] = value
    return _key(mended.get(_key(stated), stated)) == _key(gold.answer)


def _work_out(expression: str, mended: dict[Fraction, Fraction]) -> Fraction | None:
    def mend(match: re.Match[str]) -> str:
        value = mended.get(_key(Fraction(match.group().replace(",", ""))))
        return match.group() if value is None else f"({value})"

    try:
        return evaluate(re.sub(r"\d[\d,]*(?:\.\d+)?|\.\d+", mend, expression))
    except NotArithmetic:
        return None


# --- describing ---------------------------------------------------------------------------------------------


def _describe(gold: _Gold, moves: Sequence[_Move], wrong: _Move, kind: FaultKind) -> Fault:
    needed = gold.find_needed(_find_known(moves, wrong.step))
    if not needed and kind == "leaves_gold":
        kind = "goes_too_far"
    contrast = _find_contrast(gold, needed, wrong.claim)
    return Fault(wrong.step + 1, kind, wrong.claim, tuple(gold.lines[i] for i in needed), contrast)


def _describe_statement(gold: _Gold, moves: Sequence[_Move], stated: Fraction | None, step: int) -> Fault:
    """All that was computed is right: the answer is stated too early, or is another than was found."""
    needed = gold.find_needed(_find_known(moves, step))
    kind: FaultKind = "stops_early" if needed else "misstates"
    contrast = gold.find_claim(needed[0]) if needed else None
    return Fault(step + 1, kind, None, tuple(gold.lines[i] for i in needed), contrast)


def _find_known(moves: Iterable[_Move], step: int) -> set[Fraction]:
    return {_key(m.value) for m in moves if m.step < step and (m.claim is None or m.claim.is_true)}


def _find_contrast(gold: _Gold, needed: Sequence[int], claim: Claim | None) -> Claim | None:
    """Return the needed gold equation that shares most numbers with the wrong one; the first where none does."""
    claims = [found for index in needed if (found := gold.find_claim(index))]
    if claim is None or not claims:
        return claims[0] if claims else None
    mine = set(map(_key, claim.operands))
    return max(claims, key=lambda other: len(mine & set(map(_key, other.operands))))
