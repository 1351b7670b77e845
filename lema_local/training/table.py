"""What a training is going to do, told before its first step."""

from __future__ import annotations

from collections.abc import Sequence

from lema_local.training.layout import LaidOut
from lema_local.training.memory import GIB, describe_parts
from lema_local.training.tokens import Encoded, name_some


def describe_examples(encoded: Sequence[Encoded], left_out: Sequence[str], max_length: int) -> list[str]:
    """Return a table of examples, tokens and trained tokens by kind, and what was left out."""
    lines = [f"{'kind':<12}{'examples':>10}{'tokens':>12}{'trained':>12}{'longest':>9}"]
    kinds = sorted({example.kind for example in encoded})
    rows = [(kind, [one for one in encoded if one.kind == kind]) for kind in kinds]
    for kind, some in [*rows, ("all", list(encoded))] if len(rows) > 1 else rows:
        lengths = [one.tokens for one in some]
        trained = sum(one.trained_tokens for one in some)
        lines.append(f"{kind:<12}{len(some):>10,}{sum(lengths):>12,}{trained:>12,}{max(lengths):>9,}")
    told = f": {name_some(left_out)}" if left_out else ""
    lines.append(f"left out as longer than {max_length:,} tokens, none cut: {len(left_out):,}{told}")
    return lines


def describe_layout(laid_out: LaidOut) -> str:
    """Return in one line how a step is computed and what memory it is expected to take."""
    settings, plan = laid_out.settings, laid_out.plan
    parts = [
        f"{plan.steps:,} steps of {settings.batch_size} examples in {plan.micro_batches_per_step} micro-batches",
        f"at most {laid_out.tokens_at_once:,} tokens at once, {'packed' if settings.is_packed else 'padded'}",
        f"activations {'computed twice' if settings.has_gradient_checkpointing else 'kept'}",
        f"learning rate {settings.learning_rate:g}",
    ]
    if laid_out.estimate is not None:
        total = laid_out.estimate.total / GIB
        parts.append(f"about {total:.2f} GiB ({describe_parts(laid_out.estimate)})")
    return "; ".join(parts)
