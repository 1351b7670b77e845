"""What a trainer and an exporter are, as the stages know them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from lema_local.records import TrainingExample

OnProgress = Callable[[int, int, dict[str, float]], None]
"""Called with (steps done, steps in all, values such as {"loss": 1.2})."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How an adapter is fitted; the defaults are the paper's but for the number of epochs.

    Source: arXiv 2310.20689 section 3.3; rank to clip also in microsoft/LEMA@94fea82
    training_code/llama_2_70b_gsm8k.sh.
    """

    method: Literal["qlora", "lora"] = "qlora"
    lora_rank: int = 64
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    learning_rate: float = 2e-4
    """Constant. The paper: 2e-4 below 34B parameters, 1e-4 from there."""
    batch_size: int = 96
    """Examples per optimizer step (micro-batch x accumulation)."""
    micro_batch_size: int = 4
    epochs: float = 3.0
    max_steps: int | None = None
    """Overrides `epochs`: how arms of unequal size get equal optimizer steps."""
    max_length: int = 1024
    """Tokens; an example that is longer is left out, named and counted, never cut."""
    is_packed: bool = True
    has_gradient_checkpointing: bool = True
    seed: int = 0
    save_every_steps: int = 50
    max_grad_norm: float = 0.3
    weight_decay: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What came of a training."""

    adapter_dir: Path
    optimizer_steps: int
    examples: int
    trained_tokens: int
    """Tokens that carried loss, over one pass through the examples."""
    left_out_ids: Sequence[str]
    final_loss: float
    seconds: float
    peak_memory_gib: float
    details: dict[str, Any] = field(default_factory=dict)
    """Versions, dtype, device, base and its hash: for the manifest."""


@dataclass(frozen=True, slots=True)
class FidelityResult:
    """Is the exported student the trained one? Greedy answers and logits, GGUF against torch."""

    prompts: int
    greedy_equal: int
    """Prompts whose greedy tokens are equal between base GGUF + adapter GGUF and the adapter on the unquantized
    base in torch."""
    near_ties: int
    """Prompts that differ, first at a position where torch's two best logits are nearly tied."""
    mean_kl: float
    """Over prompt and answer positions, nats."""
    top_token_agreement: float
    nf4_greedy_equal: int | None
    """Prompts on which the NF4 model, as trained, wrote the same; reported without a bound."""
    without_adapter_greedy_equal: int
    """The control: the same comparison with the adapter left out must not agree."""

    @property
    def is_same_student(self) -> bool:
        """True where every difference is a near-tie."""
        return self.greedy_equal + self.near_ties == self.prompts


class Trainer(Protocol):
    """Fits one adapter per arm and exports it."""

    def train(
        self,
        examples: Sequence[TrainingExample],
        settings: TrainSettings,
        out_dir: Path,
        on_progress: OnProgress,
    ) -> TrainResult:
        """Fit an adapter into `out_dir/adapter`, with a log in `out_dir/train_log.jsonl`.

        Goes on from the last checkpoint in `out_dir` where there is one.
        """

    def export(self, adapter_dir: Path, out_path: Path) -> dict[str, Any]:
        """Write the adapter as a GGUF LoRA file; returns what was written (tensors, scale, bytes)."""

    def check_fidelity(
        self, adapter_dir: Path, adapter_gguf: Path, prompts: Sequence[str], *, max_tokens: int
    ) -> FidelityResult:
        """Compare the exported adapter with the trained one."""
