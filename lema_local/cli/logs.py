"""What is written down of a command's work: `--log-file`, and `-v` on stderr. Keys are masked in both."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

LOGGER = logging.getLogger("lema_local")


class _Masked(logging.Formatter):
    """Lines without keys."""

    def format(self, record: logging.LogRecord) -> str:
        from lema_local.teachers.secrets import mask_secrets

        return mask_secrets(super().format(record))


def log_to_stderr() -> None:
    """Show what goes on in detail."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Masked("%(name)s: %(message)s"))
    handler.addFilter(lambda record: not getattr(record, "is_shown", False))
    _add(handler)


def log_to_file(path: Path) -> None:
    """Append everything to a file, with the time; the first line is the command.

    Raises:
        InputError: If it cannot be written.
    """
    from lema_local import __version__
    from lema_local.cli.interrupts import command_again
    from lema_local.errors import InputError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as err:
        raise InputError(f"--log-file {path}: {err.strerror}", hint="name a file that you may write") from err
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _add(handler)
    LOGGER.info("lema %s: %s (in %s)", __version__, command_again(), Path.cwd())


def _add(handler: logging.Handler) -> None:
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False


def end_logs() -> None:
    """Close what an earlier command of this process opened."""
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    LOGGER.setLevel(logging.NOTSET)
    LOGGER.propagate = True


def note_shown(text: str, level: int = logging.INFO) -> None:
    """Write down what the user is shown on stderr anyway, where there is a log file."""
    if LOGGER.handlers:
        LOGGER.log(level, text, extra={"is_shown": True})
