"""`lema evolve`: let a teacher write new questions after those that corrections could be made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lema_local.cli.progress import progress_bar
from lema_local.cli.teachers import (
    fallback_options,
    lend_team,
    obey_offline,
    print_summary,
    teacher_options,
    told_budget,
)

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("corrections", type=_FILE)
@click.option("--questions", required=True, metavar="QUESTIONS", help="The questions that were corrected.")
@teacher_options
@click.option("--out", required=True, type=_FILE, metavar="QUESTIONS", help="Where the new questions go.")
@click.option(
    "--count", type=click.IntRange(min=1), default=1000, show_default=True, help="Questions asked for."
)
@click.option(
    "--seeds",
    type=click.Choice(["corrections", "all"]),
    default="corrections",
    show_default=True,
    help="Draw seeds from the questions of accepted corrections, or from all.",
)
@click.option(
    "--test",
    "tests",
    multiple=True,
    metavar="QUESTIONS",
    help="Test questions not to be copied (repeatable).",
)
@click.option("--votes", type=click.IntRange(min=1), default=3, show_default=True, help="Answers a question.")
@click.option(
    "--temperature", type=click.FloatRange(0, 2), default=0.7, show_default=True, help="Of the teacher."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw of the seed questions.")
@click.option("--prompt", default="evolve-math", show_default=True, help="Asks for a new question.")
@click.option(
    "--answer-prompt", default="augment-math", show_default=True, help="Asks for the answers to it."
)
@fallback_options
def evolve(
    corrections: Path, questions: str, out: Path, count: int, tests: tuple[str, ...], **flags: Any
) -> None:
    """Let a teacher write new questions after those that CORRECTIONS could be made for.

    Each new question is answered several times; its gold answer is what most of these say, and one whose answers all
    differ is dropped. Near copies of their seeds, of each other and of test questions are dropped too. All of it, with
    answers, votes and reasons, stands in OUT's `.evolved.jsonl`; OUT holds those that are kept, ready for lema sample.

    \b
    Example:
      lema evolve accepted.jsonl --questions gsm8k:train.jsonl --teacher gpt-4o --count 500 --max-usd 5 \\
        --test gsm8k:test.jsonl --out new-questions.jsonl
    """
    from lema_local.datasets import load_questions
    from lema_local.jsonl import read_records, write_records
    from lema_local.prompts import load_cot_prompt
    from lema_local.records import Correction, EvolvedQuestion
    from lema_local.stages.evolve import EvolveSettings, draw_seeds, reject_copies, to_questions
    from lema_local.teachers.scheduler import DeskSettings
    from lema_local.teamwork import evolve_into_file

    obey_offline(flags)
    names = EvolveSettings.model_fields.keys() & flags.keys()
    settings = EvolveSettings.model_validate({"questions": count, **{name: flags[name] for name in names}})
    prompts = load_cot_prompt(flags["prompt"]), load_cot_prompt(flags["answer_prompt"])
    known = load_questions(questions)
    test = [question for source in tests for question in load_questions(source)]
    accepted = [one for one in read_records(corrections, Correction) if one.verdict == "accepted"]
    draws = draw_seeds(known, accepted, settings)
    whole = out.with_suffix(".evolved.jsonl")
    desk_settings = DeskSettings.from_stage(settings, is_fresh=flags["fresh"])
    with (
        lend_team(desk_settings, str(out.resolve()), flags) as team,
        progress_bar("evolve", len(draws)) as update,
        told_budget(f"{whole}.partial", flags),
    ):

        def judge(records: list[EvolvedQuestion]) -> list[EvolvedQuestion]:
            return reject_copies(records, known, test)

        records = evolve_into_file(
            whole, draws, team, prompts, settings, judge,
            on_progress=lambda done: update(done, cost=f"${team.count.cost_usd:.4f}"), is_fresh=flags["fresh"],
        )  # fmt: skip
        write_records(out, to_questions(records, known))
        print_summary("question", len(draws), records, team, is_json=flags["is_json"])
