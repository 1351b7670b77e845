"""Tiny GGUF models with random weights, for tests of everything that runs a model.

They answer nonsense, but by the same code as real ones: byte-level BPE tokenizer, Llama, Qwen2, Gemma 2 or Mamba
layers, chat template, end tokens, LoRA adapters.

    path = write_model(tmp_path / "tiny.gguf", TinyModel(seed=1))
    adapter_path = write_adapter(tmp_path / "adapter.gguf", TinyModel(seed=1), scale=4.0)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MERGES = (
    "Ġ t",
    "h e",
    "Ġt he",
    "i n",
    "Ġ a",
    "e r",
    "o n",
    "Ġ S",
    "t e",
    "te p",
    "s w",
    "sw er",
    "Ġ i",
    "Ġi s",
    "Ċ Ċ",
)


@dataclass(frozen=True)
class TinyModel:
    """The shape of a tiny model; equal values give equal files."""

    architecture: Literal["llama", "qwen2", "gemma2", "mamba"] = "llama"
    seed: int = 0
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 128
    context: int = 512
    sliding_window: int = 0
    """For `gemma2`: tokens that every other layer sees."""
    extra_vocabulary: int = 0
    """Unused tokens, to make the vocabulary as large as a real one."""
    chat_template: str | None = None
    is_tied: bool = False
    """One matrix for embedding and output, as small real models have it."""
    is_half: bool = False
    """16-bit matrices instead of 32-bit ones."""
    end_bias: float = 0.0
    """Added to the end token's embedding along the mean direction: larger ends paths earlier."""

    @property
    def tokens(self) -> list[str]:
        """The vocabulary in order: bytes, merged tokens, special tokens, unused ones."""
        merged = [merge.replace(" ", "") for merge in _MERGES]
        unused = [f"[unused{number}]" for number in range(self.extra_vocabulary)]
        return [*_byte_characters(), *merged, *SPECIAL_TOKENS, *unused]

    @property
    def end_token(self) -> int:
        """Id of the token that ends a path: `<|im_end|>` with a chat template, else `<|endoftext|>`."""
        return self.tokens.index("<|im_end|>" if self.chat_template else "<|endoftext|>")


def write_model(path: Path, model: TinyModel | None = None, *, has_weights: bool = True) -> Path:
    """Write a model; without weights it is a vocabulary-only file. Returns `path`."""
    from gguf import GGUFWriter

    model = model or TinyModel()
    writer = GGUFWriter(path, model.architecture)
    _add_shape(writer, model)
    _add_tokenizer(writer, model)
    for name, tensor in _weights(model) if has_weights else ():
        writer.add_tensor(name, tensor.astype(np.float16) if model.is_half and tensor.ndim == 2 else tensor)
    _finish(writer)
    return path


