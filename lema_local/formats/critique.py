"""`critique`: a question and a solution, right or wrong; the answer is what is to be said of it, and a verdict.

Source: Critique Fine-Tuning (Wang, Yue and Chen 2025, arXiv 2501.17703): instruction, question, solution; the verdict
as in its appendix A.1.3. Its critiques are a teacher's free text, which as a rule comes to the right solution; these
are put together from the correction's parts.
"""

from __future__ import annotations

from lema_local.corrections import list_steps
from lema_local.formats.base import (
    FormatSettings,
    corrected_steps,
    describe_question,
    name_of,
    source_of,
    wrong_step,
)
from lema_local.prompts import CotPrompt
from lema_local.records import Correction, Question, ReasoningPath, TrainingExample
from lema_local.steps import number_steps

_PROMPT = (
    "Please critique whether the following solution to the question is correct.\n\n"
    "Question:\n{question}\nSolution:\n{solution}\nCritique:\n"
)
_VERDICT = "Critique Conclusion: "
NO_MISTAKE = f"There is no mistake: every step is correct.\n{_VERDICT}Correct"


def render_critique(
    question: Question, correction: Correction, prompt: CotPrompt, settings: FormatSettings
) -> TrainingExample:
    """Return a wrong solution; which step of it is wrong, why, and how it is right."""
    step = wrong_step(correction)
    texts = {
        "step": f"Step {step} is incorrect.",
        "explanation": correction.explanation or "",
        "solution": "Correct Solution:\n" + number_steps(corrected_steps(correction, question), step),
    }
    said = [texts[part] for part in settings.kept_parts]
    return _render(
        f"{name_of(correction)}/critique",
        question,
        number_steps(correction.original_steps),
        "\n".join([*filter(None, said), f"{_VERDICT}Incorrect"]),
        source_of("correction", correction),
    )


def render_right_path(question: Question, path: ReasoningPath, settings: FormatSettings) -> TrainingExample:
    """Return a right solution, and that there is no mistake in it."""
    return _render(
        f"{question.id}/{path.student}/{path.sample_index}/critique",
        question,
        number_steps(list_steps(path)),
        NO_MISTAKE,
        source_of("right_path", path),
    )


def _render(
    name: str, question: Question, solution: str, critique: str, source: dict[str, object]
) -> TrainingExample:
    return TrainingExample(
        id=name,
        kind="critique",
        prompt=_PROMPT.format(question=describe_question(question), solution=solution),
        completion=critique,
        question_id=question.id,
        source=source,
    )
