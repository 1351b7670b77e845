"""`lema curve` as typed: the plan, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_run import FakeRun

from lema_local.cli import lema
from lema_local.jsonl import read_records
from lema_local.records import Correction
from lema_local.runs import Manifest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = FakeRun(train=20, test=4).write(tmp_path / "run")
    accepted = len(read_records(folder.path / "4_filter/accepted.jsonl", Correction))
    for stage, counts in (
        ("4_filter", {"accepted": accepted}),
        ("5_build", {"lema": {"examples": 20 + accepted, "correction": accepted, "repeated": 0}}),
    ):
        folder.stage(stage).save_manifest(
            Manifest(stage=stage, fingerprint="f", made_from={}, counts=dict(counts))
        )
    return folder.path


def _curve(*words: object) -> Result:
    return CliRunner().invoke(lema, ["curve", *map(str, words)])


def test_the_plan_says_examples_steps_and_time_and_trains_nothing(run: Path) -> None:
    done = _curve(run, "--sizes", "8,4", "--seeds", "0,1", "--set", "train.batch_size=4", "--dry-run")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[:4] for line in lines[2:4]] == [["4", "24", "18", "4"], ["8", "28", "21", "4"]]
    assert lines[-1].startswith("in all about")
    assert not (run / "curve").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sizes", "99999"), "99,999 corrections are asked for"),
        (("--sizes", "4", "--arms", "lima"), "got 'lima'"),
        (
            ("--sizes", "4", "--set", "teacher.model=gpt-4o"),
            "rests on the run's own questions and corrections",
        ),
        ((), "Missing option '--sizes'"),
    ],
)
def test_a_wrong_flag_ends_with_exit_2_and_no_traceback(
    run: Path, words: tuple[str, ...], message: str
) -> None:
    done = _curve(run, *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_an_unfinished_run_and_no_run_are_told_with_the_way_on(run: Path, tmp_path: Path) -> None:
    (run / "4_filter/manifest.json").unlink()
    done = _curve(run, "--sizes", "4")
    assert done.exit_code == 2
    assert f"Try: lema run {run / 'recipe.yaml'} --run {run} --until filter" in done.stderr
    assert _curve(tmp_path / "none", "--sizes", "4").exit_code == 2
