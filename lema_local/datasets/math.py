"""MATH (Hendrycks et al.) and its 500-question subset: `problem`, `level`, `type`, `solution`."""

from __future__ import annotations

from lema_local.answers.extraction import find_boxed
from lema_local.datasets.base import Dataset, HubSource, Row, make_id, need_text
from lema_local.records import Question

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


def _convert_as(name: str, row: Row, split: str, position: int) -> Question | None:
    """Return the question; None where the release gives no answer (two of MATH's training solutions)."""
    solution = need_text(row, "solution")
    gold = _find_gold(row, solution)
    if gold is None:
        return None
    level = row.get("level")
    tags = {
        "level": f"Level {level}" if isinstance(level, int) else level,
        "subject": row.get("type") or row.get("subject"),
    }
    own_id = row.get("unique_id")
    return Question(
        id=f"{name}/{own_id}" if isinstance(own_id, str) else make_id(name, split, position),
        dataset=name,
        split=split,
        question=need_text(row, "problem"),
        gold_answer=gold,
        gold_rationale=solution,
        tags={key: str(value) for key, value in tags.items() if value is not None},
    )


def _find_gold(row: Row, solution: str) -> str | None:
    for name in ("final_answer", "answer"):
        if row.get(name):
            return need_text(row, name)
    return find_boxed(solution) or None


def _convert_math(row: Row, split: str, position: int) -> Question | None:
    return _convert_as("math", row, split, position)


def _convert_math500(row: Row, split: str, position: int) -> Question | None:
    return _convert_as("math500", row, split, position)


MATH = Dataset(
    name="math",
    title="MATH (competition problems)",
    answer_kind="expression",
    splits={"train": 7500, "test": 5000},
    held_out=frozenset({"test"}),
    source="https://github.com/hendrycks/math",
    licence="MIT",
    prompt="cot-math",
    correction_prompt="correct-math",
    convert=_convert_math,
    hub=HubSource("EleutherAI/hendrycks_math", {"train": "train", "test": "test"}, SUBJECTS),
    leaves_out="their solutions state no answer",
)
MATH500 = Dataset(
    name="math500",
    title="MATH-500 (a subset of MATH's test questions)",
    answer_kind="expression",
    splits={"test": 500},
    held_out=frozenset({"test"}),
    source="https://github.com/openai/prm800k (math_splits/test.jsonl)",
    licence="MIT",
    prompt="cot-math",
    correction_prompt="correct-math",
    convert=_convert_math500,
    hub=HubSource("HuggingFaceH4/MATH-500", {"test": "test"}),
)
