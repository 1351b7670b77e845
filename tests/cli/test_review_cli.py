from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from command import lema as run_lema
from fake_run import FakeRun

from lema_local.cli import lema
from lema_local.cli.review import describe_grades
from lema_local.grades import GradeBook
from lema_local.jsonl import read_records
from lema_local.records import Correction
from lema_local.review.items import choose_items
from lema_local.review.server import LOOPBACK


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(lema, ["review", *map(str, arguments), "--no-open"])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


def test_a_run_without_corrections_is_refused(tmp_path: Path) -> None:
    assert "holds no accepted correction" in refused(tmp_path)


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    run = FakeRun(train=8, test=4).write(tmp_path / "fake").path
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        told = refused(run, "--port", str(taken.getsockname()[1]))
    assert "cannot open port" in told
    assert "leave out --port" in told


def test_grades_that_cannot_be_kept_are_told(tmp_path: Path) -> None:
    run = FakeRun(train=8, test=4).write(tmp_path / "fake").path
    assert "no folder" in refused(run, "--grades", tmp_path / "nowhere/grades.sqlite")
    (run / "grades.sqlite").write_bytes(b"something else " * 100)
    assert "--grades FILE" in refused(run)
    assert "--reviewer" in refused(run, "--reviewer", "a\nb")


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path, lema_home: Path) -> None:
    import os

    if os.geteuid() == 0 and not _can_drop_rights():
        pytest.skip("root may write everywhere, and setpriv is not there to be somebody else")
    run = FakeRun(train=8, test=4).write(tmp_path / "fake").path
    run.chmod(0o555)
    try:
        told = run_lema("review", run, "--no-open", home=lema_home, before=_drop_rights)
    finally:
        run.chmod(0o755)
    assert told.returncode == 2, told.stderr
    assert "--grades FILE" in told.stderr


def test_grades_flow_back_into_the_filter(tmp_path: Path) -> None:
    run = FakeRun(train=20, test=4).write(tmp_path / "fake").path
    book, items = GradeBook(run / "grades.sqlite"), choose_items(run, 3, 0).items
    for item, mark in zip(items, ("poor", "good", "skip"), strict=True):
        book.mark("ada", item.correction, mark)  # type: ignore[arg-type]
    both = ("--accepted", tmp_path / "a.jsonl", "--rejected", tmp_path / "r.jsonl")
    command = [
        "filter",
        run / "4_filter/accepted.jsonl",
        "--questions",
        run / "0_questions/train.jsonl",
        *both,
    ]
    flags = ["--drop-graded", "poor", "--grades", run / "grades.sqlite"]
    result = CliRunner().invoke(lema, [str(word) for word in (*command, *flags)])
    assert result.exit_code == 0, result.output
    rejected = [one for one in read_records(tmp_path / "r.jsonl", Correction) if one.reason]
    assert [one.question_id for one in rejected if "graded" in str(one.reason)] == [
        items[0].correction.question_id
    ]
    assert CliRunner().invoke(lema, [str(word) for word in (*command, *flags[:2])]).exit_code == 2
    flags[3] = tmp_path / "none.sqlite"
    assert "no grades at" in CliRunner().invoke(lema, [str(word) for word in (*command, *flags)]).output


def _can_drop_rights() -> bool:
    return subprocess.run(["true"], preexec_fn=_drop_rights, check=False).returncode == 0


def _drop_rights() -> None:
    """In a child: root without the right to write where the mode forbids it (CAP_DAC_OVERRIDE)."""
    import ctypes
    import os

    if os.geteuid() == 0:
        library = ctypes.CDLL(None, use_errno=True)
        if library.prctl(24, 1, 0, 0, 0) or library.prctl(24, 2, 0, 0, 0):  # PR_CAPBSET_DROP
            raise OSError(ctypes.get_errno(), "cannot drop rights")


def test_the_summary_tells_grades_and_agreement() -> None:
    grades = {
        "ada": {"a": "excellent", "b": "poor", "c": "good", "d": "good"},
        "bob": {"a": "excellent", "b": "poor", "c": "poor"},
    }
    told = describe_grades(grades)
    assert told[0] == "ada: 4 corrections graded"
    assert "  good          2   50.0% (95 % 15.0% to 85.0%)" in told
    # Observed 2/3, expected (1 + 1 * 2 + 0) / 9 = 3/9: kappa 0.5.
    assert told[-1] == "ada and bob: 3 in common, the same grade 66.7%, Cohen's kappa 0.50"
    assert describe_grades({}) == ["nothing is graded yet"]


def test_a_summary_without_grades_says_what_to_do(tmp_path: Path) -> None:
    result = CliRunner().invoke(lema, ["review", str(tmp_path), "--summary"])
    assert result.exit_code == 2
    assert "grade corrections first: lema review RUN" in result.output
