"""MkDocs' hook: the reference of commands, recipe fields and records, made from the code at every build."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_json

from lema_local.cli import COMMANDS, lema
from lema_local.recipe import Recipe
from lema_local.records import Record


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {"commands": write_commands(), "recipe": write_fields(), "records": write_records()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def write_commands() -> str:
    """Return every command's help."""
    root = click.Context(lema, info_name="lema")
    parts = ["# Commands\n", _help(lema, root)]
    for name in COMMANDS:
        command = lema.get_command(root, name)
        assert command is not None
        parts += _describe(command, click.Context(command, info_name=name, parent=root), f"lema {name}")
    return "\n".join(parts)


def _describe(command: click.Command, ctx: click.Context, name: str) -> list[str]:
    parts = [f"## {name}\n", _help(command, ctx)]
    for inner, one in getattr(command, "commands", {}).items():
        parts += _describe(one, click.Context(one, info_name=inner, parent=ctx), f"{name} {inner}")
    return parts


def _help(command: click.Command, ctx: click.Context) -> str:
    ctx.max_content_width = 100
    return f"```text\n{command.get_help(ctx)}\n```\n"


def write_fields() -> str:
    """Return every field of a recipe with its type, default and meaning."""
    return "\n".join(["# Recipe fields\n", *_describe_block(Recipe, "")])


def write_records() -> str:
    """Return every record's fields: what a line of a JSON Lines file holds."""
    from lema_local import records

    where = "[file formats](../file-formats.md) says which file holds which"
    parts = [f"# Records\n\nWhat the lines of a run's files hold; {where}.\n"]
    for name, kind in vars(records).items():
        if isinstance(kind, type) and issubclass(kind, Record) and kind is not Record:
            parts += [
                f"## {name}\n",
                f"{inspect.getdoc(kind)}\n",
                *_describe_block(kind, "", has_inner=False),
                "",
            ]
    return "\n".join(parts)


def _describe_block(block: type[BaseModel], prefix: str, *, has_inner: bool = True) -> list[str]:
    """Return a table of a block's fields; the blocks within it follow, where they do not stand elsewhere."""
    meanings, inner = _meanings(block), []
    lines = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, found in block.model_fields.items():
        model = _model_within(found.annotation)
        meaning = meanings.get(name) or (inspect.getdoc(model) or "" if model else "")
        meaning = re.sub(r"\bNone\b", "null", meaning)
        cells = (f"`{prefix}{name}`", _describe_type(found.annotation), _describe_default(found), meaning)
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
        if model is not None and has_inner:
            inner += [f"\n## {prefix}{name}\n", *_describe_block(model, f"{prefix}{name}.")]
    return [*lines, *inner]


TYPES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    NoneType: "null",
    Any: "anything",
}


def _describe_type(annotation: Any) -> str:
    """Return a type in words: as it is written in YAML or JSON."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe_type(inner[0])
    if origin in {Union, UnionType}:
        return " or ".join(map(_describe_type, inner))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in {list, tuple}:
        return f"list of {_describe_type(inner[0])}".replace("block", "blocks")
    if origin is dict:
        return f"mapping of {_describe_type(inner[0])} to {_describe_type(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.__name__ if issubclass(annotation, Record) else "block"
    return TYPES.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _describe_default(found: FieldInfo) -> str:
    if found.is_required():
        return "required"
    value = found.get_default(call_default_factory=True)
    return "its own defaults" if isinstance(value, BaseModel) else f"`{to_json(value).decode()}`"


def _model_within(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_within(part))), None)


def _meanings(block: type[BaseModel]) -> dict[str, str]:
    """Return the string under each field, of the class and of those it is made from."""
    found: dict[str, str] = {}
    for one in reversed(
        [one for one in block.__mro__ if one is not BaseModel and issubclass(one, BaseModel)]
    ):
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = " ".join(str(after.value.value).split())
    return found
