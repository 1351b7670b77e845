"""`lema correct` and `lema augment`: let a teacher write."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.cli.journal import journal as journal
from lema_local.cli.progress import notice, progress_bar

if TYPE_CHECKING:
    from lema_local.records import Correction, Rationale
    from lema_local.stages.correct import CorrectSettings, Mistake
    from lema_local.teachers import MistakePrompt
    from lema_local.teachers.desk import TeacherDesk
    from lema_local.teachers.scheduler import DeskSettings

_FILE = click.Path(path_type=Path, dir_okay=False)


def teacher_options(command: Any) -> Any:
    """Add the options that name a teacher and bound what it does."""
    options = (
        click.option(
            "--teacher", required=True, metavar="MODEL", help="A LiteLLM model name, or 'reference'."
        ),
        click.option("--teacher-url", metavar="URL", help="An OpenAI-compatible endpoint."),
        click.option(
            "--price-in",
            type=click.FloatRange(min=0),
            metavar="USD",
            help="Dollars per million prompt tokens [LiteLLM's price; 0 for local endpoints].",
        ),
        click.option(
            "--price-out",
            type=click.FloatRange(min=0),
            metavar="USD",
            help="Dollars per million reply tokens.",
        ),
        click.option("--max-usd", type=click.FloatRange(min=0), help="Spend at most so many dollars on OUT."),
        click.option(
            "--max-calls", type=click.IntRange(min=0), help="Send at most so many requests for OUT."
        ),
        click.option(
            "--concurrency",
            type=click.IntRange(min=1),
            default=8,
            show_default=True,
            help="Calls in flight at most.",
        ),
        click.option("--rpm", type=click.IntRange(min=1), help="Requests a minute at most."),
        click.option(
            "--tpm", type=click.IntRange(min=1), help="Tokens a minute at most, of prompts and replies."
        ),
        click.option(
            "--timeout", "timeout_s", type=float, default=300.0, show_default=True, help="Seconds a call."
        ),
        click.option(
            "--retries",
            type=click.IntRange(min=0),
            default=8,
            show_default=True,
            help="Further tries of a call.",
        ),
        click.option(
            "--max-tokens", type=click.IntRange(min=1), default=1024, show_default=True, help="Of a reply."
        ),
        click.option(
            "--offline", is_flag=True, help="Forbid every connection but to a local --teacher-url or Ollama."
        ),
        click.option("--fresh", is_flag=True, help="Ask anew, also what OUT and the journal hold."),
        click.option("--json", "is_json", is_flag=True, help="Print the summary as JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def _desk(settings: DeskSettings, out: Path, flags: dict[str, Any]) -> Iterator[TeacherDesk]:
    """Lend a desk for one output file, from the flags of `teacher_options`."""
    from lema_local.teachers import open_desk, open_teacher
    from lema_local.teachers.journal import Journal

    teacher = open_teacher(
        flags["teacher"], url=flags["teacher_url"], price_in=flags["price_in"], price_out=flags["price_out"]
    )
    caps = {"max_usd": flags["max_usd"], "max_calls": flags["max_calls"]}
    with (
        Journal() as journal,
        open_desk(teacher, journal, settings, scope=str(out.resolve()), **caps) as desk,
    ):
        yield desk


def _go_offline(teacher: str, url: str | None) -> None:
    from lema_local.errors import InputError
    from lema_local.teachers import endpoint_of, needs_no_endpoint
    from lema_local.teachers.offline import go_offline

    where = endpoint_of(teacher, url)
    if where is None and not needs_no_endpoint(teacher):
        raise InputError(
            f"the teacher {teacher} cannot be asked with --offline",
            hint="name a local endpoint with --teacher-url, or a teacher that needs none: reference, llamacpp/PATH",
        )
    go_offline(where)


@contextmanager
def _told_budget(out: Path, flags: dict[str, Any]) -> Iterator[None]:
    """Say with a used-up budget which command goes on."""
    from lema_local.cli.resuming import same_command
    from lema_local.errors import BudgetReached

    try:
        yield
    except BudgetReached as err:
        larger = {name: 2 * flags[name] or 1 for name in ("max_usd", "max_calls") if flags[name] is not None}
        raise BudgetReached(
            f"{err}; what was made is kept in {out}.partial", hint=same_command(fresh=None, **larger)
        ) from err


@click.command()
@click.argument("paths", type=_FILE)
@click.option("--questions", required=True, metavar="QUESTIONS", help="The questions that were sampled on.")
@teacher_options
@click.option("--out", required=True, type=_FILE, metavar="CORRECTIONS", help="Where corrections go.")
@click.option("--prompt", default="correct-gsm8k", show_default=True, help="A prompt's name, or its file.")
@click.option("--limit", type=click.IntRange(min=1), help="Correct at most so many mistakes.")
@click.option(
    "--max-per-question", type=click.IntRange(min=1), help="At most so many mistakes of one question."
)
@click.option(
    "--include",
    multiple=True,
    type=click.Choice(["wrong", "no_answer", "truncated"]),
    default=("wrong",),
    show_default=True,
    help="Which paths are mistakes (repeatable).",
)
@click.option(
    "--attempts",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Corrections per mistake until one is accepted.",
)
@click.option(
    "--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True, help="Of first attempts."
)
@click.option("--show-gold", is_flag=True, help="Show the teacher the gold rationale.")
def correct(paths: Path, questions: str, out: Path, prompt: str, **flags: Any) -> None:
    """Let a teacher correct the mistakes among PATHS.

    The same command again goes on where it stopped; failed ones are tried again. Replies stand in the journal, so
    that no request is paid twice, in this command or another.

    \b
    Example:
      lema correct paths.jsonl --questions gsm8k:train.jsonl --teacher gpt-4o --max-usd 5 --out corrections.jsonl
    """
    from lema_local.datasets import load_questions
    from lema_local.jsonl import read_records
    from lema_local.prompts import load_correction_prompt
    from lema_local.records import ReasoningPath
    from lema_local.stages.correct import select_mistakes
    from lema_local.teachers import prompt_for
    from lema_local.teachers.scheduler import DeskSettings

    if flags["offline"]:
        _go_offline(flags["teacher"], flags["teacher_url"])
    settings = correct_settings(flags)
    correction_prompt = load_correction_prompt(prompt)
    mistakes = list(select_mistakes(read_records(paths, ReasoningPath), load_questions(questions), settings))
    desk_settings = DeskSettings.from_stage(settings, is_fresh=flags["fresh"])
    with _desk(desk_settings, out, flags) as desk:
        records = _correct(mistakes, desk, prompt_for(desk, correction_prompt), settings, out, flags)
        _print_summary("mistake", len(mistakes), records, desk, is_json=flags["is_json"])


def correct_settings(flags: dict[str, Any]) -> CorrectSettings:
    """Return the stage's settings from the options of `lema correct`."""
    from lema_local.stages.correct import CorrectSettings

    names = CorrectSettings.model_fields.keys() & flags.keys()
    return CorrectSettings.model_validate(
        {name: flags[name] for name in names} | {"shows_gold": flags["show_gold"]}
    )


