"""What a training and an export will need, before either is started, and the layout that fits a given memory.

Everything here is arithmetic on a `ModelShape` and the settings: no weights, no torch. Bytes throughout.

Sources of the formulas:
  [Q] QLoRA: Dettmers et al. 2023, arXiv 2305.14314, section 3: NF4 with double quantization.
  [L] LoRA: Hu et al. 2021, arXiv 2106.09685, section 4.1.
  [A] Adam's two moments: Kingma and Ba 2014, arXiv 1412.6980; 16 bytes a trained parameter in mixed precision:
      Rajbhandari et al. 2019 (ZeRO), arXiv 1910.02054, section 3.1.
  [K] Activations, with and without recomputation: Korthikanti et al. 2022, arXiv 2205.05198, sections 4.1 and 5;
      counted anew here for RMSNorm, a gated feed-forward layer, grouped heads, and adapters with dropout.
  [T] The loss in tiles: trl/kernels/chunked_logprob.py and trl/trainer/utils.py (trl 1.16.0).
  [H] Kernels loaded on a card, 0.5 to 1 GiB: Hugging Face, "Anatomy of model's memory".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lema_local.errors import InputError
from lema_local.training.base import TrainSettings
from lema_local.training.checkpoints import room_for
from lema_local.training.shapes import ModelShape

GIB = 2**30
PRESETS = {"8gb": 8 * GIB, "12gb": 12 * GIB, "16gb": 16 * GIB, "24gb": 24 * GIB}
"""Memory of the cards by name of the preset."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per weight: 4 bits, an 8-bit scale a block of 64, a 32-bit one for 256 of those [Q]."""
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""Logits exist only tile by tile [T]."""
TOKENS_AT_ONCE = (8192, 6144, 4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256)
"""Tried from the most; beyond them a card is busy anyway."""
FAST_TOKENS = 2048
"""So many at once keep a card busy: then rather no recomputation than more tokens."""
CPU_EXAMPLES = 8
"""Examples at once on a CPU, where more was slower (docs/log.md)."""
BITS_PER_WEIGHT = {"f16": 16.0, "q8_0": 8.5, "q6_k": 6.56, "q5_k_m": 5.7, "q4_k_m": 4.85, "q4_0": 4.55}
"""Of a GGUF file. Source: the table of llama.cpp's quantize tool, tools/quantize/README.md."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the estimate has to know of where the training runs."""

    is_cuda: bool
    float_bytes: int
    """Of an activation: 2 in bfloat16 and float16, 4 in float32."""


CARD = Machine(is_cuda=True, float_bytes=2)
CPU = Machine(is_cuda=False, float_bytes=4)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a step is computed; the result of the step does not depend on it."""

    tokens_at_once: int
    """The most tokens in one micro-batch, padding included."""
    has_gradient_checkpointing: bool
    is_packed: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory of a training, in bytes by what it is for."""

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    reserve: int
    """Kernels, fragmentation, buffers."""
    is_paged: bool
    """True where the optimizer's part may wait in the computer's memory [Q]."""

    @property
    def total(self) -> int:
        """Everything on the device."""
        return (
            self.weights + self.adapters + self.gradients + self.optimizer + self.activations
            + self.logits + self.reserve
        )  # fmt: skip

    @property
    def least(self) -> int:
        """What has to be on the device at the same time, the optimizer's part paged out."""
        return self.total - (self.optimizer if self.is_paged else 0)

    def parts(self) -> dict[str, int]:
        """The parts by name, in the order in which they are shown."""
        names = ("weights", "adapters", "gradients", "optimizer", "activations", "logits", "reserve")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class ExportEstimate:
    """What export needs of the computer's memory and disk, in bytes."""

    name: str
    """What is exported: `adapter` or `model`."""
    memory: int
    """To write it as GGUF."""
    file: int
    merge_memory: int
    """To merge an adapter into the base and quantize; to quantize a model; tensor by tensor."""
    merged_files: dict[str, int]
    """By type of the merged or quantized GGUF."""
    check_memory: int
    """To compare the exported student with the trained one: at least the model's 16 bits in torch (twice that is
    quicker)."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A layout that fits, and what it needs."""

    layout: Layout
    estimate: Estimate
    budget: int


