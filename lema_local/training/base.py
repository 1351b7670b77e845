"""What a trainer is, as the stages know it: settings in, an adapter and its GGUF out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from lema_local.records import AnyExample, TrainingExample

OnProgress = Callable[[int, int, dict[str, float]], None]
"""Called with (optimizer steps done, steps in all, values such as {"loss": 1.2})."""
Tell = Callable[[str], None]
"""Called with lines for the user."""
ParityPrompt = str | tuple[Any, ...]
"""Text, or chat messages ({"role", "content"},)."""
AnswerGreedily = Callable[[Sequence[str], int], Sequence[str]]
"""(prompts, max_tokens) -> what a student writes at temperature 0 to each, in their order."""
ReadLogits = Callable[[Iterable[Sequence[int]]], Iterator[Any]]
"""Token ids of texts -> for each text the logits after each of its tokens: float32 [tokens, vocabulary]."""
MAX_MEAN_KL = 1e-3
"""Nats per position between the trained adapter in torch and the exported one in llama.cpp, on a 16-bit base."""
MIN_SAME_TOP = 0.99
"""Share of positions outside near-ties where both prefer the same token."""


def ignore(line: str) -> None:
    """Tell nobody."""


class TrainSettings(BaseModel):
    """How an adapter is fitted. The defaults are the paper's, where it gives them.

    Source: [P] arXiv 2310.20689v4 section 3.3; [R] training_code/llama_2_70b_gsm8k.sh (microsoft/LEMA@94fea82).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["qlora", "lora", "full", "dpo"] = "qlora"
    """`qlora`: the base in NF4 with double quantization [P, R]; `lora`: the base as it is; `full`: all weights are
    trained, no adapter; `dpo`: as `qlora`, from pairs instead of examples, by direct preference optimization. A file of
    pairs (the arm `preference`) is trained so by `qlora` and `lora`, too."""
    dpo_beta: float = Field(0.1, gt=0)
    """How strongly a student that learns from pairs is held to the base, which is its reference. Source: TRL's default
    and the most used value (Rafailov et al. 2023, arXiv 2305.18290)."""
    dpo_learning_rate: float | None = Field(None, gt=0)
    """For pairs. None: a fortieth of `learning_rate`, as the alignment handbook goes from 2e-4 to 5e-6 with QLoRA
    (huggingface/alignment-handbook, recipes/zephyr-7b-beta)."""
    memory: Literal["auto", "8gb", "12gb", "16gb", "24gb"] = "auto"
    """The card that the layout of a step is chosen for: examples at once, packing, checkpointing; the result stays.
    `auto`: what is free on this machine."""
    lora_rank: int = Field(64, ge=1)
    """Width of the adapter [P]."""
    lora_alpha: float = Field(16.0, gt=0)
    """The adapter is scaled by alpha / rank [R]."""
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    """Share of the adapter's inputs dropped while training [P]."""
    learning_rate: float | None = Field(None, gt=0)
    """None: the paper's, 2e-4 below 34B parameters and 1e-4 from there; 1e-5 where all weights are trained [P, C.4]."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Of the learning rate, without warm-up: constant [R], or falling to 0 at the last step."""
    batch_size: int = Field(96, ge=1)
    """Examples per optimizer step [P]; exactly so many in each step."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Examples computed at once, on average when packed: less takes less memory; the result stays. None: as `memory`
    has room for; at most 8 on a CPU (measured there with a model of 2.6M parameters: 32 took 1.7 times as long)."""
    epochs: float = Field(3.0, gt=0)
    """Passes through the examples; the paper gives steps instead (2,000: 4.3 to 7.3 passes) [P]."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps, instead of `epochs`: how arms of unequal size get equal steps."""
    max_length: int = Field(1024, ge=8)
    """Tokens of prompt and completion ([R]: 512 + 512); a longer example is left out and counted, never cut."""
    prompt_style: Literal["completion", "chat"] = "completion"
    """`chat` puts each prompt into the base's chat template as the user's message."""
    is_packed: bool | None = None
    """A micro-batch is one row without padding, its examples kept apart; the result stays. None: on a GPU; on a CPU
    the attention over such a row costs more than the padding that it saves."""
    has_gradient_checkpointing: bool | None = None
    """Computes activations twice to save memory [R]; the result stays. None: where `memory` asks for it."""
    max_grad_norm: float = Field(0.3, gt=0)
    """Gradients are clipped to this norm [R]."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decay [R]."""
    seed: int = 0
    """Draws the adapter's first weights, the order of the examples and the dropout [R]."""
    validate_every_steps: int | None = Field(50, ge=1)
    """Steps between two looks at the held-out examples, where there are some; the best adapter seen, the last step's
    among them, is the one that is kept. None: never; the last one is kept."""
    validate_answers_every: int = Field(0, ge=0)
    """At every so-manieth look the held-out questions are also answered greedily, through the exported adapter. 0:
    never. 1: at each, and the best adapter is the one with the most right answers; else the one of least loss."""
    keep_looks: bool = False
    """Keep the adapter of every look, for a number in the paper's style: the best checkpoint on the test questions
    [P]. Each is as large as the adapter."""
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where transformers reports the losses to, beside `train_log.jsonl`: nothing leaves this machine by itself."""
    save_every_steps: int = Field(50, ge=1)
    """Steps between checkpoints, from which a killed training goes on with the same losses."""

    @property
    def outcome(self) -> Literal["adapter", "model"]:
        """What a training leaves: names its folder, and its GGUF."""
        return "model" if self.method == "full" else "adapter"

    @property
    def is_quantized(self) -> bool:
        """True where the base is in NF4."""
        return self.method in ("qlora", "dpo")


@dataclass(frozen=True, slots=True)
class Validation:
    """What a training is looked at with, on its way."""

    examples: Sequence[TrainingExample]
    """Held out: none of their questions is trained on."""
    answer: Callable[[Path], float] | None = None
    """An adapter's folder -> the share of the held-out questions that its export answers rightly, greedily."""


