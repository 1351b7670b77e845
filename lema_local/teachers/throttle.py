"""How many calls are in flight: fewer after a rate limit, more again while replies come.

Additive increase, multiplicative decrease, as TCP does it: a 429 halves the number at most once per round trip,
each reply gives back its share of one. A `Retry-After` stops all new calls for as long as the server asks.

The first call goes alone: a wrong key or a wrong name is found out with one call and not with many.

Limits that the user knows (calls and tokens a minute) are kept by spacing calls out evenly: providers count over
windows of their own, and no window sees a burst.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque


class Throttle:
    """Slots for calls in flight, first come, first served. Used from one event loop.

    Args:
        most: Calls in flight at most.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = 1.0
        """Calls in flight at present allowed; the whole part counts."""
        self._was_answered = False
        self.in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._paused_until = 0.0
        self._halved_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self) -> None:
        """Wait for a slot."""
        slot = asyncio.get_running_loop().create_future()
        self._waiting.append(slot)
        self._hand_out()
        try:
            await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back."""
        self.in_flight -= 1
        self._hand_out()

    def note_reply(self) -> None:
        """A reply came: all may go after the first one, then one more in flight after a round of replies."""
        grown = self.limit + 1.0 / self.limit if self._was_answered else float(self.most)
        self.limit = min(float(self.most), grown)
        self._was_answered = True
        self._hand_out()

    def note_rate_limit(self, sent_at: float, retry_after_s: float | None) -> None:
        """The server refused a call as one too many.

        Args:
            sent_at: When that call was sent (`time.monotonic`): calls that were in flight together count once.
            retry_after_s: Seconds that the server asked to wait.
        """
        now = time.monotonic()
        if sent_at >= self._halved_at:
            self.limit = max(1.0, self.limit / 2)
            self._halved_at = now
        if retry_after_s is not None:
            self._paused_until = max(self._paused_until, now + retry_after_s)

    def let_go(self) -> None:
        """Give a slot to everyone who waits: they are to find out that nothing more is sent."""
        while self._waiting:
            slot = self._waiting.popleft()
            if not slot.done():
                self.in_flight += 1
                slot.set_result(None)

    def _hand_out(self) -> None:
        wait_s = self._paused_until - time.monotonic()
        if wait_s > 0:
            self._wake_in(wait_s)
            return
        while self._waiting and self.in_flight < int(self.limit):
            slot = self._waiting.popleft()
            if not slot.done():
                self.in_flight += 1
                slot.set_result(None)

    def _wake_in(self, wait_s: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._hand_out()


class Pace:
    """Calls and tokens a minute at most. Used from one event loop.

    Args:
        rpm: Requests a minute; None: no limit.
        tpm: Tokens a minute, prompts and replies together; None: no limit.
    """

    def __init__(self, rpm: int | None, tpm: int | None) -> None:
        self._call_s = 60.0 / rpm if rpm else 0.0
        self._token_s = 60.0 / tpm if tpm else 0.0
        self._next_call = 0.0
        self._next_token = 0.0

    def reserve(self, tokens: int) -> float:
        """Take the next free moment for a call of so many tokens; return the seconds until then."""
        now = time.monotonic()
        at = max(now, self._next_call, self._next_token)
        self._next_call = at + self._call_s
        self._next_token = at + tokens * self._token_s
        return at - now

    def settle(self, tokens: int, used: int) -> None:
        """Give back the tokens that a call did not use, or take those that it used beyond."""
        self._next_token -= (tokens - used) * self._token_s
