"""Samples that go where mistakes are: further waves, stopping, mistakes kept, several students, resuming."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from random import Random

import pytest
from pydantic import ValidationError

from lema_local.errors import BackendError, InputError
from lema_local.records import Question
from lema_local.sampling import OpenStudent, Sampled, sample_into_file
from lema_local.stages.sample import SampleSettings
from lema_local.students.base import Prompt, PromptStyle, Refusal, SampleRequest, Student
from lema_local.students.scripted import ScriptedModel


class PlainPrompt:
    stop = ()

    def render(self, question: Question, style: PromptStyle) -> Prompt:
        return question.question


QUESTIONS = [
    Question(id=f"q{n}", dataset="own", split="train", question=f"{n} + 1?", gold_answer=str(n + 1))
    for n in range(12)
]
GOLD = {one.id: one.gold_answer for one in QUESTIONS}


def noisy(request: SampleRequest) -> str:
    """Wrong more often the higher the question's number; q0 never, q11 always."""
    number = int(request.question_id[1:])
    draw = Random(request.seed).random()
    if draw * 11 < number:
        return (
            f"Step 1: a slip, {hashlib.sha256(str(request.seed).encode()).hexdigest()[:2]}. The answer is 99."
        )
    return f"Step 1: {request.seed % 3}. The answer is {GOLD[request.question_id]}."


def lend(*students: Student) -> list[OpenStudent]:
    return [partial(nullcontext, student) for student in students]


def draw(path: Path, settings: SampleSettings, *students: ScriptedModel) -> Sampled:
    return sample_into_file(
        path, QUESTIONS, lend(*(students or (ScriptedModel(noisy),))), PlainPrompt(), settings
    )


ADAPTIVE = SampleSettings(samples_per_question=2, max_samples_per_question=7, wanted_mistakes=2)


def test_questions_with_too_few_mistakes_get_further_samples(tmp_path: Path) -> None:
    student = ScriptedModel(noisy)
    sampled = draw(tmp_path / "paths.jsonl", ADAPTIVE, student)
    asked = Counter(request.question_id for request in student.requests)
    mistakes = Counter(path.question_id for path in sampled.paths if path.verdict == "wrong")
    assert asked["q0"] == 7
    assert asked["q11"] == 2
    for one in QUESTIONS:
        assert mistakes[one.id] >= 2 or asked[one.id] == 7
    assert sorted(request.sample_index for request in student.requests if request.question_id == "q0") == [
        *range(7)
    ]


def test_pass_at_1_is_told_from_the_samples_that_every_question_got_alike(tmp_path: Path) -> None:
    few = draw(tmp_path / "few.jsonl", SampleSettings(samples_per_question=2))
    many = draw(tmp_path / "many.jsonl", ADAPTIVE)
    assert many.summary.paths > few.summary.paths
    assert many.summary.pass_at_1 == few.summary.pass_at_1
    assert (many.summary.never_wrong, many.summary.always_wrong) == (
        few.summary.never_wrong,
        few.summary.always_wrong,
    )


def test_questions_with_too_few_right_answers_get_further_samples(tmp_path: Path) -> None:
    settings = SampleSettings(samples_per_question=1, max_samples_per_question=6, wanted_correct=1)
    student = ScriptedModel(noisy)
    draw(tmp_path / "paths.jsonl", settings, student)
    asked = Counter(request.question_id for request in student.requests)
    assert (asked["q0"], asked["q11"]) == (1, 6)


def test_sampling_stops_when_the_mistakes_are_there(tmp_path: Path) -> None:
    settings = SampleSettings(samples_per_question=4, stop_after_mistakes=5)
    student = ScriptedModel(noisy)
    sampled = draw(tmp_path / "paths.jsonl", settings, student)
    whole = draw(tmp_path / "whole.jsonl", SampleSettings(samples_per_question=4))
    mistakes = [path for path in sampled.paths if path.verdict == "wrong"]
    assert 5 <= len(mistakes) < 5 + 4
    # Questions count in their order: what stands is the beginning of what would stand without the limit.
    assert sampled.paths == whole.paths[: len(sampled.paths)]
    assert len(student.requests) < 4 * len(QUESTIONS)


def test_so_many_mistakes_of_a_question_are_kept_and_the_others_counted(tmp_path: Path) -> None:
    plain = draw(tmp_path / "plain.jsonl", SampleSettings(samples_per_question=6))
    few = draw(tmp_path / "few.jsonl", SampleSettings(samples_per_question=6, max_mistakes_per_question=1))
    mistakes = Counter(path.question_id for path in few.paths if path.verdict == "wrong")
    assert set(mistakes.values()) == {1}
    assert few.summary.left_out_mistakes == len(plain.paths) - len(few.paths) > 0
    assert few.summary.model_copy(update={"left_out_mistakes": 0}) == plain.summary


