"""`lema init`: a few questions, and a commented recipe of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

MEMORY = click.Choice(["auto", "8gb", "12gb", "16gb", "24gb"])
QUESTIONS = {
    "train": ("Training questions (gsm8k:train.jsonl, own:FILE, or quickstart@train)", "quickstart@train"),
    "test": ("Test questions, never trained on", "quickstart@test"),
    "map": ("Fields of your file (question=problem,gold_answer=answer,gold_rationale=solution)", ""),
    "student": ("Student (a GGUF file, or quickstart for the embedded one)", "quickstart"),
    "teacher": ("Teacher (gpt-4o, ollama_chat/qwen3:32b, ..., or reference for none)", "reference"),
    "memory": ("Memory of the card to train on (auto: this machine's)", "auto"),
}
"""Flag: what is asked, and what is proposed. `map` is asked for own files only."""

RECIPE = """\
# Made by lema init.
#
#   lema plan {target}        what it will take
#   lema run {target}         run it; the same command again goes on
#   lema recipes show quickstart --resolved     every setting there is

name: {name}

questions:
  train:
    source: {train}	# sampled for mistakes; their rationales are trained on{train_more}
{validation}  test:
    - source: {test}	# evaluated on once, never trained on{test_more}

student:
  model: {student}	# sampled by llama.cpp, and the base that is trained{student_more}

teacher:
  model: {teacher}	# corrects the mistakes; a key comes from the environment or lema keys set
{teacher_more}
sample:
  prompt: {prompt}	# worked examples before each question
  samples_per_question: 4	# more finds more mistakes; cost grows in step
  temperature: 0.7	# 0 = greedy: the same mistake every time

correct:
  prompt: {correction_prompt}	# worked examples for the teacher (reference needs none)
{build}
train:
  memory: {memory}	# lays a step out for the card; the result stays the same
  epochs: 3	# passes over the training file
"""


@click.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False), default=Path("my.yaml"))
@click.option("--name", help="Of the recipe and its run's folder [TARGET without its ending].")
@click.option("--train", metavar="QUESTIONS", help=QUESTIONS["train"][0])
@click.option("--test", metavar="QUESTIONS", help=QUESTIONS["test"][0])
@click.option("--map", metavar="OUR=YOURS,...", help=QUESTIONS["map"][0])
@click.option("--student", metavar="GGUF", help=QUESTIONS["student"][0])
@click.option("--teacher", metavar="MODEL", help=QUESTIONS["teacher"][0])
@click.option("--teacher-url", metavar="URL", help="An OpenAI-compatible endpoint that serves the teacher.")
@click.option("--max-usd", type=click.FloatRange(min=0), help="Never spend more in the run.")
@click.option("--memory", type=MEMORY, help=QUESTIONS["memory"][0])
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
    answers: dict[str, str] = {}
    for flag in QUESTIONS:
        is_needed = flag != "map" or "own:" in answers["train"] + answers["test"]
        answers[flag] = _answer(flag, given[flag]) if is_needed else ""
    text = write_recipe(target, given, answers)
    import yaml

    check_recipe(yaml.safe_load(text), str(target))  # before anything is written
    write_text(target, text)
    click.echo(f"{target}\nNext: lema plan {target}, then lema run {target}")


def _answer(flag: str, given: str | None) -> str:
    question, proposed = QUESTIONS[flag]
    if given is not None or not sys.stdin.isatty():
        return given or proposed
    kind = MEMORY if flag == "memory" else None
    answer: str = click.prompt(question, default=proposed, type=kind, err=True, show_default=bool(proposed))
    return answer


def write_recipe(target: Path, given: dict[str, Any], answers: dict[str, str]) -> str:
    """Return the recipe's text; every answer stands in it as JSON, which is YAML, where it has to be quoted."""
    import json

    is_embedded = answers["student"] == "quickstart"
    prompt, correction_prompt, zero_shot = _prompts(answers["train"])
    text = RECIPE.format(
        target=target,
        name=json.dumps(given.get("name") or target.stem),
        train_more=_source_more(answers, "train", 4, 500),
        test_more=_source_more(answers, "test", 6, 1000),
        validation=_validation(answers["train"]),
        student_more="" if answers["memory"] == "auto" else "\n  gpu_layers: -1\t# all on the card",
        teacher_more=_teacher_more(given),
        prompt="cot-zero-shot" if is_embedded else prompt,
        correction_prompt=correction_prompt,
        build=f"\nbuild:\n  cot_prompt: {zero_shot}\n" if zero_shot != "cot-zero-shot" else "",
        **{flag: json.dumps(answer) for flag, answer in answers.items()},
    )
    return "".join(f"{_align(line)}\n" for line in text.splitlines())


def _align(line: str) -> str:
    """Put a comment, which a tab marks, in the column of the others; JSON writes no tab."""
    code, _, comment = line.partition("\t")
    return f"{code:34} {comment}".rstrip()


def _prompts(train: str) -> tuple[str, str, str]:
    """Return the dataset's prompts: for the student, for the teacher, and the one that is trained on."""
    from lema_local.datasets import DATASETS

    known = DATASETS.get(train.partition(":")[0].partition("@")[0])
    if known is None:
        return "cot-gsm8k", "correct-gsm8k", "cot-zero-shot"
    zero_shot = "cot-zero-shot-csqa" if known.name == "csqa" else "cot-zero-shot"
    return known.prompt, known.correction_prompt, zero_shot


def _source_more(answers: dict[str, str], flag: str, indent: int, limit: int) -> str:
    """Return the further lines of a source: a limit of the embedded problems, the fields of an own file."""
    import json

    from lema_local.datasets import parse_mapping

    lines = [f"limit: {limit}"] if answers[flag].startswith("quickstart@") else []
    if answers["map"] and answers[flag].startswith("own:"):
        lines.append(f"map: {json.dumps(parse_mapping(answers['map']))}\t# our field: yours")
    return "".join(f"\n{' ' * indent}{line}" for line in lines)


def _validation(train: str) -> str:
    if train.startswith("quickstart@"):
        return "  validation:\n    source: quickstart@validation\t# the checkpoint is chosen on them\n    limit: 200\n"
    comment = "cut from train: the checkpoint is chosen on them"
    return f"  validation_count: 100\t# {comment}; 0: the last one is taken\n"


def _teacher_more(given: dict[str, Any]) -> str:
    import json

    more = ""
    if given.get("teacher_url"):
        more += f"  url: {json.dumps(given['teacher_url'])}\n"
    if given.get("max_usd") is not None:
        more += f"  max_usd: {given['max_usd']:g}\t# reaching it stops the run; it can go on\n"
    return more
