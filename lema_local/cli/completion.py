"""`lema completion`: the shell completes commands, options, recipes and stages."""

from __future__ import annotations

import os
from pathlib import Path

import click

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
