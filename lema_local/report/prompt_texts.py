"""The prompts of a run in full: from the files that the recipe names, where they still are what the run used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lema_local.errors import PromptError
from lema_local.prompts import AnyPrompt, CorrectionPrompt, load_prompt
from lema_local.records import Question
from lema_local.report.data import NamedText, StageLine
from lema_local.report.files import RunReader

PROMPT_KEYS = (
    ("1_sample", "sample", "prompt"),
    ("2_correct", "correct", "prompt"),
    ("3_augment", "augment", "prompt"),
    ("5_build", "build", "cot_prompt"),
)
"""Stage, block of the recipe, key in it."""
_ASKED = Question(id="", dataset="", split="", question="{question}", gold_answer="{gold answer}")


def read_prompts(
    reader: RunReader, lines: Sequence[StageLine], settings: Mapping[str, Any]
) -> list[NamedText]:
    """Return each prompt that a stage used, rendered for completion, with `{question}` in the question's place.

    A prompt that has changed since, or is gone, is told and not shown.
    """
    used = {line.name: line.manifest.made_from.get("prompt") for line in lines if line.manifest}
    stages_of: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for stage, block, key in PROMPT_KEYS:
        name = _look_up(settings, block, key)
        fingerprint = used.get(stage)
        if name is None or not isinstance(fingerprint, str):
            continue  # not reached yet, or the teacher reads no prompt
        try:
            prompt = load_prompt(name)
        except PromptError as err:
            reader.tell(f"the prompt of {stage} cannot be shown: {err}")
            continue
        if prompt.fingerprint != fingerprint:
            reader.tell(f"the prompt {name} of {stage} has changed since this run: it is not shown")
            continue
        stages_of.setdefault(name, []).append(stage)
        texts[name] = _render(prompt)
    return [NamedText(f"{name} ({', '.join(stages_of[name])})", text) for name, text in texts.items()]


def _look_up(settings: Mapping[str, Any], block: str, key: str) -> str | None:
    found = settings.get(block)
    name = found.get(key) if isinstance(found, Mapping) else None
    return name if isinstance(name, str) else None


def _render(prompt: AnyPrompt) -> str:
    if isinstance(prompt, CorrectionPrompt):
        rendered = prompt.render(_ASKED, ["{original solution}"], "completion")
    else:
        rendered = prompt.render(_ASKED, "completion")
    assert isinstance(rendered, str)  # messages are the other style
    return rendered
