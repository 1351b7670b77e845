import pytest

from lema_local.answers import Grade, check_gold, grade_answer, grade_path
from lema_local.answers.grading import describe_gold
from lema_local.errors import InputError
from lema_local.records import Question, StopReason


def _ask(gold: str, choices: list[str] | None = None) -> Question:
    return Question(id="q/1", dataset="own", split="train", question="?", gold_answer=gold, choices=choices)


def test_a_path_with_the_gold_answer_is_correct() -> None:
    assert grade_path("48+24=72.\nThe answer is 72.", _ask("72")) == Grade("72", "correct", "numeric")


def test_a_path_with_another_answer_is_wrong() -> None:
    assert grade_path("The answer is 71.", _ask("72")) == Grade("71", "wrong", "numeric")


def test_a_path_that_claims_nothing_has_no_answer() -> None:
    assert grade_path("She has 72 clips.", _ask("72")) == Grade(None, "no_answer", "none")


@pytest.mark.parametrize(
    ("text", "stop_reason", "verdict"),
    [
        ("She has 72", "length", "truncated"),
        ("The answer is", "length", "truncated"),
        ("The answer is 7", "length", "truncated"),  # may go on to 72
        ("The answer is 72.", "length", "correct"),
        ("The answer is 72\n\nQuestion: How", "length", "correct"),
        ("\\boxed{72} which", "length", "correct"),
        ("The answer is 72", "end", "correct"),
        ("The answer is 72", "stop", "correct"),
        ("The answer is 72", "unknown", "correct"),
        ("She has 72", "unknown", "no_answer"),
        ("She has 72\n\nQuestion: How many more? The answer is 72", "length", "no_answer"),
    ],
)
def test_truncated_is_what_reached_max_tokens_before_its_answer(
    text: str, stop_reason: StopReason, verdict: str
) -> None:
    assert grade_path(text, _ask("72"), stop_reason=stop_reason).verdict == verdict


def test_what_follows_a_made_up_question_does_not_count() -> None:
    text = "The answer is 71.\n\nQuestion: What is 70 + 2?\nThe answer is 72."

    assert grade_path(text, _ask("72")) == Grade("71", "wrong", "numeric")


def test_a_choice_is_graded_by_letter_and_by_text() -> None:
    question = _ask("library", ["bank", "library"])

    assert grade_path("The answer is (B).", question) == Grade("B", "correct", "choice")
    assert grade_path("The answer is bank.", question) == Grade("bank", "wrong", "choice")


def test_a_bare_answer_is_graded_without_a_claim() -> None:
    assert grade_answer("$1,000 per day", _ask("1000")) == Grade("1,000 per day", "correct", "numeric")
    assert grade_answer(" ", _ask("1000")) == Grade(None, "no_answer", "none")


@pytest.mark.parametrize(
    ("gold", "choices"),
    [
        ("", None),
        ("  . ", None),
        ("\\frac{1}{", None),
        ("2 +* 3", None),
        ("9" * 5000, None),
        ("F", ["bank", "library"]),
        ("school", ["bank", "library"]),
    ],
)
def test_a_gold_answer_that_does_not_parse_is_an_error_that_names_the_question(
    gold: str, choices: list[str] | None
) -> None:
    with pytest.raises(InputError, match="q/1"):
        check_gold(_ask(gold, choices))


@pytest.mark.parametrize(
    ("gold", "choices", "kind"),
    [
        ("72", None, "integer"),
        ("0.5", None, "decimal"),
        ("\\frac{1}{2}", None, "fraction"),
        ("even", None, "words"),
        ("2\\sqrt{3}", None, "expression"),
        ("(1, 2)", None, "expression"),
        ("B", ["bank", "library"], "choice"),
    ],
)
def test_a_good_gold_answer_passes_and_has_a_kind(gold: str, choices: list[str] | None, kind: str) -> None:
    check_gold(_ask(gold, choices))

    assert describe_gold(_ask(gold, choices)) == kind
