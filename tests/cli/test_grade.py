import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lema_local.cli import lema


def _run(*arguments: str, text: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(lema, ["grade", *arguments], input=text)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def _write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_one_line_in_one_line_out(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "answers.jsonl",
        {"id": 7, "gold": 18, "pred": "So 9*2=18.\nThe answer is $18."},
        {"gold": "1/2", "pred": 0.5},
        {"gold": "72", "pred": "71 clips"},
        {"gold": "72", "pred": "She sold some clips.\nThen more."},
        {"gold": "72", "pred": None},
    )

    result = _run(file)

    assert result.exit_code == 0
    assert _lines(result) == [
        {
            "id": 7, "gold": 18, "pred": "So 9*2=18.\nThe answer is $18.",
            "final_answer": "18", "is_correct": True, "rule": "numeric",
        },
        {"gold": "1/2", "pred": 0.5, "final_answer": "0.5", "is_correct": True, "rule": "fraction"},
        {"gold": "72", "pred": "71 clips", "final_answer": "71 clips", "is_correct": False, "rule": "numeric"},
        {
            "gold": "72", "pred": "She sold some clips.\nThen more.",
            "final_answer": None, "is_correct": False, "rule": "none",
        },
        {"gold": "72", "pred": None, "final_answer": None, "is_correct": False, "rule": "none"},
    ]  # fmt: skip
    assert "2 of 5 right (40.0%" in result.stderr
    assert "1 wrong, 2 without an answer" in result.stderr


def test_it_is_a_filter(tmp_path: Path) -> None:
    result = _run("-", "--json", text='{"gold": "5", "pred": "5"}\n\n{"gold": "5", "pred": "6"}\n')

    assert [line["is_correct"] for line in _lines(result)] == [True, False]
    assert result.stderr == ""


def test_pred_says_what_the_predictions_are(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "answers.jsonl", {"gold": "5", "pred": "5"}, {"gold": "5", "pred": "The answer is 5."}
    )

    assert [line["is_correct"] for line in _lines(_run(file, "--pred", "path"))] == [False, True]
    assert [line["is_correct"] for line in _lines(_run(file, "--pred", "answer"))] == [True, False]
    assert [line["is_correct"] for line in _lines(_run(file))] == [True, True]


def test_prose_that_claims_nothing_is_a_path_without_an_answer(tmp_path: Path) -> None:
    prose = "She gives 3 apples to each of her 4 friends and keeps 5 apples for her own lunch at school."
    file = _write(
        tmp_path / "answers.jsonl", {"gold": "5", "pred": prose}, {"gold": "5", "pred": "5 red apples"}
    )

    assert [(one["final_answer"], one["is_correct"]) for one in _lines(_run(file))] == [
        (None, False),
        ("5 red apples", True),
    ]


def test_a_list_and_a_table_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"gold": "5", "pred": "5"}]', encoding="utf-8")
    (tmp_path / "a.csv").write_text('gold,pred\n"1,000",1000\n6,\n', encoding="utf-8")

    assert [one["is_correct"] for one in _lines(_run(str(tmp_path / "a.json")))] == [True]
    assert [one["is_correct"] for one in _lines(_run(str(tmp_path / "a.csv")))] == [True, False]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"gold": "5", "pred": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"gold": "5", "pred": ' + b"9" * 6000 + b"}", "limit"),
        (b'{"gold": "5", "pred": NaN}', "NaN"),
        (b'{"gold": "5", "pred": 1e999}', "inf"),
        (b'{"gold": "5", "pred": "\\ud800"}', "half of a character"),
        (b'{"gold": "5", "pred": "caf\xe9"}', "UTF-8"),
        ('{"gold": "5"}'.encode("utf-16"), "UTF-8"),
        (b"\0\0\0", "JSON"),
        (b"[1]", "list"),
    ],
)
def test_a_line_that_is_no_json_is_told_from_a_file_and_from_a_pipe(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    content = b'{"gold": "5", "pred": "5"}\n' + line + b"\n"
    (tmp_path / "a.jsonl").write_bytes(content)

    for result in (_run(str(tmp_path / "a.jsonl")), _run("-", text=content)):
        assert (result.exit_code, result.stdout) == (2, "")
        assert "line 2: " in result.stderr
        assert reason in result.stderr


def test_answers_that_hang_a_solver_end_undecided_and_the_others_go_on(tmp_path: Path) -> None:
    hostile = ["9**9**9**9", "(" * 10_000 + "5" + ")" * 10_000, "9" * 1_000_000, "5\0"]
    rows = [{"gold": "2\\sqrt{3}", "pred": one} for one in [*hostile, "\\sqrt{12}", "\\sqrt{13}"]]

    result = _run(_write(tmp_path / "a.jsonl", *rows))

    assert result.exit_code == 0
    assert [one["is_correct"] for one in _lines(result)] == [None, None, None, None, True, False]
    assert "4 undecided" in result.stderr


def test_the_paper_s_scorer_is_named_beside_its_verdict(tmp_path: Path) -> None:
    file = _write(tmp_path / "answers.jsonl", {"gold": "7", "pred": "The answer is 10-3."})

    (paper,) = _lines(_run(file, "--dataset", "gsm8k", "--scorer", "paper"))
    (both,) = _lines(_run(file, "--dataset", "math", "--scorer", "both"))

    assert (paper["final_answer"], paper["is_correct"], paper["rule"]) == ("7", True, "paper:gsm8k")
    assert both["is_correct"] is True
    assert both["paper"] == {"final_answer": "10-3", "is_correct": False, "scorer": "math"}


def test_choices_come_with_the_line(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "answers.jsonl",
        {"gold": "mall", "pred": "The answer is (B).", "choices": ["bank", "mall"]},
        {"gold": "A", "pred": "mall", "choices": ["bank", "mall"]},
    )

    found = _lines(_run(file))

    assert [(line["is_correct"], line["rule"]) for line in found] == [(True, "choice"), (False, "choice")]


def test_bad_lines_are_all_told_and_nothing_is_graded(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(
        '{"gold": "5", "pred": "5"}\n{"gold": "5"}\n{"pred": "5"}\nnonsense\n{"gold": "\\\\frac{1}{", "pred": "5"}\n'
        '{"gold": {}, "pred": "5"}\n{"gold": "5", "pred": [1]}\n',
        encoding="utf-8",
    )

    result = _run(str(path))

    assert (result.exit_code, result.stdout) == (2, "")
    assert "has 6 problem(s)" in result.stderr
    for line, reason in {
        2: "no field 'pred'",
        3: "no field 'gold'",
        5: "does not parse",
        6: "dict",
        7: "list",
    }.items():
        assert any(f"line {line}: " in one and reason in one for one in result.stderr.splitlines())
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text, encoding="utf-8")

    result = _run(str(path))

    assert result.exit_code == 2
    assert "has no lines" in result.stderr


def test_a_missing_file_and_an_unknown_dataset_are_told(tmp_path: Path) -> None:
    missing = _run(str(tmp_path / "none.jsonl"))
    unknown = _run(_write(tmp_path / "a.jsonl", {"gold": "5", "pred": "5"}), "--dataset", "gsm9k")

    assert (missing.exit_code, unknown.exit_code) == (2, 2)
    assert "none.jsonl" in missing.stderr
    assert "unknown dataset 'gsm9k'" in unknown.stderr
