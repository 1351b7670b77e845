"""One llama.cpp context: the KV memory of many sequences, and the batch that is handed to `llama_decode`.

The batch's arrays are NumPy arrays that llama.cpp reads in place, so that filling it costs a few array
assignments a step, however many sequences it holds.
"""

from __future__ import annotations

import ctypes
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lema_local.errors import BackendError, BackendUnavailable
from lema_local.students.model import Model, Tokens, adapter_arrays
from lema_local.students.native import clear_log, last_error, library

MAX_SEQUENCES = 256  # Source: llama-cparams.h, LLAMA_MAX_SEQ
KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "q4_0": 2}  # Source: ggml.h, enum ggml_type


@dataclass(frozen=True, slots=True)
class Layout:
    """What was chosen for a context; the same layout and the same requests give the same batches."""

    slots: int
    """Paths that are decoded at the same time."""
    threads: int
    cells: int
    """KV cells in all, one a token, shared prefixes counted once (`is_unified`) or once a sequence."""
    sequence_tokens: int
    """Longest sequence, prompt and new tokens together."""
    batch_tokens: int = 512
    """Most tokens in one `llama_decode`."""
    is_unified: bool = True
    """One pool of cells for all sequences; else one stream of cells each."""
    has_flash_attention: bool = True
    kv_type: str = "f16"

    @property
    def sequence_cells(self) -> int:
        """Cells that one sequence can use at most."""
        return self.cells if self.is_unified else self.cells // (self.slots + 1)

    def as_dict(self) -> dict[str, Any]:
        """Return it as a plain dictionary, from which `Layout(**...)` makes it again."""
        return asdict(self)


