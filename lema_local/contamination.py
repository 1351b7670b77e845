"""Contamination: do test questions stand in what is trained on? Word for word, in part, or with other numbers.

Reads   what is trained on    questions and completions
        test questions        of all test sets in use
Writes  hits                  which training question, which test question, and the words that both have

Texts are compared by their words, numbers and signs, without case, punctuation and LaTeX's braces. 100,000 examples
take seconds: rolling hashes by NumPy find candidates, and the words themselves decide.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from lema_local.records import Question

Kind = Literal["exact", "ngram", "numbers"]
"""`exact`: the same text after normalizing; `numbers`: the same but for its numbers; `ngram`: 13 words in a row."""
KINDS: tuple[Kind, ...] = ("exact", "numbers", "ngram")
NGRAM = 13
"""Words in a row. Source: Brown et al., arXiv 2005.14165, appendix C."""
MIN_WORDS = 8
"""A question of fewer words is no `numbers` hit: `What is # + #?` is nobody's question."""
_SHOWN = 300
_CHUNK = 20_000
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[-+*/^=<>%]")
_NUMBER_WORDS = frozenset({
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred", "thousand",
    "million", "half", "third", "quarter", "twice", "thrice", "double", "triple",
})  # fmt: skip


class Hit(BaseModel):
    """A training question that shares its text with a test question."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question_id: str
    """Trained on."""
    place: Literal["question", "completion"]
    """Where it stands: in the question's own text, or in what is to be learnt."""
    kind: Kind
    test_id: str
    shared: str
    """The words that both have (numbers as `#` where they differ), cut after 300 characters."""


class Certificate(BaseModel):
    """`<arm>.contamination.json` beside a training file: what was looked for, what was found, what was done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    """Of the training file as it was checked and written."""
    examples: int
    questions: int
    """Distinct questions behind the examples."""
    test_sets: dict[str, int]
    """Test questions by dataset and split."""
    test_sha256: str
    """Of the test questions' ids and texts."""
    ngram: int = NGRAM
    removing: list[Kind]
    """Kinds of hits that were removed; the others are only listed."""
    removed_examples: int
    removed_questions: int
    found: dict[Kind, int]
    """Training questions with a hit, by kind, before anything was removed."""
    left: dict[Kind, int]
    """Of these, still in the file."""
    hits: list[Hit]
    """The first 1,000."""

    @property
    def sentence(self) -> str:
        """What the certificate says, for a person."""
        sets = ", ".join(f"{name} ({count:,})" for name, count in self.test_sets.items())
        words = {
            "exact": "word for word",
            "numbers": "but for the numbers",
            "ngram": f"in {self.ngram} words in a row",
        }
        left = ", ".join(f"{count:,} {words[kind]}" for kind, count in self.left.items() if count)
        removed = f"; {self.removed_examples:,} examples were removed" if self.removed_examples else ""
        told = f"shared with a test question: {left}" if left else "none shares its text with a test question"
        return f"{self.file}: of {self.questions:,} questions {told} (checked against {sets}){removed}."


class Text(NamedTuple):
    """Something that is trained on."""

    question_id: str
    place: Literal["question", "completion"]
    text: str


@dataclass(frozen=True, slots=True)
class _TestSet:
    """The test questions, ready to be looked up."""

    exact: Mapping[str, str]
    numbers: Mapping[str, str]
    vocabulary: Mapping[str, int]
    """From 1; 0 is any other word."""
    grams: Mapping[tuple[str, ...], str]
    hashes: Any
    """Sorted hashes of the n-grams: uint64 [n-grams]."""


def find_hits(texts: Iterable[Text], test: Sequence[Question]) -> list[Hit]:
    """Return the hits, in the order of the texts; of each kind the first one a text.

    A question's text is compared whole and in parts, a completion in parts only.
    """
    known = _prepare(test)
    found: list[Hit] = []
    remaining = iter(texts)
    while chunk := list(islice(remaining, _CHUNK)):
        tokens = [split_words(one.text) for one in chunk]
        grams = _find_grams([_words(some) for some in tokens], known)
        for position, (one, some) in enumerate(zip(chunk, tokens, strict=True)):
            found += _find_whole(one, some, known) if one.place == "question" else []
            if position in grams:
                gram = grams[position]
                found.append(_hit(one, "ngram", known.grams[gram], " ".join(gram)))
    return found


