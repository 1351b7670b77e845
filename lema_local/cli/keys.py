"""`lema keys`: providers' keys in a file that only its owner may read."""

from __future__ import annotations

import json
import os
import sys

import click


@click.group()
def keys() -> None:
    """Keep providers' keys.

    Keys are looked for in the environment first, then in a file under LEMA_HOME that only you may read. They are
    never taken from a recipe or a command line.

    \b
    Example:
      lema keys set OPENAI_API_KEY
    """


@keys.command("set")
@click.argument("name")
def set_command(name: str) -> None:
    """Keep the key NAME (an environment variable's name); it is asked for, or read from stdin.

    \b
    Examples:
      lema keys set OPENAI_API_KEY
      pass show openai | lema keys set OPENAI_API_KEY
    """
    from lema_local.cli.progress import notice
    from lema_local.keys import keys_path, set_key

    value = click.prompt(name, hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    set_key(name, value)
    notice(f"{name} is kept in {keys_path()}")
    if os.environ.get(name) not in {None, value.strip()}:
        notice(f"the environment has another {name}, which goes before the file")


@keys.command("list")
@click.option("--json", "is_json", is_flag=True, help="Print names and places as JSON.")
def list_command(is_json: bool) -> None:
    """List the names of the keys in the file and in the environment, and which of the two counts.

    \b
    Example:
      lema keys list
    """
    from lema_local.keys import read_keys

    kept = read_keys()
    seen = {
        name
        for name, value in os.environ.items()
        if value and name.endswith(("_API_KEY", "LEMA_TEACHER_KEY"))
    }
    places = {
        name: "environment" if name in seen or name in os.environ else "file"
        for name in sorted({*kept, *seen})
    }
    if is_json:
        click.echo(json.dumps(places))
        return
    for name, place in places.items():
        hidden = " (another one in the file)" if place == "environment" and name in kept else ""
        click.echo(f"{name}  {place}{hidden}")


@keys.command("remove")
@click.argument("name")
def remove_command(name: str) -> None:
    """Forget the key NAME of the file.

    \b
    Example:
      lema keys remove OPENAI_API_KEY
    """
    from lema_local.keys import remove_key

    remove_key(name)


@keys.command("path")
def path_command() -> None:
    """Print where the file stands.

    \b
    Example:
      lema keys path
    """
    from lema_local.keys import keys_path

    click.echo(str(keys_path()))
