"""The loop: which stage follows which.

`Pipeline.run` does the stages in order. Each `do_...` function says what its stage is made from, so that it is
skipped, resumed or refused rightly, and does the work through the functions of `lema_local.stages`:

    data.py         questions, sample, filter, build
    teaching.py     evolve, correct, augment
    arms.py         train, export
    evaluation.py   evaluate, report
    context.py      what they share
    rounds.py       which student goes on, and when it ends
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lema_local.errors import InputError
from lema_local.pipeline.arms import do_export, do_train, fit_arm
from lema_local.pipeline.context import Run
from lema_local.pipeline.data import do_build, do_filter, do_questions, do_sample
from lema_local.pipeline.evaluation import do_evaluate, do_report
from lema_local.pipeline.rounds import check_base, compare_rounds, end_without_mistakes, judge_round
from lema_local.pipeline.teaching import do_augment, do_correct, do_evolve
from lema_local.recipe import dump_recipe
from lema_local.records import Scores
from lema_local.rounds import RoundInput, read_rounds, round_folder, save_round, write_rounds
from lema_local.runs import write_text
from lema_local.stage_runner import OF_FIRST_ROUND, STAGES
from lema_local.training.base import TrainResult

ORDER = {
    "evolve": do_evolve,
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
BEFORE_CORRECTING = ("evolve", "questions", "sample")
AFTER_SAMPLING = tuple(name for name in ORDER if name not in BEFORE_CORRECTING)
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
        if until is not None and until not in OF_FIRST_ROUND:
            raise InputError(f"no stage {until!r}", hint=f"the stages are {', '.join(OF_FIRST_ROUND)}")
        if self.recipe.student.url and (until is None or list(STAGES).index(until) > BUILD):
            raise InputError(
                f"student.url: {self.recipe.student.model} is behind an endpoint, which takes no adapter: what is"
                " trained is evaluated on the student's own GGUF file",
                hint="name that file with --student, or stop before training with --until build",
            )
        with self.folder.lock():
            write_text(self.folder.recipe_path, dump_recipe(self.recipe))
            self.do_stages(tuple(ORDER), until)
            if until is None and self.number == 1 and self.recipe.rounds.count > 1:
                self._go_round_again()

    def do_stages(self, names: Sequence[str], until: str | None = None) -> None:
        """Do some stages, in order."""
        for name in names:
            ORDER[name](self)
            if name == until:
                return

    def _go_round_again(self) -> None:
        """Sample the best student of each round anew, until one of the reasons to stop holds."""
        records = [judge_round(self, [])]
        current: Pipeline = self
        while records[-1].stopped is None:
            write_rounds(self.folder.path, records)
            current = self._open_round(current.number + 1, records[-1].student)
            with current.folder.lock():
                write_text(current.folder.recipe_path, dump_recipe(self.recipe))
                current.do_stages(BEFORE_CORRECTING)
                ended = end_without_mistakes(current)
                if ended is None:
                    current.do_stages(AFTER_SAMPLING)
                records.append(ended or judge_round(current, records))
        write_rounds(self.folder.path, records)
        do_report(self)
        self.tell(records[-1].reason or "")

    def _open_round(self, number: int, arm: str | None) -> Pipeline:
        """Return a later round: the same recipe in a folder of its own, with what it starts from written down."""
        assert arm is not None
        folder = round_folder(self.folder, number)
        save_round(folder, RoundInput(number=number, arm=arm))
        following = Pipeline(
            self.recipe,
            folder,
            show=self.shown,
            tell=lambda line: self.tell(f"round {number}: {line}"),
            reuse=None,
        )
        # What has not changed since the round before is taken over: the base's answers, further rationales.
        others = [round_folder(one, number) for one in self.runner.reuse]
        following.runner.reuse = (*others, following.earlier[-1])
        check_base(following)
        return following

    def fit_arm(self, training: str, out_dir: Path) -> TrainResult:
        """Fit one arm's adapter from what stands in the run folder; returns at once where that has been done."""
        return fit_arm(self, training, out_dir)

    def describe_matching(self) -> str:
        """Say what is equal between the arms, and what is not."""
        from lema_local.stages.report import describe_arms

        return " ".join(describe_arms(self.folder))

    def describe_rounds(self) -> list[str]:
        """Say how the rounds' students compare on the test questions, and why no further round was done."""
        records = read_rounds(self.folder.path)
        last = [records[-1].reason] if records and records[-1].reason else []
        return [*(one.sentence for one in compare_rounds(self.folder)), *last]

    def read_scores(self) -> Scores | None:
        """Return what the evaluation found; None where it has not finished."""
        folder = self.folder.stage(STAGES["evaluate"])
        if folder.manifest() is None:
            return None
        return Scores.model_validate_json((folder.path / "scores.json").read_bytes())
