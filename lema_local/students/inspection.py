"""What a GGUF file holds and needs, and writing it with another quantization."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lema_local.errors import BackendUnavailable, InputError, LemaError
from lema_local.students.base import EngineOptions
from lema_local.students.decoder import Layout
from lema_local.students.layout import (
    Workload,
    candidate_layouts,
    free_memory_bytes,
    kv_bytes,
    physical_cores,
)
from lema_local.students.model import ModelFacts, read_facts
from lema_local.students.native import check_is_gguf, clear_log, last_error, library

FILE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}
"""Source: llama.h, enum llama_ftype."""


Q4_0_GAIN = {"F16": 1.3, "Q8_0": 1.7, "Q4_K - Medium": 1.7}
"""Decoding speed of Q4_0 over other quantizations, 16 paths at once, Qwen2-0.5B's shape. Measured with
llama-cpp-python 0.3.36 on an AVX-512 machine; on AVX2 Q4_K_M was 1.8 and Q8_0 1.4."""
SMALLEST_PARAMETERS = 100_000_000
"""Below this a student is fast in any form."""


def gain_of_q4_0(facts: ModelFacts) -> float | None:
    """Return how much faster Q4_0 would decode on a CPU; None where it is not known to matter."""
    return Q4_0_GAIN.get(facts.quantization) if facts.parameters >= SMALLEST_PARAMETERS else None


def advise_on_quantization(path: Path) -> str | None:
    """Say when another quantization would be much faster on a CPU, and how to get it."""
    facts = read_facts(path)
    gain = gain_of_q4_0(facts)
    if gain is None:
        return None
    faster = path.with_name(f"{path.stem}-q4_0.gguf")
    return (
        f"{path.name} is {facts.quantization}: on a CPU, Q4_0 samples about {gain:g} times as fast:"
        f" lema students requantize {path} {faster}"
    )


def inspect_gguf(path: Path) -> dict[str, Any]:
    """Return what a GGUF file holds, and the memory that it takes here.

    Raises:
        BackendUnavailable: If it is no usable GGUF model.
    """
    facts = read_facts(path)
    layout = _typical_layout(facts)
    cells = 0 if layout is None else kv_bytes(facts, layout)
    outputs = 0 if layout is None else 4 * (layout.slots + 1) * facts.vocabulary_size
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
        "typical_slots": layout.slots if layout else 0,
        "typical_memory_bytes": facts.weight_bytes + cells + outputs,
        "free_memory_bytes": free_memory_bytes(),
        "physical_cores": physical_cores(),
        "chat_template": facts.chat_template,
    }


TYPICAL_WORK = Workload(
    requests=512, prompts=128, prefix_tokens=600, longest_prompt=760, typical_prompt=700, max_tokens=512
)
"""Few-shot prompts, four paths of up to 512 tokens a question: what `typical_memory_bytes` is told for."""


def _typical_layout(facts: ModelFacts) -> Layout | None:
    """Return the layout that the engine would begin with here; None where memory does not hold one path."""
    try:
        return candidate_layouts(facts, TYPICAL_WORK, EngineOptions(is_unified=True))[0]
    except BackendUnavailable:
        return None


def requantize_gguf(source: Path, target: Path, kind: str, threads: int | None = None) -> None:
    """Write `source` with another quantization to `target`; the name appears when all of it is there.

    Raises:
        InputError: If both are the same file.
        BackendUnavailable: If `source` is no GGUF model or llama.cpp cannot quantize it so.
        LemaError: If the file cannot be written; what stood under the name stays.
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
            raise _quantize_failure(source, target, kind)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _quantize_failure(source: Path, target: Path, kind: str) -> LemaError:
    """Say why llama.cpp gave up."""
    cause = last_error()
    if "iostream" not in cause:  # that is all it says of a write that failed
        return BackendUnavailable(f"llama.cpp cannot write {source} as {kind}: {cause}")
    free = shutil.disk_usage(target.parent).free if target.parent.is_dir() else 0
    return LemaError(
        f"cannot write {target} ({free / 2**20:,.1f} MiB free there); what stood under that name is kept",
        hint="free some space, or give a folder on a larger disk that you may write to",
    )
