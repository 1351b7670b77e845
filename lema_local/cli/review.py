"""`lema review`: grade corrections in the browser."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path

import click

from lema_local.cli.progress import notice


def _own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return "reviewer"


@click.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--sample",
    "count",
    default=50,
    show_default=True,
    type=click.IntRange(min=1),
    help="So many corrections.",
)
@click.option("--all", "is_all", is_flag=True, help="Every accepted correction.")
@click.option("--seed", default=0, show_default=True, help="Another seed chooses others.")
@click.option("--reviewer", metavar="NAME", help="Whose grades these are [your user name].")
@click.option("--blind", "is_blind", is_flag=True, help="Hide the teacher's name.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Of the page [a free one].")
@click.option(
    "--grades",
    "grades_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of grades [RUN/grades.sqlite].",
)
@click.option(
    "--summary", "is_summary", is_flag=True, help="Print the grades and how far reviewers agree, and stop."
)
@click.option("--open/--no-open", "is_opened", default=True, help="Open the page in your browser.")
def review(
    run_dir: Path,
    count: int,
    is_all: bool,
    seed: int,
    reviewer: str | None,
    is_blind: bool,
    port: int,
    grades_path: Path | None,
    is_summary: bool,
    is_opened: bool,
) -> None:
    """Grade the corrections of RUN in your browser, on this machine only.

    Shows accepted corrections one by one, chosen by chance: excellent (e), good (g), poor (p), wrong step (w), skip
    (s), undo (u); the gold answer is hidden until you ask for it (a). Every click is saved at once; the same command
    goes on. Several people grade the same corrections with the same --seed and a --reviewer name each; --summary
    tells how far they agree.

    \b
    Example:
      lema review runs/quickstart --reviewer ada --sample 50
      lema review runs/quickstart --summary
      lema run RECIPE --run runs/without-poor --reuse runs/quickstart
           --set filter.drop_graded=[poor] --set filter.grades=runs/quickstart/grades.sqlite
    """
    from lema_local.grades import GRADES_FILE, GradeBook, grades_by_reviewer, read_grades
    from lema_local.review.items import choose_items
    from lema_local.review.server import serve_review

    name = (reviewer or _own_name()).strip()
    if not name or len(name) > 80 or not name.isprintable():
        raise click.UsageError(f"--reviewer {name[:80]!r}: expected a name of 1 to 80 printable characters")
    path = grades_path or run_dir / GRADES_FILE
    if is_summary:
        read_grades(path)  # says where there are none
        click.echo("\n".join(describe_grades(grades_by_reviewer(GradeBook(path).current()))))
        return
    chosen = choose_items(run_dir, None if is_all else count, seed)
    for problem in chosen.problems:
        notice(f"Note: {problem}")
    book = GradeBook(path)

    def tell(address: str) -> None:
        notice(
            f"{len(chosen.items):,} of {chosen.available:,} accepted corrections, reviewer {name}; grades: {book.path}"
        )
        notice("Ctrl-C ends it; what was clicked is saved.")
        click.echo(address)
        if is_opened:
            click.launch(address)

    serve_review(
        chosen.items,
        book,
        title=run_dir.resolve().name,
        reviewer=name,
        is_blind=is_blind,
        port=port,
        on_ready=tell,
    )


def describe_grades(own: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return each reviewer's grades with Wilson intervals, and Cohen's kappa of each two.

    Args:
        own: {reviewer: {correction_id: grade}}.
    """
    from lema_local.report.graded import describe_agreements, summarize_grades

    lines = []
    for reviewer, grades in own.items():
        lines.append(f"{reviewer}: {len(grades)} corrections graded")
        lines += [
            f"  {one.grade.replace('_', ' '):10s} {one.count:4d}  {one.share:6.1%}"
            f" (95 % {one.low:.1%} to {one.high:.1%})"
            for one in summarize_grades(reviewer, grades.values()).lines
        ]
    return [*lines, *describe_agreements(own)] or ["nothing is graded yet"]
