"""`lema train` and `lema export`: exit codes, messages, what is printed."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from command import lema as lema_process
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
    done = _run("--quiet", "train", train_path, "--base", pair.folder, "--out", tmp_path / "out", *QUICK)
    assert done.exit_code == 0, done.output
    (tmp_path / "other").mkdir()
    same_shape = write_pair(tmp_path / "other", seed=1)
    out = tmp_path / "a.gguf"
    out.write_text("the old one")
    for adapter_dir, gguf, message in (
        (tmp_path / "nothing", pair.gguf_path, "it has no adapter_config.json"),
        (tmp_path / "out", write_pair(tmp_path, "qwen3").gguf_path, "is of another base than"),
        (tmp_path / "out", same_shape.gguf_path, "a model of the same shape with other weights"),
    ):
        for more in ([], ["--merge", "--type", "q8_0"]):
            done = _run("export", adapter_dir, "--base-gguf", gguf, "--out", out, *more)
            assert done.exit_code == 2, done.output
            assert message in done.stderr
            assert out.read_text() == "the old one"
    assert not list(tmp_path.glob("a.*.*"))
    done = _run(
        "train",
        train_path,
        "--base",
        pair.folder,
        "--base-gguf",
        same_shape.gguf_path,
        "--out",
        tmp_path / "x",
    )
    assert done.exit_code == 2, done.output
    assert "does not match" in done.stderr
    assert not (tmp_path / "x").exists()


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
    assert set(plain["export"]) >= {"file", "merge_memory", "merged_files"}


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


def test_launch_on_several_cards_is_shown_with_the_command_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["lema", "train", "runs/my run", "--show-launch", "2", "--epochs", "1"])
    done = _run("train", "runs/my run", "--show-launch", "2", "--epochs", "1")
    assert done.exit_code == 0, done.output
    assert (
        "torchrun --standalone --nproc-per-node 2 -m lema_local train 'runs/my run' --epochs 1\n"
        in done.stdout
    )
    assert "accelerate launch --num_processes 2 --use_fsdp" in done.stdout
    assert "-m lema_local train 'runs/my run' --epochs 1\n" in done.stdout


def test_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    done = _run("train", tmp_path)
    assert done.exit_code == 2
    assert f"{tmp_path} is no run: it has no recipe.yaml" in done.stderr


def test_base_and_folder_have_to_be_given_for_a_file(train_path: Path) -> None:
    done = _run("train", train_path)
    assert done.exit_code == 2
    assert "Try: give --base and --out" in done.stderr


def test_benchmark_without_a_card_says_so_and_claims_nothing() -> None:
    import subprocess
    import sys

    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a card")
    script = Path(__file__).parents[2] / "benchmarks" / "bench_train.py"
    done = subprocess.run([sys.executable, str(script), "--gpu"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (
        0, "No CUDA card here: nothing was measured, and nothing is claimed.\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "status", "message", "hint"),
    [
        (
            "GatedRepo",
            403,
            "owner/model is gated on the hub",
            "accept its terms at https://huggingface.co/owner/model",
        ),
        ("RepoNotFound", 404, "the hub has no model owner/model", "check the name"),
    ],
)
def test_hub_model_that_is_not_given_out_is_told(
    code: str, status: int, message: str, hint: str, train_path: Path, tmp_path: Path
) -> None:
    class Hub(BaseHTTPRequestHandler):
        """Answers as the hub does for a model that it does not give out."""

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - the name that the server calls

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        done = lema_process(
            "train", train_path, "--base", "owner/model", "--out", tmp_path / "out", home=tmp_path / "home",
            HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}", HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "hf"),
        )  # fmt: skip
        hub.shutdown()
    assert done.returncode == 2, done.stderr
    assert f"Error: {message}" in done.stderr
    assert f"Try: {hint}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
