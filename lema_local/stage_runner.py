"""One stage of a run, whatever it does: skipped, taken over, resumed, refused or done, with its manifest last."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from lema_local.errors import RunStateError
from lema_local.jsonl import read_records
from lema_local.run_progress import ProgressFile
from lema_local.runs import MadeFrom, Manifest, RunFolder, StageFolder, changed_settings, fingerprint

T = TypeVar("T", bound=BaseModel)
_LOG = logging.getLogger(__name__)

STAGES = {
    "evolve": "0_evolve",
    "questions": "0_questions",
    "sample": "1_sample",
    "correct": "2_correct",
    "augment": "3_augment",
    "filter": "4_filter",
    "build": "5_build",
    "train": "6_train",
    "export": "7_export",
    "evaluate": "8_evaluate",
    "report": "9_report",
}
"""Stage: its folder."""
OF_FIRST_ROUND = tuple(name for name in STAGES if name != "evolve")
"""Where `--until` can stop a run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage tells its manifest when it is done."""

    counts: dict[str, Any] = field(default_factory=dict)
    cost_usd: float = 0.0
    chosen: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """Spent in the stage's parts, which have manifests of their own."""


Work = Callable[[StageFolder, Manifest], Outcome]


class StageRunner:
    """Does the stages of one run folder.

    Args:
        folder: The run's.
        tell: Says one line to the user.
        reuse: Another run, whose finished stages are taken over where their fingerprints match.
        progress: Told when a stage begins and ends.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        tell: Callable[[str], None],
        reuse: RunFolder | None,
        progress: ProgressFile,
    ) -> None:
        self.folder = folder
        self.progress = progress
        self.tell = tell
        self.reuse: Sequence[RunFolder] = (reuse,) if reuse is not None else ()
        """Runs whose finished stages are taken over, the first one first."""
        self.only_taken: frozenset[str] = frozenset()
        """Stages that may only be taken over: they are never begun here."""
        self.marks: dict[str, str] = {}
        """Fingerprints of what was made so far, by stage and part."""

    def path(self, stage: str, *names: str) -> Path:
        """Return a stage's folder, or something in it."""
        return self.folder.stage(STAGES[stage]).path.joinpath(*names)

    def read(self, stage: str, file: str, kind: type[T]) -> list[T]:
        """Return the records of one of a stage's files."""
        return read_records(self.path(stage, file), kind)

    def do(self, name: str, made_from: MadeFrom, work: Work, *, part: str = "") -> Manifest:
        """Skip, take over, resume, refuse, or do a stage.

        Args:
            name: The stage.
            made_from: Everything that can change its result.
            work: Does what is left to do, and says what came of it.
            part: An arm that has a folder and a manifest of its own within the stage.

        Raises:
            RunStateError: If the folder holds this stage made from something else, or is damaged.
            LemaError: As the work raises; the time spent counts, and what was written is kept.
        """
        label = f"{name} {part}".strip()
        folder = StageFolder(self.path(name, part))
        mark = fingerprint(made_from)
        self.marks[label] = mark
        _LOG.debug("%s: %s is made from %s", label, mark, made_from)
        finished = folder.manifest()
        started = finished or folder.started()
        if started is not None and started.fingerprint != mark:
            self._refuse(label, folder, started, made_from)
        if finished is not None:
            self.tell(f"{label}: finished before")
            return finished
        if (taken := self._take_over(name, part, mark)) is not None:
            self.tell(f"{label}: taken over from {taken.reused_from}")
            return taken
        if name in self.only_taken:
            self._refuse_to_begin(name, made_from)
        if started is None:
            started = Manifest(stage=label, fingerprint=mark, made_from=made_from)
            folder.save_started(started)
        else:
            self.tell(f"{label}: going on")
        return self._work(label, folder, started, work)

    def _work(self, label: str, folder: StageFolder, started: Manifest, work: Work) -> Manifest:
        began = time.monotonic()
        self.progress.begin(label)
        try:
            outcome = work(folder, started)
        except BaseException as err:
            self.progress.stop(err)
            # Whatever stopped it, the time spent counts; what the engine chose was saved by the work itself.
            latest = folder.started() or started
            spent = latest.seconds + time.monotonic() - began
            folder.save_started(latest.model_copy(update={"seconds": round(spent, 3)}))
            raise
        manifest = started.model_copy(
            update={
                "counts": outcome.counts,
                "cost_usd": outcome.cost_usd,
                "chosen": outcome.chosen,
                "seconds": round(started.seconds + outcome.seconds + time.monotonic() - began, 3),
            }
        )
        folder.save_manifest(manifest)
        self.progress.end()
        self.tell(f"{label}: done in {manifest.seconds:.0f} s")
        return manifest

    def _refuse(self, label: str, folder: StageFolder, started: Manifest, made_from: MadeFrom) -> None:
        differences = "\n".join(f"  - {line}" for line in changed_settings(started.made_from, made_from))
        raise RunStateError(
            f"{self.folder.path} holds the stage '{label}' made from other settings:\n{differences}",
            hint=f"take another folder with --run NEW --reuse {self.folder.path} (what fits is taken over), set the"
            f" settings back, or delete {folder.path} and the stages after it",
        )

    def _refuse_to_begin(self, name: str, made_from: MadeFrom) -> None:
        run = self.reuse[0]
        again = f"lema run {run.recipe_path} --run {run.path}"
        manifest = run.stage(STAGES[name]).manifest()
        if manifest is None:
            raise RunStateError(f"{run.path} has not finished its stage '{name}'", hint=again)
        differences = "\n".join(f"  - {line}" for line in changed_settings(manifest.made_from, made_from))
        raise RunStateError(
            f"{run.path} holds the stage '{name}' made from something else than its recipe says now:\n{differences}",
            hint=f"set that back; {again} says the same",
        )

    def _take_over(self, name: str, part: str, mark: str) -> Manifest | None:
        for run in self.reuse:
            other = StageFolder(run.stage(STAGES[name]).path / part)
            manifest = other.manifest()
            if manifest is not None and manifest.fingerprint == mark:
                own = StageFolder(self.path(name, part))
                own.take_over(other)
                return own.manifest()
        return None


def save_chosen(folder: StageFolder, started: Manifest, chosen: dict[str, Any]) -> None:
    """Write down what an engine chose by itself, to be used again on resume."""
    folder.save_started(started.model_copy(update={"chosen": {"chosen": chosen}}))
