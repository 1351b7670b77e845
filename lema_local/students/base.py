"""What a student is, whatever runs it: prompts in, completions out, several at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict

from lema_local.records import StopReason


class Message(TypedDict):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | tuple[Message, ...]
"""Text to be completed, or chat messages that the student puts into its own template."""
PromptStyle = Literal["chat", "completion"]
KvType = Literal["f32", "f16", "q8_0", "q4_0"]


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One path to sample. Requests of one question follow each other and share one equal `prompt`."""

    question_id: str
    sample_index: int
    prompt: Prompt
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What a student wrote."""

    text: str
    stop_reason: StopReason
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that cannot be served (its prompt is longer than the context); the others go on."""

    reason: str


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """How tokens are chosen and when a path ends."""

    temperature: float = 0.7
    """0 is greedy."""
    top_k: int = 40
    """0: off."""
    top_p: float = 0.95
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    max_tokens: int = 512
    stop: Sequence[str] = field(default_factory=tuple)
    """A path ends before the first of these strings."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a user may set of the llama.cpp engine; None: chosen by the engine."""

    slots: int | None = None
    """Paths decoded at once; at an endpoint: requests in flight."""
    threads: int | None = None
    """None: the physical cores."""
    context_tokens: int | None = None
    """Longest sequence, prompt and new tokens together; None: what the model was trained on."""
    gpu_layers: int = 0
    """Layers on the GPU; -1: all."""
    is_unified: bool | None = None
    """One pool of KV cells for all sequences, or one stream of cells each."""
    has_flash_attention: bool | None = None
    kv_type: KvType = "f16"
    """How KV cells are kept; the 8 and 4 bit ones take less memory and change the text a little."""


class Student(Protocol):
    """A model that can be sampled."""

    @property
    def name(self) -> str:
        """What stands in every path that it wrote."""

    @property
    def prompt_style(self) -> PromptStyle:
        """`chat` where the model has a chat template that is to be used, else `completion`."""

    def complete_many(
        self, requests: Iterable[SampleRequest], settings: DecodeSettings, *, is_exact: bool = False
    ) -> Iterator[tuple[SampleRequest, Completion | Refusal]]:
        """Yield each request with its completion as it finishes, in whatever order they finish.

        Requests are drawn lazily, as slots become free. With `is_exact` the composition of every batch is a
        function of the requests alone (groups decoded to their end), and completions come in the order of the
        requests: a resumed run that starts at a group's boundary gives the same bytes.

        Raises:
            BackendError: If the student cannot go on; what was yielded stays valid.
        """

    def describe(self) -> dict[str, Any]:
        """What was loaded and what the engine chose by itself (slots, threads, layout): for the manifest."""

    def close(self) -> None:
        """Give memory back; the student cannot be used afterwards."""