def estimate_training(
    shape: ModelShape, settings: TrainSettings, layout: Layout, machine: Machine = CARD
) -> Estimate:
    """Return what a training needs at its peak."""
    trained = trained_weights(shape, settings)
    gradients, optimizer = 4 * trained, 8 * trained  # float32; two moments [A]
    # Autocast keeps a copy of the trained weights in 16 bits.
    adapters = 0 if settings.method == "full" else trained * (4 + _copy_bytes(machine))
    weights = _weight_bytes(shape, settings, machine)
    activations = _activation_bytes(shape, settings, layout, machine)
    logits = _logit_bytes(shape, layout, machine)
    known = weights + adapters + gradients + optimizer + activations + logits
    return Estimate(
        weights=weights,
        adapters=adapters,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
        reserve=int(0.75 * GIB + 0.05 * known),  # [H]
        is_paged=machine.is_cuda,
    )


def estimate_export(shape: ModelShape, settings: TrainSettings) -> ExportEstimate:
    """Return what bringing a student into GGUF, merging or quantizing it and comparing it need."""
    is_whole = settings.method == "full"
    adapter = 0 if is_whole else 4 * shape.adapter_weights(settings.lora_rank)
    largest = max(shape.vocab_size * shape.hidden_size, *(wide * high for wide, high in shape.linears))
    return ExportEstimate(
        name=settings.outcome,
        # A model goes tensor by tensor: as trained, in float32, in 16 bits.
        memory=(4 + 4 + 2) * largest if is_whole else 2 * adapter,
        file=2 * shape.parameters if is_whole else adapter,
        merge_memory=2 * 4 * largest + adapter,  # merging goes by rows; llama.cpp quantizes a whole tensor
        merged_files={name: int(shape.parameters * bits / 8) for name, bits in BITS_PER_WEIGHT.items()},
        check_memory=2 * shape.parameters + adapter + GIB,
    )


def estimate_disk(
    shape: ModelShape, settings: TrainSettings, trainings: int, merged: Sequence[str], *, has_held_out: bool
) -> int:
    """Return the bytes on disk for a run: the converted base in 16 bits, what each training leaves, checkpoints.

    Args:
        shape: Of the base.
        settings: Of each training.
        trainings: How many; checkpoints are there for one at a time.
        merged: Types of the merged GGUF files of each.
        has_held_out: Whether the best so far is kept on the way.
    """
    export = estimate_export(shape, settings)
    each = 2 * export.file + sum(export.merged_files[kind] for kind in merged)  # in torch's form and as GGUF
    return (
        2 * shape.parameters
        + trainings * each
        + room_for(trained_weights(shape, settings), has_held_out=has_held_out)
    )


def trained_weights(shape: ModelShape, settings: TrainSettings) -> int:
    """Return how many parameters are trained."""
    return shape.parameters if settings.method == "full" else shape.adapter_weights(settings.lora_rank)


def plan_memory(
    shape: ModelShape,
    settings: TrainSettings,
    budget: int,
    *,
    machine: Machine = CARD,
    longest: int | None = None,
    widest: int | None = None,
) -> MemoryPlan:
    """Return the fastest layout that fits, the settings' own wishes kept.

    Args:
        shape: Of the base.
        settings: What is left open in them (None) is decided.
        budget: Bytes on the device.
        machine: Where it is to run.
        longest: Tokens of the longest example; None: `max_length`, the worst case.
        widest: Tokens of the largest micro-batch, where the settings' examples are laid out already.

    Raises:
        InputError: If nothing fits; with the nearest setting that does.
    """
    longest = min(longest or settings.max_length, settings.max_length)
    plan = _find(shape, settings, budget, machine, longest, widest)
    if plan is not None:
        return plan
    tightest = list(_layouts(settings, machine, longest, widest))[-1]
    estimate = estimate_training(shape, settings, tightest, machine)
    raise InputError(
        f"training {shape.name} with {tightest.tokens_at_once:,} tokens at once needs {estimate.least / GIB:.1f} GiB,"
        f" and there are {budget / GIB:.1f} GiB ({describe_parts(estimate)})",
        hint=_nearest(shape, settings, budget, machine, longest),
    )


def _find(
    shape: ModelShape,
    settings: TrainSettings,
    budget: int,
    machine: Machine,
    longest: int,
    widest: int | None = None,
) -> MemoryPlan | None:
    """Return the first layout that fits, if need be with the optimizer's part paged out."""
    for is_paged_out in (False, True):
        for layout in _layouts(settings, machine, longest, widest):
            estimate = estimate_training(shape, settings, layout, machine)
            if (estimate.least if is_paged_out else estimate.total) <= budget:
                return MemoryPlan(layout, estimate, budget)
    return None