def split_words(text: str) -> list[str]:
    """Return a text's words, numbers and signs, without case and thousands separators."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    found = _TOKEN.findall(plain.casefold())
    return [one.replace(",", "") if one[0].isdigit() else one for one in found] if "," in plain else found


def _words(tokens: Iterable[str]) -> list[str]:
    return [one for one in tokens if one[0].isalnum()]


def mask_numbers(tokens: Iterable[str]) -> str:
    """Return words of `split_words` with `#` in the place of each number, in figures or in words."""
    return " ".join("#" if one[0].isdigit() or one in _NUMBER_WORDS else one for one in tokens)


def _prepare(test: Sequence[Question]) -> _TestSet:
    import numpy as np

    exact: dict[str, str] = {}
    numbers: dict[str, str] = {}
    vocabulary: dict[str, int] = {}
    grams: dict[tuple[str, ...], str] = {}
    for question in test:
        tokens = split_words(question.question)
        exact.setdefault(" ".join(tokens), question.id)
        words = _words(tokens)
        if len(words) >= MIN_WORDS:
            numbers.setdefault(mask_numbers(tokens), question.id)
        for word in words:
            vocabulary.setdefault(word, len(vocabulary) + 1)
        for start in range(len(words) - NGRAM + 1):
            grams.setdefault(tuple(words[start : start + NGRAM]), question.id)
    ids = np.array([[vocabulary[word] for word in gram] for gram in grams], dtype=np.uint64).reshape(
        -1, NGRAM
    )
    return _TestSet(exact, numbers, vocabulary, grams, np.unique(_hash(ids.T)))


def _hash(columns: Any) -> Any:
    """Return polynomial hashes; `columns`: uint64 [n-gram, how many], overflow wraps around."""
    import numpy as np

    total = np.zeros(columns[0].shape, dtype=np.uint64)
    for column in columns:
        total = total * np.uint64(0x9E3779B97F4A7C15) + column
    return total


def _find_whole(one: Text, tokens: Sequence[str], known: _TestSet) -> list[Hit]:
    whole = " ".join(tokens)
    if whole in known.exact:
        return [_hit(one, "exact", known.exact[whole], whole)]
    masked = mask_numbers(tokens)
    return [_hit(one, "numbers", known.numbers[masked], masked)] if masked in known.numbers else []


def _find_grams(texts: Sequence[Sequence[str]], known: _TestSet) -> dict[int, tuple[str, ...]]:
    """Return by position of a text its first n-gram that a test question has."""
    import numpy as np

    get = known.vocabulary.get
    # One 0 behind each text: no window reaches from one into the next.
    ids = np.fromiter((get(word, 0) for words in texts for word in (*words, "")), dtype=np.uint64)
    if not known.grams or len(ids) < NGRAM:
        return {}
    count = len(ids) - NGRAM + 1
    unknown = np.concatenate(([0], np.cumsum(ids == 0)))
    starts = np.flatnonzero(unknown[NGRAM:] == unknown[:count])
    hashes = _hash([ids[starts + offset] for offset in range(NGRAM)])
    place = np.minimum(np.searchsorted(known.hashes, hashes), len(known.hashes) - 1)
    begins = np.cumsum([0, *(len(words) + 1 for words in texts)])
    found: dict[int, tuple[str, ...]] = {}
    for start in starts[known.hashes[place] == hashes].tolist():
        position = int(np.searchsorted(begins, start, side="right")) - 1
        offset = start - int(begins[position])
        gram = tuple(texts[position][offset : offset + NGRAM])
        if position not in found and gram in known.grams:
            found[position] = gram
    return found


def _hit(one: Text, kind: Kind, test_id: str, shared: str) -> Hit:
    return Hit(
        question_id=one.question_id, place=one.place, kind=kind, test_id=test_id, shared=shared[:_SHOWN]
    )
