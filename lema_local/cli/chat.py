"""`lema chat`: ask a run's student questions in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lema_local.recipe import Recipe
    from lema_local.students.base import Prompt, Student

LEAVE = {"/exit", "/quit", "/bye"}


@click.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--arm", default="lema", show_default=True, help="lema, cot, or base as it was.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True)
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy."
)
@click.option(
    "--raw", "is_raw", is_flag=True, help="Give the text as it is, without the prompt of the training."
)
def chat(run_dir: Path, arm: str, max_tokens: int, temperature: float, is_raw: bool) -> None:
    """Ask the student of RUN questions: one a line, each one anew.

    A question is put as the arms were trained to be asked. /exit or the end of the input ends it.

    \b
    Example:
      lema chat runs/quickstart --arm lema
      echo "Tom has 3 bags of 4 apples. How many?" | lema chat runs/quickstart
    """
    from lema_local.cli.progress import notice
    from lema_local.recipe import load_recipe
    from lema_local.students.base import Completion, DecodeSettings, SampleRequest
    from lema_local.wiring import open_run_student, with_exported

    recipe = load_recipe(_recipe_path(run_dir))
    exported = None if arm == "base" else _exported_path(run_dir, arm)
    block = recipe.student.model_copy(update={"prompt_style": recipe.train.prompt_style, "slots": 1})
    settings = DecodeSettings(temperature=temperature, max_tokens=max_tokens)
    block, adapter = with_exported(block, exported)
    student = open_run_student(block, adapter=adapter)
    try:
        notice(f"{student.name}; one question a line, /exit ends")
        for number, line in enumerate(_lines()):
            prompt = line if is_raw else _ask(recipe, student, line)
            request = SampleRequest(str(number), 0, prompt, seed=number)
            for _, found in student.complete_many([request], settings):
                click.echo(found.text if isinstance(found, Completion) else f"({found.reason})")
                click.echo("")
    finally:
        student.close()


def _lines() -> Iterator[str]:
    """Yield what is typed or piped in, empty lines left out."""
    if sys.stdin.isatty():
        import contextlib

        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - makes input() editable
    while True:
        try:
            line = (input("> ") if sys.stdin.isatty() else next(sys.stdin)).strip()
        except (EOFError, StopIteration):
            return
        if line in LEAVE:
            return
        if line:
            yield line


def _ask(recipe: Recipe, student: Student, text: str) -> Prompt:
    """Return a question as the arms were trained to be asked."""
    from lema_local.prompts import load_cot_prompt
    from lema_local.records import Question

    question = Question(id="chat", dataset="chat", split="chat", question=text, gold_answer="")
    return load_cot_prompt(recipe.build.cot_prompt).render(question, student.prompt_style)


def _recipe_path(run_dir: Path) -> Path:
    from lema_local.errors import RunStateError

    path = run_dir / "recipe.yaml"
    if not path.is_file():
        raise RunStateError(
            f"{run_dir} holds no run: it has no recipe.yaml", hint="name a folder that lema run made"
        )
    return path


def _exported_path(run_dir: Path, arm: str) -> Path:
    from lema_local.errors import InputError
    from lema_local.wiring import EXPORTED

    folder = run_dir / "7_export"
    found = [path for name in EXPORTED for path in sorted(folder.glob(f"*/{name}"))]
    for path in found:
        if path.parent.name == arm:
            return path
    raise InputError(
        f"{run_dir} has no exported student of the arm {arm!r} (it has: "
        f"{', '.join(path.parent.name for path in found) or 'none yet'})",
        hint="--arm base asks the student as it was; lema run exports the arms",
    )
