"""How many questions, paths, mistakes, examples and steps a run will have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lema_local.errors import LemaError
from lema_local.jsonl import read_records
from lema_local.planning.amounts import Amount
from lema_local.recipe import QuestionSource, Recipe
from lema_local.records import Correction, Question, ReasoningPath
from lema_local.runs import RunFolder
from lema_local.stage_runner import STAGES
from lema_local.stages.correct import Mistake, select_mistakes
from lema_local.wiring import load_source


def load_questions(recipe: Recipe, missing: list[str]) -> dict[str, list[Question]]:
    """Return the run's questions by split; what cannot be read is missing."""
    blocks = recipe.questions
    loaded = {
        "train": _load(blocks.train, missing),
        "validation": _load(blocks.validation, missing) if blocks.validation else [],
        "test": [question for source in blocks.test for question in _load(source, missing)],
    }
    if blocks.validation is None and blocks.validation_count and loaded["train"]:
        from lema_local.datasets import split_validation

        try:
            loaded["train"], loaded["validation"] = split_validation(loaded["train"], blocks.validation_count)
        except LemaError as err:
            missing.append(f"questions: {err}")
    return loaded


def _load(source: QuestionSource, missing: list[str]) -> list[Question]:
    try:
        return load_source(source)
    except LemaError as err:
        missing.append(f"questions: {err}")
        return []


@dataclass(frozen=True, slots=True)
class Found:
    """The mistakes that will be corrected, as far as they are known."""

    count: Amount
    mistakes: list[Mistake] | None
    """None where nothing has been sampled yet."""
    rests_on: str


def is_done(run: Path, stage: str) -> bool:
    """Return whether a stage of a run is finished."""
    return RunFolder(run).stage(STAGES[stage]).manifest() is not None


def find_mistakes(
    recipe: Recipe, sampled: Path | None, train: Sequence[Question], wrong_share: float
) -> Found:
    """Return the mistakes of a run that has sampled; else how many are to be expected.

    Args:
        recipe: What is to be done.
        sampled: A run whose paths are there.
        train: The training questions.
        wrong_share: Share of the paths taken to end wrong.
    """
    if (source := recipe.correct.source) is not None:
        return _count_taken(Path(source), train)
    if sampled is not None:
        paths = read_records(RunFolder(sampled).stage(STAGES["sample"]).path / "paths.jsonl", ReasoningPath)
        mistakes = list(select_mistakes(paths, train, recipe.correct))
        return Found(
            Amount(len(mistakes), len(mistakes), len(mistakes)), mistakes, f"the paths sampled in {sampled}"
        )
    settings = recipe.sample
    samples = settings.samples_per_question * (1 + len(recipe.other_students))
    most = (settings.max_samples_per_question or settings.samples_per_question) * (
        1 + len(recipe.other_students)
    )
    cap = min(filter(None, [recipe.correct.max_per_question, settings.max_mistakes_per_question, most]))
    about = len(train) * _expect_capped(samples, wrong_share, cap)
    limit = min(
        filter(None, [recipe.correct.limit, settings.stop_after_mistakes, len(train) * cap]), default=0
    )
    count = Amount(0, min(about, limit), min(limit, len(train) * cap))
    assumed = (
        f"nothing is sampled yet: {wrong_share:.0%} of the paths taken to end wrong, all in different words"
    )
    return Found(count, None, assumed)


def _count_taken(source: Path, train: Sequence[Question]) -> Found:
    """Count corrections that were made elsewhere."""
    ids = {question.id for question in train}
    count = sum(one.question_id in ids for one in read_records(source, Correction))
    return Found(Amount(count, count, count), [], f"the corrections in {source}: no teacher is asked")


def _expect_capped(samples: int, share: float, cap: int) -> float:
    """Return the mean of min(wrong paths, cap) where each of `samples` paths is wrong with probability `share`."""
    chances = [
        math.comb(samples, wrong) * share**wrong * (1 - share) ** (samples - wrong)
        for wrong in range(samples + 1)
    ]
    return sum(chance * min(wrong, cap) for wrong, chance in enumerate(chances))


def count_paths(recipe: Recipe, questions: int) -> Amount:
    """Return how many paths are sampled."""
    if recipe.correct.source is not None:
        return Amount(0, 0, 0)
    settings = recipe.sample
    students = 1 + len(recipe.other_students)
    first = questions * settings.samples_per_question * students
    most = questions * (settings.max_samples_per_question or settings.samples_per_question) * students
    low = 0 if settings.stop_after_mistakes else first
    return Amount(low, first if low == most else None, most)


def count_examples(recipe: Recipe, train: Sequence[Question], mistakes: Amount) -> Amount:
    """Return how many examples an arm has: gold and further rationales, a correction for each mistake that is kept."""
    gold = sum(question.gold_rationale is not None for question in train)
    asked = train[: recipe.augment.limit] if recipe.augment else []
    more = len(asked) * recipe.augment.rationales_per_question if recipe.augment else 0
    return Amount(gold, None, gold + more + mistakes.high)


def count_steps(recipe: Recipe, examples: Amount) -> Amount:
    """Return how many steps the optimizer takes in an arm."""
    settings = recipe.train
    if settings.max_steps is not None:
        return Amount(settings.max_steps, settings.max_steps, settings.max_steps)
    low, high = (
        max(1, math.ceil(settings.epochs * count / settings.batch_size))
        for count in (examples.low, examples.high)
    )
    return Amount(low, None, high)
