"""A LoRA adapter as a GGUF file that llama.cpp loads next to the base GGUF.

Reads   ADAPTER_DIR/adapter_config.json, adapter_model.safetensors; shapes and names from the base GGUF
Writes  one GGUF: `<tensor>.lora_a` [rank, in], `<tensor>.lora_b` [out, rank] in float32, and alpha

llama.cpp scales B A by alpha / rank. Source: llama_adapter_lora_weight::get_scale (ggml-org/llama.cpp,
src/llama-adapter.h); names and metadata as in its convert_lora_to_gguf.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema_local.errors import InputError
from lema_local.jsonl import finish, told_disk_errors
from lema_local.runs import hash_file
from lema_local.training.base import BaseFacts, ExportResult
from lema_local.training.bases import FACTS_NAME, is_same_norm
from lema_local.training.gguf_files import GgufFacts, read_gguf_facts
from lema_local.training.libraries import require_training_libraries

SUPPORTED = frozenset({"llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"})
"""GGUF architectures whose export is proved by tests; Mistral models are `llama` in GGUF."""
ROTATED = frozenset({"llama"})
"""Architectures whose q and k rows llama.cpp wants in another order than Hugging Face has them."""
LORA_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight$")


@dataclass(frozen=True, slots=True)
class Lora:
    """The low-rank pair of one matrix."""

    name: str
    """The base's tensor in GGUF: blk.0.attn_q.weight, ..."""
    a: Any
    """float32 [rank, in]"""
    b: Any
    """float32 [out, rank]"""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as llama.cpp computes with it."""

    facts: GgufFacts
    """Of the base that it goes with."""
    loras: list[Lora]
    rank: int
    scale: float
    """What B A is multiplied by."""
    notes: tuple[str, ...]
    """What a user should know about adapter and base."""


def export_adapter(adapter_dir: Path, base_gguf: Path, out_path: Path) -> ExportResult:
    """Write the adapter in `adapter_dir` for use with `base_gguf`.

    Raises:
        InputError: If the adapter is missing, cannot be expressed in GGUF, or does not fit the base.
        BackendUnavailable: If gguf or safetensors is not installed.
        LemaError: If the file cannot be written; no half file is left under its name.
    """
    require_training_libraries()
    check_not_base(out_path, base_gguf)
    adapter = read_adapter(adapter_dir, base_gguf)
    _write(out_path, adapter)
    return ExportResult(
        path=out_path, tensors=2 * len(adapter.loras), scale=adapter.scale, bytes=out_path.stat().st_size,
        sha256=hash_file(out_path), notes=adapter.notes,
    )  # fmt: skip


def check_not_base(out_path: Path, base_gguf: Path) -> None:
    """Stop before the base is written over.

    Raises:
        InputError: If both are one file.
    """
    if out_path.exists() and out_path.samefile(base_gguf):
        raise InputError(f"{out_path} is the base itself", hint="give another --out")


def read_adapter(adapter_dir: Path, base_gguf: Path) -> Adapter:
    """Return the adapter in `adapter_dir` in the terms of `base_gguf`: its names, its order of rows, its shapes.

    Raises:
        InputError: If the adapter is missing, cannot be expressed in GGUF, or does not fit the base.
    """
    facts = read_gguf_facts(base_gguf)
    config = _read_config(adapter_dir)
    _check_supported(facts, config, adapter_dir)
    rank = int(config["r"])
    return Adapter(
        facts,
        list(_read_pairs(adapter_dir, facts)),
        rank,
        _scale(config, rank),
        _notes(adapter_dir, base_gguf, facts),
    )


def _read_config(adapter_dir: Path) -> dict[str, Any]:
    path = adapter_dir / "adapter_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        if (adapter_dir / "config.json").is_file():
            raise InputError(
                f"{adapter_dir} holds a whole model, not an adapter",
                hint="convert it with llama.cpp's convert_hf_to_gguf.py, or train with --method qlora or lora",
            ) from err
        raise InputError(
            f"{adapter_dir} is no adapter: it has no adapter_config.json",
            hint="give the folder that lema train wrote",
        ) from err
    except ValueError as err:
        raise InputError(f"{path} is damaged: {err}", hint="train again") from err
    return config


def _check_supported(facts: GgufFacts, config: dict[str, Any], adapter_dir: Path) -> None:
    """Refuse what llama.cpp could not load, or would load as another model than the trained one."""
    refused = {
        f"it is of the kind {config.get('peft_type')}, not LORA": config.get("peft_type") != "LORA",
        "it holds whole modules besides the adapter (modules_to_save)": bool(config.get("modules_to_save")),
        "it trains single tokens (trainable_token_indices)": bool(config.get("trainable_token_indices")),
        "it is a DoRA adapter, whose magnitudes GGUF cannot hold": bool(config.get("use_dora")),
        "it trains biases": config.get("bias", "none") != "none" or bool(config.get("lora_bias")),
        "its layers have different ranks or alphas (rank_pattern, alpha_pattern)": bool(
            config.get("rank_pattern") or config.get("alpha_pattern")
        ),
    }
    reasons = [reason for reason, applies in refused.items() if applies]
    if facts.architecture not in SUPPORTED:
        known = ", ".join(sorted(SUPPORTED))
        reasons.append(f"the architecture {facts.architecture} is not supported yet (only {known})")
    if reasons:
        raise _refusal(adapter_dir, "; ".join(reasons))


def _refusal(adapter_dir: Path, reason: str) -> InputError:
    return InputError(
        f"the adapter in {adapter_dir} cannot be exported to GGUF: {reason}",
        hint="train on the linear layers with lema train, and give the GGUF of the model it was fitted to",
    )


def _scale(config: dict[str, Any], rank: int) -> float:
    """Return what B A is multiplied by: alpha / rank, for rank-stabilized LoRA alpha / sqrt(rank)."""
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read_pairs(adapter_dir: Path, facts: GgufFacts) -> Iterator[Lora]:
    """Yield every adapted matrix under its name in GGUF, in llama.cpp's row order, its shape checked."""
    sides: dict[str, dict[str, Any]] = {}
    for key, tensor in _load_tensors(adapter_dir).items():
        match = LORA_KEY.match(key)
        if match is None:
            raise _refusal(adapter_dir, f"it holds {key}, which is no matrix pair of a linear layer")
        sides.setdefault(match["module"], {})[match["side"]] = tensor.float().numpy()
    for module, pair in sorted(sides.items()):
        name = _gguf_name(module, facts, adapter_dir)
        b = permute_rows(pair["B"], rotated_heads(name, facts))
        _check_shape(name, pair["A"], b, facts, adapter_dir)
        yield Lora(name, pair["A"], b)


