"""Where state that outlives a run is kept: one folder, moved by one variable.

`LEMA_HOME` holds the journal of teachers' replies, converted base models and downloads. It defaults to the
platform's folder for user data; tests point it at a temporary one.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from lema_local.errors import InputError


def lema_home() -> Path:
    """Return the folder for state that outlives a run, created if missing.

    Raises:
        InputError: If it cannot be created.
    """
    given = os.environ.get("LEMA_HOME")
    home = Path(given).expanduser().absolute() if given else platformdirs.user_data_path("lema-local", False)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise InputError(
            f"cannot create the folder {home}: {err.strerror}",
            hint="set LEMA_HOME to a folder you may write to",
        ) from err
    return home
