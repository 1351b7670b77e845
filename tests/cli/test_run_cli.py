"""What `lema` says to wrong input: one clear message, the right exit code, no traceback, nothing lost."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from command import lema as lema_process
from command import tiny

from lema_local.cli import COMMANDS, lema
from lema_local.recipe import shipped_recipes


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(lema, [str(argument) for argument in arguments])


def assert_told(result: Result, *words: str, code: int = 2) -> None:
    """The message holds the words, a next step, and no traceback."""
    assert result.exit_code == code, result.output
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A copy of the quickstart's recipe, to be spoilt."""
    target = tmp_path / "my.yaml"
    assert call("recipes", "copy", "quickstart", target).exit_code == 0
    return target


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_passes_its_check(name: str) -> None:
    result = call("recipes", "check", name)
    assert result.exit_code == 0, result.output


def test_a_missing_recipe_is_told_with_the_nearest_name() -> None:
    assert_told(call("run", "quikstart"), "no recipe quikstart", "did you mean 'quickstart'?")


def test_a_broken_recipe_is_told_with_its_place(recipe: Path) -> None:
    recipe.write_text("name: [x\nquestions: {")
    assert_told(call("run", recipe), "is no YAML", "line 2")


def test_a_recipe_that_is_a_list_is_told(recipe: Path) -> None:
    recipe.write_text("- a\n")
    assert_told(call("recipes", "check", recipe), "expected blocks")


def test_all_problems_are_listed_at_once_with_the_nearest_known_key(recipe: Path) -> None:
    flags = [
        *("--set", "sample.temprature=0.7"),
        *("--set", "sample.seed=one"),
        *("--set", "trian.epochs=1"),
        *("--set", "questions.train.limit=0"),
    ]
    result = call("run", recipe, *flags)
    assert_told(
        result,
        "has 4 problem(s)",
        "sample.temprature: unknown key (did you mean 'temperature'?)",
        "trian: unknown key (did you mean 'train'?)",
        "sample.seed: ",
        "questions.train.limit: ",
    )


@pytest.mark.parametrize("override", ["sample.temperature", "=3", "name.x=3", "sample.seed=[1"])
def test_an_override_that_cannot_be_applied_is_told(recipe: Path, override: str) -> None:
    assert_told(call("run", recipe, "--set", override), "--set")


def test_an_unknown_command_is_told_with_the_nearest_name() -> None:
    assert_told(call("corect"), "did you mean 'correct'?")


def test_an_unknown_stage_is_told(recipe: Path, tmp_path: Path) -> None:
    assert_told(call("run", recipe, "--run", tmp_path / "r", "--until", "bild"), "no stage 'bild'")


def test_malformed_question_lines_are_told_with_file_and_line(recipe: Path, tmp_path: Path) -> None:
    lines = tmp_path / "questions.jsonl"
    good = {"id": "a", "dataset": "own", "split": "train", "question": "1+1?", "gold_answer": "2"}
    lines.write_text(
        json.dumps(good) + "\nno json\n" + json.dumps({**good, "id": "b", "gold_answer": None}) + "\n"
    )
    flags = ("--set", f"questions.train={lines}", "--run", tmp_path / "r")
    assert_told(call("run", recipe, *flags), str(lines), "line 2", "line 3", "gold_answer")


def test_a_file_that_is_no_gguf_is_told(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no model at all")
    result = call("run", recipe, "--student", tmp_path / "x.gguf", "--run", tmp_path / "r", *tiny())
    assert_told(result, "x.gguf")


def test_a_missing_student_is_told(recipe: Path, tmp_path: Path) -> None:
    assert_told(call("run", recipe, "--student", "nothing.gguf", "--run", tmp_path / "r"), "nothing.gguf")


def test_a_test_question_among_those_to_train_on_is_refused(recipe: Path, tmp_path: Path) -> None:
    flags = (
        "--set",
        "questions.train={source: quickstart@test, limit: 10, seed: 1}",
        "--run",
        tmp_path / "r",
    )
    assert_told(call("run", recipe, *flags), "test question(s) are among the training questions")


@pytest.fixture
def sampled(recipe: Path, tmp_path: Path) -> tuple[str | Path, ...]:
    """The command of a run whose paths are sampled."""
    command = ("run", recipe, *tiny(), "--run", tmp_path / "r")
    assert call(*command, "--until", "sample").exit_code == 0
    return command


def test_a_missing_key_is_told_before_anything_is_sent(
    sampled: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert_told(call(*sampled, "--teacher", "gpt-4o", "--until", "filter"), "OPENAI_API_KEY")


def test_an_unreachable_teacher_is_told(sampled: tuple[str | Path, ...]) -> None:
    flags = ("--teacher", "openai/x", "--teacher-url", "http://127.0.0.1:9", "--set", "correct.retries=0")
    result = call(*sampled, *flags, "--until", "filter")
    assert_told(result, "127.0.0.1:9")
    again = call(*sampled, "--until", "filter")  # nothing was begun with the other teacher
    assert again.exit_code == 0, again.output


def test_a_full_disk_is_told_and_nothing_is_lost(recipe: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write fails in the same place."""
    flags = tiny("sample.samples_per_question=8", "sample.keep_identical=true")
    command = ("run", recipe, *flags, "--run", tmp_path / "r", "--until", "sample")

    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))

    full = lema_process(*command, home=tmp_path / "home", before=limit_files)
    assert full.returncode == 1, full.stderr
    assert "cannot write" in full.stderr
    assert "what was written before is kept" in full.stderr
    assert "Traceback" not in full.stderr
    done = lema_process(*command, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr


def test_a_report_of_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    assert_told(call("report", tmp_path), "holds no run")


def test_a_report_of_an_unfinished_run_says_what_is_there(
    sampled: tuple[str | Path, ...], tmp_path: Path
) -> None:
    result = call("report", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "r/9_report/report.html").exists()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output


def test_lema_alone_shows_where_to_start() -> None:
    result = call()
    assert result.exit_code == 0
    assert "lema quickstart" in result.output


def test_a_recipe_is_never_overwritten(recipe: Path) -> None:
    assert_told(call("recipes", "copy", "quickstart", recipe), "is there already")


def test_resolved_recipe_is_a_recipe(recipe: Path, tmp_path: Path) -> None:
    shown = call("recipes", "show", "quickstart", "--resolved")
    (tmp_path / "resolved.yaml").write_text(shown.output)
    assert call("recipes", "check", tmp_path / "resolved.yaml").exit_code == 0
