"""The sample stage on a scripted student: order, seeds, resuming, identical paths, the summary."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from lema_local.errors import BackendError
from lema_local.jsonl import AppendFile
from lema_local.records import Question, ReasoningPath
from lema_local.sampling import OpenStudent, sample_into_file
from lema_local.stages.sample import (
    SampleSettings,
    derive_seed,
    find_resume_point,
    finish_paths,
    merge_identical,
    sample_paths,
    summarize_paths,
)
from lema_local.students.base import Completion, Prompt, PromptStyle, Refusal, SampleRequest, Student
from lema_local.students.scripted import ScriptedModel


class PlainPrompt:
    stop = ("\nQuestion:",)

    def render(self, question: Question, style: PromptStyle) -> Prompt:
        return f"[{style}] {question.question}"


PROMPT = PlainPrompt()


def question(number: int) -> Question:
    return Question(
        id=f"q{number}", dataset="own", split="train", question=f"{number} + 1?", gold_answer=str(number + 1)
    )


QUESTIONS = [question(number) for number in range(5)]
RIGHT_AND_WRONG = {
    one.id: [f"Step 1: The answer is {one.gold_answer}.", "Step 1: The answer is 99."] for one in QUESTIONS
}


def lend(*students: Student) -> list[OpenStudent]:
    return [partial(nullcontext, student) for student in students]


def sampled(settings: SampleSettings, student: ScriptedModel | None = None) -> list[ReasoningPath]:
    return list(sample_paths(QUESTIONS, student or ScriptedModel(RIGHT_AND_WRONG), PROMPT, settings))


def test_every_sample_of_every_question_is_drawn_and_graded() -> None:
    student = ScriptedModel(RIGHT_AND_WRONG, name="tiny.gguf", prompt_style="chat")
    paths = sampled(SampleSettings(samples_per_question=2), student)
    assert [(path.question_id, path.sample_index) for path in paths] == [
        (f"q{n}", k) for n in range(5) for k in (0, 1)
    ]
    assert [path.verdict for path in paths[:2]] == ["correct", "wrong"]
    assert (paths[1].final_answer, paths[1].student, paths[1].stop_reason) == ("99", "tiny.gguf", "end")
    assert student.requests[0].prompt == "[chat] 0 + 1?"


def test_seeds_depend_on_what_is_sampled_and_on_nothing_else() -> None:
    seeds = [path.seed for path in sampled(SampleSettings(samples_per_question=3, seed=7))]
    assert len(set(seeds)) == 15
    assert seeds[4] == derive_seed(7, "q1", 1) == 2290410567
    assert derive_seed(8, "q1", 1) != derive_seed(7, "q1", 1) != derive_seed(7, "q11", 0)
    assert all(seed is not None and 0 <= seed < 0xFFFFFFFF for seed in seeds)


def test_a_path_ends_at_the_prompt_s_stop_strings_and_at_one_s_own() -> None:
    student = ScriptedModel({one.id: ["The answer is 1.\nQuestion: and now? STOP"] for one in QUESTIONS})
    paths = sampled(SampleSettings(samples_per_question=1, stop=["answer is 1"]), student)
    assert (paths[0].text, paths[0].stop_reason) == ("The ", "stop")
    paths = sampled(SampleSettings(samples_per_question=1), student)
    assert (paths[0].text, paths[0].verdict) == ("The answer is 1.", "correct")


def test_a_path_cut_before_its_answer_is_truncated_not_wrong() -> None:
    student = ScriptedModel(lambda request: Completion("Step 1: 5 + 5 =", "length", 10, 20))
    paths = sampled(SampleSettings(samples_per_question=1), student)
    assert {path.verdict for path in paths} == {"truncated"}
    assert (paths[0].prompt_tokens, paths[0].completion_tokens) == (10, 20)


def test_what_is_done_is_not_sampled_again() -> None:
    settings = SampleSettings(samples_per_question=2)
    done = {("q0", 0), ("q0", 1), ("q3", 1)}
    standing = [path for path in sampled(settings) if (path.question_id, path.sample_index) in done]
    student = ScriptedModel(RIGHT_AND_WRONG)
    list(sample_paths(QUESTIONS, student, PROMPT, settings, standing=standing))
    asked = {(request.question_id, request.sample_index) for request in student.requests}
    assert asked == {(f"q{n}", k) for n in range(5) for k in (0, 1)} - done


def test_questions_are_drawn_as_they_are_needed() -> None:
    drawn: list[str] = []

    def questions() -> object:
        for one in QUESTIONS:
            drawn.append(one.id)
            yield one

    paths = sample_paths(questions(), ScriptedModel(RIGHT_AND_WRONG), PROMPT, SampleSettings())  # type: ignore[arg-type]
    assert len(list(islice(paths, 3))) == 3
    assert drawn == ["q0"]


def test_a_question_that_cannot_be_asked_is_told_once_and_the_others_go_on() -> None:
    def answer(request: SampleRequest) -> str | Refusal:
        return Refusal("too long") if request.question_id == "q2" else "The answer is 1."

    refused: list[tuple[str, str]] = []
    paths = list(
        sample_paths(
            QUESTIONS,
            ScriptedModel(answer),
            PROMPT,
            SampleSettings(),
            on_refusal=lambda one, reason: refused.append((one.id, reason)),
        )
    )
    assert refused == [("q2", "too long")]
    assert {path.question_id for path in paths} == {"q0", "q1", "q3", "q4"}


def test_without_exact_everything_that_stands_is_kept() -> None:
    settings = SampleSettings(samples_per_question=2)
    paths = sampled(settings)
    assert find_resume_point(paths[:3], QUESTIONS, settings) == 3
    assert find_resume_point([], QUESTIONS, settings) == 0


@pytest.mark.parametrize(("standing", "kept"), [(0, 0), (3, 0), (4, 4), (7, 4), (8, 8), (9, 8), (10, 10)])
def test_with_exact_a_group_that_is_not_whole_is_done_again(standing: int, kept: int) -> None:
    settings = SampleSettings(samples_per_question=2, exact=True, exact_group=2)
    assert find_resume_point(sampled(settings)[:standing], QUESTIONS, settings) == kept


def test_exact_groups_are_asked_for_one_by_one() -> None:
    calls: list[list[str]] = []

    class Recorder(ScriptedModel):
        def complete_many(self, requests: object, settings: object, *, is_exact: bool = False) -> object:  # type: ignore[override]
            drawn = list(requests)  # type: ignore[call-overload]
            calls.append([request.question_id for request in drawn])
            assert is_exact
            return super().complete_many(drawn, settings)  # type: ignore[arg-type]

    sampled(SampleSettings(samples_per_question=1, exact=True, exact_group=2), Recorder(RIGHT_AND_WRONG))
    assert calls == [["q0", "q1"], ["q2", "q3"], ["q4"]]


def test_identical_paths_of_a_question_are_kept_once_with_their_count() -> None:
    paths = sampled(SampleSettings(samples_per_question=5))
    merged = merge_identical(paths)
    assert [(path.sample_index, path.count) for path in merged[:2]] == [(0, 3), (1, 2)]
    assert sum(path.count for path in merged) == len(paths)
    assert summarize_paths(merged) == summarize_paths(merged * 1)
    assert finish_paths(reversed(paths), QUESTIONS, SampleSettings()) == (merged, 0)
    kept, _ = finish_paths(reversed(paths), QUESTIONS, SampleSettings(keep_identical=True))
    assert kept == paths


def test_the_summary_counts_paths_as_often_as_they_were_drawn() -> None:
    def path(number: int, verdict: str, count: int = 1) -> ReasoningPath:
        return ReasoningPath(
            question_id=f"q{number}", sample_index=0, seed=1, student="s", text=f"{verdict}", final_answer=None,
            verdict=verdict, rule="numeric", count=count, stop_reason="end", prompt_tokens=100, completion_tokens=10,
        )  # type: ignore[arg-type]  # fmt: skip

    summary = summarize_paths(
        [
            path(0, "correct", 4),
            path(1, "wrong", 3),
            path(1, "correct"),
            path(2, "wrong", 4),
            path(3, "truncated", 4),
        ]
    )
    assert (summary.questions, summary.paths, summary.distinct_paths) == (4, 16, 5)
    assert (summary.correct, summary.wrong, summary.truncated, summary.no_answer) == (5, 7, 4, 0)
    assert summary.pass_at_1 == pytest.approx((1 + 0.25 + 0 + 0) / 4)
    assert (summary.never_wrong, summary.sometimes_wrong, summary.always_wrong) == (2, 1, 1)
    assert (summary.prompt_tokens, summary.completion_tokens) == (400, 160)
    assert summarize_paths([]).pass_at_1 == 0.0


class Failing(ScriptedModel):
    """Stops after a number of answers, as a student does whose machine is switched off."""

    def __init__(self, answers: int) -> None:
        super().__init__(self._say)
        self._left = answers

    def _say(self, request: SampleRequest) -> str:
        if not self._left:
            raise BackendError("switched off")
        self._left -= 1
        return RIGHT_AND_WRONG[request.question_id][request.sample_index % 2]


@pytest.mark.parametrize("exact", [True, False])
def test_an_interrupted_file_ends_as_an_uninterrupted_one(tmp_path: Path, exact: bool) -> None:
    settings = SampleSettings(samples_per_question=3, exact=exact, exact_group=2)
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    seen: list[Sequence[ReasoningPath]] = []
    sample_into_file(
        whole, QUESTIONS, lend(ScriptedModel(RIGHT_AND_WRONG)), PROMPT, settings, on_paths=seen.append
    )
    assert len(seen) == 1 + 15
    for answers in (0, 4, 3, 7):
        with pytest.raises(BackendError, match="switched off"):
            sample_into_file(broken, QUESTIONS, lend(Failing(answers)), PROMPT, settings)
        with (tmp_path / "broken.jsonl.partial").open("ab") as stream:
            stream.write(b'{"question_id": "q0", "torn')
    student = ScriptedModel(RIGHT_AND_WRONG)
    sample_into_file(broken, QUESTIONS, lend(student), PROMPT, settings)
    assert broken.read_bytes() == whole.read_bytes()
    assert len(student.requests) < 15
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.jsonl", "whole.jsonl"]


def test_a_refused_question_does_not_stand_in_the_way_of_resuming(tmp_path: Path) -> None:
    settings = SampleSettings(samples_per_question=1, exact=True, exact_group=2)
    path = tmp_path / "paths.jsonl"
    standing = [one for one in sampled(settings) if one.question_id in ("q0", "q2")]
    with AppendFile(tmp_path / "paths.jsonl.partial") as file:
        for one in standing:
            file.append(one)
    student = ScriptedModel(
        lambda request: Refusal("long") if request.question_id == "q1" else "The answer is 3."
    )
    paths = sample_into_file(path, QUESTIONS, lend(student), PROMPT, settings)
    assert [one.question_id for one in paths.paths] == ["q0", "q2", "q3", "q4"]
