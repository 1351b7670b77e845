"""Which examples each optimizer step sees, and how they are laid out: a pure function of lengths and seed.

Every step has exactly `batch_size` examples, whatever the micro-batch and whether rows are packed, so that
these choices change speed and memory and not the result. A batch at the end of a pass is filled from the next.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lema_local.errors import InputError

Row = list[int]
"""Positions of examples: one row when packed, the examples of a padded micro-batch otherwise."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """All micro-batches of a training, in order."""

    steps: int
    micro_batches_per_step: int
    micro_batches: list[Row]

    def step(self, number: int) -> list[int]:
        """Positions of the examples of a step (1-based), each one once."""
        start = (number - 1) * self.micro_batches_per_step
        rows = self.micro_batches[start : start + self.micro_batches_per_step]
        return sorted({position for row in rows for position in row})


def count_steps(examples: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Return the number of optimizer steps: `max_steps`, else as many as come nearest to `epochs` passes."""
    return max_steps or max(1, round(epochs * examples / batch_size))


def plan_batches(
    lengths: Sequence[int],
    *,
    batch_size: int,
    micro_batch_size: int,
    steps: int,
    seed: int,
    is_packed: bool,
    processes: int = 1,
) -> BatchPlan:
    """Lay out a training.

    Args:
        lengths: Tokens of each example.
        batch_size: Examples per step.
        micro_batch_size: Examples per micro-batch; on average when packed.
        steps: Optimizer steps.
        seed: Draws the order of each pass.
        is_packed: Even out tokens over rows; else examples of like length together, equally many a micro-batch.
        processes: That share a step: each takes every so-manieth micro-batch.

    Raises:
        InputError: If the examples of a step cannot be shared.
    """
    if batch_size % processes:
        raise InputError(
            f"train.batch_size {batch_size} cannot be shared by {processes} processes",
            hint=f"a multiple of {processes}, or another number of processes",
        )
    per_step = min(batch_size, math.ceil(batch_size / micro_batch_size / processes) * processes)
    stream = _endless(len(lengths), seed)
    lay_out = _even_rows if is_packed else _like_lengths
    rows: list[Row] = []
    for _ in range(steps):
        batch = [next(stream) for _ in range(batch_size)]
        rows.extend(lay_out(batch, lengths, per_step))
    return BatchPlan(steps, per_step, rows)


def _endless(count: int, seed: int) -> Iterator[int]:
    for epoch in range(2**31):
        order = list(range(count))
        random.Random(f"{seed}:{epoch}").shuffle(order)
        yield from order


def _even_rows(batch: list[int], lengths: Sequence[int], rows: int) -> list[Row]:
    """Return rows with nearly the same number of tokens: the longest example into the shortest row, and so on."""
    filled: list[Row] = [[] for _ in range(rows)]
    totals = [0] * rows
    for position in sorted(batch, key=lambda position: -lengths[position]):
        shortest = min(range(rows), key=lambda row: totals[row])
        filled[shortest].append(position)
        totals[shortest] += lengths[position]
    return filled


def _like_lengths(batch: list[int], lengths: Sequence[int], rows: int) -> list[Row]:
    """Return micro-batches of like lengths, so that little is padded."""
    ordered = sorted(batch, key=lambda position: lengths[position])
    bounds = [round(row * len(ordered) / rows) for row in range(rows + 1)]
    return [ordered[start:end] for start, end in pairwise(bounds)]
