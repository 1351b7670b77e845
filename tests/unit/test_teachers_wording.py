"""What a step says in words, units and letters, against the problem."""

from __future__ import annotations

from fractions import Fraction

import pytest

from lema_local.teachers.equations import find_equations
from lema_local.teachers.units import find_conversions
from lema_local.teachers.wording import (
    counts_another,
    find_names,
    find_sentence,
    is_of_another,
    measure_order,
    takes_from_another,
)

SHOP = "Ann and Bob sell apples. If Bob has 30 apples, and has 10 more than Ann, how many has Ann?"


@pytest.mark.parametrize(
    ("text", "solutions"),
    [
        ("So 30x - 2x = 560.", [20]),
        ("Then 4x + 32 = 2(x + 32).", [16]),
        ("5x = 30. x = 6.", [6, 6]),
        ("x/2 = 4", [8]),
        ("3 x 4 = 12", []),
        ("x = y", []),
        ("x*x = 4", []),
        ("x = x", []),
        ("So Ann has a = b apples = 3", []),
        ("x/0 = 3", []),
        ("=" * 200, []),
    ],
)
def test_equations_with_one_letter_are_solved_where_they_are_linear(text: str, solutions: list[int]) -> None:
    assert [equation.solution for equation in find_equations(text)] == solutions


@pytest.mark.parametrize(
    ("text", "is_true"),
    [
        ("50 inches is 4 feet.", False),
        ("180 minutes is 3 hours.", True),
        ("1,800 minutes is 3 hours.", False),
        ("100 seconds = 1.67 minutes.", True),
        ("2 years is 24 months", True),
    ],
)
def test_units_are_converted(text: str, is_true: bool) -> None:
    assert [claim.is_true for claim in find_conversions(text)] == [is_true]


@pytest.mark.parametrize(
    "text",
    ["10 minutes is 10 dollars", "3.33 hours is 3 hours and 20 minutes", "5 hours is 5 hours", "hours"],
)
def test_what_is_no_conversion_is_passed_over(text: str) -> None:
    assert list(find_conversions(text)) == []


def test_names_are_told_from_words_that_begin_a_sentence() -> None:
    assert find_names("Every day Tom eats. On Monday he meets Ann's dog. Then every cat eats.") == {
        "Tom",
        "Ann",
    }


@pytest.mark.parametrize(
    ("step", "is_taken"),
    [
        ("Ann has 30 apples.", True),
        ("Bob has 30 apples.", False),
        ("She has 30 apples.", False),
        ("Ann has 17 apples.", False),
        ("Ann has 10 less than Bob.", False),
    ],
)
def test_a_number_that_the_problem_gives_to_somebody_else(step: str, is_taken: bool) -> None:
    assert takes_from_another(SHOP, step, find_names(SHOP)) is is_taken


def test_a_computation_for_somebody_else() -> None:
    lines = ["Ned is 7-2=5 feet tall.", "Carl is 5+1=6 feet tall."]
    assert is_of_another("Carl is 7-2=5 feet tall.", 0, lines, {"Ned", "Carl"})
    assert not is_of_another("Ned is 7-2=5 feet tall.", 0, lines, {"Ned", "Carl"})
    assert not is_of_another("He is 7-2=5 feet, less than Carl.", 0, lines, {"Ned", "Carl"})


@pytest.mark.parametrize(
    ("step", "is_strange"),
    [
        ("That is 20/2=10 balls.", True),
        ("That is 20/2=10 robots.", False),
        ("That is 20/2=10 machines.", False),
        ("That is 20/2=10.", False),
        ("That is 20/2=10 steel robots.", False),
    ],
)
def test_a_computation_of_something_else(step: str, is_strange: bool) -> None:
    lines = [("There are 20/2=10 robots.", Fraction(10)), ("There are 2*20=40 balls.", Fraction(40))]
    assert counts_another(step, Fraction(10), 0, lines) is is_strange


def test_words_moved_about_are_told_from_words_that_are_copied() -> None:
    problem = "Frances sells 20 cupcakes for $2 each and 40 cookies at $1 each. She buys 5 trays at $4 each."
    assert measure_order(problem, "She sells 20 cupcakes for $2 each.") == 1
    assert measure_order(problem, "She sells 40 cupcakes for $4 each.") < 0.7
    assert measure_order(problem, "Nothing of this stands there.") == 1
    assert measure_order("", "Anything 5.") == 1


def test_the_sentence_that_a_step_misreads_is_found() -> None:
    assert find_sentence(SHOP, "Ann has 30 apples.").startswith("If Bob has 30")
    assert find_sentence(SHOP, "Nothing.") == ""
