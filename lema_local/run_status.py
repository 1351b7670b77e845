"""Where a run stands, from its manifests and `progress.json` alone: no record is read, so any size is quick.

A stage is `done`, `running`, `failed`, `stopped` (interrupted, killed, or out of budget: it goes on where it is),
`stale` (what it was made from is not what stands in the folder now), `damaged`, or `waiting`.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from lema_local.errors import InputError, LemaError
from lema_local.rounds import has_ended, read_round, read_rounds, round_folder
from lema_local.run_progress import Progress, read_progress
from lema_local.runs import Manifest, RunFolder, StageFolder, changed_settings, fingerprint
from lema_local.stage_runner import STAGES

State = Literal["done", "running", "failed", "stopped", "stale", "damaged", "waiting"]
MADE_FROM = {
    "sample": {"questions": "train questions"},
    "correct": {"paths": "sample"},
    "augment": {"questions": "train questions"},
    "filter": {"corrections": "correct"},
    "build": {"questions": "train questions", "accepted": "filter", "rationales": "augment"},
    "train": {"examples": "build"},
    "export": {"adapter": "train {part}"},
    "evaluate": {"questions": "test questions", "student": "export {part}"},
}
"""Stage: what in its `made_from` is the fingerprint of which earlier stage, as `lema_local.pipeline` writes it."""
BLOCKS = ("sample", "correct", "augment", "filter", "build", "train", "export", "evaluate")
"""Blocks of the recipe that stand in `made_from` under their own name."""
NOT_AS_IN_RECIPE = {"max_steps"}
"""Settings that a stage computes: equal numbers of steps for all arms."""


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage, or one arm of it."""

    stage: str
    state: State
    counts: dict[str, Any] = field(default_factory=dict)
    """From its manifest."""
    seconds: float = 0.0
    """Work time, summed over interrupted starts."""
    cost_usd: float = 0.0
    done: float | None = None
    """How far the stage at work is, in its own unit; None: it is not at work, or said nothing yet."""
    total: float | None = None
    rate_per_s: float | None = None
    left_s: float | None = None
    values: dict[str, str] = field(default_factory=dict)
    """What the stage at work shows beside its bar."""
    why: tuple[str, ...] = ()
    """Why it failed, stopped, or is stale; where it was taken over from."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A whole run."""

    run: str
    name: str | None
    """Of its recipe; None: there is no recipe that can be read."""
    is_running: bool | None
    """Whether a process is at work in it; None: that cannot be told here."""
    stages: tuple[StageStatus, ...]
    seconds: float
    cost_usd: float
    report: str | None
    """Its report, where that is written."""
    next_command: str
    """What to type next."""
    rounds: tuple[RunStatus, ...] = ()
    """The later rounds, each of the same shape."""
    rounds_ended: str | None = None
    """Why no further round follows; None: one may, or there are none."""


def read_status(run_dir: Path) -> RunStatus:
    """Return where a run stands; damaged parts are told as such.

    Raises:
        InputError: If there is no run in this folder.
    """
    folder = RunFolder(run_dir)
    if not folder.recipe_path.is_file() and not any((run_dir / name).is_dir() for name in STAGES.values()):
        raise InputError(
            f"{run_dir} holds no run (no recipe.yaml, no stage)", hint="name a folder that lema run has made"
        )
    recipe = _read_recipe(folder.recipe_path)
    is_running = is_at_work(folder)
    reader = _Reader(folder, recipe, is_running, read_progress(run_dir))
    at_work = [run_dir, *sorted(run_dir.glob("round_*"))]
    progress = next(filter(None, map(read_progress, reversed(at_work))), None)
    stages = tuple(reader.read())
    report = run_dir / STAGES["report"] / "report.html"
    rounds, ended, left = _read_rounds(folder, recipe)
    return RunStatus(
        run=str(run_dir),
        name=str(recipe["name"]) if "name" in recipe else None,
        is_running=is_running,
        stages=stages,
        seconds=sum(one.seconds for one in stages if " " not in one.stage)
        + sum(one.seconds for one in rounds),
        cost_usd=sum(one.cost_usd for one in stages if " " not in one.stage)
        + sum(one.cost_usd for one in rounds),
        report=str(report) if report.is_file() else None,
        next_command=_next_command(run_dir, stages, progress, bool(is_running), recipe, are_rounds_left=left),
        rounds=rounds,
        rounds_ended=ended,
    )


