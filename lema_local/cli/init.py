"""`lema init`: a few questions, and a commented recipe of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

QUESTIONS = {
    "train": ("Training questions (gsm8k:train.jsonl, own:FILE, or quickstart@train)", "quickstart@train"),
    "test": ("Test questions, never trained on", "quickstart@test"),
    "student": ("Student (a GGUF file, or quickstart for the embedded one)", "quickstart"),
    "teacher": ("Teacher (gpt-4o, ollama_chat/qwen3:32b, ..., or reference for none)", "reference"),
    "memory": ("Memory of the card to train on (auto, 8gb, 12gb, 16gb, 24gb)", "auto"),
}
"""Flag: what is asked, and what is proposed."""

RECIPE = """\
# Made by lema init.
#
#   lema plan {target}        what it will take
#   lema run {target}         run it; the same command again goes on
#   lema recipes show quickstart --resolved     every setting there is

name: {name}

questions:
  train:
    source: {train}              # sampled for mistakes; their rationales are trained on{train_more}
  test:
    - source: {test}             # evaluated on once, never trained on{test_more}

student:
  model: {student}               # sampled by llama.cpp, and the base that is trained

teacher:
  model: {teacher}               # corrects the mistakes; a key comes from the environment or lema keys set
{teacher_more}
sample:
  prompt: {prompt}               # worked examples before each question
  samples_per_question: 4        # more finds more mistakes; cost grows in step
  temperature: 0.7               # 0 = greedy: the same mistake every time

train:
  memory: {memory}               # lays a step out for the card; the result stays the same
"""


@click.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False), default=Path("my.yaml"))
@click.option("--name", help="Of the recipe and its run's folder [TARGET without its ending].")
@click.option("--train", metavar="QUESTIONS", help=QUESTIONS["train"][0])
@click.option("--test", metavar="QUESTIONS", help=QUESTIONS["test"][0])
@click.option("--student", metavar="GGUF", help=QUESTIONS["student"][0])
@click.option("--teacher", metavar="MODEL", help=QUESTIONS["teacher"][0])
@click.option("--teacher-url", metavar="URL", help="An OpenAI-compatible endpoint that serves the teacher.")
@click.option("--max-usd", type=click.FloatRange(min=0), help="Never spend more in the run.")
@click.option(
    "--memory", type=click.Choice(["auto", "8gb", "12gb", "16gb", "24gb"]), help=QUESTIONS["memory"][0]
)
def init(target: Path, **given: Any) -> None:
    """Ask a few questions and write the recipe TARGET [my.yaml]; what a flag answers is not asked.

    Without a terminal nothing is asked: what no flag answers is as proposed (the embedded problems and student).

    \b
    Example:
      lema init
      lema init my.yaml --train gsm8k:train.jsonl --test gsm8k:test.jsonl --student model.gguf --teacher gpt-4o
    """
    from lema_local.errors import InputError
    from lema_local.recipe import check_recipe
    from lema_local.runs import write_text

    if target.exists():
        raise InputError(f"{target} is there already", hint="name another file, or remove it")
    answers = {flag: _answer(flag, given[flag]) for flag in QUESTIONS}
    text = write_recipe(target, given, answers)
    import yaml

    check_recipe(yaml.safe_load(text), str(target))  # before anything is written
    write_text(target, text)
    click.echo(f"{target}\nNext: lema plan {target}, then lema run {target}")


def _answer(flag: str, given: str | None) -> str:
    question, proposed = QUESTIONS[flag]
    if given is not None or not sys.stdin.isatty():
        return given or proposed
    kind = click.Choice(["auto", "8gb", "12gb", "16gb", "24gb"]) if flag == "memory" else None
    answer: str = click.prompt(question, default=proposed, type=kind, err=True)
    return answer


def write_recipe(target: Path, given: dict[str, Any], answers: dict[str, str]) -> str:
    """Return the recipe's text; every answer stands in it as JSON, which is YAML, where it has to be quoted."""
    import json

    def limit(flag: str, count: int) -> str:
        return (
            f"\n{' ' * (4 if flag == 'train' else 6)}limit: {count}" if "quickstart" in answers[flag] else ""
        )

    more = ""
    if given.get("teacher_url"):
        more += f"  url: {json.dumps(given['teacher_url'])}\n"
    if given.get("max_usd") is not None:
        more += (
            f"  max_usd: {given['max_usd']:g}                   # reaching it stops the run; it can go on\n"
        )
    is_embedded = answers["student"] == "quickstart"
    return RECIPE.format(
        target=target,
        name=json.dumps(given.get("name") or target.stem),
        train_more=limit("train", 500),
        test_more=limit("test", 1000),
        teacher_more=more,
        prompt="cot-zero-shot" if is_embedded else "cot-gsm8k",
        **{flag: json.dumps(text) for flag, text in answers.items()},
    )
