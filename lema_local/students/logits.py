"""The logits after every token of a text, as llama.cpp computes them: to compare a model with another of its forms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lema_local.students.decoder import Decoder, Layout
from lema_local.students.layout import physical_cores, round_cells
from lema_local.students.model import Model

BATCH_TOKENS = 128
"""Tokens computed at once; a row of logits is kept for each of them."""


class _EveryTokenDecoder(Decoder):
    """A context that keeps the logits of all tokens of a batch."""

    def _params(self) -> Any:
        params = super()._params()
        params.n_outputs_max = self.layout.batch_tokens
        return params


def read_logits(
    model: Model,
    texts: Iterable[Sequence[int]],
    *,
    adapters: Sequence[tuple[Path, float]] = (),
    threads: int | None = None,
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield for each text the logits after each of its tokens: float32 [tokens, vocabulary].

    Raises:
        BackendError: If llama.cpp fails.
    """
    for ids in texts:
        layout = Layout(1, threads or physical_cores(), round_cells(len(ids)), len(ids), BATCH_TOKENS)
        decoder = _EveryTokenDecoder(model, layout)
        try:
            decoder.use_adapters(tuple(adapters))
            yield _read_text(decoder, np.asarray(ids, np.int32))
        finally:
            decoder.close()


def _read_text(decoder: Decoder, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    rows = np.empty((len(ids), decoder.model.vocabulary_size), np.float32)
    for start in range(0, len(ids), BATCH_TOKENS):
        part = ids[start : start + BATCH_TOKENS]
        count = len(part)
        decoder.token[:count] = part
        decoder.position[:count] = np.arange(start, start + count, dtype=np.int32)
        decoder.sequence[:count] = 0
        decoder.has_logits[:count] = 1
        decoder.decode(count)
        rows[start : start + count] = decoder.logits(count)
    return rows
