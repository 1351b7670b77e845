"""`lema status`: where a run stands, stage by stage, and what to type next."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lema_local.run_status import RunStatus, StageStatus

COLOURS = {
    "done": "green", "running": "cyan", "failed": "red", "damaged": "red", "stale": "yellow", "stopped": "yellow",
}  # fmt: skip
WATCH_EVERY_S = 2.0


@click.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--watch", "is_watched", is_flag=True, help="Look again every 2 seconds until nothing is at work."
)
@click.option("--json", "is_json", is_flag=True, help="Print as JSON; with --watch a line each time.")
def status(run_dir: Path, is_watched: bool, is_json: bool) -> None:
    """Say where RUN stands: each stage done, running, failed, stopped, stale or waiting, and what to type next.

    Reads no records: it is quick for a run of any size, and changes nothing.

    \b
    Example:
      lema status runs/quickstart
      lema status runs/quickstart --watch
      lema status runs/quickstart --json | jq .next_command
    """
    from lema_local.run_status import read_status

    try:
        while True:
            found = read_status(run_dir)
            _show(found, is_json=is_json, is_watched=is_watched)
            if not (is_watched and found.is_running):
                return
            time.sleep(WATCH_EVERY_S)
    except KeyboardInterrupt:
        if not is_watched:
            raise
        click.echo(err=True)  # looking away stops nothing


def _show(found: RunStatus, *, is_json: bool, is_watched: bool) -> None:
    if is_json:
        from dataclasses import asdict

        click.echo(json.dumps(asdict(found), indent=None if is_watched else 2))
        return
    if is_watched and sys.stdout.isatty():
        click.clear()
    click.echo("\n".join(describe_status(found)))


def describe_status(found: RunStatus) -> list[str]:
    """Return what is printed."""
    told = {
        True: "a process is at work",
        False: "no process is at work",
        None: "whether it runs cannot be told here",
    }
    money = f", ${found.cost_usd:.2f}" if found.cost_usd else ""
    lines = [f"{found.run}: {told[found.is_running]}; {_time(found.seconds)} of work{money}", ""]
    lines += _describe_stages(found)
    for number, one in enumerate(found.rounds, 2):
        lines += ["", f"round {number}", *_describe_stages(one)]
    lines.append("")
    if found.rounds_ended:
        lines.append(found.rounds_ended)
    if found.report:
        lines.append(f"Report: {found.report}")
    return [*lines, f"Next: {found.next_command}"]


def _describe_stages(found: RunStatus) -> list[str]:
    lines = []
    waiting = {one.stage for one in found.stages if one.state == "waiting"}
    for one in found.stages:
        if one.stage in waiting and one.stage.split()[0] in waiting - {one.stage}:
            continue  # an arm of a stage that waits as a whole
        lines += _describe_stage(one)
    return lines


def _describe_stage(one: StageStatus) -> list[str]:
    stage, _, part = one.stage.partition(" ")
    name = f"  {part}" if part else stage
    state = click.style(f"{one.state:8}", fg=COLOURS.get(one.state))
    seconds = _time(one.seconds) if one.seconds else ""
    money = f"${one.cost_usd:.2f}" if one.cost_usd else ""
    line = f"{name:18} {state} {seconds:>8} {money:>8}  {_describe_work(one)}".rstrip()
    return [line, *(f"{'':20}{why}" for reason in one.why for why in reason.splitlines())]


def _describe_work(one: StageStatus) -> str:
    if one.done is None:
        return (
            ""
            if " " not in one.stage and one.stage in {"train", "export", "evaluate"}
            else _counts(one.counts)
        )
    of_all = f" of {one.total:,.0f}" if one.total is not None else ""
    rate = ""
    if one.rate_per_s:
        rate = f", {one.rate_per_s:,.1f}/s" if one.rate_per_s >= 1 else f", {60 * one.rate_per_s:,.1f}/min"
    left = f", about {_time(one.left_s)} left" if one.left_s is not None else ""
    values = "".join(f", {name.replace('_', ' ')} {value}" for name, value in one.values.items())
    return f"{one.done:,.0f}{of_all}{rate}{left}{values}"


def _counts(counts: dict[str, Any]) -> str:
    """Return the plain numbers among a manifest's counts, at most five."""
    plain = [
        (name, value)
        for name, value in counts.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value
    ]
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,.4g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value:,}"
        for name, value in plain[:5]
    )


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
