"""Load `prompts/*.yaml` and render them: instruction, worked examples, the question.

A prompt file holds its examples in parts (question, steps, answer), never as one text, so that one file serves a
completion model and a chat model, and a test can check each example. Placeholders are replaced in one pass; no
template language runs, so that a prompt file or a question that someone shares cannot run anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lema_local.errors import PromptError
from lema_local.records import Question
from lema_local.shipped import shipped_folder
from lema_local.steps import number_steps, state_answer
from lema_local.students.base import Message, Prompt, PromptStyle

_LAYOUT_VERSION = 1
"""Raised when the rendering below changes: it is part of every fingerprint."""
_PLACEHOLDER = re.compile(r"\{(question|choices|steps|gold_rationale)\}")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CotExample(_Part):
    """A worked example: a question and its solution."""

    question: str
    steps: list[str] = Field(min_length=1)
    """Without `Step k:` and without the sentence that states the answer."""
    answer: str
    choices: list[str] | None = None

    @property
    def solution(self) -> str:
        """The solution as a student is to write it."""
        return number_steps([*self.steps, state_answer(self.answer)])


class CorrectionExample(_Part):
    """A worked example: a wrong solution and its correction."""

    question: str
    original_steps: list[str] = Field(min_length=1)
    """The wrong solution; the last step states its answer."""
    incorrect_step: int = Field(ge=1)
    """1-based position in `original_steps`."""
    explanation: str
    corrected_steps: list[str] = Field(min_length=1)
    """From the incorrect step on; the last one states the right answer."""
    gold_answer: str
    """Never rendered: a test compares the corrected solution with it."""
    choices: list[str] | None = None


class _PromptFile(_Part):
    name: str
    description: str = ""
    instruction: str = ""
    question_format: str
    """How a question stands in the prompt; `{question}`, `{choices}`."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that can change the rendering; the description cannot."""
        content = self.model_dump(mode="json", exclude={"description"})
        text = json.dumps([_LAYOUT_VERSION, content], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


class CotPrompt(_PromptFile):
    """A prompt for a solution: few-shot or zero-shot."""

    kind: Literal["cot"]
    examples: list[CotExample] = Field(default_factory=list)
    stop: list[str] = Field(default_factory=lambda: ["\nQuestion:"])
    """Where a completion ends when the model goes on to write a question of its own."""

    def render(self, question: Question, style: PromptStyle) -> Prompt:
        """Return text to be completed, or chat messages (each example one user and one assistant turn)."""
        asked = self._ask(question.question, question.choices)
        shown = [
            (self._ask(example.question, example.choices), example.solution) for example in self.examples
        ]
        return _render(self.instruction, shown, asked, style)

    def _ask(self, question: str, choices: Sequence[str] | None) -> str:
        return _fill(self.question_format, {"question": question, "choices": format_choices(choices)})


class CorrectionPrompt(_PromptFile):
    """A prompt for the correction of a wrong solution. The gold answer is not shown (paper, section 2.1)."""

    kind: Literal["correction"]
    examples: list[CorrectionExample] = Field(default_factory=list)
    gold_format: str = "Reference Solution: {\n{gold_rationale}\n}\n"
    """Stands before the original solution where the gold rationale is shown."""
    locate_instruction: str = (
        "Each of the following solutions may contain errors. Find the first incorrect step, and answer with it alone,"
        ' such as "Step 2."; answer "None." where every step is correct.'
    )
    """Stands in the place of `instruction` where the teacher is first asked for the step alone."""
    json_instruction: str = (
        "Answer with one JSON object and nothing else. Its keys: incorrect_step (a number), explanation (a text),"
        ' corrected_solution (a list of texts, one "Step k: ..." each, from the incorrect step on; the last one states'
        " the answer)."
    )
    """Stands behind `instruction` where JSON is asked for."""
    stop: list[str] = Field(default_factory=lambda: ["\nQuestion:"])

    def render(
        self,
        question: Question,
        original_steps: Sequence[str],
        style: PromptStyle,
        *,
        shows_gold: bool = False,
        located_step: int | None = None,
        is_json: bool = False,
    ) -> Prompt:
        """Return text to be completed, or chat messages; either ends with the cue `Incorrect Step:`.

        Args:
            question: The problem.
            original_steps: The mistake's steps without `Step k:`; the last one states its final answer.
            style: `completion` or `chat`.
            shows_gold: Show the gold rationale too (the paper never does).
            located_step: 1-based; tell the teacher that this step is the incorrect one.
            is_json: Ask for JSON.

        Raises:
            PromptError: If the gold rationale is to be shown and the question has none.
        """
        gold = self._show_gold(question) if shows_gold else ""
        asked = self._ask(question.question, question.choices, original_steps, gold, located_step)
        write = _answer_as_json if is_json else _answer_in_full if located_step is None else _answer_located
        shown = [
            (self._ask_example(one, is_located=located_step is not None), write(one)) for one in self.examples
        ]
        instruction = self.instruction
        if is_json:
            instruction = f"{instruction}\n{self.json_instruction}"
        return _render(
            instruction, shown, asked, style, joint="\n" if is_json or located_step is not None else " "
        )

    def render_locating(
        self,
        question: Question,
        original_steps: Sequence[str],
        style: PromptStyle,
        *,
        shows_gold: bool = False,
    ) -> Prompt:
        """Return the first of two questions: which step is incorrect, and nothing else. See `render`."""
        gold = self._show_gold(question) if shows_gold else ""
        asked = self._ask(question.question, question.choices, original_steps, gold)
        shown = [(self._ask_example(one), f"Step {one.incorrect_step}.") for one in self.examples]
        return _render(self.locate_instruction, shown, asked, style, joint=" ")

    def _ask_example(self, example: CorrectionExample, *, is_located: bool = False) -> str:
        step = example.incorrect_step if is_located else None
        return self._ask(example.question, example.choices, example.original_steps, "", step)

    def _ask(
        self,
        question: str,
        choices: Sequence[str] | None,
        steps: Sequence[str],
        gold: str,
        located_step: int | None = None,
    ) -> str:
        values = {"question": question, "choices": format_choices(choices), "steps": number_steps(steps)}
        before, separator, after = self.question_format.partition("Original Solution:")
        cue = "" if located_step is None else f" Step {located_step}."
        return _fill(before, values) + gold + _fill(separator + after, values) + cue

    def _show_gold(self, question: Question) -> str:
        if not question.gold_rationale:
            raise PromptError(
                f"question {question.id} has no gold rationale to show", hint="switch the gold rationale off"
            )
        return _fill(self.gold_format, {"gold_rationale": question.gold_rationale})


AnyPrompt = CotPrompt | CorrectionPrompt
_ADAPTER: TypeAdapter[AnyPrompt] = TypeAdapter(Annotated[AnyPrompt, Field(discriminator="kind")])


CORRECTION_CUES = {
    "step": "Incorrect Step:",
    "explanation": "Explanation:",
    "solution": "Correct Solution:",
}
"""What stands before each part of a correction, in order."""


def format_correction_parts(
    incorrect_step: int, explanation: str, corrected_steps: Sequence[str]
) -> dict[str, str]:
    """Return the parts of a correction as they stand behind their cues (paper, appendix B.2 and figure 6).

    The line `...` stands for the unchanged steps before the incorrect one, and only where there are any.
    """
    ellipsis = "...\n" if incorrect_step > 1 else ""
    solution = ellipsis + number_steps(corrected_steps, incorrect_step)
    return {
        "step": f"Step {incorrect_step}.",
        "explanation": explanation,
        "solution": f"{{\n{solution}\n}}",
    }


def format_correction(incorrect_step: int, explanation: str, corrected_steps: Sequence[str]) -> str:
    """Return a whole correction as it stands after the cue `Incorrect Step:`."""
    parts = format_correction_parts(incorrect_step, explanation, corrected_steps)
    return "\n".join(
        [parts["step"], *(f"{CORRECTION_CUES[name]} {parts[name]}" for name in ("explanation", "solution"))]
    )


def format_choices(choices: Sequence[str] | None) -> str:
    """Return `(A) bank, (B) shop`: the candidate answers with their letters, or nothing where there are none."""
    return ", ".join(f"({chr(ord('A') + index)}) {choice}" for index, choice in enumerate(choices or ()))


def load_prompt(name_or_path: str | Path) -> AnyPrompt:
    """Return a shipped prompt by name (`cot-gsm8k`) or a prompt from a file of one's own (`my/prompt.yaml`).

    Raises:
        PromptError: If there is no such prompt, or the file is no prompt; all problems in it are listed.
    """
    source = _find(str(name_or_path))
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PromptError(f"{name_or_path}: cannot be read as YAML: {error}") from error
    try:
        return _ADAPTER.validate_python(content)
    except ValidationError as error:
        problems = "".join(f"\n  - {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise PromptError(
            f"{name_or_path} has {error.error_count()} problem(s):{problems}",
            hint="prompts/cot-gsm8k.yaml and prompts/correct-gsm8k.yaml show the two kinds in full",
        ) from error


def load_cot_prompt(name_or_path: str | Path) -> CotPrompt:
    """Return a prompt for solutions.

    Raises:
        PromptError: As `load_prompt`, and if it is a prompt for corrections.
    """
    prompt = load_prompt(name_or_path)
    if not isinstance(prompt, CotPrompt):
        raise PromptError(
            f"{name_or_path} is a prompt for corrections; one for solutions is needed (kind: cot)"
        )
    return prompt


def load_correction_prompt(name_or_path: str | Path) -> CorrectionPrompt:
    """Return a prompt for corrections.

    Raises:
        PromptError: As `load_prompt`, and if it is a prompt for solutions.
    """
    prompt = load_prompt(name_or_path)
    if not isinstance(prompt, CorrectionPrompt):
        raise PromptError(
            f"{name_or_path} is a prompt for solutions; one for corrections is needed (kind: correction)"
        )
    return prompt


def list_prompts() -> list[str]:
    """Return the names of the shipped prompts."""
    return sorted(path.stem for path in shipped_folder("prompts").glob("*.yaml"))


def _find(name_or_path: str) -> Path:
    if name_or_path in (names := list_prompts()):
        return shipped_folder("prompts") / f"{name_or_path}.yaml"
    if (path := Path(name_or_path)).is_file():
        return path
    raise PromptError(
        f"no prompt {name_or_path!r}", hint=f"one of {', '.join(names)}, or the path of a YAML file"
    )


def _fill(template: str, values: Mapping[str, str]) -> str:
    # One pass: what a question holds, a placeholder's name included, is never replaced again.
    return _PLACEHOLDER.sub(lambda match: values.get(match.group(1), ""), template)


def _answer_in_full(example: CorrectionExample) -> str:
    return format_correction(example.incorrect_step, example.explanation, example.corrected_steps)


def _answer_located(example: CorrectionExample) -> str:
    return _answer_in_full(example).partition("\n")[2]


def _answer_as_json(example: CorrectionExample) -> str:
    steps = number_steps(example.corrected_steps, example.incorrect_step).splitlines()
    content = {
        "incorrect_step": example.incorrect_step,
        "explanation": example.explanation,
        "corrected_solution": steps,
    }
    return json.dumps(content, ensure_ascii=False)


def _render(
    instruction: str, shown: Sequence[tuple[str, str]], asked: str, style: PromptStyle, joint: str = ""
) -> Prompt:
    """Put instruction, examples and question together; `joint` stands between a cue and its answer."""
    if style == "completion":
        blocks = [f"{ask}{joint}{answer}" for ask, answer in shown]
        return "\n\n".join(filter(None, [instruction, *blocks, asked]))
    messages = list(_take_turns(shown, asked))
    first = "\n\n".join(filter(None, [instruction, messages[0]["content"]]))
    return (Message(role="user", content=first), *messages[1:])


def _take_turns(shown: Sequence[tuple[str, str]], asked: str) -> Iterator[Message]:
    for ask, answer in shown:
        yield Message(role="user", content=ask)
        yield Message(role="assistant", content=answer)
    yield Message(role="user", content=asked)
