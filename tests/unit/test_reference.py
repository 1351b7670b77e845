"""The reference teacher: faults put into right solutions are found, explained and mended."""

from __future__ import annotations

import ast
import asyncio
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lema_local.corrections import UnparseableReply, judge_correction, parse_reply
from lema_local.errors import BackendError
from lema_local.quickstart.problems import generate_questions
from lema_local.records import Question
from lema_local.steps import split_steps, state_answer
from lema_local.teachers import reference
from lema_local.teachers.base import Teacher, TeacherRequest
from lema_local.teachers.mistakes import find_fault
from lema_local.teachers.reference import ReferenceTeacher, reference_request, write_correction

MIA = Question(
    id="mia",
    dataset="quickstart",
    split="train",
    question="Mia has 12 apples. Tom gives Mia 9 more. Then she loses 5 of them. Tom has 30 pears."
    " Then she doubles the number of apples. How many apples does Mia have now?",
    gold_answer="32",
    gold_rationale="Mia has 12+9=21 apples.\nMia has 21-5=16 apples.\nMia has 16*2=32 apples.",
)


def _correct(steps: list[str], question: Question = MIA) -> tuple[int, str, list[str]]:
    text = write_correction(question.question, question.gold_rationale, question.gold_answer, steps)
    parsed = parse_reply(text, steps)
    judgement = judge_correction(parsed, question, steps)
    assert judgement.verdict == "accepted"
    assert all(judgement.checks[name] for name in ("step_exists", "starts_at_step", "arithmetic_holds"))
    return parsed.incorrect_step, parsed.explanation, parsed.corrected_steps


def test_a_slip_of_arithmetic() -> None:
    steps = [
        "Mia has 12+9=20 apples.",
        "Mia has 20-5=15 apples.",
        "Mia has 15*2=30 apples.",
        "The answer is 30.",
    ]
    assert _correct(steps) == (
        1,
        "12+9 is 21, not 20.",
        [
            "Mia has 12+9=21 apples.",
            "Mia has 21-5=16 apples.",
            "Mia has 16*2=32 apples.",
            "The answer is 32.",
        ],
    )


def test_the_wrong_operation_is_told_from_the_problems_words() -> None:
    steps = [
        "Mia has 12+9=21 apples.",
        "Mia has 21+5=26 apples.",
        "Mia has 26*2=52 apples.",
        "The answer is 52.",
    ]
    step, explanation, corrected = _correct(steps)
    assert step == 2
    assert explanation.startswith("It is 21-5=16, not 21+5=26: ")
    assert corrected == ["Mia has 21-5=16 apples.", "Mia has 16*2=32 apples.", "The answer is 32."]


def test_a_number_of_the_distractor() -> None:
    steps = [
        "Mia has 12+30=42 apples.",
        "Mia has 42-5=37 apples.",
        "Mia has 37*2=74 apples.",
        "The answer is 74.",
    ]
    assert _correct(steps)[:2] == (1, "It is 12+9=21, not 12+30=42: Tom gives Mia 9 more.")


def test_a_step_left_out_is_named_where_the_next_one_goes_wrong() -> None:
    steps = ["Mia has 12+9=21 apples.", "Mia has 21*2=42 apples.", "The answer is 42."]
    step, explanation, corrected = _correct(steps)
    assert (step, explanation) == (2, "It leaves out 21-5: Then she loses 5 of them.")
    assert corrected == ["Mia has 21-5=16 apples.", "Mia has 16*2=32 apples.", "The answer is 32."]


def test_stopping_early() -> None:
    steps = ["Mia has 12+9=21 apples.", "Mia has 21-5=16 apples.", "The answer is 16."]
    step, explanation, corrected = _correct(steps)
    assert step == 3
    assert explanation.startswith("The answer is not reached yet, 16*2 is still missing: ")
    assert corrected == ["Mia has 16*2=32 apples.", "The answer is 32."]


def test_going_on_after_the_answer() -> None:
    steps = [
        *(MIA.gold_rationale or "").split("\n"),
        "In all there are 32+30=62 fruits.",
        "The answer is 62.",
    ]
    step, explanation, corrected = _correct(steps)
    assert (step, corrected) == (4, ["The answer is 32."])
    assert explanation == "The answer 32 is found before this step, and nothing more is asked."


def test_another_answer_than_was_found() -> None:
    steps = [*(MIA.gold_rationale or "").split("\n"), "The answer is 16."]
    assert _correct(steps)[::2] == (4, ["The answer is 32."])


def test_a_right_way_of_ones_own_is_no_mistake_before_the_slip() -> None:
    steps = ["5 of 9 apples are lost again, so she gets 9-5=4 more.", "Mia has 12+4=17 apples."]
    steps += ["Mia has 17*2=34 apples.", "The answer is 34."]
    assert _correct(steps)[:2] == (2, "12+4 is 16, not 17.")


