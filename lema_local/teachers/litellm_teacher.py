"""Teachers by LiteLLM name: any provider, and any OpenAI-compatible endpoint by its URL.

LiteLLM makes one call and reports; waiting, further tries, caching and the budget are the desk's. LiteLLM's own
retries, cache and `max_budget` stay off: the last two do not do what their names say (its budget never counts chat
completions: BerriAI/litellm#40020).
"""

from __future__ import annotations

import email.utils
import gc
import logging
import os
import re
import sys
import time
import warnings
from functools import cached_property
from typing import Any

from lema_local.errors import BackendError, BackendUnavailable
from lema_local.keys import load_keys
from lema_local.teachers import ENDPOINT_KEY, OLLAMA_URL, endpoint_of
from lema_local.teachers.base import CallFailed, FinishReason, RawReply, RequestRefused, TeacherRequest
from lema_local.teachers.endpoints import identify_ollama, identify_openai, is_local, public_part
from lema_local.teachers.prices import FREE, Price
from lema_local.teachers.reasoning import split_reasoning
from lema_local.teachers.secrets import mask_secrets

_LOCAL_PROVIDERS = frozenset({"ollama", "ollama_chat", "lm_studio", "llamafile", "hosted_vllm"})
_FINISH: dict[str | None, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
}
_LONGEST_ERROR = 1000
"""Characters of a provider's words: some send whole pages."""

_CONTEXT_OVERFLOW = re.compile(
    r"context_length_exceeded|maximum context length|context window", re.IGNORECASE
)


def import_litellm() -> Any:
    """Return LiteLLM, quiet, without telemetry, and with the price map that it ships."""
    # Else its import fetches a price map from the network. Who wants the newest one sets this to False.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    is_new = "litellm" not in sys.modules
    try:
        import litellm
    except ImportError as err:
        raise BackendUnavailable(f"LiteLLM cannot be imported: {err}", hint="pip install litellm") from err
    # A call that is ended while LiteLLM prepares it in a thread leaves such a coroutine behind.
    warnings.filterwarnings("ignore", r"coroutine '\w+\.acompletion' was never awaited", RuntimeWarning)
    if is_new:
        # Its hundreds of thousands of objects stay; looking through them for garbage took a tenth of each call's time.
        gc.freeze()
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return litellm


def _switch_off_logging() -> None:
    """Let LiteLLM write no log of the calls of this task: nobody reads it, and it takes a tenth of a call's time.

    There is no public switch (`no-log` only keeps it from being sent); where a version has not this one either, calls
    are logged as ever.
    """
    try:
        from litellm._internal_context import is_internal_call
    except ImportError:
        return
    is_internal_call.set(True)


