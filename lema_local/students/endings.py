"""When a path ends, and its text: end tokens, stop strings across token borders, whole characters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lema_local.students.model import Model, Tokens

PLAIN, END, MAY_STOP, UNKNOWN = 0, 1, 2, 3


class EndFinder:
    """Knows which tokens can end a path, so that all others cost one look into a table.

    Args:
        model: Whose vocabulary it is.
        stop: A path ends before the first of these strings; empty ones are ignored.
    """

    def __init__(self, model: Model, stop: Sequence[str]) -> None:
        self._model = model
        self._stop = tuple(text.encode("utf-8") for text in stop if text)
        self._stop_ends = {text[-1] for text in self._stop}
        self._reach = max((len(text) for text in self._stop), default=0)
        self.kind: npt.NDArray[np.int8] = np.full(model.vocabulary_size, UNKNOWN, np.int8)
        """What is known of each token so far: int8 [vocabulary]; UNKNOWN until `look_up` has seen it."""

    def look_up(self, token: int) -> int:
        """Return PLAIN, END or MAY_STOP, and remember it."""
        if self._model.is_end(token):
            kind = END
        else:
            # A stop string is complete only when its last byte has come.
            kind = PLAIN if self._stop_ends.isdisjoint(self._model.piece(token)) else MAY_STOP
        self.kind[token] = kind
        return kind

    def has_stop(self, tokens: Tokens) -> bool:
        """Say whether the last of these tokens completes a stop string."""
        pieces: list[bytes] = []
        length = 0
        for token in tokens[: -self._reach - 1 : -1].tolist():
            pieces.append(self._model.piece(token))
            length += len(pieces[-1])
            if length - len(pieces[0]) >= self._reach - 1:
                break
        tail = b"".join(reversed(pieces))
        return any(text in tail for text in self._stop)

    def text(self, tokens: Tokens) -> tuple[str, bool]:
        """Return the tokens' text up to the first stop string, and whether there was one.

        Bytes that are no whole character (a path cut in the middle of one) are left out.
        """
        raw = self._model.join(tokens)
        found = [place for place in map(raw.find, self._stop) if place >= 0]
        return raw[: min(found, default=len(raw))].decode("utf-8", "ignore"), bool(found)
