"""Decide whether a prediction is the gold answer, and say by which rule.

Plain things are decided here at once. An answer of which any part needs algebra goes as a whole to a worker process
(`symbolic`), where the same code runs with the solver at hand: one answer, one limit of time, however many parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from lema_local.answers.choices import find_choices, fold_text, read_letter
from lema_local.answers.numbers import Number, is_equal_number, parse_number, strip_unit
from lema_local.answers.structure import Group, parse_group
from lema_local.answers.surface import MAX_ANSWER_CHARS, clean_answer

Rule = Literal["numeric", "fraction", "symbolic", "choice", "string", "none"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A verdict on two answers."""

    is_equal: bool | None
    """None: undecided, because the solver could not reach a verdict within its limits."""
    rule: Rule
    """What decided it; of several parts the one that needed most: symbolic, fraction, numeric, string."""


_UNDECIDED = Comparison(None, "symbolic")
MAX_BRACKETS = 60
"""Brackets in one expression; with more of them it is not sent to the solver."""


def compare_answers(gold: str, prediction: str, *, choices: Sequence[str] | None = None) -> Comparison:
    """Return whether `prediction` is the answer `gold`, and the rule that decided.

    Args:
        gold: The reference answer, checked with `check_gold`.
        prediction: An extracted final answer.
        choices: The choices of a multiple-choice question.
    """
    if choices is not None:
        return _compare_choices(gold, prediction, choices)
    if len(prediction) > MAX_ANSWER_CHARS or "\0" in prediction:
        return _UNDECIDED
    gold, prediction = clean_answer(gold), clean_answer(prediction)
    if not prediction:
        return Comparison(False, "none")
    try:
        return compare_here(gold, prediction)
    except _NeedsAlgebra:
        from lema_local.answers.symbolic import compare_in_worker

        return compare_in_worker(gold, prediction) or _UNDECIDED


class _NeedsAlgebra(Exception):
    """Only a worker process can go on."""


class _TooDeep(Exception):
    """No solver should see this."""


def compare_here(gold: str, prediction: str) -> Comparison:
    """Compare two cleaned answers in this process, which for algebra has to be a worker."""
    try:
        return _compare(gold, prediction)
    except (_TooDeep, RecursionError):
        return _UNDECIDED


def _compare_choices(gold: str, prediction: str, choices: Sequence[str]) -> Comparison:
    if len(prediction) > MAX_ANSWER_CHARS:
        return Comparison(None, "choice")
    wanted, named = find_choices(gold, choices), find_choices(prediction, choices)
    return Comparison(bool(wanted & named), "choice")


def compare_numbers(gold: Number, prediction: Number) -> Comparison:
    """Compare two plain numbers: exactly, or to a decimal gold's own precision."""
    rule: Rule = "fraction" if gold.is_fraction or prediction.is_fraction else "numeric"
    return Comparison(is_equal_number(gold, prediction), rule)


def _compare(gold: str, prediction: str) -> Comparison:
    gold_number = parse_number(gold)
    number = parse_number(prediction)
    if gold_number is not None and number is not None:
        return compare_numbers(gold_number, number)
    if gold == prediction:
        return Comparison(True, "string")
    gold = gold_number.plain if gold_number else gold
    prediction = number.plain if number else prediction
    gold_group, group = parse_group(gold), parse_group(prediction)
    if gold_group is None and group is None:
        return _compare_single(gold, prediction)
    return _compare_groups(_as_group(gold, gold_group, group), _as_group(prediction, group, gold_group))


def _as_group(text: str, group: Group | None, other: Group | None) -> Group:
    """Return the answer as a group; a single one is a list of one, after a `y =` where the other has none."""
    if group is not None:
        return group
    assigned = _ASSIGNMENT.sub("", text)
    return (other and assigned != text and parse_group(assigned)) or Group("list", (text,))


def _compare_groups(gold: Group, prediction: Group) -> Comparison:
    if not _may_match(gold, prediction):
        return Comparison(False, _name_rule([_describe(part) for part in gold.parts]))
    if not gold.parts:
        return Comparison(True, "string")
    if gold.is_ordered or prediction.is_ordered:
        results = [_compare(one, other) for one, other in zip(gold.parts, prediction.parts, strict=True)]
    else:
        results = _match_parts(gold.parts, prediction.parts)
    rule = _name_rule(result.rule for result in results)
    if any(result.is_equal is False for result in results):
        return Comparison(False, rule)
    return Comparison(None if any(result.is_equal is None for result in results) else True, rule)


