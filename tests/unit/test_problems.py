"""The quickstart's problems: one right answer each, stable ids, disjoint splits."""

import re
from collections import Counter
from itertools import islice

import pytest

from lema_local.quickstart.problems import (
    FAMILIES,
    HELD_BACK,
    MAX_VALUE,
    SPLIT_BOUNDS,
    find_split,
    generate_questions,
    generate_variant,
    normalize_question,
)

COMPUTATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


@pytest.fixture(scope="module")
def questions() -> list[dict]:
    return list(generate_questions("train", 1600))


def compute(left: int, operator: str, right: int) -> float:
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[operator]


def test_every_step_holds_one_right_computation_in_range(questions: list[dict]) -> None:
    for question in questions:
        for step in question["gold_rationale"].splitlines():
            ((left, operator, right, value),) = COMPUTATION.findall(step)
            assert compute(int(left), operator, int(right)) == int(value)
            assert all(1 <= int(number) <= MAX_VALUE for number in (left, right, value))


def test_the_last_step_ends_in_the_gold_answer(questions: list[dict]) -> None:
    for question in questions:
        last_step = question["gold_rationale"].splitlines()[-1]
        assert COMPUTATION.findall(last_step)[0][-1] == question["gold_answer"]


def test_every_operand_is_given_or_computed_before(questions: list[dict]) -> None:
    for question in questions:
        known = {*re.findall(r"\d+", question["question"]), "2"}  # "doubles", "half", "there and back"
        for left, _, right, value in COMPUTATION.findall(question["gold_rationale"]):
            assert {left, right} <= known, question
            known.add(value)


def test_questions_have_two_to_six_steps_and_say_so(questions: list[dict]) -> None:
    for question in questions:
        steps = question["gold_rationale"].splitlines()
        assert 2 <= len(steps) <= 6
        assert question["tags"]["steps"] == str(len(steps))


def test_families_have_equal_shares_unless_a_mix_says_otherwise(questions: list[dict]) -> None:
    assert Counter(q["tags"]["family"] for q in questions) == dict.fromkeys(FAMILIES, 200)
    mixed = generate_questions("train", 40, mix={"chain": 1, "trip": 3, "parts": 0})
    assert Counter(q["tags"]["family"] for q in mixed) == {"chain": 10, "trip": 30}


def test_held_back_families_are_marked(questions: list[dict]) -> None:
    marked = {q["tags"]["family"] for q in questions if q["tags"]["held_back"] == "yes"}
    assert marked == HELD_BACK


def test_no_question_comes_twice_even_under_other_names(questions: list[dict]) -> None:
    assert len({q["id"] for q in questions}) == len(questions)
    assert len({normalize_question(q["question"]) for q in questions}) == len(questions)


def test_a_question_is_the_same_whatever_the_count_and_mix(questions: list[dict]) -> None:
    by_id = {q["id"]: q for q in questions}
    fewer = list(generate_questions("train", 30, mix={"money": 2, "parts": 1}))
    assert all(by_id[q["id"]] == q for q in fewer)


def test_other_seeds_give_other_questions_under_other_ids(questions: list[dict]) -> None:
    others = list(generate_questions("train", 80, seed=1))
    assert not {q["id"] for q in others} & {q["id"] for q in questions}
    texts = {q["question"] for q in questions}
    assert sum(q["question"] in texts for q in others) < 8


def test_splits_are_disjoint_with_names_and_things_masked() -> None:
    texts = {
        split: {normalize_question(q["question"]) for q in generate_questions(split, 800)}
        for split in SPLIT_BOUNDS
    }
    for split, own in texts.items():
        assert not own & set().union(*(texts[other] for other in SPLIT_BOUNDS if other != split))


def test_another_name_or_thing_does_not_change_the_split() -> None:
    text = "Mia has 12 apples. Then she buys 9 more. How many apples does Mia have now?"
    renamed = "Tom has 12 shells. Then he buys 9 more. How many shells does Tom have now?"
    assert normalize_question(text) == normalize_question(renamed)
    assert find_split(text) == find_split(renamed)
    assert normalize_question(text) != normalize_question(text.replace("9", "8"))


def test_a_variant_keeps_split_family_and_steps_but_not_the_numbers(questions: list[dict]) -> None:
    for question in islice(questions, 40):
        variant = generate_variant(question, seed=3)
        assert variant == generate_variant(question, seed=3)
        assert variant["id"] != question["id"]
        assert variant["question"] != question["question"]
        assert {**variant["tags"]} == question["tags"]
        assert find_split(variant["question"]) == question["split"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"split": "train", "mix": {"chian": 1}}, "unknown families chian"),
        ({"split": "train", "mix": {"chain": 0}}, "no family"),
    ],
)
def test_what_does_not_exist_is_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(generate_questions(count=1, **arguments))
