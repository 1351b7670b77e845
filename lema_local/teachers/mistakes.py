"""Where a wrong solution first goes wrong, found from the gold rationale by arithmetic alone.

The solution and the gold rationale are read as moves (`tracing.py`). The answer that the solution states is traced
back through the moves it was made from until moves are met that the gold rationale makes too, or that work out a
part of one of its sums or products. The earliest move on that trail which the gold rationale does not make, or whose
arithmetic does not hold, is the fault. What is still needed from there on are the gold lines that are not done.
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
from lema_local.arithmetic import Claim, find_claims, find_numbers, strip_marks
from lema_local.steps import split_steps, states_answer
from lema_local.teachers.tracing import (
    WORDS,
    Givens,
    Move,
    key,
    keys,
    read_content,
    read_moves,
    read_value,
    read_words,
)

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
    claim: Claim | None = None
    """The equation that is wrong; None where the step holds none."""
    value: Fraction | None = None
    """The wrong value that the step brings in."""
    needed: tuple[str, ...] = ()
    """The gold lines still needed, in an order that works, calculator marks removed; empty where all is known."""
    contrast: Claim | None = None
    """The gold equation that belongs in the place of `claim`."""
    contrast_line: str = ""
    """The gold line that holds `contrast`."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Some terms of a gold sum, or some factors of a gold product: the forms of those that are left."""

    rest: frozenset[Fraction]
    line: int
    is_product: bool


_MAX_TERMS = 7
_STILL = frozenset({"left", "remain", "leave", "leavin", "still", "now", "end", "did", "does", "altoge"})
"""Words that are true of what is left in between, too."""
_TIMES = re.compile(r"[xX*](?= ?[$(.\d])")
_ALGEBRA = re.compile(
    r"(?<![\w'’.])[b-zB-Z](?![\w'’.]) ?[-+/=^–]|[-+/=^–(] ?[b-zB-Z](?![\w'’.])|\d[a-fn-z]\b|\b[Ll]et [b-zB-Z] ",  # noqa: RUF001
)
"""A letter that stands for a number; `5 x 3` and `Candidate B` hold none."""


class _Gold:
    """The gold rationale: its lines, the moves they make, the parts of their sums and products."""

    def __init__(self, rationale: str, answer: str, givens: Givens) -> None:
        lines = [line for line in split_steps(rationale) if not states_answer(line)]
        self.lines = [strip_marks(line) for line in lines]
        self.moves = read_moves(lines, givens)
        self.answer = read_value(answer)
        self.algebra = {i for i, line in enumerate(self.lines) if _ALGEBRA.search(_TIMES.sub(" ", line))}

    @cached_property
    def mental(self) -> dict[Fraction, frozenset[Fraction]]:
        """What each value means that the rationale computes, by its key."""
        meanings: dict[Fraction, frozenset[Fraction]] = {}
        for move in self.moves:
            meanings[key(move.value)] = meanings.get(key(move.value), frozenset()) | move.forms
        return meanings

    @cached_property
    def parts(self) -> dict[Fraction, list[_Part]]:
        """By form, what a solution may compute on another way to a line."""
        sums: dict[Fraction, tuple[Fraction, ...]] = {}
        products: dict[Fraction, tuple[Fraction, ...]] = {}
        parts: dict[Fraction, list[_Part]] = defaultdict(list)
        for move in self.moves:
            if move.shifted is None:
                continue
            terms, factors = _expand(move.shifted.terms, sums), _expand(move.shifted.factors, products)
            sums |= dict.fromkeys(move.forms, terms)
            products |= dict.fromkeys(move.forms, factors)
            for form, rest in _combine(terms, is_sum=True):
                parts[form].append(_Part(rest, move.step, is_product=False))
            for form, rest in _combine(factors, is_sum=False):
                parts[form].append(_Part(rest, move.step, is_product=True))
        for form in self._find_multiples():
            parts[form].append(_Part(frozenset(), self.goal, is_product=False))
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
        """Yield the lines whose values a line uses; of several with one value all, for any may be meant."""
        used = keys(operand for move in self.moves if move.step == line for operand in move.operands)
        yield from (move.step for move in self.moves if move.step < line and key(move.value) in used)

    def find_claim(self, line: int) -> Claim | None:
        """Return the last equation of a line."""
        return next((move.claim for move in reversed(self.moves) if move.step == line and move.claim), None)


