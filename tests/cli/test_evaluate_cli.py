"""`lema evaluate` and `lema compare` with the embedded student and with an endpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_teacher import FakeTeacher

from lema_local.cli import lema
from lema_local.jsonl import write_records
from lema_local.quickstart.problems import generate_questions
from lema_local.records import Question


def run(*arguments: object) -> Result:
    return CliRunner().invoke(lema, ["-q", *map(str, arguments)])


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("asked") / "questions.jsonl"
    write_records(path, [Question.model_validate(one) for one in generate_questions("test", 12, 1)])
    return path


@pytest.fixture(scope="module")
def evaluated(asked: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("out") / "base"
    done = run(
        "evaluate", asked, "--student", "quickstart", "--max-tokens", 120, "--samples", 4, "--out", out,
        "--group-by", "held_back",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return out, done


def test_greedy_and_sampled_answers_are_scored_apart(evaluated: tuple[Path, Result]) -> None:
    out, done = evaluated
    [score] = json.loads((out / "scores.json").read_text())["arms"]
    assert score["share"]["n"] == 12
    assert sum(share["n"] for share in score["groups"]["held_back"].values()) == 12
    assert set(score["sampled"]["pass_at_k"]) == {"1", "2", "4"}
    assert score["sampled"]["pass_at_k"]["4"]["value"] >= score["sampled"]["pass_at_k"]["1"]["value"]
    assert len((out / "quickstart.jsonl").read_text().splitlines()) == 12
    assert len((out / "sampled/quickstart.jsonl").read_text().splitlines()) == 48
    for word in ("pass@1", "pass@4", "maj@4", "held_back="):
        assert word in done.stdout


def test_the_same_command_again_answers_nothing_anew(evaluated: tuple[Path, Result], asked: Path) -> None:
    out, first = evaluated
    before = (out / "quickstart.jsonl").stat().st_mtime_ns
    again = run(
        "evaluate", asked, "--student", "quickstart", "--max-tokens", 120, "--samples", 4, "--out", out,
        "--group-by", "held_back",
    )  # fmt: skip
    assert again.stdout == first.stdout
    assert (out / "quickstart.jsonl").stat().st_mtime_ns == before


def test_other_settings_are_refused_by_name(evaluated: tuple[Path, Result], asked: Path) -> None:
    done = run("evaluate", asked, "--student", "quickstart", "--max-tokens", 99, "--out", evaluated[0])
    assert done.exit_code == 2
    assert "evaluate.max_tokens: was 120, is 99" in done.stderr


def test_an_endpoint_is_an_arm_and_is_compared_with_another(
    evaluated: tuple[Path, Result], asked: Path, tmp_path: Path
) -> None:
    with FakeTeacher(lambda _: "The answer is 7.") as server:
        done = run(
            "evaluate", asked, "--student", "served", "--student-url", server.url, "--arm", "served",
            "--max-tokens", 50, "--out", tmp_path / "served",
        )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "quickstart, served: " in done.stdout
    compared = run("compare", evaluated[0], tmp_path / "served")
    assert compared.exit_code == 0, compared.output
    for word in ("exact McNemar", "95 % interval", "could have shown a difference"):
        assert word in compared.stdout
    [one] = json.loads(run("compare", evaluated[0], tmp_path / "served", "--json").stdout)
    assert (one["first"], one["second"], one["n"]) == ("base", "served", 12)


def test_questions_given_twice_are_refused(asked: Path, tmp_path: Path) -> None:
    done = run("evaluate", asked, asked, "--student", "quickstart", "--out", tmp_path / "x")
    assert done.exit_code == 2
    assert "12 question(s) are given twice" in done.stderr


def test_nothing_to_compare_is_said(evaluated: tuple[Path, Result], tmp_path: Path) -> None:
    assert "one folder" in run("compare", evaluated[0]).stderr
    done = run("compare", evaluated[0], tmp_path)
    assert done.exit_code == 2
    assert "holds no predictions" in done.stderr
