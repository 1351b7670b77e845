"""`lema students`: look into a GGUF, or make it faster."""

from __future__ import annotations

import json
from pathlib import Path

import click

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def students() -> None:
    """Inspect a student, or make it faster.

    \b
    Example:
      lema students inspect model.gguf
    """


@students.command()
@click.argument("file")
@click.option("--json", "is_json", is_flag=True, help="Print as JSON.")
def inspect(file: str, is_json: bool) -> None:
    """Say what FILE (a GGUF) holds, and what it needs here.

    \b
    Example:
      lema students inspect model.gguf
    """
    from lema_local.students import resolve_model_file
    from lema_local.students.inspection import advise_on_quantization, inspect_gguf

    path = resolve_model_file(file)
    found = inspect_gguf(path)
    if is_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        click.echo(f"{name.replace('_', ' '):22s} {shown}")
    needed, free = found["typical_memory_bytes"] / 2**30, found["free_memory_bytes"] / 2**30
    verdict = "fits" if found["typical_slots"] and needed < free else "does not fit"
    click.echo(
        f"sampling {found['typical_slots']} paths at once (prompts of 700 tokens, 512 new ones) takes about"
        f" {needed:.1f} GiB here; {free:.1f} GiB are free: {verdict}"
    )
    if advice := advise_on_quantization(path):
        click.echo(advice)


@students.command()
@click.argument("source", metavar="IN", type=_FILE)
@click.argument("target", metavar="OUT", type=_FILE)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["q4_0", "q8_0", "q4_k_m", "q5_k_m", "q6_k", "f16"]),
    default="q4_0",
    show_default=True,
)
@click.option("--threads", type=click.IntRange(min=1), help="[physical cores]")
def requantize(source: Path, target: Path, kind: str, threads: int | None) -> None:
    """Write the GGUF IN as OUT with another quantization.

    q4_0 is the fastest on most CPUs as soon as several paths decode together: llama.cpp repacks it at load.

    \b
    Example:
      lema students requantize model-q4_k_m.gguf model-q4_0.gguf --type q4_0
    """
    from lema_local.students.inspection import requantize_gguf

    requantize_gguf(source, target, kind, threads)
    before, after = source.stat().st_size, target.stat().st_size
    click.echo(f"{target}: {kind}, {after / 2**20:,.1f} MiB (was {before / 2**20:,.1f})")