def write_adapter(
    path: Path, model: TinyModel | None = None, *, rank: int = 4, scale: float = 1.0, seed: int = 7
) -> Path:
    """Write a random LoRA adapter for the query and output projections of `model`. Returns `path`."""
    from gguf import GGUFWriter

    model = model or TinyModel()
    draw = np.random.default_rng(seed)
    writer = GGUFWriter(path, model.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for layer in range(model.layers):
        for name in ("attn_q", "attn_output"):
            down = draw.normal(0, 1, (rank, model.hidden)).astype(np.float32)
            up = draw.normal(0, scale / rank, (model.hidden, rank)).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_a", down)
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_b", up)
    _finish(writer)
    return path


def _add_shape(writer: Any, model: TinyModel) -> None:
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.hidden)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(0 if model.architecture == "mamba" else model.feed_forward)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(1 if model.is_half else 0)
    if model.architecture == "mamba":
        writer.add_head_count(0)
        writer.add_ssm_conv_kernel(4)
        writer.add_ssm_inner_size(2 * model.hidden)
        writer.add_ssm_state_size(16)
        writer.add_ssm_time_step_rank(8)
        return
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    if model.sliding_window:
        writer.add_sliding_window(model.sliding_window)
        writer.add_key_length(model.hidden // model.heads)
        writer.add_value_length(model.hidden // model.heads)
    writer.add_rope_dimension_count(model.hidden // model.heads)
    writer.add_rope_freq_base(10_000.0)


def _add_tokenizer(writer: Any, model: TinyModel) -> None:
    normal, control, unused = 1, 3, 5
    special, extra = len(SPECIAL_TOKENS), model.extra_vocabulary
    plain = len(model.tokens) - special - extra
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(model.tokens)
    writer.add_token_types([normal] * plain + [control] * special + [unused] * extra)
    writer.add_token_merges(list(_MERGES))
    writer.add_bos_token_id(model.tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(model.end_token)
    writer.add_add_bos_token(False)
    if model.chat_template:
        writer.add_chat_template(model.chat_template)


def _weights(model: TinyModel) -> Iterator[tuple[str, np.ndarray]]:
    draw = np.random.default_rng(model.seed)
    embedding = _normal(draw, len(model.tokens), model.hidden, spread=1.0)
    embedding[model.end_token] += model.end_bias * embedding.mean(axis=0)
    yield "token_embd.weight", embedding
    if not model.is_tied:  # drawn anew: a tied random model only repeats its last token
        head = _normal(draw, len(model.tokens), model.hidden, spread=4.0)
        head[model.end_token] *= 1.0 + model.end_bias
        yield "output.weight", head
    yield "output_norm.weight", np.ones(model.hidden, np.float32)
    layer_weights = _mamba_layer if model.architecture == "mamba" else _attention_layer
    for layer in range(model.layers):
        for name, tensor in layer_weights(draw, model):
            yield f"blk.{layer}.{name}", tensor


def _attention_layer(draw: np.random.Generator, model: TinyModel) -> Iterator[tuple[str, np.ndarray]]:
    kv_size = model.hidden // model.heads * model.kv_heads
    yield "attn_norm.weight", np.ones(model.hidden, np.float32)
    yield "attn_q.weight", _normal(draw, model.hidden, model.hidden, spread=2.0)
    yield "attn_k.weight", _normal(draw, kv_size, model.hidden, spread=2.0)
    yield "attn_v.weight", _normal(draw, kv_size, model.hidden, spread=2.0)
    yield "attn_output.weight", _normal(draw, model.hidden, model.hidden, spread=2.0)
    if model.architecture == "qwen2":
        for name, size in (("attn_q", model.hidden), ("attn_k", kv_size), ("attn_v", kv_size)):
            yield f"{name}.bias", draw.normal(0, 0.1, size).astype(np.float32)
    if (
        model.architecture == "gemma2"
    ):  # strong enough not to drown in the embedding, which is the output, too
        for name in ("post_attention_norm", "post_ffw_norm"):
            yield f"{name}.weight", np.full(model.hidden, 12.0, np.float32)
    yield "ffn_norm.weight", np.ones(model.hidden, np.float32)
    yield "ffn_gate.weight", _normal(draw, model.feed_forward, model.hidden, spread=2.0)
    yield "ffn_up.weight", _normal(draw, model.feed_forward, model.hidden, spread=2.0)
    yield "ffn_down.weight", _normal(draw, model.hidden, model.feed_forward, spread=2.0)


def _mamba_layer(draw: np.random.Generator, model: TinyModel) -> Iterator[tuple[str, np.ndarray]]:
    inner, state, rank = 2 * model.hidden, 16, 8
    yield "attn_norm.weight", np.ones(model.hidden, np.float32)
    yield "ssm_in.weight", _normal(draw, 2 * inner, model.hidden, spread=1.0)
    yield "ssm_conv1d.weight", draw.normal(0, 0.5, (inner, 4)).astype(np.float32)
    yield "ssm_conv1d.bias", np.zeros(inner, np.float32)
    yield "ssm_x.weight", _normal(draw, rank + 2 * state, inner, spread=1.0)
    yield "ssm_dt.weight", _normal(draw, inner, rank, spread=1.0)
    yield "ssm_dt.bias", np.zeros(inner, np.float32)
    yield "ssm_a", -np.tile(np.arange(1, state + 1, dtype=np.float32), (inner, 1))
    yield "ssm_d", np.ones(inner, np.float32)
    yield "ssm_out.weight", _normal(draw, model.hidden, inner, spread=1.0)


def _normal(draw: np.random.Generator, rows: int, columns: int, spread: float) -> np.ndarray:
    return draw.normal(0, spread / np.sqrt(columns), (rows, columns)).astype(np.float32)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _byte_characters() -> list[str]:
    """The 256 printable stand-ins for bytes. Source: GPT-2's bytes_to_unicode (openai/gpt-2, encoder.py)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = (code for code in range(256) if code not in printable)
    stand_ins = {code: chr(code) for code in printable} | {
        code: chr(256 + n) for n, code in enumerate(others)
    }
    return [stand_ins[code] for code in range(256)]
