"""The OpenAI Batch form: files of requests, and the replies in files that providers send back.

Source of the form: https://platform.openai.com/docs/guides/batch. A line of requests is {"custom_id", "method", "url",
"body"}; a line of replies {"custom_id", "response": {"status_code", "body"}, "error"}, in any order. The `custom_id` is
the batch's id and the journal's key of the request, so that a reply finds its place whatever file it comes in.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lema_local.errors import InputError
from lema_local.jsonl import finish, iterate_objects, told_disk_errors
from lema_local.teachers.base import RawReply, TeacherRequest
from lema_local.teachers.batch_book import Batch, BatchBook, BatchItem
from lema_local.teachers.litellm_teacher import LiteLLMTeacher, clean_text, read_finish
from lema_local.teachers.prices import Price, likely_prompt_tokens
from lema_local.teachers.reasoning import split_reasoning
from lema_local.teachers.secrets import mask_secrets

ENDPOINT = "/v1/chat/completions"
_LONGEST_ERROR = 300


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much one file may hold."""

    requests: int = 50_000
    size_bytes: int = 200 * 1000**2
    prompt_tokens: int | None = None
    """What the account may have waiting at once; None: whatever fits otherwise."""


PROVIDER_LIMITS = {
    # https://platform.openai.com/docs/guides/batch: 50,000 requests, 200 MB a file
    "openai": BatchLimits(),
    # https://learn.microsoft.com/azure/ai-services/openai/how-to/batch: 100,000 requests, 200 MB a file
    "azure": BatchLimits(requests=100_000),
}
"""Of other providers the smallest known is taken."""


# -- Requests


@dataclass(frozen=True, slots=True)
class _Line:
    item: BatchItem
    body: bytes
    size: int
    """Bytes of the whole line."""


def write_batches(
    requests: Iterable[tuple[str, TeacherRequest]],
    teacher: LiteLLMTeacher,
    book: BatchBook,
    out: Path,
    limits: BatchLimits,
    *,
    scope: str,
    price: Price | None,
) -> list[Batch]:
    """Write requests into one file or, where the limits ask for it, several, and note them in the journal.

    Args:
        requests: With their keys in the journal, each once.
        teacher: Who is to be asked.
        book: Where they are noted, before a file gets its name.
        out: The file; several are called OUT-1.jsonl, OUT-2.jsonl, ...
        limits: Of a file.
        scope: What the replies are for, in the ledger.
        price: In a batch; None: not known.

    Returns:
        The batches, one a file; none where there are no requests.

    Raises:
        InputError: If a request is larger than a file may be, or a file stands in the way.
        LemaError: If a file cannot be written.
    """
    parts = list(_split(_render(requests, teacher, price), limits))
    paths = [out] if len(parts) == 1 else [numbered(out, number) for number in range(1, len(parts) + 1)]
    for path in paths:
        if path.exists():
            raise InputError(
                f"{path} exists", hint="choose another --out: its replies may still be on their way"
            )
    registered = []
    for path, lines in zip(paths, parts, strict=True):
        batch_id = _new_id()
        sha256 = _write(path, lines, batch_id)
        batch = Batch(
            *(batch_id, teacher.name, teacher.identity, teacher.url, scope, path.resolve(), sha256, price)
        )
        registered.append((batch, [line.item for line in lines]))
    book.register(registered)
    for path in paths:
        finish(_partial(path), path)
    return [batch for batch, _ in registered]


def _render(
    requests: Iterable[tuple[str, TeacherRequest]], teacher: LiteLLMTeacher, price: Price | None
) -> Iterator[_Line]:
    for key, request in requests:
        item = BatchItem(key, request, price.worst_usd(request) if price else 0.0)
        body = json.dumps(teacher.request_body(request)).encode()
        yield _Line(item, body, len(_write_line(_new_id(), key, body)))


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def _write_line(batch_id: str, key: str, body: bytes) -> bytes:
    head = {"custom_id": f"{batch_id}-{key}", "method": "POST", "url": ENDPOINT}
    return json.dumps(head)[:-1].encode() + b', "body": ' + body + b"}\n"


def _split(lines: Iterable[_Line], limits: BatchLimits) -> Iterator[list[_Line]]:
    part: list[_Line] = []
    size = tokens = 0
    for line in lines:
        line_tokens = likely_prompt_tokens(line.item.request)
        if line.size > limits.size_bytes or line_tokens > (limits.prompt_tokens or line_tokens):
            raise InputError(
                f"a request of {line.size:,} bytes, some {line_tokens:,} tokens, is more than a file may hold",
                hint="raise --max-mb or --max-prompt-tokens",
            )
        size, tokens = size + line.size, tokens + line_tokens
        is_full = len(part) >= limits.requests or size > limits.size_bytes
        if part and (is_full or tokens > (limits.prompt_tokens or tokens)):
            yield part
            part, size, tokens = [], line.size, line_tokens
        part.append(line)
    if part:
        yield part


