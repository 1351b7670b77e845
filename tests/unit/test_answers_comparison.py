import json
from pathlib import Path

import pytest
from answer_cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

from lema_local.answers import compare_answers, vote_key
from lema_local.answers.numbers import parse_number

CHOICES = ["bank", "library", "department store", "mall", "new york"]


@pytest.mark.parametrize(("kind", "gold", "prediction", "is_equal"), CASES)
def test_our_table_of_answers(kind: str, gold: str, prediction: str, is_equal: bool) -> None:
    assert compare_answers(gold, prediction).is_equal is is_equal


def test_the_table_has_enough_cases_and_as_many_that_are_not_equal() -> None:
    unequal = sum(not case[3] for case in CASES)

    assert len(CASES) >= 400
    assert 0.5 <= unequal / len(CASES) <= 0.55


@pytest.mark.parametrize(("kind", "gold"), sorted({case[:2] for case in CASES}))
def test_every_answer_is_itself(kind: str, gold: str) -> None:
    assert compare_answers(gold, gold).is_equal is True


@pytest.mark.parametrize(
    ("gold", "prediction", "rule"),
    [
        ("18", "$18", "numeric"),
        ("1/2", "0.5", "fraction"),
        ("2\\sqrt{3}", "\\sqrt{12}", "symbolic"),
        ("even", "Even", "string"),
        ("A", "(A)", "choice"),
        ("18", "", "none"),
        ("(1, 2)", "(1, 3)", "numeric"),
        ("(1/2, 2)", "(0.5, 2)", "fraction"),
        ("1331 and 1728", "1728", "numeric"),
    ],
)
def test_a_verdict_names_its_rule(gold: str, prediction: str, rule: str) -> None:
    assert compare_answers(gold, prediction).rule == rule


@pytest.mark.parametrize(
    ("gold", "prediction", "is_equal"),
    [
        ("bank", "bank", True),
        ("bank", "A", True),
        ("bank", "(a)", True),
        ("A", "the bank", True),
        ("A", "A) bank", True),
        ("A", "B) bank", False),  # letter and text disagree
        ("bank", "B", False),
        ("bank", "banking", False),
        ("bank", "F", False),
        ("new york", "New York.", True),
        ("new york", "york", False),
    ],
)
def test_choices_are_named_by_letter_or_text(gold: str, prediction: str, is_equal: bool) -> None:
    found = compare_answers(gold, prediction, choices=CHOICES)

    assert (found.is_equal, found.rule) == (is_equal, "choice")


@pytest.mark.parametrize(
    ("gold", "prediction", "is_equal"),
    [("B", "32,400", True), ("B", "B", True), ("B", "100", False), ("C", "1/2", True), ("D", "10%", True)],
)
def test_choices_that_are_numbers_are_compared_as_numbers(gold: str, prediction: str, is_equal: bool) -> None:
    choices = ["100", "32400", "0.5", "10"]

    assert compare_answers(gold, prediction, choices=choices).is_equal is is_equal


def test_equal_choices_all_count() -> None:
    assert compare_answers("A", "C", choices=["fly", "walk", "fly"]).is_equal is True


@settings(deadline=None)
@given(st.fractions(max_denominator=10**6))
def test_a_fraction_equals_itself_in_any_dress(value) -> None:  # type: ignore[no-untyped-def]
    gold = f"{value.numerator}/{value.denominator}"
    latex = f"\\frac{{{value.numerator}}}{{{value.denominator}}}"

    assert compare_answers(gold, latex).is_equal is True
    assert compare_answers(latex, f"\\({gold}\\)").is_equal is True


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_are_equal_exactly_when_they_are(one: int, other: int) -> None:
    assert compare_answers(str(one), f"{other:,}").is_equal is (one == other)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_text_breaks_the_parser_of_numbers(text: str) -> None:
    number = parse_number(text)

    assert number is None or number.value.denominator > 0


def test_equal_answers_share_a_vote() -> None:
    assert vote_key("\\$1,000") == vote_key("1000.0")
    assert vote_key("1/2") == vote_key("\\frac12")
    assert vote_key("Even") == vote_key("\\text{even}")
    assert vote_key("10") != vote_key("11")


def test_the_public_pairs_are_judged_as_labelled(lema_data: Path) -> None:
    pairs = map(json.loads, (lema_data / "equivalence/pairs.jsonl").read_text(encoding="utf-8").splitlines())

    wrong = [
        pair["id"]
        for pair in pairs
        if compare_answers(str(pair["gold"]), str(pair["pred"])).is_equal is not bool(pair["equivalent"])
    ]

    assert wrong == []
