"""The error tree. Every error that a user may see is a `LemaError`; a bug stays a traceback.

The command line turns a `LemaError` into `Error: message`, `Try: hint` and its exit code, in one place
(`lema_local.cli.LemaGroup`). Code below it raises, and never prints or exits.
"""

from __future__ import annotations


class LemaError(Exception):
    """Something that went wrong and can be told in one message.

    Args:
        message: What happened, where, and the value that was found.
        hint: One next step, shown after `Try:`; None where there is none.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(LemaError):
    """The user's input is wrong: a flag, a file, a line of a file."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe that cannot be read or does not pass its checks."""


class PromptError(InputError):
    """A prompt file that cannot be read or rendered."""


class RunStateError(InputError):
    """A run folder that does not fit what was asked of it: another recipe, locked, damaged."""


class BackendError(LemaError):
    """Software or a service under a student, teacher or trainer failed; what was written stays valid."""


class BackendUnavailable(BackendError):
    """Not installed, no such file, no key: the user can mend it, nothing was started."""

    exit_code = 2


class NoRoom(BackendError):
    """This machine has too little memory for it."""


class BackendTransient(BackendError):
    """A time-out, a rate limit, a 5xx: safe to try again."""


class BudgetReached(LemaError):
    """The budget is used up: everything is kept, the same command with a larger budget goes on."""

    exit_code = 3