def _write(path: Path, lines: Sequence[_Line], batch_id: str) -> str:
    """Write a file under its partial name; return its SHA-256."""
    digest = hashlib.sha256()
    with told_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path).open("wb") as file:
            for line in lines:
                text = _write_line(batch_id, line.item.request_key, line.body)
                digest.update(text)
                file.write(text)
            file.flush()
            os.fsync(file.fileno())
    return digest.hexdigest()


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def numbered(path: Path, number: int) -> Path:
    """Return the name of one of several files: NAME-1.jsonl."""
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def check_unchanged(batch: Batch) -> None:
    """Make sure that a batch's file still holds what the journal expects replies to.

    Raises:
        InputError: If it is gone or was changed.
    """
    try:
        content = batch.requests_path.read_bytes()
    except OSError as err:
        raise InputError(
            f"cannot read {batch.requests_path}: {err.strerror}", hint="export once more"
        ) from err
    if hashlib.sha256(content).hexdigest() != batch.sha256:
        raise InputError(
            f"{batch.requests_path} was changed since it was exported",
            hint="export once more to another --out",
        )


# -- Replies


@dataclass(slots=True)
class ImportCount:
    """What became of the lines of a file of replies: each is counted once."""

    lines: int = 0
    answered: int = 0
    failed: int = 0
    """Lines with an error in place of a reply; `lema correct` asks these again."""
    duplicate: int = 0
    """Lines whose request has its reply, or its failure, already."""
    unknown: int = 0
    """Lines to requests that this journal never wrote into a batch."""
    unreadable: int = 0
    """Lines that are no JSON, or of another form."""
    errors: Counter[str] = field(default_factory=Counter)
    """Why lines failed, or could not be read."""
    cost_usd: float = 0.0
    batches: set[str] = field(default_factory=set)
    """The batches that the lines belong to."""


def take_in(path: Path, book: BatchBook) -> ImportCount:
    """Take the replies of a file into the journal. May be repeated; what is there already counts as duplicate.

    Raises:
        InputError: If the file cannot be read.
        LemaError: If the journal cannot be written; replies taken in before are kept.
    """
    count = ImportCount()
    problems: list[str] = []
    known: dict[str, Batch | None] = {}
    for _, line in iterate_objects(path, problems):
        count.lines += 1
        batch_id, _, key = str(line.get("custom_id", "")).partition("-")
        if batch_id not in known:
            known[batch_id] = book.find(batch_id)
        _take_line(line, known[batch_id], key, book, count)
    count.lines += len(problems)
    count.unreadable += len(problems)
    count.errors.update(problem.partition(": ")[2] for problem in problems)
    return count


def _take_line(
    line: dict[str, Any], batch: Batch | None, key: str, book: BatchBook, count: ImportCount
) -> None:
    if "response" not in line and "error" not in line:
        count.unreadable += 1
        count.errors["no line of replies: neither response nor error"] += 1
        return
    if batch is None:
        count.unknown += 1
        return
    body, error, may_have_cost = _read_line(line)
    if body is not None:
        try:
            reply = read_body(body, batch.price)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            error, may_have_cost = "a reply without choices", True
    if error is None:
        taken, cost_usd = book.take_reply(batch, key, reply)
    else:
        taken, cost_usd = book.take_failure(batch, key, error, may_have_cost=may_have_cost)
    count.cost_usd += cost_usd
    setattr(count, taken, getattr(count, taken) + 1)
    if taken == "failed":
        count.errors[str(error)] += 1
    if taken != "unknown":
        count.batches.add(batch.batch_id)


def _read_line(line: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None, bool]:
    """Return the body of a reply, or why there is none and whether that may have been billed."""
    response = line.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    body = response.get("body") if isinstance(response, dict) else None
    if status == 200 and line.get("error") is None:
        return (body, None, False) if isinstance(body, dict) else (None, "a reply without a body", True)
    told = line.get("error") or (body.get("error") if isinstance(body, dict) else None) or body
    if isinstance(told, dict):
        told = told.get("message") or told.get("code") or told
    words = f"{status}: {told}" if status is not None else str(told)
    return None, mask_secrets("".join(one for one in words if one.isprintable())[:_LONGEST_ERROR]), False


def read_body(body: dict[str, Any], price: Price | None) -> RawReply:
    """Return a chat completion as a reply; its latency is not known and left at 0, as is its cost without a price.

    Raises:
        KeyError, IndexError, TypeError, ValueError, AttributeError: If it is none.
    """
    choice = body["choices"][0]
    message = choice["message"]
    text, reasoning = split_reasoning(clean_text(message.get("content")))
    usage = body.get("usage") or {}
    prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    cost_usd = price.cost_usd(prompt_tokens or 0, completion_tokens or 0) if price else 0.0
    return RawReply(
        text=text,
        model=body.get("model"),
        finish_reason=read_finish(choice.get("finish_reason")),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost_usd=cost_usd,
        latency_s=0.0,
        reasoning=clean_text(message.get("reasoning_content")) or reasoning,
        body=body,
    )
