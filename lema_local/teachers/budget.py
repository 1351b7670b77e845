"""The cap on what teachers may cost, which holds however many calls are in flight.

Each call reserves the most that it can cost before it is sent, and settles on what it did cost when the reply is
there. Spent and reserved together never pass the cap. Calls that got no reply, unusable replies and further tries
all count.
"""

from __future__ import annotations

import threading

from lema_local.errors import BudgetReached

# Dollars are sums of floats: a cap of 0.3 has to take three calls of 0.1.
_ROUNDING_USD = 1e-9


class Reservation:
    """What one call in flight may cost."""

    __slots__ = ("worst_usd",)

    def __init__(self, worst_usd: float) -> None:
        self.worst_usd = worst_usd


class Budget:
    """A cap in dollars and in calls. Safe to use from several threads.

    Args:
        max_usd: Dollars; None: no cap.
        max_calls: Requests sent, further tries included; None: no cap.
        spent_usd: Dollars spent before, by the run that is going on.
        calls: Requests sent before, by the run that is going on.
    """

    def __init__(
        self,
        max_usd: float | None = None,
        max_calls: int | None = None,
        *,
        spent_usd: float = 0.0,
        calls: int = 0,
    ) -> None:
        self.max_usd = max_usd
        self.max_calls = max_calls
        self._spent_usd = spent_usd
        self._calls = calls
        self._open: set[Reservation] = set()
        self._reserved_usd = 0.0
        self._lock = threading.Lock()

    @property
    def spent_usd(self) -> float:
        """Dollars settled so far, those of before included."""
        return self._spent_usd

    @property
    def reserved_usd(self) -> float:
        """Dollars that calls in flight may cost at most."""
        return self._reserved_usd

    @property
    def calls(self) -> int:
        """Requests sent so far, those of before included."""
        return self._calls

    def reserve(self, worst_usd: float) -> Reservation | None:
        """Return a reservation, or None where one fits only if a call in flight costs less than it may.

        Raises:
            BudgetReached: If the call does not fit, whatever the calls in flight cost.
        """
        with self._lock:
            if self.max_calls is not None and self._calls >= self.max_calls:
                raise BudgetReached(f"the budget of {self.max_calls} calls is used up")
            if self._exceeds(self._spent_usd + self._reserved_usd + worst_usd):
                if not self._open or self._exceeds(self._spent_usd + worst_usd):
                    raise BudgetReached(self._describe(worst_usd))
                return None
            self._calls += 1
            reservation = Reservation(worst_usd)
            self._open.add(reservation)
            self._reserved_usd += worst_usd
            return reservation

    def settle(self, reservation: Reservation, cost_usd: float) -> None:
        """Replace what a call may cost by what it did cost."""
        with self._lock:
            self._close(reservation)
            self._spent_usd += cost_usd

    def withdraw(self, reservation: Reservation) -> None:
        """Give back a reservation whose call was never sent."""
        with self._lock:
            self._close(reservation)
            self._calls -= 1

    def _close(self, reservation: Reservation) -> None:
        self._open.remove(reservation)
        # Sums of floats drift: with nothing open, nothing is reserved.
        self._reserved_usd = self._reserved_usd - reservation.worst_usd if self._open else 0.0

    def _exceeds(self, usd: float) -> bool:
        return self.max_usd is not None and usd > self.max_usd + _ROUNDING_USD

    def _describe(self, worst_usd: float) -> str:
        return (
            f"the budget of ${self.max_usd:.4f} is used up: ${self._spent_usd:.4f} spent, "
            f"and the next call may cost ${worst_usd:.4f}"
        )
