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
    from lema_local.formats import Arm
    from lema_local.stages.build import BuildSettings, Built

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
    "--format",
    "formats",
    multiple=True,
    metavar="FORMAT[,...]",
    help="Files to write: cot, lema, fix-and-continue, restart, critique, preference  [cot,lema].",
)
@click.option("--paths", "paths_path", type=_FILE, help="Sampled paths: the right ones are for critique.")
@click.option(
    "--right-paths",
    type=click.IntRange(min=0),
    help="How many of them  [as many as there are corrections].",
)
@click.option(
    "--mask-wrong-step/--train-wrong-step",
    default=True,
    show_default=True,
    help="Whether a wrong step that is told before it is corrected carries loss.",
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
@click.option("--unmatched", is_flag=True, help="A further file, cot_unmatched: the paper's main table.")
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
    formats: tuple[str, ...],
    paths_path: Path | None,
    right_paths: int | None,
    mask_wrong_step: bool,
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
    """Build the training files of the arms: `cot` and `lema`, or those that --format names.

    One file a format, with the same plain rationales and an example for each correction; preference has pairs alone.
    docs/formats.md shows each.

    With --test each file is checked for test questions: the same text, the same but for its numbers, 13 words in a
    row. OUT/ARM.contamination.json says what was found and what was done.

    \b
    Example:
      lema build --questions gsm8k:train.jsonl --accepted accepted.jsonl --test gsm8k:test.jsonl --out files
      lema build --questions q.jsonl --accepted a.jsonl --out files --format cot,lema,restart,preference
      lema build --questions q.jsonl --accepted a.jsonl --out files --format critique --paths paths.jsonl
    """
    from lema_local.datasets import load_questions
    from lema_local.jsonl import read_records
    from lema_local.records import Correction, Rationale, ReasoningPath
    from lema_local.stages.build import build_arms, remove_contaminated, write_arms

    names = _read_formats(formats, unmatched=unmatched)
    settings = _build_settings(
        match=match, layout=layout, allow_test=allow_test, leave_out=list(leave_out),
        mask_wrong_step=mask_wrong_step, right_paths=right_paths,
        **({"remove_contaminated": []} if contaminated == "list" else {}),
    )  # fmt: skip
    rationales = read_records(rationales_path, Rationale) if rationales_path else []
    asked = load_questions(questions)
    paths = read_records(paths_path, ReasoningPath) if paths_path else []
    accepted = read_records(accepted_path, Correction)
    built = build_arms(asked, accepted, rationales, settings, names, paths)
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


def _read_formats(given: tuple[str, ...], *, unmatched: bool) -> tuple[Arm, ...]:
    """Return the arms to build.

    Raises:
        UsageError: If one is not known, with the nearest name.
    """
    import difflib

    from lema_local.formats import ARMS
    from lema_local.stages.build import ALWAYS

    names = [name.strip() for one in given for name in one.split(",") if name.strip()]
    for name in names:
        if name not in ARMS:
            near = difflib.get_close_matches(name, ARMS, n=1)
            meant = f" (did you mean '{near[0]}'?)" if near else ""
            raise click.UsageError(f"--format {name}: no such format{meant}; there are {', '.join(ARMS)}")
    wanted = [arm for arm in ARMS if arm in (names or ALWAYS) or (unmatched and arm == "cot_unmatched")]
    return tuple(wanted)


def _build_settings(**given: Any) -> BuildSettings:
    from lema_local.cli.settings import check_settings
    from lema_local.stages.build import BuildSettings

    return check_settings(BuildSettings, given, "lema build")


def _match(
    arms: Built, settings: BuildSettings, student: str | None
) -> tuple[Built, dict[str, dict[str, int]]]:
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
    names = dict.fromkeys(name for count in counts.values() for name in count)
    widths = {arm: max(12, len(arm) + 2) for arm in counts}
    lines = [f"{'':22s}" + "".join(f"{arm:>{widths[arm]}s}" for arm in counts)]
    lines += [
        f"{name.replace('_', ' '):22s}"
        + "".join(f"{count.get(name, 0):{widths[arm]}d}" for arm, count in counts.items())
        for name in names
    ]
    return "\n".join(lines)