def _correct(
    mistakes: Sequence[Mistake],
    desk: TeacherDesk,
    prompt: MistakePrompt,
    settings: CorrectSettings,
    out: Path,
    flags: dict[str, Any],
) -> list[Correction]:
    from lema_local.records import Correction
    from lema_local.resuming import ResumedFile
    from lema_local.stages.correct import correct_mistakes, path_key

    order = [path_key(path) for _, path in mistakes]
    with ResumedFile(out, Correction, path_key, is_fresh=flags["fresh"]) as file:
        _check_same(mistakes, file.kept, desk, prompt, settings, out)
        left = [mistake for mistake in mistakes if path_key(mistake[1]) not in file.kept]
        verdicts = Counter(record.verdict for record in file.records(order))
        with progress_bar("correct", len(mistakes)) as update, _told_budget(out, flags):
            for correction in correct_mistakes(left, desk, prompt, settings):
                file.append(correction)
                verdicts[correction.verdict] += 1
                update(
                    verdicts.total(),
                    **{str(k): v for k, v in verdicts.items()},
                    cost=f"${desk.count.cost_usd:.4f}",
                )
        return file.finish(order)


def _check_same(
    mistakes: Sequence[Mistake],
    kept: dict[Any, Correction],
    desk: TeacherDesk,
    prompt: MistakePrompt,
    settings: CorrectSettings,
    out: Path,
) -> None:
    """Make sure that what stands from earlier goes was made in the same way.

    Raises:
        InputError: If a correction was made by another teacher, with another prompt or other settings.
    """
    from lema_local.errors import InputError
    from lema_local.stages.correct import build_request, path_key

    for question, path in mistakes:
        found = kept.get(path_key(path))
        if found is None or found.reply_key is None:
            continue
        request = build_request(question, path, prompt, settings, found.attempt)
        if found.reply_key.partition(".")[0] != desk.key_of(request):
            by = (
                f"by {found.teacher}"
                if found.teacher != desk.name
                else "with another prompt or other settings"
            )
            raise InputError(
                f"{out} holds corrections that were made {by}",
                hint="choose another --out, or --fresh to make them anew",
            )