_UNORDERED = frozenset({"list", "set", "union"})


def _may_match(gold: Group, prediction: Group) -> bool:
    """Whether two groups are of the same size and of kinds that may be the same."""
    if len(gold.parts) != len(prediction.parts):
        return False
    kinds = {gold.kind, prediction.kind}
    if kinds == {"tuple"}:
        # Of two parts it may be an interval, where the brackets matter.
        return len(gold.parts) > 2 or gold.brackets == prediction.brackets
    if kinds == {"matrix"}:
        return gold.columns == prediction.columns
    if kinds == {"matrix", "tuple"}:
        matrix = gold if gold.kind == "matrix" else prediction
        return matrix.columns in (1, len(matrix.parts))
    if kinds == {"tuple", "list"}:
        return (gold if gold.kind == "tuple" else prediction).brackets in ("()", "[]")
    return kinds <= _UNORDERED


def _match_parts(gold: Sequence[str], prediction: Sequence[str]) -> list[Comparison]:
    """Pair parts in any order; a gold part that finds no partner ends it."""
    left = list(prediction)
    results = []
    for part in gold:
        tried = []
        for other in left:
            tried.append(_compare(part, other))
            if tried[-1].is_equal:
                left.remove(other)
                break
        best = next((one for one in tried if one.is_equal), None) or next(
            (one for one in tried if one.is_equal is None), tried[-1]
        )
        results.append(best)
        if best.is_equal is False:
            break
        if best.is_equal is None:
            left.pop()
    return results


_WEIGHT: dict[Rule, int] = {"none": 0, "string": 1, "choice": 2, "numeric": 3, "fraction": 4, "symbolic": 5}


def _name_rule(rules: Iterable[Rule]) -> Rule:
    return max(rules, key=_WEIGHT.__getitem__, default="string")


def _describe(part: str) -> Rule:
    number = parse_number(part)
    if number is not None:
        return "fraction" if number.is_fraction else "numeric"
    return "string" if is_words(part) else "symbolic"


_WORDS = re.compile(r"[^\W\d_][^\W\d_'-]*(?:[ '.-]+[^\W\d_]+)*")
_DATED_WORDS = re.compile(r"(?!sin|cos|tan|cot|sec|csc|log|sqrt|exp|arc)[a-zA-Z]{3,}(?:\s[a-zA-Z]{2,})*\s\d+")
_CLOCK = re.compile(
    r"(\d{1,3}(?::\d{1,2}){1,2})\s*(?:([ap])(?:\.?\s*m)?(?![a-z])\.*)?\s*(?:[a-z ]*)", re.IGNORECASE
)
_ASSIGNMENT = re.compile(r"^\s*(?:[a-zA-Z](?:_\{?\w+\}?|\([a-z]\))?|\\[a-z]+)\s*(?:=|\\equiv)\s*(?!=)")
_APPROXIMATION = re.compile(r"\s*(?:\\approx|\\simeq|\\cong|\\doteq)(?![a-zA-Z])\s*")
_BASE = re.compile(
    r"([0-9A-F]+)\s*_\s*(?:\{\s*(\d+)\s*\}|(\d))|([0-9A-F]+)\s*(?:\(?\s*(?:in\s+)?base\s+(\d+)\s*\)?)"
)
_HAS_MATHS = re.compile(r"[\d\\^=]")
_VARIABLE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])")
_SHORT = re.compile(r"[a-zA-Z]{1,2}")


def is_words(gold: str) -> bool:
    """Whether a cleaned answer is words that are compared as such (`October 30` is, `xy` is a product)."""
    if _DATED_WORDS.fullmatch(gold):
        return True
    return _WORDS.fullmatch(gold) is not None and _SHORT.fullmatch(gold) is None


