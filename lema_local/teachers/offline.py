"""No connection but to the one named endpoint: what `--offline` promises, held by the interpreter itself.

Python raises an audit event before each look-up of a name and each connection, whichever library asks for it; a
hook that refuses cannot be taken away again. C extensions with sockets of their own would not be seen; none that
this package uses has any.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import urlsplit

from lema_local.errors import InputError
from lema_local.teachers import endpoint_of, needs_no_endpoint
from lema_local.teachers.endpoints import is_local
from lema_local.teachers.settings import TeacherSettings

Address = tuple[str, int]


_LOOK_UPS = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})
_SENDINGS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})


class ConnectionForbidden(ConnectionRefusedError):
    """A connection that `--offline` forbids. An `OSError`, so that libraries treat it as an endpoint that is away."""


def go_offline(*endpoints: str | None) -> None:
    """Forbid every connection of this process, for good, except to endpoints on this machine or network.

    Args:
        endpoints: Their URLs; None stands for a teacher that needs no connection.

    Raises:
        InputError: If an endpoint is elsewhere.
    """
    urls = [url for url in endpoints if url is not None]
    for url in urls:
        if not is_local(url):
            raise InputError(
                f"{url} is not on this machine or network",
                hint="leave --offline out, or name a local endpoint",
            )
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["HF_HUB_OFFLINE"] = "1"
    names, addresses = {"", "localhost"}, set[Address]()
    for url in urls:
        more_names, more_addresses = _allowed(url)
        names |= more_names
        addresses |= more_addresses

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if event in _LOOK_UPS and _text(args[0]) not in names:
            raise _forbidden(_text(args[0]))
        if event in _SENDINGS and isinstance(args[1], tuple) and not _is_allowed(args[1], addresses):
            raise _forbidden(args[1][0])

    sys.addaudithook(refuse)


def keep_to(teachers: Iterable[TeacherSettings], *students: str | None) -> None:
    """Forbid every connection except to these teachers, and to students behind endpoints.

    Args:
        teachers: Who will be asked.
        students: URLs of endpoints; None stands for a student in this process.

    Raises:
        InputError: If one of them is elsewhere.
    """
    where = list(students)
    for one in teachers:
        url = endpoint_of(one.model, one.url)
        if url is None and not needs_no_endpoint(one.model):
            raise InputError(
                f"the teacher {one.model} cannot be asked with --offline",
                hint="name a local endpoint with --teacher-url, or a teacher that needs none: reference,"
                " llamacpp/PATH",
            )
        where.append(url)
    go_offline(*where)


def _allowed(url: str) -> tuple[set[str], set[Address]]:
    """Return the names that may be looked up and the addresses that may be connected to."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = {entry[4][:2] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    addresses = {(str(address), int(number)) for address, number in found}
    return {"", "localhost", host, *(address for address, _ in addresses)}, addresses


def _is_allowed(address: tuple[Any, ...], allowed: Collection[Address]) -> bool:
    if (address[0], address[1]) in allowed:
        return True
    # On Windows an event loop talks to itself over loopback.
    return os.name == "nt" and address[0] in {"127.0.0.1", "::1"}


def _text(host: str | bytes | None) -> str:
    return host.decode() if isinstance(host, bytes) else host or ""


def _forbidden(host: object) -> ConnectionForbidden:
    return ConnectionForbidden(errno.ECONNREFUSED, f"a connection to {host} is forbidden by --offline")