def test_what_is_known_before_the_mistake_is_not_worked_out_again() -> None:
    question = Question(
        id="j",
        dataset="d",
        split="train",
        question="Toula buys 3 dozen donuts at $68, 2 dozen cupcakes at $80 and 6 dozen cakes at $55. How much?",
        gold_answer="694",
        gold_rationale="The donuts were 3 x $68 = $204.\nThe cupcakes were 2 x $80 = $160.\n"
        "The cakes were 6 x $55 = $330.\nThe total is $204 + $160 + $330 = $694.",
    )
    steps = [
        "3 x 68 = 204.",
        "2 x 80 = 160.",
        "6 x 55 = 330.",
        "So 204 + 160 + 330 = 794.",
        "The answer is 794.",
    ]
    assert _correct(steps, question) == (
        4,
        "204+160+330 is 694, not 794.",
        ["So 204 + 160 + 330 = 694.", "The answer is 694."],
    )


def test_a_slip_is_mended_in_the_solutions_own_words() -> None:
    steps = [
        "Mia has 12+9=21 apples.",
        "So 21-5=17 are left to her.",
        "Doubled, these 17 are 17*2=34.",
        "The answer is 34.",
    ]
    assert _correct(steps)[::2] == (
        2,
        ["So 21-5=16 are left to her.", "Doubled, these 16 are 16*2=32.", "The answer is 32."],
    )


def test_a_slip_is_mended_without_a_gold_rationale_too() -> None:
    question = MIA.model_copy(update={"gold_rationale": None})
    steps = [
        "Mia has 12+9=21 apples.",
        "Mia has 21-5=17 apples.",
        "Mia has 17*2=34 apples.",
        "The answer is 34.",
    ]
    assert _correct(steps, question)[0] == 2


# --- faults put into the quickstart's problems --------------------------------------------------------------

_EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")
Faulty = tuple[str, int, list[str]]
"""Kind of fault, the 1-based step it was put into, the steps."""


def _compute(left: int, operator: str, right: int) -> int | None:
    if operator == "/":
        return left // right if right and left % right == 0 else None
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def _retell(lines: list[str], changed: int, operator: str | None, slip: int) -> list[str] | None:
    """Tell gold lines with one computation changed and everything behind it worked out again."""
    moved: dict[int, int] = {}
    told = []
    for index, line in enumerate(lines):
        match = _EQUATION.search(line)
        assert match is not None
        left, right = (moved.get(int(match[n]), int(match[n])) for n in (1, 3))
        used = operator if index == changed and operator else match[2]
        value = _compute(left, used, right)
        if value is None or value < 1:
            return None
        value += slip if index == changed else 0
        moved[int(match[4])] = value
        told.append(f"{line[: match.start()]}{left}{used}{right}={value}{line[match.end() :]}")
    return told


def _find_values(lines: list[str]) -> list[int]:
    return [int(match[4]) for line in lines if (match := _EQUATION.search(line))]


def _put_faults(question: Question, rng: random.Random) -> Iterator[Faulty]:
    lines = (question.gold_rationale or "").split("\n")
    if len(set(_find_values(lines))) < len(lines):
        return  # two steps with one value: a fault may not be seen in what follows
    changed = rng.randrange(len(lines))
    match = _EQUATION.search(lines[changed])
    assert match is not None
    other = rng.choice([sign for sign in "+-*/" if sign != match[2]])
    for kind, told in (
        ("slip", _retell(lines, changed, None, rng.choice([-2, -1, 1, 10]))),
        ("operation", _retell(lines, changed, other, 0)),
        ("stops early", lines[:-1]),
    ):
        if told and (values := _find_values(told)) and str(values[-1]) != question.gold_answer:
            step = len(told) + 1 if kind == "stops early" else changed + 1
            yield kind, step, [*told, state_answer(str(values[-1]))]


def _questions(count: int) -> list[Question]:
    return [Question.model_validate(record) for record in generate_questions("train", count)]


def test_faults_in_the_quickstarts_problems_are_found_and_mended() -> None:
    rng = random.Random(0)
    faulty = [(question, *fault) for question in _questions(160) for fault in _put_faults(question, rng)]
    named: dict[str, list[bool]] = {}
    for question, kind, step, steps in faulty:
        found, _, _ = _correct(steps, question)
        named.setdefault(kind, []).append(found == step)
    shares = {kind: sum(right) / len(right) for kind, right in named.items()}
    assert len(faulty) > 300
    assert shares["slip"] == shares["stops early"] == 1.0
    assert shares["operation"] > 0.95


