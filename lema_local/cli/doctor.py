"""`lema doctor`: what works on this machine, and the command that mends what does not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--student", metavar="GGUF", help="Decode this student [the recipe's, else the embedded one].")
@click.option("--teacher", metavar="MODEL", help="See whether this teacher can be asked; nothing is spent.")
@click.option("--teacher-url", metavar="URL", help="An OpenAI-compatible endpoint that has to answer.")
@click.option("--json", "is_json", is_flag=True, help="Print as JSON.")
def doctor(
    recipe: Path | None, student: str | None, teacher: str | None, teacher_url: str | None, is_json: bool
) -> None:
    """Say what works on this machine: each line ok, warning or failed, with the command that mends it.

    llama.cpp decodes, bitsandbytes computes gradients through NF4 weights, both for real and each in a process of
    its own. Nothing outside this machine is asked but a teacher that you name. No key is shown: what it prints
    is what a report of a problem should hold. The exit code is 1 where something failed.

    \b
    Example:
      lema doctor
      lema doctor my.yaml --teacher openai/qwen --teacher-url http://127.0.0.1:8080/v1
      lema doctor --json > doctor.json
    """
    from lema_local.doctor import Asked, Check, examine
    from lema_local.teachers.secrets import mask_secrets

    found: list[Check] = []
    for check in examine(Asked(_student(recipe, student), teacher, teacher_url)):
        found.append(check)
        if not is_json:
            _show(check)
    if is_json:
        click.echo(mask_secrets(json.dumps([asdict(check) for check in found], indent=2)))
    if any(check.state == "failed" for check in found):
        click.get_current_context().exit(1)


def _student(recipe: Path | None, student: str | None) -> str:
    """Return the student that is to be decoded."""
    from lema_local.recipe import StudentBlock, load_recipe
    from lema_local.wiring import student_file

    if student is not None:
        return student
    block = load_recipe(recipe).student if recipe is not None else StudentBlock(model="quickstart")
    return student_file(block)


def _show(check: object) -> None:
    from lema_local.doctor import Check
    from lema_local.teachers.secrets import mask_secrets

    assert isinstance(check, Check)
    click.echo(
        f"{click.style(f'{check.state:8}', fg=COLOURS[check.state])} {check.name:12} {mask_secrets(check.text)}"
    )
    if check.mend:
        click.echo(f"{'':8} {'':12} mend: {check.mend}")
