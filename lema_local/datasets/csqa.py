"""CommonsenseQA: five choices a question; in the release's form and in the hub's."""

from __future__ import annotations

from typing import Any

from lema_local.datasets.base import Dataset, HubSource, Row, RowProblem, make_id, need_text
from lema_local.records import Question


def _convert(row: Row, split: str, position: int) -> Question:
    nested = row.get("question")
    inner: Row = nested if isinstance(nested, dict) else row
    choices = _read_choices(inner.get("choices"))
    key = need_text(row, "answerKey")
    if key not in choices:
        raise RowProblem(f"answerKey {key!r} is none of {', '.join(choices)}")
    own_id = row.get("id")
    return Question(
        id=f"csqa/{split}/{own_id}" if own_id else make_id("csqa", split, position),
        dataset="csqa",
        split=split,
        question=need_text(inner, "stem" if inner is not row else "question"),
        # The text, as the paper's answers have it; a letter is understood too.
        gold_answer=choices[key],
        choices=list(choices.values()),
        tags={"concept": str(inner.get("question_concept", ""))},
    )


def _read_choices(value: Any) -> dict[str, str]:
    """Return {label: text} from the release's list of pairs or the hub's pair of lists."""
    if isinstance(value, dict):
        value = [
            {"label": label, "text": text} for label, text in zip(value["label"], value["text"], strict=True)
        ]
    if not isinstance(value, list) or not value:
        raise RowProblem("no choices")
    return {need_text(choice, "label"): need_text(choice, "text") for choice in value}


CSQA = Dataset(
    name="csqa",
    title="CommonsenseQA (five choices)",
    answer_kind="choice",
    # The test split's labels are not released; the paper evaluates on dev.
    splits={"train": 9741, "dev": 1221},
    held_out=frozenset({"dev"}),
    source="https://www.tau-nlp.sites.tau.ac.il/commonsenseqa",
    licence="MIT",
    prompt="cot-csqa",
    correction_prompt="correct-csqa",
    convert=_convert,
    hub=HubSource("tau/commonsense_qa", {"train": "train", "dev": "validation"}),
    files={"train": ("train_rand_split.jsonl",), "dev": ("dev_rand_split.jsonl",)},
)
