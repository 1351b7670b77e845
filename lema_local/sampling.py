"""Sampling into a file, in as many goes as it takes: `lema run` and `lema sample` go this way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lema_local.jsonl import AppendFile, finish, keep_first, read_partial, read_records, write_records
from lema_local.records import Prediction, Question, ReasoningPath
from lema_local.stages.evaluate import predict
from lema_local.stages.sample import (
    PathPrompt,
    SampleSettings,
    find_resume_point,
    finish_paths,
    sample_paths,
)
from lema_local.students.base import Student


def sample_into_file(
    path: Path,
    questions: Sequence[Question],
    student: Student,
    prompt: PathPrompt,
    settings: SampleSettings,
    *,
    on_paths: Callable[[Sequence[ReasoningPath]], None] = lambda paths: None,
    on_refusal: Callable[[Question, str], None] | None = None,
) -> list[ReasoningPath]:
    """Write the questions' paths to `path`, and return them as they stand there.

    Each path is appended to `path.partial` as it finishes; an earlier go's paths there are not sampled again. The
    finished file is in the order of the questions, identical paths once.

    Args:
        path: The file to write.
        questions: All of them, also those that an earlier go did.
        student: Who answers.
        prompt: What a question is put into.
        settings: How; the same as in earlier goes.
        on_paths: Told first what stands already, then each path as it is on disk.
        on_refusal: Told about each question that cannot be asked, and why.

    Raises:
        BackendError: If the student cannot go on; what was written stays, and the next call goes on.
    """
    partial = path.with_name(path.name + ".partial")
    standing = read_partial(partial, ReasoningPath)
    point = find_resume_point(standing, questions, settings)
    if point.kept < len(standing):
        keep_first(partial, point.kept)
    drawn = standing[: point.kept]
    on_paths(drawn)
    with AppendFile(partial) as file:
        for one in sample_paths(questions, student, prompt, settings, done=point.done, on_refusal=on_refusal):
            file.append(one)
            drawn.append(one)
            on_paths([one])
    paths = finish_paths(drawn, questions, settings)
    # Not by write_records(path): its own partial file has the name of ours, which must stay until the end.
    whole = path.with_name(path.name + ".whole")
    write_records(whole, paths)
    finish(whole, path)
    partial.unlink()
    return paths


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
    paths = sample_into_file(
        answers, questions, student, prompt, settings, on_paths=on_paths, on_refusal=on_refusal
    )
    by_id = {question.id: question for question in questions}
    predictions = [predict(one, by_id[one.question_id], arm) for one in paths]
    write_records(path, predictions)
    answers.unlink()
    return predictions
