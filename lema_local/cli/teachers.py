"""`lema correct` and `lema augment`: let a teacher write."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.cli.journal import journal as journal
from lema_local.cli.progress import notice, progress_bar

if TYPE_CHECKING:
    from lema_local.records import Correction, EvolvedQuestion, Rationale
    from lema_local.stages.correct import CorrectSettings, Mistake
    from lema_local.teachers import MistakePrompt
    from lema_local.teachers.scheduler import DeskSettings
    from lema_local.teachers.settings import TeacherSettings
    from lema_local.teachers.team import Team

_FILE = click.Path(path_type=Path, dir_okay=False)


def teacher_options(command: Any) -> Any:
    """Add the options that name a teacher and bound what it does."""
    options = (
        click.option(
            "--teacher",
            "teachers",
            required=True,
            multiple=True,
            metavar="MODEL[=WEIGHT]",
            help="A LiteLLM model name, llamacpp/PATH.gguf, or 'reference'. Several share the work by weight.",
        ),
        click.option(
            "--teacher-url",
            "teacher_urls",
            multiple=True,
            metavar="URL",
            help="An OpenAI-compatible endpoint; with several teachers one each, in their order, '-' for none.",
        ),
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
        click.option("--system-prompt", metavar="TEXT", help="Said to the teachers first [nothing]."),
        click.option(
            "--reasoning-effort",
            type=click.Choice(["none", "minimal", "low", "medium", "high"]),
            help="Of thinking models [the provider's default].",
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


def fallback_options(command: Any) -> Any:
    """Add the options that name a fallback teacher."""
    options = (
        click.option("--fallback", metavar="MODEL", help="A teacher for what the others failed on."),
        click.option("--fallback-url", metavar="URL", help="The fallback's endpoint."),
        click.option(
            "--fallback-price-in",
            type=click.FloatRange(min=0),
            metavar="USD",
            help="As --price-in, for the fallback.",
        ),
        click.option(
            "--fallback-price-out",
            type=click.FloatRange(min=0),
            metavar="USD",
            help="As --price-out, for the fallback.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def read_teachers(flags: dict[str, Any]) -> list[TeacherSettings]:
    """Return the teachers that the flags name.

    Raises:
        InputError: If there are more URLs than teachers.
    """
    from lema_local.errors import InputError
    from lema_local.teachers.settings import TeacherSettings

    names, urls = flags["teachers"], flags["teacher_urls"]
    if len(urls) > len(names):
        raise InputError(
            f"{len(urls)} times --teacher-url, but {len(names)} teachers",
            hint="one URL for each, in their order",
        )
    _check_urls(urls)
    common = {key: flags[key] for key in ("price_in", "price_out", "system_prompt", "reasoning_effort")}
    found = []
    for name, url in zip(names, [*urls, *["-"] * (len(names) - len(urls))], strict=True):
        model, weight = _cut_weight(name)
        found.append(
            TeacherSettings(
                model=model, weight=weight, url=None if url == "-" else url, **_for_model(model, common)
            )
        )
    return found


def _check_urls(urls: Sequence[str | None]) -> None:
    """Refuse a key in a URL, in our words: those of the settings' own check would repeat it."""
    from lema_local.keys import check_url
    from lema_local.teachers import ENDPOINT_KEY

    for url in urls:
        check_url(url or "", ENDPOINT_KEY)


