"""Run folders."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from lema_local.errors import RunStateError
from lema_local.runs import Manifest, RunFolder, changed_settings, fingerprint


def test_the_fingerprint_does_not_depend_on_the_order_of_settings() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_what_differs_is_said_in_words() -> None:
    before = {"sample": {"temperature": 0.7, "seed": 1}, "prompt": "abc"}
    now = {"sample": {"temperature": 0.9, "seed": 1}, "student": {"sha256": "x"}}
    assert changed_settings(before, now) == [
        "prompt: was abc, is not set",
        "sample.temperature: was 0.7, is 0.9",
        "student.sha256: was not set, is x",
    ]


def test_a_stage_is_finished_once_its_manifest_is_there(tmp_path: Path) -> None:
    stage = RunFolder(tmp_path / "run").stage("1_sample")
    manifest = Manifest(stage="sample", fingerprint="f", made_from={})
    assert stage.started() is None
    stage.save_started(manifest)
    assert stage.started() == manifest
    assert stage.manifest() is None
    stage.save_manifest(manifest)
    finished = stage.manifest()
    assert finished is not None
    assert finished.finished_at is not None
    assert "python" in finished.versions


def test_a_damaged_manifest_is_said_with_the_way_on(tmp_path: Path) -> None:
    stage = RunFolder(tmp_path).stage("1_sample")
    stage.path.mkdir()
    stage.manifest_path.write_text("{")
    with pytest.raises(RunStateError, match="is damaged") as caught:
        stage.manifest()
    assert caught.value.hint is not None
    assert "1_sample" in caught.value.hint


def test_a_stage_taken_over_keeps_its_files_and_says_where_from(tmp_path: Path) -> None:
    old, new = RunFolder(tmp_path / "old").stage("1_sample"), RunFolder(tmp_path / "new").stage("1_sample")
    old.save_started(Manifest(stage="sample", fingerprint="f", made_from={}))
    (old.path / "paths.jsonl").write_text("{}\n")
    old.save_manifest(Manifest(stage="sample", fingerprint="f", made_from={}, cost_usd=2.0, seconds=3.0))
    new.take_over(old)
    assert (new.path / "paths.jsonl").read_text() == "{}\n"
    taken = new.manifest()
    assert taken is not None
    assert taken.reused_from == str(old.path)
    assert (taken.cost_usd, taken.seconds) == (0.0, 0.0)


def test_the_parts_of_a_stage_taken_over_stay_finished(tmp_path: Path) -> None:
    old, new = RunFolder(tmp_path / "old"), RunFolder(tmp_path / "new")
    for name in ("6_train/cot", "6_train"):
        old.stage(name).save_manifest(Manifest(stage=name, fingerprint="f", made_from={}, cost_usd=2.0))
    new.stage("6_train").take_over(old.stage("6_train"))
    part = new.stage("6_train/cot").manifest()
    assert part is not None
    assert (part.stage, part.reused_from, part.cost_usd) == (
        "6_train/cot",
        str(tmp_path / "old/6_train/cot"),
        0.0,
    )


def _hold(path: Path, held: multiprocessing.Event, release: multiprocessing.Event) -> None:  # type: ignore[valid-type]
    with RunFolder(path).lock():
        held.set()  # type: ignore[attr-defined]
        release.wait(30)  # type: ignore[attr-defined]


def test_two_processes_cannot_work_in_one_run_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held, release))
    other.start()
    try:
        assert held.wait(30)
        with pytest.raises(RunStateError, match="another process is at work"), RunFolder(tmp_path).lock():
            pass
    finally:
        release.set()
        other.join()
    with RunFolder(tmp_path).lock():
        pass
