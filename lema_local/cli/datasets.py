"""`lema dataset`: known datasets, what is wrong with a question file, and corrections to and from others."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lema_local.cli.progress import notice, progress_bar
from lema_local.cli.sharing import export, import_command, push
from lema_local.errors import InputError

if TYPE_CHECKING:
    from lema_local.datasets import Dataset
    from lema_local.records import Question


@click.group()
def dataset() -> None:
    """Datasets: list, show and check questions; export, import and push corrections.

    \b
    Example:
      lema dataset list
      lema dataset export runs/my-run --out shared
    """


dataset.add_command(export)
dataset.add_command(import_command)
dataset.add_command(push)


@dataset.command("list")
@click.option("--json", "is_json", is_flag=True, help="One JSON object a line.")
def list_command(is_json: bool) -> None:
    """List the datasets that are known by name.

    \b
    Example:
      lema dataset list
    """
    from lema_local.datasets import DATASETS

    for one in DATASETS.values():
        if is_json:
            click.echo(json.dumps(_to_json(one)))
        else:
            click.echo(f"{one.name:<8} {one.title}\n         {_describe_splits(one)}")


def _to_json(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "title": dataset.title,
        "answer_kind": dataset.answer_kind,
        "splits": dict(dataset.splits),
        "held_out": sorted(dataset.held_out),
        "source": dataset.source,
        "hub": dataset.hub.repo if dataset.hub else None,
        "licence": dataset.licence,
        "prompt": dataset.prompt,
        "correction_prompt": dataset.correction_prompt,
    }


def _describe_splits(dataset: Dataset) -> str:
    return ", ".join(
        f"{split} {size:,}{' (for evaluation only)' if split in dataset.held_out else ''}"
        for split, size in dataset.splits.items()
    )


@dataset.command()
@click.argument("name")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def show(name: str, is_json: bool) -> None:
    """Show what is known of the dataset NAME, and how to give it.

    \b
    Example:
      lema dataset show gsm8k
    """
    from lema_local.datasets import DATASETS

    if name not in DATASETS:
        raise InputError(f"unknown dataset '{name}'", hint=f"one of {', '.join(DATASETS)}")
    dataset = DATASETS[name]
    if is_json:
        click.echo(json.dumps(_to_json(dataset)))
        return
    split = next(iter(dataset.splits))
    lines = {
        "splits": _describe_splits(dataset),
        "answers": {"number": "numbers", "expression": "numbers and expressions", "choice": "choices"}[
            dataset.answer_kind
        ],
        "prompts": f"{dataset.prompt} (few-shot), {dataset.correction_prompt} (for corrections)",
        "source": dataset.source,
        "licence": dataset.licence,
        "from a file": f"{name}:FILE@{split}",
        "from the hub": _describe_hub(dataset),
    }
    click.echo(dataset.title)
    for key, value in lines.items():
        click.echo(f"  {key:<13} {value}")


def _describe_hub(dataset: Dataset) -> str:
    if dataset.hub is None:
        return "no"
    return f"{', '.join(f'{dataset.name}@{split}' for split in dataset.hub.splits)} ({dataset.hub.repo})"


@dataset.command()
@click.argument("questions", metavar="QUESTIONS")
@click.option(
    "--map",
    "mapping",
    metavar="FIELD=THEIRS,...",
    help="For own:FILE: which of its fields are question, gold_answer, gold_rationale, choices, id, split.",
)
@click.option("--examples", default=2, show_default=True, help="Questions to show.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write them as every command takes them."
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def check(questions: str, mapping: str | None, examples: int, out: Path | None, is_json: bool) -> None:
    """Check QUESTIONS: counts, kinds of answers, examples, and gold answers that do not parse.

    QUESTIONS is a JSON Lines file of questions, NAME:FILE[@SPLIT], a dataset's NAME[@SPLIT] (hub), or own:FILE.

    \b
    Examples:
      lema dataset check gsm8k:train.jsonl
      lema dataset check own:mine.csv --map question=problem,gold_answer=answer --out questions.jsonl
    """
    from lema_local.datasets import load_questions, parse_mapping

    loaded = load_questions(questions, mapping=parse_mapping(mapping))
    kinds, problems = _check_golds(loaded)
    report = {
        "questions": len(loaded),
        "splits": dict(Counter(f"{question.dataset}/{question.split}" for question in loaded)),
        "answers": dict(kinds.most_common()),
        "with_rationale": sum(question.gold_rationale is not None for question in loaded),
        "with_choices": sum(question.choices is not None for question in loaded),
        "problems": problems,
    }
    if is_json:
        click.echo(json.dumps(report))
    else:
        _print_report(report, loaded[:examples])
    if problems:
        raise InputError(
            f"{len(problems)} gold answer(s) of {questions} do not parse", hint="mend or leave them out"
        )
    if out is not None:
        from lema_local.jsonl import write_records

        write_records(out, loaded)
        notice(f"written: {out}")


def _check_golds(questions: list[Question]) -> tuple[Counter[str], list[str]]:
    from lema_local.answers.grading import describe_gold, find_gold_problem
    from lema_local.answers.symbolic import map_answers

    kinds: Counter[str] = Counter()
    problems = []
    found = zip(questions, map_answers(find_gold_problem, questions), strict=True)
    with progress_bar("check", len(questions)) as update:
        for done, (question, problem) in enumerate(found, 1):
            kinds["unreadable" if problem else describe_gold(question)] += 1
            if problem:
                problems.append(f"{question.id}: {problem}")
            update(done)
    return kinds, problems


def _print_report(report: dict[str, Any], examples: list[Question]) -> None:
    def counts(values: dict[str, int]) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in values.items())

    click.echo(f"{report['questions']:,} questions ({counts(report['splits'])})")
    click.echo(f"  answers         {counts(report['answers'])}")
    click.echo(f"  with rationale  {report['with_rationale']:,}")
    click.echo(f"  with choices    {report['with_choices']:,}")
    for question in examples:
        click.echo(f"\n{question.id}\n  {' '.join(question.question.split())[:300]}")
        if question.choices:
            click.echo(f"  choices: {' | '.join(question.choices)}")
        click.echo(f"  gold: {question.gold_answer}")
    for problem in report["problems"][:20]:
        notice(f"  - {problem}")
    if len(report["problems"]) > 20:
        notice(f"  and {len(report['problems']) - 20} more")