def test_several_students_answer_every_question_and_are_told_apart(tmp_path: Path) -> None:
    settings = SampleSettings(samples_per_question=2)
    right = ScriptedModel(lambda request: f"The answer is {GOLD[request.question_id]}.", name="clever")
    sampled = draw(tmp_path / "paths.jsonl", settings, ScriptedModel(noisy, name="small"), right)
    assert Counter(path.student for path in sampled.paths)["clever"] == len(QUESTIONS)  # identical ones once
    assert set(sampled.summary.students) == {"small", "clever"}
    assert sampled.summary.students["clever"].pass_at_1 == 1.0
    assert sampled.summary.students["small"].paths == 2 * len(QUESTIONS)
    assert sampled.summary.questions == len(QUESTIONS)


def test_mistakes_that_are_asked_for_are_divided_among_students(tmp_path: Path) -> None:
    settings = SampleSettings(samples_per_question=4, stop_after_mistakes=12)
    students = [ScriptedModel(noisy, name=name) for name in ("a", "b", "c")]
    sampled = draw(tmp_path / "paths.jsonl", settings, *students)
    mistakes = Counter(path.student for path in sampled.paths if path.verdict == "wrong")
    assert set(mistakes) == {"a", "b", "c"}
    assert 12 <= sum(mistakes.values()) <= 12 + 3


def test_two_students_of_one_name_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    students = [ScriptedModel(noisy, name="same"), ScriptedModel(noisy, name="same")]
    with pytest.raises(InputError, match="two students are named same"):
        draw(tmp_path / "paths.jsonl", SampleSettings(samples_per_question=1), *students)
    assert (tmp_path / "paths.jsonl.partial").read_text().count("\n") == len(QUESTIONS)


class Failing(ScriptedModel):
    def __init__(self, answers: int, name: str) -> None:
        super().__init__(self._say, name=name)
        self._left = answers

    def _say(self, request: SampleRequest) -> str:
        if not self._left:
            raise BackendError("switched off")
        self._left -= 1
        return noisy(request)


EVERYTHING = SampleSettings(
    samples_per_question=2,
    max_samples_per_question=7,
    wanted_mistakes=3,
    wanted_correct=1,
    max_mistakes_per_question=3,
    stop_after_mistakes=30,
)


@pytest.mark.parametrize("is_exact", [True, False])
@pytest.mark.parametrize("stop_after", [None, 11, 30])
def test_interrupted_at_every_place_it_ends_as_uninterrupted(
    tmp_path: Path, is_exact: bool, stop_after: int | None
) -> None:
    settings = EVERYTHING.model_copy(
        update={"exact": is_exact, "exact_group": 5, "stop_after_mistakes": stop_after}
    )
    names = ("a", "b")
    whole = tmp_path / "whole.jsonl"
    expected = draw(whole, settings, *(ScriptedModel(noisy, name=name) for name in names))
    broken = tmp_path / "broken.jsonl"
    asked = 0
    for answers in range(3, 60, 7):
        students = [Failing(answers, "a"), Failing(answers, "b")]
        try:
            sampled = draw(broken, settings, *students)
        except BackendError:
            continue
        finally:
            asked += sum(len(one.requests) for one in students)
        break
    else:
        sampled = draw(broken, settings, *(ScriptedModel(noisy, name=name) for name in names))
    assert broken.read_bytes() == whole.read_bytes()
    assert sampled.summary == expected.summary
    assert asked > 0


def test_a_question_that_cannot_be_asked_gets_no_further_samples(tmp_path: Path) -> None:
    def answer(request: SampleRequest) -> str | Refusal:
        return Refusal("too long") if request.question_id == "q1" else noisy(request)

    student = ScriptedModel(answer)
    settings = ADAPTIVE.model_copy(update={"stop_after_mistakes": 6})
    sampled = draw(tmp_path / "paths.jsonl", settings, student)
    assert sum(request.question_id == "q1" for request in student.requests) == 2
    assert sum(path.verdict == "wrong" for path in sampled.paths) >= 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_samples_per_question": 2, "samples_per_question": 4, "wanted_mistakes": 1}, "is less than"),
        ({"wanted_mistakes": 1}, "need max_samples_per_question"),
        ({"max_samples_per_question": 8}, "needs wanted_mistakes or wanted_correct"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SampleSettings.model_validate(settings)
