"""Checkpoints that a killed training can trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from lema_local.errors import RunStateError
from lema_local.jsonl import AppendFile, read_records
from lema_local.training.checkpoints import LogLine, last_checkpoint, mark_complete, rewind_log


def _checkpoint(parent: Path, step: int, fingerprint: str | None) -> Path:
    folder = parent / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    if fingerprint:
        mark_complete(folder, fingerprint, step)
    return folder


def _line(step: int) -> LogLine:
    return LogLine(
        step=step, loss=1.0, grad_norm=0.1, learning_rate=1e-4, tokens=9 * step, seconds=1.0, memory_gib=1
    )


def test_no_folder_means_the_beginning(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "checkpoints", "mine") is None


def test_last_whole_checkpoint_counts_and_a_torn_one_goes(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 9, "mine")
    good = _checkpoint(tmp_path, 10, "mine")
    torn = _checkpoint(tmp_path, 20, None)
    assert last_checkpoint(tmp_path, "mine") == (good, 10)
    assert not torn.exists()


def test_marker_torn_by_a_power_cut_does_not_count(tmp_path: Path) -> None:
    good = _checkpoint(tmp_path, 10, "mine")
    torn = _checkpoint(tmp_path, 20, "mine")
    (torn / "lema_complete.json").write_text('{"fingerpr')
    assert last_checkpoint(tmp_path, "mine") == (good, 10)


def test_checkpoints_of_another_training_are_refused_and_kept(tmp_path: Path) -> None:
    theirs = _checkpoint(tmp_path, 10, "theirs")
    with pytest.raises(RunStateError, match="checkpoints of another training"):
        last_checkpoint(tmp_path, "mine")
    assert theirs.exists()


def test_log_is_cut_after_the_checkpoints_step(tmp_path: Path) -> None:
    path = tmp_path / "train_log.jsonl"
    with AppendFile(path) as file:
        for step in range(1, 8):
            file.append(_line(step))
    with path.open("a") as stream:
        stream.write('{"step": 8, "lo')
    assert [line.step for line in rewind_log(path, 5, LogLine)] == [1, 2, 3, 4, 5]
    assert [line.step for line in read_records(path, LogLine)] == [1, 2, 3, 4, 5]
    assert rewind_log(path, 0, LogLine) == []
    assert path.read_bytes() == b""


def test_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert rewind_log(tmp_path / "train_log.jsonl", 5, LogLine) == []
