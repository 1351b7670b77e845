"""What a run will take, told before anything is spent: calls, tokens, dollars, hours, memory, and what is missing.

Nothing is sampled and no teacher is asked. What is known is taken as it is (the questions, finished stages of the run,
replies in the journal); what is not is bounded, and estimated where there is something to estimate from. Each
estimate says what it rests on; what cannot be estimated honestly is None, with the reason.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from lema_local.planning.amounts import Amount
from lema_local.planning.machine import (
    answers_per_s,
    existing,
    find_rate,
    plan_memory,
    sampled_per_s,
    steps_per_s,
)
from lema_local.planning.mistakes import (
    count_examples,
    count_paths,
    count_steps,
    find_mistakes,
    is_done,
    load_questions,
)
from lema_local.planning.teachers import (
    TeacherPlan,
    add_up,
    plan_further_rounds,
    plan_teachers,
    without_calls,
)
from lema_local.recipe import Recipe
from lema_local.teachers.journal import Journal

__all__ = ["Amount", "RunPlan", "TeacherPlan", "plan_run"]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will take."""

    recipe: str
    run: str
    questions: dict[str, int]
    paths: Amount
    """Sampled in all."""
    sample_tokens: float
    """At most."""
    sample_hours: float | None
    why_no_sample_hours: str | None
    mistakes: Amount
    mistakes_rest_on: str
    teachers: list[TeacherPlan]
    usd: Amount | None
    batch_usd: Amount | None
    max_usd: float | None
    examples: Amount
    """In each arm."""
    steps: Amount
    """Of the optimizer, in each arm."""
    train_hours: float | None
    why_no_train_hours: str | None
    answers: int
    """Given in the evaluation, by all arms."""
    answer_hours: float | None
    """None as for `train_hours`."""
    memory: list[str] = field(default_factory=list)
    """What training and export need, in words."""
    disk_gib: float | None = None
    free_disk_gib: float | None = None
    missing: list[str] = field(default_factory=list)
    """What has to be there first."""
    rounds: int = 1
    """At most: sampling, training and evaluation stand here for one of them, the teachers' work for all."""


def plan_run(recipe: Recipe, run: Path, *, wrong_share: float = 0.5, reuse: Path | None = None) -> RunPlan:
    """Return what a run of a recipe will take.

    Args:
        recipe: What is to be done.
        run: The run's folder; what it holds already is taken into account.
        wrong_share: Share of the paths that end wrong, for a run that has not sampled yet.
        reuse: Another run, whose paths are taken for this one's where this one has none.

    Raises:
        PromptError: If a prompt cannot be loaded.
    """
    missing: list[str] = []
    questions = load_questions(recipe, missing)
    sampled = next((one for one in (run, reuse) if one is not None and is_done(one, "sample")), None)
    found = find_mistakes(recipe, sampled, questions["train"], wrong_share)
    with Journal() as journal:
        teachers = plan_teachers(recipe, questions["train"], found, journal, missing)
        further = plan_further_rounds(recipe, questions["train"], journal, missing)
    teachers = [without_calls(one) if is_done(run, one.run_stage) else one for one in teachers] + further
    usd, batch_usd = add_up(teachers, "usd"), add_up(teachers, "batch_usd")
    paths = count_paths(recipe, len(questions["train"]))
    examples = count_examples(recipe, questions["train"], found.count)
    steps = count_steps(recipe, examples)
    student = {"student": recipe.student.model}
    sample_rate = find_rate(run, student, sampled_per_s)
    train_rate = find_rate(run, {"base": recipe.student.base or recipe.student.model}, steps_per_s)
    answer_rate = find_rate(run, student, answers_per_s)
    memory, disk_gib = plan_memory(recipe, missing)
    trainings = len(recipe.train.arms) * len({recipe.train.seed, *recipe.train.seeds})
    has_zero_shot = recipe.evaluate.base_zero_shot and recipe.sample.prompt != recipe.build.cot_prompt
    answers = (1 + has_zero_shot + trainings) * len(questions["test"]) * (1 + recipe.evaluate.samples)
    free = shutil.disk_usage(existing(run)).free / 2**30
    if disk_gib is not None and free < disk_gib:
        missing.append(f"disk: {disk_gib:.1f} GiB are needed, {free:.1f} are free at {existing(run)}")
    return RunPlan(
        recipe=recipe.name,
        run=str(run),
        questions={split: len(some) for split, some in questions.items()},
        paths=paths,
        sample_tokens=paths.high * recipe.sample.max_tokens,
        sample_hours=None if sample_rate is None else (paths.about or paths.high) / sample_rate / 3600,
        why_no_sample_hours=None if sample_rate else "no run beside this one has sampled with this student",
        mistakes=found.count,
        mistakes_rest_on=found.rests_on,
        teachers=teachers,
        usd=usd,
        batch_usd=batch_usd,
        max_usd=recipe.teacher.max_usd,
        examples=examples,
        steps=steps,
        train_hours=None
        if train_rate is None
        else trainings * (steps.about or steps.high) / train_rate / 3600,
        why_no_train_hours=None if train_rate else "no run beside this one has trained this base",
        answers=answers,
        answer_hours=answers / answer_rate / 3600 if answer_rate else None,
        memory=memory,
        disk_gib=disk_gib,
        free_disk_gib=free,
        missing=list(dict.fromkeys(missing)),
        rounds=recipe.rounds.count,
    )
