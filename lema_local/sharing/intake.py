"""Rows become questions and corrections; what they claim of themselves is judged anew.

Reads   rows               of this project's columns, or of others' with a mapping; on request one's own questions
Writes  questions.jsonl    for `lema run` (questions.train), `lema filter`, `lema build`
        corrections.jsonl  for `lema run` (correct.source), `lema filter`
        import.json        where they are from
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lema_local.corrections import ParsedCorrection, UnparseableReply, parse_reply, read_location
from lema_local.datasets.base import RowProblem, make_id, read_scalar
from lema_local.datasets.own import look_up, read_choices
from lema_local.errors import InputError
from lema_local.jsonl import describe_problems, describe_validation, write_records
from lema_local.records import Correction, Question
from lema_local.runs import write_text
from lema_local.sharing.rows import Found
from lema_local.sharing.schema import COLUMNS, SOURCE_TEXT, Row, row_to_correction, row_to_question
from lema_local.stages.filter import judge_again
from lema_local.stages.questions import check_gold_answers
from lema_local.steps import split_steps

NEEDED = (
    "question", "gold_answer", "original_steps", "incorrect_step", "explanation", "corrected_solution",
)  # fmt: skip
"""What another group's rows have to have, under whatever name."""
FIELDS = (
    *NEEDED, "gold_rationale", "choices", "question_id", "dataset", "split", "student", "teacher",
)  # fmt: skip
"""What `--map` may name."""


@dataclass(slots=True)
class Taken:
    """What came of the rows."""

    questions: dict[str, Question] = field(default_factory=dict)
    corrections: list[Correction] = field(default_factory=list)
    claims: Counter[str] = field(default_factory=Counter)
    """Corrections by the verdict that their rows claim."""
    not_as_claimed: int = 0
    """Claimed to be accepted, and rejected here."""
    other_gold: int = 0
    """Questions whose gold answer in the rows is not that of the user's own copy, which holds."""
    not_in_copy: int = 0
    """Questions that the user's own copy does not have."""

    @property
    def verdicts(self) -> Counter[str]:
        """Corrections by the verdict that they have now."""
        return Counter(one.verdict for one in self.corrections)

    def counts(self) -> dict[str, Any]:
        """Return how many there are of what, as JSON can hold it."""
        return {
            "questions": len(self.questions),
            "claimed": dict(self.claims),
            "verdicts": dict(self.verdicts),
            "not_as_claimed": self.not_as_claimed,
            "other_gold": self.other_gold,
            "not_in_copy": self.not_in_copy,
        }


def take_in(
    found: Found,
    *,
    mapping: Mapping[str, str] | None = None,
    is_zero_based: bool = False,
    own: Sequence[Question] = (),
) -> Taken:
    """Return the records in the rows, every correction judged by its own words against the gold answer.

    Args:
        found: The rows.
        mapping: Our field's name to theirs, for another group's rows; None: they have this project's columns.
        is_zero_based: Another group's rows count steps from 0.
        own: The user's own copy of the questions: its texts and gold answers hold.

    Raises:
        InputError: If columns are missing or unknown, or rows are wrong: up to 20 are named.
    """
    problems: list[str] = []
    copy = _Copy(own)
    if mapping is None:
        _check_columns(found)
        taken = _take_ours(found, copy, problems)
    else:
        taken = _take_theirs(found, mapping, is_zero_based, copy, problems)
    _find_repeated(taken.corrections, problems)
    if problems:
        raise InputError(
            describe_problems(found.source, problems), hint="mend or leave out these rows, then import again"
        )
    check_gold_answers(taken.questions.values())
    _judge(taken)
    return taken


def write_taken(taken: Taken, found: Found, folder: Path) -> None:
    """Write the records, and where they are from.

    Raises:
        InputError: If the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not empty", hint="name a new folder with --out")
    write_records(folder / "questions.jsonl", taken.questions.values())
    write_records(folder / "corrections.jsonl", taken.corrections)
    facts = {"source": found.source, "files": found.files, **taken.counts()}
    write_text(folder / "import.json", json.dumps(facts, indent=2) + "\n")


# --- the user's own copy of the questions --------------------------------------------------------------------


class _Copy:
    """Finds a question in the user's own copy, by its id, else by its text."""

    def __init__(self, own: Iterable[Question]) -> None:
        self.by_id = {one.id: one for one in own}
        self._by_text = {_fold(one.question): one for one in self.by_id.values()}

    def find(self, question_id: str, text: object) -> Question | None:
        """Return the user's question; None where there is none."""
        by_text = self._by_text.get(_fold(text)) if isinstance(text, str) else None
        return self.by_id.get(question_id) or by_text


def _fold(text: object) -> str:
    return " ".join(str(text).split()).casefold()