@click.command()
@click.argument("questions", metavar="QUESTIONS")
@teacher_options
@click.option("--out", required=True, type=_FILE, metavar="RATIONALES", help="Where rationales go.")
@click.option("--prompt", default="augment-gsm8k", show_default=True, help="A prompt's name, or its file.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask about at most so many questions.")
@click.option(
    "--count",
    "rationales_per_question",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Rationales asked for per question.",
)
@click.option(
    "--temperature", type=click.FloatRange(0, 2), default=0.7, show_default=True, help="Of the teacher."
)
def augment(questions: str, out: Path, prompt: str, **flags: Any) -> None:
    """Let a teacher write further rationales for QUESTIONS.

    Kept are those that reach the gold answer in steps and differ in their equations.

    \b
    Example:
      lema augment gsm8k:train.jsonl --teacher gpt-4o --count 4 --max-usd 5 --out rationales.jsonl
    """
    from lema_local.datasets import load_questions
    from lema_local.prompts import load_cot_prompt
    from lema_local.records import Rationale
    from lema_local.resuming import ResumedFile
    from lema_local.stages.augment import AugmentSettings, augment_rationales
    from lema_local.teachers.scheduler import DeskSettings

    if flags["offline"]:
        _go_offline(flags["teacher"], flags["teacher_url"])
    names = AugmentSettings.model_fields.keys() & flags.keys()
    settings = AugmentSettings.model_validate({name: flags[name] for name in names})
    asked = load_questions(questions, limit=settings.limit)
    attempts = range(settings.rationales_per_question)
    order = [(question.id, attempt) for question in asked for attempt in attempts]
    with (
        _desk(DeskSettings.from_stage(settings, is_fresh=flags["fresh"]), out, flags) as desk,
        ResumedFile(out, Rationale, _rationale_key, is_fresh=flags["fresh"]) as file,
    ):
        left = [one for one in asked if not all((one.id, attempt) in file.kept for attempt in attempts)]
        before = len(order) - len(left) * len(attempts)
        with progress_bar("augment", len(order)) as update, _told_budget(out, flags):
            made = augment_rationales(left, desk, load_cot_prompt(prompt), settings)
            for done, rationale in enumerate(made, before + 1):
                file.append(rationale)
                update(done, cost=f"${desk.count.cost_usd:.4f}")
        records = file.finish(order)
        _print_summary("rationale", len(order), records, desk, is_json=flags["is_json"])


def _rationale_key(record: Rationale) -> tuple[str, int]:
    return record.question_id, record.attempt


def _print_summary(
    noun: str, total: int, records: Sequence[Correction | Rationale], desk: TeacherDesk, *, is_json: bool
) -> None:
    verdicts = Counter(record.verdict for record in records)
    reasons = Counter(_shorten(record.reason) for record in records if record.reason)
    count = desk.count
    summary = {
        "teacher": desk.name,
        "total": total,
        **{verdict: verdicts[verdict] for verdict in ("accepted", "rejected", "failed")},
        "reasons": dict(reasons.most_common()),
        "calls": count.calls,
        "from_journal": count.from_journal,
        "cut": count.cut,
        "empty": count.empty,
        "filtered": count.filtered,
        "unknown_calls": count.unknown,
        "faults": dict(count.faults.most_common()),
        "cost_usd": round(count.cost_usd, 6),
        "scope_cost_usd": round(desk.budget.spent_usd, 6),
    }
    if is_json:
        click.echo(json.dumps(summary))
        return
    parts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("accepted", "rejected", "failed"))
    click.echo(f"{total} {noun}s: {parts}")
    for reason, number in reasons.most_common(10):
        click.echo(f"  {number:5d}  {reason}")
    click.echo(
        f"{desk.name}: {count.calls} calls, {count.from_journal} replies from the journal, "
        f"${count.cost_usd:.4f} now, ${desk.budget.spent_usd:.4f} in all for this file"
    )
    if count.unknown:
        notice(
            f"{count.unknown} calls got no reply and may have been billed; they are counted at their worst case"
        )


def _shorten(reason: str) -> str:
    """Return a reason without the answers in it, so that equal ones can be counted."""
    return re.sub(r"final answer .* is not the gold answer .*", "final answer is not the gold answer", reason)
