"""What the settings leave open, decided for a machine: learning rate, examples at once, packing, recomputation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lema_local.errors import InputError
from lema_local.training.base import TrainSettings
from lema_local.training.batches import BatchPlan, count_steps, plan_batches
from lema_local.training.memory import (
    CPU_EXAMPLES,
    Estimate,
    Layout,
    Machine,
    MemoryPlan,
    budget_of,
    estimate_training,
    plan_memory,
)
from lema_local.training.models import Compute, choose_compute, memory_bytes
from lema_local.training.shapes import ModelShape

LARGE_WEIGHTS = 34_000_000_000
"""From here on the paper halves the learning rate. Source: arXiv 2310.20689v4, section 3.3."""
UNKNOWN_SHAPE_EXAMPLES = 4
"""At once on a card, where a model's memory cannot be estimated."""
PRESET_SHARE = 0.9
"""A card is sold with a little more memory than it shows."""


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A training with nothing left open."""

    settings: TrainSettings
    plan: BatchPlan
    tokens_at_once: int
    """In the largest micro-batch of the plan, padding included."""
    estimate: Estimate | None
    """Of that micro-batch; None where the architecture is not known."""


def machine_of(compute: Compute) -> Machine:
    """Return what the estimate of memory has to know of this machine."""
    return Machine(compute.is_cuda, 4 if compute.dtype == "float32" else 2)


def learning_rate_for(settings: TrainSettings, shape: ModelShape | None) -> float:
    """Return the settings' learning rate, else the paper's for this method and a model of this size."""
    if settings.learning_rate is not None:
        return settings.learning_rate
    if settings.method == "full":
        return 1e-5
    return 1e-4 if shape is not None and shape.parameters >= LARGE_WEIGHTS else 2e-4


def find_budget(settings: TrainSettings, compute: Compute, *, total: int, free: int) -> int:
    """Return how many bytes a training may take.

    Args:
        settings: Their `memory` names a preset, or `auto`: what is free.
        compute: Where it runs.
        total: Bytes of the card, or of the computer.
        free: Bytes of these that nobody uses now.

    Raises:
        InputError: If a preset is asked for that this machine does not have.
    """
    if settings.memory == "auto":
        return free
    budget = budget_of(settings.memory)
    if not compute.is_cuda:
        raise InputError(
            f"memory: {settings.memory} needs a CUDA card, and torch sees none here",
            hint="leave train.memory at auto to train on the CPU, or install the torch of your card"
            " (https://pytorch.org/get-started); lema train --dry-run plans for a card that is elsewhere",
        )
    if total < PRESET_SHARE * budget:
        raise InputError(
            f"memory: {settings.memory}, but the card has {total / 2**30:.1f} GiB", hint="memory: auto"
        )
    return min(budget, free)


def plan_for_machine(shape: ModelShape, settings: TrainSettings) -> MemoryPlan:
    """Return the layout for a preset's card, whether it is here or not; for `auto` for this machine.

    Raises:
        InputError: If nothing fits; with the nearest setting that does.
    """
    if settings.memory != "auto":
        return plan_memory(shape, settings, budget_of(settings.memory))
    compute = choose_compute()
    return plan_memory(shape, settings, memory_bytes(compute)[1], machine=machine_of(compute))


def lay_out(
    settings: TrainSettings,
    compute: Compute,
    shape: ModelShape | None,
    lengths: Sequence[int],
    budget: int,
    *,
    processes: int = 1,
    is_even: bool = False,
) -> LaidOut:
    """Decide what the settings leave open, and lay out every step.

    Args:
        settings: What is given in them is kept.
        compute: Where it runs.
        shape: Of the base; None where its architecture is not known.
        lengths: Tokens of each example.
        budget: Bytes that the training may take.
        processes: That share each step.
        is_even: Equally many examples in each micro-batch: their losses are averaged, not those of the examples.

    Raises:
        InputError: If it cannot fit; with the nearest setting that does.
    """
    settings = settings.model_copy(update={"learning_rate": learning_rate_for(settings, shape)})
    if shape is None:
        return _lay_out_blindly(settings, compute, lengths, processes, is_even=is_even)
    machine = machine_of(compute)
    given = settings.micro_batch_size
    settings = settings.model_copy(
        update={"is_packed": compute.is_cuda if settings.is_packed is None else settings.is_packed}
    )
    # Real examples are shorter than the worst case: what is given is judged by the rows that come of it.
    widest = (
        None if given is None else widest_row(_plan(settings, lengths, given, processes), lengths, settings)
    )
    found = plan_memory(shape, settings, budget, machine=machine, longest=max(lengths), widest=widest)
    recomputes = found.layout.has_gradient_checkpointing
    settings = settings.model_copy(update={"has_gradient_checkpointing": recomputes})
    if given is None:
        given = _most_examples(settings, lengths, found.layout.tokens_at_once, compute, processes)
    if is_even:
        given = _even_size(settings.batch_size, given, processes)
    settings = settings.model_copy(update={"micro_batch_size": given})
    plan = _plan(settings, lengths, given, processes)
    layout = Layout(widest_row(plan, lengths, settings), recomputes, bool(settings.is_packed))
    return LaidOut(settings, plan, layout.tokens_at_once, estimate_training(shape, settings, layout, machine))


def widest_row(plan: BatchPlan, lengths: Sequence[int], settings: TrainSettings) -> int:
    """Return the tokens of the largest micro-batch, padding included."""
    if settings.is_packed:
        return max(sum(lengths[one] for one in row) for row in plan.micro_batches)
    return max(len(row) * max(lengths[one] for one in row) for row in plan.micro_batches)


def _most_examples(
    settings: TrainSettings, lengths: Sequence[int], tokens: int, compute: Compute, processes: int
) -> int:
    """Return the most examples at once whose rows stay within `tokens`."""
    most = settings.batch_size if compute.is_cuda else min(CPU_EXAMPLES, settings.batch_size)
    choices = sorted({math.ceil(settings.batch_size / rows) for rows in range(1, settings.batch_size + 1)})
    choices = [one for one in choices if one <= most]
    low, high = 0, len(choices) - 1  # one example at once always fits
    while low < high:
        middle = (low + high + 1) // 2
        plan = _plan(settings, lengths, choices[middle], processes)
        if widest_row(plan, lengths, settings) <= tokens:
            low = middle
        else:
            high = middle - 1
    return choices[low]


def _even_size(batch_size: int, most: int, processes: int) -> int:
    """Return the most examples at once, at most `most`, that give equally large micro-batches."""
    return max(size for size in range(1, most + 1) if size == 1 or batch_size % (size * processes) == 0)


def _lay_out_blindly(
    settings: TrainSettings, compute: Compute, lengths: Sequence[int], processes: int, *, is_even: bool
) -> LaidOut:
    given = {
        "is_packed": compute.is_cuda,
        "micro_batch_size": UNKNOWN_SHAPE_EXAMPLES if compute.is_cuda else CPU_EXAMPLES,
        "has_gradient_checkpointing": compute.is_cuda,
    }
    settings = settings.model_copy(
        update={name: value for name, value in given.items() if getattr(settings, name) is None}
    )
    at_once = settings.micro_batch_size or 1
    if is_even:
        at_once = _even_size(settings.batch_size, at_once, processes)
        settings = settings.model_copy(update={"micro_batch_size": at_once})
    plan = _plan(settings, lengths, at_once, processes)
    return LaidOut(settings, plan, widest_row(plan, lengths, settings), None)


def _plan(
    settings: TrainSettings, lengths: Sequence[int], examples_at_once: int, processes: int
) -> BatchPlan:
    return plan_batches(
        lengths,
        batch_size=settings.batch_size,
        micro_batch_size=examples_at_once,
        steps=count_steps(len(lengths), settings.batch_size, settings.epochs, settings.max_steps),
        seed=settings.seed,
        is_packed=bool(settings.is_packed),
        processes=processes,
    )