def _read_rounds(folder: RunFolder, recipe: dict[str, Any]) -> tuple[tuple[RunStatus, ...], str | None, bool]:
    """Return a run's later rounds, why no further one follows, and whether there is one to be done."""
    block = recipe.get("rounds")
    count = block.get("count", 1) if isinstance(block, dict) else 1
    if count == 1 or read_round(folder) is not None:
        return (), None, False
    found = takewhile(RunFolder.exists, (round_folder(folder, number) for number in range(2, count + 1)))
    rounds = tuple(read_status(one.path) for one in found)
    try:
        records, ended = read_rounds(folder.path), has_ended(folder.path, count)
    except LemaError as err:
        return rounds, str(err), True
    return rounds, records[-1].reason if records and ended else None, not ended


def is_at_work(folder: RunFolder) -> bool | None:
    """Return whether a process is at work in a run; None where it cannot be told (a read-only folder)."""
    from filelock import FileLock, Timeout

    path = folder.path / ".lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return None


def _read_recipe(path: Path) -> dict[str, Any]:
    """Return the resolved recipe as plain values; empty where it cannot be read."""
    import yaml

    try:
        values = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


class _Reader:
    """Reads the stages in their order; what stands is compared with what it says it was made from."""

    def __init__(
        self, folder: RunFolder, recipe: dict[str, Any], is_running: bool | None, progress: Progress | None
    ) -> None:
        self._folder = folder
        self._recipe = recipe
        self._is_running = is_running
        self.progress = progress
        self._marks: dict[str, str] = {}
        self._stale = set[str]()

    def read(self) -> Iterator[StageStatus]:
        """Yield every stage, and its arms after it."""
        for name in STAGES:
            if name == "report":
                yield self._read_report()
            elif self._is_there(name):
                parts = [self._read_one(name, part) for part in self._parts(name)]
                yield self._with_parts(self._read_one(name, ""), parts)
                yield from parts

    def _is_there(self, name: str) -> bool:
        """Whether the run has this stage: new questions, further rationales, and sampling are not in every run."""
        block = self._recipe.get("correct")
        takes = isinstance(block, dict) and block.get("source") is not None
        left_out = {"augment": not self._recipe.get("augment"), "sample": takes, "evolve": True}
        is_left_out = left_out.get(name, False)
        return not is_left_out or self._stage(name).path.is_dir()

    def _stage(self, name: str, part: str = "") -> StageFolder:
        return StageFolder(self._folder.stage(STAGES[name]).path / part)

    def _parts(self, name: str) -> list[str]:
        """Return a stage's arms: those of the recipe, and what else stands there."""
        if name not in {"train", "export", "evaluate"}:
            return []
        block = self._recipe.get("train")
        arms = list(block.get("arms") or []) if isinstance(block, dict) else []
        path = self._stage(name).path
        there = sorted(one.name for one in path.iterdir() if one.is_dir()) if path.is_dir() else []
        return list(dict.fromkeys([*(["base"] if name == "evaluate" else []), *map(str, arms), *there]))

    def _read_one(self, name: str, part: str) -> StageStatus:
        label = f"{name} {part}".strip()
        folder = self._stage(name, part)
        try:
            finished, started = folder.manifest(), folder.started()
        except LemaError as err:
            self._stale.add(label)
            return StageStatus(label, "damaged", why=(str(err), *([err.hint] if err.hint else [])))
        manifest = finished or started
        if manifest is None:
            return StageStatus(label, "waiting")
        self._mark(name, label, manifest)
        why = tuple(self._why_stale(name, part, label, manifest))
        if why:
            self._stale.add(label)
        if finished is not None:
            came_from = (f"taken over from {finished.reused_from}",) if finished.reused_from else ()
            return StageStatus(
                label, "stale" if why else "done", finished.counts, finished.seconds, finished.cost_usd,
                why=(*why, *came_from),
            )  # fmt: skip
        return self._unfinished(label, manifest, why)

    def _mark(self, name: str, label: str, manifest: Manifest) -> None:
        self._marks[label] = manifest.fingerprint
        if name == "questions":
            for split, facts in manifest.made_from.items():
                if isinstance(facts, dict):
                    self._marks[f"{split} questions"] = fingerprint(facts)

    def _why_stale(self, name: str, part: str, label: str, manifest: Manifest) -> Iterator[str]:
        """Say what a stage was made from that is not so any more."""
        for key, source in MADE_FROM.get(name, {}).items():
            before, source = manifest.made_from.get(key), source.format(part=part)
            if not isinstance(before, str) or (key == "student" and part not in self._arms()):
                continue
            stage = source.removeprefix("train questions").removeprefix("test questions") or "questions"
            if self._marks.get(source, before) != before:
                yield f"{stage} was made again since"
            elif stage in self._stale:
                yield f"{stage} is stale"
        if name in BLOCKS and isinstance(was := manifest.made_from.get(name), dict):
            yield from self._changed(name, was)

    def _arms(self) -> set[str]:
        return {label.removeprefix("export ") for label in self._marks if label.startswith("export ")}

    def _changed(self, name: str, was: dict[str, Any]) -> Iterator[str]:
        now = self._recipe.get(name)
        if isinstance(now, dict):
            known = [key for key in was if key in now and key not in NOT_AS_IN_RECIPE]
            yield from changed_settings(
                {name: {key: was[key] for key in known}}, {name: {key: now[key] for key in known}}
            )

    def _unfinished(self, label: str, started: Manifest, why: tuple[str, ...]) -> StageStatus:
        told = self.progress if self.progress is not None and self.progress.stage == label else None
        is_at_it = bool(self._is_running) and told is not None and told.stopped is None
        state: State = "running" if is_at_it else "stale" if why else "stopped"
        seconds = started.seconds
        if told is not None:
            if not is_at_it and told.stopped == "failed":
                state = "failed"
            if is_at_it or told.stopped is None:  # killed: started.json does not know of this go
                seconds += max(0.0, (time.time() if is_at_it else told.seen_at) - told.began_at)
        if told is None:
            return StageStatus(label, state, seconds=seconds, why=why)
        rate = _rate(told)
        left = (told.total - told.done) / rate if is_at_it and rate and told.total is not None else None
        stop = (f"{told.message or told.stopped}",) if told.stopped not in {None, "interrupted"} else ()
        return StageStatus(
            label, state, seconds=round(seconds, 3), cost_usd=_spent(told), done=told.done, total=told.total,
            rate_per_s=rate, left_s=left, values=told.values, why=(*why, *stop),
        )  # fmt: skip

    def _with_parts(self, whole: StageStatus, parts: list[StageStatus]) -> StageStatus:
        """Say of a stage with arms how far it is where it has no manifest of its own yet."""
        if not parts:
            return whole
        worst = next((one for one in parts if one.state in {"damaged", "stale"}), None)
        if whole.state == "done" and worst is not None:
            return StageStatus(
                whole.stage, "stale", whole.counts, whole.seconds, why=(f"{worst.stage} is {worst.state}",)
            )
        if whole.state == "done":
            return whole
        order: tuple[State, ...] = ("running", "failed", "damaged", "stale", "stopped")
        states = {one.state for one in parts}
        state = next((one for one in order if one in states), "stopped" if "done" in states else whole.state)
        return StageStatus(
            whole.stage, state, {one.stage.split(" ")[1]: one.counts for one in parts if one.counts},
            sum(one.seconds for one in parts), sum(one.cost_usd for one in parts),
        )  # fmt: skip

    def _read_report(self) -> StageStatus:
        path = self._stage("report").path / "report.html"
        scores = self._stage("evaluate").manifest_path
        if not path.is_file():
            return StageStatus("report", "waiting")
        if "evaluate" in self._stale or (scores.is_file() and path.stat().st_mtime < scores.stat().st_mtime):
            return StageStatus("report", "stale", why=("the evaluation is newer or stale",))
        return StageStatus("report", "done")


