"""Stage 0: make sure that the questions can be worked with, before anything is spent on them.

Reads   questions          those to train on, those held out for choices on the way, those to test on
Writes  nothing            it raises, with all that is wrong at once
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lema_local.answers.grading import find_gold_problem
from lema_local.answers.symbolic import map_answers
from lema_local.datasets import is_held_out
from lema_local.errors import InputError
from lema_local.jsonl import describe_problems
from lema_local.records import Question


def check_gold_answers(questions: Iterable[Question]) -> None:
    """Make sure that every gold answer can be compared with.

    Raises:
        InputError: With all questions whose gold answer does not parse.
    """
    asked = list(questions)
    found = zip(asked, map_answers(find_gold_problem, asked), strict=True)
    problems = [f"question {question.id}: {problem}" for question, problem in found if problem]
    if problems:
        raise InputError(
            describe_problems("the questions", problems), hint="mend or leave out these questions"
        )


def check_disjoint(questions: Mapping[str, Sequence[Question]], *, allows_test: bool) -> list[Question]:
    """Make sure that no test or validation set is trained on; return the questions to train on.

    A validation question whose text stands among those to train on takes its twin out of them; single twins of test
    questions are found, with those that are only alike, when the training files are built.

    Raises:
        InputError: If ids stand in two splits, a tenth of a test or validation set is among the questions to train
            on, or a question to train on is of a test split.
    """
    by_text = {_fold(one): one.id for one in questions["train"]}
    ids = set(by_text.values())
    for split in ("test", "validation"):
        some = questions[split]
        both = [one for one in some if one.id in ids or _fold(one) in by_text]
        if any(one.id in ids for one in both) or len(both) > max(1, len(some)) / 10:
            raise InputError(
                f"{len(both)} of {len(some)} {split} question(s) are among the training questions, the first is"
                f" {both[0].id} (= {by_text.get(_fold(both[0]), both[0].id)})",
                hint="give disjoint sources: what is trained on can test nothing",
            )
    held_out = [one.id for one in questions["train"] if is_held_out(one)]
    if held_out and not allows_test:
        raise InputError(
            f"{len(held_out)} question(s) to train on are of a test or validation split, the first is {held_out[0]}",
            hint="train on another split; build.allow_test makes a trial that may never be reported on",
        )
    validation = {_fold(one) for one in questions["validation"]}
    return [one for one in questions["train"] if _fold(one) not in validation]


def _fold(question: Question) -> str:
    return " ".join(question.question.split()).casefold()
