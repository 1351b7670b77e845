"""AQuA-RAT: algebra word problems with five choices; `options` such as `A)32400`, `correct` the letter."""

from __future__ import annotations

import re

from lema_local.datasets.base import Dataset, HubSource, Row, RowProblem, make_id, need_text
from lema_local.records import Question

_LABEL = re.compile(r"\s*\(?([A-J])\s*\)\s*", re.IGNORECASE)


def _convert(row: Row, split: str, position: int) -> Question:
    options = row.get("options")
    if not isinstance(options, list) or not options:
        raise RowProblem("no options")
    letter = need_text(row, "correct").upper()
    if letter not in "ABCDEFGHIJ"[: len(options)]:
        raise RowProblem(f"correct is {letter!r}, but there are {len(options)} options")
    rationale = row.get("rationale")
    return Question(
        id=make_id("aqua", split, position),
        dataset="aqua",
        split=split,
        question=need_text(row, "question"),
        gold_answer=letter,
        gold_rationale=rationale.strip() or None if isinstance(rationale, str) else None,
        choices=[_LABEL.sub("", str(option), count=1).strip() for option in options],
    )


AQUA = Dataset(
    name="aqua",
    title="AQuA-RAT (algebra word problems, five choices)",
    answer_kind="choice",
    splits={"train": 97467, "dev": 254, "test": 254},
    held_out=frozenset({"test"}),
    source="https://github.com/google-deepmind/AQuA",
    licence="Apache-2.0",
    prompt="cot-aqua",
    correction_prompt="correct-aqua",
    convert=_convert,
    hub=HubSource("deepmind/aqua_rat", {"train": "train", "dev": "validation", "test": "test"}, ("raw",)),
    files={"train": ("train.json",), "dev": ("dev.json",), "test": ("test.json",)},
)
