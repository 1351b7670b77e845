"""How many samples each question gets: a budget that goes where mistakes are.

Samples are drawn in waves of `samples_per_question`: all questions get the first wave; questions with too few
mistakes or right answers get further ones. The order of (wave, question) is fixed, and whether a question is in a
wave depends on its own earlier paths alone: an interrupted run goes on to the same paths as an uninterrupted one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lema_local.records import Question, ReasoningPath


class SampleBudget(BaseModel):
    """How many paths are drawn, and which mistakes are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples_per_question: int = Field(default=4, ge=1)
    """More finds more mistakes; cost grows in step. pass@1 is told from these, never from further ones."""
    max_samples_per_question: int | None = Field(default=None, ge=1)
    """Questions that fall short of what is wanted below get further samples, up to so many; None: none."""
    wanted_mistakes: int = Field(default=0, ge=0)
    """Different mistakes of a question below which it falls short."""
    wanted_correct: int = Field(default=0, ge=0)
    """Different right paths of a question below which it falls short."""
    max_mistakes_per_question: int | None = Field(default=None, ge=1)
    """Keep so many different mistakes of a question, the first ones; None: all."""
    stop_after_mistakes: int | None = Field(default=None, ge=1)
    """Stop once so many mistakes are kept in all, divided evenly among several students; None: never."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        most, wanted = self.max_samples_per_question, max(self.wanted_mistakes, self.wanted_correct)
        if most is not None and most < self.samples_per_question:
            raise ValueError(
                f"max_samples_per_question {most} is less than samples_per_question {self.samples_per_question}"
            )
        if wanted and most is None:
            raise ValueError("wanted_mistakes and wanted_correct need max_samples_per_question")
        if most is not None and not wanted:
            raise ValueError("max_samples_per_question needs wanted_mistakes or wanted_correct above 0")
        return self

    @property
    def is_tracked(self) -> bool:
        """Whether what is drawn depends on what came out."""
        return self.max_samples_per_question is not None or self.stop_after_mistakes is not None

    def wave_of(self, sample_index: int) -> int:
        """Return the wave in which a sample is drawn."""
        return sample_index // self.samples_per_question

    def indices(self, wave: int) -> range:
        """Return the samples of one question in a wave; empty behind the last one."""
        start = wave * self.samples_per_question
        most = self.max_samples_per_question or self.samples_per_question
        return range(start, min(start + self.samples_per_question, most))


@dataclass(slots=True)
class _Tally:
    """What came out for one question."""

    drawn: Counter[int] = field(default_factory=Counter)
    """Paths by wave."""
    mistakes: dict[int, int] = field(default_factory=dict)
    """Hash of a mistake's text: the first wave in which it came up."""
    correct: dict[int, int] = field(default_factory=dict)
    """The same of right paths."""


