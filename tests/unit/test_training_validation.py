"""Looks at held-out examples: which adapter is the best, and how the examples are laid out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_local.jsonl import read_records
from lema_local.training.validation import (
    BEST,
    VALIDATION_LOG_NAME,
    Looks,
    ValidationLine,
    fill_rows,
    is_better,
    read_best,
)


def _line(loss: float, right: float | None = None) -> ValidationLine:
    return ValidationLine(step=1, loss=loss, pass_at_1=right, seconds=0.0)


@pytest.mark.parametrize(
    ("one", "other", "by_answers", "expected"),
    [
        (_line(1.0), None, False, True),
        (_line(1.0), _line(1.1), False, True),
        (_line(1.1), _line(1.0), False, False),
        (_line(1.0), _line(1.0), False, False),  # the earlier one stays
        (_line(math.nan), None, False, False),
        (_line(math.inf), _line(9.0), False, False),
        (_line(2.0, 0.5), _line(1.0, 0.4), True, True),
        (_line(1.0, 0.5), _line(2.0, 0.5), True, True),
        (_line(2.0, 0.5), _line(1.0, 0.4), False, False),
        (_line(0.9), _line(1.0, 0.9), False, True),
    ],
)
def test_the_better_look(
    one: ValidationLine, other: ValidationLine | None, by_answers: bool, expected: bool
) -> None:
    assert is_better(one, other, by_answers=by_answers) is expected


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 100), st.booleans())
def test_rows_hold_every_example_once_within_the_tokens(
    lengths: list[int], tokens: int, is_packed: bool
) -> None:
    rows = fill_rows(lengths, tokens, is_packed=is_packed)
    assert sorted(one for row in rows for one in row) == list(range(len(lengths)))
    for row in rows:
        some = [lengths[one] for one in row]
        wide = sum(some) if is_packed else len(some) * max(some)
        assert wide <= tokens or len(row) == 1


def _looks(out: Path, losses: list[float], fingerprint: str = "mine", *, is_main: bool = True) -> Looks:
    left = iter(losses)

    def save(folder: Path) -> None:
        if is_main:
            folder.mkdir()
            (folder / "weights").write_text("w")

    return Looks(out, fingerprint, lambda: next(left), save, None, 0, is_main=is_main)


def test_best_of_this_training_stays_and_another_ones_does_not_count(tmp_path: Path) -> None:
    looks = _looks(tmp_path, [3.0, 2.0, 2.5])
    for step in (10, 20, 30):
        looks.look(step)
    best = read_best(tmp_path / BEST, "mine")
    assert best is not None
    assert (best.line.step, best.line.loss) == (20, 2.0)
    assert [line.loss for line in read_records(tmp_path / VALIDATION_LOG_NAME, ValidationLine)] == [
        3.0,
        2.0,
        2.5,
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEST, VALIDATION_LOG_NAME]
    assert read_best(tmp_path / BEST, "theirs") is None
    _looks(tmp_path, [9.0], "theirs").look(1)
    assert read_best(tmp_path / BEST, "theirs") is not None


def test_other_processes_compute_along_and_write_nothing(tmp_path: Path) -> None:
    assert _looks(tmp_path, [3.0], is_main=False).look(10).loss == 3.0
    assert list(tmp_path.iterdir()) == []
