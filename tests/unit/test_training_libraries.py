"""The heavy libraries: missing ones are named, their chatter and reports stay away."""

from __future__ import annotations

import importlib.util
import warnings

import pytest

from lema_local.errors import BackendUnavailable
from lema_local.training.libraries import quiet_libraries
from lema_local.training.local import LocalTrainer


def test_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("torch", "trl") else real(name)
    )
    with pytest.raises(BackendUnavailable, match="need torch, trl, which is not installed") as caught:
        LocalTrainer("base.gguf")
    assert caught.value.hint == 'pip install "lema-local[train]"'
    assert caught.value.exit_code == 2


def test_warnings_of_libraries_are_collected_once_each() -> None:
    with quiet_libraries() as collected:
        for _ in range(3):
            warnings.warn("something is old", FutureWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert collected == ["FutureWarning: something is old", "UserWarning: something else"]


def test_progress_bars_come_back_afterwards() -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    with quiet_libraries():
        assert not logging.is_progress_bar_enabled()
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before


def test_nothing_is_reported_to_the_hub() -> None:
    import huggingface_hub.constants

    with quiet_libraries():
        assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
