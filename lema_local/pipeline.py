"""The loop: which stage follows which, what each is made from, when it is skipped, resumed or refused.

Reads top to bottom: `Pipeline.run` calls the stages in order; each method below it says what its stage is made from
and does the work through the functions of `lema_local.stages`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from lema_local.errors import InputError, RunStateError
from lema_local.jsonl import AppendFile, finish, read_partial, read_records, write_records
from lema_local.prompts import load_correction_prompt, load_cot_prompt
from lema_local.recipe import Recipe, dump_recipe, settings_in_result
from lema_local.records import (
    Correction,
    Prediction,
    Question,
    Rationale,
    ReasoningPath,
    Scores,
    TrainingExample,
)
from lema_local.runs import (
    MadeFrom,
    Manifest,
    RunFolder,
    StageFolder,
    changed_settings,
    fingerprint,
    hash_file,
    write_text,
)
from lema_local.wiring import load_source, open_desk, open_run_student, open_trainer, student_identity

T = TypeVar("T", bound=BaseModel)

STAGES = {
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
REPORT_FOLDER = STAGES["report"]


class Update(Protocol):
    """How a stage tells how far it is."""

    def __call__(self, done: float, total: float | None = None, **values: object) -> None:
        """Say how much is done in all, and values to show beside it."""


class Show(Protocol):
    """How progress is shown: `lema_local.cli.progress.progress_bar`."""

    def __call__(self, title: str, total: float | None = None) -> AbstractContextManager[Update]:
        """Show one stage's progress while the block runs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage tells its manifest when it is done."""

    counts: dict[str, Any] = field(default_factory=dict)
    cost_usd: float = 0.0
    chosen: dict[str, Any] = field(default_factory=dict)


