"""A file of teachers' answers made in several goes: `lema run`, `lema correct`, `lema augment` go this way."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

import filelock
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from lema_local.errors import InputError, RunStateError
from lema_local.jsonl import AppendFile, finish, iterate_records, read_records, told_disk_errors
from lema_local.records import Correction, CorrectionVerdict, EvolvedQuestion, Rationale

Answer = TypeVar("Answer", Correction, EvolvedQuestion, Rationale)

_NAMED_BY: dict[type[BaseModel], tuple[str, ...]] = {
    Correction: ("question_id", "student", "sample_index"),
    Rationale: ("question_id", "attempt"),
    EvolvedQuestion: ("id",),
}
"""The fields that name the work behind a record: its key, a tuple of more than one, or the only one itself."""

_SAMPLE = 200
"""Records from earlier goes that are looked at closely: each go has looked at those before it."""


class ResumedFile(Generic[Answer]):
    """Records of an output file: those that stand from earlier goes, and those that are added.

    New records are appended to `OUT.partial`; at the end everything stands in OUT in the order asked for. Records
    whose verdict is `failed` are dropped on resuming: they are tried again.

    Only keys are read on opening, so that a large file holds nobody up; the records themselves at the end.

    Args:
        path: The output file.
        kind: Its records' type.
        is_fresh: Put aside what stands from earlier goes.

    Raises:
        RunStateError: If another process writes the same file: the budget is that of the file, too.
        InputError: If what stands there is no such file.
    """

    def __init__(self, path: Path, kind: type[Answer], *, is_fresh: bool = False) -> None:
        self._path = path
        self._kind: type[Answer] = kind
        self._partial = path.with_name(path.name + ".partial")
        self._lock = _lock(path)
        self._earlier = [] if is_fresh or not path.exists() else [path]
        if is_fresh:
            self._partial.unlink(missing_ok=True)
        self._file = AppendFile(self._partial)
        try:
            self.kept = _read_verdicts([*self._earlier, self._partial], kind)
            """The verdicts from earlier goes, by key."""
        except InputError:
            self.close()
            raise

    def append(self, record: Answer) -> None:
        """Add one record."""
        self._file.append(record)

    def sample_kept(self) -> list[Answer]:
        """Return about `_SAMPLE` of the records from earlier goes, evenly spread; all of a short file."""
        found: list[Answer] = []
        for source in (*self._earlier, self._partial):
            try:
                found += map(self._kind.model_validate_json, _sample_lines(source))
            except ValidationError:
                read_records(source, self._kind)  # says what is wrong with it, and where
                raise
        return [one for one in found if one.verdict != "failed"]

    def finish(
        self,
        order: Iterable[Hashable],
        judge: Callable[[list[Answer]], list[Answer]] = lambda records: records,
    ) -> list[Answer]:
        """Write the output file in an order of keys, and return its records, after a judgement on all of them.

        Keys without a record are left out.

        Raises:
            InputError: If a line from an earlier go is no such record; everything is kept.
        """
        self._file.close()
        key: Callable[[Answer], Hashable] = attrgetter(*_NAMED_BY[self._kind])
        known = {
            key(record): record
            for source in (*self._earlier, self._partial)
            for record in read_records(source, self._kind)
        }
        records = judge([known[name] for name in order if name in known])
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


def _read_verdicts(sources: Iterable[Path], kind: type[BaseModel]) -> dict[Hashable, CorrectionVerdict]:
    """Return the verdicts of records that did not fail, by key: half the time of reading all that is in them."""
    fields: dict[str, Any] = {
        name: (kind.model_fields[name].annotation, ...) for name in (*_NAMED_BY[kind], "verdict")
    }
    short: type[Any] = create_model(kind.__name__, __config__=ConfigDict(extra="ignore"), **fields)
    key: Callable[[Any], Hashable] = attrgetter(*_NAMED_BY[kind])
    records: Iterable[Any] = (one for source in sources for one in iterate_records(source, short))
    return {key(one): one.verdict for one in records if one.verdict != "failed"}


def _sample_lines(path: Path) -> Iterable[bytes]:
    """Return lines of a file, each once: of a long one those that follow places at equal distances."""
    size, lines = path.stat().st_size, dict[int, bytes]()
    with path.open("rb") as stream:
        for part in range(_SAMPLE):
            stream.seek(size * part // _SAMPLE)
            if part:
                stream.readline()
            start = stream.tell()
            lines[start] = stream.readline()
    return filter(bytes.strip, lines.values())


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
