"""A command's flags as the settings of its stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

T = TypeVar("T", bound=BaseModel)


def check_settings(kind: type[T], given: Mapping[str, Any], command: str) -> T:
    """Return the settings that flags say.

    Raises:
        InputError: With what cannot be, and whose `--help` tells more.
    """
    from lema_local.errors import InputError
    from lema_local.jsonl import describe_validation

    try:
        return kind.model_validate(given)
    except ValidationError as err:
        raise InputError(
            f"these settings cannot be: {describe_validation(err)}", hint=f"{command} --help"
        ) from err