def test_a_right_solution_has_no_fault() -> None:
    for question in _questions(80):
        steps = [*split_steps(question.gold_rationale or ""), state_answer(question.gold_answer)]
        assert find_fault(question.question, question.gold_rationale, question.gold_answer, steps) is None


# --- the protocol -------------------------------------------------------------------------------------------


def test_it_stands_behind_the_teachers_protocol_and_costs_nothing() -> None:
    teacher: Teacher = ReferenceTeacher()
    steps = ["Mia has 12+9=20 apples.", "The answer is 20."]
    request = TeacherRequest(messages=reference_request(MIA, steps))
    reply = asyncio.run(teacher.reply(request))
    assert reply.text.startswith(
        "Incorrect Step: Step 1.\nExplanation: 12+9 is 21, not 20.\nCorrect Solution: {\nStep 1: "
    )
    assert (reply.cost_usd, reply.finish_reason, teacher.worst_case_usd(request)) == (0.0, "stop", 0.0)
    assert teacher.reads_gold
    assert json.loads(request.messages[0]["content"])["steps"] == steps


def test_the_same_request_has_the_same_reply() -> None:
    steps = ["Mia has 12+9=20 apples.", "The answer is 20."]
    texts = {write_correction(MIA.question, MIA.gold_rationale, MIA.gold_answer, steps) for _ in range(3)}
    assert len(texts) == 1


@pytest.mark.parametrize("gold", [None, ""])
def test_without_a_gold_rationale_it_says_that_it_cannot(gold: str | None) -> None:
    text = write_correction(MIA.question, gold, "32", ["Mia has 12+9=20 apples.", "The answer is 20."])
    with pytest.raises(UnparseableReply):
        parse_reply(text, ["Mia has 12+9=20 apples.", "The answer is 20."])


def test_without_a_gold_rationale_arithmetic_still_names_the_step() -> None:
    fault = find_fault("", None, "21", ["Let us see.", "12+9=20", "The answer is 20."])
    assert fault is not None
    assert fault.step == 2


@pytest.mark.parametrize("content", ["", "[]", "{}", "Question: what?", '{"question": 1}'])
def test_a_request_that_is_not_its_own_is_an_error(content: str) -> None:
    request = TeacherRequest(messages=({"role": "user", "content": content},))
    with pytest.raises(BackendError, match="cannot read"):
        asyncio.run(ReferenceTeacher().reply(request))


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [""],
        ["The answer is ."],
        ["x" * 10_000],
        ["1/0=5", "The answer is 5."],
        ["(" * 3000],
        ["The answer is 1e999."],
    ],
)
def test_any_solution_gets_a_reply(steps: list[str]) -> None:
    assert write_correction(MIA.question, MIA.gold_rationale, MIA.gold_answer, steps)


