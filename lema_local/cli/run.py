"""`lema run`, `lema quickstart`, `lema report`: the whole loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.cli.completion import complete_recipes, complete_stages

if TYPE_CHECKING:
    from lema_local.pipeline import Pipeline
    from lema_local.recipe import Recipe

FLAGS = {
    "student": "student.model",
    "student_url": "student.url",
    "base": "student.base",
    "teacher": "teacher.model",
    "teacher_url": "teacher.url",
    "fallback": "teacher.fallback.model",
    "fallback_url": "teacher.fallback.url",
    "max_usd": "teacher.max_usd",
    "paper_style": "train.keep_looks",
    "rounds": "rounds.count",
}
"""Flags that are short for `--set KEY=...`."""


def teacher_options(command: Any) -> Any:
    """Add the flags that swap the teacher."""
    command = click.option("--max-usd", type=click.FloatRange(min=0), help="Spend at most so many dollars.")(
        command
    )
    command = click.option("--fallback-url", metavar="URL", help="The fallback's endpoint.")(command)
    command = click.option("--fallback", metavar="MODEL", help="A teacher for what the first failed on.")(
        command
    )
    command = click.option("--teacher-url", metavar="URL", help="An OpenAI-compatible endpoint.")(command)
    return click.option("--teacher", metavar="MODEL", help="A LiteLLM model name, or 'reference'.")(command)


def run_options(command: Any) -> Any:
    """Add the flags of every command that runs a recipe."""
    options = (
        click.option(
            "--run", "run_dir", type=click.Path(path_type=Path), help="The run's folder [runs/NAME]."
        ),
        click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe's setting."
        ),
        click.option(
            "--paper-style",
            is_flag=True,
            default=None,
            help="Also the best checkpoint on the test questions, labelled as such.",
        ),
        click.option(
            "--rounds",
            type=click.IntRange(min=1),
            help="Go round again with the best student, at most so many rounds in all.",
        ),
        click.option(
            "--until",
            metavar="STAGE",
            shell_complete=complete_stages,
            help="Stop after this stage (of the first round).",
        ),
        click.option(
            "--reuse", type=click.Path(path_type=Path), help="Take over what fits from another run."
        ),
        click.option(
            "--offline",
            is_flag=True,
            help="Forbid every connection but to local endpoints that the recipe names.",
        ),
        click.option("--yes", is_flag=True, help="Spend what the plan says without being asked."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path), shell_complete=complete_recipes)
@run_options
@click.option("--student", metavar="GGUF", help="The student's GGUF file.")
@click.option("--student-url", metavar="URL", help="An OpenAI-compatible endpoint that serves the student.")
@click.option(
    "--base", metavar="MODEL", help="A Hugging Face folder or hub name to train instead of the GGUF."
)
@teacher_options
def run(
    recipe: Path,
    run_dir: Path | None,
    overrides: tuple[str, ...],
    until: str | None,
    reuse: Path | None,
    offline: bool,
    yes: bool,
    **flags: Any,
) -> None:
    """Run RECIPE (a file or a shipped name) from questions to report.

    The same command again skips what is finished and goes on where it stopped. First it says in short what it will
    take (lema plan tells more), and asks only where that costs money.

    \b
    Example:
      lema run recipes/quickstart.yaml --teacher gpt-4o --max-usd 2
    """
    overrides = (*overrides, *flag_overrides(flags))
    run_recipe(recipe, run_dir, overrides, until, reuse, is_offline=offline, is_agreed=yes)


@click.command()
@run_options
@teacher_options
def quickstart(
    run_dir: Path | None,
    overrides: tuple[str, ...],
    until: str | None,
    reuse: Path | None,
    offline: bool,
    yes: bool,
    **flags: Any,
) -> None:
    """Run the whole loop on embedded problems with an embedded student.

    Needs no network, key or GPU. Everything is real: llama.cpp samples, the journal records, bitsandbytes trains,
    and the exported GGUF is what gets evaluated.

    \b
    Example:
      lema quickstart --teacher openai/local --teacher-url http://127.0.0.1:8080/v1
    """
    overrides = (*overrides, *flag_overrides(flags))
    run_recipe(Path("quickstart"), run_dir, overrides, until, reuse, is_offline=offline, is_agreed=yes)


RUN_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("run_dir", metavar="RUN", type=RUN_FOLDER)
@click.option(
    "--compare",
    "other_dir",
    metavar="RUN2",
    type=RUN_FOLDER,
    help="Put another run beside it, in the same page.",
)
@click.option(
    "--out",
    "out_dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to [RUN/9_report].",
)
def report(run_dir: Path, other_dir: Path | None, out_dir: Path | None) -> None:
    """Write report.html and report.md of RUN again, also where it has not finished.

    With --compare the same arms of the two runs are compared on the test questions that both answered, and what was
    set otherwise is listed.

    \b
    Example:
      lema report runs/quickstart
      lema report runs/with-gpt-4o --compare runs/with-reference --out /tmp/two-runs
    """
    from lema_local.cli.progress import notice
    from lema_local.errors import InputError, LemaError
    from lema_local.runs import RunFolder
    from lema_local.stage_runner import STAGES
    from lema_local.stages.report import read_run, read_two_runs, write_report

    run = RunFolder(run_dir)
    data = read_two_runs(run, RunFolder(other_dir)) if other_dir else read_run(run)
    out_dir = out_dir or run.stage(STAGES["report"]).path
    try:
        write_report(data, out_dir)
    except LemaError as err:
        raise InputError(str(err), hint="write the report elsewhere with --out FOLDER") from err
    for problem in data.problems:
        notice(f"Note: {problem}")
    click.echo(str(out_dir / "report.html"))


def flag_overrides(flags: dict[str, Any]) -> list[str]:
    """Return the flags that were given as overrides of the recipe."""
    import json

    # JSON is YAML: a value is quoted where it has to be.
    return [f"{FLAGS[name]}={json.dumps(value)}" for name, value in flags.items() if value is not None]


def run_recipe(
    path: Path,
    run_dir: Path | None,
    overrides: Sequence[str],
    until: str | None,
    reuse: Path | None,
    *,
    is_offline: bool,
    is_agreed: bool,
) -> None:
    """Load the recipe, tell what it will take, run it, print the result."""
    from lema_local.cli.consent import agree_on_plan
    from lema_local.cli.progress import notice, progress_bar
    from lema_local.cli.resuming import same_command
    from lema_local.errors import BudgetReached
    from lema_local.pipeline import Pipeline
    from lema_local.recipe import load_recipe
    from lema_local.runs import RunFolder

    recipe = load_recipe(path, overrides)
    if is_offline:
        _keep_to_recipe(recipe)
    folder = RunFolder(run_dir or Path("runs") / recipe.name)
    agree_on_plan(recipe, folder, until=until, reuse=reuse, is_agreed=is_agreed)
    pipeline = Pipeline(
        recipe, folder, show=progress_bar, tell=notice, reuse=RunFolder(reuse) if reuse else None
    )
    try:
        pipeline.run(until)
    except BudgetReached as err:
        block = recipe.teacher
        larger = {"max_usd": 2 * block.max_usd} if block.max_usd else {}
        hint = (
            same_command(**larger)
            if block.max_calls is None
            else "raise teacher.max_calls, then the same command"
        )
        raise BudgetReached(f"{err}; everything is kept in {folder.path}", hint=hint) from err
    print_result(pipeline)


def _keep_to_recipe(recipe: Recipe) -> None:
    """Forbid every connection but to the endpoints that the recipe names."""
    from lema_local.teachers.offline import keep_to

    block = recipe.teacher
    teachers = [*block.members, *([block.fallback] if block.fallback else [])]
    keep_to(teachers, *(one.url for one in (recipe.student, *recipe.other_students)))


def print_result(pipeline: Pipeline) -> None:
    """Print scores, what may be concluded, and where the report is."""
    from lema_local.cli.evaluate import describe_scores

    scores = pipeline.read_scores()
    if scores is None:
        click.echo(f"{pipeline.folder.path}: finished as far as asked for; the same command goes on")
        return
    click.echo("\n".join(describe_scores(scores)))
    click.echo(f"\n{pipeline.describe_matching()}")
    for line in pipeline.describe_rounds():
        click.echo(f"\n{line}")
    report_path = pipeline.runner.path("report", "report.html")
    if report_path.exists():
        click.echo(f"\nReport: {report_path}")