def budget_of(memory: Literal["8gb", "12gb", "16gb", "24gb"]) -> int:
    """Return the bytes of a preset."""
    return PRESETS[memory]


def describe_parts(estimate: Estimate) -> str:
    """Return the parts in one line, GiB."""
    return ", ".join(f"{name} {size / GIB:.2f}" for name, size in estimate.parts().items())


def describe_memory(shape: ModelShape, settings: TrainSettings, plan: MemoryPlan) -> list[str]:
    """Return what a person wants to know before a training: what it takes, what export takes; GiB."""
    layout, estimate = plan.layout, plan.estimate
    examples = max(1, layout.tokens_at_once // settings.max_length)
    rows = -(-settings.batch_size // examples)
    manner = [
        "packed" if layout.is_packed else "padded",
        "activations computed twice" if layout.has_gradient_checkpointing else "activations kept",
        "loss in tiles",
        *(["paged AdamW"] if estimate.is_paged else []),
    ]
    lines = [
        f"{shape.name}: {shape.architecture}, {shape.parameters:,} parameters,"
        f" {trained_weights(shape, settings):,} of them or beside them trained ({settings.method})",
        f"training: {estimate.total / GIB:.2f} GiB of {plan.budget / GIB:.2f} ({describe_parts(estimate)})",
        f"  {layout.tokens_at_once:,} tokens at once ({examples} examples of {settings.max_length:,}, more where they"
        f" are shorter), {rows} micro-batches to a step of {settings.batch_size} examples; {', '.join(manner)}",
    ]
    if estimate.total > plan.budget:
        lines.append(
            f"  fits with {(estimate.total - plan.budget) / GIB:.2f} GiB of the optimizer's part in the computer's"
            " memory: slower"
        )
    return [*lines, *_describe_export(estimate_export(shape, settings))]


def _describe_export(export: ExportEstimate) -> list[str]:
    files = ", ".join(f"{name} {size / GIB:.2f}" for name, size in export.merged_files.items())
    more = "merging" if export.name == "adapter" else "quantizing"
    return [
        f"export: {export.name} {export.file / GIB:.2f} GiB on disk, {export.memory / GIB:.2f} in memory;"
        f" {more} {export.merge_memory / GIB:.2f} in memory, on disk {files}",
        f"  comparing the exported student with the trained one: at least {export.check_memory / GIB:.2f} GiB in"
        " memory, beside llama.cpp's own; where there are fewer it is left out",
    ]


def _layouts(
    settings: TrainSettings, machine: Machine, longest: int, widest: int | None = None
) -> Iterator[Layout]:
    """Yield what may be tried, the fastest first."""
    is_packed = machine.is_cuda if settings.is_packed is None else settings.is_packed
    wanted = settings.has_gradient_checkpointing
    tokens = [widest] if widest else _tokens_at_once(settings, machine, longest)
    for recomputes in (False, True) if wanted is None else (wanted,):
        for count in tokens:
            # Rather recompute than leave a card idle; where everything is fixed, there is nothing to prefer.
            is_idle = machine.is_cuda and count < min(FAST_TOKENS, tokens[0])
            if recomputes or wanted is False or not is_idle:
                yield Layout(count, recomputes, is_packed)


def _tokens_at_once(settings: TrainSettings, machine: Machine, longest: int) -> list[int]:
    if settings.micro_batch_size is not None:
        return [settings.micro_batch_size * longest]
    batch = settings.batch_size * longest
    if not machine.is_cuda:
        return [examples * longest for examples in (CPU_EXAMPLES, 4, 2, 1) if examples <= settings.batch_size]
    return list(dict.fromkeys([*(min(count, batch) for count in TOKENS_AT_ONCE if count > longest), longest]))


def _nearest(shape: ModelShape, settings: TrainSettings, budget: int, machine: Machine, longest: int) -> str:
    """Name the nearest settings that fit: first those that leave the result as it is."""
    for words, changes in _changes(settings, longest):
        changed = settings.model_copy(update=changes)
        plan = _find(shape, changed, budget, machine, min(longest, changed.max_length))
        if plan is not None:
            return f"{words} fits: {plan.estimate.least / GIB:.1f} GiB"
    if machine.is_cuda:
        free = settings.model_copy(update={"micro_batch_size": None, "has_gradient_checkpointing": None})
        for name, size in PRESETS.items():
            if size > budget and _find(shape, free, size, machine, longest) is not None:
                return f"memory: {name} fits, on such a card"
    return "a smaller model, or several cards (docs/training.md)"


def _changes(settings: TrainSettings, longest: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield settings to try, with the words for them: layout first, then what changes the result."""
    layout: dict[str, Any] = {"has_gradient_checkpointing": True}
    if settings.has_gradient_checkpointing is False:
        yield "train.has_gradient_checkpointing: true", layout
    for examples in range((settings.micro_batch_size or 1) - 1, 0, -1):
        yield f"train.micro_batch_size: {examples}", {**layout, "micro_batch_size": examples}
    layout["micro_batch_size"] = None
    if not settings.is_quantized:
        yield "train.method: qlora", {**layout, "method": "qlora"}
    for length in range((longest - 1) // 128 * 128, 0, -128):
        yield f"train.max_length: {length}", {**layout, "max_length": length}
    for rank in (32, 16, 8):
        if settings.method != "full" and rank < settings.lora_rank:
            yield f"train.lora_rank: {rank}", {**layout, "lora_rank": rank}


def _copy_bytes(machine: Machine) -> int:
    """Autocast's copy of a float32 weight."""
    return machine.float_bytes if machine.float_bytes < 4 else 0


def _weight_bytes(shape: ModelShape, settings: TrainSettings, machine: Machine) -> int:
    if settings.method == "full":
        return shape.parameters * (4 + _copy_bytes(machine))
    plain = shape.embedding_weights + shape.small_weights
    if settings.is_quantized:
        return int(shape.linear_weights * NF4_BYTES) + plain * machine.float_bytes
    return shape.parameters * machine.float_bytes


def _activation_bytes(shape: ModelShape, settings: TrainSettings, layout: Layout, machine: Machine) -> int:
    """What is kept for the backward pass: all layers, or their inputs and one layer [K]; and its gradients."""
    tokens, hidden, width = layout.tokens_at_once, shape.hidden_size, machine.float_bytes
    one_layer = tokens * _kept_per_token(shape, settings, machine)
    in_flight = tokens * width * (3 * shape.intermediate_size + 2 * hidden)
    if settings.is_quantized:  # a matrix is dequantized where its layer is computed
        in_flight += width * max(wide * high for wide, high in shape.linears)
    if layout.is_packed:  # who may see whom, as sdpa takes it: a byte, and a number, a pair of tokens
        in_flight += tokens * tokens * (1 + width)
    kept = (
        shape.layers * tokens * hidden * width + one_layer
        if layout.has_gradient_checkpointing
        else shape.layers * one_layer
    )
    return kept + in_flight


def _kept_per_token(shape: ModelShape, settings: TrainSettings, machine: Machine) -> int:
    """Bytes that one layer keeps of one token without recomputation."""
    hidden, query, wide = shape.hidden_size, shape.query_size, shape.intermediate_size
    width = machine.float_bytes
    norms = 2 * 4 * hidden  # in float32
    attention = 4 * query * width  # query, key and value as repeated for the heads, and the outcome
    feed_forward = 3 * wide * width  # gate, its activation, up
    if settings.method == "full":
        inputs = (hidden + query + hidden + wide) * width
    else:
        # Each adapter keeps its input, after a dropout of its own, and what A made of it.
        each = [(size, settings.lora_rank) for size, _ in shape.linears]
        narrow = sum(rank * width for _, rank in each)
        if settings.lora_dropout:
            mask = 1 if machine.is_cuda else width  # torch keeps numbers of the input's type on a CPU
            inputs = sum(size * (width + mask) for size, _ in each) + narrow
        else:
            inputs = (hidden + query + hidden + wide) * width + narrow
    return norms + attention + feed_forward + inputs


def _logit_bytes(shape: ModelShape, layout: Layout, machine: Machine) -> int:
    """One tile of logits, and the gradient of the last hidden states [T]."""
    tile = min(layout.tokens_at_once, TILE_TOKENS) * min(shape.vocab_size, TILE_VOCABULARY)
    # Without Triton the tile is computed in torch, with float32 copies.
    per_logit = machine.float_bytes if machine.is_cuda else 16
    return tile * per_logit + layout.tokens_at_once * shape.hidden_size * (4 + machine.float_bytes)
