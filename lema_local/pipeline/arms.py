"""The arms' students: trained, and brought into GGUF."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter

from lema_local.answers.grading import grade_path
from lema_local.errors import NoRoom
from lema_local.formats import record_of
from lema_local.pipeline.context import Run
from lema_local.prompts import load_cot_prompt
from lema_local.recipe import NOT_IN_RESULT
from lema_local.records import PreferenceExample, Question
from lema_local.runs import MadeFrom, Manifest, StageFolder
from lema_local.sampling import sample_into_file
from lema_local.stage_runner import STAGES, Outcome, Work
from lema_local.stages.build import ALWAYS, MATCHED, build_held_out
from lema_local.stages.export import answer_greedily, check_exported, describe_divergence, write_merged
from lema_local.stages.sample import greedy_settings
from lema_local.stages.train import train_arm
from lema_local.training.base import DPO_SETTINGS, FidelityResult, TrainResult, TrainSettings, Validation
from lema_local.wiring import open_run_student, quantize_gguf, student_path, with_exported, write_use_files


def do_train(run: Run) -> None:
    """Train one student per arm, all with as many optimizer steps."""

    def made_from(training: str) -> MadeFrom:
        settings = _train_settings(run, training)
        is_paired = record_of(run.trainings[training][0]) is PreferenceExample
        unused = set(NOT_IN_RESULT["train"]) - {"arms"} | (set() if is_paired else set(DPO_SETTINGS))
        own = settings.model_dump(mode="json", exclude=unused)
        return {
            "examples": run.runner.marks["build"],
            "base": run.base_identity,
            "arm": run.trainings[training][0],
            "train": own,
            **({"start": _mark_start(run, training)} if _find_start(run, training) else {}),
            "held_out": run.runner.marks["validation questions"] if settings.validate_every_steps else None,
        }

    def fit(training: str) -> Work:
        def work(folder: StageFolder, _: Manifest) -> Outcome:
            return Outcome(counts=to_plain(fit_arm(run, training, folder.path)))

        return work

    _do_arms(run, "train", made_from, fit)


def fit_arm(run: Run, training: str, out_dir: Path) -> TrainResult:
    """Train one arm's student from what stands in the run folder; returns at once where that has been done."""
    arm, _ = run.trainings[training]
    examples = run.runner.read("build", f"{arm}.jsonl", record_of(arm))
    settings = _train_settings(run, training)
    with run.show(f"train {training}") as update, run.lend_student(decodes=False) as student:
        return train_arm(
            examples,
            run.trainer,
            settings,
            out_dir,
            lambda step, steps, values: update(step, steps, **{k: f"{v:.3g}" for k, v in values.items()}),
            student,
            validation=_validation(run, settings),
            tell=run.tell,
            start_from=_find_start(run, training),
        )


def _find_start(run: Run, training: str) -> Path | None:
    """The adapter that this training goes on from: its own of the round before. None: a new one on the base."""
    if run.round is None or run.recipe.rounds.start_from == "base":
        return None
    return run.earlier[-1].stage(STAGES["train"]).path / training / "adapter"


def _mark_start(run: Run, training: str) -> str | None:
    manifest = StageFolder(run.earlier[-1].stage(STAGES["train"]).path / training).manifest()
    return manifest.fingerprint if manifest else None


def _validation(run: Run, settings: TrainSettings) -> Validation | None:
    """The held-out questions as examples, and what lets a student on its way answer them."""
    questions = run.runner.read("questions", "validation.jsonl", Question)
    if not questions:
        return None
    prompt = load_cot_prompt(run.recipe.build.cot_prompt)
    style = run.recipe.train.prompt_style

    def answer(trained_dir: Path) -> float:
        with TemporaryDirectory() as folder:
            gguf, _ = run.export(trained_dir, Path(folder))
            paths_path, greedy = (
                Path(folder) / "paths.jsonl",
                greedy_settings(run.recipe.evaluate.max_tokens),
            )
            lent = [lambda: run.lend_student(exported=gguf, style=style)]
            sampled = sample_into_file(paths_path, questions, lent, prompt, greedy)
        return sum(path.verdict == "correct" for path in sampled.paths) / len(questions)

    examples = build_held_out(questions, run.recipe.build)
    if not examples:
        run.tell("The held-out questions have no rationales to look at: the last step is the one kept")
        return None
    return Validation(examples, answer if settings.validate_answers_every else None)


def do_export(run: Run) -> None:
    """Bring each student into GGUF, and see that it is the same there."""
    settings = run.recipe.export

    def made_from(arm: str) -> MadeFrom:
        return {"adapter": run.runner.marks[f"train {arm}"], "export": settings.model_dump(mode="json")}

    def export_arm(arm: str) -> Work:
        def work(folder: StageFolder, _: Manifest) -> Outcome:
            trained_dir = run.trained_dir(arm)
            gguf, exported = run.export(trained_dir, folder.path)
            merged = _merge(run, trained_dir, folder.path)
            _write_use_files(run, arm, folder.path, gguf, merged)
            counts = {"export": to_plain(exported)}
            try:
                fidelity = _compare(run, trained_dir, gguf, merged)
            except NoRoom as err:  # the students are there, and a night's training is not to end here
                run.tell(f"Warning: {arm}: the exported student is not compared with the trained one: {err}")
                return Outcome(counts=counts)
            _judge_fidelity(run, arm, fidelity)
            return Outcome(
                counts={**counts, "fidelity": to_plain(fidelity), "right": _count_right(run, fidelity)}
            )

        return work

    _do_arms(run, "export", made_from, export_arm)


