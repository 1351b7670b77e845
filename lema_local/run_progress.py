"""How far a run is: `progress.json` in its folder, written while a stage works, for `lema status`.

It is a courtesy beside the manifests: small, replaced as a whole, not waited for by the disk, and whatever is wrong
with it stops nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ValidationError

from lema_local.errors import BudgetReached

WRITE_EVERY_S = 1.0
"""Seconds between two writes."""
FILE = "progress.json"


class Update(Protocol):
    """How a stage tells how far it is."""

    def __call__(self, done: float, total: float | None = None, **values: object) -> None:
        """Say how much is done in all, and values to show beside it."""


class Show(Protocol):
    """How progress is shown: `lema_local.cli.progress.progress_bar`."""

    def __call__(self, title: str, total: float | None = None) -> AbstractContextManager[Update]:
        """Show one stage's progress while the block runs."""


class Progress(BaseModel):
    """What the stage at work last said of itself."""

    stage: str
    """Its label, such as `train lema`."""
    began_at: float
    """Start of this go, in seconds since 1970."""
    seen_at: float
    """When it last said something, in seconds since 1970."""
    done: float = 0
    """Of `total`, in the stage's own unit: paths, corrections, steps, questions."""
    done_before: float | None = None
    """How much was done when this go began; None: nothing was said yet."""
    total: float | None = None
    """None: not known."""
    values: dict[str, str] = {}
    """What is shown beside the bar."""
    stopped: Literal["interrupted", "budget", "failed"] | None = None
    """Why it stopped; None: it works, or was killed."""
    message: str | None = None
    """What went wrong, without any key."""


def read_progress(run_dir: Path) -> Progress | None:
    """Return what the run last said; None where it said nothing that can be read."""
    try:
        return Progress.model_validate_json((run_dir / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


class ProgressFile:
    """Writes `progress.json`.

    Args:
        run_dir: The run's folder.
        show: Shows the same to the user.
        mask: Takes keys out of an error's message.
    """

    def __init__(self, run_dir: Path, show: Show, mask: Callable[[str], str]) -> None:
        self._path = run_dir / FILE
        self._show = show
        self._mask = mask
        self._now: Progress | None = None
        self._written_at = 0.0

    def begin(self, stage: str) -> None:
        """Say that a stage begins, or goes on."""
        now = time.time()
        self._write(Progress(stage=stage, began_at=now, seen_at=now))

    @contextmanager
    def show(self, title: str, total: float | None = None) -> Iterator[Update]:
        """Show the progress of the stage that began, and write it down now and then."""
        with self._show(title, total) as shown:

            def update(done: float, of_all: float | None = None, **values: object) -> None:
                shown(done, of_all, **values)
                self._note(done, total if of_all is None else of_all, values)

            yield lambda done, total=None, **values: update(done, total, **values)

    def end(self) -> None:
        """Say that the stage is done: its manifest tells the rest."""
        self._now = None
        self._path.unlink(missing_ok=True)

    def stop(self, err: BaseException) -> None:
        """Say why the stage at work stopped."""
        if self._now is None:
            return
        why: Literal["interrupted", "budget", "failed"] = "failed"
        if isinstance(err, KeyboardInterrupt):
            why = "interrupted"
        elif isinstance(err, BudgetReached):
            why = "budget"
        message = None if why == "interrupted" else self._mask(str(err) or type(err).__name__)
        self._write(self._now.model_copy(update={"stopped": why, "message": message}))

    def _note(self, done: float, total: float | None, values: dict[str, Any]) -> None:
        if self._now is None:
            return
        before = done if self._now.done_before is None else self._now.done_before
        shown = {name: str(value) for name, value in values.items()}
        self._now = self._now.model_copy(
            update={
                "done": done, "done_before": before, "total": total, "values": shown, "seen_at": time.time(),
            }
        )  # fmt: skip
        if time.monotonic() - self._written_at >= WRITE_EVERY_S:
            self._write(self._now)

    def _write(self, progress: Progress) -> None:
        self._now, self._written_at = progress, time.monotonic()
        partial = self._path.with_name(FILE + ".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(progress.model_dump_json() + "\n", encoding="utf-8")
            partial.replace(self._path)
        except OSError:
            partial.unlink(missing_ok=True)  # the stage's own files tell of a full disk
