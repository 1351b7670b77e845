"""`fix-and-continue`: the student errs as it did, says so, writes the step anew and goes on to the answer.

Source: LEMMA (Pan et al., ACL 2025, arXiv 2503.17439), "Fix & Continue"; the wrong step carries no loss as in
S3c-Math (arXiv 2409.01524), where `mask_wrong_step` says so.
"""

from __future__ import annotations

from lema_local.formats.base import (
    FormatSettings,
    ask,
    choose_phrase,
    corrected_steps,
    name_of,
    source_of,
    write_retry,
    write_steps,
    wrong_step,
)
from lema_local.prompts import CotPrompt
from lema_local.records import Correction, Question, TrainingExample

PHRASES = (
    "Wait, that step is wrong. Let me correct it.",
    "No, this step is not right. I will do it again.",
    "That is a mistake. The step should be as follows.",
    "Let me check this step: it is wrong. Here it is corrected.",
)


def render_fix_and_continue(
    question: Question, correction: Correction, prompt: CotPrompt, settings: FormatSettings
) -> TrainingExample:
    """Return the mistake up to its incorrect step, a turn of phrase, and the corrected steps from there on."""
    name = f"{name_of(correction)}/fix-and-continue"
    then = write_steps(corrected_steps(correction, question), settings, wrong_step(correction))
    completion, masked = write_retry(correction, choose_phrase(PHRASES, name), then, settings)
    return TrainingExample(
        id=name,
        kind="fix-and-continue",
        prompt=ask(prompt, question),
        completion=completion,
        question_id=question.id,
        source=source_of("correction", correction),
        masked=masked,
    )
