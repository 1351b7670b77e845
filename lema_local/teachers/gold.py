"""The gold rationale as a graph: what its lines compute, from what, and which parts of them may be computed apart.

A solution may go another way to the same place: sums and products in another order, merged or split. So each line
has, beside its own computation, the parts of its sum or product with what the lines before are made of put in.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import combinations

from lema_local.arithmetic import Claim, strip_marks
from lema_local.steps import split_steps, states_answer
from lema_local.teachers.tracing import Givens, Move, key, keys, read_content, read_moves, read_value


@dataclass(frozen=True, slots=True)
class Part:
    """Some terms of a gold sum, or some factors of a gold product: the forms of those that are left."""

    rest: frozenset[Fraction]
    line: int
    is_product: bool


_MAX_TERMS = 7
_TIMES = re.compile(r"[xX*](?= ?(?:[$(\d]|\.\d))")
_ALGEBRA = re.compile(
    r"(?<![\w'’.])[b-zB-Z](?![\w'’.]) ?[-+/=^–]|[-+/=^–(] ?[b-zB-Z](?![\w'’.])|\d[a-fn-z]\b|\b[Ll]et [b-zB-Z] ",  # noqa: RUF001
)
"""A letter that stands for a number; `5 x 3` and `Candidate B` hold none."""


def has_letters(text: str) -> bool:
    """Whether letters stand for numbers in a text."""
    return _ALGEBRA.search(_TIMES.sub(" ", text)) is not None


class Gold:
    """The gold rationale: its lines, the moves they make, the parts of their sums and products."""

    def __init__(self, rationale: str, answer: str, givens: Givens) -> None:
        lines = [line for line in split_steps(rationale) if not states_answer(line)]
        self.lines = [strip_marks(line) for line in lines]
        self.moves = read_moves(lines, givens)
        self.answer = read_value(answer)
        self._givens = givens.numbers
        self.algebra = {i for i, line in enumerate(self.lines) if has_letters(line)}

    @cached_property
    def mental(self) -> dict[Fraction, frozenset[Fraction]]:
        """What each value means that the rationale computes, by its key."""
        meanings: dict[Fraction, frozenset[Fraction]] = {}
        for move in self.moves:
            meanings[key(move.value)] = meanings.get(key(move.value), frozenset()) | move.forms
        return meanings

    @cached_property
    def parts(self) -> dict[Fraction, list[Part]]:
        """By form, what a solution may compute on another way to a line."""
        sums: dict[Fraction, tuple[Fraction, ...]] = {}
        products: dict[Fraction, tuple[Fraction, ...]] = {}
        parts: dict[Fraction, list[Part]] = defaultdict(list)
        for move in self.moves:
            if move.shifted is None:
                continue
            terms, factors = _expand(move.shifted.terms, sums), _expand(move.shifted.factors, products)
            sums |= dict.fromkeys(move.forms, terms)
            products |= dict.fromkeys(move.forms, factors)
            for form, rest in _combine(terms, is_sum=True):
                parts[form].append(Part(rest, move.step, is_product=False))
            for form, rest in _combine(factors, is_sum=False):
                parts[form].append(Part(rest, move.step, is_product=True))
        for form in self._find_multiples():
            parts[form].append(Part(frozenset(), self.goal, is_product=False))
        return parts

    def _find_multiples(self) -> Iterator[Fraction]:
        """Yield lines and their numbers times a factor of the answer: ten jars' honey where gold prices one jar."""
        last = next((move for move in reversed(self.moves) if move.shifted), None)
        factors = last.shifted.factors if last and last.shifted and len(last.shifted.factors) > 1 else ()
        for factor in factors:
            for move in self.moves[:-1]:
                yield from (
                    factor * form for form in {*move.forms, *move.operand_forms} if form not in factors
                )

    def match(self, moves: Sequence[Move]) -> list[int | None]:
        """Return for each move of a solution the gold line that it does the work of.

        A move without a computation does a line's work once, where it states its value.
        """
        done: set[int] = set()
        return [self._match_one(move, done) for move in moves]

    def _match_one(self, move: Move, done: set[int]) -> int | None:
        # A step in the very words of another line is that line gone wrong, whatever it comes to.
        told = (
            {gold.step for gold in self.moves if gold.plain == move.plain}
            if move.plain.count(" ") > 1
            else set()
        )
        # Of several lines with this form the one with these numbers is meant: 60/3 is not 20*1.
        for gold in sorted(self.moves, key=lambda gold: keys(gold.operands) != keys(move.operands)):
            is_other = told and gold.step not in told
            if gold.forms & move.forms and not is_other:
                done.add(gold.step)
                return gold.step
        true_value = key(move.claim.value if move.claim else move.value)
        for gold in self.moves:
            is_traced = gold.forms and move.forms and not gold.has_own_numbers
            is_free = gold.step not in done and not told - {gold.step}
            if key(gold.value) == true_value and is_free and not is_traced:
                done.add(gold.step)
                return gold.step
        return None

    def contradicts(self, move: Move) -> bool:
        """Whether a move says a line's very words and does neither that line's work nor a part of one."""
        told = [gold for gold in self.moves if gold.plain == move.plain and move.plain.count(" ") > 1]
        if any(keys(gold.operands) == keys(move.operands) for gold in told):
            return True
        return bool(told) and not any(form in self.parts for form in move.forms)

    def is_attempt(self, move: Move, text: str, done: set[int]) -> bool:
        """Whether a move speaks of an undone line's matter, with one of its numbers, and is no part of any line."""
        if move.claim is None:
            return move.is_guess
        if any(form in self.parts for form in move.forms):
            return False
        words, numbers = read_content(text), keys(move.operands)
        for gold in self.moves:
            if gold.claim and gold.step not in done and len(words & read_content(self.lines[gold.step])) > 1:
                theirs = keys(gold.operands)
                if numbers == theirs or (numbers & theirs and gold.claim.operators == move.claim.operators):
                    return True
        return False

    def is_near_miss(self, move: Move, text: str, done: set[int]) -> bool:
        """Whether a move is an undone line but for one number: a part of a sum by chance, a mistake in earnest."""
        for gold in self.moves:
            if (
                move.claim
                and gold.claim
                and gold.step not in done
                and move.claim.operators == gold.claim.operators
            ):
                differing = keys(move.operands) ^ keys(gold.operands)
                shared = read_content(text) & read_content(self.lines[gold.step])
                if len(differing) == 2 and len(shared) > 1 and keys(move.operands) & keys(gold.operands):
                    return True
        return False

    def find_needed(self, done: set[int]) -> list[int]:
        """Return the lines needed for the answer when some are done, in order."""
        needed: set[int] = set()
        open_lines = [self.goal] if self.goal not in done else []
        while open_lines:
            line = open_lines.pop()
            needed.add(line)
            open_lines += [i for i in self.find_sources(line) if i not in done and i not in needed]
        if needed and not self._answers:
            needed |= set(range(min(needed), len(self.lines))) - done
        if needed and self.goal not in self._told:
            needed |= set(range(len(self.lines))) - done
        if needed and self._rests_on_algebra(needed):
            needed |= self.algebra | (set(range(len(self.lines))) - done)
        # A number out of nowhere may come from any line before; better one too many than one too few.
        untraced = [move.step for move in self.moves if move.step in needed and move.has_own_numbers]
        needed |= set(range(max(untraced, default=0))) - done
        return sorted(needed)

    def _rests_on_algebra(self, needed: set[int]) -> bool:
        """Whether an equation with letters is needed, or may hold what a needed line uses."""
        is_untraced = any(move.has_own_numbers for move in self.moves if move.step in needed)
        return bool(self.algebra) and (is_untraced or bool(needed & self.algebra))

    @cached_property
    def telling(self) -> list[set[str]]:
        """By line, the words that no other line has."""
        contents = [read_content(line) for line in self.lines]
        counts = Counter(word for content in contents for word in content)
        return [{word for word in content if counts[word] == 1} for content in contents]

    @cached_property
    def _told(self) -> set[int]:
        return {move.step for move in self.moves}

    @cached_property
    def _answers(self) -> list[Move]:
        return [
            move for move in self.moves if self.answer is not None and key(move.value) == key(self.answer)
        ]

    @property
    def goal(self) -> int:
        """The line that computes the answer; the last one where none does."""
        return self._answers[-1].step if self._answers else len(self.lines) - 1

    def is_answer_form(self, move: Move) -> bool:
        """Whether a move computes the same function of the problem as the gold answer."""
        return bool(self._answers and self._answers[-1].forms & move.forms)

    def find_sources(self, line: int) -> Iterator[int]:
        """Yield the lines whose values a line uses; of several with one value all, for any may be meant.

        A number of the problem that a line comes to as well is the line's where nothing before has used it.
        """
        used = self._read_used(line)
        for move in self.moves:
            value = key(move.value)
            if move.step < line and value in used:
                is_spent = any(value in self._read_used(between) for between in range(move.step + 1, line))
                if not (is_spent and value in self._givens):
                    yield move.step

    def _read_used(self, line: int) -> frozenset[Fraction]:
        return keys(operand for move in self.moves if move.step == line for operand in move.operands)

    def find_value(self, line: int) -> Fraction:
        """Return what a line comes to; 0 where it computes nothing."""
        claim = self.find_claim(line)
        return claim.stated if claim else Fraction(0)

    def find_claim(self, line: int) -> Claim | None:
        """Return the last equation of a line."""
        return next((move.claim for move in reversed(self.moves) if move.step == line and move.claim), None)


