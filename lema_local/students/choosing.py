"""Choosing tokens: one sampler chain and one seed per slot, greedy without any chain."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from lema_local.students.base import DecodeSettings
from lema_local.students.decoder import Decoder
from lema_local.students.model import Tokens
from lema_local.students.native import library

Indices = npt.NDArray[np.int64]
PENALTY_WINDOW = 64
"""Tokens that the repetition penalty looks back. Source: llama.cpp, common_params_sampling.penalty_last_n."""


class TokenChooser:
    """Chooses the next token of each slot from the logits of the last batch.

    The order of the samplers is llama-cpp-python's own: penalties, top-k, top-p, min-p, temperature, draw.
    """

    def __init__(self, slots: int, vocabulary_size: int, settings: DecodeSettings) -> None:
        self._lib = library()
        self._settings = settings
        self._vocabulary_size = vocabulary_size
        self.is_plain_greedy = settings.temperature <= 0 and settings.repeat_penalty == 1.0
        self._chains: list[Any] = [] if self.is_plain_greedy else [self._make_chain() for _ in range(slots)]
        self._fixed = 0 if self.is_plain_greedy else self._lib.llama_sampler_chain_n(self._chains[0])

    def _make_chain(self) -> Any:
        lib, settings = self._lib, self._settings
        params = lib.llama_sampler_chain_default_params()
        params.no_perf = True  # no clock is read for every token
        chain = lib.llama_sampler_chain_init(params)
        parts = []
        if settings.repeat_penalty != 1.0:
            parts.append(
                lib.llama_sampler_init_penalties(
                    self._vocabulary_size, PENALTY_WINDOW, settings.repeat_penalty, 0.0, 0.0
                )
            )
        if settings.temperature > 0:
            if settings.top_k > 0:
                parts.append(lib.llama_sampler_init_top_k(settings.top_k))
            if settings.top_p < 1.0:
                parts.append(lib.llama_sampler_init_top_p(settings.top_p, 1))
            if settings.min_p > 0.0:
                parts.append(lib.llama_sampler_init_min_p(settings.min_p, 1))
            parts.append(lib.llama_sampler_init_temp(settings.temperature))
        for part in parts:
            lib.llama_sampler_chain_add(chain, part)
        return chain

    def start(self, slot: int, seed: int) -> None:
        """Begin a new path in a slot with its own seed."""
        if self.is_plain_greedy:
            return
        lib, chain = self._lib, self._chains[slot]
        # Only the last sampler knows the seed: the chain, with its buffers for a whole vocabulary, stays.
        if lib.llama_sampler_chain_n(chain) > self._fixed:
            lib.llama_sampler_free(lib.llama_sampler_chain_remove(chain, self._fixed))
        lib.llama_sampler_reset(chain)
        is_greedy = self._settings.temperature <= 0
        draw = lib.llama_sampler_init_greedy() if is_greedy else lib.llama_sampler_init_dist(seed)
        lib.llama_sampler_chain_add(chain, draw)

    def choose(self, decoder: Decoder, slots: list[int], outputs: Indices) -> Tokens:
        """Return one token a slot: int32 [slots].

        Args:
            decoder: Where the batch was run.
            slots: Whose chains choose.
            outputs: Each slot's place among the tokens with logits.
        """
        if self.is_plain_greedy:
            best: Tokens = decoder.logits(int(outputs.max()) + 1).argmax(axis=1).astype(np.int32)
            return best[outputs]
        chains = map(self._chains.__getitem__, slots)
        rows = decoder.flagged_rows()[outputs].tolist()
        return np.fromiter(
            map(self._lib.llama_sampler_sample, chains, repeat(decoder.context), rows), np.int32, len(slots)
        )

    def close(self) -> None:
        """Free the chains."""
        for chain in self._chains:
            self._lib.llama_sampler_free(chain)
        self._chains = []
