"""The model that an adapter is fitted to, as a Hugging Face folder on this machine.

A base is named by its GGUF file, by a folder, or by its name on the hub. A GGUF is converted once, into
`LEMA_HOME/bases/<hash>`: transformers refuses to load a GGUF and quantize it to NF4 in one go.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema_local.errors import BackendError, BackendUnavailable, InputError, LemaError
from lema_local.home import lema_home
from lema_local.runs import hash_file, write_text
from lema_local.training.base import BaseFacts
from lema_local.training.gguf_files import GgufFacts, read_gguf_facts, sample_norm
from lema_local.training.libraries import quiet_libraries

FACTS_NAME = "lema_base.json"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
OTHERS = ("*.json", "*.model", "*.txt", "*.jinja")
LAST_NORM = r"(model\.|language_model\.)*norm\.weight"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
CONVERTIBLE = frozenset({"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"})
"""GGUF architectures whose conversion is proved by tests."""


@dataclass(frozen=True, slots=True)
class Base:
    """A model to fit adapters to."""

    folder: Path
    """With config.json, the tokenizer's files and safetensors."""
    facts: BaseFacts


def open_base(source: str | Path) -> Base:
    """Return the base named by a GGUF file, a Hugging Face folder or a hub name; converts or fetches it once.

    Raises:
        InputError: If it is none of these, or cannot be trained.
        BackendUnavailable: If a hub model cannot be fetched.
        LemaError: If the disk has no room for a conversion.
    """
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, str(source), "folder")
    if path.is_file():
        return _open_gguf(path)
    if is_hub_name(source):
        return _open_folder(_fetch(str(source), [*WEIGHTS, *OTHERS]), str(source), "hub")
    raise InputError(
        f"no such base: {source}",
        hint="give a GGUF file, a Hugging Face folder, or a name such as Qwen/Qwen2.5-0.5B",
    )


def is_hub_name(source: str | Path) -> bool:
    """True for OWNER/NAME, which may stand on the hub."""
    return bool(HUB_NAME.fullmatch(str(source))) and Path(source).suffix != ".gguf"


def fetch_config(name: str) -> dict[str, Any]:
    """Return a hub model's config.json; its weights are not fetched.

    Raises:
        BackendUnavailable: If it cannot be fetched.
    """
    config = read_json(_fetch(name, ["config.json"]) / "config.json")
    if config is None:
        raise BackendUnavailable(
            f"the hub's {name} has no config.json here", hint="go online once, or give a local folder"
        )
    return config


