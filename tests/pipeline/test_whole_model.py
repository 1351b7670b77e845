"""A model whose weights were all trained goes through GGUF into llama.cpp and is the same student there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command import lema as lema_command
from command import tiny
from tiny_hf import FAMILIES, ROTATED, Pair, make_examples, make_model, write_gguf, write_pair

from lema_local.cli import lema
from lema_local.errors import InputError
from lema_local.stages.export import answer_greedily, check_exported, describe_fidelity
from lema_local.students import open_student
from lema_local.training import export, whole
from lema_local.training.base import FidelityResult, TrainSettings
from lema_local.training.libraries import quiet_libraries
from lema_local.training.local import LocalTrainer
from lema_local.training.whole import export_whole_model

QUICK = TrainSettings(
    method="full", learning_rate=3e-3, batch_size=8, micro_batch_size=8, max_steps=10, max_grad_norm=1.0,
    has_gradient_checkpointing=False, weight_decay=0.0,
)  # fmt: skip
EXAMPLES = make_examples(8)
PROMPTS = [example.prompt for example in EXAMPLES]


def _run(*arguments: Any, said: str | None = None) -> Any:
    return CliRunner().invoke(lema, [str(argument) for argument in arguments], input=said)


@dataclass(frozen=True)
class Trained:
    name: str
    pair: Pair
    trainer: LocalTrainer
    model_dir: Path
    gguf: Path


@pytest.fixture(scope="module", params=[*FAMILIES, "qwen2 tied"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    name, _, tied = request.param.partition(" ")
    folder = tmp_path_factory.mktemp(name)
    pair = write_pair(folder, name, is_tied=bool(tied))
    trainer = LocalTrainer(pair.folder, pair.gguf_path)
    result = trainer.train(EXAMPLES, QUICK, folder / "out", lambda *_: None)
    exported = trainer.export(result.adapter_dir, folder / "model.gguf")
    return Trained(name, pair, trainer, result.adapter_dir, Path(exported.path))


def _compare(trained: Trained, gguf: Path) -> FidelityResult:
    bare, student = open_student(str(trained.pair.gguf_path)), open_student(str(gguf))
    try:
        return check_exported(
            trained.trainer, trained.model_dir, PROMPTS, adapted=student, bare=bare, max_tokens=16
        )
    finally:
        student.close()
        bare.close()


def test_whole_model_of_every_family_is_the_same_student_in_llama_cpp(trained: Trained) -> None:
    fidelity = _compare(trained, trained.gguf)
    print("\n".join([trained.name, *describe_fidelity(fidelity)]))  # shown with -s, for docs/log.md
    assert fidelity.is_same_student, describe_fidelity(fidelity)
    assert fidelity.divergence is not None
    assert fidelity.divergence.is_within_bound
    assert fidelity.without_adapter is not None
    assert fidelity.without_adapter.mean_kl > 0.1
    assert list(fidelity.answers) == ["trained", "model as GGUF"]


def test_leaving_out_what_llama_cpp_has_otherwise_is_noticed(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma's norms are stored as 1 + weight, Llama's q and k rows in another order; the rest as it is."""
    monkeypatch.setattr(whole, "ONE_MORE", frozenset())
    monkeypatch.setattr(export, "ROTATED", frozenset())
    trained.trainer.export(trained.model_dir, tmp_path / "wrong.gguf")
    if trained.name.startswith(("gemma", *ROTATED)):
        assert not _compare(trained, tmp_path / "wrong.gguf").is_same_student
    else:
        assert (tmp_path / "wrong.gguf").read_bytes() == trained.gguf.read_bytes()


