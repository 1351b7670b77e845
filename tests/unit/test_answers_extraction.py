import json
from pathlib import Path

import pytest

from lema_local.answers import cut_at_next_question, extract_answer, extraction
from lema_local.answers.extraction import find_boxed, find_claim

CLAIMS = [
    ("The answer is 18.", "18"),
    ("the answer is 18", "18"),
    ("So the answer is $18.", "18"),
    ("The answer is: 18", "18"),
    ("The final answer is 18.", "18"),
    ("The final answer is $\\boxed{18}$. I hope it is correct.", "18"),
    ("Final Answer: The final answer is $18$.", "18"),
    ("The answer to this problem is 18.", "18"),
    ("Therefore, the answer would be 18.", "18"),
    ("The correct answer is 18.", "18"),
    ("Answer: 18", "18"),
    ("**Answer:** 18", "18"),
    ("**Answer: 18**", "18"),
    ("**Answer: \\$18 per day.**", "18 per day"),
    ("## Answer\nThe answer is\n\n18", "18"),
    ("The answer is:\n\n18 dollars\n", "18 dollars"),
    ("#### 18", "18"),
    ("She earns 18.\n#### 1,800\n", "1,800"),
    ("#### -3", "-3"),
    ("so we get \\boxed{18}.", "18"),
    ("so we get \\boxed 18", "18"),
    ("\\fbox{18}", "18"),
    ("$\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"),
    ("$\\boxed{\\left\\{\\frac{1}{2}, \\sqrt{3}\\right\\}}$", "\\{\\frac{1}{2}, \\sqrt{3} \\}"),
    ("$\\boxed{\\text{(B)}}$", "(B)"),
    ("$\\boxed{2}$ and $\\boxed{3}$", "2, 3"),
    ("Either $\\boxed{2}$, $\\boxed{3}$ or $\\boxed{5}$.", "2, 3, 5"),
    ("So $x = \\boxed{5}$ or $x = \\boxed{6}$.", "5, 6"),
    ("<think>The answer is 4.</think><answer> 5 </answer>", "5"),
    ("(so the answer is 5)", "5"),
    ("(so the answer is (1, 2))", "(1, 2)"),
    ('The answer is "18".', "18"),
    ("The answer is \\(x = 5\\).", "x = 5"),
    ("The answer is\n\\[ \\frac{207}{64} \\]", "\\frac{207}{64}"),
    ("The answer is $$\n\\frac{207}{64}\n$$ as wanted.", "\\frac{207}{64}"),
    ("The answer is 3.5.", "3.5"),
    ("The answer is 3.50 dollars. She keeps 2.", "3.50 dollars"),
    ("The answer is 72 clips, since 48+24=72.", "72 clips"),
    ("The answer is 72, because 48 + 24 = 72.", "72"),
    ("The answer is 72 (48 + 24).", "72"),
    ("The answer is 72; nothing else.", "72"),
    ("The answer is 48 + 24 = 72.", "72"),
    ("The answer is 80 + 150 = 230 miles.", "230 miles"),
    ("The answer is 10%.", "10%"),
    ("The answer is -5.", "-5"),
    ("The answer is \u22125.", "-5"),
    ("The answer is 1/2.", "1/2"),
    ("The answer is 3 1/2 hours.", "3 1/2 hours"),
    ("The answer is (1, 2).", "(1, 2)"),
    ("The answer is [1, 2).", "[1, 2)"),
    ("The answer is 1331 and 1728.", "1331 and 1728"),
    ("The answer is 3:30 p.m. on Monday.", "3:30 p.m. on Monday"),
    ("The answer is five.", "five"),
    ("The answer is Evelyn.", "Evelyn"),
    ("140 miles is the answer.", "140 miles"),
    ("So 90 is the final answer.", "90"),
    ("The answer is 5. Wait, I forgot one. The answer is 6.", "6"),
    ("\\boxed{5} is wrong, so it must be \\boxed{6}.", "6"),
    ("The answer is 5.\n#### 6", "6"),
    ("The answer is 5. The answer is not 6.", "5"),
    ("The answer is 220. It will be different, the answer is different for any number", "220"),
    ("\\boxed{25} 'answer: ## \u6e17\u900f IK())))", "25"),
]
NO_CLAIMS = [
    "",
    "   \n",
    "She sold 72 clips.",
    "48 + 24 = 72",
    "Answer: Let's think step by step.",
    "Answer:",
    "The answer is not 5.",
    "The answer is as follows",
    "We must find the answer.",
    "The answer is in the table that stands above this line of text here.",
    "####",
    "\\boxed{}",
]


