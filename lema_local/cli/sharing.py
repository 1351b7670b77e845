"""`lema dataset export|import|push`: corrections to others, and from them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lema_local.cli.progress import notice
from lema_local.cli.push import list_upload

if TYPE_CHECKING:
    from lema_local.sharing.export import Shared
    from lema_local.sharing.intake import Taken


@click.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--out", "folder", required=True, type=click.Path(path_type=Path), help="A new folder for the data set."
)
@click.option(
    "--licence",
    metavar="LICENCE",
    help="Under which you share it (mit, cc-by-4.0, ...); needed for own data.",
)
@click.option("--teacher-terms", metavar="TEXT", help="What the card says of the terms of the teachers.")
@click.option("--rejected", "has_rejected", is_flag=True, help="The rejected corrections too, as a split.")
@click.option(
    "--no-question-text",
    is_flag=True,
    help="Leave the questions' texts and gold answers out; their ids stay.",
)
def export(
    run_dir: Path,
    folder: Path,
    licence: str | None,
    teacher_terms: str | None,
    has_rejected: bool,
    no_question_text: bool,
) -> None:
    """Write RUN's corrections as a folder that the Hugging Face hub and `datasets` read.

    Parquet files, a data card, the recipe, and a certificate that no test question is in it. Nothing is uploaded.

    \b
    Example:
      lema dataset export runs/my-run --out shared --licence cc-by-4.0
    """
    from lema_local.runs import RunFolder
    from lema_local.sharing.export import ExportSettings, export_run

    settings = ExportSettings(licence, teacher_terms, has_rejected, not no_question_text)
    shared = export_run(RunFolder(run_dir), folder, settings)
    _tell_shared(shared)
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        click.echo(f"{path.stat().st_size:>12,}  {path}")
    notice(
        f"Read {folder / 'README.md'} first; then: lema dataset push {shlex.quote(str(folder))} --to OWNER/NAME"
    )


def _tell_shared(shared: Shared) -> None:
    rows = ", ".join(f"{count:,} {split}" for split, count in shared.splits.items())
    click.echo(f"corrections {rows}; questions {shared.questions:,}")
    if shared.certificate is not None:
        notice(shared.certificate.sentence)
    if shared.masked:
        notice(f"{shared.masked} row(s) held what looks like a key: it is masked")
    for one in shared.licences:
        if one.licence.upper().startswith("CC BY-NC") and shared.licence not in (None, one.licence):
            notice(
                f"Note: the questions of {one.dataset} are {one.licence}; your licence gives no more than that"
            )


@click.command("import")
@click.argument("source", metavar="FOLDER|FILE|OWNER/NAME")
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option(
    "--questions",
    metavar="QUESTIONS",
    help="Your own copy of the questions (gsm8k:train.jsonl): its texts and gold answers hold.",
)
@click.option(
    "--map",
    "mapping",
    metavar="FIELDS",
    help="Another group's columns: question=problem,incorrect_step=label,...",
)
@click.option("--zero-based", "is_zero_based", is_flag=True, help="Their steps count from 0 (with --map).")
@click.option("--files", metavar="PATTERN", help="Which files of the folder, such as 'data/train-*'.")
@click.option("--json", "is_json", is_flag=True, help="Print the counts as JSON.")
def import_command(
    source: str,
    folder: Path,
    questions: str | None,
    mapping: str | None,
    is_zero_based: bool,
    files: str | None,
    is_json: bool,
) -> None:
    """Take in corrections that were made elsewhere: a folder, a file, or a data set on the hub.

    Every correction is graded again against the gold answer: a verdict in the file is not believed. --map reads
    other column names; needed are question, gold_answer, original_steps, incorrect_step, explanation and
    corrected_solution.

    \b
    Example:
      lema dataset import shared --out imported
      lema run my.yaml --set questions.train=imported/questions.jsonl --set correct.source=imported/corrections.jsonl
    """
    from lema_local.datasets import load_questions, parse_mapping
    from lema_local.sharing.intake import take_in, write_taken
    from lema_local.sharing.rows import read_source

    if is_zero_based and mapping is None:
        raise click.UsageError("--zero-based is for another group's columns: it goes with --map")
    fields = parse_mapping(mapping)
    own = load_questions(questions) if questions else []
    found = read_source(source, files=files)
    taken = take_in(found, mapping=fields, is_zero_based=is_zero_based, own=own)
    write_taken(taken, found, folder)
    _print_taken(taken, folder, is_json)


def _print_taken(taken: Taken, folder: Path, is_json: bool) -> None:
    from collections import Counter

    questions, corrections = folder / "questions.jsonl", folder / "corrections.jsonl"
    if is_json:
        click.echo(json.dumps(taken.counts()))
        return
    told = ", ".join(f"{verdict} {count:,}" for verdict, count in taken.verdicts.items())
    click.echo(f"questions {len(taken.questions):,}; corrections {len(taken.corrections):,}: {told}")
    if taken.not_as_claimed:
        click.echo(f"{taken.not_as_claimed:,} that claim to be accepted are rejected here:")
        reasons = Counter(one.reason for one in taken.corrections if one.verdict == "rejected")
        for reason, count in reasons.most_common(5):
            click.echo(f"  {count:5d}  {reason}")
    if taken.other_gold:
        notice(f"{taken.other_gold:,} gold answers are not those of your own questions; yours hold")
    if taken.not_in_copy:
        notice(f"{taken.not_in_copy:,} questions are not among yours: their gold answers are the file's own")
    source = f"--set questions.train={questions} --set correct.source={corrections}"
    notice(f"Go on: lema run RECIPE {source}")
    notice(f"   or: lema filter {corrections} --questions {questions} --accepted FILE --rejected FILE")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--to", "repository", required=True, metavar="OWNER/NAME", help="The repository, made if need be."
)
@click.option("--public", "is_public", is_flag=True, help="Make a new repository public [private].")
@click.option(
    "--yes", "is_told", is_flag=True, help="Upload. Without it, only what would be uploaded is listed."
)
def push(folder: Path, repository: str, is_public: bool, is_told: bool) -> None:
    """Publish a FOLDER that `lema dataset export` wrote on the hub, as a data set.

    Nothing leaves this machine without --yes. Read the card's licences first.

    \b
    Example:
      lema dataset push shared --to me/my-corrections
      lema dataset push shared --to me/my-corrections --yes
    """
    from lema_local.sharing.export import list_folder
    from lema_local.training.publish import publish

    files = list_folder(folder)
    if list_upload(files, repository, is_told=is_told):
        message = "Corrections by lema-local"
        click.echo(publish(files, repository, is_private=not is_public, message=message, kind="dataset"))
