"""`lema filter` and `lema build`: corrections to accepted ones, accepted ones to training files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Literal, get_args

import click

from lema_local.cli.progress import notice

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


def check_names(checks: tuple[str, ...]) -> None:
    """Make sure that all are checks of corrections.

    Raises:
        UsageError: Naming all checks there are.
    """
    if unknown := sorted(set(checks) - set(_check_names())):
        raise click.UsageError(f"unknown check {unknown[0]}; the checks are {', '.join(_check_names())}")


def _check_names() -> list[str]:
    from lema_local.corrections import CheckName

    return [name for name in get_args(CheckName) if name != "final_answer"]


@click.command("filter")
@click.argument("corrections", type=_FILE)
@click.option("--questions", required=True, metavar="QUESTIONS", help="The questions that were sampled on.")
@click.option("--accepted", "accepted_path", required=True, type=_FILE, help="Where accepted corrections go.")
@click.option(
    "--rejected", "rejected_path", required=True, type=_FILE, help="Where the others go, with their reason."
)
@click.option(
    "--reject-on", "checks", multiple=True, metavar="CHECK", help="A check that rejects too (repeatable)."
)
@click.option("--drop-duplicates", is_flag=True, help="Keep one of several with the same equations.")
@click.option("--json", "is_json", is_flag=True, help="Print the counts as JSON.")
def filter_command(
    corrections: Path,
    questions: str,
    accepted_path: Path,
    rejected_path: Path,
    checks: tuple[str, ...],
    drop_duplicates: bool,
    is_json: bool,
) -> None:
    """Split CORRECTIONS into accepted and rejected ones.

    A correction is accepted if its final answer is the gold answer; --reject-on makes further checks count.
    """
    from lema_local.datasets import load_questions
    from lema_local.jsonl import read_records, write_records
    from lema_local.records import Correction
    from lema_local.stages.filter import FilterSettings, filter_corrections

    check_names(checks)
    settings = FilterSettings.model_validate({"rejecting_checks": checks, "drop_duplicates": drop_duplicates})
    filtered = filter_corrections(read_records(corrections, Correction), load_questions(questions), settings)
    write_records(accepted_path, filtered.accepted)
    write_records(rejected_path, filtered.rejected)
    reasons = Counter(correction.reason or correction.verdict for correction in filtered.rejected)
    _print_filtered(len(filtered.accepted), reasons, is_json)


def _print_filtered(accepted: int, reasons: Counter[str], is_json: bool) -> None:
    rejected = reasons.total()
    if is_json:
        click.echo(
            json.dumps({"accepted": accepted, "rejected": rejected, "reasons": dict(reasons.most_common())})
        )
        return
    click.echo(f"accepted {accepted}, rejected {rejected}")
    for reason, count in reasons.most_common(10):
        click.echo(f"  {count:5d}  {reason}")
    if len(reasons) > 10:
        click.echo(f"  and {len(reasons) - 10} more reasons")


@click.command()
@click.option("--questions", required=True, metavar="QUESTIONS", help="The questions to train on.")
@click.option("--accepted", "accepted_path", required=True, type=_FILE, help="Accepted corrections.")
@click.option("--rationales", "rationales_path", type=_FILE, help="Further rationales from `lema augment`.")
@click.option(
    "--out", "out_dir", required=True, type=_FOLDER, help="Folder for cot.jsonl, lema.jsonl, counts.json."
)
@click.option(
    "--match",
    type=click.Choice(["examples", "tokens", "none"]),
    default="examples",
    show_default=True,
    help="What is equal between the arms.",
)
@click.option(
    "--layout",
    type=click.Choice(["numbered", "prose"]),
    default="numbered",
    show_default=True,
    help="How a plain rationale is written.",
)
@click.option("--allow-test", is_flag=True, help="Train on test questions: a trial, never to be reported on.")
@click.option("--json", "is_json", is_flag=True, help="Print the counts as JSON.")
def build(
    questions: str,
    accepted_path: Path,
    rationales_path: Path | None,
    out_dir: Path,
    match: Literal["examples", "tokens", "none"],
    layout: Literal["numbered", "prose"],
    allow_test: bool,
    is_json: bool,
) -> None:
    """Build the training files of the arms `cot` and `lema`."""
    from lema_local.datasets import load_questions
    from lema_local.jsonl import read_records, write_records
    from lema_local.records import Correction, Rationale
    from lema_local.stages.build import BuildSettings, build_arms, count_examples

    settings = BuildSettings(match=match, layout=layout, allow_test=allow_test)
    rationales = read_records(rationales_path, Rationale) if rationales_path else []
    arms = build_arms(
        load_questions(questions), read_records(accepted_path, Correction), rationales, settings
    )
    for arm, examples in arms.items():
        write_records(out_dir / f"{arm}.jsonl", examples)
    counts = count_examples(arms)
    summary = json.dumps({"settings": settings.model_dump(), "arms": counts}, indent=2)
    (out_dir / "counts.json").write_text(summary + "\n", encoding="utf-8")
    if any(count["never_report"] for count in counts.values()):
        notice("These files hold test questions: no result of a training on them may be reported.")
    click.echo(summary if is_json else _format_counts(counts))


def _format_counts(counts: dict[str, dict[str, int]]) -> str:
    names = next(iter(counts.values()))
    lines = [f"{'':22s}" + "".join(f"{arm:>12s}" for arm in counts)]
    lines += [
        f"{name.replace('_', ' '):22s}" + "".join(f"{count[name]:12d}" for count in counts.values())
        for name in names
    ]
    return "\n".join(lines)