class LiteLLMTeacher:
    """A model behind LiteLLM.

    Args:
        name: As LiteLLM names it: `gpt-4o`, `anthropic/...`, `ollama_chat/...`, `openai/NAME` with `url`.
        url: An OpenAI-compatible endpoint; None: the provider's own.
        price: Dollars per token; None: LiteLLM's price of `name`, nothing for what runs locally.
        options: Further arguments of LiteLLM's `acompletion`, such as `reasoning_effort`.
        needs_key: False: nothing will be asked, only written down.

    Raises:
        BackendUnavailable: No such provider, no key, nobody listens at `url`.
    """

    reads_gold = False

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        price: Price | None = None,
        options: dict[str, Any] | None = None,
        needs_key: bool = True,
    ) -> None:
        load_keys()
        self._litellm = import_litellm()
        self._name = name
        self._url = url
        self._model, self._provider = self._resolve()
        self._key = self._find_key(needs_key)
        self._options = options or {}
        self._check_options()
        self.price = price if price is not None else self._find_price()
        """Dollars per token; None where nobody knows."""
        self._has_own_price = price is not None
        self._tell_price()
        self._identity = self._identify()

    @property
    def name(self) -> str:
        """As asked for."""
        return self._name

    @property
    def identity(self) -> str:
        """URL and what is served there; for a provider's own model only the options, if any."""
        return self._identity

    @property
    def url(self) -> str | None:
        """The endpoint; None: the provider's own."""
        return self._url

    @property
    def provider(self) -> str:
        """As LiteLLM names it."""
        return self._provider

    # -- Before the first call

    def _resolve(self) -> tuple[str, str]:
        """Return the model as LiteLLM wants it, and its provider."""
        try:
            _, provider, _, _ = self._litellm.get_llm_provider(self._name)
        except self._litellm.exceptions.BadRequestError as err:
            if self._url:
                return f"openai/{self._name}", "openai"
            raise BackendUnavailable(
                f"no provider is known for the teacher {self._name!r}",
                hint="write PROVIDER/MODEL (such as anthropic/..., ollama_chat/...), or give --teacher-url",
            ) from err
        return self._name, provider

    def _takes(self, parameter: str) -> bool:
        """Return whether the model may be sent a parameter of a call, as far as LiteLLM knows."""
        known = self._litellm.get_supported_openai_params(
            model=self._model.removeprefix(f"{self._provider}/"), custom_llm_provider=self._provider
        )
        return parameter in (known or ())

    @cached_property
    def can_write_json(self) -> bool:
        """Whether the model has a mode for JSON."""
        return self._takes("response_format")

    def _check_options(self) -> None:
        """Raise for an option that would be dropped without a word."""
        for option in self._options:
            if not self._takes(option):
                raise BackendUnavailable(
                    f"the teacher {self._name} takes no {option}", hint=f"leave {option} out for this teacher"
                )

    @property
    def _is_local(self) -> bool:
        return is_local(self._url) if self._url else self._provider in _LOCAL_PROVIDERS

    def _find_key(self, needs_key: bool) -> str | None:
        """Return the key to send where it is not LiteLLM that finds it."""
        if self._url:
            # A provider's key is not sent to whatever listens on this machine.
            given = os.environ.get(ENDPOINT_KEY)
            return given or (
                "none" if self._is_local or (self._provider == "openai" and not _has_openai_key()) else None
            )
        missing = self._litellm.validate_environment(self._name)["missing_keys"]
        if self._is_local or not all(name.endswith(("_KEY", "_TOKEN")) for name in missing):
            return None
        if missing and needs_key:
            raise BackendUnavailable(
                f"the teacher {self._name} needs a key, and {' or '.join(missing)} is not set",
                hint=f"export {missing[0]}=..., or: lema keys set {missing[0]}",
            )
        return None

    def _find_price(self) -> Price | None:
        if self._is_local:
            return FREE
        try:
            info = self._litellm.get_model_info(self._name)
        except (self._litellm.exceptions.ModelNotMappedError, self._litellm.exceptions.BadRequestError):
            return None
        return Price(info["input_cost_per_token"] or 0.0, info["output_cost_per_token"] or 0.0)

    def _tell_price(self) -> None:
        """Tell LiteLLM the price of a model of one's own: with each reply it looks for one, and takes long in vain.

        Where it knows a model of this name nothing is told: another teacher may be that one, and costs what it costs.
        """
        if self._url is None or not self._is_local:
            return
        try:
            self._litellm.get_model_info(self._name)
        except (self._litellm.exceptions.ModelNotMappedError, self._litellm.exceptions.BadRequestError):
            facts = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0, "mode": "chat"}
            self._litellm.register_model({self._model: {"litellm_provider": self._provider, **facts}})

    def batch_price(self) -> Price | None:
        """Return the price in a batch: the one that was given, LiteLLM's, or half of the usual one.

        Source of the half: litellm.cost_calculator.batch_cost_calculator, for models without a batch price.
        """
        if self.price is None or self._has_own_price or self._is_local:
            return self.price
        info = self._litellm.get_model_info(self._name)
        parts = info.get("input_cost_per_token_batches"), info.get("output_cost_per_token_batches")
        usual = self.price.prompt_usd, self.price.completion_usd
        prompt, completion = (
            whole / 2 if part is None else part for part, whole in zip(parts, usual, strict=True)
        )
        return Price(prompt, completion)

    def _identify(self) -> str:
        model = self._model.partition("/")[2] or self._model
        options = f" {sorted(self._options.items())}" if self._options else ""
        if self._provider in {"ollama", "ollama_chat"}:
            return identify_ollama(endpoint_of(self._name, self._url) or OLLAMA_URL, model) + options
        if self._url is None:
            return options.strip()
        if not self._is_local:
            return public_part(self._url) + options
        return identify_openai(self._url, model, self._key) + options

    # -- Calls

    def worst_case_usd(self, request: TeacherRequest) -> float:
        """Return the most that a request can cost; see `Teacher`."""
        if self.price is None:
            raise BackendUnavailable(
                f"the price of {self._name} is not known, so no budget in dollars can be kept",
                hint="give --price-in and --price-out in dollars per million tokens, or leave --max-usd out",
            )
        return self.price.worst_usd(request)

    async def reply(self, request: TeacherRequest) -> RawReply:
        """Ask once; see `Teacher`."""
        import openai

        _switch_off_logging()
        started = time.monotonic()
        try:
            response = await self._litellm.acompletion(**self._arguments(request))
        except openai.OpenAIError as err:  # LiteLLM's exceptions are all of this family
            raise self.translate(err) from None  # the original may hold headers with the key
        return self._read(response, request, time.monotonic() - started)

    def _arguments(self, request: TeacherRequest) -> dict[str, Any]:
        given = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "stop": list(request.stop) or None,
            "response_format": request.response_format,
            "api_base": self._url,
            "api_key": self._key,
            **self._options,
        }
        return {
            "model": self._model,
            "messages": [dict(message) for message in request.messages],
            "max_tokens": request.max_tokens,
            "timeout": request.timeout_s,
            "num_retries": 0,
            "max_retries": 0,  # of the provider's own SDK underneath
            "drop_params": True,  # a model that knows no seed is asked without one
            **{name: value for name, value in given.items() if value is not None},
        }

    def request_body(self, request: TeacherRequest) -> dict[str, Any]:
        """Return the body of a request in OpenAI's form, as LiteLLM would send it: for a file of requests."""
        given = self._arguments(request)
        left_out = {"model", "messages", "timeout", "num_retries", "max_retries", "api_base", "api_key"}
        model = self._model.removeprefix(f"{self._provider}/")
        options = self._litellm.utils.get_optional_params(
            model=model,
            custom_llm_provider=self._provider if self._provider == "azure" else "openai",
            **{name: value for name, value in given.items() if name not in left_out},
        )
        options |= options.pop("extra_body", None) or {}
        options.pop("stream", None)
        return {"model": model, "messages": given["messages"], **options}

    def access(self) -> dict[str, Any]:
        """Return what every call to LiteLLM needs to reach this provider."""
        reached = {"custom_llm_provider": self._provider, "api_base": self._url, "api_key": self._key}
        return {name: value for name, value in reached.items() if value is not None}

    def _read(self, response: Any, request: TeacherRequest, latency_s: float) -> RawReply:
        if not response.choices:
            raise CallFailed("a reply without choices", may_have_cost=True)
        choice = response.choices[0]
        text, reasoning = split_reasoning(clean_text(choice.message.content))
        usage = getattr(response, "usage", None)
        return RawReply(
            text=text,
            model=response.model,
            finish_reason=read_finish(choice.finish_reason),
            prompt_tokens=getattr(usage, "prompt_tokens", None),
            completion_tokens=getattr(usage, "completion_tokens", None),
            cost_usd=self._cost_usd(usage, request),
            latency_s=latency_s,
            reasoning=clean_text(getattr(choice.message, "reasoning_content", None)) or reasoning,
            body=response.model_dump(mode="json", exclude_none=True),
        )

    def _cost_usd(self, usage: Any, request: TeacherRequest) -> float:
        """Return a reply's dollars; where the provider counted no tokens, the worst case."""
        if self.price is None or self.price == FREE:
            return 0.0
        if not getattr(usage, "total_tokens", None):
            return self.price.worst_usd(request)
        if self._has_own_price:
            return self.price.cost_usd(usage.prompt_tokens, usage.completion_tokens)
        # LiteLLM knows about cached prompt tokens and dearer reasoning tokens.
        parts = self._litellm.cost_per_token(
            model=self._name,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            usage_object=usage,
        )
        return float(sum(parts))

    def translate(self, err: Exception) -> BackendError:
        """Return one of our errors for one of LiteLLM's, the provider's words in it, keys masked."""
        known = self._litellm.exceptions
        status = getattr(err, "status_code", None)
        words = mask_secrets(_provider_words(err))
        message = f"{self._name}: {words}"
        own = (known.ContextWindowExceededError, known.ContentPolicyViolationError)
        # LiteLLM knows an overflow by some providers' exact sentences only.
        if isinstance(err, own) or (status == 400 and _CONTEXT_OVERFLOW.search(str(err))):
            return RequestRefused(message, is_only_this=True)
        if isinstance(err, known.Timeout):
            return CallFailed(message, may_have_cost=True)
        headers = _headers(err)
        if status == 429:
            if "insufficient_quota" in words or "exceeded your current quota" in words:
                return BackendError(message, hint="the provider's account has no credit left")
            return CallFailed(message, is_rate_limit=True, retry_after_s=read_retry_after(headers))
        if status is None or status >= 500 or status == 408:
            return self._translate_outage(err, message, headers)
        if status in {401, 403}:
            return BackendError(message, hint=self._key_hint())
        if status == 404:
            return BackendError(
                message, hint="check the model's name and --teacher-url (it usually ends with /v1)"
            )
        return RequestRefused(message, is_only_this=False)

    def _translate_outage(self, err: Exception, message: str, headers: dict[str, str]) -> CallFailed:
        if _was_never_sent(err):
            where = public_part(self._url) if self._url else f"the provider of {self._name}"
            hint = "start the server, or correct --teacher-url" if self._url else "check the network"
            return CallFailed(f"{where} cannot be reached: {message}", hint=hint, is_unreachable=True)
        # With headers the server answered, and billed nothing; without, nobody knows what it did.
        return CallFailed(message, may_have_cost=not headers, retry_after_s=read_retry_after(headers))

    def _key_hint(self) -> str:
        if self._url:
            return (
                f"set {ENDPOINT_KEY} to the key of {public_part(self._url)}, or: lema keys set {ENDPOINT_KEY}"
            )
        return "check the key (lema keys list says where it is from), and that it may use this model"

    async def close(self) -> None:
        """Close LiteLLM's connections."""
        await self._litellm.close_litellm_async_clients()


