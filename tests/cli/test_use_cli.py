"""Using what was trained: `lema chat`, the model card, `lema push`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from command import lema as run_lema
from fake_hub import serve_hub
from tiny_gguf import TinyModel, write_adapter, write_model
from tiny_hf import Pair, make_examples, write_pair

from lema_local.cli import lema
from lema_local.jsonl import write_records
from lema_local.recipe import dump_recipe, load_recipe

QUICK = ["--rank", "4", "--max-steps", "1", "--batch-size", "4", "--no-checkpointing"]


def _run(*arguments: Any, **options: Any) -> Result:
    return CliRunner().invoke(lema, [str(argument) for argument in arguments], **options)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run as far as `lema chat` needs one: its recipe, a student, an exported adapter."""
    folder, model = tmp_path / "run", TinyModel(seed=1)
    student = write_model(tmp_path / "student.gguf", model)
    (folder / "7_export" / "lema").mkdir(parents=True)
    write_adapter(folder / "7_export" / "lema" / "adapter.gguf", model, scale=4.0)
    recipe = load_recipe(Path("quickstart"), [f"student.model={student}"])
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    return folder


def test_chat_answers_each_line_until_it_is_left(run_dir: Path) -> None:
    said = "How many?\n\nHow many more?\n/exit\nnever asked\n"
    done = _run("chat", run_dir, "--max-tokens", 6, input=said)
    assert done.exit_code == 0, done.output
    assert "student.gguf+adapter.gguf" in done.stderr
    assert done.stdout.count("\n\n") >= 2
    base = _run("chat", run_dir, "--max-tokens", 6, "--arm", "base", input=said)
    raw = _run("chat", run_dir, "--max-tokens", 6, "--raw", input=said)
    assert len({done.stdout, base.stdout, raw.stdout}) == 3
    assert (
        _run("chat", run_dir, "--max-tokens", 6, input="How many?").stdout
        == done.stdout.partition("\n\n")[0] + "\n\n"
    )


def test_chat_with_an_arm_that_is_not_there_is_told(run_dir: Path, tmp_path: Path) -> None:
    done = _run("chat", run_dir, "--arm", "cot", input="")
    assert done.exit_code == 2
    assert "no exported student of the arm 'cot' (it has: lema)" in done.stderr
    done = _run("chat", tmp_path, input="")
    assert done.exit_code == 2
    assert "holds no run" in done.stderr


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def adapter_dir(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write_records(folder / "train.jsonl", make_examples(6))
    done = _run(
        "--quiet", "train", folder / "train.jsonl", "--base", pair.gguf_path, "--out", folder / "out", *QUICK
    )
    assert done.exit_code == 0, done.output
    return folder / "out" / "adapter"


def test_adapter_has_a_card_that_the_hub_can_read(adapter_dir: Path) -> None:
    text = (adapter_dir / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["library_name"], front["pipeline_tag"], front["license"]) == (
        "peft",
        "text-generation",
        "other",
    )
    assert "lema" in front["tags"]
    base = json.loads((adapter_dir / "lema_base.json").read_text())
    for wanted in (
        base["sha256"], "6 examples", "cot 1", "Seed: 0", "| lora_rank | 4 |", "None have been taken yet",
        "## Licence", "No certificate", "llama.gguf",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert str(Path(base["source"]).parent) not in text


def test_export_writes_what_ollama_and_llama_server_need(
    adapter_dir: Path, pair: Pair, tmp_path: Path
) -> None:
    out = tmp_path / "mine.gguf"
    done = _run(
        "export", adapter_dir, "--base-gguf", pair.gguf_path, "--out", out, "--prompt", "cot-zero-shot"
    )
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine.Modelfile", "mine.chat_template.jinja", "mine.gguf", "mine.llama-server.sh",
    ]  # fmt: skip
    modelfile = (tmp_path / "mine.Modelfile").read_text()
    assert "ADAPTER ./mine.gguf" in modelfile
    assert "Question: {{ .Prompt }}\nAnswer:" in modelfile


def test_nothing_is_uploaded_unless_told_to(adapter_dir: Path, tmp_path: Path) -> None:
    with serve_hub() as hub:
        done = run_lema(
            "push", adapter_dir, "--to", "me/tiny", home=tmp_path, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0"
        )
        assert done.returncode == 0, done.stderr
        assert "Nothing was uploaded" in done.stdout
        assert "adapter_model.safetensors" in done.stdout
        assert hub.tokens == set()


def test_told_to_the_adapter_and_its_card_are_uploaded(adapter_dir: Path, tmp_path: Path) -> None:
    with serve_hub() as hub:
        done = run_lema(
            "push", adapter_dir, "--to", "me/tiny", "--yes",
            home=tmp_path, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_TOKEN="hf_test", HF_HOME=str(tmp_path),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{hub.url}/me/tiny"
    assert hub.tokens == {"Bearer hf_test"}
    assert (
        hub.repositories["me/tiny"].get("private") or hub.repositories["me/tiny"]["visibility"] == "private"
    )
    files = hub.files["me/tiny"]
    assert sorted(files) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "lema_base.json",
    ]
    assert files["README.md"] == (adapter_dir / "README.md").read_bytes()
    assert files["adapter_model.safetensors"] == (adapter_dir / "adapter_model.safetensors").read_bytes()
    assert json.loads(files["lema_base.json"])["source"] == "llama.gguf"  # not where it lies on this machine
    own = json.loads((adapter_dir / "adapter_config.json").read_text())
    sent = json.loads(files["adapter_config.json"])
    assert sent == {**own, "base_model_name_or_path": Path(own["base_model_name_or_path"]).name}


def test_upload_that_cannot_be_is_one_message(adapter_dir: Path, tmp_path: Path) -> None:
    told = ("push", adapter_dir, "--to", "me/tiny", "--yes")
    offline = run_lema(*told, home=tmp_path, HF_HUB_OFFLINE="1")
    assert offline.returncode == 2
    assert "me/tiny cannot be uploaded" in offline.stderr
    with serve_hub(is_forbidden=True) as hub:
        forbidden = run_lema(
            *told,
            home=tmp_path,
            HF_ENDPOINT=hub.url,
            HF_HUB_OFFLINE="0",
            HF_TOKEN="hf_test",
            HF_HOME=str(tmp_path),
        )
    assert forbidden.returncode == 2
    assert "does not let you write to me/tiny" in forbidden.stderr
    for arguments, message in (
        ((tmp_path, "--to", "me/tiny"), "cannot be published: it has no README.md"),
        ((adapter_dir, "--to", "no name", "--yes"), "no name on the hub"),
    ):
        done = _run("push", *arguments)
        assert done.exit_code == 2
        assert message in done.stderr
    assert "Traceback" not in offline.stderr + forbidden.stderr
