"""The documentation is built from the code without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_command_is_in_the_reference(site: Path) -> None:
    from lema_local.cli import COMMANDS

    page = (site / "reference/commands/index.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f'<h2 id="lema-{name}">' not in page] == []


def test_every_field_is_in_the_reference_with_its_meaning(site: Path) -> None:
    page = (site / "reference/recipe/index.html").read_text(encoding="utf-8")
    for field in ("sample.temperature", "teacher.max_usd", "train.lora_rank", "questions.train.source"):
        assert f"<code>{field}</code>" in page
    assert "Never spend more in this run" in page
