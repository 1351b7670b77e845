"""What a row of a shared data set is: every column with its type and meaning, records to rows and back.

A row is one correction with its question. What has no fixed keys (tags, how the teacher was asked) is JSON text;
checks are columns of one struct, null where a check was not made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lema_local.corrections import CHECKS
from lema_local.records import Correction, Question

VERSION = 1
"""Of the columns."""
Type = Literal["string", "int32", "int64", "float64", "strings", "checks"]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    type: Type
    meaning: str


QUESTION_COLUMNS = (
    Column("id", "string", "the question's id: data set, split and position, or the source's own id"),
    Column("dataset", "string", "where the question is from"),
    Column("split", "string", "the source's split; questions of a test split are never trained on"),
    Column("question", "string", "its text"),
    Column("gold_answer", "string", "the reference final answer"),
    Column(
        "gold_rationale", "string", "the source's own solution, one step a line; null where there is none"
    ),
    Column("choices", "strings", "for multiple choice: the texts to choose from; else null"),
    Column("tags", "string", "what to report by (level, subject, ...), as a JSON object"),
)
_OF_QUESTION = tuple(
    Column("question_id" if one.name == "id" else one.name, one.type, one.meaning) for one in QUESTION_COLUMNS
)
COLUMNS = (
    *_OF_QUESTION,
    Column("student", "string", "the model that made the mistake"),
    Column("sample_index", "int64", "which of its samples of this question"),
    Column("original_steps", "strings", "the mistake's steps in order; the last one states the wrong answer"),
    Column("teacher", "string", "the model that corrected, as it was asked for"),
    Column("teacher_reported", "string", "the same as the reply named itself; null where it did not"),
    Column("attempt", "int32", "0 for the first try"),
    Column("incorrect_step", "int32", "1-based position in original_steps of the first wrong step"),
    Column("explanation", "string", "why that step is wrong"),
    Column("corrected_solution", "string", "lines `Step k: ...` from the incorrect step on, the answer last"),
    Column("final_answer", "string", "the answer that the corrected solution ends with"),
    Column("verdict", "string", "accepted: it ends with the gold answer; rejected: see reason"),
    Column("reason", "string", "why it was rejected; null for an accepted one"),
    Column("checks", "checks", "which checks it passed; null: not made"),
    Column("asked", "string", "how the teacher was asked, where not the usual way, as a JSON object"),
    Column("reply_key", "string", "names the raw reply in the maker's journal"),
    Column("cost_usd", "float64", "dollars that the reply cost"),
)
SOURCE_TEXT = ("question", "gold_answer", "gold_rationale", "choices")
"""What is the source's own and may not be shared under every licence."""
_JSON = ("tags", "asked")


def question_to_row(question: Question) -> Row:
    """Return a question as a row of the table of questions."""
    return {**question.model_dump(), "tags": _dump(question.tags)}


def correction_to_row(correction: Correction, question: Question) -> Row:
    """Return a correction and its question as one row."""
    own = question_to_row(question)
    row = {**own, "question_id": own.pop("id"), **correction.model_dump(), "asked": _dump(correction.asked)}
    row["checks"] = {name: correction.checks.get(name) for name in CHECKS}
    return {column.name: row[column.name] for column in COLUMNS}


def row_to_question(row: Mapping[str, Any]) -> Question:
    """Return the question in a row of either table.

    Raises:
        ValueError: If it holds none (pydantic's ValidationError, or JSON that is none).
    """
    values = {column.name: row.get(column.name) for column in QUESTION_COLUMNS}
    values["id"] = row.get("id", row.get("question_id"))
    return Question.model_validate({**values, "tags": _load(values["tags"])})


def row_to_correction(row: Mapping[str, Any]) -> Correction:
    """Return the correction in a row, with the verdict that the row claims.

    Raises:
        ValueError: As `row_to_question`.
    """
    values = {name: row.get(name) for name in Correction.model_fields}
    checks = {name: passed for name, passed in (values["checks"] or {}).items() if passed is not None}
    return Correction.model_validate({**values, "checks": checks, "asked": _load(values["asked"])})


def _dump(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _load(text: object) -> dict[str, Any]:
    if text is None or text == "":
        return {}
    found = json.loads(text) if isinstance(text, str) else text
    if not isinstance(found, dict):
        raise ValueError(f"no JSON object but {str(text)[:60]!r}")
    return found
