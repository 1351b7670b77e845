"""One teacher as a recipe names it: which model, where, at what price, and how it is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lema_local.errors import InputError
from lema_local.keys import check_url
from lema_local.students.base import Message
from lema_local.teachers.base import TeacherRequest


def without_key(variable: str) -> AfterValidator:
    """Return a validator that refuses an endpoint's URL with a key in it: the recipe is kept with the run."""

    def check(url: str) -> str:
        try:
            check_url(url, variable)
        except InputError as err:
            raise ValueError(f"{err}; {err.hint}") from None
        return url

    return AfterValidator(check)


class CallBlock(BaseModel):
    """What every stage that asks a teacher says about its calls."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_p: float | None = Field(default=None, gt=0, le=1)
    """Null: the provider's default."""
    max_tokens: int = Field(default=1024, ge=1)
    """Of a reply; a thinking model's thoughts count."""
    max_tokens_on_cut: int | None = Field(default=4096, ge=1)
    """A reply cut by `max_tokens` is asked for once more with this limit; null: never."""
    concurrency: int = Field(default=8, ge=1)
    """Calls in flight at most; fewer while the provider says that it is too much."""
    rpm: int | None = Field(default=None, ge=1)
    """Requests a minute at most; null: as many as the provider takes."""
    tpm: int | None = Field(default=None, ge=1)
    """Tokens a minute at most, those of prompts and replies together; null: likewise."""
    timeout_s: float = Field(default=300.0, gt=0)
    """Seconds for one call."""
    retries: int = Field(default=8, ge=0)
    """Further tries after a time-out, a broken connection, a rate limit or a server's error."""


class TeacherSettings(BaseModel):
    """Who is asked, and how. Keys come from the environment, never from here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "reference"
    """A LiteLLM name (`gpt-4o`, `ollama_chat/...`, `openai/NAME` with `url`), `llamacpp/PATH.gguf` in this process, or
    `reference`: no model."""
    url: Annotated[str, without_key("LEMA_TEACHER_KEY")] | None = None
    """An OpenAI-compatible endpoint."""
    price_in: float | None = Field(default=None, ge=0)
    """Dollars per million prompt tokens; None: LiteLLM's price, 0 for local endpoints."""
    price_out: float | None = Field(default=None, ge=0)
    """Dollars per million reply tokens."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the mistakes that this teacher gets, against the weights of the others."""
    temperature: Annotated[float, Field(ge=0, le=2)] | Literal["default"] | None = None
    """Of first attempts; null: the stage's; `default`: none is sent at all (some models refuse to be told)."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Of a reply; null: the stage's. A thinking model needs more."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    """For thinking models; null: the provider's default."""
    system_prompt: str | None = None
    """Said before everything else; null: none."""
    slots: int = Field(default=8, ge=1)
    """For `llamacpp/`: replies decoded at once."""
    gpu_layers: int = Field(default=0, ge=-1)
    """For `llamacpp/`: layers on the GPU; -1: all."""

    def shape(self, request: TeacherRequest, *, is_first: bool) -> TeacherRequest:
        """Return a request as this teacher is asked.

        Args:
            request: With the stage's settings.
            is_first: A first attempt: its temperature is this teacher's, where it has one.
        """
        if self.temperature == "default":
            request = replace(request, temperature=None)
        elif self.temperature is not None and is_first:
            request = replace(request, temperature=self.temperature)
        if self.max_tokens is not None:
            request = replace(request, max_tokens=self.max_tokens)
        if self.system_prompt is not None:
            told = Message(role="system", content=self.system_prompt)
            request = replace(request, messages=(told, *request.messages))
        return request


AS_THE_STAGE_SAYS = TeacherSettings()
"""Settings that change nothing of a request."""
