"""`lema filter` and `lema build`: corrections to accepted ones, accepted ones to training files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from lema_local.cli.progress import notice

if TYPE_CHECKING:
    from lema_local.contamination import Certificate
    from lema_local.records import TrainingExample
    from lema_local.stages.build import Arm, BuildSettings

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
@click.option(
    "--drop-graded",
    multiple=True,
    type=click.Choice(["excellent", "good", "poor", "wrong_step"]),
    help="Drop what a reviewer graded so (repeatable; needs --grades).",
)
@click.option("--grades", "grades_path", type=_FILE, help="The grades that `lema review` kept.")
@click.option("--json", "is_json", is_flag=True, help="Print the counts as JSON.")
def filter_command(
    corrections: Path,
    questions: str,
    accepted_path: Path,
    rejected_path: Path,
    checks: tuple[str, ...],
    drop_duplicates: bool,
    drop_graded: tuple[str, ...],
    grades_path: Path | None,
    is_json: bool,
) -> None:
    """Split CORRECTIONS into accepted and rejected ones.

    A correction is accepted if its final answer is the gold answer; --reject-on makes further checks count, and
    --drop-graded poor --grades RUN/grades.sqlite drops what a person graded poor in `lema review`.

    \b
    Example:
      lema filter corrections.jsonl --questions gsm8k:train.jsonl --accepted accepted.jsonl --rejected rejected.jsonl
    """
    if bool(drop_graded) != (grades_path is not None):
        raise click.UsageError("--drop-graded and --grades belong together")
    from lema_local.datasets import load_questions
    from lema_local.grades import read_grades
    from lema_local.jsonl import read_records, write_records
    from lema_local.records import Correction
    from lema_local.stages.filter import FilterSettings, filter_corrections

    check_names(checks)
    settings = FilterSettings.model_validate(
        {"rejecting_checks": checks, "drop_duplicates": drop_duplicates, "drop_graded": drop_graded}
    )
    grades = read_grades(grades_path) if grades_path is not None else None
    filtered = filter_corrections(
        read_records(corrections, Correction), load_questions(questions), settings, grades
    )
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
    type=click.Choice(["examples", "tokens", "characters", "none"]),
    default="examples",
    show_default=True,
    help="What is equal between the arms; tokens are those of --student.",
)
@click.option("--student", metavar="GGUF", help="Whose tokenizer counts, with --match tokens.")
@click.option(
    "--leave-out",
    multiple=True,
    type=click.Choice(["step", "explanation", "solution"]),
    help="Corrections without this part: the paper's ablations (repeatable).",
)
@click.option("--unmatched", is_flag=True, help="A third file, cot_unmatched: the paper's main table.")
@click.option(
    "--test",
    "tests",
    multiple=True,
    metavar="QUESTIONS",
    help="A test set that must not be trained on (repeatable).",
)
@click.option(
    "--contaminated",
    type=click.Choice(["remove", "list"]),
    default="remove",
    show_default=True,
    help="What to do with training questions that share their text with one of --test.",
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
    match: Literal["examples", "tokens", "characters", "none"],
    student: str | None,
    leave_out: tuple[Literal["step", "explanation", "solution"], ...],
    unmatched: bool,
    tests: tuple[str, ...],
    contaminated: Literal["remove", "list"],
    layout: Literal["numbered", "prose"],
    allow_test: bool,
    is_json: bool,
) -> None:
    """Build the training files of the arms `cot` and `lema`.

    With --test each file is checked for test questions: the same text, the same but for its numbers, 13 words in a
    row. OUT/ARM.contamination.json says what was found and what was done.

    \b
    Example:
      lema build --questions gsm8k:train.jsonl --accepted accepted.jsonl --test gsm8k:test.jsonl --out files
    """
    from lema_local.datasets import load_questions
    from lema_local.jsonl import read_records
    from lema_local.records import Correction, Rationale
    from lema_local.stages.build import MATCHED, UNMATCHED, build_arms, remove_contaminated, write_arms

    settings = _build_settings(
        match=match, layout=layout, allow_test=allow_test, leave_out=list(leave_out),
        **({"remove_contaminated": []} if contaminated == "list" else {}),
    )  # fmt: skip
    rationales = read_records(rationales_path, Rationale) if rationales_path else []
    asked = load_questions(questions)
    names = (*MATCHED, UNMATCHED) if unmatched else MATCHED
    built = build_arms(asked, read_records(accepted_path, Correction), rationales, settings, names)
    certificates: dict[Arm, Certificate] = {}
    if tests:
        test = [one for spec in tests for one in load_questions(spec)]
        built, certificates = remove_contaminated(built, asked, test, settings)
    arms, counts = _match(built, settings, student)
    write_arms(out_dir, arms, certificates)
    found = {"settings": settings.model_dump(), "arms": counts}
    summary = json.dumps(found, indent=2)
    (out_dir / "counts.json").write_text(summary + "\n", encoding="utf-8")
    if any(count["never_report"] for count in counts.values()):
        notice("These files hold test questions: no result of a training on them may be reported.")
    for certificate in certificates.values():
        notice(certificate.sentence)
    click.echo(summary if is_json else _format_counts(counts))


def _build_settings(**given: Any) -> BuildSettings:
    from lema_local.cli.settings import check_settings
    from lema_local.stages.build import BuildSettings

    return check_settings(BuildSettings, given, "lema build")


def _match(
    arms: dict[Arm, list[TrainingExample]], settings: BuildSettings, student: str | None
) -> tuple[dict[Arm, list[TrainingExample]], dict[str, dict[str, int]]]:
    """Return the matched arms and their counts; tokens are counted by the student's tokenizer."""
    from lema_local.errors import InputError
    from lema_local.recipe import StudentBlock
    from lema_local.stages.build import count_examples, match_arms
    from lema_local.students import lend_counter
    from lema_local.wiring import student_file

    if student is None:
        if settings.match == "tokens":
            raise InputError(
                "tokens are those of a student", hint="--student GGUF, or --match characters without one"
            )
        arms = match_arms(arms, settings)
        return arms, count_examples(arms)
    with lend_counter(student_file(StudentBlock(model=student))) as measure:
        arms = match_arms(arms, settings, measure if settings.match == "tokens" else len)
        return arms, count_examples(arms, measure)


def _format_counts(counts: dict[str, dict[str, int]]) -> str:
    names = next(iter(counts.values()))
    lines = [f"{'':22s}" + "".join(f"{arm:>12s}" for arm in counts)]
    lines += [
        f"{name.replace('_', ' '):22s}" + "".join(f"{count[name]:12d}" for count in counts.values())
        for name in names
    ]
    return "\n".join(lines)
