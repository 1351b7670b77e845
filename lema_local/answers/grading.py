"""Grade a reasoning path: cut, extract, compare, and give the verdict with the rule that decided."""

from __future__ import annotations

from dataclasses import dataclass

from lema_local.answers.choices import find_choices
from lema_local.answers.comparison import compare_answers, is_readable, is_words
from lema_local.answers.extraction import cut_at_next_question, find_claim
from lema_local.answers.numbers import parse_number
from lema_local.answers.surface import MAX_ANSWER_CHARS, clean_answer
from lema_local.errors import InputError
from lema_local.records import PathVerdict, Question, StopReason


@dataclass(frozen=True, slots=True)
class Grade:
    """What became of a reasoning path."""

    final_answer: str | None
    verdict: PathVerdict
    rule: str
    """numeric, fraction, symbolic, choice, string; `none` where there was nothing to compare."""


_VERDICTS: dict[bool | None, PathVerdict] = {True: "correct", False: "wrong", None: "undecided"}


def grade_path(text: str, question: Question, *, stop_reason: StopReason = "end") -> Grade:
    """Return the final answer of a path, whether it is right, and by which rule.

    `truncated` is only a path that reached `max_tokens` before its final answer was out (an answer that the cut
    may have shortened is not out); what a model wrote behind its answer never matters.
    """
    path = cut_at_next_question(text)
    claim = find_claim(path, choices=question.choices)
    is_cut = stop_reason == "length" and len(path) == len(text)
    if claim is None or not claim.answer or (is_cut and not claim.is_finished):
        return Grade(None, "truncated" if is_cut else "no_answer", "none")
    comparison = compare_answers(question.gold_answer, claim.answer, choices=question.choices)
    return Grade(claim.answer, _VERDICTS[comparison.is_equal], comparison.rule)


def grade_answer(answer: str, question: Question) -> Grade:
    """Grade a final answer that stands by itself, as `grade_path` grades the one it finds in a path."""
    final_answer = clean_answer(answer) if len(answer) <= MAX_ANSWER_CHARS else answer
    if not final_answer:
        return Grade(None, "no_answer", "none")
    comparison = compare_answers(question.gold_answer, final_answer, choices=question.choices)
    return Grade(final_answer, _VERDICTS[comparison.is_equal], comparison.rule)


def check_gold(question: Question) -> None:
    """Make sure that a gold answer can be compared with.

    Raises:
        InputError: If it cannot; the message names the question.
    """
    problem = find_gold_problem(question)
    if problem:
        raise InputError(
            f"question {question.id}: {problem}", hint="mend its gold_answer, or leave the question out"
        )


def find_gold_problem(question: Question) -> str | None:
    """Return what is wrong with a gold answer; None for a good one."""
    if len(question.gold_answer) > MAX_ANSWER_CHARS:
        return f"the gold answer has {len(question.gold_answer)} characters (at most {MAX_ANSWER_CHARS})"
    gold = clean_answer(question.gold_answer)
    if not gold:
        return "the gold answer is empty"
    if question.choices is not None:
        return (
            None
            if find_choices(gold, question.choices)
            else f"the gold answer {gold!r} names none of the choices"
        )
    if parse_number(gold) is not None:
        return None
    return None if is_readable(gold) else f"the gold answer {gold!r} does not parse"


def describe_gold(question: Question) -> str:
    """Return the kind of a gold answer: choice, integer, decimal, fraction, words or expression."""
    if question.choices is not None:
        return "choice"
    gold = clean_answer(question.gold_answer)
    number = parse_number(gold)
    if number is None:
        return "words" if is_words(gold) else "expression"
    if number.is_fraction:
        return "fraction"
    return "decimal" if number.decimals else "integer"
