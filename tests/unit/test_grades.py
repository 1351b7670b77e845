from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fake_run import FakeRun

from lema_local.errors import InputError
from lema_local.grades import GradeBook, correction_id, grades_by_reviewer, read_grades
from lema_local.records import Correction
from lema_local.review.items import choose_items
from lema_local.statistics import cohens_kappa


@pytest.fixture
def corrections(tmp_path: Path) -> list[Correction]:
    run = FakeRun(train=10, test=4).write(tmp_path / "fake")
    return [item.correction for item in choose_items(run.path, None, 0).items]


def test_the_latest_click_counts_and_undo_brings_the_one_before_back(
    tmp_path: Path, corrections: list[Correction]
) -> None:
    book = GradeBook(tmp_path / "grades.sqlite")
    first, second = corrections[:2]
    book.mark("ada", first, "good")
    book.mark("ada", first, "poor")
    book.mark("bo", first, "excellent")
    book.mark("ada", second, "skip")
    assert [one.mark for one in book.current()] == ["poor", "excellent", "skip"]
    assert book.undo("ada") == correction_id(second)
    assert book.undo("ada") == correction_id(first)
    assert [(one.reviewer, one.mark) for one in book.current()] == [("ada", "good"), ("bo", "excellent")]
    assert book.undo("ada") == correction_id(first)
    assert book.undo("ada") is None  # bo's click is not ada's to take back
    assert read_grades(book.path) == {correction_id(first): ["excellent"]}


def test_skips_are_no_grades(tmp_path: Path, corrections: list[Correction]) -> None:
    book = GradeBook(tmp_path / "grades.sqlite")
    book.mark("ada", corrections[0], "skip")
    book.mark("ada", corrections[1], "good")
    assert grades_by_reviewer(book.current()) == {"ada": {correction_id(corrections[1]): "good"}}
    assert list(read_grades(book.path)) == [correction_id(corrections[1])]


def test_a_grade_belongs_to_the_words_that_were_read(corrections: list[Correction]) -> None:
    anew = corrections[0].model_copy(update={"explanation": "other words"})
    paid = corrections[0].model_copy(update={"cost_usd": 1.0, "verdict": "rejected", "reason": "x"})
    assert correction_id(anew) != correction_id(corrections[0]) == correction_id(paid)


def test_notes_are_kept_by_reviewer_and_an_empty_one_goes(tmp_path: Path) -> None:
    book = GradeBook(tmp_path / "grades.sqlite")
    book.note("ada", "x", "one")
    book.note("ada", "x", "two")
    book.note("bo", "x", "three")
    assert book.notes() == {("ada", "x"): "two", ("bo", "x"): "three"}
    book.note("ada", "x", "  ")
    assert book.notes() == {("bo", "x"): "three"}


def test_files_that_are_no_grades_are_refused_and_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "grades.sqlite"
    other.write_text("not a database, but long enough to look at" * 20)
    with pytest.raises(InputError, match="cannot use "):
        GradeBook(other)
    assert other.read_text().startswith("not a database")
    newer = tmp_path / "newer.sqlite"
    with closing(sqlite3.connect(newer)) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(InputError, match="version 7"):
        GradeBook(newer)
    with pytest.raises(InputError, match="no folder"):
        GradeBook(tmp_path / "nowhere/grades.sqlite")
    with pytest.raises(InputError, match="no grades at"):
        read_grades(tmp_path / "none.sqlite")


def test_a_larger_sample_holds_the_smaller_one_in_the_same_order(tmp_path: Path) -> None:
    run = FakeRun(train=30, test=4).write(tmp_path / "fake").path
    small, large = ([item.id for item in choose_items(run, count, 3).items] for count in (5, 12))
    assert large[:5] == small
    assert [item.id for item in choose_items(run, 5, 4).items] != small


def test_kappa_of_a_worked_table() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: agreement 0.7, by chance 0.5, kappa 0.4
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = cohens_kappa(first, second)
    assert found.n == 50
    assert found.agreed == pytest.approx(0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.interval is not None
    assert found.interval.low < 0.4 < found.interval.high
    assert cohens_kappa(["a", "a"], ["a", "a"]).kappa is None
    assert cohens_kappa(["a", "b"], ["a", "b"]).kappa == pytest.approx(1.0)
