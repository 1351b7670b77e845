"""Keys stay in the environment: what is shown or kept has them masked."""

from __future__ import annotations

import os
import re

_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SHORTEST = 8
"""Shorter values of such variables are no keys but switches."""
_LOOKS_LIKE_A_KEY = re.compile(
    r"(?:\b(?:sk|pk|rk|gsk|xai|hf|AIza|r8|nvapi|csk|tgp)[-_]?[A-Za-z0-9*_-]{12,})"
    r"|(?<=Bearer )\S{8,}"
    r"|(?<=[?&]key=)[^&\s\"']+"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)


def mask_secrets(text: str) -> str:
    """Return the text with every key in it replaced by `***`.

    Masked are the values of environment variables that are named like keys, and whatever looks like a key:
    providers repeat a wrong key, whole or in part, in their error messages.
    """
    for name, value in os.environ.items():
        if _NAME.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    return _LOOKS_LIKE_A_KEY.sub("***", text)
