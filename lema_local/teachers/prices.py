"""What a teacher's tokens cost. The price follows the model that was asked, never the name in a reply."""

from __future__ import annotations

from dataclasses import dataclass

from lema_local.teachers.base import TeacherRequest

_PER_MILLION = 1e-6
_TOKENS_PER_MESSAGE = 16
"""A chat template's own tokens around a message, at most (those in use today take 3 to 8)."""

_BYTES_PER_TOKEN = 3
"""Of English with numbers in it, on the safe side."""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per token."""

    prompt_usd: float
    completion_usd: float

    @classmethod
    def per_million(cls, price_in: float, price_out: float) -> Price:
        """Return a price given in dollars per million tokens."""
        return cls(price_in * _PER_MILLION, price_out * _PER_MILLION)

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the dollars for so many tokens."""
        return prompt_tokens * self.prompt_usd + completion_tokens * self.completion_usd

    def worst_usd(self, request: TeacherRequest) -> float:
        """Return the most that a request can cost."""
        return self.cost_usd(most_prompt_tokens(request), request.max_tokens)


FREE = Price(0.0, 0.0)


def most_prompt_tokens(request: TeacherRequest) -> int:
    """Return a bound on the prompt's tokens that holds for every tokenizer.

    No tokenizer in use makes more tokens than the text has bytes in UTF-8. English has some four bytes a token;
    the difference is given back when the reply settles.
    """
    content = sum(len(message["content"].encode("utf-8", "replace")) for message in request.messages)
    return content + _TOKENS_PER_MESSAGE * (len(request.messages) + 1)


def likely_prompt_tokens(request: TeacherRequest) -> int:
    """Return an estimate of the prompt's tokens: for pace and queues, not for money."""
    return most_prompt_tokens(request) // _BYTES_PER_TOKEN


def likely_tokens(request: TeacherRequest) -> int:
    """Return an estimate of the tokens of a request and the longest reply that it allows."""
    return likely_prompt_tokens(request) + request.max_tokens