class _Trace:
    """A solution read against the gold rationale."""

    def __init__(self, question: str, rationale: str, answer: str, steps: Sequence[str]) -> None:
        givens = Givens(question)
        self.question = question
        self.givens = givens.numbers
        self.gold = _Gold(rationale, answer, givens)
        self.steps = steps
        self.moves = read_moves(steps, givens, self.gold.mental)
        self.lines = self.gold.match(self.moves)
        self.makers = [self._find_makers(index) for index in range(len(self.moves))]
        self.stated = _read_stated(steps)

    @property
    def slip(self) -> int | None:
        """The first move whose arithmetic does not hold."""
        return next((index for index, move in enumerate(self.moves) if not move.is_sound), None)

    def is_right(self) -> bool:
        """Whether the answer that the solution states is the gold answer."""
        answer = self.gold.answer
        if self.stated is None or answer is None or (self.stated < 0) != (answer < 0):
            return False
        return key(self.stated) == key(answer)

    def is_only_slips(self) -> bool:
        """Whether the solution computes the same function of the problem as the gold answer: only slips are wrong."""
        final = self._find_final()
        return final is not None and self.gold.is_answer_form(self.moves[final])

    def find_deviation(self) -> int | None:
        """Return the earliest move on the trail to the stated answer that the gold rationale does not make."""
        final = self._find_final()
        open_moves: list[tuple[int, int | None]] = [(final, None)] if final is not None else []
        if final is None:
            open_moves = [(index, None) for index in range(len(self.moves))]
        # Where a factor is missing at the end, a part on the way there is where it went missing.
        is_lacking = final is not None and self._lacks_factor(final)
        trail: set[int] = set()
        while open_moves:
            index, user = open_moves.pop()
            is_part = user is not None and not is_lacking and self._is_part(index, user)
            if index not in trail and self.lines[index] is None and not is_part:
                trail.add(index)
                open_moves += [(maker, index) for maker in self.makers[index]]
        return min([*map(self._first_like, trail), *self._find_failed_attempts()], default=None)

    def _first_like(self, index: int) -> int:
        """Return the first move that computes what a move computes: one mistake may be told twice."""
        move = self.moves[index]
        for i in sorted(set(range(index)) - set(self.makers[index])):
            if (
                self.lines[i] is None
                and self.moves[i].operands == move.operands
                and self.moves[i].forms & move.forms
            ):
                return i
        return index

    def _lacks_factor(self, index: int) -> bool:
        return any(
            part.is_product for form in self.moves[index].forms for part in self.gold.parts.get(form, [])
        )

    def _find_failed_attempts(self) -> Iterator[int]:
        """Yield moves that try to do a gold line's work and fail, whether anything is made of them or not."""
        done: set[int] = set()
        for index, (move, line) in enumerate(zip(self.moves, self.lines, strict=True)):
            if line is not None:
                done.add(line)
            elif self.gold.contradicts(move) or self.gold.is_attempt(move, self.steps[move.step], done):
                yield index

    def comes_first(self, slip: int, left: int) -> bool:
        """Whether a slip is the fault rather than a move that leaves the gold rationale.

        A last computation that is not the gold rationale's is no better for being worked out rightly.
        """
        if slip == left:
            return slip != self._find_final()
        return self.moves[slip].step <= self.moves[left].step

    def find_overshoot(self) -> int | None:
        """Return the first move behind the gold answer, where the stated answer comes from behind it."""
        final = self._find_final()
        reached = [
            i for i, line in enumerate(self.lines) if line == self.gold.goal and self.moves[i].is_sound
        ]
        return reached[0] + 1 if reached and final is not None and final > reached[0] else None

    def _find_final(self) -> int | None:
        same = [
            i
            for i, move in enumerate(self.moves)
            if self.stated is not None and key(move.value) == key(self.stated)
        ]
        return same[-1] if same else None

    def _is_part(self, index: int, user: int) -> bool:
        """Whether a move works out a part of a gold line and the move that uses it goes on with the rest of it."""
        move = self.moves[index]
        if any(index in self.makers[i] for i, line in enumerate(self.lines) if line is not None):
            return True  # the gold rationale's own value was made from it
        done = {line for i, line in enumerate(self.lines) if line is not None and i < index}
        parts = [
            part for form in move.forms for part in self.gold.parts.get(form, []) if part.line not in done
        ]
        if any(not part.rest for part in parts):
            return True
        if self.gold.is_near_miss(move, self.steps[move.step], done):
            return False
        return any(not part.is_product or part.rest & self.moves[user].operand_forms for part in parts)

    def _find_makers(self, index: int) -> list[int]:
        """Return the moves that a move's operands come from; a number of the question comes from there."""
        makers = []
        for operand in keys(self.moves[index].operands):
            maker = next((i for i in reversed(range(index)) if key(self.moves[i].value) == operand), None)
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
        return self._contrast(Fault(step + 1, kind, wrong.claim, wrong.value), needed, self.steps[wrong.step])

    def describe_statement(self) -> Fault:
        """All that was computed is right: the answer is stated too early, or is another than was found."""
        step = max(len(self.steps) - 1, 0)
        needed = self._find_needed(step)
        if needed:
            step = self._find_early_answer(step, needed)
            needed = self._find_needed(step)
        return self._contrast(Fault(step + 1, "stops_early" if needed else "misstates"), needed, "")

    def _find_early_answer(self, last: int, needed: Sequence[int]) -> int:
        """Return the step that already says of a value short of the answer what is asked for; else the last one."""
        sentences = [sentence for sentence in self.question.split(". ") if sentence]
        asked = read_content(sentences[-1]) if sentences else set()
        told = {
            word for i, line in enumerate(self.gold.lines) if i not in needed for word in read_content(line)
        }
        stated = key(self.stated) if self.stated is not None else None
        for step in range(last):
            # "If he buys 2 boxes of contacts, each box costs 90" says something of boxes.
            says = read_content(self.steps[step].rpartition(", ")[2]) & asked - told - _STILL
            values = {key(m.value) for m in self.moves if m.step == step} or keys(
                find_numbers(self.steps[step])
            )
            if says and stated in values:
                return step
        return last

    def _find_needed(self, step: int) -> list[int]:
        pairs = zip(self.moves, self.lines, strict=True)
        done = {line for move, line in pairs if line is not None and move.step < step and move.is_sound}
        return self.gold.find_needed(done)

    def _contrast(self, fault: Fault, needed: Sequence[int], text: str) -> Fault:
        """Add the gold equation that belongs in the place of the wrong one, and let what it rests on come first."""
        lines = [line for line in needed if self.gold.find_claim(line)]
        if not lines:
            return replace(fault, needed=tuple(self.gold.lines[line] for line in needed))
        if fault.kind == "stops_early":
            # Where an earlier step is named, its own line is told again; what is missing comes after that.
            later = [i for i in lines if self.stated is None or key(self._value_of(i)) != key(self.stated)]
            lines = later or lines
        line = lines[0] if fault.kind == "arithmetic" or not text else self._find_nearest(fault, lines, text)
        first = self._find_below(line, needed)
        place = first[0] if first[0] in lines else line
        if (
            fault.kind == "leaves_gold"
            and (missing := self._find_left_out(fault.claim, lines, needed)) is not None
        ):
            fault, place = replace(fault, kind="leaves_out"), missing
            first = self._find_below(place, needed)
        texts = tuple(self.gold.lines[i] for i in self._order(first, needed))
        return replace(
            fault, needed=texts, contrast=self.gold.find_claim(place), contrast_line=self.gold.lines[place]
        )

    def _value_of(self, line: int) -> Fraction:
        claim = self.gold.find_claim(line)
        return claim.stated if claim else Fraction(0)

    def _find_nearest(self, fault: Fault, lines: Sequence[int], text: str) -> int:
        """Return the needed line most like the wrong step; the first one where it is like none or like that as well."""
        mine = keys(fault.claim.operands if fault.claim else find_numbers(text))
        words = read_content(text)
        scores = {
            line: len(mine & keys(claim.operands)) + len(words & read_content(self.gold.lines[line])) / 3
            for line in lines
            if (claim := self.gold.find_claim(line))
        }
        best = max(lines, key=lambda line: scores[line])
        return lines[0] if scores[best] <= scores[lines[0]] + 0.5 else best

    def _find_below(self, line: int, needed: Sequence[int]) -> list[int]:
        """Return a line and the needed ones that it is made from, in order."""
        below, open_lines = {line}, [line]
        while open_lines:
            sources = {i for i in self.gold.find_sources(open_lines.pop()) if i in needed} - below
            below |= sources
            open_lines += sources
        return sorted(below)

    def _order(self, first: Sequence[int], needed: Sequence[int]) -> list[int]:
        """Return the needed lines, those to begin with first; one with a number out of nowhere waits for all before."""
        untraced = [m.step for m in self.gold.moves if m.step in first and m.has_own_numbers]
        if self.gold.algebra & set(needed):
            return list(needed)  # what a letter means is said first
        begin = sorted({*first, *(i for i in needed if i < max(untraced, default=0))})
        return [*begin, *(i for i in needed if i not in begin)]

    def _find_left_out(self, wrong: Claim | None, lines: Sequence[int], needed: Sequence[int]) -> int | None:
        """Return the line whose result the wrong equation lacks, where it does else what a later line does."""
        for line in lines:
            right = self.gold.find_claim(line)
            if wrong is None or right is None or wrong.operators != right.operators:
                continue
            missing = keys(right.operands) - keys(wrong.operands)
            is_like = keys(right.operands) & keys(wrong.operands)
            for below in self._find_below(line, needed):
                if is_like and below != line and below in lines and missing == {key(self._value_of(below))}:
                    return below
        return None

    def _blame(self, wrong: Move) -> int:
        """Return the step to name: an earlier one that brought a wrong number in by saying `4 pizzas` of 5."""
        known = _pair_nouns([self.question, *self.gold.lines], reach=3)
        for step in range(wrong.step):
            if find_claims(self.steps[step]):
                continue
            for noun, numbers in _pair_nouns([self.steps[step]], reach=1).items():
                strange = numbers & keys(wrong.operands) - self.gold.mental.keys()
                if strange and known.get(noun) and not numbers & known[noun]:
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
        slips = (
            (index, claim)
            for index, step in enumerate(steps)
            for claim in find_claims(step)
            if not claim.is_true
        )
        return next((Fault(index + 1, "arithmetic", claim, claim.stated) for index, claim in slips), None)
    trace = _Trace(question, gold_rationale, gold_answer, steps)
    slip = trace.slip
    if slip is not None and (trace.is_right() or trace.is_only_slips()):
        return trace.describe(slip, "arithmetic")
    if trace.is_right():
        return None
    left = trace.find_overshoot() or trace.find_deviation()
    if slip is not None and (left is None or trace.comes_first(slip, left)):
        return trace.describe(slip, "arithmetic")
    return trace.describe_statement() if left is None else trace.describe(left, "leaves_gold")


