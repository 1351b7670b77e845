"""`lema dataset export|import|push` as typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from command import lema as command
from fake_hub import serve_hub
from fake_run import FakeRun

from lema_local.cli import lema
from lema_local.jsonl import read_records
from lema_local.records import Correction


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return FakeRun(train=12, test=4, samples=2).write(tmp_path / "run").path


def _lema(*arguments: object) -> Result:
    return CliRunner().invoke(lema, list(map(str, arguments)))


def _export(run: Path) -> Path:
    folder = run.parent / "shared"
    # The fake run's test questions are worded like its training questions.
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "build: {remove_contaminated: []}\n")
    done = _lema("dataset", "export", run, "--out", folder)
    assert done.exit_code == 0, done.output
    return folder


def test_export_says_what_it_wrote_and_import_what_it_took(run: Path, tmp_path: Path) -> None:
    folder = _export(run)
    assert (folder / "README.md").is_file()
    done = _lema("dataset", "import", folder, "--out", tmp_path / "in")
    assert done.exit_code == 0, done.output
    accepted = read_records(run / "4_filter/accepted.jsonl", Correction)
    assert f"questions 12; corrections {len(accepted)}: accepted {len(accepted)}" in done.stdout
    assert f"--set correct.source={tmp_path / 'in' / 'corrections.jsonl'}" in done.stderr
    assert json.loads((tmp_path / "in/import.json").read_text())["claimed"] == {"accepted": len(accepted)}
    again = _lema("dataset", "import", folder, "--out", tmp_path / "in")
    assert again.exit_code == 2
    assert "not empty" in again.stderr
    counts = json.loads(_lema("dataset", "import", folder, "--out", tmp_path / "in2", "--json").stdout)
    assert counts["verdicts"] == {"accepted": len(accepted)}
    assert (counts["questions"], counts["not_as_claimed"]) == (12, 0)


def test_another_schema_ends_with_exit_2_and_the_way_on(tmp_path: Path) -> None:
    (tmp_path / "theirs.csv").write_text("problem,answer\n1+1?,2\n")
    done = _lema("dataset", "import", tmp_path / "theirs.csv", "--out", tmp_path / "in")
    assert done.exit_code == 2
    assert "is of another schema; columns missing: question_id" in done.stderr
    assert "unknown: problem, answer" in done.stderr
    assert "--map question=COLUMN" in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "in").exists()
    wrong = _lema("dataset", "import", tmp_path / "theirs.csv", "--out", tmp_path / "in", "--zero-based")
    assert wrong.exit_code == 2
    assert "goes with --map" in wrong.stderr


def test_what_the_hub_does_not_have_is_told_without_a_traceback(tmp_path: Path) -> None:
    done = _lema("dataset", "import", "nobody/nothing", "--out", tmp_path / "in")
    assert done.exit_code == 2
    assert "nobody/nothing is no folder here, and cannot be fetched from the hub" in done.stderr


def test_without_datasets_the_way_to_install_it_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    done = _lema("dataset", "export", run, "--out", run.parent / "shared")
    assert done.exit_code == 2
    assert "pip install 'lema-local[train]'" in done.stderr
    assert not (run.parent / "shared").exists()


def test_a_folder_is_pushed_when_told_to_and_imported_from_the_hub(run: Path, tmp_path: Path) -> None:
    folder = _export(run)
    with serve_hub() as hub:
        there = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_fake", "HF_HUB_OFFLINE": "0"}
        words = ("dataset", "push", folder, "--to", "me/corrections")
        listed = command(*words, home=tmp_path / "home", **there)
        assert listed.returncode == 0, listed.stderr
        assert "Nothing was uploaded" in listed.stdout
        assert hub.files == {}
        done = command(*words, "--yes", home=tmp_path / "home", **there)
        assert done.returncode == 0, done.stderr
        hub.files["me/corrections"]["evil.py"] = b"raise SystemExit"
        words = ("dataset", "import", "me/corrections", "--out", tmp_path / "in")
        taken = command(*words, home=tmp_path / "home", HF_HOME=str(tmp_path / "hf"), **there)
        assert taken.returncode == 0, taken.stderr
        assert "evil.py" not in hub.fetched, "no code is fetched"
        missing = command(
            "dataset", "import", "me/none", "--out", tmp_path / "no", home=tmp_path / "home", **there
        )
        assert missing.returncode == 2
        assert "me/none is no folder here, and cannot be fetched" in missing.stderr
    accepted = (run / "4_filter/accepted.jsonl").read_text().splitlines()
    assert len((tmp_path / "in/corrections.jsonl").read_text().splitlines()) == len(accepted)
    assert hub.files["me/corrections"].pop("evil.py")
    assert hub.repositories["me/corrections"]["type"] == "dataset"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(hub.files["me/corrections"]) == names
    assert hub.files["me/corrections"]["README.md"] == (folder / "README.md").read_bytes()


def test_a_folder_of_no_export_is_not_pushed(tmp_path: Path) -> None:
    done = _lema("dataset", "push", tmp_path, "--to", "me/corrections", "--yes")
    assert done.exit_code == 2
    assert "has no lema_dataset.json, README.md" in done.stderr


def test_the_groups_former_name_is_still_understood() -> None:
    done = _lema("datasets", "list")
    assert done.exit_code == 0
    assert done.stdout == _lema("dataset", "list").stdout
    assert "datasets" not in _lema("--help").stdout.split()
