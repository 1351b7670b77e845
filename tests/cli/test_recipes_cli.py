"""`lema recipes`: every shipped recipe passes; all problems at once; two of them run."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from command import lema as run_lema

from lema_local.cli import lema
from lema_local.quickstart.problems import generate_questions
from lema_local.recipe import find_recipe, load_recipe, shipped_recipes

SHIPPED = {
    "quickstart", "gsm8k-1.5b-12gb", "gsm8k-7b-24gb", "math-7b-24gb", "csqa-7b-24gb", "own-data",
    "offline-local-teacher", "paper-llama2-7b",
}  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(lema, ["-q", *map(str, arguments)])


def write(path: Path, **changes: object) -> Path:
    values = {
        "name": "mine",
        "questions": {"train": "quickstart@train", "test": ["quickstart@test"]},
        "student": "quickstart",
    }
    path.write_text(
        yaml.safe_dump({**values, "student": {"model": "quickstart"}, **changes}), encoding="utf-8"
    )
    return path


def test_the_recipes_that_the_documentation_names_are_shipped() -> None:
    assert set(shipped_recipes()) >= SHIPPED
    listed = run("recipes", "list").stdout
    assert all(name in listed for name in SHIPPED)


def test_check_passes_on_all_of_them_at_once() -> None:
    done = run("recipes", "check", *shipped_recipes().values())
    assert done.exit_code == 0, done.output
    assert done.stdout.count(": ok") == len(shipped_recipes())


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_recipes_head_says_the_command_and_its_name_is_its_files(name: str) -> None:
    text = find_recipe(Path(name)).read_text(encoding="utf-8")
    head = text[: text.index("name: ")]
    assert f"lema run {name}" in head or "lema run my.yaml" in head
    assert "need" in head.lower() or "no network" in head
    assert load_recipe(Path(name)).name == name
    assert load_recipe(Path(name)).questions.validation_count or name == "quickstart"


def test_all_problems_are_listed_at_once_with_the_nearest_known_names(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bad.yaml",
        questions={"train": "gsm9k@train", "test": ["gsm8k@tset", "own:later.jsonl"]},
        sample={"prompt": "cot-gsm9k", "temprature": 0.7},
        correct={"prompt": "cot-gsm8k"},
        build={"match": "tokns", "leave_out": ["step", "explanation", "solution"]},
        train={"seeds": "one"},
        evalute={"samples": 3},
    )
    done = run("recipes", "check", path)
    assert done.exit_code == 2
    for words in (
        "has 9 problem(s)",
        "questions.train: no such question file or dataset: gsm9k@train (did you mean 'gsm8k'?",
        "questions.test.0: gsm8k has no split 'tset' (its splits: train, test)",
        "sample.temprature: unknown key (did you mean 'temperature'?)",
        "sample.prompt: ",
        "correct.prompt: cot-gsm8k is a prompt for solutions",
        "build.match: ",
        "build.leave_out: ",
        "train.seeds: ",
        "evalute: unknown key (did you mean 'evaluate'?)",
    ):
        assert words in done.stderr, words
    assert "Traceback" not in done.stderr


def test_several_files_problems_are_told_together(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.yaml", **{f"extra{n}": 1}) for n in range(2)]
    done = run("recipes", "check", *paths, write(tmp_path / "good.yaml"))
    assert done.exit_code == 2
    assert "extra0" in done.stderr
    assert "extra1" in done.stderr
    assert "good.yaml: ok" in done.stdout


def _own(path: Path, split: str, count: int) -> None:
    made = generate_questions(split, count, 3)  # type: ignore[arg-type]
    rows = [
        {"problem": one["question"], "answer": one["gold_answer"], "solution": one["gold_rationale"]}
        for one in made
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _run_own(folder: Path, *sets: str, until: str = "build") -> subprocess.CompletedProcess[str]:
    fields = "map: {question: problem, gold_answer: answer, gold_rationale: solution}"
    train, test = (
        f"{{source: 'own:{folder}/questions-{name}.jsonl@{name}', {fields}}}" for name in ("train", "test")
    )
    given = (f"questions.train={train}", f"questions.test=[{test}]", *sets)
    flags = [word for one in given for word in ("--set", one)]
    return run_lema(
        "run", "own-data", "--student", "quickstart", "--teacher", "reference", "--until", until,
        "--run", folder / "run", *flags, home=folder / "home",
    )  # fmt: skip


def test_own_data_runs_with_one_command_up_to_the_training_files(tmp_path: Path) -> None:
    _own(tmp_path / "questions-train.jsonl", "train", 30)
    _own(tmp_path / "questions-test.jsonl", "test", 10)
    done = _run_own(
        tmp_path, "questions.validation_count=5", "sample.samples_per_question=1", "sample.max_tokens=100",
        "sample.prompt=cot-zero-shot",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built = tmp_path / "run/5_build"
    assert len((built / "cot.jsonl").read_text().splitlines()) >= 25
    assert (built / "lema.contamination.json").exists()


def test_a_test_set_that_is_trained_on_is_refused(tmp_path: Path) -> None:
    _own(tmp_path / "questions-train.jsonl", "train", 12)
    _own(tmp_path / "questions-test.jsonl", "train", 12)
    done = _run_own(tmp_path, "questions.validation_count=2")
    assert done.returncode == 2
    assert "of 12 test question(s) are among the training questions" in done.stderr
    assert "what is trained on can test nothing" in done.stderr


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"arms": ["cot", "restrat"]}, "train.arms.1: .*did you mean 'restart'"),
        ({"arms": ["cot", "preference"], "method": "full"}, "preference needs an adapter"),
        ({"method": "dpo"}, "method: dpo is for preference alone"),
    ],
)
def test_arms_that_there_are_not_or_that_the_method_cannot_train_are_refused(
    train: dict[str, object], told: str, tmp_path: Path
) -> None:
    done = run("recipes", "check", write(tmp_path / "mine.yaml", train=train))
    assert done.exit_code == 2
    assert re.search(told, done.output)


def test_every_format_is_an_arm(tmp_path: Path) -> None:
    arms = ["cot", "lema", "fix-and-continue", "restart", "critique", "preference", "cot_unmatched"]
    done = run("recipes", "check", write(tmp_path / "mine.yaml", train={"arms": arms}))
    assert done.exit_code == 0, done.output