def _expand(parts: Sequence[Fraction], inner: dict[Fraction, tuple[Fraction, ...]]) -> tuple[Fraction, ...]:
    """Put a line's own terms in the place of each term that it computed: 60-40 with 40=15+25 is 60-15-25."""
    expanded: list[Fraction] = []
    for part in parts:
        if part not in inner and -part in inner:
            expanded += [-term for term in inner[-part]]
        else:
            expanded += inner.get(part, (part,))
    return tuple(expanded if len(expanded) <= _MAX_TERMS else parts)


def _combine(terms: Sequence[Fraction], *, is_sum: bool) -> Iterator[tuple[Fraction, frozenset[Fraction]]]:
    """Yield what some of the terms or factors come to, with and without the sign, and which are left."""
    for size in range(2, len(terms)) if len(terms) <= _MAX_TERMS else ():
        for chosen in combinations(range(len(terms)), size):
            total = Fraction(0) if is_sum else Fraction(1)
            for index in chosen:
                total = total + terms[index] if is_sum else total * terms[index]
            rest = [term for index, term in enumerate(terms) if index not in chosen]
            # A number is met as it stands in the text: 60-4 has the term -4, 60/4 the factor 1/4.
            other = [-term for term in rest] if is_sum else [1 / term for term in rest if term]
            left = frozenset([*rest, *other])
            yield total, left
            if is_sum:
                yield -total, left
