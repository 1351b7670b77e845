"""What every test relies on: no network, state of its own, and the real data only where it is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


@pytest.fixture(autouse=True)
def lema_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shared state of a test's own: journal, converted bases."""
    home = tmp_path_factory.mktemp("lema_home")
    monkeypatch.setenv("LEMA_HOME", str(home))
    return home


@pytest.fixture
def lema_data() -> Path:
    """The folder of real data, `$LEMA_DATA`; the test is skipped where it is not set."""
    folder = os.environ.get("LEMA_DATA")
    if not folder:
        pytest.skip("LEMA_DATA is not set: no real data here")
    return Path(folder)
