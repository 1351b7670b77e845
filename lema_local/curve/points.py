"""Which trainings a learning curve needs, how long they will take, and the trainings themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema_local.errors import InputError, RunStateError
from lema_local.pipeline import Pipeline
from lema_local.recipe import Recipe, load_recipe
from lema_local.run_progress import Show
from lema_local.runs import Manifest, RunFolder
from lema_local.stage_runner import STAGES

TAKEN = frozenset({"questions", "sample", "correct", "augment", "filter"})
"""Stages of the run that a curve never does anew: they cost the money."""
MAY_DIFFER = ("build", "train", "export", "evaluate")
"""Blocks of the recipe that may be set for a curve."""
FOR_CURVE = ("train.seeds=[]", "train.keep_looks=false", "export.merge=[]", "evaluate.samples=0")
"""What a point of a curve does without: it is evaluated greedily, once."""


@dataclass(frozen=True, slots=True)
class Point:
    """All arms trained on one subset with one seed."""

    size: int
    """Accepted corrections in the subset."""
    seed: int
    folder: RunFolder

    @property
    def is_finished(self) -> bool:
        """Whether its evaluation is there."""
        return self.folder.stage(STAGES["evaluate"]).manifest() is not None


@dataclass(frozen=True, slots=True)
class CurvePlan:
    """What is to be trained."""

    run: RunFolder
    recipe: Recipe
    available: int
    """Accepted corrections in the run."""
    sizes: tuple[int, ...]
    """Ascending."""
    seeds: tuple[int, ...]
    folder: Path

    @property
    def points(self) -> list[Point]:
        """All points: a whole curve with the first seed, then with the next."""
        return [
            Point(size, seed, RunFolder(self.folder / f"size-{size:05d}" / f"seed-{seed}"))
            for seed in self.seeds
            for size in self.sizes
        ]

    def recipe_of(self, point: Point) -> Recipe:
        """Return a point's recipe; the whole set is not limited, so that the run's own trainings can be taken over."""
        limit = None if point.size == self.available else point.size
        build = self.recipe.build.model_copy(update={"max_corrections": limit})
        train = self.recipe.train.model_copy(update={"seed": point.seed})
        return self.recipe.model_copy(update={"build": build, "train": train})


def plan_curve(
    run: RunFolder,
    sizes: str,
    *,
    seeds: str | None = None,
    arms: str | None = None,
    overrides: Sequence[str] = (),
    folder: Path | None = None,
) -> CurvePlan:
    """Return what is to be trained.

    Args:
        run: A run that has come to its filter.
        sizes: Numbers of corrections, `250,500,all`.
        seeds: Of the trainings, `0,1,2`; None: the recipe's.
        arms: `cot,lema`; None: the recipe's.
        overrides: KEY=VALUE of the recipe, for the training and what follows it.
        folder: Where the points go; None: RUN/curve.

    Raises:
        RunStateError: If there is no run, or it has not come to its filter.
        InputError: If a size, a seed, an arm or a setting cannot be.
    """
    available = _count_accepted(run)
    _check_overrides(overrides)
    named = [] if arms is None else [f"train.arms=[{','.join(_split(arms, '--arms'))}]"]
    recipe = load_recipe(run.recipe_path, [*overrides, *named, *FOR_CURVE])
    return CurvePlan(
        run,
        recipe,
        available,
        _read_sizes(sizes, available, run),
        _read_seeds(seeds) if seeds is not None else (recipe.train.seed,),
        folder or run.path / "curve",
    )


def _count_accepted(run: RunFolder) -> int:
    if not run.recipe_path.is_file():
        raise RunStateError(f"{run.path} holds no run", hint="name a folder that lema run made")
    manifest = run.stage(STAGES["filter"]).manifest()
    if manifest is None:
        raise RunStateError(
            f"{run.path} has not come to its filter: there are no accepted corrections yet",
            hint=f"lema run {run.recipe_path} --run {run.path} --until filter",
        )
    return int(manifest.counts["accepted"])


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        block, key, *_ = (*override.partition("=")[0].strip().split("."), "")
        if block not in MAY_DIFFER:
            raise InputError(
                f"--set {override}: a curve rests on the run's own questions and corrections",
                hint=f"only {', '.join(MAY_DIFFER)} may be set",
            )
        if (block, key) in {("build", "max_corrections"), ("train", "seed"), ("train", "arms")}:
            raise InputError(f"--set {override}: a curve sets that itself", hint="--sizes, --seeds, --arms")


def _split(text: str, flag: str) -> list[str]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise InputError(f"{flag} {text!r} names nothing", hint=f"separate them by commas: {flag} A,B")
    return list(dict.fromkeys(found))


def _read_sizes(text: str, available: int, run: RunFolder) -> tuple[int, ...]:
    sizes = set[int]()
    for part in _split(text, "--sizes"):
        if part == "all":
            sizes.add(available)
        elif not re.fullmatch(r"\d{1,9}", part) or int(part) == 0:
            raise InputError(f"--sizes: {part!r} is no number of corrections", hint="--sizes 250,500,all")
        else:
            sizes.add(int(part))
    if available == 0 or max(sizes) > available:
        raise InputError(
            f"--sizes: {max(sizes):,} corrections are asked for, {run.path} has {available:,} accepted ones",
            hint=f"--sizes {','.join([str(one) for one in sorted(sizes) if one < available] + ['all'])}",
        )
    return tuple(sorted(sizes))


def _read_seeds(text: str) -> tuple[int, ...]:
    parts = _split(text, "--seeds")
    wrong = [part for part in parts if not re.fullmatch(r"\d{1,9}", part)]
    if wrong:
        raise InputError(f"--seeds: {wrong[0]!r} is no seed", hint="whole numbers from 0: --seeds 0,1,2")
    return tuple(dict.fromkeys(map(int, parts)))


# --- how long -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SizePlan:
    """All trainings of one size."""

    size: int
    examples: int | None
    """In each arm, before any is left out; None: the run has not built its training files."""
    steps: int | None
    """Of each training."""
    trainings: int
    finished: int
    seconds: float | None
    """What is left to do, by the measured times; None: nothing has been measured."""


def estimate(plan: CurvePlan) -> list[SizePlan]:
    """Return by size what is to be done, and how long that takes by what the run and finished points took."""
    shared = _count_shared(plan)
    step_s, other_s = _measure(plan)
    arms = len(plan.recipe.train.arms)
    told = []
    for size in plan.sizes:
        points = [point for point in plan.points if point.size == size]
        left = arms * sum(not point.is_finished for point in points)
        examples = None if shared is None else shared + size
        steps = _count_steps(plan.recipe, examples)
        is_known = None not in (steps, step_s)
        seconds = left * ((steps or 0) * (step_s or 0) + other_s) if is_known or not left else None
        told.append(SizePlan(size, examples, steps, arms * len(points), arms * len(points) - left, seconds))
    return told


def _count_steps(recipe: Recipe, examples: int | None) -> int | None:
    settings = recipe.train
    if settings.max_steps is not None:
        return settings.max_steps
    return None if examples is None else max(1, math.ceil(settings.epochs * examples / settings.batch_size))


def _count_shared(plan: CurvePlan) -> int | None:
    """Return the plain rationales that every arm holds; None where no training file has been built."""
    for folder in (plan.run, *(point.folder for point in plan.points)):
        manifest = folder.stage(STAGES["build"]).manifest()
        if manifest is not None and (lema := manifest.counts.get("lema")):
            return int(lema["examples"] - lema["correction"] - lema["repeated"])
    return None


def _measure(plan: CurvePlan) -> tuple[float | None, float]:
    """Return seconds an optimizer step (None: nothing trained yet), and seconds of export and evaluation an arm."""
    folders = [plan.run, *(point.folder for point in plan.points)]
    trained = [one for folder in folders for one in _arm_manifests(folder, "train", plan)]
    steps = sum(one.counts["optimizer_steps"] for one in trained)
    others = [
        one.seconds
        for stage in ("export", "evaluate")
        for folder in folders
        for one in _arm_manifests(folder, stage, plan)
    ]
    per_arm = 2 * sum(others) / len(others) if others else 0.0
    return (sum(one.seconds for one in trained) / steps if steps else None), per_arm


def _arm_manifests(folder: RunFolder, stage: str, plan: CurvePlan) -> Iterator[Manifest]:
    for arm in plan.recipe.train.arms:
        manifest = RunFolder(folder.stage(STAGES[stage]).path).stage(str(arm)).manifest()
        if manifest is not None and manifest.reused_from is None:
            yield manifest


# --- the trainings --------------------------------------------------------------------------------------------


def train_points(
    plan: CurvePlan, *, show: Show, tell: Callable[[str], None], on_point: Callable[[Point], Any]
) -> None:
    """Train and evaluate every point that is not finished; what was done before is kept.

    Args:
        plan: What.
        show: Shows progress.
        tell: Says one line to the user.
        on_point: Called after each point.

    Raises:
        RunStateError: If a point was made from other settings, or the run's stages are not what its recipe says.
        LemaError: As the stages raise.
    """
    points = plan.points
    with RunFolder(plan.folder).lock():
        for number, point in enumerate(points, 1):
            tell(f"--- {number} of {len(points)}: {point.size:,} corrections, seed {point.seed}")
            pipeline = Pipeline(plan.recipe_of(point), point.folder, show=show, tell=tell, reuse=plan.run)
            # The base answers once: later points take that over from earlier ones.
            pipeline.runner.reuse = [plan.run, *(one.folder for one in points[: number - 1])]
            pipeline.runner.only_taken = TAKEN
            try:
                pipeline.run(until="evaluate")
            except RunStateError as err:
                raise RunStateError(str(err), hint=_way_on(err, plan, point)) from err
            on_point(point)


def _way_on(err: RunStateError, plan: CurvePlan, point: Point) -> str | None:
    """Return the hint of a refused point in words of a curve: it has no --run to be given."""
    if not str(err).startswith(str(point.folder.path)):
        return err.hint
    return f"set it back, or keep both: --out {plan.folder}-2"