def _do_arms(run: Run, name: str, made_from: Callable[[str], MadeFrom], work: Callable[[str], Work]) -> None:
    """Do a stage once per arm, then say in the stage's own manifest what came of each."""
    arms = list(run.trainings)
    done = {arm: run.runner.do(name, made_from(arm), work(arm), part=arm) for arm in arms}
    marks = {arm: run.runner.marks[f"{name} {arm}"] for arm in arms}
    whole = Outcome(
        {arm: one.counts for arm, one in done.items()}, seconds=sum(one.seconds for one in done.values())
    )
    run.runner.do(name, {"arms": marks}, lambda *_: whole)


def _train_settings(run: Run, training: str) -> TrainSettings:
    """The recipe's, with the number of optimizer steps fixed: equal for all arms, whatever their size."""
    exclude = {"arms", "seeds"}
    settings = TrainSettings.model_validate(run.recipe.train.model_dump(exclude=exclude))
    arm, seed = run.trainings[training]
    sizes = run.sizes
    by_length = run.recipe.build.match in ("tokens", "characters")
    # Where arms are equally long a pass is as many steps in each: shorter examples are more of them a step.
    # Which other arms there are changes nothing.
    reference = (
        min(size for one, size in sizes.items() if one in MATCHED)
        if by_length
        else max(sizes[one] for one in ALWAYS)
    )
    steps = settings.max_steps or max(1, math.ceil(settings.epochs * reference / settings.batch_size))
    scale = sizes[arm] / reference if by_length and arm in MATCHED else 1.0
    batch = max(1, round(settings.batch_size * scale))
    return settings.model_copy(update={"max_steps": steps, "batch_size": batch, "seed": seed})


def _fidelity_prompts(run: Run, count: int) -> list[str]:
    """The first test questions, as the arms are asked them."""
    prompt = load_cot_prompt(run.recipe.build.cot_prompt)
    texts = (prompt.render(question, "completion") for question in run.questions["test"][:count])
    return [text for text in texts if isinstance(text, str)]


def _merge(run: Run, trained_dir: Path, out_dir: Path) -> dict[str, Path]:
    """Write the merged models that the recipe asks for; return them by type."""
    merged: dict[str, Path] = {}
    stem = "model" if run.recipe.train.outcome == "model" else "merged"
    for kind in run.recipe.export.merge:
        merged[kind] = out_dir / f"{stem}-{kind}.gguf"
        write_merged(partial(run.trainer.merge, trained_dir), partial(quantize_gguf, kind=kind), merged[kind])
    return merged


def _compare(run: Run, trained_dir: Path, gguf: Path, merged: dict[str, Path]) -> FidelityResult:
    """Compare the trained student with its exported forms."""
    settings, style = run.recipe.export, run.recipe.train.prompt_style

    def answer(path: Path, prompts: Sequence[str], max_tokens: int) -> Sequence[str]:
        alone = run.recipe.student.model_copy(update={"model": str(path), "url": None, "prompt_style": style})
        student = open_run_student(alone)
        try:
            return answer_greedily(student)(prompts, max_tokens)
        finally:
            student.close()

    with run.lend_student(style=style) as bare, run.lend_student(exported=gguf, style=style) as adapted:
        return check_exported(
            run.trainer,
            trained_dir,
            _fidelity_prompts(run, settings.fidelity_prompts),
            adapted=adapted,
            bare=bare,
            max_tokens=settings.fidelity_max_tokens,
            others={path.stem.replace("-", " "): partial(answer, path) for path in merged.values()},
        )


def _count_right(run: Run, fidelity: FidelityResult) -> dict[str, int]:
    """Return how many of the compared prompts each form of the student answered correctly."""
    asked = run.questions["test"]
    return {
        name: sum(
            grade_path(text, question).verdict == "correct"
            for text, question in zip(texts, asked, strict=False)
        )
        for name, texts in fidelity.answers.items()
    }


def _write_use_files(run: Run, arm: str, folder: Path, gguf: Path, merged: dict[str, Path]) -> None:
    """Write what Ollama and llama-server need: for the exported student, and for each merged model."""
    block, adapter = with_exported(run.recipe.student, gguf)
    prompt, style = load_cot_prompt(run.recipe.build.cot_prompt), run.recipe.train.prompt_style
    name = f"{run.recipe.name}-{arm}".lower()
    write_use_files(folder, student_path(block), adapter, prompt, style, name=name)
    for kind, path in merged.items():
        write_use_files(folder, path, None, prompt, style, name=f"{name}-{kind}", prefix=f"{path.stem}.")


def _judge_fidelity(run: Run, arm: str, fidelity: FidelityResult) -> None:
    """Say plainly where the exported student is not the trained one."""
    if not fidelity.is_same_student:
        far = f"; {describe_divergence(fidelity.divergence)}" if fidelity.divergence else ""
        run.tell(
            f"Warning: {arm}: {fidelity.prompts - fidelity.greedy_equal - fidelity.near_ties} of"
            f" {fidelity.prompts} greedy answers of the exported student differ from the trained one's"
            f" beyond near-ties{far}; see the report"
        )
    if not fidelity.is_adapter_noticed:
        run.tell(f"Warning: {arm}: the base alone gives the same answer to all {fidelity.prompts} prompts")


def to_plain(result: Any) -> dict[str, Any]:
    """Return a dataclass as what JSON can hold."""
    plain: dict[str, Any] = TypeAdapter(type(result)).dump_python(result, mode="json")
    return plain
