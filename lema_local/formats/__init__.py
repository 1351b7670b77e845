"""The formats: what a training file makes of a correction. One module each; a run's arms are named by them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from lema_local.formats.base import Format, FormatSettings
from lema_local.formats.cot import render_cot, render_rationale
from lema_local.formats.critique import render_critique, render_right_path
from lema_local.formats.fix_and_continue import render_fix_and_continue
from lema_local.formats.lema import render_lema
from lema_local.formats.preference import render_preference
from lema_local.formats.restart import render_restart
from lema_local.jsonl import iterate_objects, read_records
from lema_local.records import AnyExample, PreferenceExample, TrainingExample

__all__ = [
    "ARMS",
    "FORMATS",
    "Arm",
    "Format",
    "FormatSettings",
    "read_examples",
    "record_of",
    "render_rationale",
]

Arm = Literal["cot", "lema", "cot_unmatched", "fix-and-continue", "restart", "critique", "preference"]
ARMS: tuple[Arm, ...] = get_args(Arm)
FORMATS: dict[Arm, Format] = {
    "cot": Format(render_cot),
    "lema": Format(render_lema),
    "cot_unmatched": Format(None),
    "fix-and-continue": Format(render_fix_and_continue),
    "restart": Format(render_restart),
    "critique": Format(render_critique, render_right_path),
    "preference": Format(render_preference, has_shared=False, record=PreferenceExample),
}


def record_of(arm: str) -> type[AnyExample]:
    """Return what an arm's training file holds; an arm of another name holds plain examples."""
    return FORMATS[arm].record if arm in FORMATS else TrainingExample


def read_examples(path: Path) -> Sequence[AnyExample]:
    """Return the examples of a training file: pairs where its first line is one.

    Raises:
        InputError: If the file cannot be read, or lines of it are no examples.
    """
    first = next((value for _, value in iterate_objects(path, [])), {})
    return read_records(path, PreferenceExample if "rejected" in first else TrainingExample)
