"""A teacher that misbehaves on demand: a real HTTP server on loopback that speaks the OpenAI chat protocol.

Every reply and every fault is a function of the request and of how often it was asked before, so that two
runs of a test meet the same weather. `FakeTeacher` runs it in a thread of the test; `FakeTeacherProcess` and
`python tests/fake_teacher.py` run it in a process of its own (for benchmarks, and for tests that kill).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ERRORS = ("429", "429_retry_after", "500", "502", "503", "timeout", "drop", "malformed")
"""Faults after which asking again is right."""
ODD_REPLIES = ("empty", "length", "refusal", "wrong_model", "slow", "large", "control")
"""Replies that a teacher was paid for, whatever they are worth."""


@dataclass
class Weather:
    """How the server behaves."""

    latency_s: float = 0.0
    fault_rate: float = 0.0
    """Share of requests that meet a fault."""
    faults: list[str] = field(default_factory=lambda: [*ERRORS, *ODD_REPLIES])
    max_faults_each: int = 2
    """How many times the same request can meet one."""
    seed: int = 0
    retry_after: str = "0.2"
    slow_s: float = 0.3
    hang_s: float = 30.0
    """How long a request that times out is held."""
    max_parallel: int | None = None
    """More requests at once than this are answered with 429."""
    status: int | None = None
    """Answer everything with this status."""
    error_body: str = '{"error": {"message": "no", "type": "invalid_request_error"}}'
    model: str | None = None
    """The model that replies name; None: the one that was asked for."""
    usage: list[int] | None = None
    """[prompt tokens, completion tokens] of each reply; None: a quarter of the characters."""


class FakeTeacher:
    """The server, in a thread of this process."""

    def __init__(self, reply: Callable[[dict[str, Any]], str] | None = None, **weather: Any) -> None:
        self.weather = Weather(**weather)
        self.reply = reply or solve_sum
        self.asked: Counter[str] = Counter()
        """How often each request (its messages and attempt marks) was asked."""
        self.answered: Counter[str] = Counter()
        """How often each was answered with a whole chat completion."""
        self.met: Counter[str] = Counter()
        """How often each fault was met."""
        self.first_asked_at: float | None = None
        """Seconds since 1970."""
        self.bodies: list[dict[str, Any]] = []
        """The last requests, newest last."""
        self.headers: list[dict[str, str]] = []
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self.port = 0

    def __enter__(self) -> FakeTeacher:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def requests(self) -> int:
        return self.asked.total()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.serve(self._ready.set))
        self._loop.close()

    async def serve(self, on_ready: Callable[[], None], port: int = 0) -> None:
        """Serve until stopped."""
        self._stop = asyncio.Event()
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        on_ready()
        await self._stop.wait()
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # An asyncio.start_server callback that is cancelled would log its CancelledError: it ends quietly here.
        with contextlib.suppress(asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line = await reader.readline()
        if not line.strip():
            return False
        method, path, _ = line.decode().split(" ", 2)
        headers: dict[str, str] = {}
        while (header := await reader.readline()).strip():
            name, _, value = header.decode().partition(":")
            headers[name.strip().lower()] = value.strip()
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "GET":
            return await self._get(path, writer)
        return await self._post(path, headers, content, writer)

    async def _post(
        self, path: str, headers: dict[str, str], content: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        with self._lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._chat(json.loads(content), headers, writer)
        finally:
            with self._lock:
                self.in_flight -= 1

    async def _get(self, path: str, writer: asyncio.StreamWriter) -> bool:
        if path.endswith("/models"):
            name = self.weather.model or "fake-teacher"
            return await send(
                writer, 200, json.dumps({"object": "list", "data": [{"id": name, "object": "model"}]})
            )
        if path == "/forget":
            self.first_asked_at = None
            return await send(writer, 200, "{}")
        if path == "/counts":
            return await send(writer, 200, json.dumps(self.counts()))
        return await send(writer, 404, "{}")

    def counts(self) -> dict[str, Any]:
        """What was asked and answered so far."""
        with self._lock:
            return {
                "requests": self.requests,
                "distinct": len(self.asked),
                "answered": dict(self.answered),
                "asked": dict(self.asked),
                "met": dict(self.met),
                "most_in_flight": self.most_in_flight,
                "first_asked_at": self.first_asked_at,
            }

    async def _chat(
        self, request: dict[str, Any], headers: dict[str, str], writer: asyncio.StreamWriter
    ) -> bool:
        weather = self.weather
        key = request_key(request)
        with self._lock:
            self.first_asked_at = self.first_asked_at or time.time()
            before = self.asked[key]
            self.asked[key] += 1
            self.bodies = [*self.bodies[-99:], request]
            self.headers = [*self.headers[-99:], headers]
        fault = choose_fault(weather, key, before)
        if weather.max_parallel is not None and self.in_flight > weather.max_parallel:
            fault = "429"
        if fault:
            with self._lock:
                self.met[fault] += 1
        await asyncio.sleep(weather.latency_s + (weather.slow_s if fault == "slow" else 0.0))
        return await self._answer(request, key, fault, writer)

    async def _answer(
        self, request: dict[str, Any], key: str, fault: str | None, writer: asyncio.StreamWriter
    ) -> bool:
        weather = self.weather
        if weather.status is not None:
            return await send(writer, weather.status, weather.error_body)
        if fault in {"429", "500", "502", "503"}:
            return await send(writer, int(fault), '{"error": {"message": "try later"}}')
        if fault == "429_retry_after":
            return await send(
                writer, 429, '{"error": {"message": "slow down"}}', {"Retry-After": weather.retry_after}
            )
        if fault == "timeout":
            await asyncio.sleep(weather.hang_s)
            return False
        body = json.dumps(self._completion(request, fault))
        if fault == "drop":
            return await send(
                writer, 200, body[: len(body) // 2], {"Content-Length": str(len(body.encode()))}
            )
        if fault == "malformed":
            return await send(writer, 200, body[: len(body) // 2])
        with self._lock:
            self.answered[key] += 1
        return await send(writer, 200, body)

    def _completion(self, request: dict[str, Any], fault: str | None) -> dict[str, Any]:
        text: str | None = self.reply(request)
        finish = "stop"
        if fault == "empty":
            text = ""
        elif fault == "refusal":
            text, finish = None, "content_filter"
        elif fault == "length":
            text, finish = (text or "")[: len(text or "") // 3], "length"
        elif fault == "large":
            text = (text or "") + "\n\n" + "and so on " * 100_000
        elif fault == "control":
            text = "\x00\x07\x1b[31m\u202e\ufeff" + (text or "") + "\ud83d\ude00\x7f"
        prompt_tokens, completion_tokens = self.weather.usage or (
            sum(len(message["content"]) for message in request["messages"]) // 4,
            min(len(text or "") // 4 + 1, request.get("max_tokens") or 10**9),
        )
        return {
            "id": "chatcmpl-" + request_key(request)[:12],
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "gpt-4" if fault == "wrong_model" else self.weather.model or request["model"],
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }


async def send(
    writer: asyncio.StreamWriter, status: int, body: str, headers: dict[str, str] | None = None
) -> bool:
    """Send a response; returns whether the connection goes on."""
    content = body.encode("utf-8", "surrogatepass")
    fields = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(head.encode() + b"\r\n" + content)
    await writer.drain()
    return fields["Content-Length"] == str(len(content))


def request_key(request: dict[str, Any]) -> str:
    """Return what makes two requests the same to this server: the messages and the seed, not max_tokens."""
    same = [request["messages"], request.get("seed"), request.get("temperature")]
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


def choose_fault(weather: Weather, key: str, before: int) -> str | None:
    """Return the fault that this request meets when asked for the (`before` + 1)th time."""
    if before >= weather.max_faults_each or not weather.faults:
        return None
    digest = hashlib.sha256(f"{weather.seed}/{key}/{before}".encode()).digest()
    if int.from_bytes(digest[:4]) / 2**32 >= weather.fault_rate:
        return None
    return weather.faults[int.from_bytes(digest[4:8]) % len(weather.faults)]


def solve_sum(request: dict[str, Any]) -> str:
    """Return a correction of the last `a + b` that the messages ask about, one in seven of them wrong."""
    sums = re.findall(r"(\d+) \+ (\d+)", request["messages"][-1]["content"])
    if not sums:
        return "I cannot see a sum here."
    a, b = (int(number) for number in sums[0])
    total = a + b + (1 if (a * 31 + b) % 7 == 0 else 0)
    return (
        "Incorrect Step: Step 1.\n"
        f"Explanation: {a} + {b} was added up wrongly; it makes {total}.\n"
        f"Correct Solution:\n{{\nStep 1: {a} + {b} = {total}.\nStep 2: The answer is {total}.\n}}"
    )


class FakeTeacherProcess:
    """The server, in a process of its own."""

    def __init__(self, **weather: Any) -> None:
        self._options = json.dumps(asdict(Weather(**weather)))
        self.port = 0

    def __enter__(self) -> FakeTeacherProcess:
        command = [sys.executable, str(Path(__file__).resolve()), "--weather", self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def counts(self) -> dict[str, Any]:
        """What was asked and answered so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/counts", timeout=10) as response:
            counts: dict[str, Any] = json.load(response)
        return counts

    def forget_first(self) -> None:
        """Note anew when the first request comes."""
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/forget", timeout=10).close()


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """Yield the URL of a port where nothing listens."""
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, never listening: connections are refused
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weather", default="{}", help="JSON of the Weather fields")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    server = FakeTeacher(**json.loads(arguments.weather))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve(lambda: print(server.port, flush=True), arguments.port))


if __name__ == "__main__":
    main()
