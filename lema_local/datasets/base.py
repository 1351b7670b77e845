"""What a dataset is to the readers: where it comes from, how large its splits are, how a row becomes a question."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lema_local.records import Question

AnswerKind = Literal["number", "expression", "choice"]
Row = Mapping[str, Any]


class RowProblem(ValueError):
    """A row that cannot be a question; the reader adds file and line."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """Where `datasets.load_dataset` finds a dataset."""

    repo: str
    splits: Mapping[str, str]
    """Our split's name: the hub's."""
    configs: tuple[str | None, ...] = (None,)
    """Several are read one after the other (MATH has one a subject)."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One row of the table of datasets."""

    name: str
    title: str
    answer_kind: AnswerKind
    splits: Mapping[str, int]
    """Split: published number of questions."""
    held_out: frozenset[str]
    """The splits that are for evaluation and never trained on."""
    source: str
    licence: str
    prompt: str
    """Name of its few-shot prompt in prompts/."""
    correction_prompt: str
    """Name of the prompt that asks for corrections; that of grade-school maths serves all word problems."""
    convert: Callable[[Row, str, int], Question | None]
    """(row, split, 0-based position) to a question; None where the dataset leaves the row out on purpose.

    Raises `RowProblem` for a row that is not of the released form.
    """
    hub: HubSource | None = None
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Split: the names that its file has in a folder; `<split>.jsonl` goes without saying."""
    leaves_out: str = ""
    """Why some records of the release become no question."""


def need_text(row: Row, name: str) -> str:
    """Return a field that has to be there and not be blank."""
    value = row.get(name)
    if value is None and name in row:
        raise RowProblem(f"the field '{name}' is null")
    if value is None:
        raise RowProblem(f"no field '{name}' (found: {', '.join(map(str, row)) or 'none'})")
    text = read_scalar(value, name)
    if not text:
        raise RowProblem(f"the field '{name}' is empty")
    return text


def read_scalar(value: Any, name: str) -> str:
    """Return a string or a number as text; `43.0` is 43."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowProblem(f"the field '{name}' is {type(value).__name__}, expected text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise RowProblem(f"the field '{name}' is {value}")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def make_id(dataset: str, split: str, position: int) -> str:
    """Return the stable id of the question at a 0-based position of its file."""
    return f"{dataset}/{split}/{position:05d}"
