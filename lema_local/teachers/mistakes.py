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
from typing import Literal

from lema_local.answers import extract_answer
from lema_local.arithmetic import Claim, find_claims, find_numbers, format_number, strip_marks
from lema_local.teachers.equations import find_equations
from lema_local.teachers.gold import Gold, has_letters
from lema_local.teachers.tracing import (
    COMMON,
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
from lema_local.teachers.units import find_conversions
from lema_local.teachers.wording import (
    counts_another,
    find_names,
    find_sentence,
    is_of_another,
    measure_order,
    takes_from_another,
)

FaultKind = Literal[
    "arithmetic",
    "leaves_gold",
    "leaves_out",
    "confuses",
    "misreads",
    "equation",
    "stops_early",
    "goes_too_far",
    "misstates",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """The first wrong step of a solution, and what is needed from there on."""

    step: int
    """1-based."""
    kind: FaultKind
    """arithmetic: a computation does not hold. leaves_gold: it computes what the gold rationale does not need.
    leaves_out: a computation that has to come first is missing. confuses: what it computes is right for something else.
    misreads: it says in words what the problem does not. equation: its letter comes to what nothing is. stops_early:
    what is found is right but not yet the answer. goes_too_far: the answer was known before. misstates: the answer
    stated is not the one found."""
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
    told: str = ""
    """confuses: the gold line whose computation it is. misreads: what the problem says. equation: the equation."""


_IN_ORDER = 0.7
"""So much of a step's words from the problem stands there in that order, if it says what the problem says."""
_STILL = frozenset({"left", "remain", "leave", "leavin", "still", "now", "end", "did", "does", "altoge"})
"""Words that are true of what is left in between, too."""


class _Trace:
    """A solution read against the gold rationale."""

    def __init__(self, question: str, rationale: str, answer: str, steps: Sequence[str]) -> None:
        givens = Givens(question)
        self.question = question
        self.givens = givens.numbers
        self.gold = Gold(rationale, answer, givens)
        self.steps = steps
        self.moves = read_moves(steps, givens, self.gold.mental)
        self.lines = self.gold.match(self.moves)
        self.makers = [self._find_makers(index) for index in range(len(self.moves))]
        self.stated = _read_stated(steps)
        self.names = find_names(question)

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
        trail: set[int] = set()
        while open_moves:
            index, user = open_moves.pop()
            is_part = user is not None and self._is_part(index, user)
            if (
                index not in trail
                and self.lines[index] is None
                and not is_part
                and not self._is_converted(index)
            ):
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

    def _is_converted(self, index: int) -> bool:
        """Whether a move without a computation tells a value in another unit: `180 minutes is 3 hours`."""
        move = self.moves[index]
        return move.claim is None and any(claim.is_true for claim in find_conversions(self.steps[move.step]))

    def _find_failed_attempts(self) -> Iterator[int]:
        """Yield moves that try to do a gold line's work and fail, whether anything is made of them or not."""
        done: set[int] = set()
        for index, (move, line) in enumerate(zip(self.moves, self.lines, strict=True)):
            if line is not None:
                if self._is_of_another(move, line):
                    yield index
                done.add(line)
            elif self.gold.contradicts(move) or self.gold.is_attempt(move, self.steps[move.step], done):
                yield index

    def _is_of_another(self, move: Move, line: int) -> bool:
        """Whether a move does a line's computation for somebody else than the line."""
        step = self.steps[move.step]
        if len(find_claims(step)) == 1 and is_of_another(step, line, self.gold.lines, self.names):
            return True
        values = [self.gold.find_value(i) for i in range(len(self.gold.lines))]
        return counts_another(step, move.value, line, list(zip(self.gold.lines, values, strict=True)))

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
        if self.stated is None:
            return None
        stated = key(self.stated)
        same = [i for i, move in enumerate(self.moves) if stated in keys(_read_values(move))]
        return same[-1] if same else None

    def _is_part(self, index: int, user: int) -> bool:
        """Whether a move works out a part of a gold line and the move that uses it goes on with the rest of it."""
        move = self.moves[index]
        if (
            set(move.operands) & set(self.moves[user].operands)
            and move.claim
            and set(move.claim.operators) == {"+"}
        ):
            return False  # what it added is added once more
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
        for operand in keys([*self.moves[index].operands, *_read_shares(self.moves[index])]):
            maker = next((i for i in reversed(range(index)) if key(self.moves[i].value) == operand), None)
            if maker is not None and not (operand in self.givens and self._takes_given(index, maker)):
                makers.append(maker)
        return makers

    def _takes_given(self, index: int, maker: int) -> bool:
        """Whether a move takes a number from the problem rather than from an earlier move that came to it too."""
        if self.lines[index] is not None:
            return True
        return self.lines[maker] is not None and maker != index - 1

    def describe(self, index: int, kind: FaultKind) -> Fault:
        """Return the fault that a move is."""
        wrong, line = self.moves[index], self.lines[index]
        step = self._blame(wrong) if kind == "leaves_gold" else wrong.step
        needed = self._find_needed(step)
        text = self.steps[wrong.step]
        if not needed and kind == "leaves_gold":
            kind = "goes_too_far"
        elif step < wrong.step:
            return self._describe_words(step)
        elif kind == "leaves_gold" and line is not None:
            return self._describe_confusion(
                Fault(step + 1, "confuses", wrong.claim, wrong.value), needed, line
            )
        return self._contrast(Fault(step + 1, kind, wrong.claim, wrong.value), needed, text)

    def _describe_confusion(self, fault: Fault, needed: Sequence[int], line: int) -> Fault:
        """Return the fault of a step that does a line's computation and says that it is another line's."""
        text = self.steps[fault.step - 1]
        others = [i for i in needed if i != line] or needed
        meant = self._find_nearest(fault, others, text)
        place = next((i for i in self._find_below(meant, others) if self.gold.find_claim(i)), meant)
        return replace(
            fault,
            needed=tuple(self.gold.lines[i] for i in needed),
            contrast=self.gold.find_claim(place),
            contrast_line=self.gold.lines[place],
            told=self.gold.lines[line],
        )

    def look_before(self, fault: Fault) -> Fault:
        """Return what is wrong in words, units or letters where it comes before the computation that goes wrong."""
        found = [*self._find_strange_equations(), *self._find_false_conversions()]
        if fault.kind not in ("arithmetic", "goes_too_far"):
            found += [self._describe_words(step) for step in self._find_misreadings(fault.step - 1)]
        return min([*found, fault], key=lambda fault: fault.step)

    def _describe_words(self, step: int) -> Fault:
        text = self.steps[step]
        fault = Fault(step + 1, "misreads", told=find_sentence(self.question, text))
        return self._contrast(fault, self._find_needed(step), text)

    def _find_misreadings(self, end: int) -> Iterator[int]:
        """Yield the steps without a computation before a wrong one that say what the problem does not."""
        for step, text in enumerate(self.steps[:end]):
            if find_claims(text) or has_letters(text) or any(find_conversions(text)):
                continue
            is_found = keys(find_numbers(text)) & (self.gold.mental.keys() - self.givens)
            is_taken = not is_found and takes_from_another(self.question, text, self.names)
            if is_taken or (step == end - 1 and self._is_retold(step)):
                yield step

    def _find_false_conversions(self) -> Iterator[Fault]:
        for step, text in enumerate(self.steps):
            for claim in find_conversions(text):
                if not claim.is_true:
                    fault = Fault(step + 1, "arithmetic", claim, claim.stated)
                    yield self._contrast(fault, self._find_needed(step), text)

    def _is_retold(self, step: int) -> bool:
        """Whether a step without a computation moves the words and numbers of the problem about."""
        numbers = keys(find_numbers(self.steps[step]))
        before = keys(number for earlier in self.steps[:step] for number in find_numbers(earlier))
        if not numbers & self.givens or numbers & self.gold.mental.keys() - before:
            return False  # it says nothing of the problem, or what a gold line computes
        return measure_order(self.question, self.steps[step]) < _IN_ORDER

    def _find_strange_equations(self) -> Iterator[Fault]:
        """Yield the equations with another solution than before, or with one that nothing in the problem comes to."""
        known = self.givens | self.gold.mental.keys() | keys([self.gold.answer or Fraction(0)])
        solutions: dict[str, Fraction] = {}
        for step, text in enumerate(self.steps):
            for equation in find_equations(text):
                before = solutions.setdefault(equation.letter, equation.solution)
                if key(equation.solution) not in known or key(equation.solution) != key(before):
                    told = f"{equation.written} makes {equation.letter} {format_number(equation.solution)}"
                    fault = Fault(step + 1, "equation", value=equation.solution, told=told)
                    yield self._contrast(fault, self._find_needed(step), text)

    def find_early_part(self) -> int | None:
        """Return the step that takes a part of a gold sum, found rightly before it, for the answer."""
        final = self._find_final()
        if final is None or self.lines[final] is not None:
            return None
        move = self.moves[final]
        parts = [part for form in move.forms for part in self.gold.parts.get(form, [])]
        is_part = any(part.rest and not part.is_product for part in parts) and all(
            self.lines[maker] is not None for maker in self.makers[final]
        )
        later = range(move.step + 1, len(self.steps) - 1)
        said = (step for step in later if key(move.value) in keys(find_numbers(self.steps[step])))
        return next(said, None) if is_part else None

    def describe_early(self, step: int) -> Fault:
        """Return the fault of a step that takes what is right, but not yet the answer, for it."""
        return self._contrast(Fault(step + 1, "stops_early"), self._find_needed(step), "")

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
            if says and stated in values and not self._is_copied(step):
                return step
        return last

    def _is_copied(self, step: int) -> bool:
        """Whether a step only says again what the problem says."""
        text = self.steps[step]
        is_told = keys(find_numbers(text)) <= self.givens and not find_claims(text)
        return is_told and measure_order(self.question, text) == 1

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
            later = [
                i for i in lines if self.stated is None or key(self.gold.find_value(i)) != key(self.stated)
            ]
            lines = later or lines
        told = [i for i in needed if i in lines or ("=" in self.gold.lines[i] and i not in self.gold.algebra)]
        line = lines[0] if fault.kind == "arithmetic" or not text else self._find_nearest(fault, told, text)
        first = self._find_below(line, needed)
        found = [i for i in first if i in lines]
        if not found:
            texts = tuple(self.gold.lines[i] for i in self._order(first, needed))
            return replace(fault, needed=texts, contrast_line=self.gold.lines[line])
        place = found[0] if first[0] in lines or line not in lines else line
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

    def _find_nearest(self, fault: Fault, lines: Sequence[int], text: str) -> int:
        """Return the line most like the wrong step; the first one where it is like none or like that as well."""
        mine = keys(fault.claim.operands if fault.claim else find_numbers(text))
        words = read_content(text)
        scores = {
            line: len(mine & self._read_operands(line))
            + len(words & read_content(self.gold.lines[line])) / 3
            + len(words & self.gold.telling[line]) / 3
            for line in lines
        }
        best = max(lines, key=lambda line: scores[line])
        return lines[0] if scores[best] <= scores[lines[0]] + 0.5 else best

    def _read_operands(self, line: int) -> frozenset[Fraction]:
        claim = self.gold.find_claim(line)
        return keys(claim.operands if claim else find_numbers(self.gold.lines[line]))

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
                if (
                    is_like
                    and below != line
                    and below in lines
                    and missing == {key(self.gold.find_value(below))}
                ):
                    return below
        return None

    def _blame(self, wrong: Move) -> int:
        """Return the step to name: an earlier one that brought a wrong number in by saying `4 pizzas` of 5."""
        known = _pair_nouns([self.question, *self.gold.lines], reach=3)
        for step in range(wrong.step):
            if find_claims(self.steps[step]) or any(find_conversions(self.steps[step])):
                continue
            for noun, numbers in _pair_nouns([self.steps[step]], reach=1).items():
                strange = numbers & keys(wrong.operands) - self.gold.mental.keys() - {Fraction(1)}
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
    if slip is None and (step := trace.find_early_part()) is not None:
        return trace.look_before(trace.describe_early(step))
    left = trace.find_overshoot() or trace.find_deviation()
    if slip is not None and (left is None or trace.comes_first(slip, left)):
        return trace.look_before(trace.describe(slip, "arithmetic"))
    fault = trace.describe_statement() if left is None else trace.describe(left, "leaves_gold")
    return trace.look_before(fault)


def reaches_answer(question: str, gold_rationale: str, gold_answer: str) -> bool:
    """Whether the gold rationale's last equation does not contradict the gold answer.

    A rationale may end in words, round, or turn dollars into cents; then nothing can be told against it.
    """
    gold = Gold(gold_rationale, gold_answer, Givens(question))
    last = gold.find_claim(len(gold.lines) - 1) if gold.lines else None
    if gold.answer is None or last is None:
        return True
    answer = gold.answer
    told = keys([*(m.value for m in gold.moves), *find_numbers(gold.lines[-1]), *read_words(gold.lines[-1])])
    return bool(told & keys([answer, answer * 100, answer / 100])) or abs(last.stated - answer) < 1


def _read_values(move: Move) -> list[Fraction]:
    """Return what a move comes to, a percentage as its hundredths and as it is written."""
    is_percentage = move.claim is not None and move.claim.right.endswith("%")
    return [move.value, move.value * 100] if is_percentage else [move.value]


def _read_shares(move: Move) -> list[Fraction]:
    """Return the fractions in a move's expression: 3/4 may be a value that was computed before."""
    found = _SHARE.findall(move.claim.left) if move.claim else []
    return [Fraction(int(above), int(below)) for above, below in found if int(below)]


_SHARE = re.compile(r"(?<![\d.,)])(\d+)/(\d+)(?![\d.,])")


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
                if len(noun) > 2 and noun.isalpha() and noun not in COMMON - {"each"}:
                    pairs[noun.rstrip("s")].add(key(Fraction(written)))
    return pairs
