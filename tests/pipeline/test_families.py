"""Every family of models that can be exported: trained until it matters, into GGUF, into llama.cpp, the same student.

The models are tiny and random, with the real structure of their families. Torch runs the adapter on the unquantized
base in float32; llama.cpp runs the f16 GGUF with the exported adapter. Leaving out the adapter, or the order of the
rotated rows, must be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import CHAT_TEMPLATE
from tiny_hf import FAMILIES, ROTATED, Pair, make_adapter, make_examples, write_pair

from lema_local.stages.export import check_exported, describe_fidelity
from lema_local.stages.train import train_arm
from lema_local.students import open_student
from lema_local.training import export
from lema_local.training.base import MAX_MEAN_KL, MIN_SAME_TOP, FidelityResult, TrainSettings
from lema_local.training.local import LocalTrainer

QUICK = TrainSettings(
    method="lora", lora_rank=8, lora_alpha=16, lora_dropout=0.0, learning_rate=1e-2, batch_size=8, micro_batch_size=8,
    max_steps=10, has_gradient_checkpointing=False, max_grad_norm=1.0, weight_decay=0.0,
)  # fmt: skip
EXAMPLES = make_examples(20)
PROMPTS = [example.prompt for example in EXAMPLES]


@dataclass(frozen=True)
class Family:
    name: str
    pair: Pair
    trainer: LocalTrainer
    adapter_dir: Path
    folder: Path


@pytest.fixture(scope="module", params=[*FAMILIES, "llama tied", "qwen2 tied", "qwen3 tied"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    name, _, tied = request.param.partition(" ")
    folder = tmp_path_factory.mktemp(name)
    pair = write_pair(folder, name, is_tied=bool(tied))
    trainer = LocalTrainer(pair.folder, pair.gguf_path)
    result = trainer.train(EXAMPLES, QUICK, folder / "out", lambda *_: None)
    return Family(name, pair, trainer, result.adapter_dir, folder)


def _compare(pair: Pair, trainer: LocalTrainer, adapter_dir: Path, adapter_gguf: Path) -> FidelityResult:
    bare, adapted = open_student(str(pair.gguf_path)), open_student(str(pair.gguf_path), adapter=adapter_gguf)
    try:
        return check_exported(trainer, adapter_dir, PROMPTS, adapted=adapted, bare=bare, max_tokens=16)
    finally:
        adapted.close()
        bare.close()


def test_exported_student_is_the_trained_one(family: Family) -> None:
    family.trainer.export(family.adapter_dir, family.folder / "adapter.gguf")
    fidelity = _compare(family.pair, family.trainer, family.adapter_dir, family.folder / "adapter.gguf")
    print("\n".join([family.name, *describe_fidelity(fidelity)]))  # shown with -s, for docs/log.md
    assert fidelity.is_same_student, describe_fidelity(fidelity)
    close, far = fidelity.divergence, fidelity.without_adapter
    assert close is not None
    assert far is not None
    assert close.mean_kl < MAX_MEAN_KL
    assert close.same_top >= MIN_SAME_TOP * close.clear_positions > 0
    assert far.mean_kl > 0.1
    assert not far.is_within_bound


def test_leaving_out_the_order_of_rotated_rows_is_noticed(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = family.folder / "right.gguf", family.folder / "wrong.gguf"
    family.trainer.export(family.adapter_dir, right)
    monkeypatch.setattr(export, "ROTATED", frozenset())
    family.trainer.export(family.adapter_dir, wrong)
    if family.name not in ROTATED:  # its rows stay in their order
        assert right.read_bytes() == wrong.read_bytes()
        return
    fidelity = _compare(family.pair, family.trainer, family.adapter_dir, wrong)
    assert fidelity.divergence is not None
    assert not fidelity.divergence.is_within_bound
    assert not fidelity.is_same_student


def test_student_asked_in_chats_is_the_trained_one(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, "qwen2", chat_template=CHAT_TEMPLATE)
    trainer = LocalTrainer(pair.folder, pair.gguf_path)
    student = open_student(str(pair.gguf_path))
    assert student.prompt_style == "chat"
    settings = QUICK.model_copy(update={"prompt_style": "chat"})
    result = train_arm(EXAMPLES, trainer, settings, tmp_path / "out", lambda *_: None, student)
    student.close()
    trainer.export(result.adapter_dir, tmp_path / "adapter.gguf")
    fidelity = _compare(pair, trainer, result.adapter_dir, tmp_path / "adapter.gguf")
    assert fidelity.is_same_student, describe_fidelity(fidelity)
    assert fidelity.without_adapter is not None
    assert fidelity.without_adapter.mean_kl > 0.1


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"use_rslora": True, "r": 8}, "bfloat16"),
        ({"lora_alpha": 3}, "float16"),
        ({"target_modules": ["lm_head", "k_proj", "down_proj"]}, "float32"),
    ],
)
def test_scales_number_types_and_an_untied_head_come_through(
    tmp_path: Path, options: dict[str, Any], dtype: str
) -> None:
    pair = write_pair(tmp_path)
    adapter_dir = make_adapter(pair.folder, tmp_path / "adapter", **options)
    _cast(adapter_dir / "adapter_model.safetensors", dtype)
    trainer = LocalTrainer(pair.folder, pair.gguf_path)
    trainer.export(adapter_dir, tmp_path / "adapter.gguf")
    fidelity = _compare(pair, trainer, adapter_dir, tmp_path / "adapter.gguf")
    assert fidelity.divergence is not None
    assert fidelity.without_adapter is not None
    assert fidelity.divergence.is_within_bound, describe_fidelity(fidelity)
    assert fidelity.without_adapter.mean_kl > 0.1


def _cast(path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    save_file({name: value.to(getattr(torch, dtype)) for name, value in load_file(path).items()}, path)
