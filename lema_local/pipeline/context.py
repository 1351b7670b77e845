"""What the wiring of every stage shares: one recipe in one run folder, and the student that is lent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lema_local.formats import record_of
from lema_local.recipe import Recipe
from lema_local.records import Question
from lema_local.rounds import read_round, round_folder
from lema_local.run_progress import ProgressFile, Show
from lema_local.runs import Manifest, RunFolder, StageFolder
from lema_local.stage_runner import StageRunner, save_chosen
from lema_local.stages.build import ALWAYS
from lema_local.students.base import PromptStyle, Student
from lema_local.teachers.secrets import mask_secrets
from lema_local.training.base import ExportResult, Trainer
from lema_local.wiring import (
    base_identity,
    open_run_student,
    open_trainer,
    student_identity,
    teacher_identity,
    with_exported,
)

EVOLVED_QUESTIONS = "questions.jsonl"
"""Of the stage `evolve`: the new questions that were accepted."""


class Run:
    """One recipe in one run folder.

    Args:
        recipe: What to do.
        folder: Where; created if missing.
        show: Shows progress.
        tell: Says one line to the user.
        reuse: Another run, whose finished stages are taken over where their fingerprints match.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        *,
        show: Show,
        tell: Callable[[str], None],
        reuse: RunFolder | None,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.shown = show
        progress = ProgressFile(folder.path, show, mask_secrets)
        self.show: Show = progress.show
        self.tell = tell
        self.runner = StageRunner(folder, tell=tell, reuse=reuse, progress=progress)
        self.questions: dict[str, list[Question]] = {}
        """By split; filled by the first stage."""
        self.round = read_round(folder)
        """What a later round starts from; None in a run's own folder, which is the first round."""

    @property
    def number(self) -> int:
        """Of the round, 1-based."""
        return self.round.number if self.round else 1

    @property
    def is_given_corrections(self) -> bool:
        """Whether this round's corrections were made elsewhere: nothing is sampled or asked."""
        return self.recipe.correct.source is not None and self.round is None

    @property
    def root(self) -> RunFolder:
        """The folder of the whole run: its budget holds over all rounds."""
        return RunFolder(self.folder.path.parent) if self.round else self.folder

    @property
    def earlier(self) -> list[RunFolder]:
        """The rounds before this one, the first one first."""
        return [round_folder(self.root, number) for number in range(1, self.number)]

    @cached_property
    def student_identity(self) -> dict[str, Any]:
        """What names the student in a fingerprint."""
        return student_identity(self.recipe.student)

    @cached_property
    def teacher_identity(self) -> dict[str, Any]:
        """What names the teacher in a fingerprint."""
        return teacher_identity(self.recipe.teacher)

    @cached_property
    def base_identity(self) -> dict[str, Any]:
        """What names the model that is trained."""
        return base_identity(self.recipe.student)

    @cached_property
    def trainer(self) -> Trainer:
        """The trainer for the student's base."""
        return open_trainer(self.recipe.student)

    @cached_property
    def trainings(self) -> dict[str, tuple[str, int]]:
        """Each training's name and (arm, seed): the arms with `train.seed`, then each further seed's."""
        block = self.recipe.train
        further = [seed for seed in dict.fromkeys(block.seeds) if seed != block.seed]
        return {arm: (str(arm), block.seed) for arm in block.arms} | {
            f"{arm}-seed-{seed}": (str(arm), seed) for seed in further for arm in block.arms
        }

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Examples by arm, of every training file."""
        arms = dict.fromkeys((*ALWAYS, *self.recipe.train.arms))
        return {arm: len(self.runner.read("build", f"{arm}.jsonl", record_of(arm))) for arm in arms}

    def trained_dir(self, training: str) -> Path:
        """Return where a training leaves its adapter, or its whole model."""
        return self.runner.path("train") / training / self.recipe.train.outcome

    def export(self, trained_dir: Path, folder: Path) -> tuple[Path, ExportResult]:
        """Write what was trained as GGUF into `folder`; return it, by the name that says how it is run."""
        gguf = folder / f"{self.recipe.train.outcome}.gguf"
        return gguf, self.trainer.export(trained_dir, gguf)

    @contextmanager
    def lend_student(
        self,
        *,
        exported: Path | None = None,
        style: PromptStyle | Literal["auto"] | None = None,
        folder: StageFolder | None = None,
        started: Manifest | None = None,
        decodes: bool = True,
    ) -> Iterator[Student]:
        """Lend the student, or an exported one; what its engine chooses is written down, and used again on resume.

        Without `decodes` only its tokens are asked for, and the card is left to others.
        """
        block, adapter = with_exported(self.recipe.student, exported)
        changed = ({} if style is None else {"prompt_style": style}) | ({} if decodes else {"gpu_layers": 0})
        student = open_run_student(
            block.model_copy(update=changed),
            adapter=adapter,
            chosen=started.chosen.get("chosen") if started else None,
            on_chosen=None
            if folder is None or started is None
            else lambda chosen: save_chosen(folder, started, chosen),
        )
        try:
            yield student
        finally:
            student.close()
