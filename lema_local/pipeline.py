"""The loop: which stage follows which, what each is made from, when it is skipped, resumed or refused.

Reads top to bottom: `Pipeline.run` calls the stages in order; each `do_...` method says what its stage is made from
and does the work through the functions of `lema_local.stages`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from lema_local.answers.grading import grade_path
from lema_local.datasets import split_validation
from lema_local.errors import InputError
from lema_local.grades import GRADES_FILE, read_grades
from lema_local.jsonl import write_records
from lema_local.prompts import CotPrompt, load_correction_prompt, load_cot_prompt
from lema_local.recipe import NOT_IN_RESULT, Recipe, dump_recipe, settings_in_result
from lema_local.records import (
    Correction,
    Prediction,
    Question,
    Rationale,
    ReasoningPath,
    Scores,
    TrainingExample,
)
from lema_local.resuming import ResumedFile
from lema_local.run_progress import ProgressFile, Show
from lema_local.runs import MadeFrom, Manifest, RunFolder, StageFolder, fingerprint, write_text
from lema_local.sampling import (
    SampleWatch,
    evaluation_settings,
    expected_paths,
    predict_into_file,
    sample_into_file,
)
from lema_local.stage_runner import STAGES, Outcome, StageRunner, Work, save_chosen
from lema_local.stages.build import (
    MATCHED,
    UNMATCHED,
    build_arms,
    build_held_out,
    count_examples,
    match_arms,
    remove_contaminated,
    write_arms,
)
from lema_local.stages.correct import path_key, select_mistakes
from lema_local.stages.evaluate import choose_best_on_test, score_predictions
from lema_local.stages.export import answer_greedily, check_exported, describe_divergence, write_merged
from lema_local.stages.filter import filter_corrections
from lema_local.stages.questions import check_disjoint, check_gold_answers
from lema_local.stages.sample import SampleSettings, greedy_settings
from lema_local.stages.train import train_arm
from lema_local.students import lend_counter
from lema_local.students.base import PromptStyle, Student
from lema_local.teachers.secrets import mask_secrets
from lema_local.teamwork import (
    account_for_fallback,
    augment_with_team,
    correct_with_team,
    count_by_teacher,
)
from lema_local.training.base import (
    FidelityResult,
    Trainer,
    TrainResult,
    TrainSettings,
    Validation,
)
from lema_local.wiring import (
    REFERENCE,
    LentStudents,
    base_identity,
    load_source,
    open_run_student,
    open_run_team,
    open_trainer,
    quantize_gguf,
    student_file,
    student_identity,
    student_path,
    teacher_identity,
    write_use_files,
)

LOOKS = "looks"
"""Folder of a training's kept checkpoints, and of their answers."""
SAMPLED = "sampled"
"""Folder of an arm's sampled answers, within its own."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the evaluation."""

    arm: str | None
    """Whose adapter; None: the base."""
    prompt: CotPrompt
    style: PromptStyle | Literal["auto"]


