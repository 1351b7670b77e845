"""`lema`: a wrong solution, and as the answer its incorrect step, an explanation and the corrected solution.

Layout: arXiv 2310.20689, appendix B.2 and figure 6; the first cue belongs to the prompt, `...` to the target.
"""

from __future__ import annotations

from collections.abc import Sequence

from lema_local.formats.base import FormatSettings, Part, describe_question, name_of, source_of, wrong_step
from lema_local.prompts import CORRECTION_CUES, CotPrompt, format_correction_parts
from lema_local.records import Correction, Question, TrainingExample
from lema_local.steps import number_steps, split_steps

_INSTRUCTION = "For the following {kind}, the original solution is incorrect."
"""It asserts the mistake; the teacher's prompt only allows for one."""


def render_lema(
    question: Question, correction: Correction, prompt: CotPrompt, settings: FormatSettings
) -> TrainingExample:
    """Return the paper's correction example, without the parts that are left out."""
    kind = "multiple-choice question" if question.choices else "math problem"
    kept = settings.kept_parts
    texts = format_correction_parts(
        wrong_step(correction), correction.explanation or "", split_steps(correction.corrected_solution or "")
    )
    answer = "\n".join([texts[kept[0]], *(f"{CORRECTION_CUES[part]} {texts[part]}" for part in kept[1:])])
    original = number_steps(correction.original_steps)
    return TrainingExample(
        id=f"{name_of(correction)}/correction",
        kind="correction",
        prompt=f"{_INSTRUCTION.format(kind=kind)} {_ask_for(kept)}\nQuestion: {describe_question(question)}\n"
        f"Original Solution: {{\n{original}\n}}\n{CORRECTION_CUES[kept[0]]}",
        completion=f" {answer}",
        question_id=question.id,
        source=source_of("correction", correction),
    )


def _ask_for(parts: Sequence[Part]) -> str:
    """Return the instruction's second sentence: `Identify the incorrect step, explain ..., and correct ...`."""
    that = "that step" if "step" in parts else "the incorrect step"
    it = "it is incorrect" if "step" in parts else "the solution is incorrect"
    words = {
        "step": "identify the incorrect step",
        "explanation": f"explain why {it}",
        "solution": f"correct the solution starting from {that}",
    }
    *first, last = [words[part] for part in parts]
    joint = ", and " if len(first) > 1 else " and "
    sentence = f"{', '.join(first)}{joint}{last}." if first else f"{last}."
    return sentence[0].upper() + sentence[1:]
