"""Choosing how many paths decode together, how much context they get, and on how many threads."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

from lema_local.errors import BackendUnavailable
from lema_local.students.base import EngineOptions
from lema_local.students.decoder import MAX_SEQUENCES, Layout
from lema_local.students.feed import Job, common_prefix
from lema_local.students.model import ModelFacts

CELL_STEP = 256
"""llama.cpp rounds contexts up to this many cells. Source: llama-kv-cache.cpp, get_n_kv."""
KV_TYPE_SIZE = {"f32": 2.0, "f16": 1.0, "q8_0": 34 / 64, "q4_0": 18 / 64}
"""Size of a KV cell next to a 16-bit one. Source: ggml-common.h, bytes of a block of 32 values."""
MEMORY_SHARE = 0.5
"""Of the memory that is free once the weights are in, what KV cells may take."""
SMALL_MODEL_PARAMETERS = 50_000_000
"""Below this a step is so short that more paths in it pay."""
LARGE_MODEL_PARAMETERS = 2_000_000_000
"""From here on the weights decide the speed on a CPU: layouts differ little, and measuring them takes long."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be decoded, as far as the first prompts tell."""

    requests: int
    """Paths that begin with the prompts looked at; more may follow."""
    prompts: int
    prefix_tokens: int
    """What all prompts begin with."""
    longest_prompt: int
    """Tokens, the prefix among them."""
    typical_prompt: int
    """Median, in tokens."""
    max_tokens: int
    """Most new tokens of a path."""

    @property
    def paths_per_prompt(self) -> int:
        """How many paths share a prompt."""
        return max(1, self.requests // self.prompts)


def describe_workload(jobs: list[Job], requests: int, max_tokens: int) -> Workload:
    """Return what the first prompts tell of the work."""
    lengths = sorted(len(job.tokens) for job in jobs)
    return Workload(
        requests=requests,
        prompts=len(jobs),
        prefix_tokens=len(common_prefix(jobs)),
        longest_prompt=lengths[-1],
        typical_prompt=lengths[len(lengths) // 2],
        max_tokens=max_tokens,
    )


def candidate_layouts(facts: ModelFacts, work: Workload, options: EngineOptions) -> list[Layout]:
    """Return the layouts worth a measurement, the one that is best by rule of thumb first.

    Raises:
        BackendUnavailable: If not even one sequence fits into memory.
    """
    is_small = facts.parameters < SMALL_MODEL_PARAMETERS
    wished = options.slots or (128 if is_small else 32)
    # More slots than paths only cost memory; a number that was asked for is kept.
    most = min(wished if options.slots else max(1, min(wished, work.requests)), MAX_SEQUENCES - 1)
    counts = [most] if options.slots or most < 8 else [most, most // 2]
    unified = [False, True] if options.is_unified is None else [options.is_unified]
    flash = True if options.has_flash_attention is None else options.has_flash_attention
    layouts = [
        make_layout(facts, work, options, count, is_unified, flash)
        for is_unified in unified
        for count in counts
    ]
    # Where memory is short, the pool that shares its prompts holds more paths.
    return sorted(dict.fromkeys(layouts), key=lambda layout: layout.slots < most and not layout.is_unified)


def make_layout(
    facts: ModelFacts,
    work: Workload,
    options: EngineOptions,
    slots: int,
    is_unified: bool,
    has_flash_attention: bool,
) -> Layout:
    """Return a layout with cells enough for this work, or as many as memory holds."""
    sequence_tokens = min(options.context_tokens or facts.trained_context, facts.trained_context)
    longest = min(work.longest_prompt, sequence_tokens)
    new = min(work.max_tokens, sequence_tokens) + 1
    if is_unified:
        prompts = math.ceil(slots / work.paths_per_prompt) + 1
        cells = work.prefix_tokens + slots * new + prompts * (longest - work.prefix_tokens)
    else:
        cells = (slots + 1) * round_cells(longest + new)
    layout = Layout(
        slots=slots,
        threads=options.threads or physical_cores(),
        cells=round_cells(cells),
        sequence_tokens=sequence_tokens,
        batch_tokens=max(512, 2 * slots),
        is_unified=is_unified,
        has_flash_attention=has_flash_attention,
        kv_type=options.kv_type,
    )
    return _fit_memory(layout, facts, work.prefix_tokens + longest + new)


def grow(layout: Layout, needed_tokens: int) -> Layout:
    """Return the layout with room for a sequence of `needed_tokens`."""
    each = round_cells(needed_tokens)
    cells = layout.cells + each if layout.is_unified else (layout.slots + 1) * each
    return replace(layout, cells=cells)


def round_cells(count: int) -> int:
    """Return the next multiple of what llama.cpp rounds to."""
    return math.ceil(count / CELL_STEP) * CELL_STEP


def _cell_bytes(facts: ModelFacts, kv_type: str) -> int:
    return max(1, int(facts.cell_bytes * KV_TYPE_SIZE[kv_type]))


def kv_bytes(facts: ModelFacts, layout: Layout) -> int:
    """Return the bytes of a layout's KV cells."""
    return layout.cells * _cell_bytes(facts, layout.kv_type)


def _fit_memory(layout: Layout, facts: ModelFacts, needed_tokens: int) -> Layout:
    """Lower the cells, or the slots with them, to what free memory holds."""
    cell_bytes = _cell_bytes(facts, layout.kv_type)
    most = int(MEMORY_SHARE * free_memory_bytes()) // cell_bytes
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
        f"{needed_tokens * cell_bytes / 2**30:.1f} GiB of KV cells, "
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
