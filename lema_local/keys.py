"""Keys of providers: in the environment, or in one file under `LEMA_HOME` that only its owner may read.

What the environment says goes before the file. Keys are never taken from a recipe or from the command line, where
other users of the machine and the shell's history would see them.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from pathlib import Path

from lema_local.errors import InputError, LemaError
from lema_local.home import lema_home

NAMED_LIKE_A_KEY = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
"""Environment variables whose values are secret; everything that is shown or kept has them masked."""
SHORTEST_KEY = 8
"""Shorter values of such variables are no keys but switches; they are not masked."""
KEY_IN_URL = re.compile(
    r"(?<=://)[^/\s@]+(?=@)|(?<=[?&;])((?:[\w-]*[_-]|api)?(?:key|token|secret|password|sig))=[^&;\s\"']+",
    re.I,
)
"""User and password, or a parameter named like a key."""
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR


def keys_path() -> Path:
    """Return where the file of keys stands, or would."""
    return lema_home() / "keys.json"


def read_keys() -> dict[str, str]:
    """Return the keys of the file by the names of their environment variables; none where there is no file.

    Raises:
        InputError: If others may read the file, or it is damaged.
    """
    path = keys_path()
    if not path.exists():
        return {}
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if os.name != "nt" and mode & ~_OWNER_ONLY:
            raise InputError(
                f"others may read the keys in {path} (mode {mode:04o})", hint=f"chmod 600 {path}"
            )
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        # Without the decoder's words: they could quote the file.
        raise InputError(
            f"cannot read the keys in {path}: {type(err).__name__}",
            hint="move it away, then lema keys set NAME",
        ) from None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InputError(f"{path} holds no keys by name", hint="move it away, then lema keys set NAME")
    return found


def load_keys() -> None:
    """Put the file's keys into this process's environment, where libraries look for them.

    Raises:
        InputError: As `read_keys`.
    """
    for name, value in read_keys().items():
        os.environ.setdefault(name, value)


def check_url(url: str, variable: str) -> None:
    """Make sure that an endpoint's URL holds no key: URLs are written into recipes, manifests and the journal.

    Args:
        url: As given.
        variable: Where its key belongs.

    Raises:
        InputError: If it holds one; the message does not.
    """
    if KEY_IN_URL.search(url):
        raise InputError(
            "the endpoint's URL holds a password or a key, and URLs are kept with the results",
            hint=f"leave it out of the URL and set {variable}, in the environment or by lema keys set {variable}",
        )


def set_key(name: str, value: str) -> None:
    """Keep a key under the name of its environment variable, in place of an earlier one.

    Raises:
        InputError: If that is no name of a key, or the key no key; it is not repeated in the message.
        LemaError: If the file cannot be written; what stood in it stays.
    """
    if not _NAME.fullmatch(name) or not NAMED_LIKE_A_KEY.search(name):
        raise InputError(
            f"{name} is no name of a key's environment variable",
            hint="such as OPENAI_API_KEY, ANTHROPIC_API_KEY, or LEMA_TEACHER_KEY for --teacher-url",
        )
    value = value.strip()
    if len(value) < SHORTEST_KEY or not value.isascii() or not value.isprintable() or " " in value:
        raise InputError(
            f"that is no key: {len(value)} characters, where at least {SHORTEST_KEY} without spaces are expected",
            hint=f"lema keys set {name}, then paste the key",
        )
    _write({**read_keys(), name: value})


def remove_key(name: str) -> None:
    """Forget a key of the file.

    Raises:
        InputError: If it holds none of this name.
        LemaError: If the file cannot be written.
    """
    keys = read_keys()
    if keys.pop(name, None) is None:
        raise InputError(f"{keys_path()} holds no {name}", hint="lema keys list")
    _write(keys)


def _write(keys: dict[str, str]) -> None:
    """Replace the file as a whole; a new file is its owner's alone from the moment it exists."""
    path = keys_path()
    partial = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix="keys.")  # mode 0600
        partial = Path(name)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(dict(sorted(keys.items())), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as err:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise LemaError(
            f"cannot write {path}: {err.strerror}; what stood in it stays",
            hint="free some space, or mend the permissions",
        ) from err
