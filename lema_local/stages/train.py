"""Stage 6: fit one adapter per arm.

Reads   training examples   of one arm
Writes  adapter/            and train_log.jsonl, through the trainer

Unlike the other stages it writes a folder instead of yielding records: weights are no records.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lema_local.records import AnyExample
from lema_local.students.base import Student
from lema_local.training.base import (
    OnProgress,
    PromptReader,
    Tell,
    Trainer,
    TrainResult,
    TrainSettings,
    Validation,
    ignore,
)


def train_arm(
    examples: Sequence[AnyExample],
    trainer: Trainer,
    settings: TrainSettings,
    out_dir: Path,
    on_progress: OnProgress,
    student: Student | None = None,
    *,
    validation: Validation | None = None,
    tell: Tell = ignore,
    start_from: Path | None = None,
) -> TrainResult:
    """Fit an adapter into `out_dir/adapter`; goes on where it was interrupted.

    Args:
        examples: The arm's training file.
        trainer: Fits to one base.
        settings: The same for all arms that are to be compared, `max_steps` included.
        out_dir: This arm's folder.
        on_progress: Called after each optimizer step.
        student: Who will answer with the adapter: where it can tell its token ids, the prompts' are compared first.
        validation: Held-out examples; the adapter that does best on them is kept.
        tell: Told what is trained on before the first step, and of each look at the held-out examples.
        start_from: An earlier adapter that training goes on from; None: a new one.

    Raises:
        InputError: If base, examples, folder and student do not fit together.
        BackendError: If the training fails; its checkpoints are kept.
    """
    reader = student if isinstance(student, PromptReader) else None  # an endpoint cannot tell its token ids
    return trainer.train(
        examples, settings, out_dir, on_progress, reader,
        validation=validation, tell=tell, start_from=start_from,
    )  # fmt: skip


def describe_training(result: TrainResult) -> list[str]:
    """Return what a person wants to know of a training, in lines."""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(result.trained_tokens_by_kind.items()))
    lines = [
        f"{result.examples:,} examples, {result.tokens:,} tokens, {result.trained_tokens:,} of them trained ({kinds})",
        f"{result.optimizer_steps:,} steps in {result.seconds:.0f} s, loss {result.final_loss:.4f}, "
        f"peak memory {result.peak_memory_gib:.1f} GiB",
    ]
    best, estimate = result.details.get("best"), result.details.get("memory_estimate_gib")
    if best:
        right = (
            "" if best["pass_at_1"] is None else f", {best['pass_at_1']:.1%} of the held-out questions right"
        )
        lines.append(f"kept: the adapter of step {best['step']}, held-out loss {best['loss']:.4f}{right}")
    if estimate:
        lines.append(f"memory: {estimate['total']:.2f} GiB estimated, {result.peak_memory_gib:.2f} measured")
    if result.left_out_ids:
        named = ", ".join(result.left_out_ids[:5])
        more = f" and {len(result.left_out_ids) - 5} more" if len(result.left_out_ids) > 5 else ""
        lines.append(f"left out as too long: {len(result.left_out_ids):,} ({named}{more})")
    return lines
