"""Reading a run's files for a report: line by line, changing nothing, naming what is damaged instead of stopping."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lema_local.errors import InputError
from lema_local.jsonl import describe_validation, iterate_objects
from lema_local.records import Question

Record = TypeVar("Record", bound=BaseModel)
Item = TypeVar("Item")


class RunReader:
    """The files of one run.

    Args:
        run_dir: The run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._problems: dict[str, None] = {}  # in order, each once: a file may be read twice

    @property
    def problems(self) -> list[str]:
        """What could not be read, in words."""
        return list(self._problems)

    def tell(self, problem: str) -> None:
        """Add something that the reader of the report has to know."""
        self._problems.setdefault(problem)

    def find(self, name: str) -> Path | None:
        """Return a file, or its unfinished form `NAME.partial`; None where there is neither."""
        whole = self.run_dir / name
        return next(
            (path for path in (whole, whole.with_name(whole.name + ".partial")) if path.is_file()), None
        )

    def read(self, name: str, kind: type[Record]) -> Iterator[Record]:
        """Yield the good records of a file (of its unfinished form where it is not whole yet)."""
        path = self.find(name)
        if path is None:
            return
        problems: list[str] = []
        after_last = 0
        for number, value in self._objects(path, problems):
            try:
                record = kind.model_validate(value)
            except ValidationError as err:
                problems.append(f"line {number}: {describe_validation(err)}")
                continue
            yield record
            after_last = len(problems)
        if path.suffix == ".partial":
            del problems[after_last:]  # a torn end is not damage: the work goes on there
        self._tell_lines(path, problems)

    def read_objects(self, name: str) -> Iterator[dict[str, object]]:
        """Yield the JSON objects of a log; a torn or malformed line is left out."""
        path = self.find(name)
        if path is not None:
            yield from (value for _, value in self._objects(path, []))

    def _objects(self, path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, object]]]:
        try:
            yield from iterate_objects(path, problems)
        except InputError as err:
            self.tell(str(err))

    def _tell_lines(self, path: Path, problems: list[str]) -> None:
        if problems:
            name = path.relative_to(self.run_dir).as_posix()
            self.tell(f"{name}: {len(problems):,} damaged line(s) left out, the first one: {problems[0]}")

    def read_text(self, name: str) -> str | None:
        """Return a small file; None where it is missing or unreadable (which is told)."""
        try:
            return (self.run_dir / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as err:
            self.tell(f"cannot read {name}: {err.strerror}")
            return None


def question_files(reader: RunReader) -> list[str]:
    """Return the run's files of questions."""
    folder = reader.run_dir / "0_questions"
    return sorted(f"0_questions/{path.name}" for path in folder.glob("*.jsonl"))


def find_questions(reader: RunReader, ids: Collection[str]) -> dict[str, Question]:
    """Return the named questions, as far as the run's files hold them."""
    found: dict[str, Question] = {}
    for name in question_files(reader) if ids else ():
        found |= {question.id: question for question in reader.read(name, Question) if question.id in ids}
    return found


def rank(name: str, order: Sequence[str]) -> tuple[int, str]:
    """Return what sorts names: those in `order` first, the others behind them by name."""
    return (order.index(name) if name in order else len(order)), name


def choose_by_hash(items: Iterable[tuple[str, Item]], count: int, seed: int) -> list[Item]:
    """Choose `count` of the (key, item) pairs, by a hash of seed and key.

    The choice does not depend on the items' order, and only `count` of them are held.
    """

    def rank(pair: tuple[str, Item]) -> str:
        return hashlib.sha256(f"{seed}:{pair[0]}".encode("utf-8", "replace")).hexdigest()

    return [item for _, item in heapq.nsmallest(count, items, key=rank)]
