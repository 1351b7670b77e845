"""The estimate of memory against real tiny models, and the layouts that fit the presets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_hf import write_pair

from lema_local.errors import InputError
from lema_local.training.base import TrainSettings
from lema_local.training.libraries import quiet_libraries
from lema_local.training.memory import (
    CARD,
    CPU,
    GIB,
    PRESETS,
    Layout,
    estimate_export,
    estimate_training,
    plan_memory,
)
from lema_local.training.shapes import ModelShape, read_shape, shape_of_config

SIZES: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "head_dim": 32,
}  # fmt: skip
LLAMA_2_7B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 32000,
}  # fmt: skip
QWEN_1_5B: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_libraries():
        yield


def _model(family: str, **changes: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SIZES, **changes}))


def _shape(model: Any) -> ModelShape:
    return shape_of_config(json.loads(model.config.to_json_string(use_diff=True)), "tiny")


def _adapted(model: Any, rank: int = 8, dropout: float = 0.0) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(r=rank, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {}),
        ("gemma", {}),
        ("gemma2", {}),
        ("gemma3_text", {}),
        ("phi3", {}),
    ],
)
def test_counts_are_those_of_the_real_model(family: str, changes: dict[str, Any]) -> None:
    model = _model(family, **changes)
    shape = _shape(model)
    assert shape.parameters == sum(one.numel() for one in model.parameters())
    adapted = _adapted(model)
    assert shape.adapter_weights(8) == sum(one.numel() for one in adapted.parameters() if one.requires_grad)


def test_known_models_have_their_known_counts() -> None:
    llama, qwen = shape_of_config(LLAMA_2_7B, "7B"), shape_of_config(QWEN_1_5B, "1.5B")
    assert (llama.parameters, qwen.parameters) == (6_738_415_616, 1_543_714_304)
    assert llama.adapter_weights(64) == 159_907_840


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_gguf_and_folder_of_a_model_have_the_same_shape(family: Any, tmp_path: Path) -> None:
    pair = write_pair(tmp_path, family)
    of_gguf, of_folder = read_shape(pair.gguf_path), read_shape(pair.folder)
    assert sorted(of_gguf.linears) == sorted(of_folder.linears)
    for name in (
        "layers", "hidden_size", "intermediate_size", "query_size", "vocab_size", "is_tied", "parameters"
    ):  # fmt: skip
        assert getattr(of_gguf, name) == getattr(of_folder, name), name


def test_weights_adapters_gradients_and_optimizer_are_what_torch_allocates(tmp_path: Path) -> None:
    import torch

    from lema_local.training.models import Compute, load_nf4

    folder = tmp_path / "model"
    model = _model("llama", hidden_size=256, intermediate_size=512, head_dim=64)
    model.save_pretrained(folder)
    shape, settings = _shape(model), TrainSettings(lora_rank=8, lora_dropout=0.0)
    estimate = estimate_training(shape, settings, Layout(64, False, False), CPU)
    nf4 = load_nf4(folder, Compute("cpu", "float32"))
    assert _bytes(nf4) == pytest.approx(estimate.weights, rel=0.01)
    adapted = _adapted(nf4, rank=8)
    trained = [one for one in adapted.parameters() if one.requires_grad]
    assert sum(one.nbytes for one in trained) == estimate.adapters
    optimizer = torch.optim.AdamW(trained)
    adapted(input_ids=torch.ones(1, 8, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    assert sum(one.grad.nbytes for one in trained) == estimate.gradients
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    assert sum(one.nbytes for one in moments) == estimate.optimizer


def _bytes(model: Any) -> int:
    """Bytes of a model's parameters, the scales of its quantized ones among them."""
    total = 0
    for weight in model.parameters():
        total += weight.nbytes
        state = getattr(weight, "quant_state", None)
        if state is not None:
            total += state.absmax.nbytes + state.state2.absmax.nbytes
    return total


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_activations_are_near_what_autograd_keeps(family: str, dropout: float, method: Any) -> None:
    import torch

    model, tokens = _model(family, num_hidden_layers=4, hidden_size=256, intermediate_size=640), 96
    shape = _shape(model)
    settings = TrainSettings(method=method, lora_rank=8, lora_dropout=dropout)
    if method == "lora":
        model = _adapted(model, rank=8, dropout=dropout)
    model.train()
    backbone = model.get_base_model().model if method == "lora" else model.model
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = backbone(input_ids=torch.ones(1, tokens, dtype=torch.long), use_cache=False)
    measured = sum(kept.values())
    assert hidden.last_hidden_state.shape == (1, tokens, 256)
    layers = [
        estimate_training(_with_layers(shape, count), settings, Layout(tokens, False, False), CPU).activations
        for count in (0, shape.layers)
    ]
    assert measured == pytest.approx(layers[1] - layers[0], rel=0.15)


