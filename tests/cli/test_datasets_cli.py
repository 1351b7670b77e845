import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from lema_local.cli import lema


def _run(*arguments: str) -> Result:
    result = CliRunner().invoke(lema, ["datasets", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def _write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_datasets_are_listed_with_their_splits() -> None:
    result = _run("list")

    assert result.exit_code == 0
    assert "gsm8k" in result.stdout
    assert "train 7,473, test 1,319 (for evaluation only)" in result.stdout


def test_the_list_is_there_for_programs_too() -> None:
    names = [json.loads(line)["name"] for line in _run("list", "--json").stdout.splitlines()]

    assert names == ["gsm8k", "math", "math500", "svamp", "asdiv", "csqa", "aqua", "mawps"]


def test_one_dataset_is_shown_with_how_to_give_it() -> None:
    result = _run("show", "csqa")

    assert "csqa:FILE@train" in result.stdout
    assert "tau/commonsense_qa" in result.stdout
    assert "MIT" in result.stdout
    assert json.loads(_run("show", "csqa", "--json").stdout)["splits"] == {"train": 9741, "dev": 1221}


def test_an_unknown_dataset_is_told() -> None:
    result = _run("show", "gsm9k")

    assert result.exit_code == 2
    assert "unknown dataset 'gsm9k'" in result.stderr


def test_a_file_is_checked_with_counts_kinds_and_examples(tmp_path: Path) -> None:
    rows = [
        {"problem": "1+1?", "answer": "2", "why": "1+1=2"},
        {"problem": "1/2?", "answer": "1/2"},
        {"problem": "Who?", "answer": "Evelyn"},
    ]
    path = _write(tmp_path / "mine.jsonl", *rows)
    mapping = "question=problem,gold_answer=answer,gold_rationale=why"

    result = _run("check", f"own:{path}", "--map", mapping, "--examples", "1")
    found = json.loads(_run("check", f"own:{path}", "--map", mapping, "--json").stdout)

    assert result.exit_code == 0
    assert "3 questions (mine/train 3)" in result.stdout
    assert "1+1?" in result.stdout
    assert "1/2?" not in result.stdout
    assert found["answers"] == {"integer": 1, "fraction": 1, "words": 1}
    assert (found["questions"], found["with_rationale"], found["problems"]) == (3, 1, [])
    out = tmp_path / "questions.jsonl"
    assert _run("check", f"own:{path}", "--map", mapping, "--out", str(out)).exit_code == 0
    assert json.loads(_run("check", str(out), "--json").stdout) == found


def test_released_expressions_that_do_not_parse_are_listed(tmp_path: Path) -> None:
    rows = [{"problem": "?", "solution": f"\\boxed{{{gold}}}"} for gold in ("5", "\\frac{1}{}", "2\\sqrt{3}")]
    path = _write(tmp_path / "train.jsonl", *rows)

    result = _run("check", f"math:{path}")

    assert result.exit_code == 2
    assert "math/train/00001: the gold answer '\\\\frac{1}{}' does not parse" in result.stderr
    assert "unreadable 1" in result.stdout


def test_what_is_wrong_with_a_file_is_told_without_a_traceback(tmp_path: Path) -> None:
    path = _write(tmp_path / "mine.jsonl", {"question": "?"})

    result = _run("check", f"own:{path}")

    assert result.exit_code == 2
    assert "line 1: no field 'gold_answer'" in result.stderr
    assert "Traceback" not in result.stderr
