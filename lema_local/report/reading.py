"""Read a run's folder once and return all that its report shows.

Reads   every stage's records and manifests, line by line
Writes  nothing

Counts and the chosen examples are held, not the records: ten thousand questions take a few seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lema_local.contamination import Certificate
from lema_local.errors import RunStateError
from lema_local.jsonl import describe_validation
from lema_local.records import Correction, Prediction, Question, Scores, TrainingExample
from lema_local.report import stage_lines
from lema_local.report.data import (
    AnswerExample,
    CorrectionExample,
    LossCurve,
    NamedText,
    ReportData,
    StageLine,
    TrainedArm,
)
from lema_local.report.files import RunReader, choose_by_hash
from lema_local.report.funnel import ACCEPTED, build_funnel, count_rationales, tally_corrections, tally_paths
from lema_local.report.prompt_texts import read_prompts
from lema_local.runs import RunFolder

EXAMPLES = 10
"""Unless the recipe says `report.examples`."""
EXAMPLE_SEED = 0
CURVE_POINTS = 400
ARM_ORDER = ("base", "base_zero_shot", "cot", "lema", "cot_unmatched")
"""Others follow by name."""


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
    questions, test_ids = _count_questions(reader)
    paths, corrections = tally_paths(reader), tally_corrections(reader)
    arms, shown = _read_arms(reader, stages, test_ids)
    scores = _read_scores(reader)
    count = _example_count(settings)
    chosen_corrections, chosen_answers = _choose_corrections(reader, count), _choose_answers(reader, count)
    texts = _find_questions(
        reader, {one.question_id for one in chosen_corrections} | {key for key, _ in chosen_answers}
    )
    if stage_lines.allows_test_questions(stages):
        reader.tell("this run was allowed to train on test questions: its scores are not to be reported")
    return ReportData(
        name=str(settings.get("name") or run.path.resolve().name),
        stages=stages,
        recipe=recipe,
        seeds=_find_seeds(settings),
        questions=questions,
        samples=paths.counts(),
        funnel=build_funnel(
            questions.get("train", 0),
            paths,
            corrections,
            next((arm for arm in arms if arm.name == "lema"), None),
        ),
        rationales=count_rationales(reader),
        checks={name: (passed, checked) for name, (passed, checked) in corrections.checks.items()},
        teachers=corrections.teachers(),
        arms=arms,
        certificates=_read_certificates(reader),
        curves=list(_read_curves(reader)),
        scores=scores,
        answered={
            "/".join(key): _count_lines(reader, name) for key, name in _prediction_files(reader).items()
        },
        corrections=[CorrectionExample(texts.get(one.question_id), one) for one in chosen_corrections],
        new_answers=[AnswerExample(key, texts.get(key), answers) for key, answers in chosen_answers],
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


def _example_count(settings: Mapping[str, Any]) -> int:
    block = settings.get("report")
    count = block.get("examples") if isinstance(block, Mapping) else None
    return count if isinstance(count, int) and count >= 0 else EXAMPLES


# --- questions ----------------------------------------------------------------------------------------------


def _question_files(reader: RunReader) -> list[str]:
    folder = reader.run_dir / "0_questions"
    return sorted(f"0_questions/{path.name}" for path in folder.glob("*.jsonl"))


def _count_questions(reader: RunReader) -> tuple[dict[str, int], set[str]]:
    """Return the number of questions by file (train, validation, test) and the ids of the test questions."""
    counts: dict[str, int] = {}
    test_ids: set[str] = set()
    for name in _question_files(reader):
        split = Path(name).stem
        counts[split] = 0
        for question in reader.read(name, Question):
            counts[split] += 1
            if split == "test":
                test_ids.add(question.id)
    order = ("train", "validation", "test")
    return {split: counts[split] for split in sorted(counts, key=lambda one: _rank(one, order))}, test_ids


def _find_questions(reader: RunReader, ids: Collection[str]) -> dict[str, Question]:
    found: dict[str, Question] = {}
    for name in _question_files(reader) if ids else ():
        found |= {question.id: question for question in reader.read(name, Question) if question.id in ids}
    return found


def _rank(name: str, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order)), name


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
    for name in sorted(names, key=lambda one: _rank(one, ARM_ORDER)):
        sources, characters, from_test = Counter[str](), 0, 0
        for example in reader.read(f"5_build/{name}.jsonl", TrainingExample):
            sources[str(example.source.get("kind", example.kind))] += 1
            characters += len(example.completion)
            from_test += example.question_id in test_ids
            if example.kind not in shown:
                shown[example.kind] = NamedText(example.kind, example.prompt + example.completion)
        if from_test:
            reader.tell(
                f"{from_test:,} training examples of arm {name} come from test questions: its scores are not to be"
                " reported"
            )
        counts = dict(stage_lines.arm_counts(stages, "6_train", name))
        counts["batch_size"] = stage_lines.train_setting(stages, name, "batch_size")
        arms.append(_describe_arm(name, sources, characters, counts))
    return arms, list(shown.values())


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
    for arm in sorted({path.parent.name for path in logs}, key=lambda one: _rank(one, ARM_ORDER)):
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


# --- evaluation ---------------------------------------------------------------------------------------------


def _read_scores(reader: RunReader) -> Scores | None:
    text = reader.read_text("8_evaluate/scores.json")
    if text is None:
        return None
    try:
        return Scores.model_validate_json(text)
    except ValidationError as err:
        reader.tell(f"8_evaluate/scores.json is damaged: {describe_validation(err)[:300]}")
        return None


def _prediction_files(reader: RunReader) -> dict[tuple[str, str], str]:
    """Return the files of predictions by (arm, dataset), unfinished ones too."""
    root = reader.run_dir / "8_evaluate"
    found = {(path.parent.name, path.name.split(".jsonl")[0]) for path in root.glob("*/*.jsonl*")}
    ordered = sorted(found, key=lambda key: (_rank(key[0], ARM_ORDER), key[1]))
    return {key: f"8_evaluate/{key[0]}/{key[1]}.jsonl" for key in ordered}


def _count_lines(reader: RunReader, name: str) -> int:
    return sum(1 for _ in reader.read_objects(name))


def _choose_answers(reader: RunReader, count: int) -> list[tuple[str, list[Prediction]]]:
    """Choose test questions that the first arm (the base) got wrong; return every arm's answers to them."""
    files = _prediction_files(reader)
    first = next(iter(files), ("", ""))[0]

    def mistakes() -> Iterable[tuple[str, str]]:
        for (arm, _), name in files.items():
            if arm == first:
                for one in reader.read(name, Prediction):
                    if one.is_correct is False:
                        yield one.question_id, one.question_id

    chosen: dict[str, dict[str, Prediction]] = {
        key: {} for key in choose_by_hash(mistakes(), count, EXAMPLE_SEED)
    }
    for (arm, _), name in files.items() if chosen else ():
        for one in reader.read(name, Prediction):
            if one.question_id in chosen:
                chosen[one.question_id].setdefault(arm, one)
    return [(key, list(by_arm.values())) for key, by_arm in chosen.items()]


# --- examples -----------------------------------------------------------------------------------


def _choose_corrections(reader: RunReader, count: int) -> list[Correction]:
    name = ACCEPTED if reader.find(ACCEPTED) else "2_correct/corrections.jsonl"
    accepted = (one for one in reader.read(name, Correction) if one.verdict == "accepted")
    keyed = ((f"{one.question_id}:{one.student}:{one.sample_index}:{one.attempt}", one) for one in accepted)
    return choose_by_hash(keyed, count, EXAMPLE_SEED)
