"""Decide whether a prediction is the gold answer, and say by which rule.

Plain things are decided here at once; only what needs algebra goes to the solver (`symbolic`), which may also
fail to reach a verdict in its time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lema_local.answers.choices import find_choices, fold_text, read_letter
from lema_local.answers.numbers import Number, is_equal_number, parse_number
from lema_local.answers.surface import MAX_ANSWER_CHARS, clean_answer

Rule = Literal["numeric", "fraction", "symbolic", "choice", "string", "none"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A verdict on two answers."""

    is_equal: bool | None
    """None: undecided, because the solver could not reach a verdict within its limits."""
    rule: Rule
    """What decided it."""


_UNDECIDED = Comparison(None, "symbolic")


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
    gold_number = parse_number(gold)
    if gold_number is not None:
        number = parse_number(prediction)
        if number is not None:
            return compare_numbers(gold_number, number)
    if not prediction:
        return Comparison(False, "none")
    return _compare_expressions(gold, prediction)


def compare_numbers(gold: Number, prediction: Number) -> Comparison:
    """Compare two plain numbers: exactly, or to a decimal gold's own precision."""
    rule: Rule = "fraction" if gold.is_fraction or prediction.is_fraction else "numeric"
    return Comparison(is_equal_number(gold, prediction), rule)


def _compare_choices(gold: str, prediction: str, choices: Sequence[str]) -> Comparison:
    wanted, named = find_choices(gold, choices), find_choices(prediction, choices)
    return Comparison(bool(wanted & named), "choice")


_WORDS = re.compile(r"[^\W\d_][^\W\d_'. -]*(?:[ '.-]+[^\W\d_]+)*")


def _compare_expressions(gold: str, prediction: str) -> Comparison:
    if gold == prediction:
        return Comparison(True, "string")
    if len(gold) == 1 and gold in "ABCDEFGHIJ" and (letter := read_letter(prediction)):
        return Comparison(letter[0] == gold, "choice")
    if is_words(gold):
        return Comparison(fold_text(gold) == fold_text(prediction), "string")
    from lema_local.answers.symbolic import solve

    return solve(gold, prediction)


def is_readable(gold: str) -> bool:
    """Whether a cleaned gold answer that is no plain number can be compared with: as words or by algebra."""
    if is_words(gold):
        return True
    from lema_local.answers.symbolic import can_parse

    return can_parse(gold) is True


def is_words(gold: str) -> bool:
    """Whether a cleaned answer is words that are compared as such."""
    return _WORDS.fullmatch(gold) is not None and len(gold) > 2


def vote_key(answer: str) -> str:
    """Return a final answer in a form that equal answers mostly share, for majority votes and counting."""
    cleaned = clean_answer(answer)
    number = parse_number(cleaned)
    return str(number.value) if number is not None else fold_text(cleaned)
