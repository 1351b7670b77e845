"""What a learning curve says: pass@1 by the number of corrections, and whether more of them would help."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

from lema_local.curve.points import CurvePlan, Point
from lema_local.jsonl import read_records
from lema_local.records import Prediction, Record, Scores, Share
from lema_local.runs import RunFolder
from lema_local.stage_runner import STAGES
from lema_local.statistics import bootstrap_mean, fit_slope, summarize_seeds


class Training(Record):
    """One arm trained on one subset with one seed, on one dataset of test questions."""

    dataset: str
    arm: str
    size: int
    """Corrections asked for."""
    corrections: int
    """Of these, in the training file: questions that share their text with a test question are left out."""
    seed: int
    examples: int
    optimizer_steps: int
    share: Share
    """pass@1, greedy, with the 95 % Wilson interval over the questions."""


class Mean(Record):
    """The trainings of one arm and size over the seeds."""

    dataset: str
    arm: str
    size: int
    seeds: int
    mean: float
    deviation: float
    """Standard deviation between seeds (n - 1); 0 for one seed."""
    low: float | None
    """95 % interval of the mean over trainings, by Student's t; None for one seed."""
    high: float | None


class Step(Record):
    """What one size has over a smaller one, on the same questions."""

    smaller: int
    larger: int
    difference: float
    """Of pass@1, mean over the seeds."""
    low: float
    high: float
    """95 % interval, paired bootstrap over the questions."""


class Trend(Record):
    """Whether more corrections help one arm, as far as was measured."""

    dataset: str
    arm: str
    whole: Step
    """From the smallest size to the largest."""
    last: Step
    """From the largest but one to the largest."""
    per_doubling: float
    """Slope of pass@1 over log2 of the corrections, least squares over all trainings."""
    slope_low: float | None
    slope_high: float | None
    """95 % interval of the slope over the trainings, by Student's t; None for two trainings."""
    sentence: str
    """What may be concluded, and what not, for a person."""


class Curve(Record):
    """`curve.json`."""

    run: str
    available: int
    """Accepted corrections in the run."""
    arms: list[str]
    sizes: list[int]
    seeds: list[int]
    steps_rule: str
    """How many optimizer steps a training had, in words."""
    missing: int
    """Points that are not finished yet."""
    base: dict[str, Share]
    """The student as it was, by dataset."""
    trainings: list[Training]
    means: list[Mean]
    trends: list[Trend]
    """Where there are two sizes with all their seeds."""


def read_curve(plan: CurvePlan) -> Curve:
    """Return what the finished points say."""
    done = [point for point in plan.points if point.is_finished]
    trainings = [one for point in done for one in _read_trainings(plan, point)]
    trainings.sort(key=lambda one: (one.dataset, plan.recipe.train.arms.index(one.arm), one.size, one.seed))
    return Curve(
        run=plan.run.path.name,
        available=plan.available,
        arms=list(map(str, plan.recipe.train.arms)),
        sizes=list(plan.sizes),
        seeds=list(plan.seeds),
        steps_rule=_describe_steps(plan),
        missing=len(plan.points) - len(done),
        base=_read_base(done),
        trainings=trainings,
        means=list(_average(trainings)),
        trends=list(_find_trends(plan, done, trainings)),
    )


def _describe_steps(plan: CurvePlan) -> str:
    train = plan.recipe.train
    if train.max_steps is not None:
        return f"every training has {train.max_steps:,} optimizer steps: a larger set is passed through fewer times"
    return f"every training passes {train.epochs:g} times through its examples: a larger set means more steps"


def _read_base(done: Sequence[Point]) -> dict[str, Share]:
    scores = _read_scores(done[0]).arms if done else []
    return {one.dataset: one.share for one in scores if one.arm == "base"}


def _read_scores(point: Point) -> Scores:
    path = point.folder.stage(STAGES["evaluate"]).path / "scores.json"
    return Scores.model_validate_json(path.read_bytes())


def _read_trainings(plan: CurvePlan, point: Point) -> Iterator[Training]:
    built = point.folder.stage(STAGES["build"]).manifest()
    for score in _read_scores(point).arms:
        if score.arm not in plan.recipe.train.arms:
            continue
        trained = RunFolder(point.folder.stage(STAGES["train"]).path).stage(score.arm).manifest()
        assert built is not None
        assert trained is not None
        yield Training(
            dataset=score.dataset,
            arm=score.arm,
            size=point.size,
            corrections=built.counts["lema"]["correction"],
            seed=point.seed,
            examples=trained.counts["examples"],
            optimizer_steps=trained.counts["optimizer_steps"],
            share=score.share,
        )