LAYOUT_SETTINGS = ("memory", "micro_batch_size", "is_packed", "has_gradient_checkpointing")
"""How a step is computed, not what comes of it: they may change between a start and the next."""


DPO_SETTINGS = ("dpo_beta", "dpo_learning_rate")
"""Settings of a training on pairs alone."""


class BaseFacts(BaseModel):
    """Which model an adapter was fitted to: `lema_base.json` beside `adapter_config.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """As it was named: a GGUF file, a Hugging Face folder or a hub name."""
    kind: Literal["gguf", "folder", "hub"]
    sha256: str
    """Of the GGUF file; for a folder of its configuration, tokenizer and weights."""
    architecture: str
    """Hugging Face's `model_type`: llama, qwen2, ..."""
    vocab_size: int
    layers: int
    hidden_size: int
    add_bos: bool
    """Whether a prompt starts with the BOS token."""
    bos_id: int | None
    eos_id: int
    """The stop token that every completion is trained to end with."""
    stop_ids: tuple[int, ...]
    """All tokens that end an answer, `eos_id` among them."""
    norm: tuple[float, ...] = ()
    """Some weights of the last norm, as a GGUF has them: they tell models of one shape apart."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What came of a training."""

    adapter_dir: Path
    """The adapter's folder; the whole model's where all weights were trained."""
    optimizer_steps: int
    examples: int
    """Examples trained on, each one counted once."""
    tokens: int
    """Tokens of one pass through the examples, prompts included."""
    trained_tokens: int
    """Tokens that carried loss, over one pass through the examples."""
    trained_tokens_by_kind: dict[str, int]
    """The same by kind of example (`cot`, `correction`)."""
    left_out_ids: Sequence[str]
    """Examples longer than `max_length`."""
    final_loss: float
    """Mean over the last ten steps (fewer where there were fewer), nats per trained token."""
    seconds: float
    """In training, loading included, summed over interrupted starts."""
    peak_memory_gib: float
    """On a GPU the most that torch allocated; on a CPU the largest resident set seen after a step."""
    details: dict[str, Any] = field(default_factory=dict)
    """Versions, dtype, device, warnings of the libraries: for the manifest."""


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written into the adapter's GGUF file."""

    path: Path
    tensors: int
    scale: float
    """What the adapter's product B A is multiplied by."""
    bytes: int
    sha256: str
    notes: Sequence[str] = ()
    """What a user should know: another base file than the one it was fitted to, say."""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What was written into a merged GGUF."""

    path: Path
    merged: int
    """Matrices that the adapter changed."""
    scale: float
    bytes: int
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far a model is from the trained one, over all positions of prompts and answers."""

    positions: int
    mean_kl: float
    """KL(trained || other) per position, nats."""
    max_kl: float
    clear_positions: int
    """Positions that are no near-tie: the trained model's two best logits are further apart."""
    same_top: int
    """Clear positions where both prefer the same token."""

    @property
    def is_within_bound(self) -> bool:
        """True where the two are one model for every practical purpose."""
        return self.mean_kl < MAX_MEAN_KL and self.same_top >= MIN_SAME_TOP * self.clear_positions


@dataclass(frozen=True, slots=True)
class Exported:
    """A student as llama.cpp runs it, as far as a comparison needs it."""

    answer: AnswerGreedily
    logits: ReadLogits | None = None
    """None where it cannot tell them: a student behind an endpoint."""


