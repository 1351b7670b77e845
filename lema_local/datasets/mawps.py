"""MAWPS: four subsets of one- and two-step problems, or the hub's three splits; `input` and `target` a line."""

from __future__ import annotations

from lema_local.datasets.base import Dataset, HubSource, Row, make_id, need_text
from lema_local.records import Question

# Sizes: the subsets as the math-evaluation-harness (ZubinGou) has them; the hub's splits as in its dataset card.
SUBSETS = {"addsub": 395, "multiarith": 600, "singleeq": 508, "singleop": 562}
HUB_SPLITS = {"train": 1089, "validation": 1040, "test": 520}


def _convert(row: Row, split: str, position: int) -> Question:
    names = ("question", "result") if "result" in row else ("input", "target")
    return Question(
        id=make_id("mawps", split, position),
        dataset="mawps",
        split=split,
        question=need_text(row, names[0]),
        gold_answer=need_text(row, names[1]).replace("_", ""),  # the hub writes 1_500
    )


MAWPS = Dataset(
    name="mawps",
    title="MAWPS (four subsets, each a split; other splits on the hub)",
    answer_kind="number",
    splits={**SUBSETS, **HUB_SPLITS},
    held_out=frozenset({*SUBSETS, "validation", "test"}),
    source="https://github.com/sroy9/mawps; subsets as in https://github.com/ZubinGou/math-evaluation-harness",
    licence="MIT",
    prompt="cot-mawps",
    correction_prompt="correct-gsm8k",
    convert=_convert,
    hub=HubSource("MU-NLPC/Calc-mawps", {split: split for split in HUB_SPLITS}),
)
