"""What is reviewed: accepted corrections chosen by a seed, with their questions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lema_local.errors import InputError
from lema_local.grades import correction_id
from lema_local.records import Correction, Question
from lema_local.report.files import RunReader, choose_by_hash
from lema_local.steps import split_steps


@dataclass(frozen=True)
class ReviewItem:
    """One correction to be graded."""

    correction: Correction
    question: Question | None
    """None where the run's file of questions lacks it."""

    @cached_property
    def id(self) -> str:
        """What its grades are kept under."""
        return correction_id(self.correction)

    @property
    def corrected_steps(self) -> list[str]:
        """The corrected solution, one step each."""
        return split_steps(self.correction.corrected_solution or "")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The corrections of a review, in the order that the seed gives."""

    items: list[ReviewItem]
    available: int
    """Accepted corrections in the run."""
    problems: list[str]
    """What could not be read."""


def choose_items(run_dir: Path, count: int | None, seed: int) -> Chosen:
    """Choose accepted corrections of a run; a larger count holds all of a smaller one, in the same order.

    Args:
        run_dir: The run's folder.
        count: How many; None: all.
        seed: Another one chooses others.

    Raises:
        InputError: If the run holds no accepted correction.
    """
    reader = RunReader(run_dir)
    seen: dict[str, Correction] = {}
    for one in _accepted(reader):
        seen.setdefault(correction_id(one), one)
    if not seen:
        raise InputError(
            f"{run_dir} holds no accepted correction" + "".join(f"; {told}" for told in reader.problems[:3]),
            hint="name a run's folder whose stage 'correct' has begun, such as runs/NAME",
        )
    chosen = choose_by_hash(seen.items(), len(seen) if count is None else count, seed)
    wanted = {one.question_id for one in chosen}
    questions = {
        one.id: one
        for path in sorted((run_dir / "0_questions").glob("*.jsonl"))
        for one in reader.read(f"0_questions/{path.name}", Question)
        if one.id in wanted
    }
    items = [ReviewItem(one, questions.get(one.question_id)) for one in chosen]
    return Chosen(items, len(seen), reader.problems)


def _accepted(reader: RunReader) -> Iterable[Correction]:
    filtered = reader.find("4_filter/accepted.jsonl") is not None
    name = "4_filter/accepted.jsonl" if filtered else "2_correct/corrections.jsonl"
    return (one for one in reader.read(name, Correction) if one.verdict == "accepted")
