"""What `--offline` forbids, seen from a process of its own: a hook of the interpreter stays for good."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from fake_teacher import FakeTeacherProcess

from lema_local.errors import InputError
from lema_local.teachers.offline import go_offline

ATTEMPT = """
    import json, socket, sys, urllib.request
    from lema_local.teachers.offline import go_offline
    seen = []
    sys.addaudithook(lambda event, args: seen.append(str(args[1])) if event == "socket.connect" else None)
    go_offline(sys.argv[1] or None)
    results = {}
    for name, work in {
        "the endpoint": lambda: urllib.request.urlopen(sys.argv[1] + "/models").status,
        "a name": lambda: socket.getaddrinfo("example.com", 80),
        "an address": lambda: socket.create_connection(("192.0.2.1", 80), timeout=2),
        "an older way of looking up": lambda: socket.gethostbyname("example.com"),
        "a datagram": lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
        "another port": lambda: socket.create_connection(("127.0.0.1", 9), timeout=2),
    }.items():
        try:
            results[name] = repr(work())[:20]
        except (OSError, ValueError) as err:
            results[name] = str(err)
    print(json.dumps(results))
"""


def attempt(url: str) -> dict[str, str]:
    command = [sys.executable, "-c", textwrap.dedent(ATTEMPT), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results: dict[str, str] = json.loads(done.stdout)
    return results


def test_only_the_named_endpoint_can_be_reached() -> None:
    with FakeTeacherProcess() as server:
        results = attempt(server.url)
    assert results.pop("the endpoint") == "200"
    assert all("forbidden by --offline" in result for result in results.values()), results


def test_without_an_endpoint_nothing_can_be_reached() -> None:
    results = attempt("")
    del results["the endpoint"]
    assert all("forbidden by --offline" in result for result in results.values()), results


def test_an_endpoint_elsewhere_is_refused() -> None:
    with pytest.raises(InputError, match="not on this machine"):
        go_offline("https://api.openai.com/v1")