def test_its_identity_is_of_all_the_code_that_makes_a_reply() -> None:
    package = Path(reference.__file__).resolve().parents[1]
    used, open_names = set[str](), ["teachers.reference"]
    while open_names:
        name = open_names.pop()
        if name in used or name in {"errors", "records", "shipped", "students.base", "teachers.base"}:
            continue  # these hold no words and find no mistakes
        used.add(name)
        tree = ast.parse(package.joinpath(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
        imports = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        # Of the answers only their extraction is used.
        found = [module.removeprefix("lema_local.") for module in imports if module.startswith("lema_local.")]
        open_names += ["answers.extraction" if module == "answers" else module for module in found]
    assert used == set(reference.SOURCES)


def test_other_code_is_another_teacher(tmp_path: Path) -> None:
    copied = tmp_path / "lema_local"
    shutil.copytree(
        Path(reference.__file__).resolve().parents[1], copied, ignore=shutil.ignore_patterns("*.gguf")
    )
    changed = copied / "teachers" / "mending.py"
    changed.write_text(changed.read_text(encoding="utf-8") + "\n_MAX_ROUNDS = 7\n", encoding="utf-8")
    code = "from lema_local.teachers.reference import ReferenceTeacher; print(ReferenceTeacher().identity)"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() != ReferenceTeacher().identity


def test_what_a_line_with_a_number_out_of_nowhere_may_rest_on_comes_before_it() -> None:
    question = Question(
        id="q/1", dataset="q", split="train",
        question="Tom has 13 sets and sells some for $15 each. He buys 8 games for $20 each and has $5 left. "
        "How many sets does he still have?",
        gold_answer="2",
        gold_rationale="The games cost 8*20 = 160 dollars.\nHe got 160+5 = 165 dollars.\n"
        "He sold 11 sets because 11*15 = 165.\nHe has 13-11 = 2 sets left.",
    )  # fmt: skip
    steps = [
        "He gets 13*15 = 195 dollars.",
        "The games cost 8*20 = 160 dollars.",
        "He has 195-160 = 35 sets left.",
    ]
    _, explanation, corrected = _correct([*steps, "The answer is 35."], question)
    assert explanation.startswith("It is 11*15=165, not 13*15=195")
    assert ["8*20" in corrected[0], "160+5" in corrected[1], "11*15" in corrected[2]] == [True] * 3


MAY = Question(
    id="may",
    dataset="q",
    split="train",
    question="A color costs $40 and a cut $30 per inch. May's hair was 10 inches long and is 8 now. What did she pay?",
    gold_answer="100",
    gold_rationale="She had 10-8=2 inches cut.\nThe cut cost 2*30=60 dollars.\nIn all she paid 40+60=100 dollars.",
)


def test_the_sign_of_what_was_computed_counts() -> None:
    steps = ["She has 8-10=-2 inches.", "The cut costs 30*-2=-60 dollars.", "She pays 40+(-60)=-20 dollars."]
    step, explanation, _ = _correct([*steps, "The answer is -20."], MAY)
    assert (step, explanation[:26]) == (1, "It is 10-8=2, not 8-10=-2:")


def test_of_a_mistake_that_is_told_twice_the_first_is_named() -> None:
    steps = ["The cut costs 40/10=4 dollars.", "So it costs 40/10=4 dollars.", "She pays 4+4=8 dollars."]
    step, _, _ = _correct([*steps, "The answer is 8."], MAY)
    assert step == 1


def _ask(text: str, answer: str, gold: str) -> Question:
    return Question(
        id="q", dataset="q", split="train", question=text, gold_answer=answer, gold_rationale=gold
    )


CARL = _ask(
    "Carl is one foot taller than Ned. Ned is two feet shorter than Isabel, who is 7 feet tall. How tall is Carl?",
    "6",
    "If Ned is two feet shorter than Isabel, Ned is 7-2=5 feet tall.\nOne foot taller, Carl is 5+1=6 feet tall.",
)
SHARES = _ask(
    "Ann and Bob sell apples. If Bob has 30 apples, and has 10 more than Ann, how many do they have together?",
    "50",
    "Ann has 30-10=20 apples.\nTogether they have 30+20=50 apples.",
)
SAVES = _ask(
    "Ann gets $5 a week for 8 weeks. Then she has $100. With how much did she start?",
    "60",
    "In 8 weeks she gets 5*8=40 dollars.\nShe started with 100-40=60 dollars.",
)
FENCE = _ask(
    "A fence is 50 inches high, and a wall is 3 feet high. How many inches higher is the fence?",
    "14",
    "The wall is 3*12=36 inches high.\nThe fence is 50-36=14 inches higher.",
)
FAIR = _ask(
    "Ann has $50. She spends half of it on food, and 10 dollars on rides. How much is left?",
    "15",
    "She spends 50/2=25 dollars on food.\nThen 50-25-10=15 dollars are left.",
)


@pytest.mark.parametrize(
    ("question", "steps", "step", "says"),
    [
        (CARL, ["Carl is 7-2=5 feet tall."], 1, "7-2=5 is right for something else: If Ned is two feet shorter"),
        (SHARES, ["Ann has 30 apples.", "Bob has 30+10=40 apples.", "In all it is 30+40=70."], 1, "If Bob has 30"),
        (SAVES, ["Let x be her money.", "8x + 5x = 100.", "13x = 100. x = 7.69."], 2, "8x+5x=100 makes x 7.692"),
        (FENCE, ["The wall is 3 feet.", "50 inches is 4 feet.", "It is 4-3=1 higher."], 2, "50 inches in feet is 4.1"),
        (FAIR, ["50/2=25.", "25+10=35.", "So she has 35 dollars left."], 3, "The answer is not reached yet"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_words_units_or_letters(
    question: Question, steps: list[str], step: int, says: str
) -> None:
    answer = re.findall(r"\d+(?:\.\d+)?", steps[-1].rpartition("=")[2])[0]
    found, explanation, corrected = _correct([*steps, state_answer(answer)], question)
    assert says in explanation
    assert found == step
    assert corrected[-1] == state_answer(question.gold_answer)


@pytest.mark.parametrize(
    ("question", "steps"),
    [
        ("Tom has 3 apples 1/0 and 4 pears. How many?", ["3+5=8", "The answer is 8"]),
        ("Tom has 3 apples, and Ann has 4 pears. How many?", ["Tom has, ; : 3+5=8", "The answer is 8"]),
        ("Tom has 3 apples, ; and Ann has 4 pears. How many?", ["Ann has 3, so 3+5=8.", "The answer is 8"]),
    ],
)
def test_odd_signs_in_a_problem_or_a_step_are_no_error(question: str, steps: list[str]) -> None:
    assert find_fault(question, "Together they have 3+4=7 fruits.", "7", steps) is not None
