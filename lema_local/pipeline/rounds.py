"""Which student goes on into the next round, and when the rounds end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lema_local.errors import RunStateError
from lema_local.jsonl import read_records
from lema_local.pipeline.context import Run
from lema_local.pipeline.evaluation import validate_students
from lema_local.pipeline.teaching import find_new_mistakes, read_paths
from lema_local.records import ArmComparison, Prediction, Share
from lema_local.rounds import BASE, RoundRecord, Stopped, read_rounds, round_folder
from lema_local.runs import RunFolder
from lema_local.stage_runner import STAGES
from lema_local.stages.correct import find_new
from lema_local.stages.evaluate import compare_predictions


def check_base(run: Run) -> None:
    """See before anything of a later round is made that the base is that of the round before.

    Raises:
        InputError: If it has changed.
        RunStateError: If the adapter is not there any more.
    """
    from lema_local.training.local import check_same_base

    assert run.round is not None
    adapter_dir = run.earlier[-1].stage(STAGES["train"]).path / run.round.arm / run.recipe.train.outcome
    if not adapter_dir.is_dir():
        raise RunStateError(
            f"{adapter_dir} is not there any more", hint=f"delete {adapter_dir.parent} to train it again"
        )
    check_same_base(adapter_dir, run.trainer.base_facts)


def end_without_mistakes(run: Run) -> RoundRecord | None:
    """Return the record of a round that found too few new mistakes; None where it found enough."""
    found, least = find_new_mistakes(run), run.recipe.rounds.min_new_mistakes
    if len(found.paths) >= least:
        return None
    reason = (
        f"round {run.number} ends the run: new mistakes have run out ({len(found.paths)} of them, fewer than"
        f" rounds.min_new_mistakes = {least}; {found.already_known} were corrected before)"
    )
    return _begin_record(run).model_copy(update={"stopped": "no_new_mistakes", "reason": reason})


def judge_round(run: Run, before: Sequence[RoundRecord]) -> RoundRecord:
    """Return the record of a finished round: its best student by validation, and whether another round follows.

    Another one follows while the chosen student answers more held-out questions rightly than any before it, the base
    among them (unless `rounds.needs_rise` is off), and the recipe allows for more rounds.
    """
    validation = validate_students(run)
    student = choose_student(validation, run.recipe.rounds.student_from)
    record = _begin_record(run).model_copy(update={"student": student, "validation": validation})
    told, has_risen = describe_rise(record, before)
    rose, block = "rose" if has_risen else "did not rise", run.recipe.rounds
    if block.needs_rise and not has_risen:
        why: Stopped = "no_rise"
        reason = f"round {run.number} ends the run: validation no longer rises ({told})"
    elif run.number >= block.count:
        why, reason = "all_done", f"round {run.number} was the last one asked for; validation {rose} ({told})"
    else:
        run.tell(f"another round follows: validation {rose} ({told})")
        return record
    return record.model_copy(update={"stopped": why, "reason": reason})


def choose_student(validation: Mapping[str, Share], wanted: str = "best") -> str:
    """Return the arm with the most right answers to the held-out questions, the first of equal ones.

    The base is never chosen: it has been sampled already.
    """
    arms = [name for name in validation if name != BASE]
    return wanted if wanted != "best" else max(arms, key=lambda arm: validation[arm].correct)


def describe_rise(record: RoundRecord, before: Sequence[RoundRecord]) -> tuple[str, bool]:
    """Return a round's student against the best before it, in words, and whether it answers more rightly."""
    assert record.student is not None
    now = record.validation[record.student]
    best = {
        f"{one.student} of round {one.round}": one.validation[one.student] for one in before if one.student
    }
    best[f"the {BASE}"] = record.validation[BASE]
    name, most = max(best.items(), key=lambda one: one[1].correct)
    told = (
        f"{record.student} answers {now.correct} of {now.n} held-out questions rightly, {name} {most.correct}"
    )
    return told, now.correct > most.correct


def _begin_record(run: Run) -> RoundRecord:
    """The record of a round, as far as its mistakes go."""
    if run.round is not None:
        found = find_new_mistakes(run)
        sampled_from = f"{run.round.arm} of round {run.number - 1}"
    else:
        found, sampled_from = find_new(read_paths(run), (), run.recipe.correct), BASE
    return RoundRecord(
        round=run.number,
        sampled_from=sampled_from,
        new_mistakes=len(found.paths),
        already_known=found.already_known,
        evolved_questions=_count_evolved(run),
    )


def _count_evolved(run: Run) -> int:
    """How many new questions this round has."""
    manifest = run.folder.stage(STAGES["evolve"]).manifest()
    return int(manifest.counts["accepted"]) if manifest else 0


def compare_rounds(root: RunFolder) -> list[ArmComparison]:
    """Return the chosen students of every two rounds compared on the same test questions, paired.

    A pair's tests on all datasets are corrected together (Holm).
    """
    answers = {
        f"{one.student} of round {one.round}": _read_answers(round_folder(root, one.round), one.student)
        for one in read_rounds(root.path)
        if one.student is not None
    }
    return compare_predictions(answers)


def _read_answers(folder: RunFolder, arm: str) -> dict[str, list[Prediction]]:
    """An arm's predictions by dataset."""
    path = folder.stage(STAGES["evaluate"]).path / arm
    return {file.stem: read_records(file, Prediction) for file in sorted(path.glob("*.jsonl"))}
