"""`lema journal`: what teachers were ever asked, what they answered, and what that cost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lema_local.teachers.journal import Journal
    from lema_local.teachers.journal_views import ReplyLine

_FILE = click.Path(path_type=Path, dir_okay=False)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What a reply could steer a terminal with."""


@click.group()
def journal() -> None:
    """Look into the journal of teachers' replies.

    Every raw reply stands in one file under LEMA_HOME, with the request and what it cost. It is shared by all runs.

    \b
    Example:
      lema journal spent
    """


@contextmanager
def _open_journal() -> Iterator[Journal]:
    from lema_local.teachers.journal import Journal

    with Journal() as journal:
        yield journal


@journal.command("show")
@click.argument("reply_key", required=False)
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="List at most so many."
)
@click.option("--teacher", metavar="MODEL", help="List only this teacher's.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object a line, with everything.")
def show_journal(reply_key: str | None, limit: int, teacher: str | None, is_json: bool) -> None:
    """Show the reply REPLY_KEY with its request, or list the newest replies.

    \b
    Example:
      lema journal show --limit 5
    """
    from lema_local.teachers.journal_views import list_replies, read_whole

    with _open_journal() as journal:
        if reply_key is not None:
            whole = read_whole(journal, reply_key)
            click.echo(json.dumps(whole) if is_json else _write_whole(whole))
            return
        for line in list_replies(journal, limit, teacher):
            click.echo(json.dumps(asdict(line)) if is_json else _write_line(line))


def _write_whole(whole: dict[str, Any]) -> str:
    request = whole["request"]
    asked = "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in request["messages"])
    tokens = f"{whole['prompt_tokens']} + {whole['completion_tokens']} tokens"
    facts = f"{whole['teacher']} (as {whole['model']}), {whole['finish_reason']}, {tokens}, ${whole['cost_usd']:.6f}"
    thoughts = f"\n\n[reasoning]\n{whole['reasoning']}" if whole["reasoning"] else ""
    return _tame(f"{whole['reply_key']}: {facts}\n\n{asked}{thoughts}\n\n[reply]\n{whole['text']}")


def _tame(text: str) -> str:
    return _CONTROL.sub("\ufffd", text)


def _write_line(line: ReplyLine) -> str:
    at = datetime.fromtimestamp(line.received_at).isoformat(" ", "seconds")
    tokens = f"{line.prompt_tokens}+{line.completion_tokens}"
    facts = (
        line.reply_key,
        at,
        line.teacher,
        line.finish_reason,
        tokens,
        f"${line.cost_usd:.6f}",
        line.opening,
    )
    return _tame("  ".join(facts))


@journal.command("spent")
@click.option("--json", "is_json", is_flag=True, help="Print the account as JSON.")
def show_spending(is_json: bool) -> None:
    """Show what was spent, by teacher and by what it was spent for.

    \b
    Example:
      lema journal spent
    """
    from lema_local.teachers.journal_views import list_spending

    with _open_journal() as journal:
        lines = list_spending(journal)
        path = journal.path
    if is_json:
        click.echo(json.dumps([asdict(line) for line in lines]))
        return
    for line in lines:
        unknown = f", {line.unknown} without a reply at ${line.unknown_usd:.4f}" if line.unknown else ""
        click.echo(f"${line.spent_usd:10.4f}  {line.calls} calls, {line.answered} answered{unknown}")
        click.echo(f"             {line.teacher} for {line.scope}")
    click.echo(f"${sum(line.spent_usd for line in lines):10.4f}  in all, in {path}")


@journal.command("export")
@click.argument("out", type=_FILE)
def export_journal(out: Path) -> None:
    """Write every reply with its request to OUT, one JSON object a line.

    \b
    Example:
      lema journal export replies.jsonl
    """
    from lema_local.jsonl import told_disk_errors
    from lema_local.teachers.journal_views import iterate_whole

    with _open_journal() as journal, told_disk_errors(out), out.open("w", encoding="utf-8") as file:
        count = sum(file.write(json.dumps(whole) + "\n") > 0 for whole in iterate_whole(journal))
    click.echo(f"{count} replies in {out}")


@journal.command("prune")
@click.option(
    "--older-than", type=click.FloatRange(min=0), required=True, metavar="DAYS", help="Age of what goes."
)
@click.option("--teacher", metavar="MODEL", help="Only this teacher's.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune_journal(older_than: float, teacher: str | None, yes: bool) -> None:
    """Forget old replies. What they cost stays in the account; asked again, they are paid for again.

    \b
    Example:
      lema journal prune --older-than 90
    """
    from lema_local.teachers.journal_views import prune

    if not yes:
        click.confirm(f"Forget replies older than {older_than:g} days for good?", abort=True, err=True)
    with _open_journal() as journal:
        click.echo(f"{prune(journal, older_than_days=older_than, teacher=teacher)} replies forgotten")
