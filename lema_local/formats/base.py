"""What a format is: how an accepted correction becomes a training example. And what several formats share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lema_local.prompts import CotPrompt, format_choices
from lema_local.records import AnyExample, Correction, Question, ReasoningPath, TrainingExample
from lema_local.steps import number_steps, split_steps, state_answer, states_answer

Part = Literal["step", "explanation", "solution"]
PARTS: tuple[Part, ...] = ("step", "explanation", "solution")


class FormatSettings(BaseModel):
    """How examples are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["numbered", "prose"] = "numbered"
    """`numbered`: `Step k:` lines. `prose`: one paragraph, the paper's for plain rationales."""
    leave_out: list[Part] = []
    """The paper's ablations (its figure 12): corrections without the incorrect `step`, without the `explanation`,
    without the corrected `solution`; in critiques, too."""
    mask_wrong_step: bool = True
    """In `fix-and-continue` and `restart` the wrong step is read and not learnt: it carries no loss (S3c-Math,
    arXiv 2409.01524). false: it is trained on like the rest (LEMMA, arXiv 2503.17439)."""
    right_paths: int | None = Field(default=None, ge=0)
    """Sampled right paths in `critique`, as solutions without a mistake; at most those that there are. None: as many as
    there are corrections."""
    cot_prompt: str = "cot-zero-shot"
    """The prompt that plain rationales answer, in training and in the evaluation."""

    @field_validator("leave_out")
    @classmethod
    def _keep_something(cls, parts: list[Part]) -> list[Part]:
        if set(parts) >= set(PARTS):
            raise ValueError("all parts of a correction are left out; leave at least one")
        return parts

    @property
    def kept_parts(self) -> list[Part]:
        """What a correction holds."""
        return [part for part in PARTS if part not in self.leave_out]


Render = Callable[[Question, Correction, CotPrompt, FormatSettings], AnyExample]
RenderRight = Callable[[Question, ReasoningPath, FormatSettings], TrainingExample]


@dataclass(frozen=True, slots=True)
class Format:
    """One way of training on corrections: an arm of a run."""

    render: Render | None
    """One accepted correction -> one example; None: corrections are left out."""
    render_right: RenderRight | None = None
    """A right path -> an example without a mistake; None: the format has none."""
    has_shared: bool = True
    """It also holds the plain rationales that the arms have in common."""
    record: type[AnyExample] = TrainingExample
    """What its file holds."""


def ask(prompt: CotPrompt, question: Question) -> str:
    """Return the question as the student is asked it."""
    text = prompt.render(question, "completion")
    assert isinstance(text, str)  # a completion prompt is text
    return text


def describe_question(question: Question) -> str:
    """Return a question with its choices, one a line."""
    choices = f"\nCandidate Answers: {format_choices(question.choices)}" if question.choices else ""
    return f"{question.question}{choices}"


def write_steps(steps: Sequence[str], settings: FormatSettings, first: int = 1) -> str:
    """Return a solution in the layout that is set; `first` numbers its first step."""
    if settings.layout == "numbered":
        return number_steps(steps, first)
    return " ".join(step if step.endswith((".", "!", "?")) else f"{step}." for step in steps)


def joint(settings: FormatSettings) -> str:
    """Return what stands between two steps."""
    return "\n" if settings.layout == "numbered" else " "


def end_with_answer(steps: Sequence[str], question: Question) -> list[str]:
    """Return the steps, the last one stating the answer."""
    if steps and states_answer(steps[-1]):
        return list(steps)
    return [*steps, state_answer(question.gold_answer)]


def wrong_step(correction: Correction) -> int:
    """Return the 1-based incorrect step of an accepted correction."""
    assert correction.incorrect_step is not None
    return correction.incorrect_step


def right_steps(correction: Correction) -> list[str]:
    """Return the mistake's steps before the incorrect one."""
    return correction.original_steps[: wrong_step(correction) - 1]


def corrected_steps(correction: Correction, question: Question) -> list[str]:
    """Return the steps from the incorrect one on, corrected; the last one states the answer."""
    return end_with_answer(split_steps(correction.corrected_solution or ""), question)


def name_of(correction: Correction) -> str:
    """Return what an example's id begins with."""
    path = f"{correction.question_id}/{correction.student}/{correction.sample_index}"
    return f"{path}/{correction.teacher}/{correction.attempt}"


def source_of(kind: str, record: BaseModel) -> dict[str, Any]:
    """Return what an example was made from."""
    return {"kind": kind, "record": record.model_dump()}


def choose_phrase(phrases: Sequence[str], name: str) -> str:
    """Return one of several turns of phrase, always the same one for an example."""
    return phrases[int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % len(phrases)]


def write_retry(
    correction: Correction, phrase: str, then: str, settings: FormatSettings
) -> tuple[str, list[tuple[int, int]]]:
    """Return a solution that errs, says so and goes on, and the parts of it that carry no loss.

    Args:
        correction: Its mistake's steps are written up to and with the incorrect one.
        phrase: What is said then.
        then: What follows.
        settings: Layout, and whether the wrong step carries loss.
    """
    step = wrong_step(correction)
    before = write_steps(correction.original_steps[:step], settings)
    wrong = write_steps([correction.original_steps[step - 1]], settings, step)
    masked = [(len(before) - len(wrong), len(before))] if settings.mask_wrong_step else []
    return joint(settings).join([before, phrase, then]), masked