Work = Callable[[StageFolder, Manifest], Outcome]


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
        self, recipe: Recipe, folder: RunFolder, *, show: Show, tell: Callable[[str], None], reuse: RunFolder | None
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.show = show
        self.tell = tell
        self.reuse = reuse
        self.marks: dict[str, str] = {}
        """Fingerprints of the stages done so far, by folder."""

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

    # --- a stage, whatever it does --------------------------------------------------------------------------

    def _do(self, name: str, made_from: MadeFrom, work: Work, *, part: str = "") -> Manifest:
        """Skip, take over, resume, refuse, or do a stage (or one arm's part of it)."""
        label = f"{name} {part}".strip()
        folder = StageFolder(self.folder.stage(STAGES[name]).path / part)
        mark = fingerprint(made_from)
        self.marks[label] = mark
        finished = folder.manifest()
        started = finished or folder.started()
        if started is not None and started.fingerprint != mark:
            self._refuse(label, folder, started, made_from)
        if finished is not None:
            self.tell(f"{label}: finished before")
            return finished
        if self.reuse is not None and (taken := self._take_over(name, part, mark)) is not None:
            self.tell(f"{label}: taken over from {taken.reused_from}")
            return taken
        if started is None:
            started = Manifest(stage=label, fingerprint=mark, made_from=made_from)
            folder.save_started(started)
        else:
            self.tell(f"{label}: going on")
        return self._work(label, folder, started, work)

    def _work(self, label: str, folder: StageFolder, started: Manifest, work: Work) -> Manifest:
        began = time.monotonic()
        try:
            outcome = work(folder, started)
        except BaseException:
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
                "seconds": round(started.seconds + time.monotonic() - began, 3),
            }
        )
        folder.save_manifest(manifest)
        self.tell(f"{label}: done in {manifest.seconds:.0f} s")
        return manifest

    def _refuse(self, label: str, folder: StageFolder, started: Manifest, made_from: MadeFrom) -> None:
        differences = "\n".join(f"  - {line}" for line in changed_settings(started.made_from, made_from))
        raise RunStateError(
            f"{self.folder.path} holds the stage '{label}' made from other settings:\n{differences}",
            hint=f"take another folder with --run NEW --reuse {self.folder.path} (what fits is taken over), set the"
            f" settings back, or delete {folder.path} and the stages after it",
        )

    def _take_over(self, name: str, part: str, mark: str) -> Manifest | None:
        assert self.reuse is not None
        other = StageFolder(self.reuse.stage(STAGES[name]).path / part)
        manifest = other.manifest()
        if manifest is None or manifest.fingerprint != mark:
            return None
        own = StageFolder(self.folder.stage(STAGES[name]).path / part)
        own.take_over(other)
        return own.manifest()

    def _append(self, partial: Path, records: Iterable[BaseModel], note: Callable[[BaseModel], None]) -> None:
        """Append records as they come; each is on disk before the next is made."""
        with AppendFile(partial) as file:
            for record in records:
                file.append(record)
                note(record)

    def _read(self, stage: str, file: str, kind: type[T]) -> list[T]:
        return read_records(self.folder.stage(STAGES[stage]).path / file, kind)

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
        check_disjoint(self.questions, allows_test=self.recipe.build.allow_test)
        made_from = {
            split: {"count": len(some), "sha256": hash_records(some)} for split, some in self.questions.items()
        }
        for split, facts in made_from.items():
            self.marks[f"{split} questions"] = fingerprint(facts)

        def work(folder: StageFolder, _: Manifest) -> Outcome:
            check_gold_answers(chain(*self.questions.values()))
            for split, some in self.questions.items():
                write_records(folder.path / f"{split}.jsonl", some)
            return Outcome(counts={split: len(some) for split, some in self.questions.items()})

        self._do("questions", made_from, work)

    # --- 1 sample -------------------------------------------------------------------------------------------

    def do_sample(self) -> None:
        """Sample reasoning paths of the training questions."""
        settings = self.recipe.sample
        prompt = load_cot_prompt(settings.prompt)
        made_from = {
            "questions": self.marks["train questions"],
            "student": self.student_identity,
            "prompt": prompt.fingerprint,
            "sample": settings_in_result(self.recipe, "sample"),
        }

        def work(folder: StageFolder, started: Manifest) -> Outcome:
            path = folder.path / "paths.jsonl"
            with self._student(folder, started) as student:
                self._sample_into(path, self.questions["train"], student, prompt, settings, "sample")
                chosen = student.describe()
            summary = summarize_paths(read_records(path, ReasoningPath))
            return Outcome(counts=asdict(summary), chosen=chosen)

        self._do("sample", made_from, work)

    # --- 2 correct, 3 augment -------------------------------------------------------------------------------

    def do_correct(self) -> None:
        """Let the teacher correct the mistakes."""
        settings = self.recipe.correct
        prompt = load_correction_prompt(settings.prompt)
        made_from = {
            "paths": self.marks["sample"],
            "teacher": self.teacher_identity,
            "prompt": None if self.teacher_identity["reads_gold"] else prompt.fingerprint,
            "correct": settings_in_result(self.recipe, "correct"),
        }

        def work(folder: StageFolder, _: Manifest) -> Outcome:
            path = folder.path / "corrections.jsonl"
            partial = path.with_name(path.name + ".partial")
            paths = self._read("sample", "paths.jsonl", ReasoningPath)
            mistakes = list(select_mistakes(paths, self.questions["train"], settings))
            kept = [one for one in read_partial(partial, Correction) if one.verdict != "failed"]
            done = {path_key(one) for one in kept}
            left = [mistake for mistake in mistakes if path_key(mistake[1]) not in done]
            with open_run_desk(self.recipe, settings, self.folder) as desk, self._bar("correct", len(mistakes)) as bar:
                records = correct_mistakes(left, desk, prompt_for(desk, prompt), settings)
                tally = Counter(one.verdict for one in kept)
                for record in self._append(partial, records):
                    tally[record.verdict] += 1
                    bar(tally.total(), **tally, spent=f"${desk.budget.spent_usd:.4f}")
                spent_usd = desk.budget.spent_usd
            corrections = order_corrections(read_records(partial, Correction), mistakes)
            write_records(path, corrections)
            partial.unlink()
            return Outcome(counts={"mistakes": len(mistakes), **count_verdicts(corrections)}, cost_usd=spent_usd)

        self._do("correct", made_from, work)

    def do_augment(self) -> None:
        """Let the teacher write further rationales, where the recipe asks for them."""
        settings = self.recipe.augment
        if settings is None:
            return
        prompt = load_cot_prompt(settings.prompt)
        made_from = {
            "questions": self.marks["train questions"],
            "teacher": self.teacher_identity,
            "prompt": prompt.fingerprint,
            "augment": settings_in_result(self.recipe, "augment"),
        }

        def work(folder: StageFolder, _: Manifest) -> Outcome:
            path = folder.path / "rationales.jsonl"
            partial = path.with_name(path.name + ".partial")
            wanted = self.questions["train"][: settings.limit]
            by_question: dict[str, list[Rationale]] = {}
            for one in read_partial(partial, Rationale):
                by_question.setdefault(one.question_id, []).append(one)
            done = {
                key
                for key, some in by_question.items()
                if len(some) >= settings.rationales_per_question and all(one.verdict != "failed" for one in some)
            }
            left = [question for question in wanted if question.id not in done]
            with open_run_desk(self.recipe, settings, self.folder) as desk, self._bar("augment", len(wanted)) as bar:
                finished = Counter(done)
                for record in self._append(partial, augment_rationales(left, desk, prompt, settings)):
                    finished[record.question_id] += 1
                    bar(len(finished), spent=f"${desk.budget.spent_usd:.4f}")
                spent_usd = desk.budget.spent_usd
            rationales = order_rationales(read_records(partial, Rationale), wanted)
            write_records(path, rationales)
            partial.unlink()
            return Outcome(counts=count_verdicts(rationales), cost_usd=spent_usd)

        self._do("augment", made_from, work)

    # --- 4 filter, 5 build ----------------------------------------------------------------------------------

    def do_filter(self) -> None:
        """Keep the corrections that may be learned from."""
        made_from = {"corrections": self.marks["correct"], "filter": settings_in_result(self.recipe, "filter")}

        def work(folder: StageFolder, _: Manifest) -> Outcome:
            corrections = self._read("correct", "corrections.jsonl", Correction)
            filtered = filter_corrections(corrections, self.questions["train"], self.recipe.filter)
            write_records(folder.path / "accepted.jsonl", filtered.accepted)
            write_records(folder.path / "rejected.jsonl", filtered.rejected)
            counts = {"accepted": len(filtered.accepted), "rejected": len(filtered.rejected)}
            reasons = Counter(one.reason or one.verdict for one in filtered.rejected)
            return Outcome(counts={**counts, "reasons": dict(reasons.most_common(20))})

        self._do("filter", made_from, work)

    def do_build(self) -> None:
        """Build the training files of the arms."""
        settings = self.recipe.build
        made_from = {
            "questions": self.marks["train questions"],
            "accepted": self.marks["filter"],
            "rationales": self.marks.get("augment"),
            "prompt": load_cot_prompt(settings.cot_prompt).fingerprint,
            "build": settings_in_result(self.recipe, "build"),
        }

        def work(folder: StageFolder, _: Manifest) -> Outcome:
            accepted = self._read("filter", "accepted.jsonl", Correction)
            has_rationales = self.recipe.augment is not None
            rationales = self._read("augment", "rationales.jsonl", Rationale) if has_rationales else []
            arms = build_arms(self.questions["train"], accepted, rationales, settings)
            for arm, examples in arms.items():
                write_records(folder.path / f"{arm}.jsonl", examples)
            return Outcome(counts=count_examples(arms))

        self._do("build", made_from, work)

    # --- 6 train, 7 export ----------------------------------------------------------------------------------

    def do_train(self) -> None:
        """Fit one adapter per arm, all with as many optimizer steps."""
        settings = self._train_settings()

        def made_from(arm: str) -> MadeFrom:
            own = {key: value for key, value in settings.model_dump(mode="json").items() if key != "save_every_steps"}
            return {"examples": self.marks["build"], "base": self.base_identity, "arm": arm, "train": own}

        def train_arm(arm: str) -> Work:
            def work(folder: StageFolder, _: Manifest) -> Outcome:
                examples = self._read("build", f"{arm}.jsonl", TrainingExample)
                with self._bar(f"train {arm}") as bar, self._student() as student:
                    result = self.trainer.train(
                        examples,
                        settings,
                        folder.path,
                        lambda step, steps, values: bar(step, steps, **{k: f"{v:.3g}" for k, v in values.items()}),
                        getattr(student, "tokenize", None),
                    )
                return Outcome(counts=to_plain(result))

            return work

        self._do_arms("train", made_from, train_arm)

    def do_export(self) -> None:
        """Bring each adapter into GGUF, and see that it is the same student there."""
        settings = self.recipe.export

        def made_from(arm: str) -> MadeFrom:
            return {"adapter": self.marks[f"train {arm}"], "export": settings.model_dump(mode="json")}

        def export_arm(arm: str) -> Work:
            def work(folder: StageFolder, _: Manifest) -> Outcome:
                adapter_dir = self.folder.stage(STAGES["train"]).path / arm / "adapter"
                gguf = folder.path / "adapter.gguf"
                exported = self.trainer.export(adapter_dir, gguf)
                prompts = self._fidelity_prompts(settings.fidelity_prompts)
                with self._bar(f"export {arm}", 1), self._student() as base, self._student(adapter=gguf) as student:
                    fidelity = self.trainer.check_fidelity(
                        adapter_dir,
                        prompts,
                        with_adapter=answer_greedily(student),
                        without_adapter=answer_greedily(base),
                        max_tokens=settings.fidelity_max_tokens,
                    )
                self._judge_fidelity(arm, fidelity)
                return Outcome(counts={"export": to_plain(exported), "fidelity": to_plain(fidelity)})

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
                "questions": self.marks["test questions"],
                "student": self.marks[f"export {entry.arm}"] if entry.arm else self.student_identity,
                "prompt": entry.prompt.fingerprint,
                "style": entry.style,
                "max_tokens": settings.max_tokens,
            }

        def evaluate_entry(name: str) -> Work:
            def work(folder: StageFolder, started: Manifest) -> Outcome:
                return self._evaluate_entry(name, entries[name], folder, started)

            return work

        for name in entries:
            self._do("evaluate", made_from(name), evaluate_entry(name), part=name)

        def compare(folder: StageFolder, _: Manifest) -> Outcome:
            predictions = {name: self._read_predictions(name) for name in entries}
            prompts = {name: entry.prompt.name for name, entry in entries.items()}
            scores = score_predictions(self.questions["test"], predictions, prompts, settings)
            write_text(folder.path / "scores.json", scores.model_dump_json(indent=2) + "\n")
            return Outcome(counts={one.arm + " " + one.dataset: one.share.correct for one in scores.arms})

        parts = {name: self.marks[f"evaluate {name}"] for name in entries}
        self._do("evaluate", {"arms": parts, "evaluate": settings_in_result(self.recipe, "evaluate")}, compare)

    def do_report(self) -> None:
        """Write the report; it is cheap and has no fingerprint of its own: a changed setting writes it anew."""
        from lema_local.stages.report import read_run, write_report

        out_dir = self.folder.stage(REPORT_FOLDER).path
        write_report(read_run(self.folder), out_dir)
        self.tell(f"report: {out_dir / 'report.html'}")

    def result(self) -> str:
        """Return what the run found, for a terminal: scores, comparisons, where the report is."""
        folder = self.folder.stage(STAGES["evaluate"])
        if folder.manifest() is None:
            return f"{self.folder.path}: finished up to the stage asked for"
        scores = Scores.model_validate_json((folder.path / "scores.json").read_bytes())
        report = self.folder.stage(REPORT_FOLDER).path / "report.html"
        return "\n".join([*describe_scores(scores), "", f"Report: {report}"])

    # --- parts ----------------------------------------------------------------------------------------------

    def _do_arms(self, name: str, made_from: Callable[[str], MadeFrom], work: Callable[[str], Work]) -> None:
        """Do a stage once per arm, then say in the stage's own manifest what came of each."""
        arms = self.recipe.train.arms
        done = {arm: self._do(name, made_from(arm), work(arm), part=arm) for arm in arms}
        marks = {arm: self.marks[f"{name} {arm}"] for arm in arms}
        self._do(name, {"arms": marks}, lambda *_: Outcome(counts={arm: one.counts for arm, one in done.items()}))

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

    @contextmanager
    def _bar(self, title: str, total: float | None = None) -> Iterator[Update]:
        with self.show(title, total) as update:
            yield update

    @contextmanager
    def _student(
        self, *, adapter: Path | None = None, folder: StageFolder | None = None, started: Manifest | None = None
    ) -> Iterator[Student]:
        """Lend the student; what its engine chooses is written down at once, and used again on resume."""
        student = open_run_student(
            self.recipe.student,
            adapter=adapter,
            chosen=started.chosen.get("chosen") if started else None,
            on_chosen=None if folder is None or started is None else partial_save(folder, started),
        )
        try:
            yield student
        finally:
            student.close()

    def _append(self, partial: Path, records: Iterable[T]) -> Iterator[T]:
        """Append records as they come and pass them on; each is on disk before the next is made."""
        with AppendFile(partial) as file:
            for record in records:
                file.append(record)
                yield record

    def _read(self, stage: str, file: str, kind: type[T]) -> list[T]:
        return read_records(self.folder.stage(STAGES[stage]).path / file, kind)

    def _train_settings(self) -> TrainSettings:
        """The recipe's, with the number of optimizer steps fixed: equal for all arms, whatever their size."""
        settings = TrainSettings.model_validate(self.recipe.train.model_dump(exclude={"arms"}))
        if settings.max_steps is not None:
            return settings
        sizes = [len(self._read("build", f"{arm}.jsonl", TrainingExample)) for arm in self.recipe.train.arms]
        steps = max(1, math.ceil(settings.epochs * max(sizes) / settings.batch_size))
        return settings.model_copy(update={"max_steps": steps})

    def _fidelity_prompts(self, count: int) -> list[str]:
        """The first test questions, as the arms are asked them."""
        prompt = load_cot_prompt(self.recipe.build.cot_prompt)
        texts = (prompt.render(question, "completion") for question in self.questions["test"][:count])
        return [text for text in texts if isinstance(text, str)]

    def _judge_fidelity(self, arm: str, fidelity: FidelityResult) -> None:
        """Say plainly where the exported student is not the trained one."""
        if not fidelity.is_same_student:
            self.tell(
                f"Warning: {arm}: {fidelity.prompts - fidelity.greedy_equal - fidelity.near_ties} of"
                f" {fidelity.prompts} greedy answers of the exported adapter differ from the trained one's"
                " beyond near-ties; see the report"
            )
        if not fidelity.is_adapter_noticed:
            self.tell(f"Warning: {arm}: leaving the adapter out changes none of {fidelity.prompts} answers")


def describe_scores(scores: Scores) -> list[str]:
    """Return the scores and what may be concluded, in lines for a terminal."""
    lines = []
    for one in scores.arms:
        share = one.share
        lines.append(
            f"{one.dataset} {one.arm:14} {share.correct:5d} of {share.n}  pass@1 {share.pass_at_1:6.1%}"
            f"  (95 % {share.low:.1%} to {share.high:.1%})  no answer {one.no_answer}, truncated {one.truncated}"
        )
        for tag, groups in one.groups.items():
            for value, group in groups.items():
                lines.append(f"    {tag}={value}: {group.pass_at_1:.1%} ({group.low:.1%} to {group.high:.1%})")
    lines.append("")
    for comparison in scores.comparisons:
        where = f" [{comparison.group}]" if comparison.group else ""
        lines.append(f"{comparison.dataset}{where}: {comparison.sentence}")
    return lines
