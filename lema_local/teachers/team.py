"""The teachers of one run: several that share the mistakes, one that gets what they failed on, one budget for all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from typing import TypeVar

from lema_local.errors import InputError
from lema_local.teachers import open_desk, open_teacher
from lema_local.teachers.base import Teacher
from lema_local.teachers.desk import TeacherDesk
from lema_local.teachers.journal import Journal
from lema_local.teachers.prices import Price
from lema_local.teachers.scheduler import DeskCount, DeskSettings
from lema_local.teachers.settings import TeacherSettings

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Member:
    """One teacher of a team."""

    settings: TeacherSettings
    teacher: Teacher


class Team:
    """The teachers of one run.

    All are opened at once, so that a missing key or server is told before anything is spent; their desks are lent one
    after the other, so that two models in this process are never in memory together. Each desk counts what was
    spent before, and so the caps hold over all of them.

    Args:
        chosen: Who shares the work, by weight; at least one.
        fallback: Who gets what they failed on; None: nobody.
        journal: Where replies are kept; stays open.
        desk_settings: How calls are made.
        scope: What the calls are made for: a stage's folder, a file.
        within: What the caps hold over: the run's folder; None: the scope.
        max_usd: Dollars in all; None: no cap.
        max_calls: Requests in all; None: no cap.

    Raises:
        InputError: If a teacher's settings contradict each other.
        BackendUnavailable: If one of the teachers cannot be asked.
    """

    def __init__(
        self,
        chosen: Sequence[TeacherSettings],
        fallback: TeacherSettings | None,
        journal: Journal,
        desk_settings: DeskSettings,
        *,
        scope: str,
        within: str | None = None,
        max_usd: float | None = None,
        max_calls: int | None = None,
    ) -> None:
        self._journal = journal
        self._desk_settings = desk_settings
        self._scope = scope
        self._within = within
        self._spent_before_usd = journal.spending(scope).spent_usd
        self._max_usd = max_usd
        self._max_calls = max_calls
        self._desk: TeacherDesk | None = None
        self._past = DeskCount()
        self._open: list[Member] = []
        try:
            for settings in [*chosen, *([fallback] if fallback else [])]:
                self._open.append(open_member(settings))
        except BaseException:
            self.close()
            raise
        self.members = self._open[: len(chosen)]
        self.fallback = self._open[-1] if fallback else None

    @property
    def name(self) -> str:
        """The teachers' names."""
        names = " + ".join(member.teacher.name for member in self.members)
        return f"{names}, then {self.fallback.teacher.name}" if self.fallback else names

    @property
    def prices(self) -> dict[str, dict[str, float]]:
        """Dollars per token by teacher, of those that have a price that is known."""
        every = [*self.members, *([self.fallback] if self.fallback else [])]
        found = {one.teacher.name: getattr(one.teacher, "price", None) for one in every}
        return {name: asdict(price) for name, price in found.items() if isinstance(price, Price)}

    @contextmanager
    def desk(self, member: Member) -> Iterator[TeacherDesk]:
        """Lend one teacher's desk, once; the teacher is closed at the end."""
        with open_desk(
            member.teacher,
            self._journal,
            self._desk_settings,
            scope=self._scope,
            within=self._within,
            max_usd=self._max_usd,
            max_calls=self._max_calls,
        ) as self._desk:
            try:
                yield self._desk
            finally:
                self._past, self._desk = add_counts([self._past, self._desk.count]), None
                self._open.remove(member)

    @property
    def count(self) -> DeskCount:
        """What all desks did so far."""
        return add_counts([self._past, self._desk.count]) if self._desk else self._past

    @property
    def spent_usd(self) -> float:
        """Dollars for this scope, earlier goes included."""
        if self._desk is None:
            return self._journal.spending(self._scope).spent_usd
        return self._spent_before_usd + self.count.cost_usd

    def close(self) -> None:
        """Close the teachers that were never asked."""
        while self._open:
            asyncio.run(self._open.pop().teacher.close())

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_member(settings: TeacherSettings, *, needs_key: bool = True) -> Member:
    """Return a teacher, opened, with its settings; see `open_teacher`."""
    options = {"reasoning_effort": settings.reasoning_effort} if settings.reasoning_effort else {}
    if options and (settings.model == "reference" or settings.model.startswith("llamacpp/")):
        raise InputError(f"the teacher {settings.model} takes no reasoning_effort", hint="leave it out")
    teacher = open_teacher(
        settings.model,
        url=settings.url,
        price_in=settings.price_in,
        price_out=settings.price_out,
        options=options,
        slots=settings.slots,
        gpu_layers=settings.gpu_layers,
        needs_key=needs_key,
    )
    return Member(settings, teacher)


def add_counts(counts: Iterable[DeskCount]) -> DeskCount:
    """Return what several desks did together."""
    total = DeskCount()
    for count in counts:
        for name in (field.name for field in fields(DeskCount)):
            setattr(total, name, getattr(total, name) + getattr(count, name))
    return total


def choose_member(name: str, weights: Sequence[float]) -> int:
    """Return whose turn a piece of work is, by its name: the same in every run, whatever the order of work."""
    if len(weights) == 1:
        return 0
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64 * sum(weights)
    return next((i for i, upto in enumerate(accumulate(weights)) if draw < upto), len(weights) - 1)
