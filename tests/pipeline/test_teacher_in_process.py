"""A teacher in this process: the student is out of memory before the teacher comes in, in one run."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner

from lema_local.cli import lema
from lema_local.jsonl import read_records
from lema_local.records import Correction

PROMPT = """
kind: correction
name: short
question_format: "{question}\\n{steps}\\nIncorrect Step:"
"""


class Watch(threading.Thread):
    """Looks again and again at which model files are mapped into memory."""

    def __init__(self, *names: str) -> None:
        super().__init__(daemon=True)
        self.names = names
        self.seen: set[tuple[str, ...]] = set()
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.is_set():
            mapped = Path("/proc/self/maps").read_text()
            self.seen.add(tuple(name for name in self.names if name in mapped))
            time.sleep(0.002)


@pytest.mark.skipif(sys.platform != "linux", reason="what is mapped into memory is read from /proc")
def test_student_and_teacher_are_never_in_memory_together(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    student = str(files("lema_local.quickstart") / "student.gguf")
    for name in ("own.gguf", "first.gguf", "second.gguf"):
        shutil.copy(student, tmp_path / name)
    (tmp_path / "short.yaml").write_text(PROMPT)
    settings = {
        "student.model": tmp_path / "own.gguf",
        "teacher.fallback.model": f"llamacpp/{tmp_path / 'second.gguf'}",
        "correct.prompt": tmp_path / "short.yaml",
        "correct.max_tokens": 24,
        "correct.max_tokens_on_cut": "null",
        "questions.train.limit": 24,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    watch = Watch("/own.gguf", "/first.gguf", "/second.gguf")
    watch.start()
    teacher = f"llamacpp/{tmp_path / 'first.gguf'}"
    result = CliRunner().invoke(
        lema,
        ["--quiet", "run", "quickstart", "--run", f"{tmp_path}/r", "--until", "correct", "--teacher", teacher, *words],
    )  # fmt: skip
    watch.is_over.set()
    watch.join()
    assert result.exit_code == 0, result.output
    assert watch.seen == {(), ("/own.gguf",), ("/first.gguf",), ("/second.gguf",)}
    corrections = read_records(tmp_path / "r" / "2_correct" / "corrections.jsonl", Correction)
    assert corrections
    assert {one.teacher for one in corrections if one.asked} == {f"llamacpp/{tmp_path / 'second.gguf'}"}
