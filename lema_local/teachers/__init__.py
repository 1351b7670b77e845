"""Teachers: whoever writes corrections, with the journal, the budget and the scheduler in front of them.

`open_teacher` turns a name into a teacher, `open_desk` into one with everything around it. `litellm` is imported
only here, and only when a teacher needs it.
"""

from __future__ import annotations

from typing import Any

from lema_local.errors import InputError
from lema_local.teachers.base import Teacher


def open_teacher(
    name: str,
    *,
    url: str | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    options: dict[str, Any] | None = None,
) -> Teacher:
    """Return a teacher by name.

    Args:
        name: `reference`, or a LiteLLM model name.
        url: An OpenAI-compatible endpoint.
        price_in: Dollars per million prompt tokens; None with `price_out`: LiteLLM's price, nothing for what runs
            locally.
        price_out: Dollars per million reply tokens.
        options: Further arguments of the call, such as `reasoning_effort`.

    Raises:
        InputError: If flags contradict each other.
        BackendUnavailable: No such provider, no key in the environment, nobody listens at `url`.
    """
    from lema_local.teachers.prices import Price

    if (price_in is None) != (price_out is None):
        raise InputError(
            "a price needs both parts", hint="give --price-in and --price-out, 0 where a part is free"
        )
    if name == "reference":
        if url is not None:
            raise InputError("the reference teacher is no endpoint", hint="leave --teacher-url out")
        from lema_local.teachers.reference import ReferenceTeacher

        return ReferenceTeacher()
    from lema_local.teachers.litellm_teacher import LiteLLMTeacher

    if url is not None and not url.startswith(("http://", "https://")):
        raise InputError(f"{url!r} is no URL of an endpoint", hint="such as http://127.0.0.1:8080/v1")
    price = None if price_in is None or price_out is None else Price.per_million(price_in, price_out)
    return LiteLLMTeacher(name, url=url, price=price, options=options)
