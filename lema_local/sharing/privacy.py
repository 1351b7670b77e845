"""What leaves this machine names no place on it: paths become file names, endpoints' addresses are left out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from lema_local.teachers import IN_PROCESS
from lema_local.teachers.secrets import mask_secrets

_IS_PLACE = re.compile(r"(?:~|\.{0,2}/|[A-Za-z]:[\\/]|\\\\).*")
_SPEC = re.compile(r"(?P<name>[\w-]+):(?P<path>[^@]*)(?P<split>@[\w-]+)?")
_FILE_FIELDS = ("source", "grades", "prompt", "cot_prompt")
"""Fields of a recipe that may name a file, relative ones too."""


def public_name(name: str) -> str:
    """Return a student's or a teacher's name without the folder that its file lies in."""
    if name.startswith(IN_PROCESS):
        return IN_PROCESS + public_name(name.removeprefix(IN_PROCESS))
    is_file = name.endswith(".gguf") and not name.startswith("hf:")
    return _last(name) if is_file or _IS_PLACE.fullmatch(name) else name


def public_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values without paths, endpoints' addresses and keys."""
    return {name: _public(name, value) for name, value in values.items()}


def mask_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with every key in its texts masked; the same row where there is none."""
    text = json.dumps(row, ensure_ascii=False)
    masked = mask_secrets(text)
    return row if masked == text else dict(json.loads(masked))


def _public(field: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return public_recipe(value)
    if isinstance(value, list):
        return [_public(field, one) for one in value]
    if not isinstance(value, str):
        return value
    if field == "url" or field.endswith("_url"):
        return None
    if field in _FILE_FIELDS and (spec := _SPEC.fullmatch(value)) and len(spec["name"]) > 1:
        return f"{spec['name']}:{_last(spec['path'])}{spec['split'] or ''}"
    if field in _FILE_FIELDS or (field == "base" and Path(value).exists()):
        return _last(value)
    return mask_secrets(public_name(value) if "\n" not in value else value)


def _last(path: str) -> str:
    """Return a path's last part, whichever system it is written for."""
    return PureWindowsPath(path).name or path
