"""Whether llama.cpp works here: how it was built, a real decode, a student's template. For `lema doctor`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lema_local.students.base import DecodeSettings, EngineOptions, SampleRequest
from lema_local.students.llamacpp import LlamaStudent
from lema_local.students.native import library, shared_library_version


def check_build() -> dict[str, Any]:
    """Return the version of llama.cpp's bindings and what they were built with.

    Raises:
        BackendUnavailable: If they cannot be loaded.
    """
    lib = library()
    said = lib.llama_print_system_info().decode("utf-8", "replace")
    return {
        "version": shared_library_version(),
        "flags": sorted(read_flags(said)),
        "has_gpu": bool(lib.llama_supports_gpu_offload()),
    }


def read_flags(said: str) -> set[str]:
    """Return the flags that are on in llama.cpp's own line, such as `AVX2`, and its backends, such as `CUDA`."""
    found = set[str]()
    for part in said.split("|"):
        words, _, value = part.rpartition("=")
        *backend, flag = (word.strip() for word in words.split(":"))
        found.update(name for name in backend if name)
        if value.strip() == "1" and flag:
            found.add(flag)
    return found


def check_decode(path: Path) -> dict[str, Any]:
    """Decode a few tokens of a student, in its own chat template where it has one.

    Raises:
        BackendUnavailable: If the file cannot be used or does not fit.
        PromptError: If its template cannot be rendered.
    """
    student = LlamaStudent(path, options=EngineOptions(slots=1, context_tokens=512))
    try:
        text = "What is 2+3?"
        is_chat = student.prompt_style == "chat"
        prompt = ({"role": "user", "content": text},) if is_chat else f"Question: {text}\n"
        began = time.monotonic()
        request = SampleRequest("doctor", 0, prompt, seed=1)  # type: ignore[arg-type]
        settings = DecodeSettings(temperature=0.0, max_tokens=16)
        done = [answer for _, answer in student.complete_many([request], settings)]
        tokens = getattr(done[0], "completion_tokens", None) if done else None
        return {
            "name": student.name,
            "architecture": student.facts.architecture,
            "quantization": student.facts.quantization,
            "parameters": student.facts.parameters,
            "prompt_style": student.prompt_style,
            "tokens": tokens,
            "seconds": round(time.monotonic() - began, 3),
            "reason": getattr(done[0], "reason", None) if done else "it answered nothing",
        }
    finally:
        student.close()
