"""`lema grade`: grade `{"gold", "pred"}` lines; a filter that other programs can use."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.cli.progress import notice
from lema_local.errors import InputError

if TYPE_CHECKING:
    from lema_local.answers import Grade
    from lema_local.records import Question


@dataclass(frozen=True, slots=True)
class _Item:
    row: dict[str, Any]
    question: Question
    text: str | None
    """What is graded; None where the line has no prediction."""
    is_path: bool


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--dataset", metavar="NAME", help="Grade as this dataset's answers (lema dataset list).")
@click.option(
    "--pred",
    "kind",
    type=click.Choice(["auto", "path", "answer"]),
    default="auto",
    show_default=True,
    help="What `pred` holds: a reasoning path, or the final answer itself.",
)
@click.option(
    "--scorer",
    type=click.Choice(["lema", "paper", "both"]),
    default="lema",
    show_default=True,
    help="This project's rules, the paper's own scorers, or both side by side.",
)
@click.option("--json", "is_json", is_flag=True, help="Only the JSON lines, no summary on stderr.")
def grade(file: Path, dataset: str | None, kind: str, scorer: str, is_json: bool) -> None:
    """Grade the lines of FILE (- for stdin): one line in, one line out.

    \b
    A line has `gold` and `pred` (text or numbers; `choices` for multiple choice). Printed is the line with
      final_answer   what was compared, null where there was none
      is_correct     true, false, or null where no verdict could be reached
      rule           numeric, fraction, symbolic, choice, string or none
    and with --scorer both also `paper`: {"final_answer", "is_correct", "scorer"}.

    \b
    Example:
      echo '{"gold": "5", "pred": "So it is 2+3=5."}' | lema grade -
    """
    from lema_local.answers.symbolic import map_answers

    _check_dataset(dataset)
    items = _read_items(file, dataset, kind)
    counts: Counter[str] = Counter()
    for item, result in zip(items, map_answers(partial(_grade, scorer=scorer), items), strict=True):
        counts[_name_verdict(result)] += 1
        click.echo(json.dumps({**item.row, **result}, ensure_ascii=False))
    if not is_json:
        _summarize(counts, scorer)


def _check_dataset(dataset: str | None) -> None:
    from lema_local.datasets import DATASETS

    if dataset is not None and dataset not in DATASETS:
        raise InputError(f"unknown dataset '{dataset}'", hint=f"one of {', '.join(DATASETS)}")


def _read_items(file: Path, dataset: str | None, kind: str) -> list[_Item]:
    """Return the checked lines.

    Raises:
        InputError: If lines are malformed or gold answers do not parse: up to 20 are named.
    """
    from lema_local.jsonl import describe_problems

    problems: list[str] = []
    items = []
    for place, row in _iterate_rows(file, problems):
        try:
            items.append(_read_item(row, place, dataset, kind))
        except ValueError as err:
            problems.append(f"{place}: {err}")
    problems += [f"{item.question.id}: {problem}" for item, problem in _find_gold_problems(items)]
    if problems:
        raise InputError(describe_problems(file, problems), hint='a line is {"gold": ..., "pred": ...}')
    if not items:
        raise InputError(f"{file} has no lines", hint="check that it is the right file")
    return items


def _iterate_rows(file: Path, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    from lema_local.datasets.files import iterate_rows
    from lema_local.jsonl import iterate_lines

    if str(file) != "-":
        yield from iterate_rows(file, problems)
        return
    lines = (line.decode("utf-8", "surrogateescape") for line in sys.stdin.buffer)
    for number, row in iterate_lines(lines, problems):
        yield f"line {number}", row


def _find_gold_problems(items: list[_Item]) -> Iterator[tuple[_Item, str]]:
    from lema_local.answers.grading import find_gold_problem
    from lema_local.answers.symbolic import map_answers

    problems = map_answers(lambda item: find_gold_problem(item.question), items)
    yield from ((item, problem) for item, problem in zip(items, problems, strict=True) if problem)


def _read_item(row: dict[str, Any], place: str, dataset: str | None, kind: str) -> _Item:
    from lema_local.answers.extraction import is_path
    from lema_local.datasets.base import need_text, read_scalar
    from lema_local.records import Question

    choices = row.get("choices")
    question = Question(
        id=place,
        dataset=dataset or "",
        split="",
        question="",
        gold_answer=need_text(row, "gold"),
        choices=[str(choice) for choice in choices] if isinstance(choices, list) else None,
    )
    if "pred" not in row:
        raise ValueError(f"no field 'pred' (found: {', '.join(row)})")
    text = None if row["pred"] is None else read_scalar(row["pred"], "pred")
    return _Item(row, question, text, kind == "path" or (kind == "auto" and is_path(text or "")))


def _grade(item: _Item, scorer: str) -> dict[str, Any]:
    if scorer == "paper":
        paper = _grade_as_paper(item)
        return {**paper, "rule": f"paper:{paper.pop('scorer')}"}
    found = _grade_here(item)
    verdict = {"correct": True, "undecided": None}.get(found.verdict, False)
    result: dict[str, Any] = {"final_answer": found.final_answer, "is_correct": verdict, "rule": found.rule}
    return result | ({"paper": _grade_as_paper(item)} if scorer == "both" else {})


def _grade_here(item: _Item) -> Grade:
    from lema_local.answers import grade_answer, grade_path

    text = item.text or ""
    return grade_path(text, item.question) if item.is_path else grade_answer(text, item.question)


def _grade_as_paper(item: _Item) -> dict[str, Any]:
    from lema_local.answers.paper import score_as_paper

    text = item.text or ""
    score = score_as_paper(
        text if item.is_path else f"The answer is {text}",
        item.question.gold_answer,
        dataset=item.question.dataset or None,
        choices=item.question.choices,
    )
    return {"final_answer": score.final_answer, "is_correct": score.is_correct, "scorer": score.scorer}


def _name_verdict(result: dict[str, Any]) -> str:
    if result["is_correct"] is None:
        return "undecided"
    if result["is_correct"]:
        return "right"
    return "wrong" if result["final_answer"] is not None else "without an answer"


def _summarize(counts: Counter[str], scorer: str) -> None:
    from lema_local.statistics import wilson_interval

    n, right = counts.total(), counts["right"]
    low, high = wilson_interval(right, n)
    others = ", ".join(
        f"{counts[name]:,} {name}" for name in ("wrong", "without an answer", "undecided") if counts[name]
    )
    name = "the paper's scorer" if scorer == "paper" else "this project's scorer"
    notice(
        f"{right:,} of {n:,} right ({right / n:.1%}, 95 % interval {low:.1%} to {high:.1%}) by {name}"
        f"{'; ' + others if others else ''}"
    )
