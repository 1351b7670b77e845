"""`lema completion`: the shell completes commands, options, recipes and stages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

WHERE = {
    "bash": "echo 'eval \"$(lema completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(lema completion zsh)\"' >> ~/.zshrc",
    "fish": "lema completion fish > ~/.config/fish/completions/lema.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
def completion(shell: str | None) -> None:
    """Print what lets SHELL complete lema's commands and options.

    \b
    Examples:
      eval "$(lema completion bash)"                                   in this shell
      echo 'eval "$(lema completion bash)"' >> ~/.bashrc               from now on
      lema completion fish > ~/.config/fish/completions/lema.fish
    """
    from click.shell_completion import get_completion_class

    from lema_local.cli import lema
    from lema_local.cli.progress import notice

    name = shell or Path(os.environ.get("SHELL", "bash")).name
    kind = get_completion_class(name)
    if kind is None or name not in WHERE:
        raise click.UsageError(f"no completion for the shell {name!r}: name bash, zsh or fish")
    made = kind(lema, {}, "lema", "_LEMA_COMPLETE")
    click.echo(made.source_template % made.source_vars())
    notice(f"# from now on: {WHERE[name]}")


def complete_recipes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the shipped recipes that begin so, and let the shell add files."""
    from click.shell_completion import CompletionItem

    from lema_local.shipped import shipped_folder

    names = sorted(path.stem for path in shipped_folder("recipes").glob("*.yaml"))
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [*found, CompletionItem(incomplete, type="file")]


def complete_stages(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the stages that begin so."""
    from click.shell_completion import CompletionItem

    from lema_local.stage_runner import OF_FIRST_ROUND

    return [CompletionItem(name) for name in OF_FIRST_ROUND if name.startswith(incomplete)]
