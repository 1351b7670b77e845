"""Where a wrong solution first goes wrong, found from the gold rationale by arithmetic alone.

A solution is read as moves: each computes a value from others. Its final answer is traced back through the moves it
was made from until values are met that the gold rationale has too (or that are part of one of its sums or products).
The earliest move on that trail which the gold rationale does not know, or whose arithmetic does not hold, is the
fault. What is still needed from there on are the gold lines whose values the path has not reached.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from typing import Literal

from lema_local.answers import extract_answer
from lema_local.arithmetic import Claim, NotArithmetic, evaluate, find_claims, find_numbers, strip_marks
from lema_local.steps import split_steps, states_answer

FaultKind = Literal["arithmetic", "leaves_gold", "leaves_out", "stops_early", "goes_too_far", "misstates"]


@dataclass(frozen=True, slots=True)
class Fault:
    """The first wrong step of a solution, and what is needed from there on."""

    step: int
    """1-based."""
    kind: FaultKind
    """arithmetic: a computation does not hold. leaves_gold: it computes what the gold rationale does not need.
    leaves_out: a computation that has to come first is missing. stops_early: what is found is right but not yet the
    answer. goes_too_far: the answer was known before. misstates: the answer stated is not the one found."""
    claim: Claim | None
    """The equation that is wrong; None where the step holds none."""
    needed: tuple[str, ...] = ()
    """The gold lines still needed, in an order that works, calculator marks removed; empty where all is known."""
    contrast: Claim | None = None
    """The gold equation that belongs in the place of `claim`."""
    contrast_line: str = ""
    """The gold line that holds `contrast`."""


@dataclass(frozen=True, slots=True)
class _Move:
    """One value that a solution computes, or introduces without a computation."""

    step: int
    value: Fraction
    operands: tuple[Fraction, ...]
    claim: Claim | None
    words: str
    """The step's words without its numbers."""

    @property
    def is_sound(self) -> bool:
        return self.claim is None or self.claim.is_true


@dataclass(frozen=True, slots=True)
class _Part:
    """Some terms of a gold sum or some factors of a gold product, worked out, and those that are left."""

    value: Fraction
    rest: frozenset[Fraction]


_MAX_TERMS = 7
_ALGEBRA = re.compile(r"(?<![\w'])(?:[b-hj-z]|[A-HJ-Z])(?![\w'.])|\d[a-fi-jn-z]\b")


class _Gold:
    """The gold rationale: its lines, the values they compute, the parts of their sums and products."""

    def __init__(self, rationale: str, answer: str) -> None:
        lines = [line for line in split_steps(rationale) if not states_answer(line)]
        self.lines = [strip_marks(line) for line in lines]
        self.moves = list(_read_moves(lines, set()))
        self.answer = read_value(answer)
        self.has_algebra = any(_ALGEBRA.search(line) for line in self.lines)

    @cached_property
    def parts(self) -> dict[Fraction, list[_Part]]:
        """What a solution may compute on another way to a line."""
        sums = {_key(move.value): move.claim.terms for move in self.moves if move.claim}
        products = {_key(move.value): move.claim.factors for move in self.moves if move.claim}
        parts: dict[Fraction, list[_Part]] = defaultdict(list)
        for claim in (move.claim for move in self.moves if move.claim):
            for part in (
                *_combine(_expand(claim.terms, sums), is_sum=True),
                *_combine(_expand(claim.factors, products), is_sum=False),
            ):
                parts[part.value].append(part)
        return parts

    def match(self, moves: Sequence[_Move]) -> list[int | None]:
        """Return for each move of a solution the line that it does the work of; each line is matched by value once.

        A line that is done already is matched again only by the same numbers: a value may come about by chance.
        """
        done: set[int] = set()
        strange: set[Fraction] = set()
        matched: list[int | None] = []
        for move in moves:
            line = self._match_one(move, done, strange) if move.is_sound else None
            matched.append(line)
            if line is not None:
                done.add(line)
            elif _key(move.value) not in self.parts:
                strange.add(_key(move.value))
        return matched

    def _match_one(self, move: _Move, done: set[int], strange: set[Fraction]) -> int | None:
        same = [gold for gold in self.moves if _key(gold.value) == _key(move.value)]
        # A step in the very words of another line is that line gone wrong, whatever it comes to.
        told = (
            {gold.step for gold in self.moves if gold.words == move.words}
            if move.words.count(" ") > 1
            else set()
        )
        same = [gold for gold in same if not told or gold.step in told]
        same_numbers = [gold.step for gold in same if _keys(gold.operands) == _keys(move.operands)]
        fresh = [
            gold.step for gold in same if gold.step not in done and not _is_by_chance(move, gold, strange)
        ]
        return next(iter([*same_numbers, *fresh]), None)

    def contradicts(self, move: _Move) -> bool:
        """Whether a move says a line's very words and comes to what neither that line nor a part of one does."""
        told = {
            _key(gold.value) for gold in self.moves if gold.words == move.words and move.words.count(" ") > 1
        }
        return bool(told) and _key(move.value) not in told and _key(move.value) not in self.parts

    def find_needed(self, done: set[int]) -> list[int]:
        """Return the lines needed for the answer when some are done, in order."""
        last = len(self.lines) - 1
        reached = [
            move.step
            for move in self.moves
            if self.answer is not None and _key(move.value) == _key(self.answer)
        ]
        goal = reached[-1] if reached else last
        if self.has_algebra or not self.moves:
            return [index for index in range(len(self.lines)) if index not in done]
        needed: set[int] = set()
        open_lines = [goal] if goal not in done else []
        while open_lines:
            line = open_lines.pop()
            needed.add(line)
            open_lines += [i for i in self.find_sources(line) if i not in done and i not in needed]
        if not reached and needed:
            needed |= set(range(min(needed), last + 1)) - done
        return sorted(needed)

    def find_sources(self, line: int) -> Iterator[int]:
        """Yield the lines whose values a line uses."""
        for operand in _keys(
            [operand for move in self.moves if move.step == line for operand in move.operands]
        ):
            sources = [move.step for move in self.moves if move.step < line and _key(move.value) == operand]
            yield from sources[-1:]

    def find_claim(self, line: int) -> Claim | None:
        """Return the last equation of a line."""
        return next((move.claim for move in reversed(self.moves) if move.step == line and move.claim), None)


