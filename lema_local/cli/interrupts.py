"""Ctrl-C: the first one ends the work after the decode or step in progress, a second one at once.

Python sees a signal between two of its own instructions only, so not while a library computes. A thread of its own
hears of it at once, through the pipe that `signal.set_wakeup_fd` writes to, and says so.

Where the main thread happens to be in a `__del__`, a weak reference's callback or a callback from C, Python prints the
`KeyboardInterrupt` and goes on with the work. That thread then interrupts it once more.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

GRACE_S = 0.25
"""Seconds that the work may take to end by itself before it is said that it was heard."""
_SWALLOWED = 0
"""Written to the pipe where Python swallowed a `KeyboardInterrupt`; no signal has this number."""
_ANEW_S = 0.2
"""Seconds until the main thread has surely left the place where it was swallowed."""
_is_over = threading.Event()


def command_again() -> str:
    """Return the command as it was typed."""
    return shlex.join(["lema", *sys.argv[1:]])


def hear_interrupts() -> None:
    """Listen for Ctrl-C from now on; where the shell has switched it off (`nohup`, `&`) it stays so."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    hears, tells = socket.socketpair()
    tells.setblocking(False)
    signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    sys.unraisablehook = _notice_swallowed(tells)
    threading.Thread(target=_listen, args=(hears, tells), name="interrupts", daemon=True).start()


def end_of_work() -> None:
    """Say that the work has ended and the rest is told: nothing more is announced."""
    _is_over.set()


def _notice_swallowed(tells: socket.socket) -> Callable[[UnraisableHookArgs], None]:
    """Return a `sys.unraisablehook` that tells the listener of a swallowed Ctrl-C; the rest is shown as before."""
    show = sys.unraisablehook

    def notice(unraisable: UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            tells.send(bytes([_SWALLOWED]))
        else:
            show(unraisable)

    return notice


def _listen(hears: socket.socket, tells: socket.socket) -> None:
    """Announce the first Ctrl-C, end the process at the second; `tells` is only kept open."""
    _wait_for_one(hears)
    hears.settimeout(GRACE_S)
    try:
        _wait_for_one(hears)
    except TimeoutError:
        if not _is_over.is_set():
            _say("Stopping after the decode or step in progress; Ctrl-C again stops at once.")
        hears.settimeout(None)
        _wait_for_one(hears)
    _say(f"Stopped at once; what was written is kept. To go on: {command_again()}")
    os._exit(130)


def _wait_for_one(hears: socket.socket) -> None:
    while (heard := hears.recv(1)[0]) != signal.SIGINT:
        if heard == _SWALLOWED and not _is_over.is_set():
            _interrupt_anew(hears)


def _interrupt_anew(hears: socket.socket) -> None:
    """Interrupt the main thread, also where it waits, and leave out what is heard of that: nobody typed it."""
    time.sleep(_ANEW_S)
    timeout_s = hears.gettimeout()
    hears.settimeout(None)
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)
    while hears.recv(1)[0] != signal.SIGINT:
        pass
    hears.settimeout(timeout_s)


def _say(text: str) -> None:
    shown_again = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides the cursor
    os.write(2, f"{shown_again}\n{text}\n".encode())
