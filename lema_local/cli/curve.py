"""`lema curve`: would more corrections help?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lema_local.curve.findings import Curve
    from lema_local.curve.points import CurvePlan


@click.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--sizes",
    required=True,
    metavar="N,N,all",
    help="Numbers of accepted corrections; 'all' is all there are.",
)
@click.option("--seeds", metavar="S,S", help="Seeds of the trainings [the recipe's].")
@click.option("--arms", metavar="ARM,ARM", help="Arms to train [the recipe's].")
@click.option(
    "--out", "folder", type=click.Path(path_type=Path), help="Where trainings and curve go [RUN/curve]."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting of build, train, evaluate.",
)
@click.option(
    "--dry-run", is_flag=True, help="Say what would be trained and how long it takes; train nothing."
)
@click.option("--json", "is_json", is_flag=True, help="Print curve.json.")
def curve(
    run_dir: Path,
    sizes: str,
    seeds: str | None,
    arms: str | None,
    folder: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    is_json: bool,
) -> None:
    """Train RUN's arms on nested subsets of its corrections, and draw pass@1 against their number.

    Nothing is sampled and no teacher is asked. Plain rationales stay the same in every training. The same command
    again goes on where it stopped; further sizes and seeds are added to what is there.

    \b
    Example:
      lema curve runs/my-run --sizes 250,500,1000,all --seeds 0,1,2 --dry-run
    """
    from lema_local.curve.points import plan_curve
    from lema_local.runs import RunFolder

    plan = plan_curve(RunFolder(run_dir), sizes, seeds=seeds, arms=arms, overrides=overrides, folder=folder)
    told = list(_describe_plan(plan))
    if dry_run:
        click.echo("\n".join(told))
        return
    found = _train(plan, told)
    if is_json:
        click.echo(found.model_dump_json())
        return
    click.echo("\n".join(_describe_curve(found)))
    click.echo(f"\nCurve: {plan.folder / 'curve.md'}")


def _train(plan: CurvePlan, told: list[str]) -> Curve:
    """Train what is left; the curve is written anew after each point."""
    from lema_local.cli.progress import notice, progress_bar
    from lema_local.curve.findings import read_curve
    from lema_local.curve.points import Point, train_points
    from lema_local.curve.writing import write_curve

    for line in told:
        notice(line)
    drawn: list[Curve] = []

    def draw(_: Point) -> None:
        drawn.append(read_curve(plan))
        write_curve(drawn[-1], plan.folder)

    train_points(plan, show=progress_bar, tell=notice, on_point=draw)
    return drawn[-1]


def _describe_plan(plan: CurvePlan) -> Iterator[str]:
    from lema_local.curve.points import estimate
    from lema_local.report.words import duration

    arms = ", ".join(map(str, plan.recipe.train.arms))
    yield (
        f"{plan.run.path}: {plan.available:,} accepted corrections; arms {arms}; seeds"
        f" {', '.join(map(str, plan.seeds))}; in {plan.folder}"
    )
    yield f"{'corrections':>11}  {'examples':>9}  {'steps':>7}  {'trainings':>9}  {'finished':>8}  left to do"
    lines = estimate(plan)
    for one in lines:
        examples = "-" if one.examples is None else f"{one.examples:,}"
        steps = "-" if one.steps is None else f"{one.steps:,}"
        left = "-" if one.seconds is None else f"about {duration(one.seconds)}" if one.seconds else "nothing"
        yield f"{one.size:>11,}  {examples:>9}  {steps:>7}  {one.trainings:>9}  {one.finished:>8}  {left}"
    if any(one.seconds is None for one in lines):
        yield "how long: - (neither this run nor a point of the curve has trained yet)"
    else:
        total = sum(one.seconds or 0.0 for one in lines)
        yield f"in all about {duration(total)}, by what this run's and finished points' trainings took"


def _describe_curve(curve: Curve) -> Iterator[str]:
    from lema_local.report.words import percent

    for dataset in dict.fromkeys(one.dataset for one in curve.means):
        yield f"{dataset}, greedy pass@1" + (
            f" (base {percent(curve.base[dataset].pass_at_1)})" if dataset in curve.base else ""
        )
        for mean in curve.means:
            if mean.dataset == dataset:
                spread = f", sd {100 * mean.deviation:.1f} over {mean.seeds} seeds" if mean.seeds > 1 else ""
                yield f"  {mean.arm:<12} {mean.size:>7,} corrections  {percent(mean.mean):>7}{spread}"
    yield ""
    yield from (trend.sentence for trend in curve.trends)
    yield f"Note: {curve.steps_rule}."