class Decoder:
    """A context of `layout.slots` sequences and one more, `prefix`, that holds what all prompts begin with.

    Raises:
        BackendUnavailable: If there is not memory enough for the context.
    """

    def __init__(self, model: Model, layout: Layout) -> None:
        self._lib = library()
        self.model = model
        self.layout = layout
        self.prefix = layout.slots
        """Id of the sequence that holds the shared prefix; the slots are 0 .. slots-1."""
        clear_log()
        self._context: Any = self._lib.llama_init_from_model(model.pointer, self._params())
        if not self._context:
            raise BackendUnavailable(
                f"llama.cpp cannot make a context of {layout.cells:,} KV cells for {model.path.name}: "
                f"{last_error()}",
                hint="lower --slots or --context-tokens",
            )
        self._memory: Any = self._lib.llama_get_memory(self._context)
        self.is_trimmable = not model.facts.is_recurrent
        """Whether part of a sequence can be dropped or copied."""
        self._make_batch()

    def _params(self) -> Any:
        layout = self.layout
        params = self._lib.llama_context_default_params()
        params.n_ctx = layout.cells
        params.n_batch = layout.batch_tokens
        params.n_ubatch = layout.batch_tokens
        params.n_seq_max = layout.slots + 1
        # Only the last token of each sequence has logits: without this the buffers of a large vocabulary
        # are made for every token of the batch.
        params.n_outputs_max = max(layout.slots + 1, 2)
        params.n_threads = params.n_threads_batch = layout.threads
        params.kv_unified = layout.is_unified
        params.flash_attn_type = int(layout.has_flash_attention)
        params.type_k = params.type_v = KV_TYPES[layout.kv_type]
        params.swa_full = True  # so that sliding-window layers, too, can drop and copy parts of a sequence
        params.no_perf = True
        return params

    def _make_batch(self) -> None:
        size = self.layout.batch_tokens
        self.token: Tokens = np.zeros(size, np.int32)
        self.position: Tokens = np.zeros(size, np.int32)
        self.sequence: Tokens = np.zeros(size, np.int32)
        self.has_logits: npt.NDArray[np.int8] = np.zeros(size, np.int8)
        self._counts = np.ones(size, np.int32)
        width = self.sequence.itemsize
        self._pointers = self.sequence.ctypes.data + width * np.arange(size, dtype=np.uintp)
        int_pointer = ctypes.POINTER(ctypes.c_int32)
        self._batch = self._lib.llama_batch(
            n_tokens=0,
            token=self.token.ctypes.data_as(int_pointer),
            embd=None,
            pos=self.position.ctypes.data_as(int_pointer),
            n_seq_id=self._counts.ctypes.data_as(int_pointer),
            seq_id=self._pointers.ctypes.data_as(ctypes.POINTER(int_pointer)),
            logits=self.has_logits.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def close(self) -> None:
        """Give the context's memory back."""
        if self._context:
            self._lib.llama_free(self._context)
        self._context = None

    @property
    def context(self) -> Any:
        """The pointer that sampler chains need."""
        return self._context

    def use_adapters(self, adapters: tuple[tuple[Any, float], ...]) -> None:
        """Put (path, scale) adapters over the base, replacing others. What is in memory is forgotten."""
        self.clear()
        pointers, scales = adapter_arrays(self.model, adapters)
        if self._lib.llama_set_adapters_lora(self._context, pointers, len(adapters), scales) != 0:
            raise BackendError(f"llama.cpp cannot apply adapters to {self.model.path.name}: {last_error()}")

    def decode(self, count: int) -> None:
        """Run the first `count` tokens of the batch arrays.

        Raises:
            BackendError: If llama.cpp fails.
        """
        self._batch.n_tokens = count
        status = self._lib.llama_decode(self._context, self._batch)
        if status != 0:
            cause = "no free KV cells" if status == 1 else last_error()
            raise BackendError(
                f"llama.cpp failed on a batch of {count} tokens (status {status}): {cause}",
                hint="lower --slots, then run the same command again: it goes on where it stopped",
            )

    def decode_prefix(self, tokens: Tokens) -> None:
        """Compute the shared prefix, alone, so that its bits depend on nothing else."""
        size = self.layout.batch_tokens
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            count = len(part)
            self.token[:count] = part
            self.position[:count] = np.arange(start, start + count, dtype=np.int32)
            self.sequence[:count] = self.prefix
            self.has_logits[:count] = 0
            self.decode(count)

    def logits(self, count: int) -> npt.NDArray[np.float32]:
        """Return the last batch's logits: float32 [count, vocabulary], in the order of the flagged tokens."""
        pointer = self._lib.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (count, self.model.vocabulary_size))

    def flagged_rows(self) -> npt.NDArray[np.int64]:
        """Return the places in the last batch of the tokens with logits."""
        return np.flatnonzero(self.has_logits[: self._batch.n_tokens])

    def clear(self) -> None:
        """Forget all sequences; the next ones are laid out as in a new context."""
        self._lib.llama_memory_clear(self._memory, False)

    def drop(self, sequence: int, start: int = 0) -> None:
        """Forget a sequence's tokens from position `start` on."""
        self._lib.llama_memory_seq_rm(self._memory, sequence, start if start else -1, -1)

    def copy(self, source: int, target: int, count: int) -> None:
        """Let an empty `target` begin with the first `count` tokens of `source`.

        Where the memory is not trimmable, `source` must hold exactly those.
        """
        if self.layout.is_unified and self.is_trimmable:
            self._lib.llama_memory_seq_cp(self._memory, source, target, 0, count)
            return
        # Between streams only whole sequences can be copied.
        self._lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        if self.is_trimmable:
            self.drop(target, count)

    def save(self, sequence: int) -> Any:
        """Return the state of one sequence, to be put back by `restore`."""
        size = self._lib.llama_state_seq_get_size(self._context, sequence)
        buffer = (ctypes.c_uint8 * size)()
        self._lib.llama_state_seq_get_data(self._context, buffer, size, sequence)
        return buffer

    def restore(self, sequence: int, state: Any) -> None:
        """Put a saved sequence into empty memory.

        Raises:
            BackendError: If llama.cpp does not take it back.
        """
        if not self._lib.llama_state_seq_set_data(self._context, state, len(state), sequence):
            raise BackendError(f"llama.cpp cannot restore a saved sequence: {last_error()}")
