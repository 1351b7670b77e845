"""Examples as token ids: what the student sees at inference, then what it is to write, then the stop token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lema_local.errors import InputError
from lema_local.records import AnyExample, PreferenceExample, TrainingExample
from lema_local.training.base import ParityPrompt
from lema_local.training.bases import Base
from lema_local.training.libraries import quiet_libraries

IGNORED = -100
"""The label of a token without loss (torch's cross entropy)."""
NAMED = 5


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """One example; the loss is on the tokens from `prompt_length` on, the stop token among them."""

    id: str
    kind: str
    input_ids: list[int]
    prompt_length: int
    masked: frozenset[int] = frozenset()
    """Positions in `input_ids` behind the prompt that carry no loss all the same."""

    @property
    def width(self) -> int:
        """Tokens that it takes in a row."""
        return len(self.input_ids)

    @property
    def tokens(self) -> int:
        """All its tokens."""
        return len(self.input_ids)

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss."""
        return len(self.input_ids) - self.prompt_length - len(self.masked)

    @property
    def labels(self) -> list[int]:
        """As long as `input_ids`; -100 on the prompt and on what is masked."""
        return [
            IGNORED if position < self.prompt_length or position in self.masked else token
            for position, token in enumerate(self.input_ids)
        ]

    @property
    def rows(self) -> list[tuple[str, list[int]]]:
        """Id and labels of what goes into the loss."""
        return [(self.id, self.labels)]

    @property
    def plain(self) -> list[Any]:
        """What is trained on, for a fingerprint."""
        masked = [sorted(self.masked)] if self.masked else []
        return [self.id, self.prompt_length, self.input_ids, *masked]


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Two ways to go on from the same beginning; the loss is on what follows it, stop tokens included."""

    chosen: EncodedExample
    rejected: EncodedExample

    @property
    def id(self) -> str:
        """Of the pair."""
        return self.chosen.id

    @property
    def kind(self) -> str:
        """Of the pair."""
        return self.chosen.kind

    @property
    def width(self) -> int:
        """Tokens that both take in a padded batch."""
        return 2 * max(self.chosen.width, self.rejected.width)

    @property
    def tokens(self) -> int:
        """All tokens of both."""
        return self.chosen.tokens + self.rejected.tokens

    @property
    def trained_tokens(self) -> int:
        """Tokens of both that carry loss."""
        return self.chosen.trained_tokens + self.rejected.trained_tokens

    @property
    def rows(self) -> list[tuple[str, list[int]]]:
        """Id and labels of what goes into the loss."""
        return [*self.chosen.rows, *self.rejected.rows]

    @property
    def plain(self) -> list[Any]:
        """What is trained on, for a fingerprint."""
        return [self.chosen.plain, self.rejected.plain]


Encoded = EncodedExample | EncodedPair


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
        _put_spaces_as_llama_cpp(self.tokenizer.backend_tokenizer)
        self._facts = base.facts
        self.is_chat = prompt_style == "chat"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.is_chat and not self.has_template:
            raise InputError(
                f"{base.facts.source} has no chat template",
                hint="use prompt_style: completion, or another base",
            )

    @property
    def has_template(self) -> bool:
        """True where the tokenizer brings a chat template."""
        return bool(self.tokenizer.chat_template)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the ids that the student sees before it writes, BOS included where its rule says so."""
        return self.read(self.student_prompt(prompt))[1]

    def student_prompt(self, prompt: str) -> ParityPrompt:
        """Return the prompt as a student is given it: text, or one message of the user."""
        return ({"role": "user", "content": prompt},) if self.is_chat else prompt

    def read(self, prompt: ParityPrompt) -> tuple[str, list[int]]:
        """Return the text of a prompt, chat messages put into the template, and its ids, BOS included.

        Raises:
            jinja2.TemplateError: If the template refuses these messages.
        """
        if isinstance(prompt, str):
            return prompt, self._ids(prompt, has_special=False)
        text = str(
            self.tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
        )
        return text, self._ids(text, has_special=True)

    def encode(self, example: TrainingExample) -> EncodedExample:
        """Return prompt, completion and stop token as ids.

        A token that holds a character of a masked part carries no loss.
        """
        prompt = self.prompt_ids(example.prompt)
        completion, before = self._continuation(example.prompt, prompt, example.completion)
        ids = [*prompt, *completion, self._facts.eos_id]
        # From the end: a BOS has no place in the text.
        places = self._places(before + example.completion)[-len(completion) :] if example.masked else []
        masked = frozenset(
            len(prompt) + position
            for position, (start, end) in enumerate(places)
            if any(
                start - len(before) < until and end - len(before) > since for since, until in example.masked
            )
        )
        return EncodedExample(example.id, example.kind, ids, len(prompt), masked)

    def encode_pair(self, example: PreferenceExample) -> EncodedPair:
        """Return both ways as prompt, completion and stop token; the steps they begin with carry no loss."""
        asked, begun = example.prompt[: example.answer_start], example.prompt[example.answer_start :]
        chosen, rejected = (
            self.encode(
                TrainingExample(
                    id=example.id,
                    kind="cot",
                    prompt=asked,
                    completion=begun + way,
                    question_id=example.question_id,
                    source={},
                    masked=[(0, len(begun))],
                )
            )
            for way in (example.chosen, example.rejected)
        )
        return EncodedPair(replace(chosen, kind=example.kind), replace(rejected, kind=example.kind))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of an answer, without special tokens."""
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

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

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Return [start, end) in the text of each token of `_plain_ids`, in characters."""
        found = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        # Some tokenizers leave leading blanks out, and so say that a token of blanks is nowhere.
        return [(min(start, end - 1), end) for start, end in found.offset_mapping]

    def _continuation(self, prompt_text: str, prompt: list[int], completion: str) -> tuple[list[int], str]:
        """Return the completion's ids after the prompt's, and the text before it as it was cut.

        It is cut as one text with the prompt where the border holds, else alone: where a token would span the border,
        the student never sees that token, it goes on from the prompt's ids.
        """
        if not self.is_chat:
            whole = self._ids(prompt_text + completion, has_special=False)
            if whole[: len(prompt)] == prompt:
                return whole[len(prompt) :], prompt_text
        # After a line end, so that a tokenizer that puts a space before every text does not put one here.
        anchor, anchored = self._plain_ids("\n"), self._plain_ids("\n" + completion)
        if anchored[: len(anchor)] == anchor:
            return anchored[len(anchor) :], "\n"
        return self._plain_ids(completion), ""


def _put_spaces_as_llama_cpp(backend: Any) -> None:
    """Let a sentencepiece vocabulary begin each text with a space, also where the text begins with one already.

    So the models were trained, and so llama.cpp reads; transformers 5 leaves the second space out, and puts none after
    a special token. Source: llama_vocab::impl::tokenize, LLAMA_VOCAB_TYPE_SPM (ggml-org/llama.cpp,
    src/llama-vocab.cpp); LlamaTokenizer (transformers 5.23).
    """
    from tokenizers import normalizers, pre_tokenizers

    before = backend.pre_tokenizer
    if isinstance(before, pre_tokenizers.Metaspace) and before.prepend_scheme != "never":
        mark = before.replacement
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)])
        backend.pre_tokenizer = None


def encode_examples(
    encoder: Encoder, examples: Iterable[AnyExample], max_length: int
) -> tuple[list[Encoded], list[str]]:
    """Return the examples that fit, and the ids of those that are longer than `max_length` tokens.

    Raises:
        InputError: If an example has nothing to learn, or none is left.
    """
    examples = list(examples)
    empty = [example.id for example in examples if not all(text.strip() for text in example.targets)]
    if empty:
        raise InputError(
            f"{len(empty)} training example(s) have no completion, so nothing to learn: {name_some(empty)}",
            hint="build the training files again, or remove these lines",
        )
    encoded = [_encode(encoder, example) for example in examples]
    lengths = [one.width // 2 if isinstance(one, EncodedPair) else one.width for one in encoded]
    fitting = [one for one, length in zip(encoded, lengths, strict=True) if length <= max_length]
    left_out = [one.id for one, length in zip(encoded, lengths, strict=True) if length > max_length]
    if not fitting:
        raise InputError(
            f"no training example fits into {max_length} tokens (there are {len(encoded)}, the longest has"
            f" {max(lengths, default=0)})",
            hint="raise max_length, or give a file with examples",
        )
    return fitting, left_out


def _encode(encoder: Encoder, example: AnyExample) -> Encoded:
    if isinstance(example, PreferenceExample):
        return encoder.encode_pair(example)
    return encoder.encode(example)


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


def name_some(ids: Sequence[str]) -> str:
    """Return the first ids, and how many more there are."""
    return ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")
