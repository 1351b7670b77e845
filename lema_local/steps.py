"""Splitting a solution into steps: the one place where it is decided what "step k" means.

`Step k:` lines are taken as they stand; else one step a line; else one step a sentence. `incorrect_step` of a
correction counts these (1-based).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERED = re.compile(
    r"^[ \t]*(?:\*\*)?Step[ \t]+(\d+)[ \t]*[:.](?:\*\*)?[ \t]*", re.IGNORECASE | re.MULTILINE
)
# A full stop ends a sentence where a space and something other than a lower-case letter follow; the
# abbreviations are those that grade-school problems use.
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bMrs\.)(?<!\bvs\.)\s+(?=[^a-z\s])"
)
_STATEMENT = re.compile(r"(?:so|thus|therefore|hence)?,?\s*the (?:final )?answer is\b", re.IGNORECASE)


def split_steps(text: str) -> list[str]:
    """Return the steps of a solution, without their `Step k:` labels and without empty ones.

    Text before the first `Step k:` label is dropped where it is blank, and is a step of its own otherwise.
    """
    labels = list(_NUMBERED.finditer(text))
    if labels:
        cuts = [label.start() for label in labels] + [len(text)]
        bodies = [text[: cuts[0]]]
        bodies += [text[label.end() : cut] for label, cut in zip(labels, cuts[1:], strict=True)]
    else:
        lines = [line for line in text.splitlines() if line.strip()]
        bodies = lines if len(lines) > 1 else _SENTENCE_END.split(text)
    return [" ".join(body.split()) for body in bodies if body.strip()]


def number_steps(steps: Sequence[str], first: int = 1) -> str:
    """Return `Step k: ...` lines, the first one numbered `first`."""
    return "\n".join(f"Step {number}: {step}" for number, step in enumerate(steps, first))


def state_answer(answer: str) -> str:
    """Return the sentence that ends every solution."""
    return f"The answer is {answer}."


_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


def strip_calculator_marks(text: str) -> str:
    """Return a rationale without GSM8K's calculator marks: `48/2 = <<48/2=24>>24` becomes `48/2 = 24`.

    Source: the annotation format is described in openai/grade-school-math, README, "Calculation annotations".
    """
    return _CALCULATOR_MARK.sub("", text)


def states_answer(step: str) -> bool:
    """Whether a step is the statement of the answer: `The answer is X.` and its like."""
    return _STATEMENT.match(step) is not None
