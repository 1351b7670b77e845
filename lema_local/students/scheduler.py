"""Continuous batching: which sequence decodes what in each step.

Each step hands llama.cpp one token of every running path and, beside them, as much of the waiting prompts as the
batch still holds. A prompt is computed in the slot of its first path and copied to the others; a freed slot
starts the next path in the same step. A path is admitted only when the KV cells that it can still need are
free, so a full cache never fails a batch.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

import numpy as np

from lema_local.records import StopReason
from lema_local.students.base import Completion, DecodeSettings, Refusal, SampleRequest
from lema_local.students.choosing import Indices, TokenChooser
from lema_local.students.decoder import Decoder
from lema_local.students.endings import END, MAY_STOP, PLAIN, UNKNOWN, EndFinder
from lema_local.students.feed import Feed, Job, common_length
from lema_local.students.model import Tokens

Result = tuple[SampleRequest, Completion | Refusal]


class Scheduler:
    """Runs the requests of a feed on a decoder whose prefix sequence holds `prefix`.

    Args:
        decoder: Its memory holds the prefix and nothing else.
        prefix: Tokens in the decoder's prefix sequence; may be empty.
        feed: The requests.
        settings: How tokens are chosen and when a path ends.
    """

    def __init__(self, decoder: Decoder, prefix: Tokens, feed: Feed, settings: DecodeSettings) -> None:
        slots, model = decoder.layout.slots, decoder.model
        self._decoder = decoder
        self._prefix = prefix
        self._feed = feed
        self._max_tokens = settings.max_tokens
        self._chooser = TokenChooser(slots, model.vocabulary_size, settings)
        self._ends = EndFinder(model, settings.stop)
        self._free_cells = decoder.layout.cells - len(prefix)
        self.needed_tokens = 0
        """Not 0 when `run` stopped because the next request needs longer sequences than the context has."""
        self._request: list[SampleRequest | None] = [None] * slots
        self._job: list[Job | None] = [None] * slots
        self._free = list(range(slots))
        self._stale: list[int] = []
        """Free slots whose memory is not empty yet."""
        self._running: list[int] = []
        self._stepped: list[int] = []
        """Of the running slots, those that are in the last batch."""
        self._filling: list[Job] = []
        self._completed: list[Job] = []
        self._next = np.zeros(slots, np.int32)
        self._position = np.zeros(slots, np.int32)
        self._generated = np.zeros(slots, np.int32)
        self._limit = np.zeros(slots, np.int32)
        self._tokens = np.zeros((slots, max(1, settings.max_tokens)), np.int32)

    def run(self) -> Iterator[Result]:
        """Yield each request with its completion as it finishes."""
        try:
            while True:
                yield from self._refill()
                if not self._running and not self._filling:
                    return
                self._decoder.decode(self._compose())
                yield from self._advance()
        finally:
            self._chooser.close()

    # Admission

    def _refill(self) -> Iterator[Result]:
        """Start waiting requests in free slots as long as both last."""
        while True:
            head = self._feed.peek()
            self._forget_others(head[1] if head else None)
            if head is None or not self._free:
                break
            request, job = head
            if reason := self._why_refused(job):
                self._feed.pop()
                yield request, Refusal(reason)
            elif self._can_admit(job):
                self._feed.pop()
                self._start(self._pick_slot(job), request, job)
            else:
                break
        if head is not None:
            self._keep_one_holder(head[1])

    def _why_refused(self, job: Job) -> str | None:
        count, limit = len(job.tokens), self._decoder.layout.sequence_tokens
        if count == 0:
            return "the prompt is empty"
        if count >= limit:
            return f"the prompt has {count} tokens; the context holds {limit}"
        return None

    def _new_tokens(self, job: Job) -> int:
        """Most tokens that a path of this job can get."""
        return min(self._max_tokens, self._decoder.layout.sequence_tokens - len(job.tokens))

    def _can_admit(self, job: Job) -> bool:
        layout = self._decoder.layout
        # One cell more than the new tokens: a late path decodes its prompt's last token again.
        new = self._new_tokens(job) + 1
        if len(self._prefix) * layout.is_unified + self._own(job) + new > layout.sequence_cells:
            self.needed_tokens = len(job.tokens) + new
            return False
        is_held = job.slots or (job.is_ready and self._decoder.is_trimmable)
        needed = new if is_held else new + self._own(job)
        return not layout.is_unified or needed <= self._free_cells

    def _own(self, job: Job) -> int:
        """Cells that the prompt needs beyond the shared prefix."""
        return len(job.tokens) - (self._shared(job) if self._decoder.layout.is_unified else 0)

    def _shared(self, job: Job) -> int:
        """Tokens that the prompt can take from the prefix; its last token must be computed, for its logits."""
        shared = min(common_length(job.tokens, self._prefix), len(job.tokens) - 1)
        return shared if self._decoder.is_trimmable or shared == len(self._prefix) else 0

    def _pick_slot(self, job: Job) -> int:
        """Prefer a free slot that holds the prompt already."""
        slot = next((slot for slot in self._free if slot in job.holders), self._free[0])
        self._free.remove(slot)
        return slot

    # Starting a path

    def _start(self, slot: int, request: SampleRequest, job: Job) -> None:
        if job.is_ready and not self._decoder.is_trimmable:
            job = Job(job.tokens)  # its memory has gone on: computed anew
        self._chooser.start(slot, request.seed)
        self._request[slot] = request
        self._generated[slot] = 0
        self._limit[slot] = self._new_tokens(job)
        self._free_cells -= int(self._limit[slot]) + 1
        if job.is_ready:
            self._continue_prompt(slot, job)
        else:
            self._forget(slot)
            self._await_prompt(slot, job)
        self._job[slot] = job

    def _continue_prompt(self, slot: int, job: Job) -> None:
        """Begin from a prompt in memory: its last token is decoded again for its logits."""
        last = len(job.tokens) - 1
        if slot in job.holders:
            self._stale.remove(slot)
            self._decoder.drop(slot, last)
        else:
            self._forget(slot)
            self._decoder.copy(min(job.holders), slot, last)
            job.holders.add(slot)
        self._next[slot], self._position[slot] = job.tokens[last], last
        insort(self._running, slot)

    def _await_prompt(self, slot: int, job: Job) -> None:
        """Compute the prompt in this slot, or wait for the slot that does."""
        job.slots.append(slot)
        if len(job.slots) > 1:
            return
        job.done = self._shared(job)
        if job.done:
            self._decoder.copy(self._decoder.prefix, slot, job.done)
        self._free_cells -= self._own(job)
        self._filling.append(job)

    # Forgetting

    def _forget(self, slot: int) -> None:
        """Empty a slot's memory; a prompt that nobody holds any more gives its cells back."""
        job = self._job[slot]
        if job is None:
            return
        self._decoder.drop(slot)
        self._stale.remove(slot)
        self._job[slot] = None
        job.holders.discard(slot)
        if not job.holders:
            job.is_ready = False
            self._free_cells += self._own(job)

    def _forget_others(self, job: Job | None) -> None:
        for slot in [slot for slot in self._stale if self._job[slot] is not job]:
            self._forget(slot)

    def _keep_one_holder(self, job: Job) -> None:
        """Of free slots that hold the next request's prompt, keep one, and only where no running one does."""
        for slot in list(self._stale):
            if len(job.holders) > 1:
                self._forget(slot)
            else:
                self._decoder.drop(slot, len(job.tokens))

    # A step

    def _compose(self) -> int:
        """Fill the batch arrays; return the number of tokens."""
        decoder = self._decoder
        # With one stream each llama.cpp splits a batch wherever sequences differ in length or ids jump: there
        # the prompts go first, alone, and what decodes stays one piece.
        is_apart = bool(self._filling) and not decoder.layout.is_unified
        running = self._stepped = [] if is_apart else self._running
        count = len(running)
        decoder.token[:count] = self._next[running]
        decoder.position[:count] = self._position[running]
        decoder.sequence[:count] = running
        decoder.has_logits[:count] = 1
        for job in self._filling:
            count = self._add_prompt(job, count)
        return count

    def _add_prompt(self, job: Job, count: int) -> int:
        """Add as much of a prompt as the batch still holds; return the number of tokens then."""
        decoder, start = self._decoder, job.done
        size = min(decoder.layout.batch_tokens - count, len(job.tokens) - start)
        end = count + size
        decoder.token[count:end] = job.tokens[start : start + size]
        decoder.position[count:end] = np.arange(start, start + size, dtype=np.int32)
        decoder.sequence[count:end] = job.slots[0]
        decoder.has_logits[count:end] = 0
        job.done += size
        if size and job.done == len(job.tokens):
            decoder.has_logits[end - 1] = 1
            self._completed.append(job)
        return end

    def _advance(self) -> Iterator[Result]:
        """Choose the next token of every path whose logits were computed; yield those that ended."""
        slots = self._stepped
        if self._completed:
            slots, sources = self._begin_completed()
            outputs = self._outputs(sources)
        else:
            outputs = np.arange(len(slots))
        if not slots:
            return
        tokens = self._chooser.choose(self._decoder, slots, outputs)
        index = np.array(slots)
        self._tokens[index, self._generated[index]] = tokens
        self._generated[index] += 1
        self._position[index] += 1
        self._next[index] = tokens
        is_event = (self._ends.kind[tokens] != PLAIN) | (self._generated[index] >= self._limit[index])
        for slot in index[is_event].tolist():
            reason = self._why_ended(slot)
            if reason is not None:
                yield self._finish(slot, reason)

    def _begin_completed(self) -> tuple[list[int], list[int]]:
        """Start all paths whose prompt is now in memory.

        Returns:
            The slots that have a next token to choose, and for each the slot whose logits it chooses from.
        """
        slots, sources = list(self._stepped), list(self._stepped)
        for job in self._completed:
            self._filling.remove(job)
            leader, count = job.slots[0], len(job.tokens)
            for slot in job.slots[1:]:
                self._decoder.copy(leader, slot, count)
            slots += job.slots
            sources += [leader] * len(job.slots)
            self._running += job.slots
            self._position[job.slots] = count - 1
            job.holders, job.slots, job.is_ready = set(job.slots), [], True
        self._completed = []
        self._running.sort()
        return slots, sources

    def _outputs(self, sources: list[int]) -> Indices:
        """Return where in the batch's logits those of these slots stand."""
        decoder = self._decoder
        flagged = decoder.sequence[decoder.flagged_rows()]
        output = np.empty(decoder.layout.slots, np.int64)
        output[flagged] = np.arange(len(flagged))
        found: Indices = output[sources]
        return found

    def _why_ended(self, slot: int) -> StopReason | None:
        count = int(self._generated[slot])
        token = int(self._tokens[slot, count - 1])
        kind = int(self._ends.kind[token])
        if kind == UNKNOWN:
            kind = self._ends.look_up(token)
        if kind == END:
            return "end"
        if kind == MAY_STOP and self._ends.has_stop(self._tokens[slot, :count]):
            return "stop"
        return "length" if count >= self._limit[slot] else None

    def _finish(self, slot: int, reason: StopReason) -> Result:
        """Free a slot; its memory stays until it is needed, for it may hold the next path's prompt."""
        request, job, count = self._request[slot], self._job[slot], int(self._generated[slot])
        assert request is not None
        assert job is not None
        self._request[slot] = None
        self._running.remove(slot)
        insort(self._free, slot)
        self._stale.append(slot)
        self._free_cells += int(self._limit[slot]) + 1
        text, has_stop = self._ends.text(self._tokens[slot, :count])
        return request, Completion(text, "stop" if has_stop else reason, len(job.tokens), count)
