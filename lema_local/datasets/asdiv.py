"""ASDiv: diverse elementary problems; `body`, `question`, `solution_type`, `answer` such as `9 (apples)`, `formula`.

The released form is one XML file; the readers bring its elements under these names.
"""

from __future__ import annotations

from lema_local.datasets.base import Dataset, HubSource, Row, make_id, need_text
from lema_local.records import Question


def read_gold(answer: str) -> str | None:
    """Return the number of an answer such as `9 (apples)`; None where it is none, as the paper leaves those out.

    Source: 2,305 questions become 2,084 by dropping what Python's `float()` cannot read (arXiv 2310.20689, C.2).
    """
    value = answer.split("(", 1)[0].strip()
    try:
        number = float(value)
    except ValueError:
        return None
    return str(int(number)) if number.is_integer() else value


def _convert(row: Row, split: str, position: int) -> Question | None:
    gold = read_gold(need_text(row, "answer"))
    if gold is None:
        return None
    own_id = row.get("id")
    return Question(
        id=f"asdiv/{split}/{own_id}" if own_id else make_id("asdiv", split, position),
        dataset="asdiv",
        split=split,
        question=f"{need_text(row, 'body')} {need_text(row, 'question')}",
        gold_answer=gold,
        tags={"type": str(row.get("solution_type", ""))},
    )


ASDIV = Dataset(
    name="asdiv",
    title="ASDiv (diverse elementary problems, those with a number for an answer)",
    answer_kind="number",
    splits={"test": 2084},
    held_out=frozenset({"test"}),
    source="https://github.com/chaochun/nlu-asdiv-dataset",
    licence="CC BY-NC 4.0",
    prompt="cot-asdiv",
    correction_prompt="correct-gsm8k",
    convert=_convert,
    hub=HubSource("EleutherAI/asdiv", {"test": "validation"}),
    leaves_out="their answers are no numbers (so does the paper)",
    files={"test": ("ASDiv.xml", "asdiv.xml", "asdiv.jsonl")},
)
