"""A file of teachers' answers made in several goes: `lema run`, `lema correct`, `lema augment` go this way."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

import filelock

from lema_local.errors import RunStateError
from lema_local.jsonl import AppendFile, finish, read_partial, read_records, told_disk_errors
from lema_local.records import Correction, EvolvedQuestion, Rationale

Answer = TypeVar("Answer", Correction, EvolvedQuestion, Rationale)


class ResumedFile(Generic[Answer]):
    """Records of an output file: those that stand from earlier goes, and those that are added.

    New records are appended to `OUT.partial`; at the end everything stands in OUT in the order asked for. Records
    whose verdict is `failed` are dropped on resuming: they are tried again.

    Args:
        path: The output file.
        kind: Its records' type.
        key: What names the work behind a record.
        is_fresh: Put aside what stands from earlier goes.

    Raises:
        RunStateError: If another process writes the same file: the budget is that of the file, too.
    """

    def __init__(
        self, path: Path, kind: type[Answer], key: Callable[[Answer], Hashable], *, is_fresh: bool = False
    ) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._lock = _lock(path)
        self._key: Callable[[Answer], Hashable] = key
        self.kept: dict[Hashable, Answer] = {}
        """By key, from earlier goes."""
        if is_fresh:
            self._partial.unlink(missing_ok=True)
        else:
            records = [
                *(read_records(path, kind) if path.exists() else ()),
                *read_partial(self._partial, kind),
            ]
            self.kept = {key(record): record for record in records if record.verdict != "failed"}
        self._added: dict[Hashable, Answer] = {}
        self._file = AppendFile(self._partial)

    def append(self, record: Answer) -> None:
        """Add one record."""
        self._file.append(record)
        self._added[self._key(record)] = record

    def records(self, order: Iterable[Hashable]) -> list[Answer]:
        """Return the records in an order of keys; keys without a record are left out."""
        known = self.kept | self._added
        return [known[key] for key in order if key in known]

    def finish(
        self,
        order: Iterable[Hashable],
        judge: Callable[[list[Answer]], list[Answer]] = lambda records: records,
    ) -> list[Answer]:
        """Write the output file in an order of keys, and return its records, after a judgement on all of them."""
        records = judge(self.records(order))
        self._file.close()
        whole = self._path.with_name(self._path.name + ".whole")
        whole.unlink(missing_ok=True)
        with AppendFile(whole) as file:
            for record in records:
                file.append(record)
        finish(whole, self._path)
        self._partial.unlink()
        return records

    def close(self) -> None:
        """Bring what was added to the disk; the file stays partial unless it was finished."""
        self._file.close()
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def __enter__(self) -> ResumedFile[Answer]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock(path: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(path.with_name(path.name + ".lock"), thread_local=False)
    with told_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as err:  # an OSError, too
            raise RunStateError(
                f"another process is writing {path}", hint="wait for it to end, or choose another file"
            ) from err
    return lock
