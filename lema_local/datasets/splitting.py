"""Cut a validation split from the training questions, the same one on every machine and in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lema_local.errors import InputError
from lema_local.records import Question


def split_validation(
    questions: Sequence[Question], size: float | int
) -> tuple[list[Question], list[Question]]:
    """Return (training questions, validation questions), both in the order given.

    Which questions are cut out depends on their ids alone. Those of the validation split say so in `split`.

    Args:
        questions: The questions to cut from.
        size: A share below 1 (`0.05`) or a number of questions (`400`).

    Raises:
        InputError: If the size is negative, or leaves nothing to train on.
    """
    count = round(size * len(questions)) if isinstance(size, float) and size < 1 else int(size)
    if count < 0 or (count > 0 and count >= len(questions)):
        raise InputError(
            f"a validation split of {count} cannot be cut from {len(questions)} questions",
            hint="take a share below 1 or fewer questions",
        )
    order = sorted(questions, key=lambda question: hashlib.sha256(question.id.encode("utf-8")).digest())
    chosen = {question.id for question in order[:count]}
    training = [question for question in questions if question.id not in chosen]
    validation = [
        question.model_copy(update={"split": "validation"}) for question in questions if question.id in chosen
    ]
    return training, validation