def _compare_single(gold: str, prediction: str) -> Comparison:
    """Compare two answers of one part, neither of which need be a number."""
    if len(gold) == 1 and gold in "ABCDEFGHIJ" and (letter := read_letter(prediction)):
        return Comparison(letter[0] == gold, "choice")
    if is_words(gold) or (parse_number(gold) is not None and not _HAS_MATHS.search(prediction)):
        return Comparison(fold_text(gold) == fold_text(prediction), "string")
    for read in (_read_clock, _read_base):
        if wanted := read(gold):
            found = read(prediction) or (prediction, "")
            return Comparison(
                wanted[0] == found[0] and (not wanted[1] or _agree(wanted[1], found[1], read)), "string"
            )
    if _read_clock(prediction):
        return Comparison(False, "string")
    return _compare_sides(strip_unit(gold), strip_unit(prediction))


def _agree(wanted: str, found: str, read: object) -> bool:
    """Whether the second halves agree: a base may be left out, morning or evening may not."""
    return wanted == found or (read is _read_base and not found)


def _read_clock(text: str) -> tuple[str, str] | None:
    """Return (`3:30`, `a`, `p` or nothing) of a time or a ratio; None where it is none."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    return ":".join(str(int(part)) for part in match[1].split(":")), (match[2] or "").lower()


def _read_base(text: str) -> tuple[str, str] | None:
    """Return (digits, base) of `2516_8`; None where no base is given."""
    match = _BASE.fullmatch(text)
    return (match[1] or match[4], match[2] or match[3] or match[5]) if match else None


def _compare_sides(gold: str, prediction: str) -> Comparison:
    """Compare expressions; `x = 5` is 5 where the other names no variable, `\\frac13 \\approx 0.33` its exact side."""
    sides = _APPROXIMATION.split(prediction)
    if len(sides) > 1 and not _APPROXIMATION.search(gold):
        exact = _compare(gold, sides[0]) if sides[0] else Comparison(False, "none")
        return exact if exact.is_equal is not False else _compare(gold, sides[-1])
    if ("=" in gold) != ("=" in prediction):
        bare_gold, bare = _ASSIGNMENT.sub("", gold), _ASSIGNMENT.sub("", prediction)
        if (bare_gold, bare) != (gold, prediction):
            return _compare(bare_gold, bare)
    if "=" in prediction and "=" not in gold:
        left, _, last = (part.strip() for part in prediction.rpartition("="))
        # `80 + 150 = 230` says 230; `x^2 = 5` does not say 5.
        return _compare(gold, last) if last and not _VARIABLE.search(left) else Comparison(False, "symbolic")
    return Comparison(_find_solver(gold, prediction).is_equivalent(gold, prediction), "symbolic")


def _find_solver(*texts: str) -> ModuleType:
    """Return the solver where this is a worker process.

    Raises:
        _NeedsAlgebra: Where it is not.
        _TooDeep: For more brackets than a solver should see.
    """
    from lema_local.answers import solver

    if any(text.count("(") + text.count("{") + text.count("[") > MAX_BRACKETS for text in texts):
        raise _TooDeep
    if not solver.is_worker:
        raise _NeedsAlgebra
    return solver


def is_readable(gold: str) -> bool:
    """Whether a cleaned gold answer that is no plain number can be compared with."""
    try:
        return is_readable_here(gold)
    except _NeedsAlgebra:
        from lema_local.answers.symbolic import is_readable_in_worker

        return is_readable_in_worker(gold) is True


def is_readable_here(gold: str) -> bool:
    """Whether a cleaned gold answer can be compared with, as far as this process can tell (all, in a worker)."""
    try:
        return _is_readable(gold)
    except (_TooDeep, RecursionError):
        return False


def _is_readable(gold: str) -> bool:
    group = parse_group(gold)
    if group is not None:
        return all(parse_number(part) is not None or _is_readable(part) for part in group.parts)
    if is_words(gold) or _read_clock(gold) or _read_base(gold):
        return True
    expression = strip_unit(gold)
    return bool(_find_solver(expression).can_parse(expression))


def vote_key(answer: str) -> str:
    """Return a final answer in a form that equal answers mostly share, for majority votes and counting."""
    cleaned = clean_answer(answer)
    number = parse_number(cleaned)
    return str(number.value) if number is not None else fold_text(cleaned)
