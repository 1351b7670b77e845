"""The parity gate: does training cut a prompt into the same tokens as the student's GGUF does?

Fifty prompts go through the Hugging Face tokenizer with its chat template and through the GGUF with its own: the first
ones of the training file, and prompts made to be difficult. Where one differs, training does not start.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from lema_local.errors import InputError, PromptError
from lema_local.training.base import ParityPrompt, PromptReader
from lema_local.training.tokens import Encoder

PROMPTS = 50
TEXTS = (
    "", " ", "\n", "\t", "a", " leading space", "   three leading spaces", "trailing space ", "two  spaces  inside",
    "\nleading line end", "trailing line ends\n\n", "\r\na line of Windows\r\n", "\ttabs\tinside\t",
    "1", " 12", "1234567890", "3.14159 and 1,000,000 and -7", "0.5% of $1,234.50", "1/2 + 3/4 = 5/4",
    "x^2 - 4x + 4 = 0",
    "Question: Anna has 12 apples.\nAnswer:\n", "Step 1: 12 - 7 = 5.\nStep 2: The answer is 5.", "#### 42",
    "don't, I'LL, we've", "CamelCase snake_case kebab-case", "def f(x):\n    return x ** 2\n", "{\"key\": [1, 2]}",
    "na\u00efve caf\u00e9 \u2013 \u201cquoted\u201d \u2026", "\u00a0no-break\u00a0spaces\u00a0",
    "\u6570\u5b66\u306e\u554f\u984c\u3067\u3059\u3002", "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! 25\u00b0C",
    "\U0001f642 \U0001f469\u200d\U0001f4bb \U0001f1e9\U0001f1ea", "\u221a2 \u2248 1.414 \u2264 \u03c0 \u00d7 \u00bd",
    "\uff11\uff12\uff13 \u0663", "zero\u200bwidth", "<b>no token</b> [INST] </s> <|im_start|>",
)  # fmt: skip
"""To be completed, or said by the user of a chat. Composed characters only: some tokenizers of Hugging Face compose
what llama.cpp takes as it is."""
CHATS = (
    (("system", "You are a careful tutor."), ("user", "What is 7 + 5?")),
    (("user", "What is 7 + 5?"), ("assistant", "Step 1: The answer is 12."), ("user", " And 2 more?\n")),
)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one side makes of a prompt."""

    text: str | None
    """After the template; None where the template refuses the messages."""
    ids: list[int]


def parity_prompts(own: Iterable[ParityPrompt], *, has_chat: bool) -> list[ParityPrompt]:
    """Return 50 prompts (fewer where `own` has fewer than a dozen).

    Args:
        own: Of the training file, as they are given to the student.
        has_chat: Every other difficult text is said by the user of a chat; some longer chats are added.
    """
    difficult: list[ParityPrompt] = list(TEXTS)
    if has_chat:
        difficult = [*TEXTS[::2], *(_messages(("user", text)) for text in TEXTS[1::2])]
        difficult += [_messages(*turns) for turns in CHATS]
    return [*islice(own, max(0, PROMPTS - len(difficult))), *difficult][:PROMPTS]


def _messages(*turns: tuple[str, str]) -> ParityPrompt:
    return tuple({"role": role, "content": content} for role, content in turns)


def check_same_tokens(encoder: Encoder, reader: PromptReader, training_prompts: Iterable[str]) -> int:
    """Compare what both sides make of 50 prompts; return how many were compared.

    Chats are among them where both sides have a template, or where training is to use one.

    Raises:
        InputError: With the first difference, both renderings shown.
    """
    has_chat = encoder.is_chat or (encoder.has_template and reader.has_template)
    own = map(encoder.student_prompt, dict.fromkeys(training_prompts))
    prompts = parity_prompts(own, has_chat=has_chat)
    for prompt in prompts:
        ours, theirs = _read_in_training(encoder, prompt), _read_in_gguf(reader, prompt)
        if ours.ids != theirs.ids or (ours.text is None) != (theirs.text is None):
            raise InputError(
                _describe_difference(encoder, prompt, ours, theirs),
                hint="give the base that the GGUF was made from (its tokenizer files and chat template among it)",
            )
    return len(prompts)


def _read_in_training(encoder: Encoder, prompt: ParityPrompt) -> _Reading:
    from jinja2 import TemplateError

    try:
        return _Reading(*encoder.read(prompt))
    except TemplateError:  # it knows no system message, say; the other side must not know it either
        return _Reading(None, [])


def _read_in_gguf(reader: PromptReader, prompt: ParityPrompt) -> _Reading:
    try:
        return _Reading(reader.render(prompt), [int(token) for token in reader.tokenize(prompt)])
    except PromptError:
        return _Reading(None, [])


def _describe_difference(encoder: Encoder, prompt: ParityPrompt, ours: _Reading, theirs: _Reading) -> str:
    pairs = enumerate(zip(ours.ids, theirs.ids, strict=False))
    at = next((place for place, (a, b) in pairs if a != b), min(len(ours.ids), len(theirs.ids)))

    def show(side: _Reading) -> str:
        if side.text is None:
            return "its chat template refuses these messages"
        tokens = encoder.tokenizer.convert_ids_to_tokens(side.ids[max(0, at - 2) : at + 4])
        shown = f"{side.ids[at : at + 4]} ...{' '.join(map(repr, tokens))}..."
        return f"{shown}\n            rendered: {side.text[-200:]!r}"

    kind = "a prompt" if isinstance(prompt, str) else "a chat"
    said = (
        prompt
        if isinstance(prompt, str)
        else " / ".join(f"{one['role']}: {one['content']}" for one in prompt)
    )
    return (
        f"the student and the base cut {kind} into different tokens, first at token {at}:\n"
        f"  training: {show(ours)}\n  student:  {show(theirs)}\n  prompt:   {said[:200]!r}"
    )
