"""What a GGUF file holds and needs, and writing it with another quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lema_local.errors import BackendUnavailable, InputError
from lema_local.students.layout import free_memory_bytes, physical_cores
from lema_local.students.model import read_facts
from lema_local.students.native import check_is_gguf, clear_log, last_error, library

FILE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}
"""Source: llama.h, enum llama_ftype."""


def inspect_gguf(path: Path) -> dict[str, Any]:
    """Return what a GGUF file holds, and the memory that it takes here.

    Raises:
        BackendUnavailable: If it is no usable GGUF model.
    """
    facts = read_facts(path)
    return {
        "file": str(path),
        "name": facts.name,
        "architecture": facts.architecture,
        "parameters": facts.parameters,
        "quantization": facts.quantization,
        "layers": facts.layers,
        "vocabulary": facts.vocabulary_size,
        "trained_context": facts.trained_context,
        "sliding_window": facts.sliding_window,
        "is_recurrent": facts.is_recurrent,
        "weight_bytes": facts.weight_bytes,
        "kv_bytes_per_token": facts.cell_bytes,
        "free_memory_bytes": free_memory_bytes(),
        "physical_cores": physical_cores(),
        "chat_template": facts.chat_template,
    }


def requantize_gguf(source: Path, target: Path, kind: str, threads: int | None = None) -> None:
    """Write `source` with another quantization to `target`; the name appears when all of it is there.

    Raises:
        InputError: If both are the same file.
        BackendUnavailable: If `source` is no GGUF model or llama.cpp cannot quantize it so.
    """
    check_is_gguf(source)
    if target.exists() and target.samefile(source):
        raise InputError(f"{target} is the file to be read", hint="name another OUT")
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[kind]
    params.nthread = threads or physical_cores()
    params.allow_requantize = True
    partial = target.with_name(target.name + ".partial")
    clear_log()
    try:
        if lib.llama_model_quantize(str(source).encode(), str(partial).encode(), params) != 0:
            raise BackendUnavailable(f"llama.cpp cannot write {source} as {kind}: {last_error()}")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
