from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from lema_local.corrections import list_steps
from lema_local.errors import InputError
from lema_local.records import Question, ReasoningPath
from lema_local.stages.augment import AugmentSettings, augment_rationales
from lema_local.stages.correct import (
    CorrectSettings,
    correct_mistakes,
    reparse_corrections,
    select_mistakes,
)
from lema_local.students.base import Message, PromptStyle
from lema_local.teachers.base import Answered, Failed, RawReply, TeacherRequest
from lema_local.teachers.settings import TeacherSettings

Item = TypeVar("Item")
GOOD = "Step 1.\nExplanation: it is 5.\nCorrect Solution: {\nStep 1: 2 + 3 = 5.\nStep 2: The answer is 5.\n}"


def question(number: int = 0, **fields: Any) -> Question:
    facts = {"dataset": "own", "split": "train", "question": "What is 2 + 3?", "gold_answer": "5"}
    return Question(id=f"q{number}", **(facts | fields))


def path(number: int = 0, sample: int = 0, **fields: Any) -> ReasoningPath:
    facts: dict[str, Any] = {
        "text": "Step 1: 2 + 3 = 6.\nStep 2: The answer is 6.",
        "final_answer": "6",
        "verdict": "wrong",
    }
    return ReasoningPath(
        question_id=f"q{number}",
        sample_index=sample,
        seed=1,
        student="s",
        rule="numeric",
        stop_reason="end",
        prompt_tokens=1,
        completion_tokens=1,
        **(facts | fields),
    )


class PlainPrompt:
    def render(
        self,
        question: Question,
        original_steps: Sequence[str] = (),
        style: PromptStyle = "chat",
        *,
        shows_gold: bool = False,
        located_step: int | None = None,
        is_json: bool = False,
    ) -> tuple[Message, ...]:
        options = f"{located_step} {is_json} {shows_gold}"
        return (Message(role="user", content=f"{question.question} {list(original_steps)} {options}"),)

    def render_locating(
        self,
        question: Question,
        original_steps: Sequence[str],
        style: PromptStyle,
        *,
        shows_gold: bool = False,
    ) -> tuple[Message, ...]:
        return (Message(role="user", content=f"locate {question.question}"),)


class QuestionPrompt:
    def render(self, question: Question, style: PromptStyle) -> tuple[Message, ...]:
        return (Message(role="user", content=question.question),)


class ScriptedDesk:
    name = "scripted"
    reads_gold = False
    can_write_json = True

    def __init__(self, script: Callable[[TeacherRequest], str | Answered | Failed]) -> None:
        self.script = script
        self.asked: list[TeacherRequest] = []

    def ask_many(
        self, requests: Iterable[tuple[Item, TeacherRequest]]
    ) -> Iterator[tuple[Item, Answered | Failed]]:
        for item, request in requests:
            self.asked.append(request)
            outcome = self.script(request)
            yield item, answered(outcome) if isinstance(outcome, str) else outcome


def answered(text: str, finish: str = "stop") -> Answered:
    reply = RawReply(text, "m-1", finish, 9, 12, 0.01, 0.1)  # type: ignore[arg-type]
    return Answered(reply, "key", is_from_journal=False)


def correct(script: Callable[[TeacherRequest], str | Answered | Failed], **settings: Any) -> Any:
    mistake = (question(), path())
    (correction,) = correct_mistakes(
        [mistake], ScriptedDesk(script), PlainPrompt(), CorrectSettings(**settings)
    )
    return correction


def test_a_good_reply_is_an_accepted_correction() -> None:
    correction = correct(lambda request: GOOD)
    assert (correction.verdict, correction.reason, correction.incorrect_step) == ("accepted", None, 1)
    assert correction.corrected_solution == "Step 1: 2 + 3 = 5.\nStep 2: The answer is 5."
    assert correction.original_steps == ["2 + 3 = 6.", "The answer is 6."]
    assert (correction.teacher, correction.teacher_reported) == ("scripted", "m-1")
    assert (correction.reply_key, correction.cost_usd) == ("key", 0.01)


@pytest.mark.parametrize(
    ("outcome", "verdict", "words"),
    [
        (GOOD.replace("5", "7"), "rejected", "its final answer 7 is not the gold answer 5"),
        ("I will not.", "rejected", ""),
        ("", "rejected", "the reply is empty"),
        (answered(GOOD[:60], "length"), "rejected", "the reply was cut after 12 tokens: "),
        (answered("", "content_filter"), "rejected", "the provider filtered the reply: "),
        (Failed("503 try later"), "failed", "503 try later"),
        ("x" * 300_000, "rejected", "300000 characters"),
        ("\x00\x1b[31mStep 1", "rejected", ""),
    ],
)
def test_a_bad_reply_is_kept_with_its_reason(
    outcome: str | Answered | Failed, verdict: str, words: str
) -> None:
    correction = correct(lambda request: outcome)
    assert correction.verdict == verdict
    assert words in correction.reason
    assert (correction.reply_key is None) == (verdict == "failed")
    assert correction == type(correction).model_validate_json(correction.model_dump_json())


