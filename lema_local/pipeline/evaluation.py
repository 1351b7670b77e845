"""The test questions: answered by the base and by each arm, compared, and reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from lema_local.pipeline.context import Run
from lema_local.pipeline.data import hash_records
from lema_local.prompts import CotPrompt, load_cot_prompt
from lema_local.recipe import settings_in_result
from lema_local.records import Prediction, Question, ReasoningPath, Share
from lema_local.rounds import BASE
from lema_local.runs import MadeFrom, Manifest, StageFolder, write_text
from lema_local.sampling import evaluation_settings, predict_into_file
from lema_local.stage_runner import Outcome, Work
from lema_local.stages.evaluate import choose_best_on_test, score_predictions, share_of
from lema_local.stages.sample import SampleSettings
from lema_local.students.base import PromptStyle

LOOKS = "looks"
"""Folder of a training's kept checkpoints, and of their answers."""
SAMPLED = "sampled"
"""Folder of an arm's sampled answers, within its own."""
VALIDATION = "validation"
"""Folder of an arm's answers to the held-out questions, within its own."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the evaluation."""

    arm: str | None
    """Whose exported student; None: the base."""
    prompt: CotPrompt
    style: PromptStyle | Literal["auto"]


def do_evaluate(run: Run) -> None:
    """Let the base and each arm answer the test questions, and compare them."""
    settings = run.recipe.evaluate
    entries = _list_entries(run)

    def made_from(name: str) -> MadeFrom:
        entry = entries[name]
        return {
            "questions": run.runner.marks["test questions"],
            "student": run.runner.marks[f"export {entry.arm}"] if entry.arm else run.student_identity,
            "prompt": entry.prompt.fingerprint,
            "style": entry.style,
            "max_tokens": settings.max_tokens,
        }

    def evaluate_entry(name: str, answers: SampleSettings) -> Work:
        def work(folder: StageFolder, started: Manifest) -> Outcome:
            return _evaluate_entry(run, name, entries[name], answers, folder, started)

        return work

    greedy, drawn = evaluation_settings(settings)
    done = [
        run.runner.do("evaluate", made_from(name), evaluate_entry(name, greedy), part=name)
        for name in entries
    ]
    parts = {name: run.runner.marks[f"evaluate {name}"] for name in entries}
    for name in entries if drawn else ():
        assert drawn is not None
        sampled_from = made_from(name) | {"sample": drawn.model_dump(mode="json")}
        part = f"{name}/{SAMPLED}"
        done.append(run.runner.do("evaluate", sampled_from, evaluate_entry(name, drawn), part=part))
        parts[part] = run.runner.marks[f"evaluate {part}"]

    looks = _evaluate_looks(run, greedy)
    parts |= {part: run.runner.marks[f"evaluate {part}"] for some in looks.values() for part in some.values()}

    def compare(folder: StageFolder, _: Manifest) -> Outcome:
        predictions = {name: _read_predictions(run, name) for name in entries}
        prompts = {name: entry.prompt.name for name, entry in entries.items()}
        sampled = {name: _read_predictions(run, f"{name}/{SAMPLED}") for name in entries if drawn}
        scores = score_predictions(
            run.questions["test"],
            predictions,
            prompts,
            settings,
            sampled=sampled,
            by_seed=_rows_by_seed(run),
        )
        best = [
            one
            for name, by_step in looks.items()
            for one in choose_best_on_test(
                name,
                run.questions["test"],
                {step: _read_predictions(run, part) for step, part in by_step.items()},
            )
        ]
        scores = scores.model_copy(update={"paper_style": best})
        write_text(folder.path / "scores.json", scores.model_dump_json(indent=2) + "\n")
        counts = {f"{one.arm} {one.dataset}": one.share.correct for one in scores.arms}
        return Outcome(counts, seconds=sum(one.seconds for one in done))

    run.runner.do(
        "evaluate", {"arms": parts, "evaluate": settings_in_result(run.recipe, "evaluate")}, compare
    )
    # Last: a whole evaluation that is taken over from another run replaces what lies in its folder.
    _answer_examples(run, entries, made_from, greedy)


def _answer_examples(
    run: Run, entries: dict[str, Entry], made_from: Callable[[str], MadeFrom], settings: SampleSettings
) -> None:
    """Let each trained arm answer the training questions whose corrections the report shows.

    No score counts these answers. Another choice of questions is another part: nothing is refused for it.
    """
    from lema_local.stages.report import EXAMPLES, choose_example_ids

    chosen = choose_example_ids(run.folder, run.recipe.report.examples)
    asked = [question for question in run.questions["train"] if question.id in chosen]
    mark = hash_records(asked)

    def answer(name: str) -> Work:
        return lambda folder, started: _evaluate_entry(
            run, name, entries[name], settings, folder, started, asked=asked
        )

    for name, entry in entries.items():
        if entry.arm and asked:
            answered = made_from(name) | {"questions": mark}
            run.runner.do("evaluate", answered, answer(name), part=f"{name}/{EXAMPLES}/{mark}")


