"""The table of datasets: one row each, the reader in its own module."""

from __future__ import annotations

from lema_local.datasets.aqua import AQUA
from lema_local.datasets.asdiv import ASDIV
from lema_local.datasets.base import Dataset
from lema_local.datasets.csqa import CSQA
from lema_local.datasets.gsm8k import GSM8K
from lema_local.datasets.math import MATH, MATH500
from lema_local.datasets.mawps import MAWPS
from lema_local.datasets.svamp import SVAMP
from lema_local.records import Question

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (GSM8K, MATH, MATH500, SVAMP, ASDIV, CSQA, AQUA, MAWPS)
}


def is_held_out(question: Question) -> bool:
    """Whether a question is for evaluation only and must never be trained on."""
    dataset = DATASETS.get(question.dataset)
    return question.split in ("test", "validation") or (
        dataset is not None and question.split in dataset.held_out
    )