def test_a_gold_answer_that_cannot_be_read_is_no_score() -> None:
    mistake = (question(gold_answer="$$"), path())
    (correction,) = correct_mistakes(
        [mistake], ScriptedDesk(lambda r: GOOD), PlainPrompt(), CorrectSettings()
    )
    assert correction.verdict == "rejected"


def test_further_attempts_are_made_until_one_is_accepted() -> None:
    desk = ScriptedDesk(lambda request: GOOD if request.attempt == 1 else GOOD.replace("5", "7"))
    settings = CorrectSettings(attempts=3)
    (correction,) = correct_mistakes([(question(), path())], desk, PlainPrompt(), settings)
    assert (correction.verdict, correction.attempt) == ("accepted", 1)
    assert [(request.attempt, request.temperature) for request in desk.asked] == [(0, 0.0), (1, 0.7)]


def test_a_mistake_ends_with_its_last_rejected_correction_and_a_failed_one_is_not_asked_again() -> None:
    mistakes = [(question(), path()), (question(1), path(1))]
    desk = ScriptedDesk(lambda r: Failed("gone") if len(desk.asked) == 1 else "nonsense")
    corrections = list(correct_mistakes(mistakes, desk, PlainPrompt(), CorrectSettings(attempts=2)))
    assert [(c.question_id, c.verdict, c.attempt) for c in corrections] == [
        ("q0", "failed", 0),
        ("q1", "rejected", 1),
    ]


def test_the_gold_rationale_is_shown_only_when_asked_for() -> None:
    desk = ScriptedDesk(lambda request: GOOD)
    for shows_gold in (False, True):
        list(
            correct_mistakes(
                [(question(), path())], desk, PlainPrompt(), CorrectSettings(shows_gold=shows_gold)
            )
        )
    assert [request.messages[0]["content"].endswith("True") for request in desk.asked] == [False, True]


@pytest.mark.parametrize(
    ("text", "final_answer", "expected"),
    [
        ("Step 1: 2 + 3 = 6.\nStep 2: The answer is 6.", "6", ["2 + 3 = 6.", "The answer is 6."]),
        ("2 + 3 = 6\n#### 6", "6", ["2 + 3 = 6", "#### 6"]),
        ("It is 2 + 3 = 6. So 6 it is.", "6", ["It is 2 + 3 = 6.", "So 6 it is.", "The answer is 6."]),
        (
            "2 + 3 = 6.\nThe answer is 6.\n\nQuestion: What is 1 + 1?\nThe answer is 2.",
            "6",
            ["2 + 3 = 6.", "The answer is 6."],
        ),
        ("2 + 3 is a sum.\nI do not know.", None, ["2 + 3 is a sum.", "I do not know."]),
    ],
)
def test_the_last_step_states_the_final_answer(
    text: str, final_answer: str | None, expected: list[str]
) -> None:
    assert list_steps(path(text=text, final_answer=final_answer)) == expected


def test_mistakes_are_the_wrong_paths_and_others_only_if_asked_for() -> None:
    paths = [
        path(0, n, verdict=v)
        for n, v in enumerate(["correct", "wrong", "no_answer", "truncated", "undecided"])
    ]
    assert [p.verdict for _, p in select_mistakes(paths, [question()], CorrectSettings())] == ["wrong"]
    settings = CorrectSettings(include=("no_answer", "truncated"))
    assert [p.verdict for _, p in select_mistakes(paths, [question()], settings)] == [
        "no_answer",
        "truncated",
    ]


def test_mistakes_can_be_limited_per_question_and_in_all() -> None:
    paths = [path(n, sample) for n in range(3) for sample in range(4)]
    questions = [question(n) for n in range(3)]
    chosen = list(select_mistakes(paths, questions, CorrectSettings(max_per_question=2, limit=5)))
    assert [(q.id, p.sample_index) for q, p in chosen] == [
        ("q0", 0),
        ("q0", 1),
        ("q1", 0),
        ("q1", 1),
        ("q2", 0),
    ]


def test_a_path_without_its_question_is_told() -> None:
    with pytest.raises(InputError, match="q7"):
        list(select_mistakes([path(7)], [question()], CorrectSettings()))


