"""What works on this machine and what does not, and the command that mends it.

What may end a process (a library built for another processor) is tried in a process of its own:
`python -m lema_local.doctor PROBE ARGUMENT`.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lema_local import __version__
from lema_local.errors import LemaError
from lema_local.machine import name_processor, read_cpuinfo

State = Literal["ok", "warning", "failed"]
PROBE_TIMEOUT_S = 300.0
"""Torch alone may take a minute to load from a slow disk."""
GIB = 2**30
SPEED_FLAGS = {"avx2": "AVX2", "avx512f": "AVX512", "neon": "NEON"}
"""The processor's flag in /proc/cpuinfo: llama.cpp's name of it. Without the first two it is several times slower."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line."""

    name: str
    state: State
    text: str
    mend: str | None = None
    """The command that mends it here."""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be looked at beside the machine."""

    student: str
    """A GGUF file or hub name."""
    teacher: str | None = None
    teacher_url: str | None = None
    folder: Path = Path()
    """Where runs will be written."""


def examine(asked: Asked) -> Iterator[Check]:
    """Yield a line for each thing that is looked at, as it is known."""
    yield _check_system()
    yield _check_memory()
    yield from _check_disk(asked.folder)
    yield _check_keys()
    build, decode = _check_build(), None
    yield build
    if build.state != "failed":
        decode = _check_student(asked.student)
        yield decode
    torch = _check_torch()
    yield torch
    if torch.state != "failed":
        yield _check_nf4()
    if asked.teacher is not None:
        yield _check_teacher(asked.teacher, asked.teacher_url)


# --- the machine ----------------------------------------------------------------------------------------------


def _check_system() -> Check:
    import psutil

    facts = {
        "lema-local": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": name_processor(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads": os.cpu_count(),
    }
    text = (
        f"lema {__version__}, Python {facts['python']}, {facts['system']},"
        f" {facts['processor']}, {facts['cores']} cores"
    )
    return Check("system", "ok", text, facts=facts)


def _check_memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB are free"
    facts = {"total_bytes": memory.total, "free_bytes": memory.available}
    if memory.available < 2 * GIB:
        mend = "taskmgr" if os.name == "nt" else "ps aux --sort -rss | head" if _is_linux() else "top -o mem"
        return Check("memory", "warning", f"{text}: little; close programs", mend, facts)
    return Check("memory", "ok", text, facts=facts)


def _check_disk(folder: Path) -> Iterator[Check]:
    from lema_local.home import lema_home

    try:
        home = lema_home()
        probe = home / ".doctor"
        probe.touch()
        probe.unlink()
    except (LemaError, OSError) as err:
        yield Check("LEMA_HOME", "failed", str(err), _set_variable("LEMA_HOME", str(Path.home() / "lema")))
    else:
        yield _check_room("LEMA_HOME", home)
    yield _check_room("runs", folder.absolute())


def _check_room(name: str, folder: Path) -> Check:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    text, facts = f"{folder}: {free / GIB:.0f} GiB are free", {"folder": str(folder), "free_bytes": free}
    if not os.access(there, os.W_OK):
        mend = (
            f"icacls {there} /grant %USERNAME%:F"
            if os.name == "nt"
            else f"chmod u+w {shlex.quote(str(there))}"
        )
        return Check(name, "failed", f"{folder} cannot be written to", mend, facts)
    if free < 10 * GIB:
        mend = f"dir /s {folder}" if os.name == "nt" else f"du -h -d 1 {shlex.quote(str(there))} | sort -h"
        return Check(name, "warning", f"{text}: a 7B student and its base need 20", mend, facts)
    return Check(name, "ok", text, facts=facts)


def _check_keys() -> Check:
    from lema_local.keys import keys_path, read_keys

    try:
        names = sorted(read_keys())
    except LemaError as err:
        return Check("keys", "failed", str(err), err.hint)
    told = f"in the file: {', '.join(names)}" if names else "none in the file"
    seen = sorted(name for name, value in os.environ.items() if value and name.endswith("_API_KEY"))
    told += f"; in the environment: {', '.join(seen)}" if seen else "; none in the environment"
    return Check("keys", "ok", told, facts={"file": str(keys_path()), "names": names, "environment": seen})


# --- llama.cpp ------------------------------------------------------------------------------------------------


def _check_build() -> Check:
    found = probe("build")
    if "error" in found:
        return Check("llama.cpp", "failed", found["error"], _pip("llama-cpp-python"))
    flags, cpu = set(found["flags"]), set(read_cpuinfo("flags").split())
    used = ", ".join(
        name for name in ("AVX2", "AVX512", "NEON", "CUDA", "Metal", "Vulkan", "ROCm") if name in flags
    )
    text = f"llama-cpp-python {found['version']}: {used or 'no vector instructions'}"
    missing = [name for flag, name in SPEED_FLAGS.items() if flag in cpu and name not in flags]
    if missing:
        told = f"{text}; the processor has {', '.join(missing)}, this build does not use it: slow"
        return Check("llama.cpp", "warning", told, _rebuild("-DGGML_NATIVE=on", found["version"]), found)
    if shutil.which("nvidia-smi") and not found["has_gpu"]:
        told = f"{text}; there is an NVIDIA card, this build does not use it"
        return Check("llama.cpp", "warning", told, _rebuild("-DGGML_CUDA=on", found["version"]), found)
    return Check("llama.cpp", "ok", text, facts=found)


def _check_student(student: str) -> Check:
    found = probe("decode", student)
    if "error" in found or found.get("reason"):
        why = str(found.get("error") or found["reason"])
        mend = found.get("hint") or f"lema students inspect {shlex.quote(student)}"
        return Check("student", "failed", f"{student}: {why}", mend)
    text = (
        f"{found['name']} ({found['architecture']}, {found['quantization']}, {found['parameters'] / 1e6:,.1f}M"
        f" parameters): {found['tokens']} tokens decoded in {found['seconds']:.1f} s,"
        f" prompts as {found['prompt_style']}"
    )
    return Check("student", "ok", text, facts=found)


# --- training -------------------------------------------------------------------------------------------------


def _check_torch() -> Check:
    found = probe("torch")
    if "error" in found:
        return Check("torch", "failed", found["error"], _pip("lema-local[train]"))
    where = found["card"] or "the CPU"
    text = f"torch {found['version']}: trains on {where}, {found['free_bytes'] / GIB:.1f} GiB free"
    if found["card"] is None and shutil.which("nvidia-smi"):
        told = f"{text}; there is an NVIDIA card that this torch cannot use"
        return Check("torch", "warning", told, _pip("--force-reinstall", "torch"), found)
    if found["card"] is None:
        told = f"{text}: enough for the quickstart and for corrections; training 7B needs a CUDA card"
        mend = "lema run RECIPE --until build   (then go on where a card is)"
        return Check("torch", "warning", told, mend, found)
    return Check("torch", "ok", text, facts=found)


def _check_nf4() -> Check:
    found = probe("nf4")
    if "error" in found:
        return Check("bitsandbytes", "failed", found["error"], _pip("--upgrade", "bitsandbytes"))
    text = (
        f"bitsandbytes {found['version']}: NF4 forward and backward on {found['device']},"
        f" relative error {found['relative_error']:g}"
    )
    if not found["has_gradient"] or not found["relative_error"] < 0.2:
        return Check("bitsandbytes", "failed", f"{text}: wrong", _pip("--upgrade", "bitsandbytes"), found)
    return Check("bitsandbytes", "ok", text, facts=found)


# --- teacher --------------------------------------------------------------------------------------------------


def _check_teacher(name: str, url: str | None) -> Check:
    from lema_local.teachers import endpoint_of, open_teacher
    from lema_local.teachers.secrets import mask_secrets

    try:
        open_teacher(name, url=url)  # asks a local endpoint what it serves; a provider's key has to be there
    except LemaError as err:
        return Check(
            "teacher", "failed", mask_secrets(str(err)), mask_secrets(err.hint) if err.hint else None
        )
    endpoint = endpoint_of(name, url)
    told = (
        "its endpoint answers" if endpoint else "its key is there; nothing was asked, that would cost money"
    )
    return Check("teacher", "ok", f"{name}: {'works in this process' if name == 'reference' else told}")


# --- parts ----------------------------------------------------------------------------------------------------


def probe(name: str, argument: str = "") -> dict[str, Any]:
    """Return what a probe found in a process of its own; `error` says why it found nothing."""
    command = [sys.executable, "-m", "lema_local.doctor", name, argument]
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},  # nothing is fetched in order to be looked at
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {PROBE_TIMEOUT_S:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    return {"error": _describe_end(done.returncode, done.stderr)}


def _describe_end(code: int, stderr: str) -> str:
    from lema_local.teachers.secrets import mask_secrets

    if code < 0:
        import signal

        name = signal.Signals(-code).name
        built = ": it was built for another processor" if name == "SIGILL" else ""
        return f"it ended with {name}{built}"
    last = stderr.strip().splitlines()
    return mask_secrets(last[-1]) if last else f"it ended with exit code {code}"


def _run_probe(name: str, argument: str) -> dict[str, Any]:
    if name == "build":
        from lema_local.students.checks import check_build

        return check_build()
    if name == "decode":
        from lema_local.students import resolve_model_file
        from lema_local.students.checks import check_decode

        return check_decode(resolve_model_file(argument))
    from lema_local.training import checks

    probes: dict[str, Callable[[], dict[str, Any]]] = {"torch": checks.check_torch, "nf4": checks.check_nf4}
    return probes[name]()


def _pip(*what: str) -> str:
    return _join([sys.executable, "-m", "pip", "install", *what])


def _rebuild(flags: str, version: str) -> str:
    words = _pip(
        "--force-reinstall", "--no-deps", "--no-cache-dir", "--no-binary", "llama-cpp-python",
        f"llama-cpp-python=={version}",
    )  # fmt: skip
    if os.name == "nt":
        return f'$env:CMAKE_ARGS="{flags}"; {words}'
    return f'CMAKE_ARGS="{flags}" {words}'


def _set_variable(name: str, value: str) -> str:
    return f'$env:{name}="{value}"' if os.name == "nt" else f"export {name}={shlex.quote(value)}"


def _join(words: list[str]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _is_linux() -> bool:
    return sys.platform.startswith("linux")


if __name__ == "__main__":
    try:
        result = _run_probe(*sys.argv[1:3])
    except LemaError as err:
        result = {"error": str(err), "hint": err.hint}
    print(json.dumps(result))
