"""What this machine will need for a run: time by what was measured here, memory, disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lema_local.errors import LemaError
from lema_local.recipe import Recipe
from lema_local.runs import Manifest, RunFolder, StageFolder
from lema_local.stage_runner import STAGES
from lema_local.wiring import student_path

if TYPE_CHECKING:
    from lema_local.training.shapes import ModelShape

CPU_PARAMETERS = 200_000_000
"""A larger student is not trained on a CPU in reasonable time."""


def existing(path: Path) -> Path:
    """Return the folder of a path, or the nearest above it that is there."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())


def find_rate(
    run: Path, wanted: dict[str, Any], measured: Callable[[RunFolder], float | None]
) -> float | None:
    """Return what was measured in a finished run beside this one, or this one, with the same model; units a second."""
    for recipe_path in sorted(run.resolve().parent.glob("*/recipe.yaml"), reverse=True):
        try:
            if _is_same_model(recipe_path, wanted) and (found := measured(RunFolder(recipe_path.parent))):
                return found
        except (LemaError, OSError):
            continue
    return None


def sampled_per_s(run: RunFolder) -> float | None:
    """Return the paths sampled a second in a finished run."""
    return _per_s([run.stage(STAGES["sample"]).manifest()], lambda counts: counts.get("paths", 0))


def steps_per_s(run: RunFolder) -> float | None:
    """Return the steps trained a second in a finished run."""

    def steps(counts: dict[str, Any]) -> float:
        return sum(int(one.get("optimizer_steps", 0)) for one in counts.values() if isinstance(one, dict))

    return _per_s([run.stage(STAGES["train"]).manifest()], steps)


def answers_per_s(run: RunFolder) -> float | None:
    """Return the answers given a second in a finished run."""
    folder = run.stage(STAGES["evaluate"])
    arms = [folder.path / arm for arm in ("base", "cot", "lema")]
    verdicts = [StageFolder(arm).manifest() for arm in arms]
    return _per_s(verdicts, lambda counts: sum(n for n in counts.values() if isinstance(n, int)))


def _per_s(manifests: Sequence[Manifest | None], count: Callable[[dict[str, Any]], float]) -> float | None:
    known = [one for one in manifests if one is not None and one.reused_from is None]
    seconds = sum(one.seconds for one in known)
    return sum(count(one.counts) for one in known) / seconds if seconds else None


def _is_same_model(recipe_path: Path, wanted: dict[str, Any]) -> bool:
    import yaml

    student = yaml.safe_load(recipe_path.read_text(encoding="utf-8")).get("student", {})
    model = {"student": student.get("model"), "base": student.get("base") or student.get("model")}
    return all(model.get(name) == value for name, value in wanted.items())


def plan_memory(recipe: Recipe, missing: list[str]) -> tuple[list[str], float | None]:
    """Return what sampling, training and export need, in words, and the disk for base and adapters, GiB."""
    block = recipe.student
    try:
        if block.url is not None:
            missing.append(
                f"student: {block.model} is served at {block.url}; training, export and evaluation need its GGUF file"
                " (--until build ends before)"
            )
            return ["- (the student is served elsewhere)"], None
        if block.base is None and block.model.startswith("hf:"):
            missing.append(f"student: {block.model} is fetched from the hub where it is not here yet")
            return ["- (the student's file is not looked for on the hub)"], None
        sampling = _describe_sampling(student_path(block))
        base = block.base or str(student_path(block))
        from lema_local.training.memory import estimate_disk
        from lema_local.training.shapes import read_shape

        shape, train = read_shape(base), recipe.train
        disk = estimate_disk(
            shape, train, len(train.arms) * len({train.seed, *train.seeds}), recipe.export.merge,
            has_held_out=bool(recipe.questions.validation or recipe.questions.validation_count),
        )  # fmt: skip
        return [sampling, *_describe_training(shape, recipe, missing)], disk / 2**30
    except (LemaError, ImportError) as err:
        hint = f" ({err.hint})" if isinstance(err, LemaError) and err.hint else ""
        missing.append(f"student or base: {err}{hint}")
        return ["- (see what is missing)"], None


def _describe_sampling(path: Path) -> str:
    from lema_local.students.inspection import inspect_gguf

    facts = inspect_gguf(path)
    return (
        f"sampling: {facts['typical_memory_bytes'] / 2**30:.2f} GiB of {facts['free_memory_bytes'] / 2**30:.2f}"
        f" ({facts['typical_slots']} paths at once)"
    )


def _describe_training(shape: ModelShape, recipe: Recipe, missing: list[str]) -> list[str]:
    from lema_local.training.layout import plan_for_machine
    from lema_local.training.memory import describe_memory
    from lema_local.training.models import choose_compute

    if not choose_compute().is_cuda and shape.parameters > CPU_PARAMETERS:
        missing.append(
            f"GPU: torch sees no CUDA card here, and training {shape.parameters / 1e9:.1f} billion parameters on"
            " a CPU takes weeks (lema run ... --until build makes the training files; train them elsewhere)"
        )
    try:
        return describe_memory(shape, recipe.train, plan_for_machine(shape, recipe.train))
    except LemaError as err:
        missing.append(f"memory: {err}" + (f" ({err.hint})" if err.hint else ""))
        return ["training: - (see what is missing)"]
