"""llama.cpp's own functions, its log kept instead of printed, its failures as ours.

The only module that imports `llama_cpp`; everything else asks `library()` for it.
"""

from __future__ import annotations

import atexit
import functools
from collections import deque
from pathlib import Path
from typing import Any

from lema_local.errors import BackendUnavailable

_WARNING, _ERROR = 3, 4  # Source: ggml.h, enum ggml_log_level
_log: deque[tuple[int, str]] = deque(maxlen=100)
_kept_alive: list[Any] = []
"""llama.cpp holds a bare pointer to its log callback: were it collected, the process would die."""


@functools.cache
def library() -> Any:
    """Return the module of llama.cpp's low-level bindings, its log silenced and kept.

    Raises:
        BackendUnavailable: If llama-cpp-python is not installed or its library cannot be loaded.
    """
    try:
        import llama_cpp._utils as _utils
        import llama_cpp.llama_cpp as low_level
    except (ImportError, OSError, RuntimeError) as err:
        raise BackendUnavailable(
            f"llama-cpp-python cannot be loaded: {err}", hint="pip install llama-cpp-python"
        ) from err
    callback = low_level.llama_log_callback(_keep_line)
    _kept_alive.append(callback)
    low_level.llama_log_set(callback, None)
    low_level.llama_backend_init()
    # It opens these on import and never closes them: Python would complain of that at its end.
    for stream in (_utils.outnull_file, _utils.errnull_file):
        atexit.register(stream.close)
    return low_level


def _keep_line(level: int, text: bytes, _: object) -> None:
    # Lower levels come by the hundred while a model loads, and some with every batch.
    if level >= _WARNING and text.strip():
        _log.append((level, text.decode("utf-8", "replace").strip()))


def clear_log() -> None:
    """Forget what was logged, so that the next failure is told by its own lines."""
    _log.clear()


def last_error() -> str:
    """Return what llama.cpp logged as the cause of its last failure, or a plain sentence."""
    causes = [
        text for level, text in _log if level == _ERROR and not text.startswith("llama_model_load_from")
    ]
    # The first error line names the cause, the later ones that the caller gave up as well.
    return causes[0].split(": ", 1)[-1] if causes else "llama.cpp gave no reason"


def shared_library_version() -> str:
    """Return the version of the installed llama-cpp-python."""
    import importlib.metadata

    return importlib.metadata.version("llama-cpp-python")


def check_is_gguf(path: Path) -> None:
    """Look at a file's first bytes before llama.cpp does.

    Raises:
        BackendUnavailable: If it is missing, a folder, not readable or no GGUF file.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
    except FileNotFoundError as err:
        raise BackendUnavailable(
            f"there is no file {path}", hint="name a GGUF file, or hf:OWNER/REPO/FILE.gguf"
        ) from err
    except OSError as err:
        raise BackendUnavailable(f"cannot read {path}: {err.strerror}", hint="name a GGUF file") from err
    if magic != b"GGUF":
        raise BackendUnavailable(
            f"{path} is no GGUF file: it begins with {magic!r}, not with b'GGUF'",
            hint="convert the model to GGUF, or fetch one: hf:OWNER/REPO/FILE.gguf",
        )
