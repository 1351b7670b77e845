"""`lema plan`: nothing is spent, what is known is exact, and what is missing is told."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import LEMA, environment
from fake_teacher import FakeTeacher
from test_correct_cli import run

SMALL = ["--set", "questions.train.limit=12", "--set", "questions.test=[{source: quickstart@test, limit: 4}]"]


def plan(run_dir: Path, *more: str) -> dict[str, Any]:
    result = run("plan", "quickstart", *SMALL, "--run", str(run_dir), "--json", *more)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_plan_asks_nobody_and_bounds_what_is_not_known(tmp_path: Path) -> None:
    with FakeTeacher() as server:
        words = ["--teacher", "openai/x", "--teacher-url", server.url]
        prices = ["--set", "teacher.price_in=1", "--set", "teacher.price_out=10"]
        told = plan(tmp_path / "r", *words, *prices, "--max-usd", "0.001")
        assert server.requests == 0
    assert not (tmp_path / "r").exists()
    (teacher,) = told["teachers"]
    assert (told["paths"]["high"], told["mistakes"]["high"]) == (48, 12)
    assert 0 < told["mistakes"]["about"] < 12
    usual = teacher["prompt_tokens"] * 1e-6 + teacher["reply_tokens"] * 10e-6
    assert teacher["usd"]["about"] == pytest.approx(teacher["calls"]["about"] * usual)
    assert teacher["usd"]["high"] > teacher["usd"]["about"]
    assert teacher["hours"] is None
    assert "no reply" in teacher["why_no_hours"]
    assert told["missing"] == []


def test_after_sampling_the_calls_are_those_that_are_made_and_then_none_are_left(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "r"
    with FakeTeacher(latency_s=0.01) as server:
        words = ["--teacher", "openai/x", "--teacher-url", server.url]
        start = ["run", "quickstart", *SMALL, "--run", str(folder), *words]
        assert run(*start, "--until", "sample").exit_code == 0
        before = plan(folder, *words)
        assert run(*start, "--until", "correct").exit_code == 0
        after = plan(folder, *words)
        assert server.requests == before["teachers"][0]["calls"]["about"] == before["mistakes"]["high"]
    assert before["teachers"][0]["from_journal"] == 0
    assert after["teachers"][0]["from_journal"] == server.requests
    assert (after["teachers"][0]["calls"]["high"], after["teachers"][0]["hours"]) == (0, 0)
    assert after["sample_hours"] > 0
    assert "sampled" in after["mistakes_rest_on"]


def test_what_is_missing_is_told_and_the_price_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    words = ["--teacher", "gpt-4o-mini", "--fallback", "gpt-4o", "--max-usd", "1"]
    told = plan(tmp_path / "r", *words, "--student", "nowhere.gguf")
    assert [line.split(":")[0] for line in told["missing"]] == ["teacher", "teacher", "student or base"]
    first, fallback = told["teachers"]
    assert first["usd"]["about"] > 0
    assert first["batch_usd"]["about"] == pytest.approx(first["usd"]["about"] / 2)
    assert (fallback["stage"], fallback["calls"]["low"], fallback["usd"]["about"]) == ("fallback", 0, None)
    *_, writes, writes_left = plan(tmp_path / "r", *words, "--set", "augment.rationales_per_question=2")[
        "teachers"
    ]
    assert (writes["teacher"], writes["calls"]["low"]) == ("gpt-4o-mini", writes["calls"]["high"])
    assert (writes_left["teacher"], writes_left["calls"]) == (
        "gpt-4o",
        writes["calls"] | {"low": 0, "about": None},
    )
    shown = run("plan", "quickstart", *SMALL, "--run", str(tmp_path / "r"), *words).stdout
    assert "MISSING" in shown
    assert "the cap of $1" in shown


def test_an_unknown_price_is_a_dash_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    told = plan(tmp_path / "r", "--teacher", "openai/no-such-model")
    assert told["usd"] is None
    assert "price_in" in told["teachers"][0]["why_no_usd"]


def test_a_served_student_cannot_be_trained(tmp_path: Path) -> None:
    served = ["--set", "student.model=qwen", "--set", "student.url=http://127.0.0.1:1/v1"]
    (missing,) = plan(tmp_path / "r", *served)["missing"]
    assert "need its GGUF file" in missing
    refused = run("run", "quickstart", *SMALL, *served, "--run", str(tmp_path / "r"))
    assert refused.exit_code == 2
    assert "--until build" in refused.stderr
    assert not (tmp_path / "r/0_questions").exists()
    (fetched,) = plan(tmp_path / "r", "--student", "hf:a/b/c.gguf")["missing"]
    assert "fetched from the hub" in fetched


def test_a_split_that_cannot_be_cut_is_missing_and_no_end(tmp_path: Path) -> None:
    nowhere = ["--set", "questions.train=own:nowhere.jsonl", "--set", "questions.validation=null"]
    told = plan(tmp_path / "r", *nowhere, "--set", "questions.validation_count=5")
    assert ["nowhere.jsonl" in line for line in told["missing"]] == [True]


def test_a_card_that_is_not_here_is_missing(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    shape = {"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936}
    (base / "config.json").write_text(json.dumps({**shape, **heads, "tie_word_embeddings": True}))
    flags = ("--set", f"student.base={base}", "--set", "train.memory=8gb")
    told = plan(tmp_path / "r", *flags)  # the quickstart keeps activations, which is too much here
    assert [line.split(":")[0] for line in told["missing"]] == ["GPU", "memory"]
    assert "train.has_gradient_checkpointing: true fits" in told["missing"][1]
    told = plan(tmp_path / "r", *flags, "--set", "train.has_gradient_checkpointing=null")
    assert [line.split(":")[0] for line in told["missing"]] == ["GPU"]
    assert [line.split(":")[0] for line in told["memory"]][:3:2] == ["sampling", "training"]


# --- lema run shows it in short, and asks where it costs money ------------------------------------------------


@pytest.fixture
def priced(tmp_path: Path) -> Iterator[tuple[FakeTeacher, list[str]]]:
    """A teacher that costs money, and the command that would ask it."""
    with FakeTeacher() as server:
        words = ["--teacher", "openai/x", "--teacher-url", server.url, "--until", "correct"]
        prices = ["--set", "teacher.price_in=1", "--set", "teacher.price_out=10"]
        yield server, ["quickstart", *SMALL, "--run", str(tmp_path / "r"), *words, *prices]


def test_without_a_terminal_nothing_is_spent_that_nobody_agreed_to(
    priced: tuple[FakeTeacher, list[str]], tmp_path: Path
) -> None:
    server, command = priced
    refused = run("run", *command)
    assert refused.exit_code == 2
    assert "may spend about $0.0" in refused.stderr
    assert "--yes" in refused.stderr
    assert not (tmp_path / "r").exists()
    assert server.requests == 0
    agreed = run("run", *command, "--yes")
    assert agreed.exit_code == 0, agreed.output
    assert server.requests > 0
    assert run("run", *command).exit_code == 0  # all of it has been asked


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_on_a_terminal_it_asks(
    priced: tuple[FakeTeacher, list[str]], tmp_path: Path, answer: str, code: int
) -> None:
    server, command = priced
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*LEMA, "run", *command, "--max-usd", "5"], stdin=theirs, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment(tmp_path / "home"),
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    _, stderr = process.communicate(timeout=120)
    os.close(ours)
    assert process.returncode == code, stderr
    assert "plan: 12 questions, 48 paths; correct, openai/x: about" in stderr
    assert "This run may spend about $0.0" in stderr
    assert (server.requests > 0) is (code == 0)
    assert (tmp_path / "r").exists() is (code == 0)


def test_a_missing_key_is_told_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    command = ["quickstart", *SMALL, "--run", str(tmp_path / "r"), "--teacher", "gpt-4o-mini"]
    done = run("run", *command, "--yes")
    assert done.exit_code == 2
    assert "OPENAI_API_KEY" in done.stderr
    assert not (tmp_path / "r").exists()
