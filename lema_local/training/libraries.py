"""The heavy libraries of training: are they there, and kept from chattering."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lema_local.errors import BackendUnavailable

NEEDED = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "gguf",
    "safetensors",
)


def require_training_libraries() -> None:
    """Say what is missing before anything is started, and prepare the environment that the libraries read once.

    Raises:
        BackendUnavailable: If a library that training needs is not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise BackendUnavailable(
            f"training and export need {', '.join(missing)}, which is not installed",
            hint='pip install "lema-local[train]"',
        )
    # Threads that wait for each other sleep instead of spinning. On an idle machine that costs nothing that could
    # be measured; on one with another busy program spinning takes ten times as long. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def quiet_libraries() -> Iterator[list[str]]:
    """Silence the libraries' progress bars and log lines; collect their warnings, each one once.

    The list fills while the block runs and is complete after it.
    """
    # Before the first import: it announces there that an optional kernel package is missing.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    collected: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        restore = _hush()
        try:
            yield collected
        finally:
            restore()
            collected.extend(dict.fromkeys(f"{item.category.__name__}: {item.message}" for item in caught))


def _hush() -> Callable[[], None]:
    """Turn the chatter off; return what turns it on again."""
    import datasets
    import huggingface_hub.constants
    from transformers.utils import logging as transformers_logging

    # TRL reports each training to the hub otherwise; the variable of this name counts only before the first import.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True

    verbosity, had_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    had_dataset_bars = not datasets.are_progress_bars_disabled()
    others = {name: logging.getLogger(name).level for name in ("trl", "peft", "accelerate", "torch")}
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in others:
        logging.getLogger(name).setLevel(logging.ERROR)

    def restore() -> None:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()
        if had_dataset_bars:
            datasets.enable_progress_bars()
        for name, level in others.items():
            logging.getLogger(name).setLevel(level)

    return restore
