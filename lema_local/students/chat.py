"""Chat messages as the model expects them: the template inside the GGUF, rendered in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence

from lema_local.errors import PromptError
from lema_local.students.base import Message


def render_chat(template: str, messages: Sequence[Message], *, start_text: str, end_text: str) -> str:
    """Return the prompt text up to where the assistant begins.

    A GGUF's template is someone else's program: it runs in jinja2's immutable sandbox, as transformers does it.

    Raises:
        PromptError: If the template cannot be rendered with these messages.
    """
    from datetime import datetime

    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=True,
            bos_token=start_text,
            eos_token=end_text,
        )
    except (TemplateError, TypeError, ValueError) as err:
        raise PromptError(
            f"the model's chat template cannot be rendered: {err}", hint="use --prompt-style completion"
        ) from err
