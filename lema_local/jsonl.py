"""Durable JSON Lines: one record a line, appended whole, a torn last line recovered.

A file that is still being written is called `x.jsonl.partial`; its last line may be torn by a power cut or a
`kill -9`. `AppendFile` drops that line, and the work behind it is done again. A file under its own name is whole.
"""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jsonlines
from pydantic import BaseModel, TypeAdapter, ValidationError

from lema_local.errors import InputError, LemaError

Record = TypeVar("Record", bound=BaseModel)

PROBLEMS_SHOWN = 20


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Return all records of a whole file.

    Raises:
        InputError: If the file cannot be read or lines are malformed: up to 20 are named, the rest counted.
    """
    if (quick := read_quickly(path, kind)) is not None:
        return quick
    problems: list[str] = []
    records = list(_iterate(path, kind, problems))
    if problems:
        raise InputError(describe_problems(path, problems), hint=f"every line is one {kind.__name__} as JSON")
    return records


def read_quickly(path: Path, kind: type[Record]) -> list[Record] | None:
    """Return the records of a whole file, one from each line, where nothing is wrong with it, else None.

    More than twice as fast as by way of Python's objects, but it cannot say what is wrong in our words, and gives up
    on blank lines, too.
    """
    records: list[Record] = []
    try:
        with _making_many(), path.open("rb") as stream:
            while lines := stream.readlines(_BYTES_AT_ONCE):
                records += _read_lines(lines, kind)
            if len(records) >= _MANY:
                gc.freeze()  # later collections leave out what is there now; records still go when nobody holds them
    except (OSError, ValueError):
        return None
    return records


def iterate_records(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the records of a whole file, without holding all of them.

    Raises:
        InputError: As `read_records`, after the records before the first malformed line.
    """
    done = 0
    try:
        with path.open("rb") as stream:
            while lines := stream.readlines(_BYTES_AT_ONCE):
                records = _read_lines(lines, kind)
                yield from records
                done += len(records)
    except (OSError, ValueError):
        yield from read_records(path, kind)[done:]


_MANY = 10_000
_BYTES_AT_ONCE = 2**16
"""Of lines that go to pydantic as one array: a call for each would take as long as the reading."""


def _read_lines(lines: list[bytes], kind: type[Record]) -> list[Record]:
    """Return a record from each line.

    Raises:
        ValueError: If anything is wrong with any of them.
    """
    text = b"".join(lines).removesuffix(b"\n")
    if b"NaN" in text or b"Infinity" in text:
        raise ValueError  # perhaps as numbers, which are none
    # Every line from brace to brace, and as many records as lines: one that is none by itself cannot hide in the array.
    if not (text.startswith(b"{") and text.endswith(b"}") and text.count(b"}\n{") == len(lines) - 1):
        raise ValueError
    records = _array_of(kind).validate_json(b"[" + text.replace(b"}\n{", b"},{") + b"]")
    if len(records) != len(lines):
        raise ValueError
    return records


@cache
def _array_of(kind: type[Record]) -> TypeAdapter[list[Record]]:
    return TypeAdapter(list[kind])  # type: ignore[valid-type]


@contextmanager
def _making_many() -> Iterator[None]:
    """Keep the garbage collector from going through a great many records again and again: they are no garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def describe_problems(path: Path | str, problems: list[str]) -> str:
    """Return one message that lists up to 20 problems of a file and counts the rest."""
    shown = "\n".join(f"  - {problem}" for problem in problems[:PROBLEMS_SHOWN])
    rest = f"\n  and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
    return f"{path} has {len(problems)} problem(s):\n{shown}{rest}"


def _iterate(path: Path, kind: type[Record], problems: list[str]) -> Iterator[Record]:
    """Yield the good records; append what is wrong with the others to `problems`."""
    for number, value in iterate_objects(path, problems):
        try:
            yield kind.model_validate(value)
        except ValidationError as err:
            problems.append(f"line {number}: {describe_validation(err)}")


def iterate_objects(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (1-based line number, object) per line; append to `problems` what is no JSON object.

    Raises:
        InputError: If the file cannot be opened.
    """
    try:
        # `utf-8-sig`: editors on Windows begin a file with a byte-order mark.
        stream = path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n")
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}", hint="check the path") from err
    with stream:
        yield from iterate_lines(stream, problems)


