"""Serving a review on this machine: the loopback address, a port of its own, a token nobody can guess."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence

from lema_local.errors import InputError
from lema_local.grades import GradeBook
from lema_local.review.items import ReviewItem

LOOPBACK = "127.0.0.1"


def serve_review(
    items: Sequence[ReviewItem],
    book: GradeBook,
    *,
    title: str,
    reviewer: str,
    is_blind: bool,
    port: int,
    on_ready: Callable[[str], None],
) -> None:
    """Serve the review until Ctrl-C.

    Args:
        items: In the order in which they are shown.
        book: Where marks and notes are kept.
        title: Of the run.
        reviewer: Whose marks these are.
        is_blind: Hides the teachers' names.
        port: 0: a free one.
        on_ready: Gets the page's address, token and all, once the port is open.

    Raises:
        InputError: If the port is in use or may not be opened.
    """
    import uvicorn

    from lema_local.review.app import ReviewSettings, make_app

    with _open_port(port) as listener:
        port = listener.getsockname()[1]
        token = secrets.token_urlsafe(24)
        hosts = frozenset(f"{name}:{port}" for name in (LOOPBACK, "localhost"))
        app = make_app(items, book, ReviewSettings(title, reviewer, is_blind, token, hosts))
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="critical", access_log=False, lifespan="off", server_header=False, ws="none",
                timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        on_ready(f"http://{LOOPBACK}:{port}/{token}/")
        server.run(sockets=[listener])


def _open_port(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(64)
    except (OSError, OverflowError) as err:
        listener.close()
        reason = getattr(err, "strerror", None) or str(err)
        raise InputError(
            f"cannot open port {port} on {LOOPBACK}: {reason}",
            hint="leave out --port: a free one is taken; or name another",
        ) from err
    return listener