def check_matches_gguf(facts: BaseFacts, gguf: GgufFacts) -> None:
    """Stop where an adapter of this base cannot fit the GGUF.

    Raises:
        InputError: If vocabulary, layers or hidden size differ.
    """
    pairs = {
        "layers": (facts.layers, gguf.layers),
        "hidden size": (facts.hidden_size, gguf.hidden_size),
        "vocabulary": (facts.vocab_size, gguf.vocab_size),
    }
    wrong = [f"{name} {ours} against {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]
    if not wrong and not is_same_norm(facts, gguf):
        wrong = ["another model of the same shape (the weights of the last norm differ)"]
    if wrong:
        raise InputError(
            f"the base {facts.source} does not match {gguf.path}: {', '.join(wrong)}",
            hint="give the GGUF of the very model that is trained",
        )


def is_same_norm(facts: BaseFacts, gguf: GgufFacts) -> bool:
    """Say whether the weights that no quantization touches agree, up to the rounding of 16 bits.

    True where they are not known: of an adapter that was fitted before they were written down.
    """
    if len(facts.norm) != len(gguf.norm):
        return True
    pairs = zip(facts.norm, gguf.norm, strict=True)
    return all(math.isclose(ours, theirs, rel_tol=2e-3, abs_tol=2e-3) for ours, theirs in pairs)


def _open_gguf(path: Path) -> Base:
    from filelock import FileLock

    facts = read_gguf_facts(path)
    _check_convertible(facts)
    sha256 = hash_file(path)
    folder = lema_home() / "bases" / sha256[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / FACTS_NAME).is_file():
            _convert(facts, sha256, folder)
    stored = BaseFacts.model_validate_json((folder / FACTS_NAME).read_text(encoding="utf-8"))
    return Base(folder, stored.model_copy(update={"source": str(path)}))


def _check_convertible(facts: GgufFacts) -> None:
    if facts.architecture not in CONVERTIBLE:
        raise InputError(
            f"{facts.path}: a GGUF of the architecture {facts.architecture} cannot be converted for training yet "
            f"(only {', '.join(sorted(CONVERTIBLE))})",
            hint="give the Hugging Face folder or hub name of the same model as the base",
        )
    if facts.rope_scaling:
        # transformers' GGUF loader drops it: the model would differ at every position.
        raise InputError(
            f"{facts.path}: its scaling of positions ({facts.rope_scaling}) is lost when a GGUF is converted",
            hint="give the Hugging Face folder or hub name of the same model as the base",
        )


def _convert(facts: GgufFacts, sha256: str, folder: Path) -> None:
    """Write the folder under another name and rename it, so that half a base never has the final name."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed conversion; the lock says that nobody writes it
    bytes_each = 4 if facts.main_type == "F32" else 2
    _check_room(folder.parent, facts.parameters * bytes_each, facts.path)
    partial.mkdir()
    try:
        architecture = _write_model(facts, partial)
    except (RuntimeError, ValueError, KeyError, OSError) as err:
        shutil.rmtree(partial, ignore_errors=True)
        raise BackendError(
            f"{facts.path} could not be converted for training: {err}",
            hint="give the Hugging Face folder or hub name of the same model as the base",
        ) from err
    base = BaseFacts(
        source=str(facts.path), kind="gguf", sha256=sha256, architecture=architecture, vocab_size=facts.vocab_size,
        layers=facts.layers, hidden_size=facts.hidden_size, add_bos=facts.add_bos, bos_id=facts.bos_id,
        eos_id=facts.eos_id, stop_ids=facts.stop_ids, norm=facts.norm,
    )  # fmt: skip
    write_text(partial / FACTS_NAME, base.model_dump_json(indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def _write_model(facts: GgufFacts, folder: Path) -> str:
    """Write weights, configuration and tokenizer; return Hugging Face's name of the architecture."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    dtype = {"F32": torch.float32, "BF16": torch.bfloat16}.get(facts.main_type, torch.float16)
    where = {"gguf_file": facts.path.name, "local_files_only": True}
    # transformers shows a bar of its own here that none of its switches turns off.
    with quiet_libraries(), contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            facts.path.parent, dtype=dtype, quantization_config=GgufConfig(dequantize=True), **where,
            **_left_out_settings(facts),
        )  # fmt: skip
        # Where these stay, save_pretrained takes the model for one that is still quantized, and refuses.
        for owner, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
            if hasattr(owner, name):
                delattr(owner, name)
        model.config.eos_token_id = facts.eos_id
        model.config.bos_token_id = facts.bos_id
        model.generation_config.eos_token_id = list(facts.stop_ids)
        model.generation_config.bos_token_id = facts.bos_id
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(facts.path.parent, **where)
        _set_special_tokens(tokenizer, facts)
        tokenizer.save_pretrained(folder)
    return str(model.config.model_type)


def _left_out_settings(facts: GgufFacts) -> dict[str, int]:
    """Return settings that transformers' loader does not take from the file (5.23): it would keep its defaults.

    Source of Gemma's scale: llm_build_gemma2_iswa, llm_build_gemma3 (ggml-org/llama.cpp): the size of a head, but
    for the 27B models the width of the model by its heads.
    """
    if facts.head_size is None or facts.architecture not in ("qwen3", "gemma2", "gemma3"):
        return {}
    if facts.architecture == "qwen3":
        return {"head_dim": facts.head_size}
    is_27b = facts.layers == {"gemma2": 46, "gemma3": 62}[facts.architecture]
    return {"query_pre_attn_scalar": facts.hidden_size // facts.heads if is_27b else facts.head_size}


def _set_special_tokens(tokenizer: Any, facts: GgufFacts) -> None:
    """Take them from the metadata: the loader may leave them unset."""
    for name, token_id in (
        ("bos_token", facts.bos_id),
        ("eos_token", facts.eos_id),
        ("pad_token", facts.pad_id),
    ):
        if token_id is not None:
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(int(token_id)))
    if tokenizer.pad_token is None:
        # Harmless here, unlike with collators that mask by it: the labels are our own.
        tokenizer.pad_token = tokenizer.eos_token


