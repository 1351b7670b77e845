"""GSM8K: grade-school word problems; a line is `question` and `answer` (rationale, then `#### gold`)."""

from __future__ import annotations

from lema_local.datasets.base import Dataset, HubSource, Row, RowProblem, make_id, need_text
from lema_local.records import Question


def split_solution(answer: str) -> tuple[str, str]:
    """Return (rationale with its calculator marks, gold answer without thousands separators).

    Raises:
        RowProblem: If there is no `####` line with an answer behind it.
    """
    rationale, mark, gold = answer.rpartition("####")
    gold = gold.strip().replace(",", "")
    if not mark or not gold:
        raise RowProblem("no final answer behind '####'")
    return rationale.strip(), gold


def _convert(row: Row, split: str, position: int) -> Question:
    rationale, gold = split_solution(need_text(row, "answer"))
    return Question(
        id=make_id("gsm8k", split, position),
        dataset="gsm8k",
        split=split,
        question=need_text(row, "question"),
        gold_answer=gold,
        gold_rationale=rationale or None,
        tags={"steps": str(len(rationale.splitlines()))},
    )


GSM8K = Dataset(
    name="gsm8k",
    title="GSM8K (grade-school maths)",
    answer_kind="number",
    splits={"train": 7473, "test": 1319},
    held_out=frozenset({"test"}),
    source="https://github.com/openai/grade-school-math",
    licence="MIT",
    prompt="cot-gsm8k",
    correction_prompt="correct-gsm8k",
    convert=_convert,
    hub=HubSource("openai/gsm8k", {"train": "train", "test": "test"}, ("main",)),
)