class _Trace:
    """A solution read against the gold rationale."""

    def __init__(self, question: str, gold: _Gold, steps: Sequence[str]) -> None:
        self.question = question
        self.gold = gold
        self.steps = steps
        self.givens = _read_givens(question)
        self.moves = list(_read_moves(steps, self.givens))
        self.lines = gold.match(self.moves)
        self.stated = _read_stated(steps)

    @property
    def slip(self) -> int | None:
        """The first move whose arithmetic does not hold."""
        return next((index for index, move in enumerate(self.moves) if not move.is_sound), None)

    def is_right(self) -> bool:
        """Whether the answer that the solution states is the gold answer."""
        return None not in (self.stated, self.gold.answer) and self._is_answer(self.stated)

    def is_only_slip(self, slip: int) -> bool:
        """Whether the solution reaches the gold answer once the slip is mended and all behind it worked out again."""
        claim = self.moves[slip].claim
        if self.stated is None or claim is None:
            return False
        mended = {_key(claim.stated): claim.value}
        for move in self.moves[slip + 1 :]:
            if move.claim and (value := _work_out(move.claim.left, mended)) is not None:
                mended[_key(move.value)] = value
        return self._is_answer(mended.get(_key(self.stated), self.stated))

    def _is_answer(self, value: Fraction | None) -> bool:
        return value is not None and self.gold.answer is not None and _key(value) == _key(self.gold.answer)

    def find_deviation(self) -> int | None:
        """Return the earliest move on the trail to the stated answer that the gold rationale does not know."""
        final = self._find_final()
        if final is None:
            return next(
                (i for i, line in enumerate(self.lines) if line is None and not self._is_part(i, None)), None
            )
        trail: set[int] = set()
        open_moves: list[tuple[int, int | None]] = [(final, None)]
        while open_moves:
            index, user = open_moves.pop()
            is_known = self.lines[index] is not None or (user is not None and self._is_part(index, user))
            if index not in trail and not is_known:
                trail.add(index)
                open_moves += [(maker, index) for maker in self._find_makers(index)]
        contradicting = (index for index, move in enumerate(self.moves) if self.gold.contradicts(move))
        return min([*trail, *contradicting], default=None)

    def _find_final(self) -> int | None:
        same = [
            i
            for i, m in enumerate(self.moves)
            if self.stated is not None and _key(m.value) == _key(self.stated)
        ]
        return same[-1] if same else None

    def _is_part(self, index: int, user: int | None) -> bool:
        """Whether a move works out a part of a gold line and the move that uses it goes on with the rest of it."""
        move = self.moves[index]
        parts = self.gold.parts.get(_key(move.value), []) if move.is_sound else []
        if user is None:
            return bool(parts)
        used = _keys(self.moves[user].operands)
        return any(not part.rest or part.rest & used for part in parts)

    def _find_makers(self, index: int) -> list[int]:
        """Return the moves that a move's operands come from; a number of the question comes from there."""
        makers = []
        for operand in _keys(self.moves[index].operands):
            maker = next((i for i in reversed(range(index)) if _key(self.moves[i].value) == operand), None)
            if maker is not None and (operand not in self.givens or maker == index - 1):
                makers.append(maker)
        return makers

    def describe(self, index: int, kind: FaultKind) -> Fault:
        """Return the fault that a move is."""
        wrong = self.moves[index]
        step = self._blame(wrong) if kind == "leaves_gold" else wrong.step
        needed = self._find_needed(step)
        if not needed and kind == "leaves_gold":
            kind = "goes_too_far"
        fault = Fault(step + 1, kind, wrong.claim)
        return self._contrast(fault, needed)

    def describe_statement(self) -> Fault:
        """All that was computed is right: the answer is stated too early, or is another than was found."""
        step = len(self.steps) - 1
        needed = self._find_needed(step)
        return self._contrast(Fault(step + 1, "stops_early" if needed else "misstates", None), needed)

    def _find_needed(self, step: int) -> list[int]:
        done = {
            line
            for move, line in zip(self.moves, self.lines, strict=True)
            if line is not None and move.step < step
        }
        return self.gold.find_needed(done)

    def _contrast(self, fault: Fault, needed: Sequence[int]) -> Fault:
        """Add the gold equation that belongs in the place of the wrong one, and let what it rests on come first."""
        lines = [line for line in needed if self.gold.find_claim(line)]
        if not lines:
            return replace(fault, needed=tuple(self.gold.lines[line] for line in needed))
        line = lines[0]
        if fault.claim and fault.kind != "arithmetic":
            mine = _keys(fault.claim.operands)
            shared = {
                i: len(mine & _keys(claim.operands)) for i in lines if (claim := self.gold.find_claim(i))
            }
            line = line if shared[line] else max(lines, key=lambda i: shared[i])
        first = self._find_below(line, needed)
        order = [*first, *(i for i in needed if i not in first)]
        contrast = self.gold.find_claim(line)
        if fault.kind == "leaves_gold" and self._leaves_out(fault.claim, contrast, lines):
            fault = replace(fault, kind="leaves_out")
        texts = tuple(self.gold.lines[i] for i in order)
        return replace(fault, needed=texts, contrast=contrast, contrast_line=self.gold.lines[line])

    def _find_below(self, line: int, needed: Sequence[int]) -> list[int]:
        below, open_lines = {line}, [line]
        while open_lines:
            sources = {i for i in self.gold.find_sources(open_lines.pop()) if i in needed} - below
            below |= sources
            open_lines += sources
        return sorted(below)

    def _leaves_out(self, wrong: Claim | None, contrast: Claim | None, lines: Sequence[int]) -> bool:
        """Whether a later gold line does what the wrong equation does, with the result of `contrast` in it."""
        for later in (self.gold.find_claim(line) for line in lines):
            if wrong and contrast and later and later is not contrast and wrong.operators == later.operators:
                missing = _keys(later.operands) - _keys(wrong.operands)
                if missing == {_key(contrast.stated)} and _keys(wrong.operands) & _keys(contrast.operands):
                    return True
        return False

    def _blame(self, wrong: _Move) -> int:
        """Return the step to name: an earlier one that brought a wrong number in by saying `4 pizzas` of 5."""
        known = _pair_nouns([self.question, *self.gold.lines])
        for step in range(wrong.step):
            if find_claims(self.steps[step]):
                continue
            for noun, numbers in _pair_nouns([self.steps[step]]).items():
                if known.get(noun) and numbers & _keys(wrong.operands) and not numbers & known[noun]:
                    return step
        return wrong.step


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
    if not gold_rationale:
        slips = (move for move in _read_moves(steps, set()) if not move.is_sound)
        return next((Fault(move.step + 1, "arithmetic", move.claim) for move in slips), None)
    trace = _Trace(question, _Gold(gold_rationale, gold_answer), steps)
    slip = trace.slip
    if slip is not None and (trace.is_right() or trace.is_only_slip(slip)):
        return trace.describe(slip, "arithmetic")
    if trace.is_right():
        return None
    left = trace.find_deviation()
    if slip is not None and (left is None or trace.moves[slip].step <= trace.moves[left].step):
        return trace.describe(slip, "arithmetic")
    return trace.describe_statement() if left is None else trace.describe(left, "leaves_gold")


