"""Running the real `lema` command in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEMA = [sys.executable, "-c", "from lema_local.cli import main; main()"]

TINY = (
    "questions.train={source: quickstart@train, limit: 32}",
    "questions.validation.limit=8",
    "questions.test=[{source: quickstart@test, limit: 40}]",
    "sample.samples_per_question=2",
    "sample.exact_group=4",
    "train.max_steps=2",
    "train.batch_size=8",
    "train.micro_batch_size=8",
    "train.lora_rank=4",
    "export.fidelity_prompts=4",
    "export.fidelity_max_tokens=48",
)
"""The quickstart's recipe, small enough for a test."""


def tiny(*overrides: str) -> list[str]:
    """Return the flags of a small quickstart."""
    return [word for override in (*TINY, *overrides) for word in ("--set", override)]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment without keys, with its own state."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return {**kept, "LEMA_HOME": str(home), **more}


def lema(
    *arguments: str | Path, home: Path, before: Callable[[], None] | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*LEMA, *map(str, arguments)],
        env=environment(home, **more),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        preexec_fn=before,
    )


def hear_interrupts() -> None:
    """In a child: Ctrl-C works although the tests may run in the background, where shells switch it off."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*arguments: str | Path, home: Path, **more: Any) -> subprocess.Popen[str]:
    """Start the command and return the process."""
    return subprocess.Popen(
        [*LEMA, *map(str, arguments)],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
        **more,
    )
