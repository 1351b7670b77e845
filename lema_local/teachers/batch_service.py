"""A provider's batch calls through LiteLLM: upload, start, look, download.

Starting a batch costs money and cannot be taken back, so it is done once: before it the journal notes that it is about
to be, and a process that was killed in between is followed by a look into the provider's list, where our id stands in
the batch's metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tenacity

from lema_local.errors import BackendError
from lema_local.jsonl import finish, told_disk_errors
from lema_local.teachers.base import CallFailed
from lema_local.teachers.batch_files import ENDPOINT
from lema_local.teachers.litellm_teacher import LiteLLMTeacher, import_litellm

T = TypeVar("T")
Remote = dict[str, Any]

OUR_ID = "lema_batch"
"""The metadata's field with our id."""
FINAL = frozenset({"completed", "failed", "expired", "cancelled"})
"""States after which nothing is added."""
_TRIES = 5
_PAGE = 100
_PAGES = 50


@dataclass(frozen=True, slots=True)
class RemoteBatch:
    """A batch as the provider tells it."""

    remote_id: str
    status: str
    """`validating`, `in_progress`, `finalizing`, `completed`, `failed`, `expired`, `cancelling` or `cancelled`."""
    output_file_id: str | None
    error_file_id: str | None
    total: int | None
    completed: int | None
    failed: int | None
    errors: str | None
    """Why the provider would not work on it."""

    @property
    def is_final(self) -> bool:
        """Whether the provider adds nothing more."""
        return self.status in FINAL


class BatchService:
    """Batch calls to one teacher's provider.

    Args:
        teacher: Whose provider; its key is needed.
        timeout_s: For one call.
    """

    def __init__(self, teacher: LiteLLMTeacher, timeout_s: float = 600.0) -> None:
        self._litellm = import_litellm()
        self._teacher = teacher
        self._access = {**teacher.access(), "timeout": timeout_s, "max_retries": 0}

    def upload(self, path: Path) -> str:
        """Return the provider's id of a file of requests, uploaded.

        Raises:
            BackendError: With the provider's words.
        """

        def work() -> str:
            with path.open("rb") as file:
                made = self._litellm.create_file(file=(path.name, file), purpose="batch", **self._access)
            return str(made.id)

        return self._insist(work)

    def start(self, file_id: str, batch_id: str) -> RemoteBatch:
        """Return a batch, started. Tried once: a second one would be billed as well.

        Raises:
            CallFailed: If it may have been started all the same.
            BackendError: With the provider's words: it was not.
        """
        return _read(
            self._told(
                lambda: self._litellm.create_batch(
                    completion_window="24h",
                    endpoint=ENDPOINT,
                    input_file_id=file_id,
                    metadata={OUR_ID: batch_id},
                    **self._access,
                )
            )
        )

    def find(self, batch_id: str) -> RemoteBatch | None:
        """Return the batch that was started under our id; None where the provider's list has none.

        Raises:
            BackendError: With the provider's words, or LiteLLM's where it cannot list this provider's batches.
        """
        for remote in self._list():
            if (remote.get("metadata") or {}).get(OUR_ID) == batch_id:
                return _read(remote)
        return None

    def _list(self) -> Iterator[Remote]:
        after: str | None = None
        for _ in range(_PAGES):
            more = {} if after is None else {"after": after}
            page: Any = self._insist(partial(self._litellm.list_batches, limit=_PAGE, **more, **self._access))
            found = [_dump(one) for one in page.data or []]
            yield from found
            if not getattr(page, "has_more", False) or not found:
                return
            after = found[-1]["id"]

    def look(self, remote_id: str) -> RemoteBatch:
        """Return how a batch stands.

        Raises:
            BackendError: With the provider's words.
        """
        return _read(self._insist(lambda: self._litellm.retrieve_batch(batch_id=remote_id, **self._access)))

    def download(self, file_id: str, path: Path) -> None:
        """Write a file of replies to disk, whole or not at all.

        Raises:
            BackendError: With the provider's words.
            LemaError: If it cannot be written.
        """
        content = self._insist(lambda: self._litellm.file_content(file_id=file_id, **self._access)).content
        unfinished = path.with_name(path.name + ".partial")
        with told_disk_errors(path):
            unfinished.write_bytes(content)
        finish(unfinished, path)

    def _insist(self, work: Callable[[], T]) -> T:
        """Do what may be done twice, again after a transient failure."""
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(CallFailed),
            stop=tenacity.stop_after_attempt(_TRIES),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=30),
            reraise=True,
        ):
            with attempt:
                return self._told(work)
        raise AssertionError

    def _told(self, work: Callable[[], T]) -> T:
        """Turn the libraries' errors into ours."""
        import httpx
        import openai

        try:
            return work()
        except openai.OpenAIError as err:
            raise self._teacher.translate(err) from None  # the original may hold headers with the key
        except httpx.HTTPError as err:
            raise CallFailed(f"{self._teacher.name}: {type(err).__name__}", may_have_cost=True) from None
        except (ValueError, NotImplementedError) as err:
            raise BackendError(
                f"LiteLLM has no batch calls for {self._teacher.provider}: {str(err)[:200]}",
                hint="send the exported file to the provider yourself, then lema batch import",
            ) from None


def _dump(remote: Any) -> Remote:
    found: Remote = remote if isinstance(remote, dict) else remote.model_dump(mode="json")
    return found


def _read(remote: Any) -> RemoteBatch:
    told = _dump(remote)
    counts = told.get("request_counts") or {}
    problems = (told.get("errors") or {}).get("data") or []
    errors = "; ".join(str(one.get("message") or one.get("code")) for one in problems[:5])
    return RemoteBatch(
        *(str(told["id"]), str(told.get("status")), told.get("output_file_id"), told.get("error_file_id")),
        *(counts.get("total"), counts.get("completed"), counts.get("failed"), errors or None),
    )