def _rate(told: Progress) -> float | None:
    """Return how much is done a second in this go; None where nothing was done yet."""
    spent = told.seen_at - told.began_at
    done = told.done - (told.done_before or 0)
    return done / spent if spent > 0 and done > 0 else None


def _spent(told: Progress) -> float:
    """Return the dollars that the stage at work says it spent."""
    try:
        return float(told.values.get("spent", "0").removeprefix("$"))
    except ValueError:
        return 0.0


def _next_command(
    run_dir: Path,
    stages: tuple[StageStatus, ...],
    progress: Progress | None,
    is_running: bool,
    recipe: dict[str, Any],
    *,
    are_rounds_left: bool,
) -> str:
    run, states = str(run_dir), {one.state for one in stages}
    again = ["lema", "run", str(run_dir / "recipe.yaml"), "--run", run]
    if is_running:
        return shlex.join(["lema", "status", run, "--watch"])
    if "damaged" in states:
        damaged = next(one for one in stages if one.state == "damaged")
        label = damaged.stage.split(" ")
        return shlex.join(["rm", "-r", str(run_dir.joinpath(STAGES[label[0]], *label[1:]))])
    unfinished = [one for one in stages if one.state not in {"done"}]
    if [one.stage for one in unfinished] == ["report"] and not are_rounds_left:
        return shlex.join(["lema", "report", run])
    if "stale" in states:
        return shlex.join([*again[:3], "--run", f"{run}-2", "--reuse", run])
    if not unfinished and not are_rounds_left:
        return shlex.join(["lema", "report", run])
    if progress is not None and progress.stopped == "budget":
        block = recipe.get("teacher")
        cap = block.get("max_usd") if isinstance(block, dict) else None
        return shlex.join([*again, *(["--max-usd", f"{2 * cap:g}"] if cap else [])])
    return shlex.join(again)