def iterate_lines(lines: Iterable[str], problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (1-based line number, object) of lines that were decoded with `surrogateescape`; skip blank ones."""
    number = 0

    def count_lines() -> Iterator[str]:
        nonlocal number
        for line in lines:
            number += 1
            yield line

    with jsonlines.Reader(count_lines(), loads=parse_json) as reader:
        while True:
            try:
                value = reader.read(skip_empty=True, allow_none=True)
            except EOFError:
                return
            except jsonlines.InvalidLineError as err:
                problems.append(f"line {number}: {err.__cause__ or err}")
                continue
            if isinstance(value, dict):
                yield number, value
            else:
                problems.append(f"line {number}: no JSON object but {type(value).__name__}")


def parse_json(text: str) -> Any:
    """Return the value that a text is in JSON, as the standard has it: no NaN, no half characters.

    Raises:
        ValueError: With what is wrong, in a few words.
    """
    is_mangled = _ESCAPED_BYTE.search(text) is not None
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("not valid JSON: nested too deeply") from None
    except json.JSONDecodeError as err:
        line = f" of line {err.lineno}" if err.lineno > 1 else ""
        what = "UTF-8" if is_mangled else f"JSON: {err.msg} at character {err.colno}{line}"
        raise ValueError(f"not valid {what}") from None
    except ValueError as err:  # a number of thousands of digits
        raise ValueError(f"not valid JSON: {str(err).partition(':')[0]}") from None
    if _PERHAPS_SURROGATE.search(text) and _has_surrogate(value):
        what = "not valid UTF-8" if is_mangled else "half of a character (a lone \\ud800 to \\udfff)"
        raise ValueError(what)
    return value


_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PERHAPS_SURROGATE = re.compile("[\ud800-\udfff]|\\\\u[dD][89a-fA-F]")
"""As such or as an escape: without either no value can hold one."""


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number there")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _has_surrogate(value: object) -> bool:
    if isinstance(value, str):
        return not value.isascii() and _SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_has_surrogate(key) or _has_surrogate(inner) for key, inner in value.items())
    return isinstance(value, list) and any(map(_has_surrogate, value))


def describe_validation(err: ValidationError) -> str:
    """Return pydantic's findings in one line of our words."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'record'}: {item['msg'].lower()}" for item in err.errors()
    )


def write_records(path: Path, records: Iterable[BaseModel]) -> int:
    """Write a whole file and return the number of records; the name appears only when everything is in it."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with AppendFile(partial) as file:
        for record in records:
            file.append(record)
        count = file.count
    finish(partial, path)
    return count


def finish(partial: Path, path: Path) -> None:
    """Give a finished partial file its own name, so that a power cut leaves either the old or the new one."""
    with told_disk_errors(path):
        partial.replace(path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (nothing to do where folders cannot be opened: Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class told_disk_errors:  # noqa: N801 - reads as a statement: `with told_disk_errors(path):`
    """Turn an `OSError` of writing `path` (disk full, no permission) into one clear message."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None
    ) -> None:
        if isinstance(err, OSError):
            raise LemaError(
                f"cannot write {self.path}: {err.strerror or err}; what was written before is kept",
                hint="free some space or mend the permissions, then run the same command again",
            ) from err


class AppendFile:
    """A JSON Lines file that only grows. Each record reaches the operating system before `append` returns.

    Args:
        path: Created with its folders if missing; a torn last line is dropped on opening.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with told_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a+b", buffering=0)  # a failed write leaves nothing to be tried again
        self.dropped_bytes = self._drop_torn_line()
        self.count = 0
        """Records appended since opening."""

    def _drop_torn_line(self) -> int:
        """Cut what follows the last line end; return the number of bytes cut."""
        size = self._stream.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(0, end - 65536)
            self._stream.seek(start)
            found = self._stream.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            with told_disk_errors(self.path):
                self._stream.truncate(end)
        self._stream.seek(0, os.SEEK_END)
        return size - end

    def append(self, record: BaseModel) -> None:
        """Write one record.

        Raises:
            LemaError: If the disk is full or not writable; earlier records stay, and no torn line is left.
        """
        line = record.model_dump_json().encode("utf-8") + b"\n"
        with told_disk_errors(self.path):
            end = self._stream.seek(0, os.SEEK_END)
            try:
                while line:  # a full disk takes a part first and refuses the rest
                    line = line[self._stream.write(line) :]
            except OSError:
                self._stream.truncate(end)
                raise
        self.count += 1

    def close(self) -> None:
        """Bring everything to the disk itself."""
        if self._stream.closed:
            return
        with told_disk_errors(self.path), self._stream:
            os.fsync(self._stream.fileno())

    def __enter__(self) -> AppendFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_partial(path: Path, kind: type[Record]) -> list[Record]:
    """Return the records of an unfinished file, its torn last line dropped (an empty list where there is none)."""
    if not path.exists():
        return []
    AppendFile(path).close()
    return read_records(path, kind)


def keep_first(path: Path, count: int) -> None:
    """Cut an unfinished file after its first `count` records."""
    with told_disk_errors(path), path.open("r+b") as stream:
        for _ in range(count):
            stream.readline()
        stream.truncate(stream.tell())