def _with_layers(shape: ModelShape, layers: int) -> ModelShape:
    from dataclasses import replace

    return replace(shape, layers=layers)


def test_recomputation_takes_less_memory_and_so_do_fewer_tokens() -> None:
    shape, settings = shape_of_config(LLAMA_2_7B, "7B"), TrainSettings()
    sizes = [
        estimate_training(shape, settings, Layout(tokens, recomputes, True)).total
        for tokens, recomputes in ((2048, False), (2048, True), (1024, True))
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_presets_hold_the_models_that_they_are_for() -> None:
    seven = plan_memory(shape_of_config(LLAMA_2_7B, "7B"), TrainSettings(), PRESETS["12gb"])
    assert seven.estimate.total <= 12 * GIB
    assert seven.layout.tokens_at_once >= 1024
    small = plan_memory(shape_of_config(QWEN_1_5B, "1.5B"), TrainSettings(), PRESETS["8gb"])
    assert small.estimate.total <= 8 * GIB
    sizes = [
        plan_memory(shape_of_config(QWEN_1_5B, "1.5B"), TrainSettings(), size) for size in PRESETS.values()
    ]
    assert [plan.layout.has_gradient_checkpointing for plan in sizes] == [True, False, False, False]


@pytest.mark.parametrize(
    ("changes", "budget", "nearest", "update"),
    [
        ({"micro_batch_size": 8}, 8, "train.micro_batch_size: 2", {"micro_batch_size": 2}),
        ({"method": "lora"}, 12, "train.method: qlora", {"method": "qlora"}),
        ({"max_length": 8192}, 10, "train.max_length: 5632", {"max_length": 5632}),
        ({}, 6.9, "train.max_length: 896", {"max_length": 896}),
    ],
)
def test_what_cannot_fit_is_refused_with_the_nearest_that_does(
    changes: dict[str, Any], budget: float, nearest: str, update: dict[str, Any]
) -> None:
    shape, settings = shape_of_config(LLAMA_2_7B, "7B"), TrainSettings(**changes)
    with pytest.raises(InputError, match=r"needs [\d.]+ GiB, and there are .* GiB \(weights") as caught:
        plan_memory(shape, settings, int(budget * GIB))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(nearest)
    assert plan_memory(shape, settings.model_copy(update=update), int(budget * GIB))


def test_too_large_model_is_told_which_preset_would_do() -> None:
    shape = shape_of_config({**LLAMA_2_7B, "num_hidden_layers": 80}, "17B")
    with pytest.raises(InputError) as caught:
        plan_memory(shape, TrainSettings(lora_rank=8), PRESETS["8gb"])
    assert caught.value.hint == "memory: 12gb fits, on such a card"
    with pytest.raises(InputError) as caught:
        plan_memory(shape_of_config({**LLAMA_2_7B, "hidden_size": 16384}, "big"), TrainSettings(), 8 * GIB)
    assert "several cards" in (caught.value.hint or "")


def test_unknown_architecture_and_missing_sizes_are_told() -> None:
    with pytest.raises(InputError, match="no estimate of memory for the architecture mamba"):
        shape_of_config({"model_type": "mamba"}, "m")
    with pytest.raises(InputError, match="no usable hidden_size: None"):
        shape_of_config({"model_type": "llama"}, "m")


def test_export_needs_memory_for_one_tensor_and_disk_for_the_files() -> None:
    shape = shape_of_config(LLAMA_2_7B, "7B")
    export = estimate_export(shape, TrainSettings())
    assert export.file == 4 * 159_907_840
    assert export.merge_memory < 3 * GIB
    assert 3.5 * GIB < export.merged_files["q4_k_m"] < 4.2 * GIB  # published: 4.08 GB
    assert 13 * GIB < export.check_memory < 15 * GIB


def test_layout_of_a_cpu_is_small_and_padded() -> None:
    plan = plan_memory(
        shape_of_config(QWEN_1_5B, "1.5B"), TrainSettings(), 200 * GIB, machine=CPU, longest=100
    )
    assert plan.layout == Layout(800, False, False)
    assert CARD.float_bytes == 2