def _settle(taken: Taken, question: Question, copy: _Copy) -> Question:
    """Return the question that holds: the user's own where there is one; and keep it."""
    mine = copy.find(question.id, question.question)
    if mine is not None and mine.id not in taken.questions:
        taken.other_gold += mine.gold_answer.strip() != question.gold_answer.strip()
    if mine is None and copy.by_id and question.id not in taken.questions:
        taken.not_in_copy += 1
    holds = mine or question
    taken.questions.setdefault(holds.id, holds)
    return holds


# --- this project's columns ----------------------------------------------------------------------------------


def _check_columns(found: Found) -> None:
    """Make sure that the rows have this project's columns, and no others."""
    there = dict.fromkeys(name for _, row in found.corrections for name in row)
    known = [column.name for column in COLUMNS]
    missing = [name for name in known if name not in there]
    unknown = [name for name in there if name not in known]
    if not found.corrections:
        raise InputError(f"{found.source} has no corrections", hint="check that it is the right folder")
    if missing or unknown:
        told = [f"missing: {', '.join(missing)}"] if missing else []
        told += [f"unknown: {', '.join(map(str, unknown))}"] if unknown else []
        raise InputError(
            f"{found.source} is of another schema; columns {'; '.join(told)}",
            hint=f"say which of its columns is what: --map {','.join(f'{name}=COLUMN' for name in NEEDED)}",
        )


def _take_ours(found: Found, copy: _Copy, problems: list[str]) -> Taken:
    taken = Taken()
    for place, row in found.questions:
        if (question := _read(place, row, problems, row_to_question)) is not None:
            _settle(taken, question, copy)
    by_id = dict(taken.questions)
    for place, row in found.corrections:
        correction = _read(place, row, problems, row_to_correction)
        if correction is None:
            continue
        if row["question"] is None:
            held = copy.find(correction.question_id, None)
            if held is None:
                problems.append(f"{place}: {correction.question_id} comes without its text{_ask_for(copy)}")
                continue
        else:
            question = _read(place, row, problems, row_to_question)
            if question is None:
                continue
            before = by_id.get(question.id)
            if not copy.by_id and before is not None and before != question:
                problems.append(f"{place}: the question {question.id} is another one elsewhere in the folder")
                continue
            by_id[question.id] = question
            held = _settle(taken, question, copy)
        taken.questions.setdefault(held.id, held)
        taken.claims[correction.verdict] += 1
        taken.corrections.append(correction.model_copy(update={"question_id": held.id}))
    _add_copy(taken, copy)
    return taken


def _ask_for(copy: _Copy) -> str:
    if copy.by_id:
        return " and is not among your questions"
    return f" ({', '.join(SOURCE_TEXT)} are left out): give your own copy with --questions gsm8k:train.jsonl"


def _add_copy(taken: Taken, copy: _Copy) -> None:
    """Keep the user's other questions too: their rationales are trained on as well."""
    for one in copy.by_id.values():
        taken.questions.setdefault(one.id, one)


def _read(place: str, row: Row, problems: list[str], convert: Any) -> Any:
    try:
        return convert(row)
    except ValidationError as err:
        problems.append(f"{place}: {describe_validation(err)}")
    except (ValueError, AttributeError) as err:
        problems.append(f"{place}: {err}")
    return None


# --- another group's columns ---------------------------------------------------------------------------------


def _take_theirs(
    found: Found, mapping: Mapping[str, str], is_zero_based: bool, copy: _Copy, problems: list[str]
) -> Taken:
    reader = _TheirRows(found, mapping, is_zero_based)
    taken = Taken()
    for place, row in found.corrections:
        try:
            question = reader.read_question(row)
            held = _settle(taken, question, copy)
            taken.corrections.append(reader.read_correction(row, held))
        except RowProblem as err:
            problems.append(f"{place}: {err}")
    taken.claims["accepted"] = len(taken.corrections)
    _add_copy(taken, copy)
    return taken