@pytest.mark.parametrize(("text", "expected"), CLAIMS)
def test_the_claimed_answer_is_found(text: str, expected: str) -> None:
    assert extract_answer(text) == expected


@pytest.mark.parametrize("text", NO_CLAIMS)
def test_a_path_without_a_claim_has_no_answer(text: str) -> None:
    assert extract_answer(text) is None


CHOICES = ["bank", "library", "department store", "mall", "new york"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is (B).", "B"),
        ("The answer is B) library.", "B"),
        ("So the correct option is (D).", "D"),
        ("The answer is library.", "library"),
        ("The answer is the department store.", "the department store"),
        ("Bank is out. Library fits best.\n(B)", "B"),
        ("The answer is (A). A person who said \\boxed{C} was right.", "C"),
        ("A library has doors.", None),
        ("The answer is (A) or (B).", "(A) or (B)"),
    ],
)
def test_a_choice_is_named_by_letter_or_by_text(text: str, expected: str | None) -> None:
    assert extract_answer(text, choices=CHOICES) == expected


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The answer is 5.\n\nQuestion: And now?\nThe answer is 6.", "The answer is 5.\n"),
        ("The answer is 5.\n\nQ: And now?", "The answer is 5.\n"),
        ("\\boxed{5}\n\n### Problem 2\nAnd now?", "\\boxed{5}\n"),
        ("The answer is 5.<|im_end|>\n<|im_start|>user", "The answer is 5."),
        ("The answer is 5.\nPlease solve the following math problem.\nQuestion: x", "The answer is 5."),
        ("Question: How many?\nThe answer is 5.", "Question: How many?\nThe answer is 5."),
        ("Is 5 < 6? Yes.\nThe answer is 5.", "Is 5 < 6? Yes.\nThe answer is 5."),
        ("plain", "plain"),
    ],
)
def test_a_path_is_cut_at_a_question_that_the_model_made_up(text: str, kept: str) -> None:
    assert cut_at_next_question(text) == kept


@pytest.mark.parametrize(
    ("text", "is_finished"),
    [
        ("The answer is 18.", True),
        ("The answer is 18\n", True),
        ("The answer is 18", False),
        ("The answer is ", False),
        ("\\boxed{18}", True),
        ("\\boxed{18", False),
        ("#### 18", False),
    ],
)
def test_an_answer_that_a_cut_may_have_shortened_is_not_finished(text: str, is_finished: bool) -> None:
    claim = find_claim(text)

    assert claim is not None
    assert claim.is_finished is is_finished


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$\\boxed{8}$ and $\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"),
        ("\\boxed 5", "5"),
        ("\\boxed{a", None),
        ("nothing", None),
    ],
)
def test_the_last_box_of_a_solution_is_read(text: str, expected: str | None) -> None:
    assert find_boxed(text) == expected


def test_the_quick_way_finds_what_the_thorough_one_does(
    lema_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        (lema_data / "student_outputs/rho-math-1b_gsm8k_cot.jsonl").read_text(encoding="utf-8").splitlines()
    )
    texts = [json.loads(line)["code"][0] for line in lines]
    quick = [find_claim(text) for text in texts]
    monkeypatch.setattr(extraction, "_find_standard_claim", lambda _: None)

    assert [find_claim(text) for text in texts] == quick


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 150_000,
        "answer is " * 100_000,
        "answer" + " " * 1_000_000,
        "\n" * 500_000 + "Q" + " " * 500_000,
        "The answer is " + "(" * 1_000_000,
        "####" * 250_000,
        "$" * 1_000_000 + " answer: $",
        "is the answer " * 70_000,
        "The answer is " + "9" * 1_000_000 + ".",
        "\\boxed{" + "x" * 1_000_000 + "}",
        "**" * 500_000 + "answer: **",
        "a" * 1_000_000,
    ],
    ids=lambda text: text[:14].strip(),
)
@pytest.mark.timeout(60)
def test_a_megabyte_of_anything_is_read_in_linear_time(text: str) -> None:
    extract_answer(cut_at_next_question(text))
    extract_answer(text, choices=CHOICES)
