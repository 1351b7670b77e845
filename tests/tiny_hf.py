"""Matched pairs for tests: a tiny random Hugging Face model with its tokenizer, and the same model as GGUF.

The GGUF is written here from the Hugging Face weights, apart from the package's own way (transformers' GGUF
reader), so that a mistake in one of the two shows.

    pair = write_pair(tmp_path, "llama")
    pair.folder, pair.gguf_path

Every family has its real structure: grouped heads, biases (qwen2), norms of q and k (qwen3, gemma3), heads that are
wider than hidden / heads (qwen3), scaled embeddings, norms around one and soft caps (gemma), fused projections (phi3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from lema_local.records import TrainingExample
from lema_local.training.libraries import quiet_libraries

Family = Literal["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"]
FAMILIES: tuple[Family, ...] = get_args(Family)
CLASSES = {
    "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma": "Gemma", "gemma2": "Gemma2",
    "gemma3": "Gemma3", "phi3": "Phi3",
}  # fmt: skip
OWN_SHAPE: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 24},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
    # Every sixth layer attends to everything, the others to a window.
    "gemma3": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64, "num_hidden_layers": 6},
}
ALWAYS_TIED = ("gemma", "gemma2", "gemma3")
ROTATED = ("llama", "mistral")
"""In GGUF both are `llama`, whose q and k rows stand in another order."""
HEADS, KV_HEADS, LAYERS = 4, 2, 2
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|fim|>")
MERGES = (("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("Ġ", "S"), ("t", "e"), ("te", "p"), ("Ċ", "Ċ"))
Merges = Sequence[tuple[str, str]]
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Pair:
    """The same model twice."""

    folder: Path
    gguf_path: Path


def write_pair(
    parent: Path,
    family: Family = "llama",
    *,
    is_tied: bool = False,
    add_bos: bool = False,
    seed: int = 0,
    chat_template: str | None = None,
    merges: Merges = MERGES,
) -> Pair:
    """Write a Hugging Face folder and the GGUF of the same random model, both in float16."""
    folder, gguf_path = parent / f"{family}-hf", parent / f"{family}.gguf"
    model = make_model(family, is_tied=is_tied, seed=seed).half()
    with quiet_libraries():
        model.save_pretrained(folder)
    tokenizer = _make_tokenizer(add_bos=add_bos, merges=merges)
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    write_gguf(model, family, gguf_path, add_bos=add_bos, chat_template=chat_template, merges=merges)
    return Pair(folder, gguf_path)


def make_model(family: Family, *, is_tied: bool = False, seed: int = 0, **own: Any) -> Any:
    """Return a random model of this family; its logits are far apart."""
    import torch
    import transformers

    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": len(vocabulary()), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": 512,
        "tie_word_embeddings": is_tied or family in ALWAYS_TIED, "bos_token_id": _id("<|endoftext|>"),
        "eos_token_id": _id("<|endoftext|>"), "pad_token_id": _id("<|fim|>"),
    }  # fmt: skip
    name = CLASSES[family]
    kind = getattr(transformers, f"{name}TextConfig" if family == "gemma3" else f"{name}Config")
    model = getattr(transformers, f"{name}ForCausalLM")(kind(**(shape | OWN_SHAPE.get(family, {}) | own)))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.endswith("bias"):
                weight.normal_(0, 0.3)
            elif weight.ndim == 2:
                is_small = "embed" in key and family not in ALWAYS_TIED
                weight.normal_(0, (1.0 if is_small else 2.0) / weight.shape[1] ** 0.5)
            else:
                weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()


def vocabulary() -> list[str]:
    """The tokens in order: bytes, merged ones, special ones."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*bytes_to_unicode().values(), *("".join(merge) for merge in MERGES), *SPECIAL_TOKENS]


def _id(token: str) -> int:
    return vocabulary().index(token)


def _make_tokenizer(*, add_bos: bool, merges: Merges) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated")
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary())}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS]
    )
    if add_bos:
        bos = "<|endoftext|>"
        tokenizer.post_processor = processors.TemplateProcessing(
            f"{bos} $A", special_tokens=[(bos, _id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|fim|>"
    )


def write_gguf(
    model: Any,
    family: Family,
    path: Path,
    *,
    add_bos: bool = False,
    rope_scaling: str | None = None,
    chat_template: str | None = None,
    merges: Merges = MERGES,
    add_tokenizer: Callable[[Any], None] | None = None,
    position_factors: Sequence[float] = (),
) -> Path:
    """Write a model, its matrices in float16, its norms as llama.cpp has them, q and k rows in its order.

    `position_factors`: a table as in Llama 3.1's files, one number for each pair of a head's rows.
    """
    import gguf

    config = model.config
    name = "llama" if family in ROTATED else family
    writer = gguf.GGUFWriter(path, name)
    if rope_scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope_scaling))
    _add_shape(writer, config, family)
    if add_tokenizer is None:
        _add_tokenizer(writer, add_bos=add_bos, merges=merges)
    else:
        add_tokenizer(writer)
    if chat_template:
        writer.add_chat_template(chat_template)
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = _as_in_gguf(key, weight.float().numpy(), family)
        kind = np.float16 if values.ndim == 2 else np.float32
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight", ".bias")), values.astype(kind))
    if position_factors:
        writer.add_tensor("rope_freqs.weight", np.array(position_factors, np.float32))
    for step in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        step()
    return path


def _add_shape(writer: Any, config: Any, family: Family) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head_size)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_freq_base(1_000_000.0 if family == "gemma3" else 10_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if family in ("gemma2", "gemma3"):
        writer.add_sliding_window(config.sliding_window)
    if family == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _as_in_gguf(name: str, values: np.ndarray, family: Family) -> np.ndarray:
    if family in ROTATED:
        return _permuted(name, values)
    if family in ALWAYS_TIED and name.endswith("norm.weight"):
        return values + 1  # Hugging Face's Gemma multiplies by 1 + weight
    return values


def _permuted(name: str, values: np.ndarray) -> np.ndarray:
    """Interleave the two halves of each head, row by row, for q and k."""
    heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
    if heads is None:
        return values
    size = len(values) // heads
    order = [
        head * size + part * size // 2 + row
        for head in range(heads)
        for row in range(size // 2)
        for part in (0, 1)
    ]
    return values[order]


def _add_tokenizer(writer: Any, *, add_bos: bool, merges: Merges) -> None:
    tokens = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL_TOKENS else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(_id("<|endoftext|>"))
    writer.add_eos_token_id(_id("<|endoftext|>"))
    writer.add_pad_token_id(_id("<|fim|>"))
    writer.add_add_bos_token(add_bos)


def make_examples(count: int, *, kind: Literal["cot", "correction"] = "cot") -> list[TrainingExample]:
    """Return examples of different lengths whose answers can be learned by heart."""
    return [
        TrainingExample(
            id=f"{kind}-{number}",
            kind=kind,
            prompt=f"Question: {number} and {number * number} more?\nAnswer:\n",
            completion="\n".join(f"Step {step}: add {number + step}." for step in range(1, 2 + number % 4)),
            question_id=f"q{number}",
            source={"kind": "gold"},
        )
        for number in range(count)
    ]


def make_adapter(folder: Path, out_dir: Path, **options: Any) -> Path:
    """Write a random LoRA adapter for a Hugging Face folder, as peft saves it. Returns `out_dir`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options}
    with quiet_libraries():
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        torch.manual_seed(5)
        model = get_peft_model(base, LoraConfig(**settings))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, 0, 0.1)
        model.save_pretrained(out_dir, save_embedding_layers=False)
    return out_dir