class SamplePlan:
    """Follows the paths of one student, and says who gets further samples and when it is enough.

    Args:
        budget: What is wanted.
        stop_after: Mistakes after which it is enough; None: never.
    """

    def __init__(self, budget: SampleBudget, stop_after: int | None = None) -> None:
        self._budget = budget
        self._stop_after = stop_after
        self._tallies: dict[str, _Tally] = {}
        self._refused: set[str] = set()
        self._open: deque[tuple[str, int]] = deque()
        """(question id, wave) in order, from the first one that is not whole."""
        self._closed: set[tuple[str, int]] = set()
        self.mistakes = 0
        """Different mistakes, as far as the paths are whole in order."""

    @property
    def is_enough(self) -> bool:
        """Whether the mistakes that were asked for are there."""
        return self._stop_after is not None and self.mistakes >= self._stop_after

    def expect(self, question_id: str, wave: int) -> None:
        """Say which question comes next in the order."""
        if self._stop_after is not None:
            self._open.append((question_id, wave))
            self._settle()

    def add(self, path: ReasoningPath) -> None:
        """Count a path."""
        if not self._budget.is_tracked:
            return
        tally = self._tallies.setdefault(path.question_id, _Tally())
        wave = self._budget.wave_of(path.sample_index)
        tally.drawn[wave] += path.count
        if path.verdict == "wrong":
            tally.mistakes.setdefault(hash(path.text), wave)
        elif path.verdict == "correct":
            tally.correct.setdefault(hash(path.text), wave)
        self._settle()

    def refuse(self, question_id: str) -> bool:
        """Take note that a question cannot be asked; return whether that is news."""
        is_news = question_id not in self._refused
        self._refused.add(question_id)
        self._settle()
        return is_news

    def _settle(self) -> None:
        """Close questions from the front as long as their waves are whole and it is not enough."""
        while self._open and not self.is_enough:
            question_id, wave = self._open[0]
            tally = self._tallies.get(question_id, _Tally())
            is_whole = tally.drawn[wave] >= len(self._budget.indices(wave)) or question_id in self._refused
            if not is_whole:
                return
            self._open.popleft()
            self._closed.add((question_id, wave))
            self.mistakes += self._kept_until(tally, wave) - self._kept_until(tally, wave - 1)

    def _kept_until(self, tally: _Tally, wave: int) -> int:
        most = self._budget.max_mistakes_per_question or len(tally.mistakes)
        return min(most, _count_until(tally.mistakes, wave))

    def is_short(self, question_id: str, wave: int) -> bool:
        """Say whether a question gets samples in a wave, by what came out in the waves before it."""
        tally = self._tallies.get(question_id)
        if wave == 0:
            return True
        if tally is None or not self._budget.indices(
            wave
        ):  # it could not be asked, or has had all it may get
            return False
        return (
            _count_until(tally.mistakes, wave - 1) < self._budget.wanted_mistakes
            or _count_until(tally.correct, wave - 1) < self._budget.wanted_correct
        )

    def covers(self, path: ReasoningPath) -> bool:
        """Say whether a path lies before the place where it was enough."""
        key = (path.question_id, self._budget.wave_of(path.sample_index))
        return not self.is_enough or key in self._closed


def _count_until(first_waves: dict[int, int], wave: int) -> int:
    return sum(first <= wave for first in first_waves.values())


def waves(
    questions: Iterable[Question], plan: SamplePlan, budget: SampleBudget
) -> Iterator[tuple[int, Iterable[Question]]]:
    """Yield each wave with its questions; a wave's questions are known when all earlier paths are counted."""
    if not budget.is_tracked or budget.max_samples_per_question is None:
        yield 0, questions
        return
    members = list(questions)
    wave = 0
    while members:
        yield wave, members
        wave += 1
        members = [question for question in members if plan.is_short(question.id, wave)]


def within_budget(
    paths: Sequence[ReasoningPath],
    questions: Iterable[Question],
    budget: SampleBudget,
    stop_after: int | None = None,
) -> list[ReasoningPath]:
    """Return the paths of one student without those drawn behind the place where it was enough."""
    if stop_after is None:
        return list(paths)
    plan = SamplePlan(budget, stop_after)
    by_wave: dict[int, list[ReasoningPath]] = {}
    for path in paths:
        by_wave.setdefault(budget.wave_of(path.sample_index), []).append(path)
    answered = {path.question_id for path in paths}
    for wave, members in waves(questions, plan, budget):
        for path in by_wave.get(wave, ()):
            plan.add(path)
        for question in members:
            if question.id not in answered and wave == 0:
                plan.refuse(question.id)
            plan.expect(question.id, wave)
    return [path for path in paths if plan.covers(path)]


def keep_first_mistakes(paths: Iterable[ReasoningPath], most: int | None) -> tuple[list[ReasoningPath], int]:
    """Leave out those mistakes of a question (and student) that are more than `most`.

    Returns:
        The paths that stay, and the number of those left out.
    """
    seen = Counter[tuple[str, str]]()
    kept: list[ReasoningPath] = []
    left_out = 0
    for path in paths:
        if path.verdict == "wrong":
            key = (path.question_id, path.student)
            seen[key] += 1
            if most is not None and seen[key] > most:
                left_out += 1
                continue
        kept.append(path)
    return kept, left_out


def count_mistakes(paths: Iterable[ReasoningPath], budget: SampleBudget) -> int:
    """Return how many different mistakes of one student are kept."""
    texts: dict[str, set[int]] = {}
    for path in paths:
        if path.verdict == "wrong":
            texts.setdefault(path.question_id, set()).add(hash(path.text))
    most = budget.max_mistakes_per_question
    return sum(len(some) if most is None else min(most, len(some)) for some in texts.values())
