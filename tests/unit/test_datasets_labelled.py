import json
from pathlib import Path
from typing import Any

import pytest

from lema_local.datasets import read_labelled
from lema_local.errors import InputError

PROCESSBENCH = {
    "id": "gsm8k-1",
    "generator": "m",
    "problem": "?",
    "steps": ["a", "b"],
    "final_answer_correct": False,
}
BIGBENCH = {
    "input": "(1+2)*3 =",
    "steps": ["1+2=3", "3*3=8"],
    "target": "9",
    "answer": "8",
    "mistake_index": 1,
}


def _write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_processbench_counts_from_zero_and_we_from_one(tmp_path: Path) -> None:
    rows = [PROCESSBENCH | {"label": 1}, PROCESSBENCH | {"label": -1, "id": "gsm8k-2"}]

    wrong, right = read_labelled(_write(tmp_path / "gsm8k.jsonl", *rows))

    assert (wrong.id, wrong.dataset, wrong.incorrect_step) == ("gsm8k-1", "processbench", 2)
    assert right.incorrect_step is None


def test_bigbench_mistake_counts_from_zero_and_we_from_one(tmp_path: Path) -> None:
    wrong, right = read_labelled(
        _write(tmp_path / "m.jsonl", BIGBENCH, BIGBENCH | {"mistake_index": None, "answer": "9"})
    )

    assert (wrong.incorrect_step, wrong.gold_answer, wrong.final_answer, wrong.has_correct_answer) == (
        2,
        "9",
        "8",
        False,
    )
    assert (right.id, right.incorrect_step, right.has_correct_answer) == ("m/00001", None, True)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"steps": []}, "no list 'steps'"),
        ({"steps": ["a"]}, "neither 'label' nor 'mistake_index'"),
        (PROCESSBENCH | {"label": 2}, "the first wrong step is 2, but there are 2 steps"),
        (PROCESSBENCH | {"label": None}, "the first wrong step is None"),
        ({"steps": ["a"], "label": 0}, "no field 'id'"),
    ],
)
def test_bad_lines_are_told(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read_labelled(_write(tmp_path / "m.jsonl", row))

    assert f"line 1: {reason}" in str(caught.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no solutions"):
        read_labelled(_write(tmp_path / "m.jsonl"))


def test_the_public_files_are_read(lema_data: Path) -> None:
    labelled = lema_data / "labelled_mistakes"

    bigbench = read_labelled(labelled / "bigbench_mistake_multistep_arithmetic.jsonl")
    processbench = read_labelled(labelled / "processbench_schema_sample.jsonl")

    assert (len(bigbench), len(processbench)) == (300, 20)
    assert all(
        one.incorrect_step is None or one.incorrect_step <= len(one.steps) for one in bigbench + processbench
    )
