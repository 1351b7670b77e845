"""A model whose weights were all trained goes through GGUF into llama.cpp and is the same student there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_hf import make_examples, write_pair

from lema_local.cli import lema
from lema_local.errors import InputError
from lema_local.jsonl import write_records
from lema_local.students import open_student
from lema_local.training.libraries import quiet_libraries
from lema_local.training.whole import export_whole_model

EXAMPLES = make_examples(8)
PROMPTS = [example.prompt for example in EXAMPLES]


def _run(*arguments: Any) -> Any:
    return CliRunner().invoke(lema, [str(argument) for argument in arguments])


def _answers_in_torch(folder: Path) -> list[str]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_libraries(), torch.no_grad():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        texts = []
        for prompt in PROMPTS:
            ids = torch.tensor([tokenizer(prompt, add_special_tokens=False).input_ids])
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False
            )
            texts.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


def _answers_in_llama(path: Path) -> list[str]:
    from lema_local.stages.export import answer_greedily

    student = open_student(str(path))
    try:
        return list(answer_greedily(student)(PROMPTS, 32))
    finally:
        student.close()


@pytest.mark.parametrize(("family", "is_tied"), [("llama", False), ("qwen2", True)])
def test_whole_model_is_the_same_student_in_llama_cpp(family: Any, is_tied: bool, tmp_path: Path) -> None:
    pair = write_pair(tmp_path, family, is_tied=is_tied)
    write_records(tmp_path / "train.jsonl", EXAMPLES)
    trained = _run(
        "--quiet", "train", tmp_path / "train.jsonl", "--base", pair.folder, "--out", tmp_path / "out",
        "--method", "full", "--max-steps", "20", "--batch-size", "8", "--learning-rate", "3e-3", "--json",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    model_dir, gguf = Path(json.loads(trained.stdout)["adapter_dir"]), tmp_path / "full.gguf"
    exported = _run("export", tmp_path / "out", "--base-gguf", pair.gguf_path, "--out", gguf)
    assert exported.exit_code == 0, exported.output
    in_torch, in_llama = _answers_in_torch(model_dir), _answers_in_llama(gguf)
    assert sum(ours == theirs for ours, theirs in zip(in_torch, in_llama, strict=True)) >= len(PROMPTS) - 1
    bare = _answers_in_llama(pair.gguf_path)  # the control: the base answers otherwise
    assert sum(ours == theirs for ours, theirs in zip(in_torch, bare, strict=True)) <= len(PROMPTS) // 2
    quantized = _run(
        "export", model_dir, "--base-gguf", pair.gguf_path, "--out", tmp_path / "q.gguf", "--type", "q8_0"
    )
    assert quantized.exit_code == 0, quantized.output
    assert len(_answers_in_llama(tmp_path / "q.gguf")) == len(PROMPTS)


def test_model_of_another_base_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, "llama")
    other = write_pair(tmp_path, "qwen2")
    with pytest.raises(InputError, match=r"has nothing for blk\.0\.attn_q\.bias"):
        export_whole_model(pair.folder, other.gguf_path, tmp_path / "x.gguf")
    assert not list(tmp_path.glob("x.gguf*"))
