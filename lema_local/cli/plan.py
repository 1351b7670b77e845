"""`lema plan`: what a run will take, before anything is spent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.cli.completion import complete_recipes
from lema_local.cli.run import flag_overrides, teacher_options

if TYPE_CHECKING:
    from lema_local.planning import Amount, RunPlan, TeacherPlan


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path), shell_complete=complete_recipes)
@click.option("--run", "run_dir", type=click.Path(path_type=Path), help="The run's folder [runs/NAME].")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe's setting.")
@click.option("--student", metavar="GGUF", help="The student's GGUF file.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds at most.")
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


WHAT_WIDTH = 62


def _describe(plan: RunPlan) -> Iterator[str]:
    """Yield the table: what each stage does, its time, its dollars; then what it needs and what it rests on."""
    notes: list[str] = []
    yield f"{plan.recipe} in {plan.run}\n"
    if plan.questions["train"]:
        yield from _describe_stages(plan, notes)
    yield from (f"memory      {line}" for line in plan.memory)
    if plan.disk_gib is not None:
        yield f"disk        about {plan.disk_gib:.2f} GiB of {plan.free_disk_gib:.1f} free"
    yield from (f"MISSING     {line}" for line in plan.missing)
    yield from (f"note        {line}" for line in dict.fromkeys(notes))


def _describe_stages(plan: RunPlan, notes: list[str]) -> Iterator[str]:
    notes.append(f"mistakes: {plan.mistakes_rest_on}")
    yield _row("stage", "what", "time", "dollars")
    counts = ", ".join(f"{count:,} {split}" for split, count in plan.questions.items())
    yield _row("questions", counts)
    sampled = f"{describe_amount(plan.paths)} paths, at most {plan.sample_tokens:,.0f} tokens"
    yield _row("sample", sampled, _hours(plan.sample_hours, plan.why_no_sample_hours, "sample", notes))
    yield _row("mistakes", describe_amount(plan.mistakes))
    for teacher in plan.teachers:
        yield from _describe_teacher(teacher, notes)
    trained = f"{describe_amount(plan.examples)} examples, {describe_amount(plan.steps)} steps in each arm"
    yield _row("train", trained, _hours(plan.train_hours, plan.why_no_train_hours, "train", notes))
    hours = _hours(plan.answer_hours, "no run beside this one has evaluated this student", "evaluate", notes)
    yield _row("evaluate", f"{plan.answers:,} answers", hours)
    if plan.rounds > 1:
        yield _row("rounds", f"{plan.rounds} at most; sample, train and evaluate stand here for one of them")
        notes.append(
            "further rounds: the most they can take; a run stops by itself where nothing more is gained"
        )
    yield _row("in all", "", "", _describe_price(plan)) + "\n"


def _row(stage: str, what: str, time: str = "", dollars: str = "") -> str:
    return f"{stage:11} {what:{WHAT_WIDTH}} {time:>8}  {dollars}".rstrip()


def _describe_price(plan: RunPlan) -> str:
    if plan.usd is None:
        return "- (not known for every teacher)"
    batch = f"; in batches {describe_dollars(plan.batch_usd)}" if plan.batch_usd else ""
    cap = ""
    if plan.max_usd is not None:
        cap = f"; the cap of ${plan.max_usd:g} " + (
            "holds all of it" if plan.usd.high <= plan.max_usd else "may end it before"
        )
    return f"{describe_dollars(plan.usd)}{batch}{cap}"


def _describe_teacher(plan: TeacherPlan, notes: list[str]) -> Iterator[str]:
    known = f", {plan.from_journal:,} replies in the journal" if plan.from_journal is not None else ""
    hours = _hours(plan.hours, plan.why_no_hours, plan.stage, notes)
    dollars = "-" if plan.usd is None else describe_dollars(plan.usd)
    yield _row(plan.stage, f"{plan.teacher}: {describe_amount(plan.calls)} calls{known}", hours, dollars)
    size = f"{plan.prompt_tokens:,.0f} prompt and {plan.reply_tokens:,.0f} reply tokens each"
    yield _row("", f"  about {size}")
    notes.append(plan.rests_on)
    if plan.usd is None:
        notes.append(f"{plan.stage}: no dollars: {plan.why_no_usd}")


def describe_amount(amount: Amount) -> str:
    """Return a number that is not known yet, in words."""
    if amount.low == amount.high:
        return f"{amount.high:,.0f}"
    if amount.about is not None:
        return f"about {amount.about:,.0f}, at most {amount.high:,.0f}"
    return f"{amount.low:,.0f} to {amount.high:,.0f}"


def describe_dollars(amount: Amount | None) -> str:
    """Return dollars in words."""
    if amount is None:
        return "-"
    if amount.high == 0:
        return "$0"
    about = "" if amount.about is None else f"about ${amount.about:.2f}, "
    return f"{about}at most ${amount.high:.2f}"


def _hours(hours: float | None, why_not: str | None, stage: str, notes: list[str]) -> str:
    """Return a time in words; where there is none, a dash, with the reason among the notes."""
    if hours is None:
        notes.append(f"{stage}: no time: {why_not}")
        return "-"
    return f"{60 * hours:.0f} min" if hours < 1.5 else f"{hours:.1f} h"
