"""Read a run's folder once and return all that its report shows.

Reads   every stage's records and manifests, line by line
Writes  nothing

Counts and the chosen examples are held, not the records: ten thousand questions take a few seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lema_local.contamination import Certificate
from lema_local.errors import RunStateError
from lema_local.formats import record_of
from lema_local.records import Question
from lema_local.report import stage_lines
from lema_local.report.data import LossCurve, NamedText, ReportData, StageLine, TrainedArm
from lema_local.report.examples import EXAMPLE_SEED, count_examples, show_answers, show_corrections
from lema_local.report.files import RunReader, question_files, rank
from lema_local.report.funnel import build_funnel, count_rationales, tally_corrections, tally_paths
from lema_local.report.graded import read_review
from lema_local.report.outcomes import ARM_ORDER, count_changes, read_outcomes, read_scores
from lema_local.report.prompt_texts import read_prompts
from lema_local.report.rounds import read_rounds
from lema_local.report.went_wrong import classify_wrong, count_positions
from lema_local.runs import RunFolder, fingerprint

CURVE_POINTS = 400


def read_run(run: RunFolder) -> ReportData:
    """Return everything that the report of a run shows, finished or not.

    Raises:
        RunStateError: If the folder holds no run at all.
    """
    reader = RunReader(run.path)
    recipe = reader.read_text("recipe.yaml")
    stages = stage_lines.read_stages(reader)
    if recipe is None and all(line.state == "not run" for line in stages):
        raise RunStateError(
            f"{run.path} holds no run", hint="name a folder that `lema run` made, such as runs/NAME"
        )
    settings = _parse_recipe(reader, recipe)
    questions, test_questions = _count_questions(reader)
    paths, corrections = tally_paths(reader), tally_corrections(reader)
    paths.students = paths.students or corrections.students  # corrections made elsewhere come without paths
    arms, shown = _read_arms(reader, stages, test_questions)
    outcomes = read_outcomes(reader)
    count = count_examples(settings)
    if stage_lines.allows_test_questions(stages):
        reader.tell("this run was allowed to train on test questions: its scores are not to be reported")
    return ReportData(
        name=str(settings.get("name") or run.path.resolve().name),
        stages=stages,
        recipe=recipe,
        seeds=_find_seeds(settings),
        questions=questions,
        test_questions=test_questions,
        outcomes=outcomes,
        samples=paths.counts(),
        funnel=build_funnel(
            questions.get("train", 0),
            paths,
            corrections,
            _find_taught(arms),
        ),
        rationales=count_rationales(reader),
        checks={name: (passed, checked) for name, (passed, checked) in corrections.checks.items()},
        teachers=corrections.teachers(),
        arms=arms,
        certificates=_read_certificates(reader),
        curves=list(_read_curves(reader)),
        scores=read_scores(reader),
        changes=list(count_changes(outcomes)),
        wrong=list(classify_wrong(reader, outcomes, EXAMPLE_SEED)),
        named_steps={name: count_positions(steps) for name, steps in corrections.named_steps.items()},
        review=read_review(reader),
        rounds=read_rounds(reader),
        prices=stage_lines.find_prices(stages),
        answered={"/".join(key): len(by_id) for key, by_id in outcomes.items()},
        corrections=show_corrections(reader, count),
        new_answers=show_answers(reader, outcomes, count),
        fidelity=stage_lines.find_fidelity(stages),
        prompts=read_prompts(reader, stages, settings),
        training_examples=shown,
        versions=stage_lines.merge_versions(stages),
        machine=stage_lines.find_machine(stages),
        example_seed=EXAMPLE_SEED,
        problems=reader.problems,  # last: everything has been read by now
    )


def _parse_recipe(reader: RunReader, text: str | None) -> Mapping[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(text or "")
    except yaml.YAMLError as err:
        reader.tell(f"recipe.yaml is damaged: {str(err).splitlines()[0]}")
        return {}
    return found if isinstance(found, Mapping) else {}


def _find_seeds(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        ".".join(path): value
        for path, value in stage_lines.walk(settings)
        if path and path[-1].endswith("seed")
    }


# --- questions ----------------------------------------------------------------------------------------------


def _count_questions(reader: RunReader) -> tuple[dict[str, int], dict[str, str]]:
    """Return the number of questions by file (train, validation, test), and a hash of each test question by id."""
    counts: dict[str, int] = {}
    tests: dict[str, str] = {}
    for name in question_files(reader):
        split = Path(name).stem
        counts[split] = 0
        for question in reader.read(name, Question):
            counts[split] += 1
            if split == "test":
                tests[question.id] = fingerprint({"asked": question.question, "gold": question.gold_answer})
    order = ("train", "validation", "test")
    return {split: counts[split] for split in sorted(counts, key=lambda one: rank(one, order))}, tests


# --- training -----------------------------------------------------------------------------------------------


def read_arms(run: RunFolder) -> list[TrainedArm]:
    """Return what a run's arms were trained on, without the rest of its report."""
    reader = RunReader(run.path)
    return _read_arms(reader, stage_lines.read_stages(reader), ())[0]


