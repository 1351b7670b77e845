"""`preference`: from the first wrong step on, the corrected way is to be preferred to the mistake.

Source: Step-DPO (Lai et al. 2024, arXiv 2406.18629); fields as TRL's preference data has them.
"""

from __future__ import annotations

from lema_local.formats.base import (
    FormatSettings,
    ask,
    corrected_steps,
    joint,
    name_of,
    right_steps,
    source_of,
    write_steps,
    wrong_step,
)
from lema_local.prompts import CotPrompt
from lema_local.records import Correction, PreferenceExample, Question


def render_preference(
    question: Question, correction: Correction, prompt: CotPrompt, settings: FormatSettings
) -> PreferenceExample:
    """Return the question with the right first steps; the corrected steps as chosen, the mistake's as rejected."""
    asked, step = ask(prompt, question), wrong_step(correction)
    begun = write_steps(right_steps(correction), settings)
    # A space belongs to the word behind it, in most vocabularies; a line end does not.
    between = joint(settings) if begun else ""
    before, after = (between, "") if between == "\n" else ("", between)
    return PreferenceExample(
        id=f"{name_of(correction)}/preference",
        prompt=asked + begun + before,
        chosen=after + write_steps(corrected_steps(correction, question), settings, step),
        rejected=after + write_steps(correction.original_steps[step - 1 :], settings, step),
        answer_start=len(asked),
        question_id=question.id,
        source=source_of("correction", correction),
    )
