"""`lema plan`: what a run will take, before anything is spent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.cli.run import flag_overrides, teacher_options

if TYPE_CHECKING:
    from lema_local.planning import Amount, RunPlan, TeacherPlan


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--run", "run_dir", type=click.Path(path_type=Path), help="The run's folder [runs/NAME].")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe's setting.")
@click.option("--student", metavar="GGUF", help="The student's GGUF file.")
@teacher_options
@click.option(
    "--wrong-share",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of paths taken to end wrong, where none are sampled yet.",
)
@click.option("--json", "is_json", is_flag=True, help="Print as JSON.")
def plan(
    recipe: Path,
    run_dir: Path | None,
    overrides: tuple[str, ...],
    wrong_share: float,
    is_json: bool,
    **flags: Any,
) -> None:
    """Say what RECIPE (a file or a shipped name) will take: calls, tokens, dollars, hours, memory, what is missing.

    Nothing is sampled and no teacher is asked. After the paths are sampled (lema run RECIPE --until sample) the
    numbers of mistakes and calls are exact.

    \b
    Example:
      lema plan recipes/quickstart.yaml --teacher gpt-4o-mini --max-usd 2
    """
    from lema_local.planning import plan_run
    from lema_local.recipe import load_recipe

    loaded = load_recipe(recipe, [*overrides, *flag_overrides(flags)])
    told = plan_run(loaded, run_dir or Path("runs") / loaded.name, wrong_share=wrong_share)
    click.echo(json.dumps(asdict(told)) if is_json else "\n".join(_describe(told)))


def _describe(plan: RunPlan) -> Iterator[str]:
    counts = ", ".join(f"{count:,} {split}" for split, count in plan.questions.items())
    yield f"{plan.recipe} in {plan.run}"
    yield f"questions   {counts}"
    hours = _hours(plan.sample_hours, plan.why_no_sample_hours)
    yield f"sample      {_amount(plan.paths)} paths, at most {plan.sample_tokens:,.0f} tokens; {hours}"
    yield f"mistakes    {_amount(plan.mistakes)} ({plan.mistakes_rest_on})"
    for teacher in plan.teachers:
        yield from _describe_teacher(teacher)
    if plan.usd is not None:
        batch = f"; in batches {_dollars(plan.batch_usd)}" if plan.batch_usd else ""
        cap = ""
        if plan.max_usd is not None:
            cap = f"; the cap of ${plan.max_usd:g} " + (
                "holds all of it" if plan.usd.high <= plan.max_usd else "may end it before"
            )
        yield f"dollars     {_dollars(plan.usd)}{batch}{cap}"
    else:
        yield "dollars     - (not known for every teacher)"
    hours = _hours(plan.train_hours, plan.why_no_train_hours)
    yield f"train       {_amount(plan.examples)} examples, {_amount(plan.steps)} steps in each arm; {hours}"
    yield f"evaluate    {plan.answers:,} answers"
    yield from (f"memory      {line}" for line in plan.memory)
    if plan.disk_gib is not None:
        yield f"disk        about {plan.disk_gib:.2f} GiB of {plan.free_disk_gib:.1f} free"
    yield from (f"MISSING     {line}" for line in plan.missing)


def _describe_teacher(plan: TeacherPlan) -> Iterator[str]:
    known = f" and {plan.from_journal:,} from the journal" if plan.from_journal is not None else ""
    yield f"{plan.stage:11} {plan.teacher}: {_amount(plan.calls)} calls{known}, each about"
    yield f"            {plan.prompt_tokens:,.0f} prompt and {plan.reply_tokens:,.0f} reply tokens ({plan.rests_on})"
    if plan.usd is None:
        yield f"            dollars: - ({plan.why_no_usd})"
    else:
        batch = f"; in batches {_dollars(plan.batch_usd)}, within 24 hours" if plan.batch_usd else ""
        yield f"            {_dollars(plan.usd)}{batch}; {_hours(plan.hours, plan.why_no_hours)}"


def _amount(amount: Amount) -> str:
    if amount.low == amount.high:
        return f"{amount.high:,.0f}"
    if amount.about is not None:
        return f"about {amount.about:,.0f}, at most {amount.high:,.0f}"
    return f"{amount.low:,.0f} to {amount.high:,.0f}"


def _dollars(amount: Amount | None) -> str:
    if amount is None:
        return "-"
    if amount.high == 0:
        return "$0"
    about = "" if amount.about is None else f"about ${amount.about:.2f}, "
    return f"{about}at most ${amount.high:.2f}"


def _hours(hours: float | None, why_not: str | None) -> str:
    return f"hours: - ({why_not})" if hours is None else f"about {hours:.2f} hours"
