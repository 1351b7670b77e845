"""The rounds of a run on disk: what a later round starts from, and what each brought.

Reads/writes  RUN/round_N/round.json   which student of the round before is sampled in round N
              RUN/rounds.json          a record for each round, in order

The run's own folder is round 1; `round_2`, `round_3`, ... in it are complete run folders of the same shape.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lema_local.errors import RunStateError
from lema_local.records import Share
from lema_local.runs import RunFolder, write_text

ROUND_FILE = "round.json"
ROUNDS_FILE = "rounds.json"
BASE = "base"
"""The student that has learned nothing."""
Stopped = Literal["no_rise", "no_new_mistakes", "all_done"]


class RoundInput(BaseModel):
    """What a later round starts from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=2)
    arm: str
    """The arm of the round before whose student is sampled: its best by validation, or the one the recipe names."""


class RoundRecord(BaseModel):
    """What a round brought."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: int
    sampled_from: str
    """Who made the mistakes: `base`, or `ARM of round N`."""
    student: str | None = None
    """The arm chosen by validation; None where the round ended before its training."""
    validation: dict[str, Share] = {}
    """By arm (and `base`): the held-out questions answered rightly, greedily, through the exported adapter."""
    new_mistakes: int
    """Distinct wrong paths whose chain of equations has no accepted correction yet."""
    already_known: int
    """Wrong paths that have: they were not sent to the teacher again."""
    evolved_questions: int = 0
    """Written by the teacher in the round before, and sampled in this one for the first time."""
    stopped: Stopped | None = None
    """Why no round follows; None where one does, or may."""
    reason: str | None = None
    """The same in words."""


def round_folder(root: RunFolder, number: int) -> RunFolder:
    """Return the folder of a round: the first one's is the run's own."""
    return root if number == 1 else RunFolder(root.path / f"round_{number}")


def read_round(folder: RunFolder) -> RoundInput | None:
    """Return what a round's folder starts from; None for a run's own folder.

    Raises:
        RunStateError: If the file is damaged.
    """
    path = folder.path / ROUND_FILE
    if not path.is_file():
        return None
    try:
        return RoundInput.model_validate_json(path.read_bytes())
    except ValidationError as err:
        raise _damaged(path) from err


def save_round(folder: RunFolder, given: RoundInput) -> None:
    """Write down what a round starts from, before anything of it is made.

    Raises:
        RunStateError: If the folder holds a round that started from another student.
    """
    found = read_round(folder)
    if found is not None and found != given:
        raise RunStateError(
            f"{folder.path} was begun from the student {found.arm}, and now {given.arm} is to be sampled",
            hint=f"set rounds.student_from back, or delete {folder.path} and the rounds after it",
        )
    write_text(folder.path / ROUND_FILE, given.model_dump_json(indent=2) + "\n")


def read_rounds(run_dir: Path) -> list[RoundRecord]:
    """Return the records of a run's rounds; none where it has no rounds.

    Raises:
        RunStateError: If the file is damaged.
    """
    path = run_dir / ROUNDS_FILE
    if not path.is_file():
        return []
    try:
        return TypeAdapter(list[RoundRecord]).validate_json(path.read_bytes())
    except ValidationError as err:
        raise _damaged(path) from err


def has_ended(run_dir: Path, count: int) -> bool:
    """Return whether no round follows any more, where so many are asked for."""
    records = read_rounds(run_dir)
    if not records or records[-1].stopped is None:
        return False
    return records[-1].stopped != "all_done" or records[-1].round >= count


def write_rounds(run_dir: Path, records: list[RoundRecord]) -> None:
    """Write the records of a run's rounds."""
    plain = [record.model_dump(mode="json") for record in records]
    write_text(run_dir / ROUNDS_FILE, json.dumps(plain, indent=2) + "\n")


def _damaged(path: Path) -> RunStateError:
    return RunStateError(f"{path} is damaged", hint="delete it; lema run writes it again")
