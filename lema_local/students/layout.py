"""Choosing how many paths decode together, how much context they get, and on how many threads."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

from lema_local.errors import BackendUnavailable
from lema_local.students.decoder import MAX_SEQUENCES, Layout
from lema_local.students.feed import Job, common_prefix
from lema_local.students.model import ModelFacts

CELL_STEP = 256
"""llama.cpp rounds contexts up to this many cells. Source: llama-kv-cache.cpp, get_n_kv."""
MEMORY_SHARE = 0.5
"""Of the memory that is free once the weights are in, what KV cells may take."""
SMALL_MODEL_PARAMETERS = 50_000_000
"""Below this, attention over other sequences' cells costs more than the weights: one stream each is faster."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a user may set; None: chosen by the engine."""

    slots: int | None = None
    threads: int | None = None
    context_tokens: int | None = None
    """Longest sequence, prompt and new tokens together; None: what the model was trained on."""
    gpu_layers: int = 0
    """Layers on the GPU; -1: all."""
    is_unified: bool | None = None
    has_flash_attention: bool | None = None
    kv_type: str = "f16"


def choose_layout(
    facts: ModelFacts, jobs: list[Job], requests: int, max_tokens: int, options: EngineOptions
) -> Layout:
    """Return a layout for requests like these.

    Args:
        facts: The model's.
        jobs: The first prompts.
        requests: Number of paths that begin with these prompts.
        max_tokens: Most new tokens of a path.
        options: What the user has set.
    """
    is_small = facts.parameters < SMALL_MODEL_PARAMETERS
    slots = min(options.slots or (64 if is_small else 32), MAX_SEQUENCES - 1)
    if options.slots is None:
        slots = max(1, min(slots, requests))
    sequence_tokens = min(options.context_tokens or facts.trained_context, facts.trained_context)
    layout = Layout(
        slots=slots,
        threads=options.threads or physical_cores(),
        cells=0,
        sequence_tokens=sequence_tokens,
        batch_tokens=max(512, 2 * slots),
        is_unified=(not is_small) if options.is_unified is None else options.is_unified,
        has_flash_attention=True if options.has_flash_attention is None else options.has_flash_attention,
        kv_type=options.kv_type,
    )
    longest = min(max(len(job.tokens) for job in jobs), sequence_tokens)
    prefix = len(common_prefix(jobs))
    new = min(max_tokens, sequence_tokens) + 1
    per_job = max(1, requests // len(jobs))
    if layout.is_unified:
        prompts = math.ceil(slots / per_job) + 1
        cells = prefix + slots * new + prompts * (longest - prefix)
    else:
        cells = (slots + 1) * round_cells(longest + new)
    return _fit_memory(replace(layout, cells=round_cells(cells)), facts, prefix + longest + new)


def grow(layout: Layout, needed_tokens: int) -> Layout:
    """Return the layout with room for a sequence of `needed_tokens`."""
    each = round_cells(needed_tokens)
    cells = layout.cells + each if layout.is_unified else (layout.slots + 1) * each
    return replace(layout, cells=cells)


def round_cells(count: int) -> int:
    """Return the next multiple of what llama.cpp rounds to."""
    return math.ceil(count / CELL_STEP) * CELL_STEP


def _fit_memory(layout: Layout, facts: ModelFacts, needed_tokens: int) -> Layout:
    """Lower the cells, or the slots with them, to what free memory holds."""
    most = int(MEMORY_SHARE * free_memory_bytes()) // max(1, facts.cell_bytes)
    if layout.cells <= most:
        return layout
    if layout.is_unified and most >= needed_tokens:
        return replace(layout, cells=most // CELL_STEP * CELL_STEP)
    each = round_cells(needed_tokens)
    if not layout.is_unified and most >= 2 * each:
        slots = most // each - 1
        return replace(layout, slots=slots, cells=(slots + 1) * each)
    raise BackendUnavailable(
        f"{facts.path.name}: one sequence of {needed_tokens} tokens needs "
        f"{needed_tokens * facts.cell_bytes / 2**30:.1f} GiB of KV cells, "
        f"and {free_memory_bytes() / 2**30:.1f} GiB of memory are free",
        hint="lower --max-tokens or --context-tokens, or take a smaller student",
    )


def check_weights_fit(facts: ModelFacts) -> None:
    """Say before loading when a model cannot fit.

    Raises:
        BackendUnavailable: If its weights need more than the free memory.
    """
    free = free_memory_bytes()
    if facts.weight_bytes > free:
        raise BackendUnavailable(
            f"{facts.path.name} needs {facts.weight_bytes / 2**30:.1f} GiB for its weights, "
            f"and {free / 2**30:.1f} GiB of memory are free",
            hint="take a smaller or more strongly quantized student (lema students requantize), or close programs",
        )


def free_memory_bytes() -> int:
    """Return the memory that a new process could use now."""
    import psutil

    return int(psutil.virtual_memory().available)


def physical_cores() -> int:
    """Return the physical cores that this process may use."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))