# --- reading ------------------------------------------------------------------------------------------------

_WORDS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "twenty": "20", "thirty": "30", "forty": "40",
    "fifty": "50", "sixty": "60", "hundred": "100", "thousand": "1000", "half": "1/2", "twice": "2", "double": "2",
    "doubles": "2", "doubled": "2", "thrice": "3", "triple": "3", "quarter": "1/4", "third": "1/3", "dozen": "12",
    "couple": "2", "pair": "2", "pairs": "2", "both": "2",
}  # fmt: skip
_COUNTED = re.compile(r"(\d[\d,]*(?:\.\d+)?|[a-z]+) (?:more |other |of (?:his|her|the|their) )?([a-z]{3,})")


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
            yield _Move(index, claim.stated, claim.operands, claim, _read_plain(step))
        fresh = [n for n in find_numbers(step) if _key(n) not in known] if not claims else []
        if fresh and not states_answer(step):
            known |= set(map(_key, fresh))
            operands = tuple(number for number in find_numbers(step) if number not in fresh)
            yield _Move(index, fresh[-1], operands, None, _read_plain(step))


def _read_plain(step: str) -> str:
    return " ".join(re.findall(r"[^\W\d_]+", strip_marks(step).lower()))


def _is_by_chance(move: _Move, gold: _Move, strange: set[Fraction]) -> bool:
    """Whether a move that goes on from a wrong value comes to a gold value by another kind of computation."""
    if move.claim is None or gold.claim is None or move.claim.operators == gold.claim.operators:
        return False
    return bool(_keys(move.operands) & strange)


