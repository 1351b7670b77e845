"""`lema import-paths`: reasoning paths that were made elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lema_local.cli.paths import print_summary, show_list
from lema_local.cli.progress import notice

if TYPE_CHECKING:
    from lema_local.stages.import_paths import Imported, Row

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("import-paths")
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@click.option("--questions", required=True, metavar="QUESTIONS", help="The questions that were answered.")
@click.option(
    "--map", "mapping", metavar="FIELDS", help="For own:FILE: question=problem,gold_answer=answer,..."
)
@click.option("--out", "out_path", required=True, type=_FILE, help="Where the paths go.")
@click.option("--student", required=True, metavar="NAME", help="Who wrote them.")
@click.option(
    "--text-field",
    required=True,
    metavar="FIELD",
    help="Where a path's text stands: generation, code.0, code.*",
)
@click.option(
    "--question-field",
    metavar="FIELD",
    help="The question's text, id or 0-based position [found by usual names].",
)
@click.option(
    "--verdict-field",
    metavar="FIELD",
    help="Somebody else's verdict, to be compared with ours: score.0, score.*",
)
@click.option(
    "--keep-identical", is_flag=True, help="Keep identical paths one by one, not once with their count."
)
@click.option("--json", "is_json", is_flag=True, help="Print the summary as JSON.")
def import_paths(
    files: tuple[Path, ...],
    questions: str,
    mapping: str | None,
    out_path: Path,
    student: str,
    text_field: str,
    question_field: str | None,
    verdict_field: str | None,
    keep_identical: bool,
    is_json: bool,
) -> None:
    """Take over the reasoning paths of FILE... (JSON Lines) that were made elsewhere.

    \b
    Example:
      lema import-paths out.jsonl --questions gsm8k:test.jsonl --student rho-1b --text-field code.0 --out paths.jsonl
    """
    from lema_local.datasets import load_questions, parse_mapping
    from lema_local.errors import InputError
    from lema_local.jsonl import write_records
    from lema_local.stages.import_paths import ImportFields
    from lema_local.stages.import_paths import import_paths as run_import
    from lema_local.stages.sample import SampleSettings, finish_paths, summarize_paths

    asked = load_questions(questions, mapping=parse_mapping(mapping))
    fields = ImportFields(text_field, question_field, verdict_field)
    imported = run_import(read_rows(files), asked, fields, student)
    show_list("line(s) or part(s) left out", imported.unmatched)
    if not imported.paths:
        raise InputError(
            f"no path of {files[0]} belongs to a question of {questions}",
            hint="--question-field names where the question's text, id or position stands, --text-field the path",
        )
    paths, _ = finish_paths(imported.paths, asked, SampleSettings(keep_identical=keep_identical))
    write_records(out_path, paths)
    show_comparison(imported)
    print_summary(summarize_paths(paths), is_json)


def read_rows(files: Sequence[Path]) -> Iterator[tuple[str, Row]]:
    """Yield (place, object) of each line.

    Raises:
        InputError: If a file cannot be read or lines are no JSON objects.
    """
    from lema_local.errors import InputError
    from lema_local.jsonl import describe_problems, iterate_objects

    for path in files:
        problems: list[str] = []
        for number, row in iterate_objects(path, problems):
            yield f"{path.name} line {number}", row
        if problems:
            raise InputError(describe_problems(path, problems), hint="every line is one JSON object")


def show_comparison(imported: Imported) -> None:
    """Say how far our verdicts and somebody else's agree, and list where they do not."""
    if not imported.compared:
        return
    agreed = imported.compared - len(imported.differing)
    notice(f"verdicts: {agreed} of {imported.compared} as theirs")
    lines = [
        f"{path.question_id} sample {path.sample_index}: {path.verdict} ({path.final_answer}, {path.rule}),"
        f" theirs {'right' if theirs else 'wrong'}"
        for path, theirs in imported.differing
    ]
    show_list("verdict(s) differ", lines)