def _read_certificates(reader: RunReader) -> list[Certificate]:
    found = []
    for path in sorted((reader.run_dir / "5_build").glob("*.contamination.json")):
        try:
            found.append(Certificate.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as err:
            reader.tell(f"5_build/{path.name} is damaged: {str(err).splitlines()[0]}")
    return found


def _read_arms(
    reader: RunReader, stages: Sequence[StageLine], test_ids: Collection[str]
) -> tuple[list[TrainedArm], list[NamedText]]:
    """Return the arms' training data, and one example of each kind as it was trained on."""
    arms: list[TrainedArm] = []
    shown: dict[str, NamedText] = {}
    names = {path.name.split(".")[0] for path in (reader.run_dir / "5_build").glob("*.jsonl*")}
    for name in sorted(names, key=lambda one: rank(one, ARM_ORDER)):
        sources, characters, from_test = Counter[str](), 0, 0
        for example in reader.read(f"5_build/{name}.jsonl", record_of(name)):
            sources[str(example.source.get("kind", example.kind))] += 1
            characters += sum(map(len, example.targets))
            from_test += example.question_id in test_ids
            if example.kind not in shown:
                shown[example.kind] = NamedText(example.kind, example.prompt + example.targets[0])
        if from_test:
            reader.tell(
                f"{from_test:,} training examples of arm {name} come from test questions: its scores are not to be"
                " reported"
            )
        counts = dict(stage_lines.arm_counts(stages, "6_train", name))
        counts["batch_size"] = stage_lines.train_setting(stages, name, "batch_size")
        arms.append(_describe_arm(name, sources, characters, counts))
    return arms, list(shown.values())


def _find_taught(arms: Sequence[TrainedArm]) -> TrainedArm | None:
    """Return the arm that the funnel ends in: `lema`, else the one that was trained on most corrections."""
    return max(arms, key=lambda arm: (arm.name == "lema", arm.by_source.get("correction", 0)), default=None)


def _describe_arm(name: str, sources: Counter[str], characters: int, counts: Mapping[str, Any]) -> TrainedArm:
    left_out = counts.get("left_out", counts.get("left_out_ids"))
    return TrainedArm(
        name=name,
        examples=sources.total(),
        by_source=dict(sources),
        target_characters=characters,
        trained_tokens=_whole(counts.get("trained_tokens")),
        optimizer_steps=_whole(counts.get("optimizer_steps")),
        batch_size=_whole(counts.get("batch_size")),
        left_out=len(left_out) if isinstance(left_out, list) else _whole(left_out),
        final_loss=_number(counts.get("final_loss")),
        peak_memory_gib=_number(counts.get("peak_memory_gib")),
    )


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _whole(value: object) -> int | None:
    found = _number(value)
    return None if found is None else round(found)


def _read_curves(reader: RunReader) -> Iterator[LossCurve]:
    logs = (reader.run_dir / "6_train").glob("*/train_log.jsonl")
    for arm in sorted({path.parent.name for path in logs}, key=lambda one: rank(one, ARM_ORDER)):
        points: dict[float, float] = {}  # by step: a resumed training tells some steps twice
        for line in reader.read_objects(f"6_train/{arm}/train_log.jsonl"):
            step, loss = _number(line.get("step")), _number(line.get("loss"))
            if step is not None and loss is not None:
                points[step] = loss
        if points:
            ordered = sorted(points.items())
            stride = math.ceil(len(ordered) / CURVE_POINTS)
            kept = (
                ordered[::stride] if (len(ordered) - 1) % stride == 0 else [*ordered[::stride], ordered[-1]]
            )
            yield LossCurve(arm, [step for step, _ in kept], [loss for _, loss in kept])