def _for_model(model: str, common: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the teachers without an endpoint have no use for, so that they can stand beside the others."""
    from lema_local.teachers import needs_no_endpoint

    useless = {"price_in", "price_out", "reasoning_effort"} if needs_no_endpoint(model) else set()
    return {key: value for key, value in common.items() if key not in useless}


def _cut_weight(name: str) -> tuple[str, float]:
    """Return a teacher's name and weight: `gpt-4o=3`.

    Raises:
        InputError: If the weight is not above 0.
    """
    from lema_local.errors import InputError

    model, equals, weight = name.rpartition("=")
    try:
        number = float(weight)
    except ValueError:
        return name, 1.0
    if not equals:
        return name, 1.0
    if not 0 < number < float("inf"):
        raise InputError(f"--teacher {name}: a weight is above 0", hint=f"such as {model}=2")
    return model, number


def _read_fallback(flags: dict[str, Any]) -> TeacherSettings | None:
    from lema_local.teachers.settings import TeacherSettings

    if flags.get("fallback") is None:
        return None
    common = {
        "price_in": flags["fallback_price_in"],
        "price_out": flags["fallback_price_out"],
        "system_prompt": flags["system_prompt"],
    }
    _check_urls([flags["fallback_url"]])
    return TeacherSettings(
        model=flags["fallback"], url=flags["fallback_url"], **_for_model(flags["fallback"], common)
    )


@contextmanager
def lend_team(settings: DeskSettings, scope: str, flags: dict[str, Any]) -> Iterator[Team]:
    """Lend the teachers that the flags of `teacher_options` name; what they spend counts for `scope`."""
    from lema_local.teachers.journal import Journal
    from lema_local.teachers.team import Team

    chosen, fallback = read_teachers(flags), _read_fallback(flags)
    caps = {"max_usd": flags["max_usd"], "max_calls": flags["max_calls"]}
    with (
        Journal() as journal,
        Team(chosen, fallback, journal, settings, scope=scope, **caps) as team,
    ):
        yield team


def obey_offline(flags: dict[str, Any]) -> None:
    """With --offline, forbid all other connections: before anything is read, for questions can be on the hub."""
    if not flags["offline"]:
        return
    from lema_local.teachers.offline import keep_to

    fallback = _read_fallback(flags)
    keep_to([*read_teachers(flags), *([fallback] if fallback else [])])


@contextmanager
def told_budget(kept_in: object, flags: dict[str, Any]) -> Iterator[None]:
    """Say with a used-up budget which command goes on."""
    from lema_local.cli.resuming import same_command
    from lema_local.errors import BudgetReached

    try:
        yield
    except BudgetReached as err:
        larger = {name: 2 * flags[name] or 1 for name in ("max_usd", "max_calls") if flags[name] is not None}
        raise BudgetReached(
            f"{err}; what was made is kept in {kept_in}", hint=same_command(fresh=None, **larger)
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
@click.option("--show-gold", "shows_gold", is_flag=True, help="Show the teacher the gold rationale.")
@click.option(
    "--locate-first",
    "locates_first",
    is_flag=True,
    help="Two calls: first the incorrect step alone, then its correction.",
)
@click.option(
    "--ask-json", "asks_json", is_flag=True, help="Ask for JSON, of teachers that have a mode for it."
)
@fallback_options
def correct(paths: Path, questions: str, out: Path, prompt: str, **flags: Any) -> None:
    """Let a teacher correct the mistakes among PATHS.

    The same command again goes on where it stopped; failed ones are tried again. Replies stand in the journal, so
    that no request is paid twice, in this command or another.

    \b
    Examples:
      lema correct paths.jsonl --questions gsm8k:train.jsonl --teacher gpt-4o --max-usd 5 --out corrections.jsonl
      lema correct paths.jsonl --questions gsm8k:train.jsonl --teacher ollama_chat/qwen3:32b --fallback gpt-4o \\
        --max-usd 5 --out corrections.jsonl
    """
    from lema_local.datasets import load_questions
    from lema_local.jsonl import read_records
    from lema_local.prompts import load_correction_prompt
    from lema_local.records import ReasoningPath
    from lema_local.stages.correct import select_mistakes
    from lema_local.teachers.scheduler import DeskSettings

    obey_offline(flags)
    settings = correct_settings(flags)
    correction_prompt = load_correction_prompt(prompt)
    mistakes = list(select_mistakes(read_records(paths, ReasoningPath), load_questions(questions), settings))
    desk_settings = DeskSettings.from_stage(settings, is_fresh=flags["fresh"])
    with lend_team(desk_settings, str(out.resolve()), flags) as team:
        records = _correct(mistakes, team, correction_prompt, settings, out, flags)
        print_summary("mistake", len(mistakes), records, team, is_json=flags["is_json"])


def correct_settings(flags: dict[str, Any]) -> CorrectSettings:
    """Return the stage's settings from the options of `lema correct`."""
    from lema_local.stages.correct import CorrectSettings

    names = CorrectSettings.model_fields.keys() & flags.keys()
    return CorrectSettings.model_validate({name: flags[name] for name in names})


def _correct(
    mistakes: Sequence[Mistake],
    team: Team,
    prompt: MistakePrompt,
    settings: CorrectSettings,
    out: Path,
    flags: dict[str, Any],
) -> list[Correction]:
    from lema_local.records import Correction
    from lema_local.resuming import ResumedFile
    from lema_local.stages.correct import path_key
    from lema_local.teamwork import correct_with_team

    order = [path_key(path) for _, path in mistakes]
    with ResumedFile(out, Correction, is_fresh=flags["fresh"]) as file:
        left = [mistake for mistake, key in zip(mistakes, order, strict=True) if key not in file.kept]
        if file.kept:
            by_key = dict(zip(order, mistakes, strict=True))
            kept = file.sample_kept()
            known = [(by_key[path_key(one)], one) for one in kept if path_key(one) in by_key]
            _check_same(known, team, prompt, settings, out)
        verdicts = Counter(file.kept[key] for key in order if key in file.kept)
        with progress_bar("correct", len(mistakes)) as update, told_budget(f"{out}.partial", flags):
            for correction in correct_with_team(left, team, prompt, settings):
                file.append(correction)
                verdicts[correction.verdict] += 1
                update(
                    verdicts.total(),
                    **{str(k): v for k, v in verdicts.items()},
                    cost=f"${team.count.cost_usd:.4f}",
                )
        return file.finish(order)


def _check_same(
    known: Sequence[tuple[Mistake, Correction]],
    team: Team,
    prompt: MistakePrompt,
    settings: CorrectSettings,
    out: Path,
) -> None:
    """Make sure that what stands from earlier goes was made in the same way.

    Raises:
        InputError: If a correction was made by another teacher, with another prompt or other settings.
    """
    from lema_local.errors import InputError
    from lema_local.teamwork import is_made_so

    names = {member.teacher.name for member in [*team.members, *filter(None, [team.fallback])]}
    for mistake, found in known:
        if found.reply_key is not None and not is_made_so(found, mistake, team, prompt, settings):
            by = (
                f"by {found.teacher}"
                if found.teacher not in names
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
@fallback_options
def augment(questions: str, out: Path, prompt: str, **flags: Any) -> None:
    """Let a teacher write further rationales for QUESTIONS.

    Kept are those that reach the gold answer in steps and differ in their equations. A fallback teacher is asked for
    those that the first failed on.

    \b
    Example:
      lema augment gsm8k:train.jsonl --teacher gpt-4o --count 4 --max-usd 5 --out rationales.jsonl
    """
    from lema_local.datasets import load_questions
    from lema_local.prompts import load_cot_prompt
    from lema_local.records import Rationale
    from lema_local.resuming import ResumedFile
    from lema_local.stages.augment import AugmentSettings
    from lema_local.teachers.scheduler import DeskSettings
    from lema_local.teamwork import augment_with_team

    obey_offline(flags)
    names = AugmentSettings.model_fields.keys() & flags.keys()
    settings = AugmentSettings.model_validate({name: flags[name] for name in names})
    asked = load_questions(questions, limit=settings.limit)
    attempts = range(settings.rationales_per_question)
    order = [(question.id, attempt) for question in asked for attempt in attempts]
    with (
        lend_team(
            DeskSettings.from_stage(settings, is_fresh=flags["fresh"]), str(out.resolve()), flags
        ) as team,
        ResumedFile(out, Rationale, is_fresh=flags["fresh"]) as file,
    ):
        left = [one for one in asked if not all((one.id, attempt) in file.kept for attempt in attempts)]
        before = len(order) - len(left) * len(attempts)
        with progress_bar("augment", len(order)) as update, told_budget(f"{out}.partial", flags):
            made = augment_with_team(left, team, load_cot_prompt(prompt), settings)
            for done, rationale in enumerate(made, before + 1):
                file.append(rationale)
                update(done, cost=f"${team.count.cost_usd:.4f}")
        records = file.finish(order)
        print_summary("rationale", len(order), records, team, is_json=flags["is_json"])


def print_summary(
    noun: str,
    total: int,
    records: Sequence[Correction | EvolvedQuestion | Rationale],
    team: Team,
    *,
    is_json: bool,
) -> None:
    """Print what came of a teacher's work: verdicts, reasons, calls and dollars."""
    from lema_local.records import EvolvedQuestion
    from lema_local.teamwork import account_for_fallback, count_by_teacher

    verdicts = Counter(record.verdict for record in records)
    reasons = Counter(_shorten(record.reason) for record in records if record.reason)
    count, spent_usd = team.count, team.spent_usd
    by_teacher = count_by_teacher(records)
    account = account_for_fallback((one for one in records if not isinstance(one, EvolvedQuestion)), team)
    summary = {
        "teacher": team.name,
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
        "scope_cost_usd": round(spent_usd, 6),
        "by_teacher": by_teacher,
        "fallback": asdict(account) if account else None,
    }
    if is_json:
        click.echo(json.dumps(summary))
        return
    parts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("accepted", "rejected", "failed"))
    click.echo(f"{total} {noun}s: {parts}")
    for reason, number in reasons.most_common(10):
        click.echo(f"  {number:5d}  {reason}")
    if len(by_teacher) > 1:
        for teacher, row in by_teacher.items():
            told = ", ".join(f"{row[verdict]} {verdict}" for verdict in ("accepted", "rejected", "failed"))
            click.echo(f"{teacher}: {told}, ${row['cost_usd']:.4f}")
    if account:
        click.echo(account.describe())
    click.echo(
        f"{team.name}: {count.calls} calls, {count.from_journal} replies from the journal, "
        f"${count.cost_usd:.4f} now, ${spent_usd:.4f} in all for this file"
    )
    if count.unknown:
        notice(
            f"{count.unknown} calls got no reply and may have been billed; they are counted at their worst case"
        )


def _shorten(reason: str) -> str:
    """Return a reason without the answers in it, so that equal ones can be counted."""
    reason = re.sub(r"(is a near copy of) .*", r"\1 another question", reason)
    return re.sub(r"final answer .* is not the gold answer .*", "final answer is not the gold answer", reason)
