"""Where a run stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lema_local.errors import BudgetReached, InputError
from lema_local.run_progress import ProgressFile, read_progress
from lema_local.run_status import RunStatus, StageStatus, read_status
from lema_local.runs import Manifest, RunFolder, fingerprint, write_text

RECIPE = """\
name: mine
teacher: {model: gpt-4o, max_usd: 2.0}
sample: {temperature: 0.7, seed: 1}
train: {arms: [cot, lema]}
"""
SPLITS = {split: {"count": 3, "sha256": split} for split in ("train", "validation", "test")}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    write_text(folder.recipe_path, RECIPE)
    save(folder, "0_questions", "questions", **SPLITS)
    return folder


def save(run: RunFolder, folder: str, stage: str, *, is_done: bool = True, **made_from: Any) -> str:
    mark = fingerprint(made_from)
    manifest = Manifest(
        stage=stage, fingerprint=mark, made_from=made_from, counts={"n": 3}, seconds=2.0, cost_usd=0.5
    )
    run.stage(folder).save_started(manifest)
    if is_done:
        run.stage(folder).save_manifest(manifest)
    return mark


def save_sample(run: RunFolder, *, is_done: bool = True, **settings: Any) -> str:
    sample = {"temperature": 0.7, "seed": 1, **settings}
    questions = fingerprint(SPLITS["train"])
    return save(run, "1_sample", "sample", is_done=is_done, questions=questions, sample=sample)


def of(found: RunStatus, stage: str) -> StageStatus:
    return next(one for one in found.stages if one.stage == stage)


class Shown:
    """Progress that shows nothing."""

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, done: float, total: float | None = None, **values: object) -> None: ...


def progress_of(run: RunFolder) -> ProgressFile:
    return ProgressFile(run.path, lambda title, total=None: Shown(), lambda text: text.replace("key", "***"))


def test_what_is_done_counts_and_the_next_command_goes_on(run: RunFolder) -> None:
    save_sample(run)
    found = read_status(run.path)
    assert [of(found, stage).state for stage in ("questions", "sample", "correct", "report")] == [
        "done", "done", "waiting", "waiting",
    ]  # fmt: skip
    assert (found.seconds, found.cost_usd, found.is_running) == (4.0, 1.0, False)
    assert found.next_command == f"lema run {run.path}/recipe.yaml --run {run.path}"


def test_a_stage_at_work_tells_how_far_it_is_and_how_long_it_takes(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_sample(run, is_done=False)
    clock = 1000.0
    monkeypatch.setattr("time.time", lambda: clock)
    progress = progress_of(run)
    progress.begin("sample")
    with run.lock(), progress.show("sample", 100) as update:
        update(20)  # from an earlier go
        clock = 1010.0
        monkeypatch.setattr("lema_local.run_progress.WRITE_EVERY_S", 0.0)
        update(40, mistakes=7)
        found = read_status(run.path)
    sample = of(found, "sample")
    assert (sample.state, sample.done, sample.total) == ("running", 40, 100)
    assert (sample.rate_per_s, sample.left_s) == (2.0, 30.0)
    assert sample.values == {"mistakes": "7"}
    assert sample.seconds == 12.0
    assert found.next_command == f"lema status {run.path} --watch"


def test_a_failure_is_told_without_keys(run: RunFolder) -> None:
    save_sample(run, is_done=False)
    progress = progress_of(run)
    progress.begin("sample")
    progress.stop(RuntimeError("no memory for key"))
    sample = of(read_status(run.path), "sample")
    assert (sample.state, sample.why) == ("failed", ("no memory for ***",))


def test_an_interrupted_stage_and_a_killed_one_are_stopped(run: RunFolder) -> None:
    save_sample(run, is_done=False)
    progress = progress_of(run)
    progress.begin("sample")
    assert of(read_status(run.path), "sample").state == "stopped"  # nobody holds the lock: it was killed
    progress.stop(KeyboardInterrupt())
    assert of(read_status(run.path), "sample").state == "stopped"


def test_a_spent_budget_is_told_with_a_command_that_goes_on(run: RunFolder) -> None:
    mark = save_sample(run)
    save(run, "2_correct", "correct", is_done=False, paths=mark)
    progress = progress_of(run)
    progress.begin("correct")
    progress.stop(BudgetReached("the budget of $2 is used up"))
    found = read_status(run.path)
    assert of(found, "correct").why == ("the budget of $2 is used up",)
    assert found.next_command.endswith("--max-usd 4")


def test_a_stage_is_stale_where_an_earlier_one_was_made_again(run: RunFolder) -> None:
    old = save_sample(run)
    filtered = save(run, "4_filter", "filter", corrections=save(run, "2_correct", "correct", paths=old))
    save(run, "5_build", "build", questions=fingerprint(SPLITS["train"]), accepted=filtered)
    save_sample(run, max_tokens=99)
    found = read_status(run.path)
    assert of(found, "sample").state == "done"
    assert of(found, "correct").why == ("sample was made again since",)
    assert of(found, "filter").why == ("correct is stale",)
    assert of(found, "build").state == "stale"
    assert found.next_command == f"lema run {run.path}/recipe.yaml --run {run.path}-2 --reuse {run.path}"


def test_a_stage_is_stale_where_the_recipe_says_something_else(run: RunFolder) -> None:
    save_sample(run, temperature=0.9)
    assert of(read_status(run.path), "sample").why == ("sample.temperature: was 0.9, is 0.7",)


def test_an_arm_of_an_old_export_makes_the_evaluation_stale(run: RunFolder) -> None:
    trained = save(run, "6_train/lema", "train lema", arm="lema", seed=1)
    exported = save(run, "7_export/lema", "export lema", adapter=trained)
    test = fingerprint(SPLITS["test"])
    save(run, "8_evaluate/lema", "evaluate lema", questions=test, student=exported)
    save(run, "8_evaluate/base", "evaluate base", questions=test, student="0123456789abcdef")
    save(run, "8_evaluate", "evaluate", arms={})
    assert {of(read_status(run.path), f"evaluate{part}").state for part in ("", " lema", " base")} == {"done"}
    save(run, "6_train/lema", "train lema", arm="lema", seed=2)
    found = read_status(run.path)
    assert of(found, "export lema").why == ("train lema was made again since",)
    assert of(found, "evaluate").state == "stale"
    assert of(found, "evaluate base").state == "done"


def test_a_damaged_manifest_is_told_beside_the_rest(run: RunFolder) -> None:
    save_sample(run)
    run.stage("1_sample").manifest_path.write_text("{")
    found = read_status(run.path)
    assert of(found, "questions").state == "done"
    assert of(found, "sample").state == "damaged"
    assert found.next_command == f"rm -r {run.path}/1_sample"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"stage": 3}', "\x00" * 50])
def test_a_damaged_progress_file_or_recipe_stops_nothing(run: RunFolder, damage: str) -> None:
    save_sample(run, is_done=False)
    (run.path / "progress.json").write_text(damage)
    run.recipe_path.write_text(damage)
    assert read_progress(run.path) is None
    assert of(read_status(run.path), "sample").state == "stopped"


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        read_status(tmp_path)
