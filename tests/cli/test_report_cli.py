"""`lema report RUN`: beside another run, into another folder, of a run that cannot be written or is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_run import FakeRun

from lema_local.cli import lema


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(lema, ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FakeRun(train=8, test=12).write(tmp_path_factory.mktemp("run") / "one").path


def test_the_report_goes_where_it_is_wanted_and_puts_a_run_beside_it(run: Path, tmp_path: Path) -> None:
    other = FakeRun(train=8, test=12, seed=3).write(tmp_path / "two").path
    done = call(run, "--compare", other, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "out/report.html")
    assert "one beside two" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert not (run / "9_report").exists()


def test_a_run_that_cannot_be_written_is_one_message_with_the_way_on(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    done = call(run, "--out", tmp_path / "file/out")
    assert done.exit_code == 2
    assert "cannot write" in done.stderr
    assert "--out FOLDER" in done.stderr
    assert "Traceback" not in done.output


def test_a_damaged_run_is_reported_and_the_damage_told(run: Path, tmp_path: Path) -> None:
    bad = FakeRun(train=8, test=12).write(tmp_path / "bad").path
    (bad / "8_evaluate/scores.json").write_text("{")
    (bad / "1_sample/paths.jsonl").write_text('{"of": "another version"}\n')
    done = call(bad)
    assert done.exit_code == 0, done.output
    assert "Note: 8_evaluate/scores.json is damaged" in done.stderr
    assert "1 damaged line(s) left out" in done.stderr
    assert (bad / "9_report/report.html").is_file()


@pytest.mark.parametrize("has_folder", [True, False])
def test_what_is_no_run_is_said(tmp_path: Path, has_folder: bool) -> None:
    if has_folder:
        (tmp_path / "empty").mkdir()
    done = call(tmp_path / "empty")
    assert done.exit_code == 2
    assert ("holds no run" if has_folder else "does not exist") in done.stderr


def test_a_run_beside_what_is_no_run_is_said(run: Path, tmp_path: Path) -> None:
    done = call(run, "--compare", tmp_path)
    assert done.exit_code == 2
    assert "holds no run" in done.stderr
