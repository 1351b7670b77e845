"""A thinking model's reasoning, where it stands in the reply's text: kept apart, never part of a correction."""

from __future__ import annotations

import re

_OPENING = re.compile(r"\s*<(think(?:ing)?|thought|reasoning)>", re.IGNORECASE)
_CLOSING = re.compile(r"</(?:think(?:ing)?|thought|reasoning)>", re.IGNORECASE)


def split_reasoning(text: str) -> tuple[str, str | None]:
    """Return a reply's answer and the reasoning before it; None where there is none.

    Some local servers leave `<think> ... </think>` in the text; where the chat template writes the opening tag, only
    the closing one is seen. A reply that was cut within its reasoning has no answer.
    """
    opening = _OPENING.match(text)
    closings = list(_CLOSING.finditer(text))
    if opening is None and not closings:
        return text, None
    start = opening.end() if opening else 0
    if not closings:
        return "", text[start:].strip()
    # The last one: reasoning may speak of the tag itself.
    return text[closings[-1].end() :].strip(), text[start : closings[-1].start()].strip()
