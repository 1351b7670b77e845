"""Examples as token ids: what the student sees at inference, then what it is to write, then the stop token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lema_local.errors import InputError
from lema_local.records import TrainingExample
from lema_local.training.base import TokenizePrompt
from lema_local.training.bases import Base
from lema_local.training.libraries import quiet_libraries

IGNORED = -100
"""The label of a token without loss (torch's cross entropy)."""
PARITY_PROMPTS = 50
NAMED = 5


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """One example; the loss is on the tokens from `prompt_length` on, the stop token among them."""

    id: str
    kind: str
    input_ids: list[int]
    prompt_length: int

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss."""
        return len(self.input_ids) - self.prompt_length

    @property
    def labels(self) -> list[int]:
        """As long as `input_ids`; -100 on the prompt."""
        return [IGNORED] * self.prompt_length + self.input_ids[self.prompt_length :]


class Encoder:
    """Turns prompts and examples into token ids, with the border between them where it is at inference.

    Args:
        base: Whose tokenizer and rule about BOS are used.
        prompt_style: `chat` puts prompts into the tokenizer's chat template.

    Raises:
        InputError: If chat is asked for and the base has no chat template.
    """

    def __init__(self, base: Base, prompt_style: Literal["completion", "chat"] = "completion") -> None:
        from transformers import AutoTokenizer

        with quiet_libraries():
            self.tokenizer: Any = AutoTokenizer.from_pretrained(base.folder, local_files_only=True)
        self._facts = base.facts
        self._is_chat = prompt_style == "chat"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self._is_chat and not self.tokenizer.chat_template:
            raise InputError(
                f"{base.facts.source} has no chat template",
                hint="use prompt_style: completion, or another base",
            )

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the ids that the student sees before it writes, BOS included where its rule says so."""
        return self._ids(self._render(prompt), has_special=self._is_chat)

    def student_prompt(self, prompt: str) -> str | tuple[dict[str, str], ...]:
        """Return the prompt as a student is given it: text, or one message of the user."""
        return ({"role": "user", "content": prompt},) if self._is_chat else prompt

    def encode(self, example: TrainingExample) -> EncodedExample:
        """Return prompt, completion and stop token as ids."""
        prompt = self.prompt_ids(example.prompt)
        completion = self._continuation(example.prompt, prompt, example.completion)
        ids = [*prompt, *completion, self._facts.eos_id]
        return EncodedExample(example.id, example.kind, ids, len(prompt))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of an answer, without special tokens."""
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def _render(self, prompt: str) -> str:
        if not self._is_chat:
            return prompt
        message = [{"role": "user", "content": prompt}]
        return str(self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    def _ids(self, text: str, *, has_special: bool) -> list[int]:
        """Return ids with BOS by the base's rule; `has_special`: names of special tokens in the text are tokens."""
        ids = self._plain_ids(text, has_special=has_special)
        bos = self._facts.bos_id
        # A template may write BOS itself; llama.cpp then has one, not two.
        if self._facts.add_bos and bos is not None and ids[:1] != [bos]:
            return [bos, *ids]
        return ids

    def _plain_ids(self, text: str, *, has_special: bool = False) -> list[int]:
        return list(
            self.tokenizer(text, add_special_tokens=False, split_special_tokens=not has_special).input_ids
        )

    def _continuation(self, prompt_text: str, prompt: list[int], completion: str) -> list[int]:
        """Return the completion's ids after the prompt's: as one text where the border holds, else alone.

        Where a token would span the border, the student never sees that token: it goes on from the prompt's ids.
        """
        if not self._is_chat:
            whole = self._ids(prompt_text + completion, has_special=False)
            if whole[: len(prompt)] == prompt:
                return whole[len(prompt) :]
        # After a line end, so that a tokenizer that puts a space before every text does not put one here.
        anchor, anchored = self._plain_ids("\n"), self._plain_ids("\n" + completion)
        return anchored[len(anchor) :] if anchored[: len(anchor)] == anchor else self._plain_ids(completion)


def encode_examples(
    encoder: Encoder, examples: Iterable[TrainingExample], max_length: int
) -> tuple[list[EncodedExample], list[str]]:
    """Return the examples that fit, and the ids of those that are longer than `max_length` tokens.

    Raises:
        InputError: If an example has an empty completion, or none is left.
    """
    examples = list(examples)
    empty = [example.id for example in examples if not example.completion.strip()]
    if empty:
        raise InputError(
            f"{len(empty)} training example(s) have no completion, so nothing to learn: {name_some(empty)}",
            hint="build the training files again, or remove these lines",
        )
    encoded = [encoder.encode(example) for example in examples]
    fitting = [example for example in encoded if len(example.input_ids) <= max_length]
    left_out = [example.id for example in encoded if len(example.input_ids) > max_length]
    if not fitting:
        longest = max((len(example.input_ids) for example in encoded), default=0)
        raise InputError(
            f"no training example fits into {max_length} tokens (there are {len(encoded)}, the longest has {longest})",
            hint="raise max_length, or give a file with examples",
        )
    return fitting, left_out


def check_labels(rows: Iterable[tuple[str, Sequence[int]]], stop_ids: Sequence[int]) -> None:
    """Check what really goes into the loss, row by row, just before training.

    Args:
        rows: (id, labels) of every example.
        stop_ids: Tokens that end an answer.

    Raises:
        InputError: If an example has no trained token, or does not end with a trained stop token.
    """
    without: list[str] = []
    unstopped: list[str] = []
    for name, labels in rows:
        if all(label == IGNORED for label in labels):
            without.append(name)
        elif labels[-1] not in stop_ids:
            unstopped.append(name)
    problems = [f"no trained token: {name_some(without)}"] * bool(without)
    problems += [
        f"the stop token is not trained, so the student would never stop: {name_some(unstopped)}"
    ] * bool(unstopped)
    if problems:
        raise InputError(
            f"training examples that cannot teach: {'; '.join(problems)}", hint="build the files again"
        )


def check_same_tokens(encoder: Encoder, tokenize_prompt: TokenizePrompt, prompts: Iterable[str]) -> int:
    """Compare up to 50 distinct prompts' ids with the student's own; return how many were compared.

    Raises:
        InputError: With the first difference, both sides shown.
    """
    sample = list(dict.fromkeys(prompts))[:PARITY_PROMPTS]
    for prompt in sample:
        ours = encoder.prompt_ids(prompt)
        theirs = [int(token) for token in tokenize_prompt(encoder.student_prompt(prompt))]
        if ours != theirs:
            raise InputError(
                _describe_difference(encoder, prompt, ours, theirs),
                hint="give the base that the GGUF was made from",
            )
    return len(sample)


def _describe_difference(encoder: Encoder, prompt: str, ours: list[int], theirs: list[int]) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )

    def show(ids: list[int]) -> str:
        tokens = encoder.tokenizer.convert_ids_to_tokens(ids[max(0, at - 2) : at + 4])
        return f"{ids[at : at + 4]} ...{' '.join(map(repr, tokens))}..."

    return (
        f"the student and the base cut a prompt into different tokens, first at token {at}:\n"
        f"  training: {show(ours)}\n  student:  {show(theirs)}\n  prompt:   {prompt[:200]!r}"
    )


def name_some(ids: Sequence[str]) -> str:
    """Return the first ids, and how many more there are."""
    return ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")