@dataclass(frozen=True, slots=True)
class FidelityResult:
    """Is the exported student the trained one? llama.cpp against torch (the unquantized base in float32)."""

    prompts: int
    greedy_equal: int
    """Prompts answered with the same text by base GGUF + adapter GGUF and by the adapter in torch."""
    near_ties: int
    """Prompts answered differently where at the first difference llama.cpp took torch's runner-up and torch's two
    best logits are less than `near_tie_logits` apart."""
    near_tie_logits: float
    nf4_greedy_equal: int | None
    """Prompts on which the NF4 model, as trained, writes the same as on the unquantized base; reported without a
    bound; None for an adapter that was not fitted to an NF4 model."""
    nf4_mean_kl: float | None
    """KL(unquantized || NF4) per answer position, nats."""
    without_adapter_equal: int
    """The control: prompts answered the same by the base GGUF alone."""
    differences: Sequence[dict[str, str]] = ()
    """{"prompt", "torch", "gguf", "reason"} of every prompt that is answered differently."""
    divergence: Divergence | None = None
    """Of the exported student from torch; None where the student cannot tell its logits."""
    without_adapter: Divergence | None = None
    """The control: of the base GGUF alone."""
    is_base_quantized: bool = False
    """The GGUF's weights are not those that torch computes with: the divergence is reported without a bound."""
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By student (`trained`, `adapter on GGUF` or `model as GGUF`, `merged f16`, ...): its answer to each prompt."""

    @property
    def is_same_student(self) -> bool:
        """True where every different answer is a near-tie, and the logits agree where they have to."""
        is_close = self.divergence is None or self.is_base_quantized or self.divergence.is_within_bound
        return self.greedy_equal + self.near_ties == self.prompts and is_close

    @property
    def is_adapter_noticed(self) -> bool:
        """True where the base alone answers otherwise: else agreement proves nothing."""
        return self.without_adapter_equal < self.prompts


@runtime_checkable
class PromptReader(Protocol):
    """A student that can tell how it reads a prompt."""

    @property
    def has_template(self) -> bool:
        """True where it can put chat messages into text."""

    def render(self, prompt: ParityPrompt) -> str:
        """Return the prompt as the text that it is given.

        Raises:
            PromptError: If its template refuses these messages.
        """

    def tokenize(self, prompt: ParityPrompt) -> Any:
        """Return the token ids, BOS included, that it decodes for a prompt."""


class Trainer(Protocol):
    """Fits one adapter (or all weights) per arm to one base and exports it."""

    @property
    def base_facts(self) -> BaseFacts:
        """Which model it is, by its weights."""

    def train(
        self,
        examples: Sequence[AnyExample],
        settings: TrainSettings,
        out_dir: Path,
        on_progress: OnProgress,
        reader: PromptReader | None = None,
        *,
        validation: Validation | None = None,
        tell: Tell = ignore,
        start_from: Path | None = None,
    ) -> TrainResult:
        """Fit an adapter into `out_dir/adapter`, or a whole model into `out_dir/model`.

        Writes a line per step into `out_dir/train_log.jsonl`. Goes on from the last checkpoint in `out_dir`, and
        returns at once where the same training has finished.

        Args:
            examples: What to train on.
            settings: How.
            out_dir: Belongs to this training alone.
            on_progress: Called after each optimizer step.
            reader: The student; where given, training does not start unless it cuts prompts as the base does.
            validation: Held-out examples; the adapter that does best on them is kept.
            tell: Called before the first step with a table of what is trained on, what was left out and how a step is
                laid out, and with each look at the held-out examples.
            start_from: An adapter's folder, fitted to the same base: training goes on from it; None: a new one.

        Raises:
            InputError: If the base, the examples or the folder do not fit.
            BackendUnavailable: If a library or the base is missing.
            BackendError: If the loss is no longer a number; the last checkpoint is kept.
        """

    def export(self, adapter_dir: Path, out_path: Path) -> ExportResult:
        """Write the adapter as a GGUF LoRA file that llama.cpp loads next to the base GGUF; a whole model as a GGUF.

        Raises:
            InputError: If the adapter cannot be expressed in GGUF or belongs to another base.
        """

    def merge(self, adapter_dir: Path, out_path: Path) -> MergeResult:
        """Write the base GGUF with the adapter merged into its weights, unquantized; a whole model as `export` does.

        Raises:
            InputError: As for `export`; also if the base has a type that cannot be dequantized.
            LemaError: If the disk has no room.
        """

    def check_fidelity(
        self,
        adapter_dir: Path,
        prompts: Sequence[str],
        *,
        with_adapter: Exported,
        without_adapter: Exported,
        others: Mapping[str, AnswerGreedily],
        max_tokens: int,
    ) -> FidelityResult:
        """Compare what llama.cpp writes and expects with the trained student in torch.

        Args:
            adapter_dir: The adapter, or the whole model, as trained.
            prompts: What is answered.
            with_adapter: Base GGUF + adapter GGUF, or the whole model's GGUF.
            without_adapter: The base GGUF alone: the control.
            others: Further forms of the exported student (merged ones), by name: only their answers are taken.
            max_tokens: Of each answer.

        Raises:
            InputError: If there is no prompt.
            NoRoom: If the unquantized model fits into no memory of this machine.
            BackendError: If a model or the adapter does not load.
        """
