# ruff: noqa: RUF001 (letters of other alphabets are meant)
"""Reading teachers' replies as corrections, and judging them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lema_local.corrections import CHECKS, ParsedCorrection, UnparseableReply, judge_correction, parse_reply
from lema_local.records import Question

ORIGINAL = [
    "The coat costs 35 * 2 = 70 dollars.",
    "Together 18 + 35 + 70 = 113 dollars.",
    "Ken has 150 - 113 = 37 dollars left.",
    "The answer is 37.",
]
STEPS = ["Together 18 + 35 + 70 = 123 dollars.", "Ken has 150 - 123 = 27 dollars left.", "The answer is 27."]
WHY = "18 + 35 + 70 is 123, not 113."
PARSED = ParsedCorrection(2, WHY, STEPS, 2)
QUESTION = Question(
    id="q",
    dataset="d",
    split="train",
    question="Ken pays $18, $35 and twice as much. He had $150.",
    gold_answer="27",
    gold_rationale="The coat costs 70.\nKen has 150 - 18 - 35 - 70 = 27.",
)

SOLUTION = f"Step 2: {STEPS[0]}\nStep 3: {STEPS[1]}\nStep 4: {STEPS[2]}"
REPLIES = {
    "as asked": f" Step 2.\nExplanation: {WHY}\nCorrect Solution: {{\n...\n{SOLUTION}\n}}",
    "with the cue": f"Incorrect Step: Step 2.\nExplanation: {WHY}\nCorrect Solution: {{\n...\n{SOLUTION}\n}}",
    "without braces": f"Incorrect Step: 2\nExplanation: {WHY}\nCorrect Solution:\n{SOLUTION}",
    "braces on their own": f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution:\n{{\n{SOLUTION}\n}}",
    "closing brace missing": f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution: {{\n...\n{SOLUTION}",
    "unicode ellipsis": f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution: {{\n…\n{SOLUTION}\n}}",
    "ellipsis in brackets": f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution:\n[...]\n{SOLUTION}",
    "ellipsis in words": (
        f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution:\n(Step 1 remains unchanged)\n{SOLUTION}"
    ),
    "bold": (
        f"**Incorrect Step:** Step 2\n\n**Explanation:** {WHY}\n\n**Correct Solution:**\n\n"
        f"**Step 2:** {STEPS[0]}\n\n**Step 3:** {STEPS[1]}\n\n**Step 4:** {STEPS[2]}"
    ),
    "bold, no colon": f"**Incorrect Step**: **Step 2**\n**Explanation**: {WHY}\n**Correct Solution**:\n{SOLUTION}",
    "headings": f"### Incorrect Step\nStep 2\n### Explanation\n{WHY}\n### Corrected Solution\n{SOLUTION}",
    "list": f"1. Incorrect Step: Step 2\n2. Explanation: {WHY}\n3. Corrected solution:\n{SOLUTION}",
    "code fence": f"```\nIncorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution:\n{SOLUTION}\n```",
    "text before and after": (
        "Sure, let me look at it.\n\n"
        f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution: {{\n...\n{SOLUTION}\n}}"
        "\n\nI hope that this helps! Let me know."
    ),
    "thinking": f"<think>Step 3? No.\nIncorrect Step: 3</think>\nIncorrect Step: Step 2\nExplanation: {WHY}\n"
    f"Correct Solution:\n{SOLUTION}",
    "no heading for the solution": f"Incorrect Step: Step 2\nExplanation: {WHY}\n\n{SOLUTION}",
    "step quoted": f"Incorrect Step: Step 2: Together 18 + 35 + 70 = 113 dollars.\nExplanation: {WHY}\n"
    f"Correct Solution:\n{SOLUTION}",
    "answer in its own words": (
        f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution:\nStep 2: {STEPS[0]}\n"
        f"Step 3: {STEPS[1]}\n\n**Final Answer: 27**\n\nThat is all."
    ),
    "answer behind the braces": (
        f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution: {{\n...\nStep 2: {STEPS[0]}\n"
        f"Step 3: {STEPS[1]}\n}}\nTherefore, the answer is 27."
    ),
    "answer in the last step": (
        f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution:\nStep 2: {STEPS[0]}\n"
        f"Step 3: {STEPS[1]} The answer is 27."
    ),
    "dashes for colons": f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution:\n"
    f"- Step 2 - {STEPS[0]}\n- Step 3 - {STEPS[1]}\n- Step 4 - {STEPS[2]}",
    "numbers only": f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution:\n"
    f"2. {STEPS[0]}\n3. {STEPS[1]}\n4. {STEPS[2]}",
    "German": f"Falscher Schritt: Schritt 2\nErklärung: {WHY}\nKorrekte Lösung:\n"
    f"Schritt 2: {STEPS[0]}\nSchritt 3: {STEPS[1]}\nSchritt 4: {STEPS[2]}",
    "Chinese labels": f"Incorrect Step: 第2步\nExplanation: {WHY}\nCorrect Solution:\n"
    f"第2步: {STEPS[0]}\n第3步: {STEPS[1]}\n第4步: {STEPS[2]}",
    "first steps told again": (
        f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution:\nStep 1: {ORIGINAL[0]}\n{SOLUTION}"
    ),
    "French": f"Étape incorrecte : Étape 2\nExplication : {WHY}\nSolution correcte :\n"
    f"Étape 2 : {STEPS[0]}\nÉtape 3 : {STEPS[1]}\nÉtape 4 : {STEPS[2]}",
    "Spanish": f"Paso incorrecto: Paso 2\nExplicación: {WHY}\nSolución correcta:\n"
    f"Paso 2: {STEPS[0]}\nPaso 3: {STEPS[1]}\nPaso 4: {STEPS[2]}",
    "Portuguese": f"Passo incorreto: Passo 2\nExplicação: {WHY}\nSolução correta:\n"
    f"Passo 2: {STEPS[0]}\nPasso 3: {STEPS[1]}\nPasso 4: {STEPS[2]}",
    "Italian": f"Passaggio errato: Passaggio 2\nSpiegazione: {WHY}\nSoluzione corretta:\n"
    f"Passaggio 2: {STEPS[0]}\nPassaggio 3: {STEPS[1]}\nPassaggio 4: {STEPS[2]}",
    "Russian": f"Неверный шаг: Шаг 2\nОбъяснение: {WHY}\nПравильное решение:\n"
    f"Шаг 2: {STEPS[0]}\nШаг 3: {STEPS[1]}\nШаг 4: {STEPS[2]}",
    "Chinese": f"错误步骤：步骤2\n解释：{WHY}\n正确解法：\n"
    f"步骤2：{STEPS[0]}\n步骤3：{STEPS[1]}\n步骤4：{STEPS[2]}",
    "Japanese": f"誤ったステップ: ステップ2\n説明: {WHY}\n正しい解答:\n"
    f"ステップ2: {STEPS[0]}\nステップ3: {STEPS[1]}\nステップ4: {STEPS[2]}",
    "headings with more words": f"**First incorrect step:** Step 2\n**Explanation of the error:** {WHY}\n"
    f"**Correct solution (starting from Step 2):**\n{SOLUTION}",
    "a sentence": f"The incorrect step is Step 2.\n\nExplanation: {WHY}\n\nCorrect Solution:\n{SOLUTION}",
    "the step in words": f"Incorrect Step: The second step\nExplanation: {WHY}\nCorrect Solution:\n{SOLUTION}",
    "labels in brackets": f"Incorrect Step: [Step 2]\nExplanation: {WHY}\nCorrect Solution:\n"
    f"[Step 2] {STEPS[0]}\n[Step 3] {STEPS[1]}\n[Step 4] {STEPS[2]}",
    "all in one line": f"Incorrect Step: Step 2. Explanation: {WHY} Correct Solution: {{ ... "
    + SOLUTION.replace("\n", " ")
    + " }",
    "goes on to a question of its own": f"Step 2.\nExplanation: {WHY}\nCorrect Solution: {{\n...\n{SOLUTION}\n}}\n\n"
    "Question: Why?\nOriginal Solution: {\nStep 1: x\n}\nIncorrect Step: Step 1.\nExplanation: no.\n"
    "Correct Solution: {\nStep 1: y\n}",
    "Windows lines": f"Incorrect Step: 2\r\nExplanation: {WHY}\r\nCorrect Solution:\r\n"
    + SOLUTION.replace("\n", "\r\n"),
    "JSON with a trailing comma": json.dumps(
        {"incorrect_step": 2, "explanation": WHY, "corrected_solution": SOLUTION.split("\n")}
    ).replace("]}", ",],}"),
    "JSON in JSON": json.dumps(
        {"correction": {"incorrect_step": 2, "explanation": WHY, "corrected_solution": SOLUTION.split("\n")}}
    ),
    "JSON of objects": "Here: "
    + json.dumps(
        {
            "incorrect_step": 2,
            "explanation": WHY,
            "corrected_solution": [{"step": n, "text": step} for n, step in enumerate(STEPS, 2)],
        }
    ),
    "JSON": json.dumps({"incorrect_step": 2, "explanation": WHY, "corrected_solution": SOLUTION}),
    "JSON in a fence": "```json\n"
    + json.dumps({"Incorrect Step": "Step 2", "Explanation": WHY, "Correct Solution": SOLUTION.split("\n")})
    + "\n```",
    "JSON of numbered steps": json.dumps(
        {
            "incorrect_step": "2",
            "explanation": WHY,
            "corrected_steps": {"2": STEPS[0], "3": STEPS[1], "4": STEPS[2]},
        }
    ),
}


@pytest.mark.parametrize("name", REPLIES)
def test_the_same_correction_is_read_from_every_form(name: str) -> None:
    parsed = parse_reply(REPLIES[name], ORIGINAL)
    assert (parsed.incorrect_step, parsed.explanation, parsed.corrected_steps) == (2, WHY, STEPS)
    assert parsed.first_label == 2
    assert parsed.restated_steps == ([ORIGINAL[0]] if name == "first steps told again" else [])


@pytest.mark.parametrize(
    "solution",
    [
        "{\n...\n" + "\n".join(STEPS) + "\n}",
        "\n".join(f"Step {n}: {step}" for n, step in enumerate(STEPS, 1)),
        json.dumps(STEPS)[1:-1].replace('", "', "\n").strip('"'),
    ],
)
def test_unnumbered_and_renumbered_steps_begin_at_the_incorrect_one(solution: str) -> None:
    parsed = parse_reply(
        f"Incorrect Step: Step 2\nExplanation: {WHY}\nCorrect Solution:\n{solution}", ORIGINAL
    )
    assert parsed == ParsedCorrection(2, WHY, STEPS)
    assert parsed.corrected_solution == SOLUTION


def test_first_steps_told_in_other_words_are_seen() -> None:
    told = "The coat costs 2 * 35 = 70 dollars."
    text = f"Incorrect Step: 2\nExplanation: {WHY}\nCorrect Solution:\nStep 1: {told}\n{SOLUTION}"
    parsed = parse_reply(text, ORIGINAL)
    assert parsed.restated_steps == [told]
    assert not judge_correction(parsed, QUESTION, ORIGINAL).checks["first_steps_unchanged"]


def test_a_first_step_that_is_wrong_has_no_steps_before_it() -> None:
    text = "Incorrect Step: Step 1.\nExplanation: It is half.\nCorrect Solution: {\n"
    text += "Step 1: 35 / 2 = 17.5\nStep 2: The answer is 17.5.\n}"
    parsed = parse_reply(text, ORIGINAL)
    assert parsed == ParsedCorrection(1, "It is half.", ["35 / 2 = 17.5", "The answer is 17.5."], 1)


def test_latex_braces_stay_in_the_solution() -> None:
    text = "Incorrect Step: 1\nExplanation: Signs.\nCorrect Solution: {\n"
    text += "Step 1: $\\frac{1}{2}$\nStep 2: The answer is \\frac{1}{2}.\n}\nDone."
    assert parse_reply(text, ["a"]).corrected_steps == ["$\\frac{1}{2}$", "The answer is \\frac{1}{2}."]


def test_latex_in_json_stays_latex() -> None:
    text = r'{"incorrect_step": 1, "explanation": "Half.\nSee \times.", "corrected_solution": ["\frac{1}{2} \\times 3",'
    text += r' "The answer is \boxed{\text{a}}."]}'
    parsed = parse_reply(text, ["a"])
    assert parsed.explanation == r"Half. See \times."
    assert parsed.corrected_steps == [r"\frac{1}{2} \times 3", r"The answer is \boxed{\text{a}}."]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the reply is empty"),
        ("<think>hm</think>  ", "the reply is empty"),
        ("I am sorry, I cannot help with that.", "the reply names no incorrect step"),
        ("Incorrect Step: None. All steps are correct.", "the teacher finds no incorrect step"),
        ("Incorrect Step: There is no error.", "the teacher finds no incorrect step"),
        ("Incorrect Step: Step 0\nExplanation: x\nCorrect Solution:\nStep 1: y", "the reply names step 0"),
        ("Incorrect Step: Step 2\nCorrect Solution:\nStep 2: y", "the reply gives no explanation"),
        ("Incorrect Step: Step 2\nExplanation: It is wrong.", "the reply gives no corrected solution"),
        (
            "Incorrect Step: Step 2\nExplanation: Wrong.\nCorrect Solution: {\n...\n}",
            "the reply gives no corrected",
        ),
        ("x" * 300_000, "the reply has 300000 characters"),
        ('{"incorrect_step": null, "explanation": "a", "corrected_solution": "b"}', "the teacher finds no"),
    ],
)
def test_what_is_no_correction_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UnparseableReply, match=reason):
        parse_reply(text, ORIGINAL)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["Incorrect Step:", "Explanation:", "Correct Solution:", "{", "}", "...", "Step 2:", "Step 1", "\n", "**",
             "```", '{"incorrect_step": 2}', "the answer is", "9" * 5000, "x", " ", "The answer is 27."]
        ),
        max_size=25,
    )
)  # fmt: skip
def test_any_reply_ends_as_a_correction_or_a_reason(pieces: list[str]) -> None:
    try:
        parsed = parse_reply("".join(pieces), ORIGINAL)
    except UnparseableReply:
        return
    assert parsed.incorrect_step >= 1
    assert parsed.explanation
    assert all(parsed.corrected_steps)


def test_a_correction_that_reaches_the_gold_answer_passes_every_check() -> None:
    judgement = judge_correction(PARSED, QUESTION, ORIGINAL)
    assert (judgement.verdict, judgement.final_answer, judgement.reason) == ("accepted", "27", None)
    assert judgement.checks == dict.fromkeys(CHECKS, True)


@pytest.mark.parametrize(
    ("parsed", "failed"),
    [
        (ParsedCorrection(9, WHY, STEPS, 9), "step_exists"),
        (ParsedCorrection(2, WHY, STEPS, 3), "starts_at_step"),
        (ParsedCorrection(2, WHY, STEPS, 2, ["The coat costs 60."]), "first_steps_unchanged"),
        (ParsedCorrection(2, WHY, ["18 + 35 + 70 = 122", *STEPS[1:]], 2), "arithmetic_holds"),
        (
            ParsedCorrection(1, WHY, ["The coat costs 70.", "Ken has 150 - 18 - 35 - 70 = 27.", STEPS[2]]),
            "is_no_gold_copy",
        ),
    ],
)
def test_each_further_check_is_recorded_and_rejects_only_when_asked(
    parsed: ParsedCorrection, failed: str
) -> None:
    judgement = judge_correction(parsed, QUESTION, ORIGINAL)
    assert judgement.verdict == "accepted"
    assert [name for name, passed in judgement.checks.items() if not passed] == [failed]
    strict = judge_correction(parsed, QUESTION, ORIGINAL, [failed])  # type: ignore[list-item]
    assert (strict.verdict, strict.reason) == ("rejected", CHECKS[failed])  # type: ignore[index]


def test_a_repeated_mistake_differs_in_nothing() -> None:
    judgement = judge_correction(ParsedCorrection(2, WHY, ORIGINAL[1:], 2), QUESTION, ORIGINAL)
    assert judgement.verdict == "rejected"
    assert not judgement.checks["differs_from_mistake"]
    assert judgement.reason == "its final answer 37 is not the gold answer 27"


def test_a_correction_without_an_answer_is_rejected() -> None:
    judgement = judge_correction(ParsedCorrection(2, WHY, STEPS[:1], 2), QUESTION, ORIGINAL)
    assert (judgement.verdict, judgement.reason) == ("rejected", "it states no final answer")


def test_choices_are_compared_as_choices() -> None:
    question = Question(
        id="c", dataset="csqa", split="train", question="Where?", gold_answer="B", choices=["bank", "shop"]
    )
    steps = ["A shop sells things.", "The answer is (B) shop."]
    assert judge_correction(ParsedCorrection(1, WHY, steps, 1), question, ["x"]).verdict == "accepted"
