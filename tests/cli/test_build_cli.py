"""`lema filter` and `lema build` on files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lema_local.cli import lema
from lema_local.jsonl import read_records, write_records
from lema_local.records import (
    Correction,
    PreferenceExample,
    Question,
    Rationale,
    ReasoningPath,
    TrainingExample,
)

QUESTIONS = [
    Question(
        id=f"q{number}",
        dataset="d",
        split="train",
        question=f"{number}+4, doubled?",
        gold_answer=str(2 * (number + 4)),
        gold_rationale=f"{number}+4={number + 4}\n{number + 4}*2={2 * (number + 4)}",
    )
    for number in range(1, 4)
]


def _correction(question: Question, answer: str) -> Correction:
    return Correction(
        question_id=question.id,
        sample_index=0,
        student="s",
        teacher="reference",
        teacher_reported=None,
        original_steps=["It is 1.", "The answer is 1."],
        incorrect_step=1,
        explanation="No.",
        corrected_solution=f"Step 1: It is {answer}.\nStep 2: The answer is {answer}.",
        final_answer=None,
        verdict="accepted",
        reason=None,
        reply_key=None,
        cost_usd=0.0,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_records(tmp_path / "questions.jsonl", QUESTIONS)
    corrections = [_correction(question, question.gold_answer) for question in QUESTIONS]
    write_records(tmp_path / "corrections.jsonl", [*corrections, _correction(QUESTIONS[0], "77")])
    return tmp_path


def _run(folder: Path, *arguments: str) -> Result:
    words = [str(folder / word) if word.endswith((".jsonl", "OUT")) else word for word in arguments]
    return CliRunner().invoke(lema, ["-q", *words])


def _filter(folder: Path, *more: str) -> Result:
    files = ["corrections.jsonl", "--questions", "questions.jsonl", "--accepted", "accepted.jsonl"]
    return _run(folder, "filter", *files, "--rejected", "rejected.jsonl", *more)


def _build(folder: Path, *more: str) -> Result:
    return _run(
        folder,
        "build",
        "--questions",
        "questions.jsonl",
        "--accepted",
        "accepted.jsonl",
        "--out",
        "OUT",
        *more,
    )


def test_filter_writes_both_files_and_says_why(folder: Path) -> None:
    result = _filter(folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("accepted 3, rejected 1\n")
    assert "its final answer 77 is not the gold answer 10" in result.stdout
    assert len(read_records(folder / "accepted.jsonl", Correction)) == 3
    assert read_records(folder / "rejected.jsonl", Correction)[0].verdict == "rejected"


def test_filter_answers_a_program(folder: Path) -> None:
    counts = json.loads(_filter(folder, "--json").stdout)
    assert (counts["accepted"], counts["rejected"]) == (3, 1)


def test_filter_knows_its_checks(folder: Path) -> None:
    assert _filter(folder, "--reject-on", "is_no_gold_copy", "--drop-duplicates").exit_code == 0
    result = _filter(folder, "--reject-on", "niceness")
    assert result.exit_code == 2
    assert "arithmetic_holds" in result.stderr


def test_build_writes_matched_arms_and_their_counts(folder: Path) -> None:
    _filter(folder)
    result = _build(folder)
    assert result.exit_code == 0, result.output
    cot, lema_arm = (
        read_records(folder / "OUT" / f"{arm}.jsonl", TrainingExample) for arm in ("cot", "lema")
    )
    assert len(cot) == len(lema_arm) == 6
    counts = json.loads((folder / "OUT" / "counts.json").read_text(encoding="utf-8"))
    assert counts["arms"]["lema"]["correction"] == 3
    assert counts["settings"]["match"] == "examples"
    assert "completion words" in result.stdout


def test_build_takes_rationales_and_settings(folder: Path) -> None:
    _filter(folder)
    rationale = Rationale(
        question_id="q1",
        teacher="t",
        teacher_reported=None,
        attempt=0,
        text="1+4=5\n5*2=10",
        final_answer="10",
        verdict="accepted",
        reason=None,
        reply_key=None,
        cost_usd=0.0,
    )
    write_records(folder / "rationales.jsonl", [rationale])
    result = _build(
        folder, "--rationales", "rationales.jsonl", "--layout", "prose", "--match", "none", "--json"
    )
    counts = json.loads(result.stdout)["arms"]
    assert (counts["cot"]["rationale"], counts["cot"]["examples"], counts["lema"]["examples"]) == (1, 4, 7)


def test_build_refuses_rejected_corrections(folder: Path) -> None:
    _filter(folder)
    files = ["--questions", "questions.jsonl", "--accepted", "rejected.jsonl", "--out", "OUT"]
    result = _run(folder, "build", *files)
    assert result.exit_code == 2
    assert "is rejected" in result.stderr
    assert "Try: `lema filter`" in result.stderr
    assert not (folder / "OUT").exists()


def test_build_refuses_test_questions_unless_told(folder: Path) -> None:
    _filter(folder)
    write_records(folder / "questions.jsonl", [one.model_copy(update={"split": "test"}) for one in QUESTIONS])
    result = _build(folder)
    assert result.exit_code == 2
    assert "3 test question(s)" in result.stderr
    result = _build(folder, "--allow-test")
    assert result.exit_code == 0, result.output
    assert (
        json.loads((folder / "OUT" / "counts.json").read_text(encoding="utf-8"))["arms"]["cot"][
            "never_report"
        ]
        == 6
    )


@pytest.mark.parametrize("command", ["filter", "build"])
def test_a_missing_file_is_told_without_a_traceback(folder: Path, command: str) -> None:
    (folder / "corrections.jsonl").unlink()
    result = _filter(folder) if command == "filter" else _build(folder)
    assert result.exit_code == 2
    assert "cannot read" in result.stderr
    assert "Traceback" not in result.output


def test_build_matches_tokens_by_the_students_own_tokenizer(folder: Path) -> None:
    _filter(folder)
    result = _build(folder, "--match", "tokens", "--student", "quickstart", "--unmatched", "--json")
    assert result.exit_code == 0, result.output
    counts = json.loads(result.stdout)["arms"]
    assert set(counts) == {"cot", "lema", "cot_unmatched"}
    assert counts["cot_unmatched"]["examples"] == 3
    assert counts["cot"]["repeated"] > 0
    longest = max(len(one.completion) for one in read_records(folder / "OUT" / "cot.jsonl", TrainingExample))
    assert abs(counts["cot"]["completion_tokens"] - counts["lema"]["completion_tokens"]) < longest


def test_build_asks_whose_tokens(folder: Path) -> None:
    _filter(folder)
    result = _build(folder, "--match", "tokens")
    assert result.exit_code == 2
    assert "--match characters" in result.stderr


def test_build_certifies_and_removes_what_stands_in_a_test_set(folder: Path) -> None:
    _filter(folder)
    test = QUESTIONS[1].model_copy(update={"id": "t", "split": "test"})
    write_records(folder / "test.jsonl", [test])
    result = _build(folder, "--test", "test.jsonl", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["arms"]["lema"]["questions"] == 2
    certificate = json.loads((folder / "OUT/lema.contamination.json").read_text())
    assert (certificate["found"]["exact"], certificate["left"]["exact"]) == (1, 0)
    listed = _build(folder, "--test", "test.jsonl", "--contaminated", "list", "--json")
    assert json.loads(listed.stdout)["arms"]["lema"]["questions"] == 3
    certificate = json.loads((folder / "OUT/lema.contamination.json").read_text())
    assert certificate["left"]["exact"] == 1


def test_build_leaves_parts_of_corrections_out(folder: Path) -> None:
    _filter(folder)
    assert _build(folder, "--leave-out", "explanation").exit_code == 0
    last = read_records(folder / "OUT" / "lema.jsonl", TrainingExample)[-1]
    assert "Explanation" not in last.completion
    everything = [word for part in ("step", "explanation", "solution") for word in ("--leave-out", part)]
    result = _build(folder, *everything)
    assert result.exit_code == 2
    assert "leave at least one" in result.stderr


def _write_paths(folder: Path, verdict: str) -> None:
    facts = {
        "question_id": "q1", "sample_index": 0, "seed": 1, "student": "s", "text": "Step 1: The answer is 10.",
        "final_answer": "10", "verdict": verdict, "rule": "numeric", "stop_reason": "end", "prompt_tokens": 1,
        "completion_tokens": 1,
    }  # fmt: skip
    write_records(folder / "paths.jsonl", [ReasoningPath.model_validate(facts)])


def test_build_writes_the_formats_that_are_named(folder: Path) -> None:
    _filter(folder)
    _write_paths(folder, "correct")
    formats = "fix-and-continue,restart,critique,preference"
    result = _build(folder, "--format", formats, "--format", "cot", "--paths", "paths.jsonl")
    assert result.exit_code == 0, result.output
    names = {path.stem for path in (folder / "OUT").glob("*.jsonl")}
    assert names == {"cot", *formats.split(",")}
    assert len(read_records(folder / "OUT" / "preference.jsonl", PreferenceExample)) == 3
    masked = [one.masked for one in read_records(folder / "OUT" / "restart.jsonl", TrainingExample)]
    assert sum(map(len, masked)) == 3
    assert "right path" in result.stdout
    _build(folder, "--format", "restart", "--train-wrong-step")
    assert not any(one.masked for one in read_records(folder / "OUT" / "restart.jsonl", TrainingExample))


def test_a_format_that_there_is_not_or_that_lacks_right_paths_is_refused(folder: Path) -> None:
    _filter(folder)
    result = _build(folder, "--format", "cot,restrat")
    assert result.exit_code == 2
    assert "restrat: no such format (did you mean 'restart'?)" in result.stderr
    _write_paths(folder, "wrong")
    for more in ([], ["--paths", "paths.jsonl"]):
        result = _build(folder, "--format", "critique", *more)
        assert result.exit_code == 2
        assert "critique needs right paths, and none were kept" in result.stderr
        assert "--paths" in result.stderr or "paths.jsonl" in result.stderr
    assert _build(folder, "--format", "critique", "--right-paths", "0").exit_code == 0
