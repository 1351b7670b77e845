"""`lema audit`: the answers of a run on which this project's scorer and the paper's disagree."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.errors import InputError, RunStateError

if TYPE_CHECKING:
    from lema_local.answers.paper import PaperScore
    from lema_local.records import Prediction, Question, ReasoningPath

TAIL = 160
"""Characters of a path's end that are shown."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer with both verdicts: the run's own, and the paper's scorer's on the same text."""

    question: Question
    record: ReasoningPath | Prediction
    paper: PaperScore

    @property
    def is_correct(self) -> bool:
        return self.record.verdict == "correct"

    @property
    def is_disputed(self) -> bool:
        return self.is_correct is not self.paper.is_correct

    def to_json(self, where: str) -> dict[str, Any]:
        record = self.record
        return {
            "where": where,
            "question_id": self.question.id,
            "sample_index": record.sample_index,
            "gold_answer": self.question.gold_answer,
            "final_answer": record.final_answer,
            "verdict": record.verdict,
            "rule": record.rule,
            "paper": {
                "final_answer": self.paper.final_answer,
                "is_correct": self.paper.is_correct,
                "scorer": self.paper.scorer,
            },
            "text": record.text,
        }


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Answers shown a file."
)
@click.option("--json", "is_json", is_flag=True, help="One JSON object a disputed answer, all of them.")
def audit(run: Path, limit: int, is_json: bool) -> None:
    """List the answers of RUN on which two scorers disagree.

    Each sampled path and each answer of the evaluation has the run's own verdict; the paper's scorer for its dataset
    grades the same text again. Where they differ, one of them is wrong, and a look at the text says which.

    \b
    Examples:
      lema audit runs/quickstart
      lema audit runs/gsm8k --json | jq 'select(.paper.is_correct)'
    """
    questions = _read_questions(run)
    files = list(_find_files(run))
    if not files:
        raise InputError(f"{run} has no answers yet", hint=f"lema run goes on with it; then lema audit {run}")
    for path, kind in files:
        where = path.relative_to(run).with_suffix("").as_posix()
        answers = list(_grade_again(path, kind, questions))
        if is_json:
            for answer in filter(lambda one: one.is_disputed, answers):
                click.echo(json.dumps(answer.to_json(where), ensure_ascii=False))
        else:
            click.echo("\n".join(_describe(where, answers, limit)))


def _read_questions(run: Path) -> dict[str, Question]:
    """Return the questions of a run and of its later rounds, by id.

    Raises:
        RunStateError: If the folder holds no run.
    """
    from lema_local.jsonl import read_records
    from lema_local.records import Question

    files = sorted([*run.glob("0_questions/*.jsonl"), *run.glob("round_*/0_questions/*.jsonl")])
    if not files:
        raise RunStateError(
            f"{run} holds no run", hint="name a folder that `lema run` made, such as runs/NAME"
        )
    return {one.id: one for path in files for one in read_records(path, Question)}


def _find_files(run: Path) -> Iterator[tuple[Path, type[ReasoningPath] | type[Prediction]]]:
    from lema_local.records import Prediction, ReasoningPath

    for root in (run, *sorted(run.glob("round_*"))):
        yield from ((path, ReasoningPath) for path in sorted(root.glob("1_sample/paths.jsonl")))
        yield from ((path, Prediction) for path in sorted(root.glob("8_evaluate/*/*.jsonl")))


def _grade_again(
    path: Path, kind: type[ReasoningPath] | type[Prediction], questions: dict[str, Question]
) -> Iterator[_Answer]:
    from lema_local.answers.paper import score_as_paper
    from lema_local.jsonl import read_records

    records: Iterable[ReasoningPath | Prediction] = read_records(path, kind)
    for record in records:
        question = questions.get(record.question_id)
        if question is None:
            raise InputError(
                f"{path}: question {record.question_id} is not among the run's questions",
                hint="were files of two runs mixed?",
            )
        paper = score_as_paper(
            record.text, question.gold_answer, dataset=question.dataset, choices=question.choices
        )
        yield _Answer(question, record, paper)


def _describe(where: str, answers: list[_Answer], limit: int) -> Iterator[str]:
    disputed = [one for one in answers if one.is_disputed]
    ours = sum(one.is_correct for one in disputed)
    yield (
        f"{where}: {len(answers):,} different answers, {len(disputed):,} disputed: {ours:,} right by this project's"
        f" scorer alone, {len(disputed) - ours:,} by the paper's alone"
    )
    for one in disputed[:limit]:
        paper = one.paper
        yield f"  {one.question.id}, sample {one.record.sample_index}; gold answer {one.question.gold_answer}"
        yield f"    lema   {one.record.verdict} ({one.record.rule}): {_shorten(one.record.final_answer)}"
        verdict = "correct" if paper.is_correct else "wrong"
        yield f"    paper  {verdict} ({paper.scorer}): {_shorten(paper.final_answer)}"
        yield f"    text   ...{_shorten(one.record.text[-TAIL:])}"
    if len(disputed) > limit:
        yield f"  and {len(disputed) - limit:,} more (--limit)"


def _shorten(text: str | None) -> str:
    """Return a text in one line without control characters, for a terminal."""
    if text is None:
        return "no answer"
    line = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(line.split())[:TAIL]
