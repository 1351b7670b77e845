"""What this process runs on, for manifests and issue reports. Nothing here tells whose machine it is."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, str]:
    """Return operating system, processor, cores, memory, and the graphics card where torch is loaded and sees one."""
    import psutil

    found = {
        "operating system": f"{platform.system()} {platform.release()}",
        "processor": name_processor(),
        "cores": str(_count_cores()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
    }
    torch = sys.modules.get("torch")  # a stage that used the card has loaded it; no other stage waits for it
    if torch is not None and torch.cuda.is_available():
        found["graphics card"] = str(torch.cuda.get_device_name(0))
    return found


def name_processor() -> str:
    """Return the processor's name as people know it, where the system tells."""
    return read_cpuinfo("model name") or platform.processor() or platform.machine()


def read_cpuinfo(field_name: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field_name)), "")


def _count_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
