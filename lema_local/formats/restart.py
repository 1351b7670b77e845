"""`restart`: the student errs as it did, says so, and solves the problem from the beginning.

Source: LEMMA (Pan et al., ACL 2025, arXiv 2503.17439), "Fresh & Restart".
"""

from __future__ import annotations

from lema_local.formats.base import (
    FormatSettings,
    ask,
    choose_phrase,
    corrected_steps,
    name_of,
    right_steps,
    source_of,
    write_retry,
    write_steps,
)
from lema_local.prompts import CotPrompt
from lema_local.records import Correction, Question, TrainingExample

PHRASES = (
    "Wait, that is wrong. Let me start again from the beginning.",
    "No, this is not right. I will solve it anew.",
    "That is a mistake. Let me go back to the question and start over.",
    "Let me check this: it is wrong. Here is the solution from the start.",
)


def render_restart(
    question: Question, correction: Correction, prompt: CotPrompt, settings: FormatSettings
) -> TrainingExample:
    """Return the mistake up to its incorrect step, a turn of phrase, and the whole corrected solution."""
    name = f"{name_of(correction)}/restart"
    then = write_steps([*right_steps(correction), *corrected_steps(correction, question)], settings)
    completion, masked = write_retry(correction, choose_phrase(PHRASES, name), then, settings)
    return TrainingExample(
        id=name,
        kind="restart",
        prompt=ask(prompt, question),
        completion=completion,
        question_id=question.id,
        source=source_of("correction", correction),
        masked=masked,
    )
