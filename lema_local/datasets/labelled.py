"""Solutions whose first wrong step a person has marked, to measure teachers on: ProcessBench and BIG-Bench-Mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lema_local.datasets.base import RowProblem, need_text
from lema_local.datasets.files import iterate_rows
from lema_local.errors import InputError
from lema_local.jsonl import describe_problems, describe_validation
from lema_local.records import Record


class LabelledMistake(Record):
    """A solution in steps with its first wrong step."""

    id: str
    dataset: str
    question: str
    steps: list[str]
    incorrect_step: int | None
    """1-based position in `steps` of the first wrong one; None where all are right."""
    gold_answer: str | None
    final_answer: str | None
    """What the solution ends with, where the file says it."""
    has_correct_answer: bool | None
    """Whether the final answer is right, where the file says it or both answers are there."""


def read_labelled(path: Path) -> list[LabelledMistake]:
    """Return the solutions of a file in ProcessBench's form or BIG-Bench-Mistake's, told by their fields.

    Raises:
        InputError: If it cannot be read, is empty or has malformed lines.
    """
    problems: list[str] = []
    labelled = []
    for position, (place, row) in enumerate(iterate_rows(path, problems)):
        try:
            labelled.append(_convert(row, path.stem, position))
        except RowProblem as err:
            problems.append(f"{place}: {err}")
        except ValidationError as err:
            problems.append(f"{place}: {describe_validation(err)}")
    if problems:
        raise InputError(
            describe_problems(path, problems), hint="a line has steps and label, or steps and mistake_index"
        )
    if not labelled:
        raise InputError(f"{path} has no solutions", hint="check that it is the right file")
    return labelled


def _convert(row: Mapping[str, Any], name: str, position: int) -> LabelledMistake:
    steps = row.get("steps")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise RowProblem("no list 'steps'")
    if "mistake_index" in row:
        return _convert_bigbench(row, steps, f"{name}/{position:05d}")
    if "label" in row:
        return _convert_processbench(row, steps)
    raise RowProblem("neither 'label' nor 'mistake_index'")


def _convert_processbench(row: Mapping[str, Any], steps: list[str]) -> LabelledMistake:
    """`label`: 0-based first wrong step, -1 for none.

    Source: Qwen/ProcessBench, README (arXiv 2412.06559).
    """
    is_right = row.get("final_answer_correct")
    return LabelledMistake(
        id=need_text(row, "id"),
        dataset="processbench",
        question=need_text(row, "problem"),
        steps=steps,
        incorrect_step=_to_position(row["label"], steps, none=-1),
        gold_answer=None,
        final_answer=None,
        has_correct_answer=is_right if isinstance(is_right, bool) else None,
    )


def _convert_bigbench(row: Mapping[str, Any], steps: list[str], own_id: str) -> LabelledMistake:
    """`mistake_index`: 0-based first wrong step, null for none.

    Source: WHGTyen/BIG-Bench-Mistake, README (arXiv 2311.08516).
    """
    gold, answer = need_text(row, "target"), need_text(row, "answer")
    return LabelledMistake(
        id=own_id,
        dataset="bigbench_mistake",
        question=need_text(row, "input"),
        steps=steps,
        incorrect_step=_to_position(row["mistake_index"], steps, none=None),
        gold_answer=gold,
        final_answer=answer,
        has_correct_answer=gold == answer,
    )


def _to_position(label: Any, steps: list[str], none: int | None) -> int | None:
    if label == none:
        return None
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(steps):
        raise RowProblem(f"the first wrong step is {label!r}, but there are {len(steps)} steps")
    return label + 1
