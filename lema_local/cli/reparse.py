"""`lema reparse`: today's parser and checks over replies that were paid for long ago."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lema_local.stages.filter import FilterSettings
    from lema_local.teachers.base import RawReply
    from lema_local.teachers.journal import Journal


@click.command()
@click.argument("source", metavar="RUN_OR_CORRECTIONS", type=click.Path(path_type=Path, exists=True))
@click.option("--questions", metavar="QUESTIONS", help="For a file of corrections: the questions behind it.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the corrections as read today."
)
@click.option(
    "--reject-on",
    "checks",
    multiple=True,
    metavar="CHECK",
    help="A check that rejects too, beside the recipe's.",
)
@click.option("--json", "is_json", is_flag=True, help="Print what changed as JSON.")
def reparse(
    source: Path, questions: str | None, out: Path | None, checks: tuple[str, ...], is_json: bool
) -> None:
    """Read, check and filter the replies behind RUN's corrections once more, free of charge; say what changed.

    Nothing is asked, and the run is left as it is; --out writes the corrections as today's parser reads them.

    \b
    Example:
      lema reparse runs/my-run --out corrections.jsonl
    """
    from lema_local.cli.build import check_names
    from lema_local.datasets import load_questions
    from lema_local.errors import InputError
    from lema_local.jsonl import read_records, write_records
    from lema_local.records import Correction
    from lema_local.stages.correct import path_key, reparse_corrections
    from lema_local.stages.filter import FilterSettings, filter_corrections
    from lema_local.teachers.journal import Journal

    check_names(checks)
    filtering = FilterSettings.model_validate({"rejecting_checks": checks})
    if source.is_dir():
        filtering = _filter_of(source, filtering)
        questions = questions or str(source / "0_questions" / "train.jsonl")
        source = source / "2_correct" / "corrections.jsonl"
    if questions is None:
        raise InputError(f"{source} is a file, and its questions are not named", hint="give --questions")
    corrections = read_records(source, Correction)
    with Journal() as journal:
        pairs = list(
            reparse_corrections(corrections, load_questions(questions), lambda key: _find_reply(journal, key))
        )
    if out is not None:
        write_records(out, (new for _, new in pairs))
    changes: Counter[tuple[str, str]] = Counter(
        (old.verdict, new.verdict) for old, new in pairs if old.verdict != new.verdict
    )
    reworded = sum(old != new and old.verdict == new.verdict for old, new in pairs)
    asked = load_questions(questions)
    before, after = (
        {path_key(one) for one in filter_corrections(side, asked, filtering).accepted}
        for side in zip(*pairs, strict=True)
    ) if pairs else (set(), set())  # fmt: skip
    kept = {
        "before": len(before),
        "after": len(after),
        "gained": len(after - before),
        "lost": len(before - after),
    }
    _print_changes(len(pairs), changes, reworded, kept, is_json=is_json)


def _filter_of(run: Path, given: FilterSettings) -> FilterSettings:
    """Return the filter of a run's recipe, with the checks added that were asked for."""
    from lema_local.recipe import load_recipe

    settings = load_recipe(run / "recipe.yaml").filter
    checks = tuple(dict.fromkeys([*settings.rejecting_checks, *given.rejecting_checks]))
    return settings.model_copy(update={"rejecting_checks": checks})


def _find_reply(journal: Journal, reply_key: str) -> RawReply | None:
    from lema_local.errors import InputError

    try:
        return journal.read(reply_key).reply
    except InputError:  # pruned, or made under another LEMA_HOME
        return None


def _print_changes(
    total: int, changes: Counter[tuple[str, str]], reworded: int, kept: dict[str, int], *, is_json: bool
) -> None:
    if is_json:
        named = {f"{old} to {new}": count for (old, new), count in changes.items()}
        told = {"total": total, "verdicts_changed": named, "same_verdict_read_otherwise": reworded}
        click.echo(json.dumps({**told, "kept_by_the_filter": kept}))
        return
    click.echo(f"{total} corrections read again: {changes.total()} verdicts changed")
    for (old, new), count in changes.most_common():
        click.echo(f"  {count:5d}  {old} to {new}")
    click.echo(f"  {reworded:5d}  same verdict, read otherwise")
    click.echo(
        f"kept by the filter: {kept['before']} before, {kept['after']} now"
        f" ({kept['gained']} gained, {kept['lost']} lost)"
    )