@pytest.mark.parametrize("trained", ["llama"], indirect=True)
def test_by_the_command_it_comes_quantized_too_and_with_files_for_use(
    trained: Trained, tmp_path: Path
) -> None:
    out = tmp_path / "q.gguf"
    done = _run(
        "export",
        trained.model_dir.parent,
        "--base-gguf",
        trained.pair.gguf_path,
        "--out",
        out,
        "--type",
        "q8_0",
    )
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {
        "q.gguf", "q.Modelfile", "q.llama-server.sh", "q.chat_template.jinja",
    }  # fmt: skip
    assert "FROM ./q.gguf" in (tmp_path / "q.Modelfile").read_text()
    assert _compare(trained, out).greedy_equal > len(PROMPTS) // 2


def test_run_that_trains_all_weights_evaluates_each_arm_by_a_gguf_of_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    changes = (
        "questions.train={source: quickstart@train, limit: 16}", "questions.validation.limit=4",
        "questions.test=[{source: quickstart@test, limit: 8}]", "train.method=full", "train.learning_rate=1e-3",
        "train.validate_every_steps=1", "train.validate_answers_every=1", "train.keep_looks=true",
        "evaluate.max_tokens=48", "export.merge=[q8_0]", "export.fidelity_max_tokens=24",
    )  # fmt: skip
    done = lema_command("quickstart", "--run", run, *tiny(*changes), home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert "of the held-out questions right" in done.stderr
    for arm in ("cot", "lema"):
        exported = run / "7_export" / arm
        assert (exported / "model.gguf").stat().st_size > 5_000_000
        assert "FROM ./model.gguf" in (exported / "Modelfile").read_text()
        counts = json.loads((exported / "manifest.json").read_text())["counts"]
        assert list(counts["right"]) == ["trained", "model as GGUF", "model q8_0"]
        fidelity = counts["fidelity"]
        assert fidelity["greedy_equal"] + fidelity["near_ties"] == 4
        assert fidelity["divergence"]["mean_kl"] < 1e-3 * fidelity["without_adapter"]["mean_kl"]
        student = json.loads((run / "8_evaluate" / arm / "manifest.json").read_text())["chosen"]
        assert (student["file"], student["adapters"]) == (str(exported / "model.gguf"), [])
        card = (run / "6_train" / arm / "model" / "README.md").read_text()
        assert "library_name: transformers" in card
        assert "lora" not in card.partition("## Data")[0].lower()
    assert "| model as GGUF |" in (run / "9_report" / "report.md").read_text()
    chat = _run("chat", run, "--max-tokens", 4, said="1+1?")
    assert "model.gguf;" in chat.stderr
    pushed = _run("push", run, "--to", "me/whole")
    assert all(
        name in pushed.stdout for name in ("model.safetensors", "tokenizer.json", "model.gguf", "README.md")
    )
    assert "lema_training.json" not in pushed.stdout
    planned = _run("train", run, "--dry-run")
    assert "2,558,208 of them or beside them trained (full)" in planned.stdout
    assert "export: model 0.00 GiB on disk" in planned.stdout


def test_tables_of_positions_come_from_the_base(tmp_path: Path) -> None:
    """Llama 3.1's and Phi-3's files have tensors that no training touches and no Hugging Face folder holds."""
    model, files = (
        make_model("llama").half(),
        [tmp_path / f"{name}.gguf" for name in ("plain", "table", "whole")],
    )
    with quiet_libraries():
        model.save_pretrained(tmp_path / "hf")
    write_gguf(model, "llama", files[0])
    write_gguf(model, "llama", files[1], position_factors=[1.0, 2.0, 4.0, 8.0] * 2)
    export_whole_model(tmp_path / "hf", files[1], files[2])
    plain, table, whole_model = map(_answers, files)
    assert whole_model == table != plain


def _answers(path: Path) -> list[str]:
    student = open_student(str(path))
    try:
        return list(answer_greedily(student)(PROMPTS, 16))
    finally:
        student.close()


def test_model_of_another_base_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, "llama")
    other = write_pair(tmp_path, "qwen2")
    with pytest.raises(InputError, match=r"has nothing for blk\.0\.attn_q\.bias"):
        export_whole_model(pair.folder, other.gguf_path, tmp_path / "x.gguf")
    assert not list(tmp_path.glob("x.gguf*"))
