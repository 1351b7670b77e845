"""A student behind an OpenAI-compatible endpoint: llama-server, vLLM, Ollama and the like.

Several requests are in flight. A question's paths are asked for together with `n` where the server has it, so that
it computes (and bills) the prompt once; path j of such a request has the request's seed plus j, as llama-server and
vLLM count them (server-task.h, add_child; vllm/v1/engine/parallel_sampling.py). Elsewhere each path is one request
with its own seed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from lema_local.errors import BackendError, BackendTransient
from lema_local.keys import check_url, load_keys
from lema_local.records import StopReason
from lema_local.students.base import Completion, DecodeSettings, PromptStyle, Refusal, SampleRequest

if TYPE_CHECKING:
    import httpx

CONCURRENCY = 16
"""Requests in flight where it is not said."""
ATTEMPTS = 6
LONGEST_WAIT_S = 60.0
KEY_VARIABLE = "LEMA_STUDENT_KEY"
"""Environment variable that holds the endpoint's key, where it wants one."""
_FINISH: dict[str, StopReason] = {"stop": "end", "length": "length"}
_Pair = tuple[SampleRequest, Completion | Refusal]


class EndpointStudent:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        model: Its name there.
        url: Base URL with its `/v1`.
        prompt_style: `auto` and `chat` ask /chat/completions, `completion` asks /completions.
        concurrency: Requests in flight at most.
        timeout_s: Seconds for one reply.

    Raises:
        BackendError: If nothing answers there.
    """

    def __init__(
        self,
        model: str,
        url: str,
        *,
        prompt_style: PromptStyle | Literal["auto"] = "auto",
        concurrency: int | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        import httpx

        self.name = model
        self.prompt_style: PromptStyle = "chat" if prompt_style == "auto" else prompt_style
        self._url = url.rstrip("/")
        self._concurrency = concurrency or CONCURRENCY
        self._has_extras = True
        """Whether the server takes top_k, min_p and a repetition penalty."""
        check_url(url, KEY_VARIABLE)
        load_keys()
        self._has_n = True
        """Whether the server gives several choices; found out with the first question."""
        key = os.environ.get(KEY_VARIABLE)
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=10.0),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=self._concurrency),
            # A proxy of the environment does not know this machine's own servers.
            trust_env=httpx.URL(self._url).host not in ("localhost", "127.0.0.1", "::1"),
        )
        self._check_is_up()

    def _check_is_up(self) -> None:
        import httpx

        try:
            self._client.get(f"{self._url}/models", timeout=10.0)
        except (httpx.HTTPError, httpx.InvalidURL) as err:
            self._client.close()
            raise BackendError(
                f"nothing answers at {self._url}: {err}", hint="start the server, or mend --student-url"
            ) from err

    def complete_many(
        self, requests: Iterable[SampleRequest], settings: DecodeSettings, *, is_exact: bool = False
    ) -> Iterator[_Pair]:
        """Yield each request with its completion; see `Student.complete_many`.

        What a server batches together is its own affair: with `is_exact` only the order is kept.
        """
        waiting = (list(group) for _, group in groupby(requests, key=lambda one: one.question_id))
        in_flight: deque[Future[list[_Pair]]] = deque()
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="student") as pool:
            try:
                while True:
                    while len(in_flight) < self._concurrency and (group := next(waiting, None)):
                        for part in (
                            [group] if self._asks_together(group, settings) else [[one] for one in group]
                        ):
                            in_flight.append(pool.submit(self._complete, part, settings))
                    if not in_flight:
                        return
                    yield from self._take(in_flight, is_exact)
            finally:
                for future in in_flight:
                    future.cancel()

    def _take(self, in_flight: deque[Future[list[_Pair]]], is_exact: bool) -> Iterator[_Pair]:
        """Yield what has finished: at least one, with `is_exact` from the front only."""
        if is_exact:
            yield from in_flight.popleft().result()
            return
        finished, _ = wait(in_flight, return_when=FIRST_COMPLETED)
        for future in finished:
            in_flight.remove(future)
            yield from future.result()

    def _asks_together(self, group: list[SampleRequest], settings: DecodeSettings) -> bool:
        return self._has_n and len(group) > 1 and settings.temperature > 0

    def _complete(self, group: list[SampleRequest], settings: DecodeSettings) -> list[_Pair]:
        """Return the completions of a question's paths, asked for in one request if the server can."""
        told: list[_Pair] = []
        if self._asks_together(group, settings):
            reply = self._post_patiently(group[0], settings, len(group))
            if isinstance(reply, dict):
                told = self._read_choices(group, reply, settings)
            self._has_n = self._has_n and len(told) == len(group)
        return told + [(request, self._complete_one(request, settings)) for request in group[len(told) :]]

    def _complete_one(self, request: SampleRequest, settings: DecodeSettings) -> Completion | Refusal:
        reply = self._post_patiently(request, settings)
        if isinstance(reply, Refusal):
            return reply
        return self._read(reply["choices"][0], reply.get("usage") or {}, settings)

    def _read_choices(
        self, group: list[SampleRequest], reply: dict[str, Any], settings: DecodeSettings
    ) -> list[_Pair]:
        """Return the choices of one request; how many tokens each has is told only where there is but one."""
        choices = sorted(reply["choices"], key=lambda choice: int(choice.get("index") or 0))[: len(group)]
        usage = dict(reply.get("usage") or {})
        if len(choices) > 1:
            usage["completion_tokens"] = None
        return [
            (replace(request, seed=(group[0].seed + place) % 2**32), self._read(choice, usage, settings))
            for place, (request, choice) in enumerate(zip(group, choices, strict=False))
        ]

    def _post_patiently(
        self, request: SampleRequest, settings: DecodeSettings, count: int = 1
    ) -> dict[str, Any] | Refusal:
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

        tries = Retrying(
            retry=retry_if_exception_type(BackendTransient),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=1, max=LONGEST_WAIT_S),
            reraise=True,
        )
        return tries(self._post, request, settings, count)

    def _post(self, request: SampleRequest, settings: DecodeSettings, count: int) -> dict[str, Any] | Refusal:
        import httpx

        is_text = isinstance(request.prompt, str)
        path = "/completions" if is_text else "/chat/completions"
        has_extras = self._has_extras
        body = _body(self.name, request, settings, has_extras=has_extras)
        if count > 1:
            body["n"] = count
        try:
            reply = self._client.post(self._url + path, json=body)
        except httpx.TransportError as err:
            raise BackendTransient(f"{self._url} does not answer: {err or type(err).__name__}") from err
        if reply.status_code == 429 or reply.status_code >= 500:
            raise BackendTransient(f"{self._url} answers {reply.status_code}: {reply.text:.200}")
        if reply.status_code >= 400:
            return self._read_refusal(request, settings, reply, has_extras, count)
        return self._parse(reply)

    def _read_refusal(
        self,
        request: SampleRequest,
        settings: DecodeSettings,
        reply: httpx.Response,
        has_extras: bool,
        count: int,
    ) -> dict[str, Any] | Refusal:
        text = reply.text
        if has_extras and reply.status_code in (400, 422) and any(name in text for name in _EXTRAS):
            self._has_extras = False
            return self._post(request, settings, count)
        if count > 1:  # not with `n`: what is really wrong, one path alone will tell
            return Refusal(text)
        if reply.status_code in (400, 413, 422) and "context" in text.lower():
            return Refusal(f"{self._url} refuses the prompt: {text:.200}")
        raise BackendError(
            f"{self._url} answers {reply.status_code} for model {self.name!r}: {text:.300}",
            hint=f"check the model's name at the endpoint, and {KEY_VARIABLE} if it wants a key",
        )

    def _parse(self, reply: httpx.Response) -> dict[str, Any]:
        try:
            parsed = reply.json()
            if parsed["choices"] and all(isinstance(choice, dict) for choice in parsed["choices"]):
                return dict(parsed)
        except (ValueError, KeyError, IndexError, TypeError):
            pass
        raise BackendError(
            f"{self._url} answers no completion: {reply.text:.200}",
            hint="--student-url is the base URL of an OpenAI-compatible endpoint, with its /v1",
        )

    def _read(self, choice: dict[str, Any], usage: dict[str, Any], settings: DecodeSettings) -> Completion:
        message = choice.get("message") or {}
        text = choice.get("text") if "text" in choice else message.get("content")
        if not isinstance(text, str | None):
            raise BackendError(f"{self._url} answers no text: {text!r:.200}")
        text = text or ""
        place = min((at for one in settings.stop if one and (at := text.find(one)) >= 0), default=len(text))
        reason = _FINISH.get(str(choice.get("finish_reason")), "unknown")
        return Completion(
            text=text[:place],
            stop_reason="stop" if place < len(text) else reason,
            prompt_tokens=usage.get("prompt_tokens"),
            completion_tokens=usage.get("completion_tokens"),
        )

    def describe(self) -> dict[str, Any]:
        """Return what it is."""
        return {
            "kind": "endpoint",
            "model": self.name,
            "url": self._url,
            "prompt_style": self.prompt_style,
            "has_extras": self._has_extras,
            "has_n": self._has_n,
        }

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


_EXTRAS = ("top_k", "min_p", "repeat_penalty", "repetition_penalty")
"""Not of OpenAI's own API; the last two are llama-server's and vLLM's names of one thing."""


def _body(
    model: str, request: SampleRequest, settings: DecodeSettings, *, has_extras: bool
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": request.seed,
    }
    if settings.stop:
        body["stop"] = list(settings.stop)
    if isinstance(request.prompt, str):
        body["prompt"] = request.prompt
    else:
        body["messages"] = list(request.prompt)
    if has_extras:
        extras = {"top_k": settings.top_k, "min_p": settings.min_p}
        body |= {name: value for name, value in extras.items() if value}
        if settings.repeat_penalty != 1.0:
            body |= dict.fromkeys(("repeat_penalty", "repetition_penalty"), settings.repeat_penalty)
    return body