def _average(trainings: Sequence[Training]) -> Iterator[Mean]:
    for (dataset, arm, size), group in groupby(trainings, key=lambda one: (one.dataset, one.arm, one.size)):
        found = summarize_seeds([one.share.pass_at_1 for one in group])
        low, high = found.interval
        is_one = found.n == 1
        yield Mean(
            dataset=dataset,
            arm=arm,
            size=size,
            seeds=found.n,
            mean=found.mean,
            deviation=found.deviation,
            low=None if is_one else low,
            high=None if is_one else high,
        )


# --- would more help? -----------------------------------------------------------------------------------------


def _find_trends(plan: CurvePlan, done: Sequence[Point], trainings: Sequence[Training]) -> Iterator[Trend]:
    whole = [size for size in plan.sizes if sum(one.size == size for one in done) == len(plan.seeds)]
    if len(whole) < 2:
        return
    datasets = list(dict.fromkeys(one.dataset for one in trainings))
    for dataset in datasets:
        for arm in map(str, plan.recipe.train.arms):
            right = {
                size: _read_right([one for one in done if one.size == size], arm, dataset) for size in whole
            }
            own = [one for one in trainings if one.size in whole and (one.arm, one.dataset) == (arm, dataset)]
            yield _find_trend(dataset, arm, right, own)


def _read_right(points: Sequence[Point], arm: str, dataset: str) -> dict[str, float]:
    """Return by question the share of the seeds whose training answered it rightly."""
    right: dict[str, list[bool]] = {}
    for point in points:
        path: Path = point.folder.stage(STAGES["evaluate"]).path / arm / f"{dataset}.jsonl"
        for one in read_records(path, Prediction):
            right.setdefault(one.question_id, []).append(one.is_correct is True)
    return {question: fmean(values) for question, values in right.items()}


def _find_trend(
    dataset: str, arm: str, right: dict[int, dict[str, float]], trainings: Sequence[Training]
) -> Trend:
    sizes = sorted(right)
    whole, last = _step(right, sizes[0], sizes[-1]), _step(right, sizes[-2], sizes[-1])
    slope, interval = fit_slope(
        [math.log2(one.size) for one in trainings], [one.share.pass_at_1 for one in trainings]
    )
    trend = Trend(
        dataset=dataset,
        arm=arm,
        whole=whole,
        last=last,
        per_doubling=slope,
        slope_low=interval.low if interval else None,
        slope_high=interval.high if interval else None,
        sentence="",
    )
    return trend.model_copy(update={"sentence": describe_trend(trend, len(right[sizes[0]]), trainings)})


def _step(right: dict[int, dict[str, float]], smaller: int, larger: int) -> Step:
    both = [question for question in right[smaller] if question in right[larger]]
    gains = [right[larger][question] - right[smaller][question] for question in both]
    difference, (low, high) = bootstrap_mean(gains)
    return Step(smaller=smaller, larger=larger, difference=difference, low=low, high=high)


def describe_trend(trend: Trend, questions: int, trainings: Sequence[Training]) -> str:
    """Return what one arm's trend says, and what it does not."""
    seeds = len({one.seed for one in trainings})
    told = (
        f"{trend.arm} on {trend.dataset}: from {trend.whole.smaller:,} to {trend.whole.larger:,} corrections"
        f" {_points(trend.whole)} (paired bootstrap over {questions:,} questions, mean over {seeds} training"
        f" seed{'s' if seeds > 1 else ''})."
    )
    slope = f"{100 * trend.per_doubling:+.1f} points per doubling"
    if trend.slope_low is not None and trend.slope_high is not None:
        low, high = 100 * trend.slope_low, 100 * trend.slope_high
        slope += f", 95 % interval {low:+.1f} to {high:+.1f} over the {len(trainings)} trainings"
    return f"{told} The line through the trainings: {slope}. {_conclude(trend, seeds)}"


def _points(step: Step) -> str:
    return (
        f"{100 * step.difference:+.1f} points, 95 % interval {100 * step.low:+.1f} to {100 * step.high:+.1f}"
    )


def _conclude(trend: Trend, seeds: int) -> str:
    """Both chances have to be out of the way: of these questions (bootstrap) and of these trainings (slope)."""
    slope_low = 0.0 if trend.slope_low is None else trend.slope_low
    slope_high = 0.0 if trend.slope_high is None else trend.slope_high
    is_one = trend.slope_low is None
    if trend.whole.low > 0 and (is_one or slope_low > 0):
        said = "So far more corrections have helped"
        if trend.last != trend.whole:
            flat = "" if trend.last.low > 0 else ": by itself not to be told from nothing"
            said += f"; the last step, from {trend.last.smaller:,}, brought {_points(trend.last)}{flat}"
        said += ". Whether still more would help lies beyond what was measured."
    elif trend.whole.high < 0 and (is_one or slope_high < 0):
        said = "More corrections have made it worse here."
    else:
        said = "Whether more corrections help cannot be told from these trainings, which is no proof that they do not."
    if seeds < 3:
        said += f" With {seeds} seed{'s' if seeds > 1 else ''} the spread between trainings is hardly known."
    return said
