"""Which teachers there are: the kinds, and the models that LiteLLM's price map knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to name a teacher."""

    form: str
    what: str


KINDS = (
    Kind("reference", "no model: corrects from the gold rationale; the baseline, free"),
    Kind("llamacpp/PATH.gguf", "a GGUF file in this process; free"),
    Kind("ollama_chat/NAME", "a model of a running Ollama; free"),
    Kind(
        "openai/NAME --teacher-url URL",
        "an OpenAI-compatible endpoint: llama-server, vLLM, ...; free if local",
    ),
    Kind("gpt-4o, o3-mini, ...", "OpenAI; needs OPENAI_API_KEY"),
    Kind("anthropic/NAME", "Anthropic; needs ANTHROPIC_API_KEY"),
    Kind("gemini/NAME", "Google; needs GEMINI_API_KEY"),
    Kind("PROVIDER/NAME", "whatever else LiteLLM knows"),
)


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """A chat model in LiteLLM's price map."""

    name: str
    provider: str
    usd_in: float | None
    """Dollars per million prompt tokens."""
    usd_out: float | None
    """Dollars per million reply tokens."""
    context_tokens: int | None


def find_models(pattern: str) -> list[ModelPrice]:
    """Return the chat models whose names hold a text, by name; nothing is asked of anybody."""
    from lema_local.teachers.litellm_teacher import import_litellm

    known = import_litellm().model_cost
    return sorted(
        (
            ModelPrice(
                name,
                facts.get("litellm_provider", ""),
                _per_million(facts.get("input_cost_per_token")),
                _per_million(facts.get("output_cost_per_token")),
                facts.get("max_input_tokens") if isinstance(facts.get("max_input_tokens"), int) else None,
            )
            for name, facts in known.items()
            if pattern.lower() in name.lower() and facts.get("mode") == "chat"
        ),
        key=lambda model: model.name,
    )


def _per_million(usd: float | None) -> float | None:
    return None if usd is None else round(usd * 1e6, 6)
