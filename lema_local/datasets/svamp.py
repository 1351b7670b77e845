"""SVAMP: varied elementary problems; `Body`, `Question`, `Answer`, `Equation`, `Type`, `ID`."""

from __future__ import annotations

from lema_local.datasets.base import Dataset, HubSource, Row, need_text
from lema_local.records import Question


def _convert(row: Row, split: str, position: int) -> Question:
    body = need_text(row, "Body")
    joined = body if body.endswith((".", "!", "?", ",")) else f"{body}."
    return Question(
        id=f"svamp/{split}/{need_text(row, 'ID')}",
        dataset="svamp",
        split=split,
        question=f"{joined} {need_text(row, 'Question')}",
        gold_answer=need_text(row, "Answer"),
        tags={"type": str(row.get("Type", ""))},
    )


SVAMP = Dataset(
    name="svamp",
    title="SVAMP (varied elementary problems)",
    answer_kind="number",
    # One released file of 1,000; the paper evaluates on all of them (its table 4).
    splits={"test": 1000},
    held_out=frozenset({"test"}),
    source="https://github.com/arkilpatel/SVAMP",
    licence="MIT",
    prompt="cot-svamp",
    correction_prompt="correct-gsm8k",
    convert=_convert,
    hub=HubSource("ChilleD/SVAMP", {"test": "train+test"}),
    files={"test": ("SVAMP.json",)},
)
