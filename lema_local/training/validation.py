"""Looks at held-out examples on the way: their loss, the student's answers, and the best adapter so far.

Writes  OUT/validation_log.jsonl   one line a look
        OUT/best/                  the best adapter so far, with `lema_best.json` written last
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lema_local.jsonl import AppendFile, finish
from lema_local.runs import write_text
from lema_local.training.checkpoints import StepLine

BEST = "best"
LOOKS = "looks"
BEST_NAME = "lema_best.json"
VALIDATION_LOG_NAME = "validation_log.jsonl"


class ValidationLine(StepLine):
    """One look in `validation_log.jsonl`."""

    loss: float
    """Mean over the trained tokens of all held-out examples, nats; without dropout."""
    pass_at_1: float | None = None
    """Share of the held-out questions answered rightly, greedily, through the exported adapter."""
    seconds: float
    """That this look took."""


class Best(BaseModel):
    """`lema_best.json`: which look the adapter beside it is from."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    line: ValidationLine


def is_better(one: ValidationLine, other: ValidationLine | None, *, by_answers: bool) -> bool:
    """True where `one` has the lower loss, or with `by_answers` more right answers; no number is never better."""
    if not math.isfinite(one.loss):
        return False
    return other is None or _rank(one, by_answers) > _rank(other, by_answers)


def _rank(line: ValidationLine, by_answers: bool) -> tuple[float, float]:
    return (line.pass_at_1 or 0.0) if by_answers else 0.0, -line.loss


def fill_rows(lengths: Sequence[int], tokens: int, *, is_packed: bool) -> list[list[int]]:
    """Return rows of positions, of like lengths, each with at most `tokens` tokens where one example fits."""
    rows: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda one: lengths[one]):
        row = [*rows[-1], position] if rows else [position]
        # Sorted: the newest is the longest.
        wide = sum(lengths[one] for one in row) if is_packed else len(row) * lengths[position]
        if rows and wide <= tokens:
            rows[-1] = row
        else:
            rows.append([position])
    return rows


def measure_loss(trainer: Any, batches: Iterable[dict[str, Any]]) -> float:
    """Return the mean loss per trained token; the training's random numbers are left alone.

    Args:
        trainer: TRL's, whose loss and arithmetic are used.
        batches: input_ids, labels: int64 [batch, tokens]; labels are -100 where no loss is.
    """
    import torch

    model = trainer.model_wrapped
    total, count = 0.0, 0
    model.eval()
    try:
        with torch.no_grad(), trainer.compute_loss_context_manager():
            for batch in batches:
                inputs = trainer._prepare_inputs(batch)
                tokens = int((inputs["labels"][:, 1:] != -100).sum())
                total += float(trainer.compute_loss(model, inputs)) * tokens
                count += tokens
    finally:
        model.train()
    return total / max(count, 1)


class Looks:
    """Keeps the log of looks and the best adapter.

    Args:
        out_dir: The training's folder.
        fingerprint: Of the training.
        measure: Returns the loss of the held-out examples.
        save: Writes the adapter as it is now into a folder.
        answer: Returns pass@1 of an adapter's folder; None: it is not measured.
        every: At every so-manieth look the questions are answered.
        is_main: False: another process writes; this one only computes along.
        keeps_all: Keep every look's adapter in OUT/looks/step-N.
    """

    def __init__(
        self,
        out_dir: Path,
        fingerprint: str,
        measure: Callable[[], float],
        save: Callable[[Path], None],
        answer: Callable[[Path], float] | None,
        every: int,
        *,
        is_main: bool,
        keeps_all: bool = False,
    ) -> None:
        self._dir = out_dir / BEST
        self._log = out_dir / VALIDATION_LOG_NAME
        self._fingerprint = fingerprint
        self._measure = measure
        self._save = save
        self._answer = answer if every else None
        self._every = every
        self._is_main = is_main
        self._all_dir = out_dir / LOOKS if keeps_all else None
        self._count = 0

    def look(self, step: int) -> ValidationLine:
        """Measure now; keep the adapter where it is the best so far."""
        began = time.monotonic()
        self._count += 1
        loss = self._measure()
        now = self._dir.with_name("now.partial")
        shutil.rmtree(now, ignore_errors=True)
        self._save(now)  # by all processes: a spread model is gathered
        line = ValidationLine(step=step, loss=loss, seconds=0.0)
        if not self._is_main:
            return line
        if self._answer is not None and self._count % self._every == 0:
            line = line.model_copy(update={"pass_at_1": self._answer(now)})
        line = line.model_copy(update={"seconds": round(time.monotonic() - began, 3)})
        # Looks without answers could not be compared with those that have them.
        by_answers = self._answer is not None and self._every == 1
        if self._all_dir is not None:
            kept, partial = self._all_dir / f"step-{step}", self._all_dir / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(now, partial)
            shutil.rmtree(kept, ignore_errors=True)
            finish(partial, kept)
        if is_better(line, self._best_line(), by_answers=by_answers):
            write_text(
                now / BEST_NAME, Best(fingerprint=self._fingerprint, line=line).model_dump_json() + "\n"
            )
            shutil.rmtree(self._dir, ignore_errors=True)
            finish(now, self._dir)
        else:
            shutil.rmtree(now, ignore_errors=True)
        with AppendFile(self._log) as log:
            log.append(line)
        return line

    def _best_line(self) -> ValidationLine | None:
        found = read_best(self._dir, self._fingerprint)
        return found.line if found else None


def read_best(folder: Path, fingerprint: str) -> Best | None:
    """Return what is said of the best adapter of this training; None where there is none."""
    try:
        best = Best.model_validate_json((folder / BEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
    return best if best.fingerprint == fingerprint else None
