"""`lema recipes`: list, show, check, copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from lema_local.cli.completion import complete_recipes


@click.group()
def recipes() -> None:
    """List, show, check or copy recipes.

    \b
    Example:
      lema recipes list
    """


@recipes.command("list")
def list_recipes() -> None:
    """List the recipes that come with lema, with the first line of each.

    \b
    Example:
      lema recipes list
    """
    from lema_local.recipe import shipped_recipes

    for name, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        click.echo(f"{name:24} {first}")


@recipes.command()
@click.argument("name", type=click.Path(path_type=Path), shell_complete=complete_recipes)
@click.option("--resolved", is_flag=True, help="With every default written out.")
def show(name: Path, resolved: bool) -> None:
    """Print a recipe.

    \b
    Example:
      lema recipes show quickstart --resolved
    """
    from lema_local.recipe import dump_recipe, find_recipe, load_recipe

    text = dump_recipe(load_recipe(name)) if resolved else find_recipe(name).read_text(encoding="utf-8")
    click.echo(text, nl=False)


@recipes.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> None:
    """Check recipes without running anything; all problems are listed.

    \b
    Example:
      lema recipes check my.yaml
    """
    from lema_local.errors import RecipeError
    from lema_local.recipe import load_recipe

    problems = []
    for file in files:
        try:
            load_recipe(file)
            click.echo(f"{file}: ok")
        except RecipeError as err:
            problems.append(str(err))
    if problems:
        raise RecipeError("\n".join(problems), hint="lema recipes show quickstart prints a full example")


@recipes.command()
@click.argument("name", type=click.Path(path_type=Path), shell_complete=complete_recipes)
@click.argument("target", type=click.Path(path_type=Path), required=False)
def copy(name: Path, target: Path | None) -> None:
    """Copy a shipped recipe to TARGET [NAME.yaml] to change it there.

    \b
    Example:
      lema recipes copy quickstart my.yaml
    """
    from lema_local.errors import InputError
    from lema_local.recipe import find_recipe

    target = target or Path(f"{name.stem}.yaml")
    if target.exists():
        raise InputError(f"{target} is there already", hint="choose another name")
    shutil.copyfile(find_recipe(name), target)
    click.echo(str(target))
