"""Multiple choice: which of the choices an answer names, by letter or by text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lema_local.answers.numbers import is_equal_number, parse_number
from lema_local.answers.surface import clean_answer

LETTERS = "ABCDEFGHIJ"
# `(B)`, `B.`, `B) bank`, `option B: bank`; a bare `A car` is an article.
_LETTER = re.compile(
    r"(?:(?:option|choice|answer|letter)\s+)?(?:\(\s*([A-Ja-j])\s*\)|\[\s*([A-Ja-j])\s*\]|([A-Ja-j])\s*[).:]|([A-Ja-j])$)\s*(.*)",
    re.IGNORECASE | re.DOTALL,
)
_ANOTHER = re.compile(r"(?:,|/|&|and\b|or\b)\s*(?:\(\s*[A-J]\s*\)|[A-J]\b)", re.IGNORECASE)
_NOT_WORDS = re.compile(r"[^\w%.+/*^-]+")


def read_letter(text: str) -> tuple[str, str] | None:
    """Return (upper-case letter, what follows it) of an answer such as `(B) bank`.

    None where it names no letter, or more than one.
    """
    match = _LETTER.fullmatch(text.strip())
    if match is None:
        return None
    letter, rest = match[1] or match[2] or match[3] or match[4], match[5].strip()
    return None if _ANOTHER.match(rest) else (letter.upper(), rest)


def find_choices(answer: str, choices: Sequence[str]) -> frozenset[int]:
    """Return the 0-based positions of the choices that an answer names (equal texts all count; empty: none).

    A choice's whole text comes before a letter; an answer such as `B) mall` whose letter and text name different
    choices names none.
    """
    answer = clean_answer(answer)
    named = _find_text(answer, choices)
    if named:
        return named
    letter = read_letter(answer)
    if letter is None or letter[0] not in LETTERS[: len(choices)]:
        return frozenset()
    index = LETTERS.index(letter[0])
    by_text = _find_text(letter[1], choices) if letter[1] else frozenset()
    if by_text and index not in by_text:
        return frozenset()
    return by_text or _find_text(clean_answer(choices[index]), choices) or frozenset({index})


def _find_text(answer: str, choices: Sequence[str]) -> frozenset[int]:
    key = fold_text(answer)
    exact = frozenset(index for index, choice in enumerate(choices) if fold_text(choice) == key and key)
    if exact:
        return exact
    number = parse_number(answer)
    if number is None:
        return frozenset()
    return frozenset(
        index
        for index, choice in enumerate(choices)
        if (other := parse_number(clean_answer(choice))) is not None and is_equal_number(other, number)
    )


def fold_text(text: str) -> str:
    """Return a text without case, articles, punctuation and spacing, for comparing words."""
    words = _NOT_WORDS.sub(" ", clean_answer(text).casefold()).split()
    kept = [word.strip(".") for word in words if word not in ("the", "a", "an")]
    return " ".join(kept or words)
