"""Recomputing arithmetic in steps of text."""

# ruff: noqa: RUF001 (the look-alikes of minus and times that people type are meant)

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_local.arithmetic import (
    NotArithmetic,
    chain_equations,
    evaluate,
    find_claims,
    find_numbers,
    format_number,
    strip_marks,
)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12+9", 21), ("16 - 3 - 4", 9), ("2 + 3 * 4", 14), ("(2 + 3) * 4", 20), ("7/2", Fraction(7, 2)),
        ("80,000 * 1.5", 120_000), ("40% * 200", 80), ("$9 x 2", 18), ("2 ^ 3 ^ 2", 512), ("-3 - -8", 5),
        ("1 1/2 * 4", 6), ("½ × 8", 4), (r"\frac{1}{2} \times 8", 4), ("2(3+4)", 14), (".5 + .25", Fraction(3, 4)),
        ("60 divided by 4", 15), ("((((((((1+1))))))))", 2), ("3/4 of 20", 15), ("10 − 4", 6),
    ],
)  # fmt: skip
def test_an_expression_comes_to_its_exact_value(expression: str, value: int | Fraction) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["", "x + 3", "3 apples", "1/0", "0 ^ -1", "9**9**9**9", "2 ^ 0.5", "(3 + 4", "3 + 4)", "__import__('os')",
     "(" * 5000 + "1" + ")" * 5000, "1" * 500, "8:30 + 2"],
)  # fmt: skip
def test_what_is_no_plain_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(NotArithmetic):
        evaluate(expression)


@given(st.integers(-999, 999), st.integers(-999, 999), st.integers(1, 999), st.sampled_from("+-*/"))
def test_it_agrees_with_fractions(a: int, b: int, c: int, operator: str) -> None:
    wanted = {"+": Fraction(b + c), "-": Fraction(b - c), "*": Fraction(b * c), "/": Fraction(b, c)}[operator]
    assert evaluate(f"{a} - ({b} {operator} {c})") == a - wanted


def _told(text: str) -> list[tuple[str, str, bool]]:
    return [(claim.left, format_number(claim.stated), claim.is_true) for claim in find_claims(text)]


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("Mia has 12+9=20 apples.", [("12+9", "20", False)]),
        ("3 hours x 60 mph = 180 miles.", [("3*60", "180", True)]),
        ("200 GB / 2 GB/minute = 100 minutes.", [("200/2", "100", True)]),
        ("Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.", [("16-3-4", "9", True)]),
        ("It is <<2/2=2>> one.", [("2/2", "2", False)]),
        ("So 2 + 2/2 = 2 + 1 = 4.", [("2+2/2", "3", True), ("2+1", "4", False)]),
        ("60 times 3 is 180", [("60*3", "180", True)]),
        ("3 + 4 is equal to 8", [("3+4", "8", False)]),
        ("40% of 200 is 90", [("40%*200", "90", False)]),
        ("A = (2 - 3) = -1 and B = 4 * 2 = 8", [("(2-3)", "-1", True), ("4*2", "8", True)]),
        ("25 cents * 4 = $1", [("25*4", "1", True)]),
        ("100% - 30% = 70%", [("100%-30%", "0.7", True)]),
        ("100 - 20 = 80%", [("100-20", "0.8", True)]),
        ("80 * 20% = 1600", [("80*20%", "1600", False)]),
        ("10/3 = 3.33", [("10/3", "3.33", True)]),
        ("15/4 = 3.7", [("15/4", "3.7", False)]),
        ("7/2 = 3", [("7/2", "3", False)]),
        ("7/2 = 4, rounded up to whole buses", [("7/2", "4", True)]),
        ("5+3=8-2=6", [("5+3", "6", True), ("8-2", "6", True)]),
        ("5 m x 3 m = 15 square meters", [("5*3", "15", True)]),
    ],
)
def test_the_equations_of_a_step_are_found_and_worked_out(
    text: str, claims: list[tuple[str, str, bool]]
) -> None:
    assert _told(text) == claims


@pytest.mark.parametrize(
    "text",
    ["", "She has 20 apples.", "2x + 3 = 7", "x + 3 + 4 = 10", "4c - 2 = 10", "x = 5", "It takes 1 hour = 60 minutes.",
     "at 8:30 + 2 = 10", "10 and 5 = 15", "n - 1 + 2 = 7", "Step 3 is 5", "On day 1-2 = Monday", "3 of 4 = 7 apples"],
)  # fmt: skip
def test_what_cannot_be_checked_is_no_claim(text: str) -> None:
    assert find_claims(text) == []


def test_a_claim_knows_its_terms_and_factors() -> None:
    claim = find_claims("60-15-25=20")[0]
    assert claim.terms == (60, -15, -25)
    assert claim.operands == (60, 15, 25)
    assert find_claims("60/2*5=150")[0].factors == (60, Fraction(1, 2), 5)


def test_numbers_and_chains_leave_marks_out() -> None:
    text = "She makes 9 * 2 = $<<9*2=18>>18."
    assert strip_marks(text) == "She makes 9 * 2 = $18."
    assert find_numbers(text) == [9, 2, 18]
    assert chain_equations(text) == ("9*2=18",)
    assert chain_equations("In all 1,000 x 2 = 2,000.") == chain_equations("She pays 1000*2=2000 dollars")


@pytest.mark.parametrize(
    "text", ["(" * 50_000, "1+" * 50_000, "=" * 50_000, "1=1" * 30_000, "- " * 50_000, "1 a " * 9000]
)
def test_hostile_text_takes_no_time(text: str) -> None:
    start = time.process_time()
    find_claims(text)
    assert time.process_time() - start < 3
