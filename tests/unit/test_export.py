"""Adapters as GGUF: rows in llama.cpp's order, the scale, and what is refused with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_gguf import TinyModel, write_model
from tiny_hf import Pair, make_adapter, write_pair

from lema_local.errors import InputError, LemaError
from lema_local.training.export import export_adapter


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("llama"), "llama", is_tied=True)


@pytest.fixture(scope="module")
def adapter(llama: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(llama.folder, tmp_path_factory.mktemp("adapter"))


def _tensors(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    import gguf

    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def _source(adapter: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return {
        key.removeprefix("base_model.model.model.layers."): value
        for key, value in load_file(adapter / "adapter_model.safetensors").items()
    }


def _edit_config(adapter: Path, to: Path, **changes: Any) -> Path:
    to.mkdir()
    (to / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    config = json.loads((adapter / "adapter_config.json").read_text())
    (to / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return to


def test_every_linear_layer_is_written_with_alpha(llama: Pair, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "adapter.gguf"
    result = export_adapter(adapter, llama.gguf_path, out)
    fields, tensors = _tensors(out)
    assert (fields["general.type"], fields["adapter.type"]) == ("adapter", "lora")
    assert (fields["general.architecture"], fields["adapter.lora.alpha"]) == ("llama", 8.0)
    assert len(tensors) == result.tensors == 2 * 2 * 7
    assert (result.scale, result.bytes) == (2.0, out.stat().st_size)
    assert "base it was fitted to" in result.notes[0]


def test_rows_of_q_and_k_are_interleaved_and_no_others(llama: Pair, adapter: Path, tmp_path: Path) -> None:
    export_adapter(adapter, llama.gguf_path, tmp_path / "adapter.gguf")
    _, tensors = _tensors(tmp_path / "adapter.gguf")
    source = _source(adapter)
    # Head size 16: llama.cpp's row 2i is Hugging Face's row i, row 2i + 1 is row i + 8, head by head.
    order = [head * 16 + half * 8 + row for head in range(4) for row in range(8) for half in (0, 1)]
    for name, module in (("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj")):
        b = source[f"1.{module}.lora_B.weight"]
        assert np.array_equal(tensors[f"blk.1.{name}.weight.lora_b"], b[order[: len(b)]])
        assert np.array_equal(tensors[f"blk.1.{name}.weight.lora_a"], source[f"1.{module}.lora_A.weight"])
    for name, module in (("attn_v", "self_attn.v_proj"), ("ffn_down", "mlp.down_proj")):
        assert np.array_equal(tensors[f"blk.0.{name}.weight.lora_b"], source[f"0.{module}.lora_B.weight"])


def test_rows_of_qwen2_stay_in_their_order(tmp_path: Path) -> None:
    pair = write_pair(tmp_path, "qwen2")
    adapter = make_adapter(pair.folder, tmp_path / "adapter")
    export_adapter(adapter, pair.gguf_path, tmp_path / "adapter.gguf")
    _, tensors = _tensors(tmp_path / "adapter.gguf")
    assert np.array_equal(
        tensors["blk.0.attn_q.weight.lora_b"], _source(adapter)["0.self_attn.q_proj.lora_B.weight"]
    )


def test_rank_stabilized_scale_is_written_as_alpha(llama: Pair, adapter: Path, tmp_path: Path) -> None:
    stabilized = _edit_config(adapter, tmp_path / "rs", use_rslora=True)
    result = export_adapter(stabilized, llama.gguf_path, tmp_path / "adapter.gguf")
    fields, _ = _tensors(tmp_path / "adapter.gguf")
    assert result.scale == pytest.approx(8 / 2)  # alpha / sqrt(4)
    assert fields["adapter.lora.alpha"] / 4 == pytest.approx(result.scale)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"modules_to_save": ["lm_head"]}, "whole modules besides the adapter"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "trains biases"),
        ({"lora_bias": True}, "trains biases"),
        ({"rank_pattern": {"q_proj": 8}}, "different ranks or alphas"),
        ({"alpha_pattern": {"q_proj": 8}}, "different ranks or alphas"),
        ({"trainable_token_indices": [1]}, "single tokens"),
        ({"peft_type": "IA3"}, "of the kind IA3"),
    ],
)
def test_adapter_that_gguf_cannot_hold_is_refused(
    llama: Pair, adapter: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    edited = _edit_config(adapter, tmp_path / "edited", **changes)
    out = tmp_path / "adapter.gguf"
    with pytest.raises(InputError, match=reason):
        export_adapter(edited, llama.gguf_path, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("target", "reason"),
    [("embed_tokens", "no matrix pair of a linear layer"), ("lm_head", "shares with its embedding")],
)
def test_adapter_on_a_tied_matrix_is_refused(llama: Pair, tmp_path: Path, target: str, reason: str) -> None:
    adapter = make_adapter(llama.folder, tmp_path / "adapter", target_modules=[target, "q_proj"])
    with pytest.raises(InputError, match=reason):
        export_adapter(adapter, llama.gguf_path, tmp_path / "adapter.gguf")


def test_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    wider = write_model(tmp_path / "wider.gguf", TinyModel(hidden=128))
    with pytest.raises(
        InputError, match=r"of another base than .*: blk.0.\w+.weight is \(\d+, \d+\), the adapter's"
    ):
        export_adapter(adapter, wider, tmp_path / "adapter.gguf")
    shallower = write_model(tmp_path / "shallower.gguf", TinyModel(layers=1))
    with pytest.raises(InputError, match=r"layers.1.*has no counterpart in a llama GGUF of 1 layers"):
        export_adapter(adapter, shallower, tmp_path / "adapter.gguf")


def test_what_is_no_adapter_is_told(llama: Pair, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no adapter: it has no adapter_config.json"):
        export_adapter(tmp_path, llama.gguf_path, tmp_path / "adapter.gguf")
    torn = _edit_config(adapter, tmp_path / "torn")
    (torn / "adapter_model.safetensors").write_bytes(b"\x10")
    with pytest.raises(InputError, match=r"adapter_model.safetensors is damaged"):
        export_adapter(torn, llama.gguf_path, tmp_path / "adapter.gguf")


def test_whole_model_is_no_adapter(llama: Pair, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a whole model, not an adapter"):
        export_adapter(llama.folder, llama.gguf_path, tmp_path / "adapter.gguf")


def test_failed_writing_leaves_no_file_under_the_name(llama: Pair, adapter: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(LemaError, match="cannot write"):
        export_adapter(adapter, llama.gguf_path, blocked / "adapter.gguf")
    assert blocked.read_text() == "a file where a folder should be"