def test_rationales_are_kept_by_answer_form_and_new_equations() -> None:
    replies = {
        0: "Step 1: 2 + 3 = 5.\nStep 2: The answer is 5.",  # the gold rationale's equations
        1: "Step 1: 3 + 2 = 5.\nStep 2: The answer is 5.",
        2: "Step 1: Three and two: 3 + 2 = 5.\nStep 2: The answer is 5.",  # those of attempt 1
        3: "Step 1: 2 * 3 = 6.\nStep 2: The answer is 6.",
        4: "Five, I think",
    }
    desk = ScriptedDesk(lambda request: replies[request.attempt])
    asked = question(gold_rationale="2 + 3 = 5")
    found = list(
        augment_rationales([asked], desk, QuestionPrompt(), AugmentSettings(rationales_per_question=5))
    )
    assert [rationale.attempt for rationale in found] == [0, 1, 2, 3, 4]
    assert [rationale.verdict for rationale in found] == ["rejected", "accepted", *["rejected"] * 3]
    assert [rationale.reason for rationale in found][3:] == [
        "its final answer 6 is not the gold answer 5",
        "it states no final answer",
    ]


def test_the_reference_teacher_writes_no_rationales() -> None:
    desk = ScriptedDesk(lambda request: "")
    desk.reads_gold = True
    with pytest.raises(InputError, match="no rationales of its own"):
        list(augment_rationales([question()], desk, QuestionPrompt(), AugmentSettings()))


def test_locating_first_asks_twice_and_tells_the_step() -> None:
    def script(request: TeacherRequest) -> str:
        asked = request.messages[-1]["content"]
        return "Step 1." if asked.startswith("locate") else GOOD.partition("\n")[2]

    desk = ScriptedDesk(script)
    settings = CorrectSettings(locates_first=True)
    (correction,) = correct_mistakes([(question(), path())], desk, PlainPrompt(), settings)
    assert (correction.verdict, correction.incorrect_step) == ("accepted", 1)
    assert correction.asked == {"locates_first": True, "located_step": 1, "locating_key": "key"}
    assert correction.cost_usd == pytest.approx(0.02)
    assert [request.messages[-1]["content"][-13:] for request in desk.asked[1:]] == ["1 False False"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [("None.", "finds no incorrect step"), ("", "empty"), ("?", "names no incorrect step")],
)
def test_a_mistake_that_is_not_located_ends_with_the_reason(reply: str, reason: str) -> None:
    desk = ScriptedDesk(lambda request: reply)
    settings = CorrectSettings(locates_first=True)
    (correction,) = correct_mistakes([(question(), path())], desk, PlainPrompt(), settings)
    assert correction.verdict == "rejected"
    assert reason in str(correction.reason)
    assert (correction.reply_key, len(desk.asked)) == ("key", 1)
    lost = list(reparse_corrections([correction], [question()], lambda key: answered(GOOD).reply))
    assert lost == [(correction, correction)], "there is no reply to the second question"


@pytest.mark.parametrize("can", [True, False])
def test_json_is_asked_for_where_the_teacher_has_a_mode_for_it(can: bool) -> None:
    solution = ["Step 1: 2 + 3 = 5.", "The answer is 5."]
    reply = json.dumps({"incorrect_step": 1, "explanation": "it is 5", "corrected_solution": solution})
    desk = ScriptedDesk(lambda request: reply)
    desk.can_write_json = can
    (correction,) = correct_mistakes(
        [(question(), path())], desk, PlainPrompt(), CorrectSettings(asks_json=True)
    )
    assert (correction.verdict, correction.asked) == ("accepted", {"is_json": can})
    assert desk.asked[0].response_format == ({"type": "json_object"} if can else None)


def test_a_teachers_own_settings_shape_its_requests() -> None:
    teacher = TeacherSettings(temperature=0.3, max_tokens=77, system_prompt="Be short.")
    desk = ScriptedDesk(lambda request: "?")
    list(correct_mistakes([(question(), path())], desk, PlainPrompt(), CorrectSettings(attempts=2), teacher))
    assert [(one.temperature, one.max_tokens) for one in desk.asked] == [(0.3, 77), (0.7, 77)]
    assert {one.messages[0]["role"] for one in desk.asked} == {"system"}
    silent = TeacherSettings(temperature="default")
    desk = ScriptedDesk(lambda request: "?")
    list(correct_mistakes([(question(), path())], desk, PlainPrompt(), CorrectSettings(attempts=2), silent))
    assert [one.temperature for one in desk.asked] == [None, None]
