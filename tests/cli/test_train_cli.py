"""`lema train` and `lema export`: exit codes, messages, what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_hf import Pair, make_examples, write_pair

from lema_local.cli import lema
from lema_local.jsonl import write_records

QUICK = [
    "--rank",
    "4",
    "--max-steps",
    "2",
    "--batch-size",
    "4",
    "--learning-rate",
    "1e-3",
    "--no-checkpointing",
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def train_path(tmp_path: Path) -> Path:
    write_records(tmp_path / "train.jsonl", make_examples(6))
    return tmp_path / "train.jsonl"


def _run(*arguments: Any) -> Result:
    return CliRunner().invoke(lema, [str(argument) for argument in arguments])


def test_train_then_export_from_files_to_files(pair: Pair, train_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = _run("--quiet", "train", train_path, "--base", pair.gguf_path, "--out", out, *QUICK, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["optimizer_steps"], result["examples"]) == (2, 6)
    assert Path(result["adapter_dir"]) == out / "adapter"
    gguf = tmp_path / "adapter.gguf"
    done = _run("export", out, "--base-gguf", pair.gguf_path, "--out", gguf, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["bytes"] == gguf.stat().st_size
    assert done.stderr == ""


def test_same_command_again_does_not_train_again(pair: Pair, train_path: Path, tmp_path: Path) -> None:
    command = ("--quiet", "train", train_path, "--base", pair.folder, "--out", tmp_path / "out", *QUICK)
    first, second = _run(*command), _run(*command)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout == second.stdout
    assert "adapter: " in first.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "nowhere.gguf"], "Error: there is no file nowhere.gguf"),
        (["--rank", "0"], "lora_rank"),
        (["--learning-rate", "-1"], "learning_rate"),
        (["--max-length", "9"], "no training example fits into 9 tokens"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(
    pair: Pair, train_path: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    base = [] if "--base" in arguments else ["--base", pair.folder]
    done = _run("train", train_path, *base, "--out", tmp_path / "out", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_training_file_with_broken_lines_is_told_by_line(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"id": 1}\nno json\n')
    done = _run("train", path, "--base", pair.folder, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "line 1" in done.stderr
    assert "line 2" in done.stderr


def test_adapter_and_base_of_different_models_are_refused(
    pair: Pair, train_path: Path, tmp_path: Path
) -> None:
    other = write_pair(tmp_path, "qwen2")
    done = _run("--quiet", "train", train_path, "--base", pair.folder, "--out", tmp_path / "out", *QUICK)
    assert done.exit_code == 0, done.output
    done = _run("export", tmp_path / "nothing", "--base-gguf", other.gguf_path, "--out", tmp_path / "a.gguf")
    assert done.exit_code == 2
    assert "it has no adapter_config.json" in done.stderr


def test_help_names_the_defaults() -> None:
    done = _run("train", "--help")
    assert done.exit_code == 0
    assert "goes on from the last checkpoint" in done.stdout
    assert "[2e-4" in done.stdout


LLAMA_2_7B = (
    '{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,'
    ' "num_attention_heads": 32, "vocab_size": 32000}'
)


@pytest.fixture
def config_only(tmp_path: Path) -> Path:
    """A model of which nothing but the configuration is here."""
    folder = tmp_path / "7b"
    folder.mkdir()
    (folder / "config.json").write_text(LLAMA_2_7B)
    return folder


def test_dry_run_tells_what_training_and_export_need(
    config_only: Path, train_path: Path, tmp_path: Path
) -> None:
    command = (
        "train",
        train_path,
        "--base",
        config_only,
        "--out",
        tmp_path / "out",
        "--dry-run",
        "--memory",
        "12gb",
    )
    done = _run(*command)
    assert done.exit_code == 0, done.output
    for words in ("6,738,415,616 parameters", "of 12.00 (weights 3.60", "optimizer 1.19", "export: adapter 0.60 GiB",
                  "q4_k_m 3.80", "6,144 tokens at once"):  # fmt: skip
        assert words in done.stdout
    assert not (tmp_path / "out").exists()
    plain = json.loads(_run(*command, "--json").stdout)
    assert plain["training"]["total"] <= plain["budget"] == 12 * 2**30
    assert set(plain["export"]) >= {"adapter_file", "merge_memory", "merged_files"}


def test_dry_run_refuses_what_cannot_fit_with_the_nearest_that_does(
    config_only: Path, train_path: Path, tmp_path: Path
) -> None:
    done = _run("train", train_path, "--base", config_only, "--out", tmp_path / "out", "--dry-run", "--memory", "8gb",
                "--method", "lora")  # fmt: skip
    assert done.exit_code == 2
    assert "GiB, and there are 8.0 GiB (weights 12.55" in done.stderr
    assert "Try: train.method: qlora fits" in done.stderr


def test_preset_without_a_card_is_told(pair: Pair, train_path: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a card")
    done = _run("train", train_path, "--base", pair.folder, "--out", tmp_path / "out", "--memory", "24gb")
    assert done.exit_code == 2
    assert "memory: 24gb needs a CUDA card, and torch sees none here" in done.stderr
    assert not (tmp_path / "out").exists()
