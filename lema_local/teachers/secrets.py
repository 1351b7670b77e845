"""Keys stay where they are kept: what is shown or written has them masked."""

from __future__ import annotations

import os
import re

from lema_local.keys import KEY_IN_URL, NAMED_LIKE_A_KEY, SHORTEST_KEY

_LOOKS_LIKE_A_KEY = re.compile(
    r"(?:\b(?:sk|pk|rk|gsk|xai|hf|AIza|r8|nvapi|csk|tgp)[-_]?[A-Za-z0-9*_-]{12,})"
    r"|(?<=Bearer )\S{8,}"
)


def mask_secrets(text: str) -> str:
    """Return the text with every key in it replaced by `***`.

    Masked are the values of environment variables that are named like keys, and whatever looks like a key:
    providers repeat a wrong key, whole or in part, in their error messages.
    """
    for name, value in os.environ.items():
        if NAMED_LIKE_A_KEY.search(name) and len(value) >= SHORTEST_KEY:
            text = text.replace(value, "***")
    text = KEY_IN_URL.sub(lambda found: f"{found[1]}=***" if found[1] else "***", text)
    return _LOOKS_LIKE_A_KEY.sub("***", text)