def _load_tensors(adapter_dir: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = adapter_dir / "adapter_model.safetensors"
    try:
        return dict(load_file(path))
    except FileNotFoundError as err:
        raise InputError(f"{adapter_dir} has no adapter_model.safetensors", hint="train again") from err
    except SafetensorError as err:
        raise InputError(f"{path} is damaged: {err}", hint="train again") from err


def _gguf_name(module: str, facts: GgufFacts, adapter_dir: Path) -> str:
    import gguf

    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == facts.architecture)
    names = gguf.get_tensor_name_map(architecture, facts.layers)
    name = names.get_name(f"{text_module(module)}.weight", try_suffixes=(".weight",))
    if name is None:
        raise _refusal(
            adapter_dir,
            f"{module} has no counterpart in a {facts.architecture} GGUF of {facts.layers} layers",
        )
    if name == "output.weight" and facts.has_tied_head:
        raise _refusal(adapter_dir, "it adapts the output head, which this base shares with its embedding")
    if name not in facts.tensor_shapes:
        raise _refusal(adapter_dir, f"{facts.path} has no tensor {name}")
    return str(name)


def text_module(name: str) -> str:
    """Return a module's name as in a model of text alone, from that of one which also sees pictures."""
    return name.replace("model.language_model.", "model.")


def rotated_heads(name: str, facts: GgufFacts) -> int | None:
    """Return how many heads the rows of this matrix are rotated by; None where they stay in their order."""
    if facts.architecture not in ROTATED:
        return None
    if name.endswith("attn_q.weight"):
        return facts.heads
    return facts.kv_heads if name.endswith("attn_k.weight") else None


def permute_rows(b: Any, heads: int | None) -> Any:
    """Return LoRA B [out, rank] with each head's rows interleaved as llama.cpp's rotary embedding has them.

    Hugging Face rotates row i with row i + d/2 of a head, llama.cpp's NORM kind row 2i with row 2i + 1.
    Source: LlamaModel.permute (ggml-org/llama.cpp, convert_hf_to_gguf.py).
    """
    if heads is None:
        return b
    rows, rank = b.shape
    return b.reshape(heads, 2, rows // heads // 2, rank).swapaxes(1, 2).reshape(rows, rank)


def _check_shape(name: str, a: Any, b: Any, facts: GgufFacts, adapter_dir: Path) -> None:
    found, wanted = (b.shape[0], a.shape[1]), facts.tensor_shapes[name]
    if found != wanted:
        raise InputError(
            f"the adapter in {adapter_dir} is of another base than {facts.path}: {name} is {wanted}, "
            f"the adapter's is {found}",
            hint="give the GGUF of the model it was fitted to",
        )


def _write(path: Path, adapter: Adapter) -> None:
    """Write under another name and rename."""
    import gguf

    partial = path.with_name(path.name + ".partial")
    with told_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(partial, adapter.facts.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.scale * adapter.rank)
        for pair in adapter.loras:
            writer.add_tensor(f"{pair.name}.lora_a", pair.a)
            writer.add_tensor(f"{pair.name}.lora_b", pair.b)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    finish(partial, path)


def _notes(adapter_dir: Path, base_gguf: Path, facts: GgufFacts) -> tuple[str, ...]:
    path = adapter_dir / FACTS_NAME
    if not path.is_file():
        return ("the adapter does not say which base it was fitted to; only shapes were compared",)
    fitted_to = BaseFacts.model_validate_json(path.read_text(encoding="utf-8"))
    if not is_same_norm(fitted_to, facts):
        raise InputError(
            f"the adapter in {adapter_dir} is of another base than {base_gguf}: it was fitted to {fitted_to.source}, "
            "a model of the same shape with other weights (its last norm differs)",
            hint="give the GGUF of the model it was fitted to",
        )
    if fitted_to.kind != "gguf":
        return (
            f"fitted to {fitted_to.source}; of {base_gguf} shapes and the last norm were compared, not all weights",
        )
    if fitted_to.sha256 != hash_file(base_gguf):
        return (
            f"fitted to {fitted_to.source}, another file than {base_gguf} (another quantization of it, perhaps)",
        )
    return ()
