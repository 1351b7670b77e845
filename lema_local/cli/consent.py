"""Before a run starts: what it will take, in two lines, and a question where it costs money."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lema_local.planning import RunPlan
    from lema_local.recipe import Recipe
    from lema_local.runs import RunFolder

FREE_UNTIL = ("questions", "sample")
"""Stages before the first one that asks a teacher."""


def agree_on_plan(
    recipe: Recipe, folder: RunFolder, *, until: str | None, reuse: Path | None, is_agreed: bool
) -> None:
    """Tell what the run will take, and ask where it costs money; nothing where its teachers have been asked.

    Without a terminal a cap in dollars (`teacher.max_usd`, `--max-usd`) or `--yes` is the answer.

    Raises:
        BackendUnavailable: If a teacher cannot be asked: told now, not after hours of sampling.
        InputError: If it costs money and nobody has agreed to that.
        click.Abort: If the answer is no.
    """
    from lema_local.errors import BackendUnavailable
    from lema_local.stage_runner import OF_FIRST_ROUND

    if until in FREE_UNTIL or (until is not None and until not in OF_FIRST_ROUND):
        return  # the run itself names the stages there are
    if not _asks_teachers(recipe, folder):
        return
    from lema_local.cli.progress import notice
    from lema_local.planning import plan_run

    plan = plan_run(recipe, folder.path, reuse=reuse)
    if lacking := [line for line in plan.missing if line.startswith("teacher")]:
        raise BackendUnavailable(
            "; ".join(lacking), hint="mend that, or do first what needs no teacher, with --until sample"
        )
    for line in describe_in_short(plan):
        notice(line)
    if plan.usd is None or plan.usd.high > 0:
        _ask(plan, is_agreed=is_agreed)


def _asks_teachers(recipe: Recipe, folder: RunFolder) -> bool:
    from lema_local.errors import LemaError
    from lema_local.rounds import has_ended
    from lema_local.stage_runner import STAGES

    if recipe.rounds.count > 1 and not has_ended(folder.path, recipe.rounds.count):
        return True
    stages = ["correct"] if recipe.correct.source is None else []
    stages += ["augment"] if recipe.augment else []
    try:
        return any(folder.stage(STAGES[stage]).manifest() is None for stage in stages)
    except LemaError:
        return False  # damaged: the run itself says so


def describe_in_short(plan: RunPlan) -> Iterator[str]:
    """Yield what a run will take, and what is missing."""
    from lema_local.cli.plan import describe_amount, describe_dollars

    asked = "; ".join(
        f"{one.stage}, {one.teacher}: {describe_amount(one.calls)} calls" for one in plan.teachers
    )
    dollars = "dollars not known" if plan.usd is None else describe_dollars(plan.usd)
    cap = f" (cap ${plan.max_usd:g})" if plan.max_usd is not None and dollars != "$0" else ""
    if plan.rounds > 1:
        asked += f" (of {plan.rounds} rounds at most)"
    if plan.questions["train"]:
        sampled = f"{plan.questions['train']:,} questions, {describe_amount(plan.paths)} paths"
        trained = f"{describe_amount(plan.steps)} training steps an arm, {plan.answers:,} answers"
        yield f"plan: {sampled}; {asked}; {dollars}{cap}; then {trained}"
    yield from (f"plan: MISSING {line}" for line in plan.missing)


def _ask(plan: RunPlan, *, is_agreed: bool) -> None:
    from lema_local.cli.plan import describe_dollars
    from lema_local.errors import InputError

    price = "an amount that is not known" if plan.usd is None else describe_dollars(plan.usd)
    names = ", ".join(dict.fromkeys(one.teacher for one in plan.teachers if one.usd is None or one.usd.high))
    if is_agreed:
        return
    if sys.stdin.isatty():
        click.confirm(f"This run may spend {price} on {names}. Go on?", abort=True, err=True)
    elif plan.max_usd is None:
        raise InputError(
            f"this run may spend {price} on {names}, and there is no terminal to ask on",
            hint="add --yes, or a cap such as --max-usd 5; lema plan tells more",
        )
