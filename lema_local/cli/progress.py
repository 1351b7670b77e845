"""Progress on stderr: a bar on a terminal, a line now and then in a log file, nothing with --quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click

is_quiet = False
"""Set by `lema --quiet`."""

LINE_EVERY_S = 15.0
"""Seconds between two lines where stderr is no terminal."""


class Update(Protocol):
    """How a stage tells how far it is."""

    def __call__(self, done: float, total: float | None = None, **values: object) -> None:
        """Say how much is done in all (not: how much more), and values to show beside it."""


def notice(text: str) -> None:
    """Write one line for people to stderr."""
    from lema_local.cli.logs import note_shown

    note_shown(text)
    if not is_quiet:
        click.echo(text, err=True)


@contextmanager
def progress_bar(title: str, total: float | None = None) -> Iterator[Update]:
    """Show the progress of one stage while the block runs."""
    if is_quiet:
        yield lambda done, total=None, **values: None
    elif sys.stderr.isatty():
        with _terminal_bar(title, total) as update:
            yield update
    else:
        yield _log_lines(title, total)


@contextmanager
def _terminal_bar(title: str, total: float | None) -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[values]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task(title, total=total, values="")

        def update(done: float, total: float | None = None, **values: object) -> None:
            known = {} if total is None else {"total": total}
            bar.update(task, completed=done, values=_show(values), **known)  # type: ignore[arg-type]

        yield update


def _log_lines(title: str, total: float | None) -> Update:
    started = last = time.monotonic()
    of_all = total
    before: float | None = None

    def update(done: float, total: float | None = None, **values: object) -> None:
        nonlocal last, of_all, before
        of_all = of_all if total is None else total
        before = done if before is None else before
        now = time.monotonic()
        if now - last >= LINE_EVERY_S:
            last = now
            known = f" of {of_all:g}" if of_all is not None else ""
            left = _time_left(now - started, done - before, of_all - done) if of_all is not None else ""
            click.echo(
                f"{title}: {done:g}{known} after {now - started:.0f} s{left} {_show(values)}".rstrip(),
                err=True,
            )

    return update


def _time_left(spent_s: float, done: float, left: float) -> str:
    return f", about {spent_s / done * left:.0f} s left" if done > 0 and left > 0 else ""


def _show(values: dict[str, object]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