def _check_room(folder: Path, needed: int, what: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05:
        raise LemaError(
            f"no room to convert {what}: {needed / 2**30:.1f} GiB needed in {folder}, {free / 2**30:.1f} GiB free",
            hint="free some space, or set LEMA_HOME to a folder on a larger disk",
        )


def _fetch(name: str, patterns: list[str]) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except GatedRepoError as err:
        raise BackendUnavailable(
            f"{name} is gated on the hub",
            hint=f"accept its terms at https://huggingface.co/{name}, then: hf auth login",
        ) from err
    except RepositoryNotFoundError as err:
        raise BackendUnavailable(
            f"the hub has no model {name}", hint="check the name, or: hf auth login"
        ) from err
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError) as err:
        raise BackendUnavailable(
            f"{name} cannot be fetched from the hub: {err}", hint="go online once, or give a local folder"
        ) from err


def _open_folder(folder: Path, source: str, kind: str) -> Base:
    config = read_json(folder / "config.json")
    if config is None:
        raise InputError(
            f"{folder} is no model folder: it has no config.json", hint="give a Hugging Face model folder"
        )
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{folder} has no *.safetensors", hint="convert the weights with save_pretrained")
    if config.get("quantization_config"):
        raise InputError(f"{folder} holds quantized weights", hint="give the unquantized model as the base")
    return Base(folder, _folder_facts(folder, source, kind, config))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None where there is none.

    Raises:
        InputError: If the file cannot be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise InputError(f"{path} cannot be read: {err}", hint="fetch the model again") from err
    return value if isinstance(value, dict) else None


def _folder_facts(folder: Path, source: str, kind: str, config: Mapping[str, Any]) -> BaseFacts:
    from transformers import AutoTokenizer

    with quiet_libraries():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as err:
            raise InputError(
                f"{folder} has no tokenizer that loads: {err}", hint="fetch the model again"
            ) from err
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{folder}: its tokenizer has no end token", hint="set eos_token in tokenizer_config.json"
        )
    generation = read_json(folder / "generation_config.json") or {}
    stops = generation.get("eos_token_id", config.get("eos_token_id"))
    stop_ids = {int(tokenizer.eos_token_id), *([stops] if isinstance(stops, int) else stops or [])}
    first = tokenizer("a").input_ids[:1]
    return BaseFacts.model_validate({
        "source": source, "kind": kind, "sha256": _hash_folder(folder), "architecture": config.get("model_type"),
        "vocab_size": config.get("vocab_size"), "layers": config.get("num_hidden_layers"),
        "hidden_size": config.get("hidden_size"), "add_bos": first == [tokenizer.bos_token_id],
        "bos_id": tokenizer.bos_token_id, "eos_id": tokenizer.eos_token_id, "stop_ids": tuple(sorted(stop_ids)),
        "norm": _folder_norm(folder, str(config.get("model_type"))),
    })  # fmt: skip


def _folder_norm(folder: Path, model_type: str) -> tuple[float, ...]:
    """Return weights of the last norm as a GGUF has them; nothing where it is not found."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as weights:
                names = [name for name in weights.keys() if re.fullmatch(LAST_NORM, name)]  # noqa: SIM118 - no mapping
                if names:
                    # Hugging Face's Gemma multiplies by 1 + weight, llama.cpp by the weight in the file.
                    one = 1.0 if model_type.startswith("gemma") else 0.0
                    return sample_norm((weights.get_tensor(names[0]).float() + one).tolist())
        except SafetensorError as err:
            raise InputError(f"{path} is damaged: {err}", hint="fetch the model again") from err
    return ()


def _hash_folder(folder: Path) -> str:
    """Return a hash of what decides the model: configuration, tokenizer and weights, by name and content."""
    digest = hashlib.sha256()
    names = {path.name for pattern in (*WEIGHTS, *OTHERS) for path in folder.glob(pattern)} - {FACTS_NAME}
    for name in sorted(names):
        digest.update(f"{name}\0{hash_file(folder / name)}\n".encode())
    return digest.hexdigest()
