"""The fake teacher with OpenAI's files and batches: upload, start, look, list, download.

A batch ends when it has been looked at `looks` times. Its replies are those that the chat endpoint would give, in
another order, and with the faults that are asked for.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from dataclasses import dataclass, field
from email.parser import BytesParser
from typing import Any

from fake_teacher import FakeTeacher, send


@dataclass
class BatchWeather:
    """What batches meet."""

    looks: int = 1
    """Looks until a batch has ended."""
    end: str = "completed"
    failing: float = 0.0
    """Share of requests that end in the file of errors."""
    left_out: float = 0.0
    """Share of requests without any line."""
    repeated: float = 0.0
    """Share of lines that stand twice."""
    breaks_on_start: int = 0
    """Starts that are carried out, but whose answer never comes."""
    refuses_start: str | None = None
    """Start nothing, with these words."""


@dataclass
class Remote:
    """A batch."""

    batch_id: str
    input_file_id: str
    metadata: dict[str, str]
    looks: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"total": 0, "completed": 0, "failed": 0})


class FakeBatches(FakeTeacher):
    """The server, in a thread of this process."""

    def __init__(self, batch: BatchWeather | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.batch = batch or BatchWeather()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Remote] = {}
        self.calls: list[str] = []
        """Method and path of every request."""

    async def _post(
        self, path: str, headers: dict[str, str], content: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        self.calls.append(f"POST {path}")
        self.headers = [*self.headers[-99:], headers]
        if path.endswith("/files"):
            name = f"file-{len(self.files) + 1}"
            self.files[name] = _file_in(headers["content-type"], content)
            return await send(writer, 200, json.dumps({"id": name, "object": "file", "purpose": "batch",
                "bytes": 1, "created_at": 1, "filename": "x", "status": "processed"}))  # fmt: skip
        if path.endswith("/batches"):
            return await self._start(json.loads(content), writer)
        return await super()._post(path, headers, content, writer)

    async def _start(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        if self.batch.refuses_start is not None:
            return await send(writer, 400, json.dumps({"error": {"message": self.batch.refuses_start}}))
        remote = Remote(f"batch_{len(self.batches) + 1}", asked["input_file_id"], asked.get("metadata") or {})
        self.batches[remote.batch_id] = remote
        if self.batch.breaks_on_start > 0:
            self.batch.breaks_on_start -= 1
            return False
        return await send(writer, 200, json.dumps(self._told(remote, "validating")))

    async def _get(self, path: str, writer: asyncio.StreamWriter) -> bool:
        self.calls.append(f"GET {path}")
        if found := re.search(r"/files/([\w-]+)/content", path):
            return await send(writer, 200, self.files[found[1]].decode())
        if found := re.search(r"/batches/(\w+)$", path):
            return await self._look(self.batches[found[1]], writer)
        if "/batches" in path:
            data = [self._told(remote, "in_progress") for remote in self.batches.values()]
            return await send(writer, 200, json.dumps({"object": "list", "data": data, "has_more": False}))
        return await super()._get(path, writer)

    async def _look(self, remote: Remote, writer: asyncio.StreamWriter) -> bool:
        remote.looks += 1
        if remote.looks < self.batch.looks:
            return await send(writer, 200, json.dumps(self._told(remote, "in_progress")))
        if remote.output_file_id is None:
            self._work_through(remote)
        return await send(writer, 200, json.dumps(self._told(remote, self.batch.end)))

    def _work_through(self, remote: Remote) -> None:
        rng = random.Random(remote.batch_id)
        good, bad = [], []
        requests = [json.loads(line) for line in self.files[remote.input_file_id].splitlines()]
        for request in requests:
            assert request["method"] == "POST"
            assert request["url"] == "/v1/chat/completions"
            chance = rng.random()
            if chance < self.batch.failing:
                bad.append(self._line(request, 429, {"error": {"message": "try later"}}))
            elif chance >= self.batch.failing + self.batch.left_out:
                body = self._completion(request["body"], None)
                self.bodies = [*self.bodies[-99:], request["body"]]
                good += [self._line(request, 200, body)] * (1 + (rng.random() < self.batch.repeated))
        rng.shuffle(good)
        remote.counts = {"total": len(requests), "completed": len(requests) - len(bad), "failed": len(bad)}
        remote.output_file_id = self._keep(good)
        remote.error_file_id = self._keep(bad) if bad else None

    def _line(self, request: dict[str, Any], status: int, body: dict[str, Any]) -> dict[str, Any]:
        response = {"status_code": status, "request_id": "r", "body": body}
        return {"id": "batch_req_1", "custom_id": request["custom_id"], "response": response, "error": None}

    def _keep(self, lines: list[dict[str, Any]]) -> str:
        name = f"file-{len(self.files) + 1}"
        self.files[name] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        return name

    def _told(self, remote: Remote, status: str) -> dict[str, Any]:
        return {
            "id": remote.batch_id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": remote.input_file_id,
            "completion_window": "24h",
            "status": status,
            "output_file_id": remote.output_file_id,
            "error_file_id": remote.error_file_id,
            "created_at": 1_700_000_000,
            "metadata": remote.metadata,
            "request_counts": remote.counts,
        }


def _file_in(content_type: str, content: bytes) -> bytes:
    """Return the file in a multipart form."""
    whole = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + content)
    parts = whole.get_payload()
    assert isinstance(parts, list)
    fields = {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in parts
    }  # type: ignore[union-attr]
    assert fields["purpose"] == b"batch"
    file = fields["file"]
    assert isinstance(file, bytes)
    return file
