"""Checkpoints that a killed training can trust, and the log that goes with them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lema_local.errors import RunStateError
from lema_local.jsonl import keep_first, read_partial, told_disk_errors
from lema_local.runs import write_text

MARKER = "lema_complete.json"
KEPT = 2
"""Checkpoints on disk: the newest may be torn by a kill, then the one before it counts."""


def room_for(trained: int, *, has_held_out: bool) -> int:
    """Return the bytes on disk that a training of so many parameters takes at most.

    Checkpoints hold weights and two moments in float32, one more of them than kept while they rotate; then what is
    left at the end, the best one so far and the one that is looked at.
    """
    return 4 * trained * (3 * (KEPT + 1) + (3 if has_held_out else 1))


class Complete(BaseModel):
    """Written last into a checkpoint's folder: it is whole, and this is what it belongs to."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    step: int


class StepLine(BaseModel):
    """A line about an optimizer step."""

    model_config = ConfigDict(extra="forbid")

    step: int


Line = TypeVar("Line", bound=StepLine)


class LogLine(StepLine):
    """One optimizer step in `train_log.jsonl`."""

    loss: float
    """Mean over the step's trained tokens, nats."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    tokens: int
    """All tokens computed up to and with this step."""
    seconds: float
    """In training up to this step, summed over interrupted starts."""
    memory_gib: float


def mark_complete(folder: Path, fingerprint: str, step: int) -> None:
    """Declare a checkpoint whole."""
    write_text(folder / MARKER, Complete(fingerprint=fingerprint, step=step).model_dump_json() + "\n")


def last_checkpoint(folder: Path, fingerprint: str, *, may_remove: bool = True) -> tuple[Path, int] | None:
    """Return the last whole checkpoint with its step; torn ones are removed. None: start at the beginning.

    Args:
        folder: Of checkpoints.
        fingerprint: Of the training that goes on.
        may_remove: False: another process removes them.

    Raises:
        RunStateError: If the checkpoints belong to another training.
    """
    whole: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        complete = _read_marker(path)
        if complete is None or not re.fullmatch(r"checkpoint-\d+", path.name):
            if may_remove:
                shutil.rmtree(path)
        elif complete.fingerprint != fingerprint:
            raise RunStateError(
                f"{folder.parent} holds checkpoints of another training (other examples, settings or base)",
                hint="give another folder, or remove this one",
            )
        else:
            whole.append((complete.step, path))
    if not whole:
        return None
    step, path = max(whole)
    return path, step


def _read_marker(path: Path) -> Complete | None:
    try:
        return Complete.model_validate_json((path / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def rewind_log(path: Path, step: int, kind: type[Line]) -> list[Line]:
    """Drop what a log says about steps after `step`, which will be done again; return the rest."""
    lines = [line for line in read_partial(path, kind) if line.step <= step]
    if path.exists():
        keep_first(path, len(lines))
    return lines


def remove_checkpoints(folder: Path) -> None:
    """Give the disk back once the adapter is written."""
    with told_disk_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
