"""The llama.cpp student: many paths at once, in-process, from one GGUF file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lema_local.errors import PromptError
from lema_local.students.base import (
    Completion,
    DecodeSettings,
    EngineOptions,
    Prompt,
    PromptStyle,
    Refusal,
    SampleRequest,
)
from lema_local.students.chat import render_chat
from lema_local.students.decoder import Decoder, Layout
from lema_local.students.feed import Feed, common_prefix
from lema_local.students.layout import (
    LARGE_MODEL_PARAMETERS,
    Workload,
    candidate_layouts,
    check_weights_fit,
    describe_workload,
    grow,
)
from lema_local.students.model import Model, ModelFacts, Tokens, read_facts
from lema_local.students.native import shared_library_version
from lema_local.students.scheduler import Scheduler
from lema_local.students.tuning import fastest_layout

Adapters = tuple[tuple[Path, float], ...]
"""GGUF LoRA adapters with their scales."""
_LOG = logging.getLogger(__name__)
LOOK_AHEAD = 256
"""Requests that are looked at before the engine chooses its layout and the shared prefix."""
SHORTEST_PREFIX = 8
"""Tokens; a shorter common start of the prompts is not worth a sequence of its own."""
_NO_TOKENS: Tokens = np.zeros(0, np.int32)


class LlamaStudent:
    """A GGUF model that decodes many sequences in each step. Use it from one thread at a time.

    Args:
        path: The GGUF file.
        adapters: (path, scale) of GGUF LoRA adapters over it.
        prompt_style: `auto`: chat where the file has a template.
        options: What is not to be chosen by the engine.
        chosen: What an earlier start chose (`describe()["chosen"]`), to be used again.
        on_chosen: Called once with what the engine chose, before anything is decoded.

    Raises:
        BackendUnavailable: If the file or an adapter cannot be used, or memory is too small.
    """

    def __init__(
        self,
        path: Path,
        *,
        adapters: Adapters = (),
        prompt_style: PromptStyle | Literal["auto"] = "auto",
        options: EngineOptions | None = None,
        chosen: Mapping[str, Any] | None = None,
        on_chosen: Callable[[dict[str, Any]], None] | None = None,
        name: str | None = None,
    ) -> None:
        self._name = name
        self._options = options or EngineOptions()
        self.facts: ModelFacts = read_facts(path)
        check_weights_fit(self.facts)
        self._model = Model(path, gpu_layers=self._options.gpu_layers)
        self._adapters: Adapters = ()
        self._style = prompt_style
        self._layout = Layout(**chosen) if chosen else None
        self._measures = True
        self._is_for_few = False
        """Whether the layout was chosen for fewer paths than it would otherwise hold."""
        self._on_chosen = on_chosen
        self._decoder: Decoder | None = None
        self._prefix = _NO_TOKENS
        self._prefix_state: Any = None
        self.use_adapters(adapters)

    @property
    def name(self) -> str:
        """The name it was given, or the file's, adapters added: `base.gguf+adapter.gguf`."""
        return self._name or "+".join([self._model.path.name, *(path.name for path, _ in self._adapters)])

    @property
    def prompt_style(self) -> PromptStyle:
        """`chat` where the GGUF has a template, unless told otherwise."""
        if self._style == "auto":
            return "chat" if self.facts.chat_template else "completion"
        return self._style

    def use_adapters(self, adapters: Sequence[tuple[Path, float]]) -> None:
        """Put other adapters over the base, without loading the base again; none: the base alone.

        Raises:
            BackendUnavailable: If one does not fit the base.
        """
        for path, _ in adapters:
            self._model.load_adapter(path)
        self._adapters = tuple(adapters)
        if self._decoder is not None:
            self._apply_adapters(self._decoder)

    def _apply_adapters(self, decoder: Decoder) -> None:
        decoder.use_adapters(self._adapters)
        self._prefix, self._prefix_state = _NO_TOKENS, None

    @property
    def has_template(self) -> bool:
        """True where the GGUF brings a chat template."""
        return bool(self.facts.chat_template)

    def render(self, prompt: Prompt) -> str:
        """Return the exact text that the model is given.

        Raises:
            PromptError: If these are messages and the model has no chat template.
        """
        if isinstance(prompt, str):
            return prompt
        if not self.facts.chat_template:
            raise PromptError(
                f"{self._model.path.name} has no chat template", hint="use --prompt-style completion"
            )
        model = self._model
        return render_chat(
            self.facts.chat_template, prompt, start_text=model.start_text, end_text=model.end_text
        )

    def tokenize(self, prompt: Prompt) -> Tokens:
        """Return the token ids that the model is given: int32 [tokens]."""
        text = self.render(prompt)
        is_chat = not isinstance(prompt, str)
        # A template that writes the start token itself must not get a second one.
        has_start = is_chat and bool(self._model.start_text) and text.startswith(self._model.start_text)
        return self._model.tokenize(text, add_special=not has_start, parse_special=is_chat)

    def logits(self, texts: Iterable[Sequence[int]]) -> Iterator[npt.NDArray[np.float32]]:
        """Yield for each text, as token ids, the logits after each of its tokens: float32 [tokens, vocabulary]."""
        from lema_local.students.logits import read_logits

        return read_logits(self._model, texts, adapters=self._adapters, threads=self._options.threads)

    def token_text(self, token: int) -> str:
        """Return how one token is written."""
        return self._model.token_text(token)

    def complete_many(
        self, requests: Iterable[SampleRequest], settings: DecodeSettings, *, is_exact: bool = False
    ) -> Iterator[tuple[SampleRequest, Completion | Refusal]]:
        """Yield each request with its completion; see `Student.complete_many`."""
        if is_exact:
            group = list(requests)
            # What a measurement finds fastest may differ the next time, and with it the last bits of the logits.
            self._measures = False
            yield from _in_order(group, self._run_all(Feed(group, self.tokenize), settings, len(group)))
        else:
            yield from self._run_all(Feed(requests, self.tokenize), settings, LOOK_AHEAD)

    def _run_all(
        self, feed: Feed, settings: DecodeSettings, look_ahead: int
    ) -> Iterator[tuple[SampleRequest, Completion | Refusal]]:
        jobs = feed.look_ahead(look_ahead)
        if not jobs:
            return
        layout = self._choose(feed, settings)
        prefix = common_prefix(jobs)
        if not SHORTEST_PREFIX <= len(prefix) < layout.sequence_cells:
            prefix = _NO_TOKENS
        while True:
            decoder = self._prepare(layout, prefix)
            scheduler = Scheduler(decoder, self._prefix, feed, settings)
            yield from scheduler.run()
            if not scheduler.needed_tokens:
                return
            layout = grow(layout, scheduler.needed_tokens)

    def _choose(self, feed: Feed, settings: DecodeSettings) -> Layout:
        """Return the layout: the one that was chosen before, unless far more is asked of it now."""
        if self._layout is None or (self._measures and self._is_for_few and len(feed) > self._layout.slots):
            work = describe_workload(feed.look_ahead(0), len(feed), settings.max_tokens)
            layouts = candidate_layouts(self.facts, work, self._options)
            self._is_for_few = work.requests <= layouts[0].slots
            is_worth_it = self._measures and self._is_worth_measuring(layouts, work)
            self._layout = fastest_layout(self._model, layouts, work) if is_worth_it else layouts[0]
        _LOG.debug("%s: the engine chose %s", self.name, self._layout)
        if self._on_chosen is not None:
            self._on_chosen(self._layout.as_dict())
            self._on_chosen = None
        return self._layout

    def _is_worth_measuring(self, layouts: Sequence[Layout], work: Workload) -> bool:
        is_on_cpu = self._options.gpu_layers == 0
        return (
            len(layouts) > 1
            and work.requests >= 2 * layouts[0].slots
            and not self.facts.is_recurrent
            and not (is_on_cpu and self.facts.parameters >= LARGE_MODEL_PARAMETERS)
        )

    def _prepare(self, layout: Layout, prefix: Tokens) -> Decoder:
        """Return a decoder of this layout that holds the prefix and nothing else."""
        if self._decoder is None or self._decoder.layout != layout:
            if self._decoder is not None:
                self._decoder.close()
            self._decoder = Decoder(self._model, layout)
            self._apply_adapters(self._decoder)
        decoder = self._decoder
        decoder.clear()
        if len(prefix) == 0:
            self._prefix, self._prefix_state = _NO_TOKENS, None
        elif np.array_equal(prefix, self._prefix):
            decoder.restore(decoder.prefix, self._prefix_state)
        else:
            decoder.decode_prefix(prefix)
            self._prefix, self._prefix_state = prefix, decoder.save(decoder.prefix)
        return decoder

    def describe(self) -> dict[str, Any]:
        """Return what was loaded and what the engine chose (`chosen` is missing until it has)."""
        chosen = {"chosen": self._layout.as_dict()} if self._layout else {}
        return {
            "kind": "llama.cpp",
            "file": str(self._model.path),
            "architecture": self.facts.architecture,
            "parameters": self.facts.parameters,
            "quantization": self.facts.quantization,
            "adapters": [{"file": str(path), "scale": scale} for path, scale in self._adapters],
            "prompt_style": self.prompt_style,
            "llama_cpp_python": shared_library_version(),
            **chosen,
        }

    def close(self) -> None:
        """Give memory back."""
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = None
        self._model.close()


def _in_order(
    requests: list[SampleRequest], results: Iterator[tuple[SampleRequest, Completion | Refusal]]
) -> Iterator[tuple[SampleRequest, Completion | Refusal]]:
    """Yield results in the order of the requests, each as soon as all before it are there."""
    finished: dict[int, Completion | Refusal] = {}
    waiting = iter(requests)
    head = next(waiting, None)
    for request, result in results:
        finished[id(request)] = result
        while head is not None and id(head) in finished:
            yield head, finished.pop(id(head))
            head = next(waiting, None)
