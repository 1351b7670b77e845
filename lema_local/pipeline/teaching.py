"""What the teacher does: corrections, further rationales, new questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from lema_local.errors import InputError
from lema_local.jsonl import read_records, write_records
from lema_local.pipeline.context import EVOLVED_QUESTIONS, Run
from lema_local.prompts import load_correction_prompt, load_cot_prompt
from lema_local.recipe import settings_in_result
from lema_local.records import Correction, EvolvedQuestion, Question, Rationale, ReasoningPath
from lema_local.resuming import ResumedFile
from lema_local.runs import Manifest, StageFolder, fingerprint, hash_file
from lema_local.stage_runner import STAGES, Outcome
from lema_local.stages.correct import NewMistakes, find_new, path_key, select_mistakes, solution_key
from lema_local.stages.evolve import draw_seeds, reject_copies, to_questions
from lema_local.teamwork import (
    account_for_fallback,
    augment_with_team,
    correct_with_team,
    count_by_teacher,
    evolve_into_file,
)
from lema_local.wiring import REFERENCE, open_run_team

EVOLVED = "evolved.jsonl"
"""Of the stage `evolve`: every draw, whatever came of it."""


def do_evolve(run: Run) -> None:
    """Let the teacher write new questions after those that were corrected in the round before; round 1 has none yet."""
    settings = run.recipe.evolve
    if settings is None or run.round is None:
        return
    asked = run.earlier[-1].stage(STAGES["questions"]).path
    filtered = run.earlier[-1].stage(STAGES["filter"]).path / "accepted.jsonl"
    made = [one.stage(STAGES["evolve"]).path / EVOLVED for one in run.earlier]
    made = [path for path in made if path.exists()]
    prompts = load_cot_prompt(settings.prompt), load_cot_prompt(settings.answer_prompt)
    kinds = run.recipe.build.remove_contaminated
    made_from = {
        "questions": hash_file(asked / "train.jsonl"),
        "test questions": hash_file(asked / "test.jsonl"),
        "accepted": hash_file(filtered),
        "earlier": [hash_file(path) for path in made],
        "teacher": run.teacher_identity,
        "prompts": [one.fingerprint for one in prompts],
        "evolve": settings_in_result(run.recipe, "evolve"),
        "removing": list(kinds),
    }

    def work(folder: StageFolder, _: Manifest) -> Outcome:
        known, test = (read_records(asked / f"{split}.jsonl", Question) for split in ("train", "test"))
        earlier = [one for path in made for one in read_records(path, EvolvedQuestion)]
        draws = draw_seeds(known, read_records(filtered, Correction), settings, earlier)
        with (
            open_run_team(run.recipe, settings, folder, run.root) as team,
            run.show("evolve", len(draws)) as update,
        ):
            records = evolve_into_file(
                folder.path / EVOLVED,
                draws,
                team,
                prompts,
                settings,
                lambda records: reject_copies(records, known, test, kinds),
                on_progress=lambda done: update(done, spent=f"${team.spent_usd:.4f}"),
            )
            new = to_questions(records, known)
            write_records(folder.path / EVOLVED_QUESTIONS, new)
            counts = {"drawn": len(draws), **count_verdicts(records), **team.count.as_dict()}
            return Outcome(counts={**counts, "prices": team.prices}, cost_usd=team.spent_usd)

    run.runner.do("evolve", made_from, work)


def do_correct(run: Run) -> None:
    """Let the teacher correct the mistakes."""
    settings = run.recipe.correct
    if settings.source is not None and run.is_given_corrections:
        _take_corrections(run, Path(settings.source))
        return
    prompt = load_correction_prompt(settings.prompt)
    made_from = {
        "paths": run.runner.marks["sample"],
        "teacher": run.teacher_identity,
        "prompt": None if _only_reference(run) else prompt.fingerprint,
        "correct": settings_in_result(run.recipe, "correct"),
        **({"corrected before": _hash_corrected(run)} if run.round else {}),
    }

    def work(folder: StageFolder, _: Manifest) -> Outcome:
        paths = find_new_mistakes(run).paths if run.round else read_paths(run)
        mistakes = list(select_mistakes(paths, run.questions["train"], settings))
        order = [path_key(path) for _, path in mistakes]
        with (
            ResumedFile(folder.path / "corrections.jsonl", Correction) as file,
            open_run_team(run.recipe, settings, folder, run.root) as team,
            run.show("correct", len(mistakes)) as update,
        ):
            left = [mistake for mistake in mistakes if path_key(mistake[1]) not in file.kept]
            verdicts = Counter[str](file.kept.values())
            for one in correct_with_team(left, team, prompt, settings):
                file.append(one)
                verdicts[one.verdict] += 1
                update(verdicts.total(), **verdicts, spent=f"${team.spent_usd:.4f}")
            corrections = file.finish(order)
            counts = {"mistakes": len(mistakes), **count_verdicts(corrections), **team.count.as_dict()}
            counts["prices"] = team.prices
            if len(team.members) > 1 or team.fallback:
                counts["by_teacher"] = count_by_teacher(corrections)
            if account := account_for_fallback(corrections, team):
                counts["fallback"] = asdict(account)
                run.tell(account.describe())
            return Outcome(counts=counts, cost_usd=team.spent_usd)

    run.runner.do("correct", made_from, work)


def read_paths(run: Run) -> list[ReasoningPath]:
    """Return this round's paths."""
    return [] if run.is_given_corrections else run.runner.read("sample", "paths.jsonl", ReasoningPath)