def reaches_answer(question: str, gold_rationale: str, gold_answer: str) -> bool:
    """Whether the gold rationale's last equation does not contradict the gold answer.

    A rationale may end in words, round, or turn dollars into cents; then nothing can be told against it.
    """
    gold = _Gold(gold_rationale, gold_answer, Givens(question))
    last = gold.find_claim(len(gold.lines) - 1) if gold.lines else None
    if gold.answer is None or last is None:
        return True
    answer = gold.answer
    told = keys([*(m.value for m in gold.moves), *find_numbers(gold.lines[-1]), *read_words(gold.lines[-1])])
    return bool(told & keys([answer, answer * 100, answer / 100])) or abs(last.stated - answer) < 1


def _read_stated(steps: Sequence[str]) -> Fraction | None:
    answer = extract_answer(steps[-1]) if steps else None
    return read_value(answer) if answer else None


def _pair_nouns(texts: Iterable[str], reach: int) -> dict[str, set[Fraction]]:
    """Return what is counted with the numbers that it is counted by: {"pizza": {5}}.

    Args:
        texts: What to read.
        reach: How many words behind a number may be what it counts.
    """
    pairs: dict[str, set[Fraction]] = defaultdict(set)
    for text in texts:
        words = re.findall(r"\d[\d,]*(?:\.\d+)?|[a-z]+|[^\w\s]", strip_marks(text).lower())
        for position, word in enumerate(words):
            written = WORDS.get(word, word).replace(",", "").rstrip(".")
            if not re.fullmatch(r"\d+(?:\.\d+)?", written):
                continue
            for noun in words[position + 1 : position + 1 + reach]:
                if not noun[0].isalnum():
                    break
                if len(noun) > 2 and noun.isalpha():
                    pairs[noun.rstrip("s")].add(key(Fraction(written)))
    return pairs


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
