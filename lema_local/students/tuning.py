"""Which layout decodes fastest on this machine: a measurement of a few steps.

What is faster differs by model and machine. Attention over one pool of cells looks at the cells of all sequences:
dear for a small model, cheap for a large one, which in turn gains from prompts that share a batch with decoding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from lema_local.students.decoder import Decoder, Layout
from lema_local.students.layout import Workload
from lema_local.students.model import Model, Tokens

BUDGET_S = 4.0
"""Seconds after which no further layout is measured."""
STEPS = 4
FAIR_GAIN = 1.03
"""A layout must be so much faster to win against the one that is best by rule of thumb."""
TYPICAL_NEW_TOKENS = 64
"""New tokens of a path where the measurement is taken, at most half of those allowed."""


def fastest_layout(model: Model, layouts: Sequence[Layout], work: Workload) -> Layout:
    """Return the layout that decodes most tokens a second; the first of them, unless another clearly wins.

    The measurement is short, and a busy machine can make it err; what it chose is recorded and used again.
    """
    deadline = time.perf_counter() + BUDGET_S
    best, best_speed = layouts[0], measure_layout(model, layouts[0], work)
    for layout in layouts[1:]:
        if time.perf_counter() > deadline:
            break
        speed = measure_layout(model, layout, work)
        if speed > FAIR_GAIN * best_speed:
            best, best_speed = layout, speed
    return best


def measure_layout(model: Model, layout: Layout, work: Workload) -> float:
    """Return the tokens per second that this layout decodes with all slots busy, in the middle of their paths."""
    decoder = Decoder(model, layout)
    try:
        start = _fill(decoder, work)
        seconds = min(_time_step(decoder, start + step) for step in range(STEPS))
    finally:
        decoder.close()
    return layout.slots / seconds


def _fill(decoder: Decoder, work: Workload) -> int:
    """Give every slot a sequence, prompts shared as they will be; return the sequences' length."""
    layout = decoder.layout
    new = min(work.max_tokens // 2, TYPICAL_NEW_TOKENS)
    shared = work.paths_per_prompt if layout.is_unified else 1
    # In one pool the siblings' new tokens take cells of their own: they stand behind the prompt here.
    wished = work.typical_prompt - work.prefix_tokens + shared * new
    length = max(1, min(wished, _longest(layout, shared)))
    _decode_alone(decoder, 0, length)
    state = decoder.save(0)
    for slot in range(1, layout.slots):
        if slot % shared:
            decoder.copy(slot - slot % shared, slot, length)
        else:
            decoder.restore(slot, state)
    return length


def _longest(layout: Layout, shared: int) -> int:
    """Tokens that a sequence may hold so that all of them fit, with the steps to come."""
    if layout.is_unified:
        each = (layout.cells - layout.slots * STEPS) // math.ceil(layout.slots / shared)
    else:
        each = layout.sequence_cells
    return min(each, layout.sequence_tokens) - STEPS


def _decode_alone(decoder: Decoder, slot: int, length: int) -> None:
    size = decoder.layout.batch_tokens
    for start in range(0, length, size):
        count = min(size, length - start)
        positions: Tokens = np.arange(start, start + count, dtype=np.int32)
        decoder.token[:count] = 0
        decoder.position[:count] = positions
        decoder.sequence[:count] = slot
        decoder.has_logits[:count] = 0
        decoder.decode(count)


def _time_step(decoder: Decoder, position: int) -> float:
    count = decoder.layout.slots
    decoder.token[:count] = 0
    decoder.position[:count] = position
    decoder.sequence[:count] = np.arange(count, dtype=np.int32)
    decoder.has_logits[:count] = 1
    began = time.perf_counter()
    decoder.decode(count)
    return time.perf_counter() - began