def find_new_mistakes(run: Run) -> NewMistakes:
    """Return what of this round's paths no accepted correction of an earlier round answers yet."""
    return find_new(read_paths(run), _read_corrected(run), run.recipe.correct)


def _read_corrected(run: Run) -> Iterator[Correction]:
    for folder in run.earlier:
        yield from read_records(folder.stage(STAGES["correct"]).path / "corrections.jsonl", Correction)


def _hash_corrected(run: Run) -> str:
    """A hash of the mistakes that have been corrected in earlier rounds."""
    accepted = (one for one in _read_corrected(run) if one.verdict == "accepted")
    return fingerprint(
        {"mistakes": sorted({solution_key(one.question_id, one.original_steps) for one in accepted})}
    )


def _take_corrections(run: Run, source: Path) -> None:
    """Take corrections that were made elsewhere; the filter judges them as it does all others."""

    def work(folder: StageFolder, _: Manifest) -> Outcome:
        ids = {question.id for question in run.questions["train"]}
        given = read_records(source, Correction)
        known = [one for one in given if one.question_id in ids]
        if not known:
            raise InputError(
                f"none of the {len(given)} corrections in {source} is of a training question",
                hint="questions.train has to be the questions.jsonl that was imported with them",
            )
        if len(known) < len(given):
            run.tell(f"{len(given) - len(known)} correction(s) left out: their questions are not trained on")
        write_records(folder.path / "corrections.jsonl", known)
        return Outcome(counts={"taken": len(known), **count_verdicts(known)})

    made_from = {"questions": run.runner.marks["train questions"], "corrections": hash_file(source)}
    run.runner.do("correct", made_from, work)


def do_augment(run: Run) -> None:
    """Let the teacher write further rationales, where the recipe asks for them."""
    settings = run.recipe.augment
    if settings is None:
        return
    prompt = load_cot_prompt(settings.prompt)
    made_from = {
        "questions": run.runner.marks["train questions"],
        "teacher": run.teacher_identity,
        "prompt": prompt.fingerprint,
        "augment": settings_in_result(run.recipe, "augment"),
    }

    def work(folder: StageFolder, _: Manifest) -> Outcome:
        wanted = run.questions["train"][: settings.limit]
        attempts = range(settings.rationales_per_question)
        order = [(question.id, attempt) for question in wanted for attempt in attempts]
        with (
            ResumedFile(folder.path / "rationales.jsonl", Rationale) as file,
            open_run_team(run.recipe, settings, folder, run.root) as team,
            run.show("augment", len(order)) as update,
        ):
            left = [one for one in wanted if not all((one.id, attempt) in file.kept for attempt in attempts)]
            before = len(order) - len(left) * len(attempts)
            for done, one in enumerate(augment_with_team(left, team, prompt, settings), before + 1):
                file.append(one)
                update(done, spent=f"${team.spent_usd:.4f}")
            rationales = file.finish(order)
            counts = {**count_verdicts(rationales), **team.count.as_dict(), "prices": team.prices}
            if account := account_for_fallback(rationales, team):
                counts["fallback"] = asdict(account)
                run.tell(account.describe())
            return Outcome(counts=counts, cost_usd=team.spent_usd)

    run.runner.do("augment", made_from, work)


def _only_reference(run: Run) -> bool:
    """Whether no teacher reads the prompt."""
    block = run.recipe.teacher
    return all(one.model == REFERENCE for one in (*block.members, *filter(None, [block.fallback])))


def count_verdicts(records: Sequence[Correction | EvolvedQuestion | Rationale]) -> dict[str, int]:
    """Return how many were accepted, rejected and failed."""
    found = Counter(record.verdict for record in records)
    return {verdict: found[verdict] for verdict in ("accepted", "rejected", "failed")}