def _list_entries(run: Run) -> dict[str, Entry]:
    """What is evaluated, by the name of its row: the base by its prompts, then the arms by theirs."""
    zero_shot = load_cot_prompt(run.recipe.build.cot_prompt)
    few_shot = load_cot_prompt(run.recipe.sample.prompt)
    style = run.recipe.train.prompt_style
    entries = {"base": Entry(None, few_shot, run.recipe.student.prompt_style)}
    if run.recipe.evaluate.base_zero_shot and few_shot.fingerprint != zero_shot.fingerprint:
        entries["base_zero_shot"] = Entry(None, zero_shot, style)
    return entries | {name: Entry(name, zero_shot, style) for name in run.trainings}


def _evaluate_looks(run: Run, settings: SampleSettings) -> dict[str, dict[int, str]]:
    """Let every checkpoint that was kept answer the test questions; return by training and step its part."""
    if not run.recipe.train.keep_looks:
        return {}
    prompt, style = load_cot_prompt(run.recipe.build.cot_prompt), run.recipe.train.prompt_style
    found: dict[str, dict[int, str]] = {}
    for name in run.trainings:
        root = run.runner.path("train") / name / LOOKS
        for step in sorted(int(path.name.removeprefix("step-")) for path in root.glob("step-*")):
            part = f"{name}/{LOOKS}/{step}"
            made_from = {
                "questions": run.runner.marks["test questions"],
                "student": run.runner.marks[f"train {name}"],
                "step": step,
                "prompt": prompt.fingerprint,
                "style": style,
                "max_tokens": settings.max_tokens,
            }
            work = _look_work(run, name, root / f"step-{step}", Entry(name, prompt, style), settings)
            run.runner.do("evaluate", made_from, work, part=part)
            found.setdefault(name, {})[step] = part
    if not found:
        run.tell("No checkpoints were kept: without held-out questions there are no looks to keep")
    return found


def _look_work(run: Run, name: str, trained_dir: Path, entry: Entry, settings: SampleSettings) -> Work:
    """Return what lets one kept checkpoint answer the test questions."""

    def work(folder: StageFolder, started: Manifest) -> Outcome:
        with TemporaryDirectory() as temporary:
            gguf, _ = run.export(trained_dir, Path(temporary))
            return _evaluate_entry(run, name, entry, settings, folder, started, exported=gguf)

    return work


def _evaluate_entry(
    run: Run,
    name: str,
    entry: Entry,
    settings: SampleSettings,
    folder: StageFolder,
    started: Manifest,
    *,
    exported: Path | None = None,
    asked: Sequence[Question] | None = None,
) -> Outcome:
    """Let one arm answer questions: all test questions, unless told otherwise."""
    asked = run.questions["test"] if asked is None else asked
    if exported is None and entry.arm:
        exported = run.runner.path("export") / entry.arm / f"{run.recipe.train.outcome}.gguf"
    verdicts = Counter[str]()
    title = f"evaluate {name}"
    title += " (sampled)" if settings.temperature else ""
    with (
        run.lend_student(exported=exported, style=entry.style, folder=folder, started=started) as student,
        run.show(title, len(asked) * settings.samples_per_question) as update,
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
                on_refusal=lambda question, why: run.tell(f"{question.id} is left out: {why}"),
            )
        return Outcome(counts=dict(verdicts), chosen=student.describe())


def _read_predictions(run: Run, name: str) -> list[Prediction]:
    datasets = dict.fromkeys(question.dataset for question in run.questions["test"])
    return [
        one
        for dataset in datasets
        for one in run.runner.read("evaluate", f"{name}/{dataset}.jsonl", Prediction)
    ]


def _rows_by_seed(run: Run) -> dict[str, dict[int, str]]:
    rows: dict[str, dict[int, str]] = {}
    for name, (arm, seed) in run.trainings.items():
        rows.setdefault(arm, {})[seed] = name
    return rows


def validate_students(run: Run) -> dict[str, Share]:
    """Let the base and each arm answer the held-out questions, as they answer the test questions; greedily."""
    settings = run.recipe.evaluate
    greedy, _ = evaluation_settings(settings)
    held_out = run.questions["validation"]
    shares = {}
    for name, entry in _list_entries(run).items():
        if name != BASE and name not in run.recipe.train.arms:
            continue  # another prompt for the base, further training seeds
        made_from = {
            "questions": run.runner.marks["validation questions"],
            "student": run.runner.marks[f"export {entry.arm}"] if entry.arm else run.student_identity,
            "prompt": entry.prompt.fingerprint,
            "style": entry.style,
            "max_tokens": settings.max_tokens,
        }

        def work(folder: StageFolder, started: Manifest, name: str = name, entry: Entry = entry) -> Outcome:
            return _evaluate_entry(run, name, entry, greedy, folder, started, asked=held_out)

        found = run.runner.do("evaluate", made_from, work, part=f"{name}/{VALIDATION}")
        shares[name] = share_of(found.counts.get("correct", 0), sum(found.counts.values()))
    return shares


def do_report(run: Run) -> None:
    """Write the report; it is cheap and has no fingerprint of its own: a changed setting writes it anew."""
    from lema_local.stages.report import read_run, write_model_card, write_report

    out_dir = run.runner.path("report")
    found = read_run(run.folder)
    write_report(found, out_dir)
    for arm in run.recipe.train.arms:
        if run.trained_dir(arm).is_dir():
            write_model_card(run.trained_dir(arm), run=found, arm=arm)
    run.tell(f"report: {out_dir / 'report.html'}")
