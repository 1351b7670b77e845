import pytest

from lema_local.answers.paper import (
    choose_scorer,
    evaluate_arithmetic,
    levenshtein,
    normalize_maths,
    score_as_paper,
)


@pytest.mark.parametrize(
    ("text", "gold", "is_correct"),
    [
        ("So 72. The answer is 72.", "72", True),
        ("The answer is: $1,000.", "1000", True),
        ("The answer is 72 clips.", "72", True),
        ("The answer is 48+24=72.", "72", True),
        ("The answer is <<48+24=72>>72.", "72", True),
        ("The answer is 10%.", "10", True),
        ("The answer is 0.1.", "10", False),
        ("The answer is 36*2.", "72", True),
        ("The answer is 10-3.", "7", True),  # a range is taken for a difference
        ("The answer is 3:30.", "3", True),  # what stands behind a colon is dropped
        ("The answer is 5 (five).", "5", False),  # `5()` is no number
        ("The answer is 71. The answer is 72.", "72", True),
        ("#### 72", "72", False),
        ("So she has 72.", "72", False),
        ("The answer is 72.\n\nQuestion: And?\nThe answer is 5.", "72", True),
        ("The answer is 72.00000001.", "72", False),
        ("The answer is 9**9**9**9.", "9", False),
    ],
)
def test_the_gsm8k_scorer_with_its_quirks(text: str, gold: str, is_correct: bool) -> None:
    score = score_as_paper(text, gold, dataset="gsm8k")

    assert (score.is_correct, score.scorer) == (is_correct, "gsm8k")


def test_svamp_and_asdiv_round_both_sides_to_two_decimals() -> None:
    assert score_as_paper("The answer is 3.333.", "3.33", dataset="svamp").is_correct
    assert not score_as_paper("The answer is 3.34.", "3.33", dataset="asdiv").is_correct
    assert score_as_paper("nothing", "0", dataset="svamp").is_correct  # a failure is taken for 0


@pytest.mark.parametrize(
    ("text", "gold", "is_correct"),
    [
        ("The answer is \\frac12.", "\\frac{1}{2}", True),
        ("The answer is $\\dfrac{1}{2}$.", "\\frac{1}{2}", True),
        ("so \\boxed{0.5}", "\\frac{1}{2}", True),
        ("The answer is 1/2.", "\\frac{1}{2}", True),
        ("The answer is x=5.", "5", True),
        ("The answer is 90^\\circ.", "90", True),
        ("The answer is 10\\text{ cm}.", "10", True),
        ("The answer is 1,000.", "1000", False),
        ("The answer is 2x+1.", "1+2x", False),
        ("The answer is 0.50.", "\\frac{1}{2}", False),
        ("no claim", "5", False),
        ("\\boxed{5}\nQuestion: next \\boxed{6}", "5", True),
    ],
)
def test_the_maths_scorer_compares_strings(text: str, gold: str, is_correct: bool) -> None:
    assert score_as_paper(text, gold, dataset="math").is_correct is is_correct


@pytest.mark.parametrize(
    ("text", "is_correct"),
    [
        ("The answer is bank.", True),
        ("The answer is banks.", True),
        ("The answer is library.", False),
        ("the answer is Bank", False),  # without the phrase the whole text is compared
    ],
)
def test_the_csqa_scorer_takes_the_nearest_candidate(text: str, is_correct: bool) -> None:
    choices = ["library", "bank", "department store", "mall", "answer"]

    assert score_as_paper(text, "bank", dataset="csqa", choices=choices).is_correct is is_correct


def test_a_dataset_that_the_paper_lacks_gets_the_scorer_for_its_kind_of_answer() -> None:
    assert choose_scorer(None, "72") == "gsm8k"
    assert choose_scorer("own", "2\\sqrt{3}") == "math"
    assert choose_scorer("aqua", "A", ["1", "2"]) == "csqa"
    assert choose_scorer("mawps", "72") == "rounded"


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "2**9", "(1).real", "1 if 1 else 2", "[1][0]", "1;2", "x", "1+", "(" * 300, "'1'*9"],
)
def test_only_plain_arithmetic_is_evaluated(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        evaluate_arithmetic(text)


def test_arithmetic_is_evaluated_as_floats_are() -> None:
    assert evaluate_arithmetic("-(1+2)*3/4") == -2.25
    with pytest.raises(ZeroDivisionError):
        evaluate_arithmetic("1/0")


def test_distances_are_levenshtein_s() -> None:
    assert levenshtein("kitten", "sitting") == 3
    assert levenshtein("", "abc") == 3
    assert levenshtein("bank", "bank") == 0


def test_the_normal_form_of_the_release() -> None:
    assert normalize_maths("\\left( \\dfrac{3}{4}, \\sqrt3 \\right)") == "(\\frac{3}{4},\\sqrt{3})"
    assert normalize_maths("\\text{ a } \\text{ b }") == "\\text{ a } \\text{ b }"