class _TheirRows:
    """Reads rows whose columns have other names."""

    def __init__(self, found: Found, mapping: Mapping[str, str], is_zero_based: bool) -> None:
        if unknown := [name for name in mapping if name not in FIELDS]:
            raise InputError(
                f"unknown field '{unknown[0]}' in the mapping", hint=f"known: {', '.join(FIELDS)}"
            )
        self._mapping = {name: mapping.get(name, name) for name in FIELDS}
        there = dict.fromkeys(name for _, row in found.corrections for name in row)
        rows = [row for _, row in found.corrections]
        missing = [
            f"{name} ('{self._mapping[name]}')" if self._mapping[name] != name else name
            for name in (*NEEDED, *mapping)
            if not any(look_up(row, self._mapping[name]) is not None for row in rows[:1000])
        ]
        if missing:
            raise InputError(
                f"{found.source} has no column for {', '.join(dict.fromkeys(missing))};"
                f" it has: {', '.join(map(str, there))}",
                hint="name it: --map question=COLUMN,gold_answer=COLUMN,...",
            )
        self._dataset = re.sub(r"[^\w.-]+", "-", found.name).strip("-") or "imported"
        self._is_zero_based = is_zero_based
        self._ids: dict[str, str] = {}
        self._samples = Counter[tuple[str, str]]()

    def read_question(self, row: Row) -> Question:
        """Return the row's question.

        Raises:
            RowProblem: If it has no text or no gold answer.
        """
        text, dataset = self._text(row, "question"), self._text(row, "dataset") or self._dataset
        gold = self._text(row, "gold_answer")
        if not text or not gold:
            raise RowProblem(f"no {'question' if not text else 'gold_answer'}")
        split = self._text(row, "split") or "train"
        own_id = self._text(row, "question_id")
        known = self._ids.setdefault(_fold(text), own_id or make_id(dataset, split, len(self._ids)))
        return Question(
            id=own_id or known,
            dataset=dataset,
            split=split,
            question=text,
            gold_answer=gold,
            gold_rationale=self._text(row, "gold_rationale") or None,
            choices=read_choices(look_up(row, self._mapping["choices"])),
        )

    def read_correction(self, row: Row, question: Question) -> Correction:
        """Return the row's correction, read as a teacher's reply is; what cannot be read is rejected with a reason."""
        student = self._text(row, "student") or "not named"
        steps = self._steps(row, "original_steps")
        if not steps:
            raise RowProblem("no original_steps")
        key = (question.id, student)
        self._samples[key] += 1
        parsed: ParsedCorrection | None = None
        reason = None
        try:
            parsed = self._parse(row, steps)
        except UnparseableReply as err:
            reason = err.reason
        return Correction(
            question_id=question.id,
            sample_index=self._samples[key] - 1,
            student=student,
            teacher=self._text(row, "teacher") or "not named",
            teacher_reported=None,
            original_steps=steps,
            incorrect_step=parsed.incorrect_step if parsed else None,
            explanation=parsed.explanation if parsed else None,
            corrected_solution=parsed.corrected_solution if parsed else None,
            final_answer=None,
            verdict="rejected" if parsed is None else "accepted",
            reason=reason,
            reply_key=None,
            cost_usd=0.0,
        )

    def _parse(self, row: Row, steps: Sequence[str]) -> ParsedCorrection:
        position = self._position(row)
        explanation = " ".join(self._text(row, "explanation").split())
        solution = self._raw(row, "corrected_solution")
        text = "\n".join(map(str, solution)) if isinstance(solution, list) else str(solution or "")
        reply = f"Incorrect Step: Step {position}\nExplanation: {explanation}\nCorrect Solution:\n{text}"
        return parse_reply(reply, steps)

    def _position(self, row: Row) -> int:
        value = self._raw(row, "incorrect_step")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            position = value + self._is_zero_based
        else:
            text = str(value or "").strip()
            position = (
                int(text) + self._is_zero_based if re.fullmatch(r"\d{1,6}", text) else read_location(text)
            )
        if position < 1:
            raise UnparseableReply(f"the row names step {value} as the incorrect one")
        return position

    def _steps(self, row: Row, name: str) -> list[str]:
        value = self._raw(row, name)
        if isinstance(value, list):
            return [step for one in value for step in [" ".join(split_steps(str(one)))] if step]
        return split_steps(str(value)) if value is not None else []

    def _raw(self, row: Row, name: str) -> Any:
        return look_up(row, self._mapping[name])

    def _text(self, row: Row, name: str) -> str:
        value = self._raw(row, name)
        return "" if value is None else read_scalar(value, self._mapping[name])


# --- judging -------------------------------------------------------------------------------------------------


def _find_repeated(corrections: Sequence[Correction], problems: list[str]) -> None:
    seen = Counter(
        (one.question_id, one.student, one.sample_index, one.teacher, one.attempt) for one in corrections
    )
    problems += [
        f"the correction of {key[0]}, sample {key[2]} of {key[1]}, stands there {count} times"
        for key, count in seen.items()
        if count > 1
    ]


def _judge(taken: Taken) -> None:
    """Judge what claims to be accepted; what claims to be rejected stays so, with its reason."""
    judged = []
    for one in taken.corrections:
        is_claimed = one.verdict == "accepted"
        judged.append(judge_again(one, taken.questions[one.question_id]) if is_claimed else one)
    taken.corrections = judged
    taken.not_as_claimed = taken.claims["accepted"] - taken.verdicts["accepted"]
