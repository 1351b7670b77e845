"""The command that is running, as it is typed again to go on."""

from __future__ import annotations

import shlex
from typing import Any

import click


def same_command(**changed: Any) -> str:
    """Return the command that is running, with some options changed; `None` leaves an option out."""
    ctx = click.get_current_context()
    words = [*ctx.command_path.split()]
    for param in ctx.command.params:
        if param.name is None:
            continue
        value = changed[param.name] if param.name in changed else ctx.params.get(param.name)
        words += _write_param(param, value)
    return shlex.join(words)


def _write_param(param: click.Parameter, value: Any) -> list[str]:
    if value is None or value is False or value == param.default:
        return []
    if isinstance(param, click.Argument):
        return [str(one) for one in value] if isinstance(value, tuple) else [str(value)]
    flag = max(param.opts, key=len)
    if value is True:
        return [flag]
    values = value if isinstance(value, tuple) else (value,)
    return [word for one in values for word in (flag, f"{one:g}" if isinstance(one, float) else str(one))]
