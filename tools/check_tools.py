"""Say what is missing before pip starts: Python's version, venv, a C++ compiler, CMake.

Run by the Makefile with the system's Python; imports nothing that is not in the standard library.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys

HINTS = {
    "compiler": {
        "Linux": "sudo apt install g++   (Fedora: sudo dnf install gcc-c++)",
        "Darwin": "xcode-select --install",
        "Windows": "install the Visual Studio Build Tools with 'Desktop development with C++'",
    },
    "cmake": {
        "Linux": "sudo apt install cmake   (Fedora: sudo dnf install cmake)",
        "Darwin": "brew install cmake",
        "Windows": "winget install Kitware.CMake",
    },
    "venv": {"Linux": "sudo apt install python3-venv"},
}


def find_missing() -> list[tuple[str, str]]:
    """Return what is missing, each with the key of its hint."""
    missing = []
    if sys.version_info < (3, 11):  # noqa: UP036 - this runs before anything holds the version
        missing.append((f"Python 3.11 or newer (this is {platform.python_version()})", "python"))
    if importlib.util.find_spec("ensurepip") is None:
        missing.append(("Python's venv module", "venv"))
    compilers = [os.environ.get("CXX", ""), "c++", "g++", "clang++", "cl"]
    if not any(name and shutil.which(name) for name in compilers):
        missing.append(("a C++ compiler", "compiler"))
    if not shutil.which("cmake"):
        missing.append(("CMake", "cmake"))
    return missing


def main() -> int:
    """Print what is missing and how to get it; exit code 2 where something is."""
    missing = find_missing()
    for what, key in missing:
        print(f"Error: {what} is missing; the set-up needs it (llama.cpp is compiled here).", file=sys.stderr)
        hint = HINTS.get(key, {}).get(platform.system(), "see README.md, 'Set-up'")
        print(f"Try: {hint}", file=sys.stderr)
    return 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
