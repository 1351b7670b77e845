"""`cot`: the corrected solution as a plain rationale, and every other plain rationale. The control of all formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lema_local.formats.base import (
    FormatSettings,
    ask,
    corrected_steps,
    end_with_answer,
    name_of,
    right_steps,
    source_of,
    write_steps,
)
from lema_local.prompts import CotPrompt
from lema_local.records import Correction, Question, TrainingExample


def render_rationale(
    name: str,
    question: Question,
    steps: Sequence[str],
    source: dict[str, Any],
    prompt: CotPrompt,
    settings: FormatSettings,
) -> TrainingExample:
    """Return a question and a solution of it.

    Args:
        name: The example's id.
        question: What is asked.
        steps: The solution's; the answer is stated where the last one does not.
        source: What it was made from.
        prompt: How it is asked.
        settings: The layout.
    """
    return TrainingExample(
        id=name,
        kind="cot",
        prompt=ask(prompt, question),
        completion=write_steps(end_with_answer(steps, question), settings),
        question_id=question.id,
        source=source,
    )


def render_cot(
    question: Question, correction: Correction, prompt: CotPrompt, settings: FormatSettings
) -> TrainingExample:
    """Return the correction as a plain rationale: its unchanged first steps, then the corrected ones."""
    steps = [*right_steps(correction), *corrected_steps(correction, question)]
    source = source_of("corrected", correction)
    return render_rationale(f"{name_of(correction)}/corrected", question, steps, source, prompt, settings)
