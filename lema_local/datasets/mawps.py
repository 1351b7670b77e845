"""MAWPS: four subsets of one- and two-step problems; a line is `input` and `target`."""

from __future__ import annotations

from lema_local.datasets.base import Dataset, Row, make_id, need_text
from lema_local.records import Question

# Sizes: the subsets as the math-evaluation-harness (ZubinGou) has them.
SUBSETS = {"addsub": 395, "multiarith": 600, "singleeq": 508, "singleop": 562}


def _convert(row: Row, split: str, position: int) -> Question:
    return Question(
        id=make_id("mawps", split, position),
        dataset="mawps",
        split=split,
        question=need_text(row, "input"),
        gold_answer=need_text(row, "target"),
    )


MAWPS = Dataset(
    name="mawps",
    title="MAWPS (four subsets; each is a split)",
    answer_kind="number",
    splits=SUBSETS,
    held_out=frozenset(SUBSETS),
    source="https://github.com/sroy9/mawps; subsets as in https://github.com/ZubinGou/math-evaluation-harness",
    licence="MIT",
    convert=_convert,
)
