"""The loop: which stage follows which.

`Pipeline.run` does the stages in order. Each `do_...` function says what its stage is made from, so that it is
skipped, resumed or refused rightly, and does the work through the functions of `lema_local.stages`:

    data.py         questions, sample, filter, build
    teaching.py     correct, augment
    arms.py         train, export
    evaluation.py   evaluate, report
    context.py      what they share
"""

from __future__ import annotations

from pathlib import Path

from lema_local.errors import InputError
from lema_local.pipeline.arms import do_export, do_train, fit_arm
from lema_local.pipeline.context import Run
from lema_local.pipeline.data import do_build, do_filter, do_questions, do_sample
from lema_local.pipeline.evaluation import do_evaluate, do_report
from lema_local.pipeline.teaching import do_augment, do_correct
from lema_local.recipe import dump_recipe
from lema_local.records import Scores
from lema_local.runs import write_text
from lema_local.stage_runner import STAGES
from lema_local.training.base import TrainResult

ORDER = {
    "questions": do_questions,
    "sample": do_sample,
    "correct": do_correct,
    "augment": do_augment,
    "filter": do_filter,
    "build": do_build,
    "train": do_train,
    "export": do_export,
    "evaluate": do_evaluate,
    "report": do_report,
}
"""Stage: what does it."""
BUILD = list(STAGES).index("build")
"""The last stage that an endpoint's student is enough for."""


class Pipeline(Run):
    """One recipe in one run folder, stage by stage."""

    def run(self, until: str | None = None) -> None:
        """Do every stage that is not done, in order.

        Args:
            until: The last stage to do; None: all.

        Raises:
            InputError: If there is no such stage, or the student cannot be trained.
            RunStateError: If the folder is in use, damaged, or from other settings.
            LemaError: As the stages raise; everything written so far is kept.
        """
        if until is not None and until not in STAGES:
            raise InputError(f"no stage {until!r}", hint=f"the stages are {', '.join(STAGES)}")
        if self.recipe.student.url and (until is None or list(STAGES).index(until) > BUILD):
            raise InputError(
                f"student.url: {self.recipe.student.model} is behind an endpoint, which takes no adapter: what is"
                " trained is evaluated on the student's own GGUF file",
                hint="name that file with --student, or stop before training with --until build",
            )
        with self.folder.lock():
            write_text(self.folder.recipe_path, dump_recipe(self.recipe))
            for name, do in ORDER.items():
                do(self)
                if name == until:
                    return

    def fit_arm(self, training: str, out_dir: Path) -> TrainResult:
        """Fit one arm's adapter from what stands in the run folder; returns at once where that has been done."""
        return fit_arm(self, training, out_dir)

    def describe_matching(self) -> str:
        """Say what is equal between the arms, and what is not."""
        from lema_local.stages.report import describe_arms

        return " ".join(describe_arms(self.folder))

    def read_scores(self) -> Scores | None:
        """Return what the evaluation found; None where it has not finished."""
        folder = self.folder.stage(STAGES["evaluate"])
        if folder.manifest() is None:
            return None
        return Scores.model_validate_json((folder.path / "scores.json").read_bytes())
