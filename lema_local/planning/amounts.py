"""A number that is not known before the work is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Amount:
    """A number that is not known yet."""

    low: float
    about: float | None
    """None where there is nothing to estimate it from."""
    high: float

    def times(self, factor: float) -> Amount:
        """Return so many times as much."""
        return Amount(
            self.low * factor, None if self.about is None else self.about * factor, self.high * factor
        )
