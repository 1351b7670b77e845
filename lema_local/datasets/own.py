"""The user's own file: JSON Lines or CSV, with a mapping from our field names to theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lema_local.datasets.base import Row, RowProblem, make_id, read_scalar
from lema_local.datasets.gsm8k import split_solution
from lema_local.records import Question

FIELDS = ("question", "gold_answer", "gold_rationale", "choices", "id", "split")
"""What may be mapped; the first two have to be there."""


def convert_own(row: Row, dataset: str, split: str, position: int, mapping: Mapping[str, str]) -> Question:
    """Return a row of the user's file as a question.

    A gold answer that is a whole solution with a `####` line is taken apart as GSM8K's are.

    Raises:
        RowProblem: If a field is missing or empty.
    """
    gold, rationale = _need(row, "gold_answer", mapping), _find(row, "gold_rationale", mapping)
    if "####" in gold:
        solution, gold = split_solution(gold)
        rationale = rationale or solution or None
    own_split = _find(row, "split", mapping) or split
    return Question(
        id=_find(row, "id", mapping) or make_id(dataset, own_split, position),
        dataset=dataset,
        split=own_split,
        question=_need(row, "question", mapping),
        gold_answer=gold,
        gold_rationale=rationale,
        choices=read_choices(look_up(row, mapping.get("choices", "choices"))),
    )


def look_up(row: Row, field: str) -> Any:
    """Return a field; a dot goes into an object (`answer.value`), None where there is none."""
    if field in row:
        return row[field]
    value: Any = row
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _find(row: Row, name: str, mapping: Mapping[str, str]) -> str | None:
    field = mapping.get(name, name)
    value = look_up(row, field)
    return None if value is None else read_scalar(value, field) or None


def _need(row: Row, name: str, mapping: Mapping[str, str]) -> str:
    field = mapping.get(name, name)
    if look_up(row, field) is None and field in row:
        raise RowProblem(f"the field '{field}' is null")
    if look_up(row, field) is None:
        raise RowProblem(f"no field '{field}' for {name} (found: {', '.join(map(str, row)) or 'none'})")
    value = _find(row, name, mapping)
    if value is None:
        raise RowProblem(f"the field '{field}' is empty")
    return value


def read_choices(value: Any) -> list[str] | None:
    """Return choices from a list, from a JSON list in a CSV cell, or from `a | b | c`."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split("|")
        except json.JSONDecodeError as err:
            raise RowProblem(f"choices are no JSON list: {err}") from err
    if not isinstance(value, list) or len(value) < 2:
        raise RowProblem("choices need at least two entries")
    return [read_scalar(choice, "choices") for choice in value]