def read_retry_after(headers: dict[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: milliseconds, seconds, or a date; None where it does not."""
    if milliseconds := headers.get("retry-after-ms"):
        return _as_seconds(milliseconds, 1000.0)
    if not (value := headers.get("retry-after")):
        return None
    if (seconds := _as_seconds(value, 1.0)) is not None:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _as_seconds(value: str, divisor: float) -> float | None:
    try:
        return max(0.0, float(value) / divisor)
    except ValueError:
        return None


def _has_openai_key() -> bool:
    return bool(os.environ.get("OPENAI_API_KEY"))


def read_finish(reason: str | None) -> FinishReason:
    """Return a provider's finish reason as one of ours."""
    return _FINISH.get(reason, "other")


def clean_text(text: str | None) -> str:
    """Return text that can be written as UTF-8: half a surrogate pair cannot."""
    return (text or "").encode("utf-8", "replace").decode()


def _provider_words(err: Exception) -> str:
    """Return LiteLLM's message without its prefixes: `litellm.X: X: OpenAIException - words`."""
    text = str(getattr(err, "message", err))
    words = text.partition("Exception - ")[2] or text.removeprefix("litellm.")
    return "".join(letter if letter.isprintable() else " " for letter in words[:_LONGEST_ERROR])


def _headers(err: Exception) -> dict[str, str]:
    found = getattr(err, "litellm_response_headers", None)
    if found is None:
        found = getattr(getattr(err, "response", None), "headers", None)
    return {str(name).lower(): str(value) for name, value in (found or {}).items()}


def _was_never_sent(err: BaseException | None) -> bool:
    """Return whether no connection was made: then nothing can have been billed."""
    while err is not None:
        if isinstance(err, ConnectionRefusedError) or type(err).__name__ in {
            "ConnectError",
            "ClientConnectorError",
        }:
            return True
        err = err.__cause__ or err.__context__
    return False