class Pipeline:
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
        progress = ProgressFile(folder.path, show, mask_secrets)
        self.show: Show = progress.show
        self.tell = tell
        self.runner = StageRunner(folder, tell=tell, reuse=reuse, progress=progress)

    def run(self, until: str | None = None) -> None:
        """Do every stage that is not done, in order.

        Args:
            until: The last stage to do; None: all.

        Raises:
            InputError: If there is no such stage.
            RunStateError: If the folder is in use, damaged, or from other settings.
            LemaError: As the stages raise; everything written so far is kept.
        """
        if until is not None and until not in STAGES:
            raise InputError(f"no stage {until!r}", hint=f"the stages are {', '.join(STAGES)}")
        with self.folder.lock():
            write_text(self.folder.recipe_path, dump_recipe(self.recipe))
            for name in STAGES:
                getattr(self, f"do_{name}")()
                if name == until:
                    return

    # --- 0 questions ----------------------------------------------------------------------------------------

    def do_questions(self) -> None:
        """Load, check and write the questions; none of the test questions is among those trained on."""
        blocks = self.recipe.questions
        train = load_source(blocks.train)
        if blocks.validation is not None:
            validation = load_source(blocks.validation)
        else:
            train, validation = split_validation(train, blocks.validation_count)
        test = [question for source in blocks.test for question in load_source(source)]
        self.questions = {"train": train, "validation": validation, "test": test}
        kept = check_disjoint(self.questions, allows_test=self.recipe.build.allow_test)
        if len(kept) < len(train):
            self.tell(f"{len(train) - len(kept)} training question(s) left out: validation holds their text")
        self.questions["train"] = kept
        made_from = {
            split: {"count": len(some), "sha256": hash_records(some)}
            for split, some in self.questions.items()
        }
        for split, facts in made_from.items():
            self.runner.marks[f"{split} questions"] = fingerprint(facts)

        def work(folder: StageFolder, _: Manifest) -> Outcome:
            check_gold_answers(chain(*self.questions.values()))
            for split, some in self.questions.items():
                write_records(folder.path / f"{split}.jsonl", some)
            return Outcome(counts={split: len(some) for split, some in self.questions.items()})

        self.runner.do("questions", made_from, work)

    # --- 1 sample -------------------------------------------------------------------------------------------

    def do_sample(self) -> None:
        """Sample reasoning paths of the training questions."""
        settings = self.recipe.sample
        prompt = load_cot_prompt(settings.prompt)
        blocks = (self.recipe.student, *self.recipe.other_students)
        others = [student_identity(block) for block in self.recipe.other_students]
        made_from = {
            "questions": self.runner.marks["train questions"],
            "student": self.student_identity,
            **({"other_students": others} if others else {}),
            "prompt": prompt.fingerprint,
            "sample": settings_in_result(self.recipe, "sample"),
        }

        def work(folder: StageFolder, started: Manifest) -> Outcome:
            asked = self.questions["train"]
            lent = LentStudents(
                blocks,
                chosen=started.chosen.get("chosen"),
                on_chosen=partial(save_chosen, folder, started),
                tell=self.tell,
            )
            with self.show("sample", expected_paths(len(asked), len(blocks), settings)) as update:
                sampled = sample_into_file(
                    folder.path / "paths.jsonl",
                    asked,
                    lent.openers,
                    prompt,
                    settings,
                    on_paths=SampleWatch(update),
                    on_refusal=lambda question, why: self.tell(f"{question.id} is left out: {why}"),
                )
            return Outcome(counts=sampled.summary.model_dump(), chosen=lent.described)

        self.runner.do("sample", made_from, work)

    # --- 2 correct, 3 augment -------------------------------------------------------------------------------

    def do_correct(self) -> None:
        """Let the teacher correct the mistakes."""
        settings = self.recipe.correct
        prompt = load_correction_prompt(settings.prompt)
        made_from = {
            "paths": self.runner.marks["sample"],
            "teacher": self.teacher_identity,
            "prompt": None if self._only_reference else prompt.fingerprint,
            "correct": settings_in_result(self.recipe, "correct"),
        }

        def work(folder: StageFolder, _: Manifest) -> Outcome:
            paths = self.runner.read("sample", "paths.jsonl", ReasoningPath)
            mistakes = list(select_mistakes(paths, self.questions["train"], settings))
            order = [path_key(path) for _, path in mistakes]
            with (
                ResumedFile(folder.path / "corrections.jsonl", Correction, path_key) as file,
                open_run_team(self.recipe, settings, self.folder) as team,
                self.show("correct", len(mistakes)) as update,
            ):
                left = [mistake for mistake in mistakes if path_key(mistake[1]) not in file.kept]
                verdicts = Counter[str](one.verdict for one in file.kept.values())
                for one in correct_with_team(left, team, prompt, settings):
                    file.append(one)
                    verdicts[one.verdict] += 1
                    update(verdicts.total(), **verdicts, spent=f"${team.spent_usd:.4f}")
                corrections = file.finish(order)
                counts = {"mistakes": len(mistakes), **count_verdicts(corrections), **team.count.as_dict()}
                if len(team.members) > 1 or team.fallback:
                    counts["by_teacher"] = count_by_teacher(corrections)
                if account := account_for_fallback(corrections, team):
                    counts["fallback"] = asdict(account)
                    self.tell(account.describe())
                return Outcome(counts=counts, cost_usd=team.spent_usd)

        self.runner.do("correct", made_from, work)

    def do_augment(self) -> None:
        """Let the teacher write further rationales, where the recipe asks for them."""
        settings = self.recipe.augment
        if settings is None:
            return
        prompt = load_cot_prompt(settings.prompt)
        made_from = {
            "questions": self.runner.marks["train questions"],
            "teacher": self.teacher_identity,
            "prompt": prompt.fingerprint,
            "augment": settings_in_result(self.recipe, "augment"),
        }

        def work(folder: StageFolder, _: Manifest) -> Outcome:
            wanted = self.questions["train"][: settings.limit]
            attempts = range(settings.rationales_per_question)
            order = [(question.id, attempt) for question in wanted for attempt in attempts]
            with (
                ResumedFile(folder.path / "rationales.jsonl", Rationale, rationale_key) as file,
                open_run_team(self.recipe, settings, self.folder) as team,
                self.show("augment", len(order)) as update,
            ):
                left = [
                    one for one in wanted if not all((one.id, attempt) in file.kept for attempt in attempts)
                ]
                before = len(order) - len(left) * len(attempts)
                for done, one in enumerate(augment_with_team(left, team, prompt, settings), before + 1):
                    file.append(one)
                    update(done, spent=f"${team.spent_usd:.4f}")
                counts = {**count_verdicts(file.finish(order)), **team.count.as_dict()}
                return Outcome(counts=counts, cost_usd=team.spent_usd)

        self.runner.do("augment", made_from, work)

    # --- 4 filter, 5 build ----------------------------------------------------------------------------------

    def do_filter(self) -> None:
        """Keep the corrections that may be learned from."""
        made_from: MadeFrom = {
            "corrections": self.runner.marks["correct"],
            "filter": settings_in_result(self.recipe, "filter"),
        }
        grades, settings = None, self.recipe.filter
        if settings.drop_graded:
            grades = read_grades(Path(settings.grades) if settings.grades else self.folder.path / GRADES_FILE)
            made_from["drop_graded"] = {"grades": settings.drop_graded, "given": fingerprint(grades)}

        def work(folder: StageFolder, _: Manifest) -> Outcome:
            corrections = self.runner.read("correct", "corrections.jsonl", Correction)
            filtered = filter_corrections(corrections, self.questions["train"], settings, grades)
            write_records(folder.path / "accepted.jsonl", filtered.accepted)
            write_records(folder.path / "rejected.jsonl", filtered.rejected)
            counts = {"accepted": len(filtered.accepted), "rejected": len(filtered.rejected)}
            reasons = Counter(one.reason or one.verdict for one in filtered.rejected)
            return Outcome(counts={**counts, "reasons": dict(reasons.most_common(20))})

        self.runner.do("filter", made_from, work)

    def do_build(self) -> None:
        """Build the training files of the arms."""
        settings = self.recipe.build
        made_from = {
            "questions": self.runner.marks["train questions"],
            "accepted": self.runner.marks["filter"],
            "rationales": self.runner.marks.get("augment"),
            "prompt": load_cot_prompt(settings.cot_prompt).fingerprint,
            "build": settings_in_result(self.recipe, "build"),
            "test questions": self.runner.marks["test questions"],
            **({"tokenizer": self.student_identity} if settings.match == "tokens" else {}),
            **({"arms": self.recipe.train.arms} if UNMATCHED in self.recipe.train.arms else {}),
        }

        def work(folder: StageFolder, _: Manifest) -> Outcome:
            accepted = self.runner.read("filter", "accepted.jsonl", Correction)
            has_rationales = self.recipe.augment is not None
            rationales = self.runner.read("augment", "rationales.jsonl", Rationale) if has_rationales else []
            names = dict.fromkeys((*MATCHED, *self.recipe.train.arms))
            built = build_arms(self.questions["train"], accepted, rationales, settings, tuple(names))
            arms, certificates = remove_contaminated(
                built, self.questions["train"], self.questions["test"], settings
            )
            with self._measure() as measure:
                arms = match_arms(arms, settings, measure or len)
                counts = count_examples(arms, measure)
            write_arms(folder.path, arms, certificates)
            for certificate in certificates.values():
                self.tell(certificate.sentence)
            return Outcome(counts=counts)

        self.runner.do("build", made_from, work)

    @contextmanager
    def _measure(self) -> Iterator[Callable[[str], int] | None]:
        """Lend what counts trained tokens, where they are to be matched."""
        if self.recipe.build.match != "tokens":
            yield None
            return
        with lend_counter(student_file(self.recipe.student)) as measure:
            yield measure

    # --- 6 train, 7 export ----------------------------------------------------------------------------------

    def do_train(self) -> None:
        """Fit one adapter per arm, all with as many optimizer steps."""

        def made_from(training: str) -> MadeFrom:
            settings = self._train_settings(training)
            own = settings.model_dump(mode="json", exclude=set(NOT_IN_RESULT["train"]) - {"arms"})
            return {
                "examples": self.runner.marks["build"],
                "base": self.base_identity,
                "arm": self.trainings[training][0],
                "train": own,
                "held_out": self.runner.marks["validation questions"]
                if settings.validate_every_steps
                else None,
            }

        def fit(training: str) -> Work:
            def work(folder: StageFolder, _: Manifest) -> Outcome:
                return Outcome(counts=to_plain(self.fit_arm(training, folder.path)))

            return work

        self._do_arms("train", made_from, fit)

    def fit_arm(self, training: str, out_dir: Path) -> TrainResult:
        """Fit one arm's adapter from what stands in the run folder; returns at once where that has been done."""
        arm, _ = self.trainings[training]
        examples = self.runner.read("build", f"{arm}.jsonl", TrainingExample)
        settings = self._train_settings(training)
        with self.show(f"train {training}") as update, self._student() as student:
            return train_arm(
                examples,
                self.trainer,
                settings,
                out_dir,
                lambda step, steps, values: update(step, steps, **{k: f"{v:.3g}" for k, v in values.items()}),
                student,
                validation=self._validation(settings),
                tell=self.tell,
            )

    def _validation(self, settings: TrainSettings) -> Validation | None:
        """The held-out questions as examples, and what lets an adapter answer them."""
        questions = self.runner.read("questions", "validation.jsonl", Question)
        if not questions:
            return None
        prompt = load_cot_prompt(self.recipe.build.cot_prompt)
        style = self.recipe.train.prompt_style

        def answer(adapter_dir: Path) -> float:
            with TemporaryDirectory() as folder:
                gguf = Path(folder) / "adapter.gguf"
                self.trainer.export(adapter_dir, gguf)
                paths_path, greedy = (
                    Path(folder) / "paths.jsonl",
                    greedy_settings(self.recipe.evaluate.max_tokens),
                )
                lent = [lambda: self._student(adapter=gguf, style=style)]
                sampled = sample_into_file(paths_path, questions, lent, prompt, greedy)
            return sum(path.verdict == "correct" for path in sampled.paths) / len(questions)

        examples = build_held_out(questions, self.recipe.build)
        if not examples:
            self.tell(
                "The held-out questions have no rationales to look at: the last adapter is the one kept"
            )
            return None
        return Validation(examples, answer if settings.validate_answers_every else None)

    def do_export(self) -> None:
        """Bring each adapter into GGUF, and see that it is the same student there."""
        settings = self.recipe.export

        def made_from(arm: str) -> MadeFrom:
            return {"adapter": self.runner.marks[f"train {arm}"], "export": settings.model_dump(mode="json")}

        def export_arm(arm: str) -> Work:
            def work(folder: StageFolder, _: Manifest) -> Outcome:
                adapter_dir = self.runner.path("train") / arm / "adapter"
                gguf = folder.path / "adapter.gguf"
                exported = self.trainer.export(adapter_dir, gguf)
                merged = self._merge(adapter_dir, folder.path)
                fidelity = self._compare(adapter_dir, gguf, merged)
                self._judge_fidelity(arm, fidelity)
                self._write_use_files(arm, folder.path, gguf, merged)
                counts = {"export": to_plain(exported), "fidelity": to_plain(fidelity)}
                return Outcome(counts={**counts, "right": self._count_right(fidelity)})

            return work

        self._do_arms("export", made_from, export_arm)

    # --- 8 evaluate, 9 report -------------------------------------------------------------------------------

    def do_evaluate(self) -> None:
        """Let the base and each arm answer the test questions, and compare them."""
        settings = self.recipe.evaluate
        entries = self._entries()

        def made_from(name: str) -> MadeFrom:
            entry = entries[name]
            return {
                "questions": self.runner.marks["test questions"],
                "student": self.runner.marks[f"export {entry.arm}"] if entry.arm else self.student_identity,
                "prompt": entry.prompt.fingerprint,
                "style": entry.style,
                "max_tokens": settings.max_tokens,
            }

        def evaluate_entry(name: str, answers: SampleSettings) -> Work:
            def work(folder: StageFolder, started: Manifest) -> Outcome:
                return self._evaluate_entry(name, entries[name], answers, folder, started)

            return work

        greedy, drawn = evaluation_settings(settings)
        done = [
            self.runner.do("evaluate", made_from(name), evaluate_entry(name, greedy), part=name)
            for name in entries
        ]
        parts = {name: self.runner.marks[f"evaluate {name}"] for name in entries}
        for name in entries if drawn else ():
            assert drawn is not None
            sampled_from = made_from(name) | {"sample": drawn.model_dump(mode="json")}
            part = f"{name}/{SAMPLED}"
            done.append(self.runner.do("evaluate", sampled_from, evaluate_entry(name, drawn), part=part))
            parts[part] = self.runner.marks[f"evaluate {part}"]

        looks = self._evaluate_looks(greedy)
        parts |= {
            part: self.runner.marks[f"evaluate {part}"] for some in looks.values() for part in some.values()
        }

        def compare(folder: StageFolder, _: Manifest) -> Outcome:
            predictions = {name: self._read_predictions(name) for name in entries}
            prompts = {name: entry.prompt.name for name, entry in entries.items()}
            sampled = {name: self._read_predictions(f"{name}/{SAMPLED}") for name in entries if drawn}
            scores = score_predictions(
                self.questions["test"],
                predictions,
                prompts,
                settings,
                sampled=sampled,
                by_seed=self._rows_by_seed(),
            )
            best = [
                one
                for name, by_step in looks.items()
                for one in choose_best_on_test(
                    name,
                    self.questions["test"],
                    {step: self._read_predictions(part) for step, part in by_step.items()},
                )
            ]
            scores = scores.model_copy(update={"paper_style": best})
            write_text(folder.path / "scores.json", scores.model_dump_json(indent=2) + "\n")
            counts = {f"{one.arm} {one.dataset}": one.share.correct for one in scores.arms}
            return Outcome(counts, seconds=sum(one.seconds for one in done))

        self.runner.do(
            "evaluate", {"arms": parts, "evaluate": settings_in_result(self.recipe, "evaluate")}, compare
        )

    def do_report(self) -> None:
        """Write the report; it is cheap and has no fingerprint of its own: a changed setting writes it anew."""
        from lema_local.stages.report import read_run, write_model_card, write_report

        out_dir = self.runner.path("report")
        found = read_run(self.folder)
        write_report(found, out_dir)
        for arm in self.recipe.train.arms:
            adapter_dir = self.runner.path("train", arm, "adapter")
            if adapter_dir.is_dir():
                write_model_card(adapter_dir, run=found, arm=arm)
        self.tell(f"report: {out_dir / 'report.html'}")

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

    # --- parts ----------------------------------------------------------------------------------------------

    def _do_arms(self, name: str, made_from: Callable[[str], MadeFrom], work: Callable[[str], Work]) -> None:
        """Do a stage once per arm, then say in the stage's own manifest what came of each."""
        arms = list(self.trainings)
        done = {arm: self.runner.do(name, made_from(arm), work(arm), part=arm) for arm in arms}
        marks = {arm: self.runner.marks[f"{name} {arm}"] for arm in arms}
        whole = Outcome(
            {arm: one.counts for arm, one in done.items()}, seconds=sum(one.seconds for one in done.values())
        )
        self.runner.do(name, {"arms": marks}, lambda *_: whole)

    @cached_property
    def student_identity(self) -> dict[str, Any]:
        """What names the student in a fingerprint."""
        return student_identity(self.recipe.student)

    @cached_property
    def teacher_identity(self) -> dict[str, Any]:
        """What names the teacher in a fingerprint."""
        return teacher_identity(self.recipe.teacher)

    @property
    def _only_reference(self) -> bool:
        """Whether no teacher reads the prompt."""
        block = self.recipe.teacher
        return all(one.model == REFERENCE for one in (*block.members, *filter(None, [block.fallback])))

    @cached_property
    def base_identity(self) -> dict[str, Any]:
        """What names the model that is trained."""
        return base_identity(self.recipe.student)

    @cached_property
    def trainer(self) -> Trainer:
        """The trainer for the student's base."""
        return open_trainer(self.recipe.student)

    @contextmanager
    def _student(
        self,
        *,
        adapter: Path | None = None,
        style: PromptStyle | Literal["auto"] | None = None,
        folder: StageFolder | None = None,
        started: Manifest | None = None,
    ) -> Iterator[Student]:
        """Lend the student; what its engine chooses is written down at once, and used again on resume."""
        block = self.recipe.student
        student = open_run_student(
            block if style is None else block.model_copy(update={"prompt_style": style}),
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

    def _entries(self) -> dict[str, Entry]:
        """What is evaluated, by the name of its row: the base by its prompts, then the arms by theirs."""
        zero_shot = load_cot_prompt(self.recipe.build.cot_prompt)
        few_shot = load_cot_prompt(self.recipe.sample.prompt)
        style = self.recipe.train.prompt_style
        entries = {"base": Entry(None, few_shot, self.recipe.student.prompt_style)}
        if self.recipe.evaluate.base_zero_shot and few_shot.fingerprint != zero_shot.fingerprint:
            entries["base_zero_shot"] = Entry(None, zero_shot, style)
        return entries | {name: Entry(name, zero_shot, style) for name in self.trainings}

    def _evaluate_looks(self, settings: SampleSettings) -> dict[str, dict[int, str]]:
        """Let every checkpoint that was kept answer the test questions; return by training and step its part."""
        if not self.recipe.train.keep_looks:
            return {}
        prompt, style = load_cot_prompt(self.recipe.build.cot_prompt), self.recipe.train.prompt_style
        found: dict[str, dict[int, str]] = {}
        for name in self.trainings:
            root = self.runner.path("train") / name / LOOKS
            for step in sorted(int(path.name.removeprefix("step-")) for path in root.glob("step-*")):
                part = f"{name}/{LOOKS}/{step}"
                made_from = {
                    "questions": self.runner.marks["test questions"],
                    "student": self.runner.marks[f"train {name}"],
                    "step": step,
                    "prompt": prompt.fingerprint,
                    "style": style,
                    "max_tokens": settings.max_tokens,
                }
                work = self._look_work(name, root / f"step-{step}", Entry(name, prompt, style), settings)
                self.runner.do("evaluate", made_from, work, part=part)
                found.setdefault(name, {})[step] = part
        if not found:
            self.tell("No checkpoints were kept: without held-out questions there are no looks to keep")
        return found

    def _look_work(self, name: str, adapter_dir: Path, entry: Entry, settings: SampleSettings) -> Work:
        """Return what lets one kept checkpoint answer the test questions."""

        def work(folder: StageFolder, started: Manifest) -> Outcome:
            with TemporaryDirectory() as temporary:
                gguf = Path(temporary) / "adapter.gguf"
                self.trainer.export(adapter_dir, gguf)
                return self._evaluate_entry(name, entry, settings, folder, started, adapter=gguf)

        return work

    def _evaluate_entry(
        self,
        name: str,
        entry: Entry,
        settings: SampleSettings,
        folder: StageFolder,
        started: Manifest,
        *,
        adapter: Path | None = None,
    ) -> Outcome:
        """Let one arm answer all test questions."""
        asked = self.questions["test"]
        if adapter is None and entry.arm:
            adapter = self.runner.path("export") / entry.arm / "adapter.gguf"
        verdicts = Counter[str]()
        title = f"evaluate {name}" + (" (sampled)" if settings.temperature else "")
        with (
            self._student(adapter=adapter, style=entry.style, folder=folder, started=started) as student,
            self.show(title, len(asked) * settings.samples_per_question) as update,
        ):

            def note(paths: Sequence[ReasoningPath]) -> None:
                verdicts.update(path.verdict for path in paths)
                update(verdicts.total(), correct=verdicts["correct"])

            for dataset in dict.fromkeys(question.dataset for question in asked):
                predict_into_file(
                    folder.path / f"{dataset}.jsonl",
                    [question for question in asked if question.dataset == dataset],
                    student,
                    entry.prompt,
                    settings,
                    arm=name,
                    on_paths=note,
                    on_refusal=lambda question, why: self.tell(f"{question.id} is left out: {why}"),
                )
            return Outcome(counts=dict(verdicts), chosen=student.describe())

    def _read_predictions(self, name: str) -> list[Prediction]:
        datasets = dict.fromkeys(question.dataset for question in self.questions["test"])
        return [
            one
            for dataset in datasets
            for one in self.runner.read("evaluate", f"{name}/{dataset}.jsonl", Prediction)
        ]

    @cached_property
    def trainings(self) -> dict[str, tuple[str, int]]:
        """Each training's name and (arm, seed): the arms with `train.seed`, then each further seed's."""
        block = self.recipe.train
        further = [seed for seed in dict.fromkeys(block.seeds) if seed != block.seed]
        return {arm: (str(arm), block.seed) for arm in block.arms} | {
            f"{arm}-seed-{seed}": (str(arm), seed) for seed in further for arm in block.arms
        }

    def _rows_by_seed(self) -> dict[str, dict[int, str]]:
        rows: dict[str, dict[int, str]] = {}
        for name, (arm, seed) in self.trainings.items():
            rows.setdefault(arm, {})[seed] = name
        return rows

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Examples by arm, of every training file."""
        arms = dict.fromkeys((*MATCHED, *self.recipe.train.arms))
        return {arm: len(self.runner.read("build", f"{arm}.jsonl", TrainingExample)) for arm in arms}

    def _train_settings(self, training: str) -> TrainSettings:
        """The recipe's, with the number of optimizer steps fixed: equal for all arms, whatever their size."""
        exclude = {"arms", "seeds"}
        settings = TrainSettings.model_validate(self.recipe.train.model_dump(exclude=exclude))
        arm, seed = self.trainings[training]
        sizes = self._sizes
        by_length = self.recipe.build.match in ("tokens", "characters")
        # Where arms are equally long a pass is as many steps in each: shorter examples are more of them a step.
        reference = (
            min(sizes[one] for one in MATCHED)
            if by_length
            else max(sizes[one] for one in self.recipe.train.arms)
        )
        steps = settings.max_steps or max(1, math.ceil(settings.epochs * reference / settings.batch_size))
        scale = sizes[arm] / reference if by_length and arm in MATCHED else 1.0
        batch = max(1, round(settings.batch_size * scale))
        return settings.model_copy(update={"max_steps": steps, "batch_size": batch, "seed": seed})

    def _fidelity_prompts(self, count: int) -> list[str]:
        """The first test questions, as the arms are asked them."""
        prompt = load_cot_prompt(self.recipe.build.cot_prompt)
        texts = (prompt.render(question, "completion") for question in self.questions["test"][:count])
        return [text for text in texts if isinstance(text, str)]

    def _merge(self, adapter_dir: Path, out_dir: Path) -> dict[str, Path]:
        """Write the merged models that the recipe asks for; return them by type."""
        merged: dict[str, Path] = {}
        for kind in self.recipe.export.merge:
            merged[kind] = out_dir / f"merged-{kind}.gguf"
            write_merged(
                partial(self.trainer.merge, adapter_dir), partial(quantize_gguf, kind=kind), merged[kind]
            )
        return merged

    def _compare(self, adapter_dir: Path, gguf: Path, merged: dict[str, Path]) -> FidelityResult:
        """Compare the trained student with its exported forms."""
        settings, style = self.recipe.export, self.recipe.train.prompt_style

        def answer(path: Path, prompts: Sequence[str], max_tokens: int) -> Sequence[str]:
            alone = self.recipe.student.model_copy(
                update={"model": str(path), "url": None, "prompt_style": style}
            )
            student = open_run_student(alone)
            try:
                return answer_greedily(student)(prompts, max_tokens)
            finally:
                student.close()

        with self._student(style=style) as bare, self._student(adapter=gguf, style=style) as adapted:
            return check_exported(
                self.trainer,
                adapter_dir,
                self._fidelity_prompts(settings.fidelity_prompts),
                adapted=adapted,
                bare=bare,
                max_tokens=settings.fidelity_max_tokens,
                others={f"merged {kind}": partial(answer, path) for kind, path in merged.items()},
            )

    def _count_right(self, fidelity: FidelityResult) -> dict[str, int]:
        """Return how many of the compared prompts each form of the student answered correctly."""
        asked = self.questions["test"]
        return {
            name: sum(
                grade_path(text, question).verdict == "correct"
                for text, question in zip(texts, asked, strict=False)
            )
            for name, texts in fidelity.answers.items()
        }

    def _write_use_files(self, arm: str, folder: Path, gguf: Path, merged: dict[str, Path]) -> None:
        """Write what Ollama and llama-server need: for the adapter, and for each merged model."""
        base = self.recipe.student
        prompt, style = load_cot_prompt(self.recipe.build.cot_prompt), self.recipe.train.prompt_style
        name = f"{self.recipe.name}-{arm}".lower()
        write_use_files(folder, student_path(base), gguf, prompt, style, name=name)
        for kind, path in merged.items():
            write_use_files(folder, path, None, prompt, style, name=f"{name}-{kind}", prefix=f"{path.stem}.")

    def _judge_fidelity(self, arm: str, fidelity: FidelityResult) -> None:
        """Say plainly where the exported student is not the trained one."""
        if not fidelity.is_same_student:
            far = f"; {describe_divergence(fidelity.divergence)}" if fidelity.divergence else ""
            self.tell(
                f"Warning: {arm}: {fidelity.prompts - fidelity.greedy_equal - fidelity.near_ties} of"
                f" {fidelity.prompts} greedy answers of the exported adapter differ from the trained one's"
                f" beyond near-ties{far}; see the report"
            )
        if not fidelity.is_adapter_noticed:
            self.tell(f"Warning: {arm}: leaving the adapter out changes none of {fidelity.prompts} answers")


def hash_records(records: Sequence[BaseModel]) -> str:
    """Return a hash of records, in their order."""
    return fingerprint({"records": [record.model_dump(mode="json") for record in records]})


def count_verdicts(records: Sequence[Correction] | Sequence[Rationale]) -> dict[str, int]:
    """Return how many were accepted, rejected and failed."""
    found = Counter(record.verdict for record in records)
    return {verdict: found[verdict] for verdict in ("accepted", "rejected", "failed")}


def rationale_key(rationale: Rationale) -> tuple[str, int]:
    """Return what names a rationale."""
    return rationale.question_id, rationale.attempt


def to_plain(result: Any) -> dict[str, Any]:
    """Return a dataclass as what JSON can hold."""
    plain: dict[str, Any] = TypeAdapter(type(result)).dump_python(result, mode="json")
    return plain