def _read_stated(steps: Sequence[str]) -> Fraction | None:
    answer = extract_answer(steps[-1]) if steps else None
    return read_value(answer) if answer else None


def _key(value: Fraction) -> Fraction:
    """Return a value in the precision in which people write it, without its sign: 8/3 and 2.67 are one."""
    value = abs(value)
    return value if value.denominator == 1 else round(value, 2 if value >= 1 else 3)


def _keys(values: Iterable[Fraction]) -> frozenset[Fraction]:
    return frozenset(map(_key, values))


def _pair_nouns(texts: Iterable[str]) -> dict[str, set[Fraction]]:
    """Return what is counted with the numbers that it is counted by: {"pizza": {5}}."""
    pairs: dict[str, set[Fraction]] = defaultdict(set)
    for text in texts:
        for number, noun in _COUNTED.findall(strip_marks(text).lower()):
            written = _WORDS.get(number, number).replace(",", "")
            if written[0].isdigit():
                pairs[noun.rstrip("s")].add(_key(Fraction(written)))
    return pairs


def _expand(parts: Sequence[Fraction], inner: dict[Fraction, tuple[Fraction, ...]]) -> list[Fraction]:
    """Put a line's own terms in the place of each term that it computed: 60-40 with 40=15+25 is 60-15-25."""
    expanded: list[Fraction] = []
    for part in parts:
        below = inner.get(_key(part), (part,))
        sign = -1 if part < 0 and sum(below) > 0 else 1
        expanded += [sign * term for term in below] if len(below) > 1 else [part]
    return expanded if len(expanded) <= _MAX_TERMS else list(parts)


def _combine(terms: Sequence[Fraction], *, is_sum: bool) -> Iterator[_Part]:
    for size in range(2, len(terms)) if len(terms) <= _MAX_TERMS else ():
        for chosen in combinations(range(len(terms)), size):
            total = Fraction(0) if is_sum else Fraction(1)
            for index in chosen:
                total = total + terms[index] if is_sum else total * terms[index]
            rest = [term for index, term in enumerate(terms) if index not in chosen]
            # A divisor stands in the text as itself: 60/4 has the factors 60 and 1/4.
            yield _Part(_key(total), _keys([*rest, *(1 / term for term in rest if term and not is_sum)]))


def _work_out(expression: str, mended: dict[Fraction, Fraction]) -> Fraction | None:
    """Return what an expression comes to with some of its numbers mended."""

    def mend(match: re.Match[str]) -> str:
        value = mended.get(_key(Fraction(match.group().replace(",", ""))))
        return match.group() if value is None else f"({value})"

    try:
        return evaluate(re.sub(r"\d[\d,]*(?:\.\d+)?|\.\d+", mend, expression))
    except NotArithmetic:
        return None
