"""Where prompts and recipes that come with the project are: in the wheel, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path


def shipped_folder(kind: str) -> Path:
    """Return the folder of shipped `prompts` or `recipes`."""
    package = Path(__file__).resolve().parent
    in_wheel = package / "_shipped" / kind
    return in_wheel if in_wheel.is_dir() else package.parent / kind
