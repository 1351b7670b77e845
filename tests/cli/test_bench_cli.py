"""`lema teachers list|bench`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_teacher import FakeTeacher
from test_correct_cli import run, summary, write_inputs


def write_labelled(folder: Path, *, has_right: bool = True) -> Path:
    rows = [
        {"id": "p0", "problem": "2 * 3 =", "steps": ["2 * 3 = 7.", "The answer is 7."], "label": 0},
        {"id": "p1", "problem": "2 + 3 =", "steps": ["2 + 3 = 5.", "The answer is 5."], "label": -1},
    ]
    path = folder / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[: 1 + has_right]))
    return path


def test_two_teachers_are_compared_on_the_same_mistakes(tmp_path: Path) -> None:
    write_inputs(tmp_path, 30)
    files = [str(tmp_path / "paths.jsonl"), "--questions", str(tmp_path / "questions.jsonl"), "--limit", "20"]
    with FakeTeacher(usage=[1000, 100]) as server:
        words = [
            "--teacher",
            "reference",
            "--teacher",
            "openai/x",
            "--teacher-url",
            "-",
            "--teacher-url",
            server.url,
        ]
        prices = ["--price-in", "1", "--price-out", "10"]
        told = summary(run("teachers", "bench", *files, *words, *prices, "--json"))
        table = run("teachers", "bench", *files, *words, *prices)
        assert server.requests == 20, "the second bench is free"
    reference, other = told["teachers"]
    assert (reference["accepted"]["hits"], reference["accepted"]["n"]) == (20, 20)
    assert (reference["cost_usd"], reference["usd_per_kept"]["value"]) == (0.0, 0.0)
    kept = other["accepted"]["hits"]
    assert 10 < kept < 20, "the server adds up one of seven sums wrongly"
    assert other["cost_usd"] == pytest.approx(0.04)
    assert other["usd_per_kept"]["value"] == pytest.approx(0.04 / kept)
    assert other["on_wrong"]["why_not"] == "no solution is labelled"
    (agreement,) = told["agreement"]
    assert (agreement["same_step"]["hits"], agreement["both_accepted"]) == (20, kept)
    assert f"{kept}/20" in table.stdout
    assert "-: no solution is labelled" in table.stdout
    assert table.exit_code == 0


@pytest.mark.parametrize("has_right", [True, False])
def test_labelled_solutions_in_processbenchs_form(tmp_path: Path, has_right: bool) -> None:
    path = write_labelled(tmp_path, has_right=has_right)
    told = summary(run("teachers", "bench", "--labelled", str(path), "--teacher", "reference", "--json"))
    (score,) = told["teachers"]
    assert (score["on_wrong"]["hits"], score["on_wrong"]["n"]) == (1, 1)
    assert score["harmonic_mean"]["value"] == (1.0 if has_right else None)
    table = run("teachers", "bench", "--labelled", str(path), "--teacher", "reference").stdout
    assert ("-: no right solution in the sample" in table) != has_right


def test_the_reference_teacher_names_the_first_wrong_step_of_labelled_arithmetic(
    tmp_path: Path, lema_data: Path
) -> None:
    path = lema_data / "labelled_mistakes" / "bigbench_mistake_multistep_arithmetic.jsonl"
    words = ["--teacher", "reference", "--limit", "300", "--json"]
    (score,) = summary(run("teachers", "bench", "--labelled", str(path), *words))["teachers"]
    assert (score["on_wrong"]["n"], score["on_right"]["n"]) == (238, 62)
    assert score["harmonic_mean"]["value"] > 0.84


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "what is to be corrected?"),
        (["paths.jsonl", "--labelled", "paths.jsonl"], "what is to be corrected?"),
        (["paths.jsonl"], "its questions are not named"),
    ],
)
def test_what_is_missing_is_told(tmp_path: Path, words: list[str], message: str) -> None:
    write_inputs(tmp_path, 1)
    given = [str(tmp_path / word) if word.endswith("jsonl") else word for word in words]
    result = run("teachers", "bench", *given, "--teacher", "reference")
    assert result.exit_code == 2
    assert message in result.stderr


def test_teachers_are_listed_with_their_prices() -> None:
    kinds = run("teachers", "list")
    assert "llamacpp/PATH.gguf" in kinds.stdout
    models = json.loads(run("teachers", "list", "gpt-4o-mini", "--json").stdout)
    (found,) = [model for model in models if model["name"] == "gpt-4o-mini"]
    assert found["usd_in"] > 0
    assert "may still be asked" in run("teachers", "list", "no-such-model").stdout
