"""Stage 1, the other way: take over reasoning paths that were made elsewhere.

Reads   rows               objects of anybody's JSON Lines, and the questions that they answer
Writes  reasoning paths    graded like sampled ones; seed and token counts unknown
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lema_local.answers import grade_path
from lema_local.records import Question, ReasoningPath

Row = Mapping[str, Any]
QUESTION_FIELDS = ("question", "problem", "id", "question_id", "idx")
"""Tried in this order where no field is named."""


@dataclass(frozen=True, slots=True)
class ImportFields:
    """Where in a row things stand: names joined by dots, a number for a place in a list, `*` for each element."""

    text: str
    question: str | None = None
    """The question's text, its id, or its 0-based position; None: the first of the usual names."""
    verdict: str | None = None
    """Somebody else's verdict (true or false), compared with ours; None: not compared."""


@dataclass(slots=True)
class Imported:
    """What came of an import."""

    paths: list[ReasoningPath] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    """Why a row or a part of it was left out, one line each."""
    compared: int = 0
    """Paths that came with somebody else's verdict."""
    differing: list[tuple[ReasoningPath, bool]] = field(default_factory=list)
    """Paths whose verdict is another than theirs, with theirs."""


def import_paths(
    rows: Iterable[tuple[str, Row]], questions: Sequence[Question], fields: ImportFields, student: str
) -> Imported:
    """Return the rows' texts as graded paths.

    Args:
        rows: (where it stands, such as `paths.jsonl line 3`; the object).
        questions: Those that were answered; rows of other questions are left out and named.
        fields: Where in a row things stand.
        student: Who wrote the texts.
    """
    finder = _QuestionFinder(questions, fields.question)
    counts: Counter[str] = Counter()
    imported = Imported()
    for where, row in rows:
        question, problem = finder.find(row)
        texts = [] if question is None else list(look_up(row, fields.text))
        if question is None or not texts:
            imported.unmatched.append(f"{where}: {problem or f'no field {fields.text}'}")
            continue
        theirs = list(look_up(row, fields.verdict)) if fields.verdict else []
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                imported.unmatched.append(f"{where}: {fields.text} is no text but {text!r:.60}")
                continue
            path = _grade(question, counts[question.id], text, student)
            counts[question.id] += 1
            imported.paths.append(path)
            _compare(imported, path, theirs[place] if place < len(theirs) else None)
    return imported


def _grade(question: Question, sample_index: int, text: str, student: str) -> ReasoningPath:
    grade = grade_path(text, question, stop_reason="unknown")
    return ReasoningPath(
        question_id=question.id,
        sample_index=sample_index,
        seed=None,
        student=student,
        text=text,
        final_answer=grade.final_answer,
        verdict=grade.verdict,
        rule=grade.rule,
        stop_reason="unknown",
        prompt_tokens=None,
        completion_tokens=None,
    )


def _compare(imported: Imported, path: ReasoningPath, theirs: object) -> None:
    if not isinstance(theirs, bool):
        return
    imported.compared += 1
    if theirs != (path.verdict == "correct"):
        imported.differing.append((path, theirs))


def look_up(row: Any, name: str) -> Iterator[Any]:
    """Yield what stands at a dotted name; nothing where there is no such place.

    `code.0` is the first element of the list `code`, `code.*` is each of its elements.
    """
    if isinstance(row, Mapping) and name in row:
        yield row[name]
        return
    first, _, rest = name.partition(".")
    for value in _step(row, first):
        if rest:
            yield from look_up(value, rest)
        else:
            yield value


def _step(row: Any, name: str) -> Iterator[Any]:
    if isinstance(row, Mapping):
        if name in row:
            yield row[name]
    elif isinstance(row, list):
        if name == "*":
            yield from row
        elif name.isdecimal() and int(name) < len(row):
            yield row[int(name)]


class _QuestionFinder:
    """Finds a row's question by id, by text (white space aside) or by position."""

    def __init__(self, questions: Sequence[Question], name: str | None) -> None:
        self._questions = questions
        self._names = (name,) if name else QUESTION_FIELDS
        self._by_id = {question.id: question for question in questions}
        self._by_text: dict[str, Question] = {}
        for question in questions:
            self._by_text.setdefault(_normalize(question.question), question)

    def find(self, row: Row) -> tuple[Question | None, str]:
        """Return the question, or None and why there is none."""
        for name in self._names:
            for value in look_up(row, name):
                question = self._match(value)
                return question, "" if question else f"no question has the {name} {value!r:.80}"
        return None, f"no field {' or '.join(self._names)}"

    def _match(self, value: Any) -> Question | None:
        if isinstance(value, bool):
            return None
        if isinstance(value, int):
            is_position = 0 <= value < len(self._questions)
            return self._by_id.get(str(value)) or (self._questions[value] if is_position else None)
        if not isinstance(value, str):
            return None
        return self._by_id.get(value) or self._by_text.get(_normalize(value))


def _normalize(text: str) -> str:
    return " ".join(text.split())
