"""What a step says in words against what the problem and the gold rationale say: names, and words moved about."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import zip_longest

from lema_local.arithmetic import find_numbers, strip_marks
from lema_local.teachers.tracing import COMMON, WORDS, key, keys, read_words

_TOKEN = re.compile(r"\d[\d,]*(?:\.\d+)?|[A-Za-z]+")
_COMPARES = re.compile(r"\b(?:than|as)\b")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def find_names(text: str) -> set[str]:
    """Return the words that are only written with a capital in a text, and not only where a sentence begins."""
    small = set(re.findall(r"\b[a-z]+\b", text))
    owners = re.findall(r"\b[A-Z][a-z]+(?=['’]s\b)", text)  # noqa: RUF001
    found = {*re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", text), *owners}
    starts = re.findall(r"(?:^|[.!?] )([A-Z][a-z]+)", text)
    found |= {name for name in starts if starts.count(name) > 1}
    return {name for name in found if name.lower() not in small | COMMON | WORDS.keys() | _NO_NAMES}


def is_of_another(step: str, line: int, lines: Sequence[str], names: set[str]) -> bool:
    """Whether a step does a line's computation for somebody who has another line: Carl's height is not Ned's.

    Args:
        step: A step with one computation.
        line: The index of the line that makes the same computation.
        lines: All lines of the gold rationale.
        names: Who there is.
    """
    mine = _read_names(_COMPARES.split(step)[0], names)
    theirs = _read_names(lines[line], names)
    others = {name for i, other in enumerate(lines) if i != line for name in _read_names(other, names)}
    return len(mine) == 1 and bool(theirs) and not mine & theirs and bool(mine & others)


def _read_names(text: str, names: set[str]) -> set[str]:
    return {word for word in re.findall(r"[A-Z][a-z]+", text) if word in names}


def takes_from_another(question: str, step: str, names: set[str]) -> bool:
    """Whether a step gives one name a number that the problem gives another: `Ann has 30`, where Bob has them.

    Only numbers whose sentences say whose they are tell something, and only sentences with one clause on both.
    """
    owners: dict[Fraction, list[tuple[str, set[str]]]] = {}
    for number, owner, present in _read_owners(question, names):
        owners.setdefault(number, []).append((owner, present))
    for number, mine, present in _read_owners(step, names):
        theirs = owners.get(number, [])
        is_alone = present == {mine} and all(
            owner and mine not in {owner, *others} for owner, others in theirs
        )
        if theirs and is_alone:
            return True
    return False


def _read_owners(text: str, names: set[str]) -> Iterator[tuple[Fraction, str, set[str]]]:
    """Yield the numbers of a text with the last name before each in its sentence, and the names in its clause."""
    for sentence in _SENTENCE_END.split(text):
        owner = ""
        for clause in re.split(r"[,;:](?!\d)", sentence):
            tokens = _TOKEN.findall(clause)
            present = {token for token in tokens if token in names}
            for token, following in zip_longest(tokens, tokens[1:], fillvalue=""):
                owner = token if token in names else owner
                if token[0].isdigit() and following not in _UNITS:
                    yield key(Fraction(token.replace(",", ""))), owner, present


def counts_another(step: str, value: Fraction, line: int, lines: Sequence[tuple[str, Fraction]]) -> bool:
    """Whether a step counts with a line's value what another line counts: 10 footballs, where 10 are the robots.

    Args:
        step: A step that makes the line's computation.
        value: What it comes to.
        line: The index of the line.
        lines: All lines of the gold rationale, with what they come to.
    """
    mine, theirs = _read_counted(step, value), _read_counted(*lines[line])
    others: dict[str, set[Fraction]] = {}
    for text, other in lines:
        counted = _read_counted(text, other)
        if counted & mine and counted & theirs and not mine & theirs:
            return False  # pairs and shoes are one here
        for word in counted:
            others.setdefault(word, set()).add(other)
    strange = {word for word in mine - theirs if word in others and value not in others[word]}
    # Of "white flamingos" and "pink flamingos" the kind tells, of "egg halves" and "halves" nothing does.
    return bool(strange and theirs) and (not mine & theirs or bool((theirs - mine) & others.keys()))


def _read_counted(text: str, value: Fraction) -> set[str]:
    """Return the words behind the last place where a text states a value, as far as it has such a place."""
    tokens = re.findall(r"\d[\d,]*(?:\.\d+)?|[A-Za-z]+|[^\w\s]", strip_marks(text).rpartition("=")[2])
    counted: set[str] = set()
    for i, token in enumerate(tokens):
        if token[0].isdigit() and key(Fraction(token.replace(",", ""))) == key(value):
            counted = set()
            for word in [word for word in tokens[i + 1 : i + 5] if word != "of"]:
                if not word.isalpha() or word.lower() in COMMON | _SMALL | _UNITS:
                    break
                counted.add(word.lower().rstrip("s"))
    return counted


_NO_NAMES = frozenset({
    "it", "if", "he", "in", "at", "on", "an", "every", "monday", "tuesday", "wednesday", "thursday", "friday",
    "saturday", "sunday", "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
})  # fmt: skip
_UNITS = frozenset({
    "dollars", "miles", "hours", "minutes", "seconds", "feet", "inches", "pounds", "years", "days", "weeks",
    "months", "km", "lbs", "cents",
})  # fmt: skip


def measure_order(question: str, step: str) -> float:
    """Return which share of a step's words and numbers from the problem stands in one of its sentences, in that order.

    1.0 where none are from there. Words that the problem always writes with a capital are left out: a pronoun may
    stand for them.
    """
    shared = _share_order(question, step)
    return max(count for count, _ in shared) if shared else 1.0


def find_sentence(question: str, step: str) -> str:
    """Return the sentence of the problem with most of a step's numbers, and of these the one that is most like it."""
    numbers = keys([*find_numbers(step), *read_words(step)])
    scores = {
        sentence: len(numbers & keys([*find_numbers(sentence), *read_words(sentence)])) + share
        for share, sentence in _share_order(question, step)
    }
    best = max(scores, key=lambda sentence: scores[sentence], default="")
    return best if best and scores[best] else ""


def _share_order(question: str, step: str) -> list[tuple[float, str]]:
    names = {word for word in re.findall(r"[A-Z][a-z]+", question) if word.lower() not in question}
    known = set(_read_tokens(question, names))
    told = [token for token in _read_tokens(step, names) if token in known]
    sentences = _SENTENCE_END.split(" ".join(question.split())) if told else []
    return [(_count_common(told, _read_tokens(one, names)) / len(told), one) for one in sentences]


def _read_tokens(text: str, names: set[str]) -> list[str]:
    words = [word for word in _TOKEN.findall(strip_marks(text)) if word not in names]
    return [_read_token(word.lower()) for word in words if word.lower() not in _SMALL]


def _read_token(word: str) -> str:
    word = WORDS.get(word, word).replace(",", "")
    return str(key(Fraction(word))) if word[0].isdigit() else word.rstrip("s")[:5]


def _count_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for token in one:
        diagonal = 0
        for j, token_there in enumerate(other, 1):
            above = row[j]
            row[j] = diagonal + 1 if token == token_there else max(above, row[j - 1])
            diagonal = above
    return row[-1]


_SMALL = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "been", "by", "can", "could", "did", "do", "does", "for", "had",
    "has", "have", "he", "her", "him", "his", "if", "in", "is", "it", "of", "on", "or", "she", "so", "that",
    "the", "their", "them", "then", "there", "they", "this", "to", "was", "were", "which", "will", "with",
    "would",
})  # fmt: skip
