"""`lema init`: the recipe that it writes passes its check and holds the answers."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from command import LEMA, environment

from lema_local.cli import lema
from lema_local.recipe import load_recipe


def call(*arguments: str | Path) -> int:
    return CliRunner().invoke(lema, ["init", *map(str, arguments)]).exit_code


def test_without_answers_the_recipe_is_the_embedded_one_and_passes_its_check(tmp_path: Path) -> None:
    assert call(tmp_path / "my.yaml") == 0
    checked = CliRunner().invoke(lema, ["recipes", "check", str(tmp_path / "my.yaml")])
    assert (checked.exit_code, "ok" in checked.output) == (0, True)
    assert (tmp_path / "my.yaml").read_text().count("#") > 8


@pytest.mark.parametrize("odd", ["model.gguf", "a b: c #d.gguf", "x\"y'.gguf", "ä.gguf", "- [x", "{}", "yes"])
def test_flags_answer_everything_whatever_their_text(tmp_path: Path, odd: str) -> None:
    flags = (
        "--train",
        "gsm8k:train.jsonl",
        "--test",
        "own:a b.jsonl",
        "--student",
        odd,
        "--teacher",
        "openai/x",
    )
    more = (
        "--teacher-url",
        "http://127.0.0.1:1/v1",
        "--max-usd",
        "2.5",
        "--memory",
        "12gb",
        "--name",
        "mine",
    )
    assert call(tmp_path / "r.yaml", *flags, *more) == 0
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.name, recipe.student.model, recipe.train.memory) == ("mine", odd, "12gb")
    assert (recipe.teacher.model, recipe.teacher.max_usd) == ("openai/x", 2.5)
    assert recipe.teacher.url == "http://127.0.0.1:1/v1"
    assert recipe.questions.test[0].source == "own:a b.jsonl"


def test_a_file_that_is_there_stays_and_a_wrong_answer_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("mine")
    assert call(tmp_path / "a.yaml") == 2
    assert (tmp_path / "a.yaml").read_text() == "mine"
    assert call(tmp_path / "b.yaml", "--teacher-url", "http://u:password1@host/v1") == 2
    assert call(tmp_path / "c.yaml", "--name", "a/b") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.yaml"]


def test_on_a_terminal_it_asks_and_the_proposals_can_be_taken(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*LEMA, "init", str(tmp_path / "my.yaml"), "--memory", "8gb"], stdin=theirs, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment(tmp_path),
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, b"\n\nsome.gguf\n\n")
    stdout, stderr = process.communicate(timeout=120)
    os.close(ours)
    assert process.returncode == 0, stderr
    assert "Teacher (" in stderr
    assert "Next: lema plan" in stdout
    recipe = load_recipe(tmp_path / "my.yaml")
    assert (recipe.student.model, recipe.train.memory) == ("some.gguf", "8gb")


def test_an_own_file_is_mapped_and_a_datasets_prompts_are_its_own(tmp_path: Path) -> None:
    own = (
        "--train",
        "own:t.jsonl",
        "--test",
        "own:e.jsonl",
        "--map",
        "question=problem,gold_answer=a # \t b",
    )
    assert call(tmp_path / "own.yaml", *own, "--student", "m.gguf", "--memory", "8gb") == 0
    recipe = load_recipe(tmp_path / "own.yaml")
    assert recipe.questions.train.map == recipe.questions.test[0].map
    assert recipe.questions.train.map == {"question": "problem", "gold_answer": "a # \t b"}
    assert (recipe.questions.validation_count, recipe.student.gpu_layers) == (100, -1)
    assert (
        call(tmp_path / "csqa.yaml", "--train", "csqa@train", "--test", "csqa@dev", "--student", "m.gguf")
        == 0
    )
    recipe = load_recipe(tmp_path / "csqa.yaml")
    prompts = (recipe.sample.prompt, recipe.correct.prompt, recipe.build.cot_prompt)
    assert prompts == ("cot-csqa", "correct-csqa", "cot-zero-shot-csqa")
    assert call(tmp_path / "bad.yaml", "--train", "own:t.jsonl", "--map", "x") == 2
