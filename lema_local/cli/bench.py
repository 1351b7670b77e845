"""`lema teachers list|bench`: which teachers there are, and which one to use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.cli.progress import notice, progress_bar
from lema_local.cli.teachers import lend_team, obey_offline, teacher_options, told_budget

if TYPE_CHECKING:
    from lema_local.teacher_bench import Agreement, Case, Figure, Finding, Rate, TeacherScore

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def teachers() -> None:
    """List teachers, or compare them on a sample of mistakes.

    \b
    Examples:
      lema teachers list
      lema teachers list gpt-4o
      lema teachers bench paths.jsonl --questions gsm8k:train.jsonl --teacher reference --teacher gpt-4o-mini
    """


@teachers.command("list")
@click.argument("pattern", default="")
@click.option("--json", "is_json", is_flag=True, help="Print as JSON.")
def list_teachers(pattern: str, is_json: bool) -> None:
    """List the kinds of teachers; with PATTERN the models whose names hold it, with their prices.

    \b
    Example:
      lema teachers list claude
    """
    from lema_local.teachers.catalogue import KINDS, find_models

    if not pattern:
        if is_json:
            click.echo(json.dumps([asdict(kind) for kind in KINDS]))
            return
        width = max(len(kind.form) for kind in KINDS)
        for kind in KINDS:
            click.echo(f"{kind.form:{width}}  {kind.what}")
        click.echo(
            "\nlema teachers list PATTERN names models with their prices; lema keys list shows the keys."
        )
        return
    models = find_models(pattern)
    if is_json:
        click.echo(json.dumps([asdict(model) for model in models]))
        return
    if not models:
        click.echo(
            f"LiteLLM's price map has no chat model with {pattern!r} in its name; it may still be asked"
        )
        return
    width = max(len(model.name) for model in models)
    click.echo(f"{'model':{width}}  {'$/M in':>9}  {'$/M out':>9}  context")
    for model in models:
        context = f"{model.context_tokens:,}" if model.context_tokens else "-"
        click.echo(
            f"{model.name:{width}}  {_dollars(model.usd_in):>9}  {_dollars(model.usd_out):>9}  {context}"
        )


def _dollars(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


@teachers.command()
@click.argument("paths", type=_FILE, required=False)
@click.option("--questions", metavar="QUESTIONS", help="The questions that PATHS were sampled on.")
@click.option(
    "--labelled",
    type=_FILE,
    metavar="FILE",
    help="Instead of PATHS: labelled solutions, in ProcessBench's form or BIG-Bench-Mistake's.",
)
@teacher_options
@click.option("--prompt", default="correct-gsm8k", show_default=True, help="A prompt's name, or its file.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Solutions in the sample."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, another sample.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True)
@click.option("--show-gold", "shows_gold", is_flag=True, help="Show the teachers the gold rationale.")
@click.option(
    "--ask-json", "asks_json", is_flag=True, help="Ask for JSON, of teachers that have a mode for it."
)
def bench(paths: Path | None, questions: str | None, labelled: Path | None, **flags: Any) -> None:
    """Compare teachers on one sample: what they get right, what a kept correction costs, how far they agree.

    The sample is the same for every teacher and every time. Replies stand in the journal: a second bench, or a run
    that asks the same, pays nothing for them.

    \b
    Examples:
      lema teachers bench paths.jsonl --questions gsm8k:train.jsonl --teacher reference --teacher gpt-4o-mini \\
        --max-usd 1
      lema teachers bench --labelled processbench.jsonl --teacher ollama_chat/qwen3:32b
    """
    from lema_local.prompts import load_correction_prompt
    from lema_local.teacher_bench import compare_findings, name_sample, score_teacher
    from lema_local.teachers.scheduler import DeskSettings

    obey_offline(flags)
    settings = _settings(flags)
    prompt = load_correction_prompt(flags["prompt"])
    cases = _read_cases(paths, questions, labelled, flags)
    sample = name_sample(cases)
    desk_settings = DeskSettings.from_stage(settings, is_fresh=flags["fresh"])
    with lend_team(desk_settings, f"bench {sample}", flags) as team, told_budget("the journal", flags):
        findings: dict[str, list[Finding]] = {}
        scores: list[TeacherScore] = []
        for member in team.members:
            name = _tell_apart(member.teacher.name, findings)
            with team.desk(member) as desk, progress_bar(name, len(cases)) as update:
                findings[name] = _bench(cases, desk, prompt, settings, member, update)
            scores.append(score_teacher(name, cases, findings[name], reads_gold=member.teacher.reads_gold))
        cost_usd, calls = team.count.cost_usd, team.count.calls
    agreements = compare_findings(findings)
    if flags["is_json"]:
        told = {"sample": sample, "cases": len(cases), "calls": calls, "cost_usd": round(cost_usd, 6)}
        told["teachers"] = [asdict(score) for score in scores]
        told["agreement"] = [asdict(one) for one in agreements]
        click.echo(json.dumps(told))
        return
    click.echo(f"{len(cases)} solutions, sample {sample}\n")
    click.echo("\n".join([*_describe(scores), "", *_describe_agreement(agreements, scores)]).rstrip())
    notice(f"{calls} calls, ${cost_usd:.4f} now")


def _bench(
    cases: Sequence[Case], desk: Any, prompt: Any, settings: Any, member: Any, update: Any
) -> list[Finding]:
    from lema_local.teacher_bench import bench_teacher
    from lema_local.teachers import prompt_for

    return bench_teacher(cases, desk, prompt_for(desk, prompt), settings, member.settings, update)


def _settings(flags: dict[str, Any]) -> Any:
    from lema_local.stages.correct import CorrectSettings

    names = CorrectSettings.model_fields.keys() & flags.keys() - {"limit", "seed"}
    return CorrectSettings.model_validate({name: flags[name] for name in names})


def _read_cases(
    paths: Path | None, questions: str | None, labelled: Path | None, flags: dict[str, Any]
) -> list[Case]:
    """Return the sample.

    Raises:
        InputError: If it is not said, or said twice, what to sample from, or if there is nothing in it.
    """
    from lema_local.datasets import load_questions, read_labelled
    from lema_local.errors import InputError
    from lema_local.jsonl import read_records
    from lema_local.records import ReasoningPath
    from lema_local.stages.correct import CorrectSettings, path_key, select_mistakes
    from lema_local.teacher_bench import cases_of_labelled, cases_of_mistakes, draw_sample

    if (paths is None) == (labelled is None):
        raise InputError("what is to be corrected?", hint="give PATHS with --questions, or --labelled FILE")
    limit, seed = flags["limit"], flags["seed"]
    if labelled is not None:
        return cases_of_labelled(draw_sample(read_labelled(labelled), limit, lambda one: one.id, seed))
    if questions is None or paths is None:
        raise InputError(f"{paths}: its questions are not named", hint="give --questions")
    found = list(
        select_mistakes(read_records(paths, ReasoningPath), load_questions(questions), CorrectSettings())
    )
    if not found:
        raise InputError(f"{paths} holds no wrong paths", hint="there is nothing to correct")
    return cases_of_mistakes(draw_sample(found, limit, lambda one: str(path_key(one[1])), seed))


def _tell_apart(name: str, taken: dict[str, Any]) -> str:
    """Return a name that no earlier teacher has: one model may be asked in two ways."""
    return next(
        candidate
        for number in range(1, len(taken) + 2)
        if (candidate := name if number == 1 else f"{name} #{number}") not in taken
    )


def _describe(scores: Sequence[TeacherScore]) -> list[str]:
    """Return the table, one column a teacher, with the reasons for what is missing."""
    reasons: list[str] = []
    rows: list[tuple[str, list[str]]] = [
        ("teacher", [score.teacher for score in scores]),
        ("corrections kept", [_rate(score.accepted, reasons) for score in scores]),
        ("first wrong step named, wrong solutions", [_rate(score.on_wrong, reasons) for score in scores]),
        ("no step named, right solutions", [_rate(score.on_right, reasons) for score in scores]),
        ("harmonic mean of the two", [_figure(score.harmonic_mean, "{:.1%}", reasons) for score in scores]),
        ("dollars a kept correction", [_figure(score.usd_per_kept, "${:.5f}", reasons) for score in scores]),
        (
            "seconds a kept correction",
            [_figure(score.seconds_per_kept, "{:.3f}", reasons) for score in scores],
        ),
        ("dollars, seconds in all", [f"${score.cost_usd:.4f}, {score.seconds:.1f}" for score in scores]),
        ("no reply", [str(score.failed) for score in scores]),
    ]
    label = max(len(name) for name, _ in rows)
    widths = [max(len(values[column]) for _, values in rows) for column in range(len(scores))]
    lines = [
        "  ".join([f"{name:{label}}", *(f"{v:>{w}}" for v, w in zip(values, widths, strict=True))])
        for name, values in rows
    ]
    lines += [f"-: {reason}" for reason in dict.fromkeys(reasons)]
    for score in scores:
        lines += [
            f"{score.teacher}: {count} not kept: {reason}" for reason, count in [*score.reasons.items()][:3]
        ]
    return lines + [f"{score.teacher}: {score.note}" for score in scores if score.note]


def _rate(rate: Rate, reasons: list[str]) -> str:
    if rate.share is None or rate.low is None or rate.high is None:
        reasons.append(rate.why_not or "")
        return "-"
    return f"{rate.hits}/{rate.n} = {rate.share:.1%} [{rate.low:.1%}, {rate.high:.1%}]"


def _figure(figure: Figure, form: str, reasons: list[str]) -> str:
    if figure.value is None:
        reasons.append(figure.why_not or "")
        return "-"
    return form.format(figure.value)


def _describe_agreement(agreements: Sequence[Agreement], scores: Sequence[TeacherScore]) -> list[str]:
    if len(scores) < 2:
        return ["Agreement: - (one teacher only)"]
    return [
        f"{one.one} and {one.other}: the same step in {_rate(one.same_step, [])};"
        f" both kept {one.both_accepted}, only the first {one.only_one_accepted},"
        f" only the second {one.only_other_accepted}"
        for one in agreements
    ]
