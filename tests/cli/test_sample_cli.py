"""`lema sample`, `lema import-paths`, `lema students`: files, messages, exit codes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_gguf import TinyModel, write_adapter, write_model

from lema_local.cli import lema

DATA = os.environ.get("LEMA_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="LEMA_DATA names no folder with real data")


def run(*args: object) -> Result:
    result = CliRunner().invoke(lema, [str(arg) for arg in args])
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    write_questions(path, 5)
    return path


def write_questions(path: Path, count: int) -> None:
    rows = (
        {
            "id": f"q{n}",
            "dataset": "own",
            "split": "train",
            "question": f"What is {n} + 1?",
            "gold_answer": str(n + 1),
        }
        for n in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("student") / "tiny.gguf", TinyModel(context=2048))


def sample_args(questions: Path, student: Path, out: Path) -> list[object]:
    common = ["--max-tokens", 12, "--samples", 3, "--threads", 1, "--slots", 4, "--prompt", "cot-zero-shot"]
    return ["sample", questions, "--student", student, "--out", out, *common]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_sampling_writes_paths_in_order_and_prints_a_summary(
    questions: Path, student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "paths.jsonl"
    result = run(*sample_args(questions, student, out))
    assert result.exit_code == 0, result.output
    assert "5 questions, 15 paths" in result.stdout
    assert "pass@1" in result.stdout
    assert "tokens/s" in result.stdout
    written = lines(out)
    assert [one["question_id"] for one in written] == sorted(one["question_id"] for one in written)
    assert sum(one["count"] for one in written) == 15
    assert {one["student"] for one in written} == {"tiny.gguf"}
    manifest = json.loads((tmp_path / "paths.jsonl.manifest.json").read_text())
    assert manifest["chosen"][str(student)]["slots"] == 4
    assert manifest["counts"]["paths"] == 15
    assert not (tmp_path / "paths.jsonl.partial").exists()
    assert not (tmp_path / "paths.jsonl.started.json").exists()


def test_the_same_command_again_samples_nothing(questions: Path, student: Path, tmp_path: Path) -> None:
    out = tmp_path / "paths.jsonl"
    first = run(*sample_args(questions, student, out), "--json")
    before = out.stat().st_mtime_ns
    again = run(*sample_args(questions, student, out), "--json")
    assert again.exit_code == 0
    assert "finished before" in again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert out.stat().st_mtime_ns == before


def test_another_setting_for_the_same_file_is_refused_in_words(
    questions: Path, student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "paths.jsonl"
    run(*sample_args(questions, student, out))
    result = run(*sample_args(questions, student, out), "--temperature", 0.9, "--seed", 5)
    assert result.exit_code == 2
    assert "sample.temperature: was 0.7, is 0.9" in result.stderr
    assert "sample.seed: was 1, is 5" in result.stderr


def test_a_start_that_failed_binds_nobody_to_its_settings(
    questions: Path, student: Path, tmp_path: Path
) -> None:
    cut, out = tmp_path / "cut.gguf", tmp_path / "paths.jsonl"
    cut.write_bytes(student.read_bytes()[:3000])
    failed = run(*sample_args(questions, cut, out))
    assert failed.exit_code == 2
    assert "is cut off" in failed.stderr
    assert run(*sample_args(questions, student, out)).exit_code == 0


def test_a_file_from_elsewhere_is_never_overwritten(questions: Path, student: Path, tmp_path: Path) -> None:
    out = tmp_path / "paths.jsonl"
    out.write_text("mine\n")
    result = run(*sample_args(questions, student, out))
    assert result.exit_code == 2
    assert "did not make it" in result.stderr
    assert out.read_text() == "mine\n"


def test_an_adapter_makes_other_paths(questions: Path, student: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter.gguf", TinyModel(context=2048), scale=4.0)
    base, adapted = tmp_path / "base.jsonl", tmp_path / "adapted.jsonl"
    run(*sample_args(questions, student, base))
    result = run(*sample_args(questions, student, adapted), "--adapter", f"{adapter}=0.5")
    assert result.exit_code == 0, result.output
    assert [one["text"] for one in lines(base)] != [one["text"] for one in lines(adapted)]
    assert lines(adapted)[0]["student"] == "tiny.gguf+adapter.gguf"


def test_two_students_share_a_file_and_an_adapter_goes_with_one(
    questions: Path, student: Path, tmp_path: Path
) -> None:
    out, other = (
        tmp_path / "paths.jsonl",
        write_model(tmp_path / "other.gguf", TinyModel(context=2048, seed=5)),
    )
    args = [*sample_args(questions, student, out), "--student", other]
    result = run(*args)
    assert result.exit_code == 0, result.output
    assert "tiny.gguf:\n  pass@1" in result.stdout
    assert {one["student"] for one in lines(out)} == {"tiny.gguf", "other.gguf"}
    chosen = json.loads((tmp_path / "paths.jsonl.manifest.json").read_text())["chosen"]
    assert set(chosen) == {str(student), str(other)}
    refused = run(*args, "--adapter", "some.gguf")
    assert refused.exit_code == 2
    assert "--adapter goes with one --student" in refused.stderr


def test_every_option_of_the_engine_reaches_it(questions: Path, student: Path, tmp_path: Path) -> None:
    out = tmp_path / "paths.jsonl"
    options = ["--kv-layout", "unified", "--no-flash-attention", "--kv-type", "f32", "--repeat-penalty", 1.3]
    result = run(*sample_args(questions, student, out), *options)
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "paths.jsonl.manifest.json").read_text())
    layout = manifest["chosen"][str(student)]
    assert (layout["is_unified"], layout["has_flash_attention"], layout["kv_type"]) == (True, False, "f32")
    assert manifest["made_from"]["sample"]["repeat_penalty"] == 1.3
    plain = tmp_path / "plain.jsonl"
    run(*sample_args(questions, student, plain))
    assert [one["text"] for one in lines(plain)] != [one["text"] for one in lines(out)]


def test_a_budget_of_samples_is_kept_and_told(questions: Path, student: Path, tmp_path: Path) -> None:
    out = tmp_path / "paths.jsonl"
    budget = ["--max-samples", 7, "--wanted-correct", 1]
    result = run(*sample_args(questions, student, out), *budget, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["paths"] == sum(one["count"] for one in lines(out)) == 5 * 7  # a random model is never right
    wrong = run(*sample_args(questions, student, tmp_path / "other.jsonl"), "--wanted-correct", 1)
    assert wrong.exit_code == 2
    assert "need max_samples_per_question" in wrong.stderr


def test_show_prompt_prints_the_exact_text_and_tokens_and_samples_nothing(
    questions: Path, student: Path, tmp_path: Path
) -> None:
    result = run("sample", questions, "--student", student, "--prompt", "cot-zero-shot", "--show-prompt")
    assert result.exit_code == 0, result.output
    assert "What is 0 + 1?" in result.stdout
    assert "completion style" in result.stderr
    assert list(tmp_path.glob("*.manifest.json")) == []


def test_a_prompt_too_long_is_named_and_the_others_go_on(student: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "questions.jsonl", tmp_path / "paths.jsonl"
    write_questions(path, 3)
    long = {"id": "long", "dataset": "own", "split": "train", "question": "and " * 300, "gold_answer": "1"}
    path.write_text(path.read_text() + json.dumps(long) + "\n")
    result = run(*sample_args(path, student, out), "--context-tokens", 300)
    assert result.exit_code == 0, result.output
    assert "1 question(s) left out" in result.stderr
    assert "long: the prompt has" in result.stderr
    assert {one["question_id"] for one in lines(out)} == {"q0", "q1", "q2"}


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--student", "missing.gguf"], 2, "there is no file missing.gguf"),
        (["--student", __file__], 2, "is no GGUF file"),
        (["--student", "hf:someone/some/model.gguf"], 2, "the hub cannot be reached"),
        (["--student", "tiny", "--student-url", "http://127.0.0.1:9/v1"], 1, "nothing answers at"),
        (["--student", "tiny.gguf", "--prompt", "cot-zero"], 2, "no prompt 'cot-zero'"),
    ],
)
def test_bad_input_is_one_message(
    args: list[str], code: int, message: str, questions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "paths.jsonl"
    result = run("sample", questions, "--out", out, "--prompt", "cot-zero-shot", *args)
    assert result.exit_code == code
    assert message in result.stderr
    assert not out.exists()


def test_missing_questions_are_said(student: Path, tmp_path: Path) -> None:
    result = run("sample", tmp_path / "none.jsonl", "--student", student, "--out", tmp_path / "paths.jsonl")
    assert result.exit_code == 2
    assert "none.jsonl" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
@pytest.mark.parametrize("is_exact", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_kill_minus_9_at_random_moments_changes_nothing(
    is_exact: bool, student: Path, tmp_path: Path
) -> None:
    path, whole, killed = tmp_path / "questions.jsonl", tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    write_questions(path, 250)
    extra = ["--max-tokens", 60, *(["--exact"] if is_exact else [])]
    began = time.monotonic()
    assert run(*sample_args(path, student, whole), *extra).exit_code == 0
    span = time.monotonic() - began
    command = [
        sys.executable,
        "-c",
        "from lema_local.cli import main; main()",
        *map(str, [*sample_args(path, student, killed), *extra]),
    ]
    draw = random.Random(3)
    for _ in range(20):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            time.sleep(draw.uniform(0.1, 0.5 * span + 1.0))
            process.send_signal(signal.SIGKILL)
    assert run(*sample_args(path, student, killed), *extra).exit_code == 0
    if is_exact:
        assert killed.read_bytes() == whole.read_bytes()
    else:
        ids = [(one["question_id"], one["sample_index"], one["seed"], one["count"]) for one in lines(whole)]
        assert [
            (one["question_id"], one["sample_index"], one["seed"], one["count"]) for one in lines(killed)
        ] == ids


# import-paths


def test_import_takes_over_grades_and_names_what_it_leaves_out(questions: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "made.jsonl", tmp_path / "paths.jsonl"
    rows = [
        {
            "problem": "What  is 0 + 1?",
            "code": ["The answer is 1.", "The answer is 7.", "The answer is 1."],
            "ok": [True, True, True],
        },
        {"problem": "q1", "code": ["The answer is 2.", 5], "ok": [True]},
        {"problem": 2, "code": []},
        {"problem": "never asked", "code": ["The answer is 2."]},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(
        "import-paths", source, "--questions", questions, "--student", "theirs", "--out", out,
        "--text-field", "code.*", "--question-field", "problem", "--verdict-field", "ok.*",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [(one["question_id"], one["sample_index"], one["verdict"], one["count"]) for one in lines(out)] == [
        ("q0", 0, "correct", 2), ("q0", 1, "wrong", 1), ("q1", 0, "correct", 1),
    ]  # fmt: skip
    assert lines(out)[0] | {"seed": None, "stop_reason": "unknown", "student": "theirs"} == lines(out)[0]
    for told in ("3 line(s) or part(s) left out", "line 2: code.* is no text but 5", "line 3: no field code.*",
                 "line 4: no question has the problem 'never asked'", "verdicts: 3 of 4 as theirs",
                 "q0 sample 1: wrong (7, numeric), theirs right"):  # fmt: skip
        assert told in result.stderr


def test_an_import_without_any_match_is_an_error(questions: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "made.jsonl", tmp_path / "paths.jsonl"
    source.write_text('{"question": "something else", "text": "The answer is 1."}\n')
    result = run(
        "import-paths",
        source,
        "--questions",
        questions,
        "--student",
        "x",
        "--out",
        out,
        "--text-field",
        "text",
    )
    assert result.exit_code == 2
    assert "belongs to a question" in result.stderr
    assert not out.exists()


@needs_data
@pytest.mark.parametrize(
    ("files", "mapping", "fields", "paths", "least_agreed"),
    [
        (
            ["rho-math-1b_gsm8k_cot.jsonl"],
            "gold_answer=gt,gold_rationale=gt_cot",
            ("code.0", "score.0"),
            1319,
            0.98,
        ),
        (["qwen2.5-math_math100x8.jsonl"], "gold_answer=answer", ("code.*", "score.*"), 800, 0.93),
        (
            ["output-rs0.jsonl", "output-rs1.jsonl", "output-rs2.jsonl"],
            "question=problem,gold_answer=expected_answer",
            ("generation", "symbolic_correct"),
            150,
            0.90,
        ),
    ],
)
def test_real_outputs_are_taken_over_whole(
    files: list[str], mapping: str, fields: tuple[str, str], paths: int, least_agreed: float, tmp_path: Path
) -> None:
    assert DATA is not None
    sources = [Path(DATA) / "student_outputs" / name for name in files]
    out = tmp_path / "paths.jsonl"
    result = run(
        "import-paths", *sources, "--questions", f"own:{sources[0]}", "--map", mapping, "--student", "real",
        "--text-field", fields[0], "--verdict-field", fields[1], "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sum(one["count"] for one in lines(out)) == paths
    agreed, of = (int(word) for word in result.stderr.split("verdicts: ")[1].split(" as")[0].split(" of "))
    assert of == paths
    assert agreed / of >= least_agreed


# students


def test_inspect_says_what_a_file_holds(student: Path) -> None:
    result = run("students", "inspect", student)
    assert result.exit_code == 0, result.output
    for told in ("architecture           llama", "trained context        2,048", "are free: fits"):
        assert told in result.stdout
    assert json.loads(run("students", "inspect", student, "--json").stdout)["layers"] == 2


def test_requantize_writes_a_smaller_file_that_runs(student: Path, questions: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.gguf"
    result = run("students", "requantize", student, small, "--type", "q8_0", "--threads", 1)
    assert result.exit_code == 0, result.output
    assert small.stat().st_size < student.stat().st_size
    assert json.loads(run("students", "inspect", small, "--json").stdout)["quantization"] == "Q8_0"
    assert run(*sample_args(questions, small, tmp_path / "paths.jsonl"), "--limit", 1).exit_code == 0


def test_requantize_never_writes_over_its_own_input(student: Path) -> None:
    result = run("students", "requantize", student, student)
    assert result.exit_code == 2
    assert "is the file to be read" in result.stderr
