"""A loaded GGUF model: its metadata, vocabulary, tokenizer and adapters."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lema_local.errors import BackendError, BackendUnavailable
from lema_local.students.native import check_is_gguf, clear_log, last_error, library

Tokens = npt.NDArray[np.int32]
"""Token ids: int32 [tokens]."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a GGUF file says of itself, read without loading its weights."""

    path: Path
    architecture: str
    name: str | None
    parameters: int
    weight_bytes: int
    quantization: str
    trained_context: int
    """Longest sequence that the model was trained on, in tokens."""
    layers: int
    vocabulary_size: int
    cell_bytes: int
    """Bytes of one 16-bit KV cell (all layers), where every layer attends; an upper bound else."""
    is_recurrent: bool
    """Recurrent or hybrid: its memory cannot drop part of a sequence."""
    sliding_window: int
    """Tokens; 0 where there is none."""
    chat_template: str | None


class Model:
    """A GGUF model in memory (or only its vocabulary).

    Raises:
        BackendUnavailable: If the file is missing, no GGUF, cut off, of an unknown architecture, or has no
            weights.
    """

    def __init__(self, path: Path, *, gpu_layers: int = 0, is_vocabulary_only: bool = False) -> None:
        check_is_gguf(path)
        lib = library()
        params = lib.llama_model_default_params()
        params.vocab_only = is_vocabulary_only
        params.n_gpu_layers = gpu_layers
        clear_log()
        self.path = path
        self._lib = lib
        self._adapters: dict[Path, int] = {}
        self.pointer: Any = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise _load_failure(path)
        self.vocabulary: Any = lib.llama_model_get_vocab(self.pointer)
        self.vocabulary_size: int = lib.llama_vocab_n_tokens(self.vocabulary)
        self._piece_buffer = ctypes.create_string_buffer(256)
        self._pieces: dict[int, bytes] = {}

    def close(self) -> None:
        """Give its memory back."""
        if self.pointer:
            self._lib.llama_model_free(self.pointer)  # frees its adapters as well
        self.pointer = None
        self._adapters.clear()

    @cached_property
    def facts(self) -> ModelFacts:
        """What the file says of itself."""
        # Not by llama_model_n_layer and the like: they end the process where only the vocabulary is loaded.
        lib, model = self._lib, self.pointer
        heads = self._number("attention.head_count") or 1
        head_size = self._number("embedding_length") // heads
        key_size = self._number("attention.key_length") or head_size
        value_size = self._number("attention.value_length") or head_size
        kv_heads = self._number("attention.head_count_kv") or self._number("attention.head_count")
        layers = self._number("block_count")
        return ModelFacts(
            path=self.path,
            architecture=self.architecture,
            name=self.metadata("general.name"),
            parameters=lib.llama_model_n_params(model),
            weight_bytes=lib.llama_model_size(model),
            quantization=_quantization_name(self.metadata("general.file_type")),
            trained_context=self._number("context_length"),
            layers=layers,
            vocabulary_size=self.vocabulary_size,
            cell_bytes=2 * layers * kv_heads * (key_size + value_size),
            is_recurrent=lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model),
            sliding_window=self._number("attention.sliding_window"),
            chat_template=self.metadata("tokenizer.chat_template"),
        )

    @cached_property
    def architecture(self) -> str:
        """The name by which llama.cpp knows the kind of model."""
        return self.metadata("general.architecture") or "unknown"

    def _number(self, key: str) -> int:
        """Return a number of the architecture's metadata: the largest of a list, 0 where it is missing."""
        text = self.metadata(f"{self.architecture}.{key}") or ""
        return max(map(int, re.findall(r"\d+", text)), default=0)

    def metadata(self, key: str) -> str | None:
        """Return one value of the file's metadata as text; None where it is missing."""
        size = self._lib.llama_model_meta_val_str(self.pointer, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        self._lib.llama_model_meta_val_str(self.pointer, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokens:
        """Return the token ids of a text.

        Args:
            text: Any text.
            add_special: Put the start token in front where the model's metadata asks for it.
            parse_special: Read `<|im_end|>` and the like as tokens, not as characters.
        """
        raw = text.encode("utf-8")
        tokens = np.empty(len(raw) + 8, np.int32)
        pointer = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        count = self._lib.llama_tokenize(
            self.vocabulary, raw, len(raw), pointer, len(tokens), add_special, parse_special
        )
        if count < 0:
            raise BackendError(f"llama.cpp cannot tokenize a text of {len(raw)} bytes: {text[:60]!r}...")
        tokens = tokens[:count].copy()
        # A model that asks for an end token as well must still be able to go on.
        ends_itself = add_special and self._lib.llama_vocab_get_add_eos(self.vocabulary)
        return tokens[:-1] if ends_itself and count and self.is_end(int(tokens[-1])) else tokens

    def piece(self, token: int) -> bytes:
        """Return a token's bytes (none for control tokens); they need not be whole characters."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token, is_special_shown=False)
        return known

    def join(self, tokens: Tokens) -> bytes:
        """Return the bytes of several tokens."""
        known = self._pieces
        try:
            return b"".join([known[token] for token in tokens.tolist()])
        except KeyError:
            return b"".join(map(self.piece, tokens.tolist()))

    def token_text(self, token: int) -> str:
        """Return how a token is written, control tokens included; an empty text for no token (-1)."""
        return self._read_piece(token, is_special_shown=True).decode("utf-8", "replace") if token >= 0 else ""

    def _read_piece(self, token: int, *, is_special_shown: bool) -> bytes:
        args = (0, is_special_shown)
        size = self._lib.llama_token_to_piece(
            self.vocabulary, token, self._piece_buffer, len(self._piece_buffer), *args
        )
        if size < 0:  # minus the bytes that are needed
            self._piece_buffer = ctypes.create_string_buffer(-size)
            size = self._lib.llama_token_to_piece(self.vocabulary, token, self._piece_buffer, -size, *args)
        return self._piece_buffer.raw[:size]

    def is_end(self, token: int) -> bool:
        """Say whether a token ends a generation by the model's own vocabulary."""
        return bool(self._lib.llama_vocab_is_eog(self.vocabulary, token))

    @cached_property
    def start_text(self) -> str:
        """How the start token is written."""
        return self.token_text(self._lib.llama_vocab_bos(self.vocabulary))

    @cached_property
    def end_text(self) -> str:
        """How the end token is written."""
        return self.token_text(self._lib.llama_vocab_eos(self.vocabulary))

    def load_adapter(self, path: Path) -> int:
        """Return a pointer to a GGUF LoRA adapter, loaded once.

        Raises:
            BackendUnavailable: If it is missing, no adapter, or made for another architecture.
        """
        if path not in self._adapters:
            check_is_gguf(path)
            clear_log()
            pointer = self._lib.llama_adapter_lora_init(self.pointer, str(path).encode())
            if not pointer:
                raise BackendUnavailable(
                    f"{path} cannot be used as an adapter of {self.path.name}: {last_error()}",
                    hint="an adapter fits only the base model that it was trained on (lema export makes one)",
                )
            self._adapters[path] = pointer
        return self._adapters[path]


def _quantization_name(file_type: str | None) -> str:
    name = library().llama_ftype_name(int(file_type)) if file_type else None
    return name.decode() if name else "unknown"


def _load_failure(path: Path) -> BackendUnavailable:
    """Say in one message why llama.cpp would not load a file."""
    cause = last_error()
    if "file bounds" in cause or "failed to read" in cause or "unexpectedly reached end" in cause:
        return BackendUnavailable(
            f"{path} is cut off ({path.stat().st_size:,} bytes): {cause}", hint="fetch or copy it again"
        )
    if "key not found" in cause and "tokenizer" in cause:
        return BackendUnavailable(
            f"{path} has no vocabulary: it is an adapter or a part of a model",
            hint="name the model's own GGUF file; an adapter goes with --adapter",
        )
    return BackendUnavailable(
        f"llama.cpp cannot load {path}: {cause}", hint="fetch or convert it again, or update llama-cpp-python"
    )


def read_facts(path: Path) -> ModelFacts:
    """Return what a GGUF file says of itself, without loading its weights.

    Raises:
        BackendUnavailable: As for `Model`; also if it holds a vocabulary and no weights.
    """
    model = Model(path, is_vocabulary_only=True)
    try:
        facts = model.facts
    finally:
        model.close()
    if facts.parameters == 0:
        raise BackendUnavailable(
            f"{path} holds a vocabulary and no weights", hint="name the model's own GGUF file"
        )
    return facts


def adapter_arrays(model: Model, adapters: Sequence[tuple[Path, float]]) -> tuple[Any, Any]:
    """Return C arrays of adapter pointers and of their scales."""
    pointers = [model.load_adapter(path) for path, _ in adapters]
    scales = [scale for _, scale in adapters]
    kind = library().llama_adapter_lora_p_ctypes
    return (kind * len(pointers))(*pointers), (ctypes.c_float * len(scales))(*scales)
