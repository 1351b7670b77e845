"""Sampling into a file, in as many goes as it takes: `lema run` and `lema sample` go this way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from lema_local.errors import InputError
from lema_local.jsonl import AppendFile, finish, keep_first, read_partial, read_records, write_records
from lema_local.records import Prediction, Question, ReasoningPath
from lema_local.run_progress import Update
from lema_local.sample_budget import count_mistakes, within_budget
from lema_local.stages.evaluate import EvaluateSettings, predict
from lema_local.stages.sample import (
    PathPrompt,
    SampleSettings,
    SampleSummary,
    find_resume_point,
    finish_paths,
    greedy_settings,
    sample_paths,
    summarize_paths,
)
from lema_local.students.base import Student

OpenStudent = Callable[[], AbstractContextManager[Student]]
"""Lends a student; several are lent one after another, so that only one is in memory."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A finished file of paths."""

    paths: list[ReasoningPath]
    """As they stand in the file."""
    summary: SampleSummary
    """Of all paths that were drawn, those left out of the file as well."""


class SampleWatch:
    """Tells how far a sampling is: paths of all that are wanted, questions, mistakes, tokens a second."""

    def __init__(self, update: Update) -> None:
        self._update = update
        self._began: float | None = None
        self._questions: set[str] = set()
        self._paths = self._mistakes = self._tokens = 0

    def __call__(self, paths: Sequence[ReasoningPath]) -> None:
        """Count further paths; the first call is told what stood before."""
        self._paths += len(paths)
        self._mistakes += sum(path.verdict == "wrong" for path in paths)
        self._questions.update(path.question_id for path in paths)
        if self._began is None:
            self._began = time.monotonic()
        else:
            self._tokens += sum(path.completion_tokens or 0 for path in paths)
        speed = self._tokens / max(time.monotonic() - self._began, 0.1)
        self._update(
            self._paths, questions=len(self._questions), mistakes=self._mistakes, tokens_per_s=f"{speed:.0f}"
        )


def expected_paths(questions: int, students: int, settings: SampleSettings) -> int | None:
    """Return how many paths will be drawn, or at most where it stops earlier; None where it depends on the paths."""
    if settings.max_samples_per_question is not None:
        return None
    return questions * students * settings.samples_per_question


def sample_into_file(
    path: Path,
    questions: Sequence[Question],
    students: Sequence[OpenStudent],
    prompt: PathPrompt,
    settings: SampleSettings,
    *,
    on_paths: Callable[[Sequence[ReasoningPath]], None] = lambda paths: None,
    on_refusal: Callable[[Question, str], None] | None = None,
) -> Sampled:
    """Write the questions' paths to `path`, and return them as they stand there.

    Each path is appended to `path.partial` as it finishes; an earlier go's paths there are not sampled again. The
    finished file is in the order of the questions, identical paths once.

    Args:
        path: The file to write.
        questions: All of them, also those that an earlier go did.
        students: Who answer, one after another; each answers every question.
        prompt: What a question is put into.
        settings: How; the same as in earlier goes.
        on_paths: Told first what stands already, then each path as it is on disk.
        on_refusal: Told about each question that cannot be asked, and why.

    Raises:
        BackendError: If a student cannot go on; what was written stays, and the next call goes on.
        InputError: If two students have the same name.
    """
    partial = path.with_name(path.name + ".partial")
    drawn = _take_up(partial, questions, settings)
    on_paths(drawn)
    sampled: dict[str, list[ReasoningPath]] = {}
    mistakes_left = settings.stop_after_mistakes
    with AppendFile(partial) as file:
        for place, open_student in enumerate(students):
            stop_after = None if mistakes_left is None else math.ceil(mistakes_left / (len(students) - place))
            if stop_after == 0:
                break
            with open_student() as student:
                if student.name in sampled:
                    raise InputError(
                        f"two students are named {student.name}; their paths could not be told apart",
                        hint="rename one of the files",
                    )
                own = [one for one in drawn if one.student == student.name]
                for one in sample_paths(
                    questions,
                    student,
                    prompt,
                    settings,
                    standing=own,
                    stop_after=stop_after,
                    on_refusal=on_refusal,
                ):
                    file.append(one)
                    own.append(one)
                    on_paths([one])
            sampled[student.name] = within_budget(own, questions, settings, stop_after)
            if mistakes_left is not None:
                mistakes_left -= count_mistakes(sampled[student.name], settings)
    return _finish(path, [one for some in sampled.values() for one in some], questions, settings)


def _take_up(partial: Path, questions: Sequence[Question], settings: SampleSettings) -> list[ReasoningPath]:
    """Return the paths of earlier goes that stay; the file is cut behind them."""
    standing = read_partial(partial, ReasoningPath)
    if not standing:
        return []
    # Students are sampled one after another: only the last one's paths can end in the middle of a group.
    last = [one for one in standing if one.student == standing[-1].student]
    kept = len(standing) - len(last) + find_resume_point(last, questions, settings)
    if kept < len(standing):
        keep_first(partial, kept)
    return standing[:kept]


def _finish(
    path: Path, drawn: Sequence[ReasoningPath], questions: Sequence[Question], settings: SampleSettings
) -> Sampled:
    """Write the finished file, and remove the unfinished one."""
    paths, left_out = finish_paths(drawn, questions, settings)
    summary = summarize_paths(drawn, settings.samples_per_question)
    # Not by write_records(path): its own partial file has the name of ours, which must stay until the end.
    whole = path.with_name(path.name + ".whole")
    write_records(whole, paths)
    finish(whole, path)
    path.with_name(path.name + ".partial").unlink()
    return Sampled(paths, summary.model_copy(update={"left_out_mistakes": left_out}))


def evaluation_settings(settings: EvaluateSettings) -> tuple[SampleSettings, SampleSettings | None]:
    """Return the settings of the greedy answers and of the further, sampled ones; None where none are wanted."""
    greedy = greedy_settings(settings.max_tokens)
    if not settings.samples:
        return greedy, None
    drawn = SampleSettings(
        samples_per_question=settings.samples,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=0,
        seed=settings.seed,
        max_tokens=settings.max_tokens,
        keep_identical=True,
    )
    return greedy, drawn


def predict_into_file(
    path: Path,
    questions: Sequence[Question],
    student: Student,
    prompt: PathPrompt,
    settings: SampleSettings,
    *,
    arm: str,
    on_paths: Callable[[Sequence[ReasoningPath]], None] = lambda paths: None,
    on_refusal: Callable[[Question, str], None] | None = None,
) -> list[Prediction]:
    """Write an arm's predictions to `path`, and return them; nothing is asked where the file stands already.

    Args and errors as those of `sample_into_file`; `settings` say greedy, one sample.
    """
    if path.exists():
        return read_records(path, Prediction)
    answers = path.with_name(path.name + ".answers")
    sampled = sample_into_file(
        answers,
        questions,
        [lambda: nullcontext(student)],
        prompt,
        settings,
        on_paths=on_paths,
        on_refusal=on_refusal,
    )
    by_id = {question.id: question for question in questions}
    predictions = [predict(one, by_id[one.question_id], arm) for one in sampled.paths]
    write_records(path, predictions)
    answers.unlink()
    return predictions
