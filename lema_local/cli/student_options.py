"""The options that say which student is run, and how; the same for every command that runs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from lema_local.recipe import StudentBlock

F = TypeVar("F", bound=Callable[..., Any])

_ENGINE = (
    click.option(
        "--slots",
        type=click.IntRange(min=1, max=255),
        help="Paths decoded at once; at an endpoint requests in flight [chosen].",
    ),
    click.option("--threads", type=click.IntRange(min=1), help="[physical cores]"),
    click.option(
        "--context-tokens", type=click.IntRange(min=1), help="Longest prompt and path together [as trained]."
    ),
    click.option(
        "--gpu-layers",
        type=click.IntRange(min=-1),
        default=0,
        show_default=True,
        help="Layers on the GPU; -1: all.",
    ),
    click.option(
        "--kv-layout",
        type=click.Choice(["auto", "unified", "streams"]),
        default="auto",
        show_default=True,
        help="One pool of KV cells or a stream a path; auto: the faster one, by measurement.",
    ),
    click.option("--flash-attention/--no-flash-attention", default=None, help="[on]"),
    click.option(
        "--kv-type",
        type=click.Choice(["f16", "f32", "q8_0", "q4_0"]),
        default="f16",
        show_default=True,
        help="How KV cells are kept.",
    ),
)
ENGINE_NAMES = (
    "slots", "threads", "context_tokens", "gpu_layers", "kv_layout", "flash_attention", "kv_type",
)  # fmt: skip
"""The parameters that `engine_options` adds."""


def engine_options(command: F) -> F:
    """Add the options of the llama.cpp engine to a command; their values make a `StudentBlock`."""
    for option in reversed(_ENGINE):
        command = option(command)
    return command


def make_block(model: str, url: str | None, prompt_style: str, given: dict[str, Any]) -> StudentBlock:
    """Return the student that a command's options name; its engine's options are taken out of `given`."""
    from lema_local.recipe import StudentBlock

    engine = {name: given[name] for name in ENGINE_NAMES if name in given}
    return StudentBlock.model_validate({"model": model, "url": url, "prompt_style": prompt_style, **engine})


def parse_adapters(texts: Sequence[str]) -> tuple[tuple[Path, float], ...]:
    """Return (path, scale) of `FILE` or `FILE=SCALE` each."""
    found = []
    for text in texts:
        path, equals, scale = text.rpartition("=")
        try:
            found.append((Path(path), float(scale)) if equals else (Path(text), 1.0))
        except ValueError as err:
            raise click.UsageError(f"--adapter {text}: expected FILE or FILE=SCALE") from err
    return tuple(found)
