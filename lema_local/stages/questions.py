"""Stage 0: make sure that the questions can be worked with, before anything is spent on them.

Reads   questions          those to train on, those held out for choices on the way, those to test on
Writes  nothing            it raises, with all that is wrong at once
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lema_local.answers import check_gold
from lema_local.datasets import is_held_out
from lema_local.errors import InputError
from lema_local.jsonl import describe_problems
from lema_local.records import Question


def check_gold_answers(questions: Iterable[Question]) -> None:
    """Make sure that every gold answer can be compared with.

    Raises:
        InputError: With all questions whose gold answer does not parse.
    """
    problems = []
    for question in questions:
        try:
            check_gold(question)
        except InputError as err:
            problems.append(str(err))
    if problems:
        raise InputError(
            describe_problems("the questions", problems), hint="mend or leave out these questions"
        )


def check_disjoint(questions: Mapping[str, Sequence[Question]], *, allows_test: bool) -> None:
    """Make sure that no test or validation question is trained on.

    Raises:
        InputError: If a text stands in two splits, or a question of a test split is among those to train on.
    """
    trained = {" ".join(one.question.split()).casefold(): one.id for one in questions["train"]}
    for split in ("test", "validation"):
        both = [one for one in questions[split] if " ".join(one.question.split()).casefold() in trained]
        if both:
            other = trained[" ".join(both[0].question.split()).casefold()]
            raise InputError(
                f"{len(both)} {split} question(s) are among the training questions, the first is {both[0].id}"
                f" (= {other})",
                hint="give disjoint sources",
            )
    held_out = [one.id for one in questions["train"] if is_held_out(one)]
    if held_out and not allows_test:
        raise InputError(
            f"{len(held_out)} question(s) to train on are of a test split, the first is {held_out[0]}",
            hint="train on another split; build.allow_test makes a trial that may never be reported on",
        )
