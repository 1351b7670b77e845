"""Answers of several parts: lists, tuples, intervals, sets, unions, matrices, `a \\pm b`, inequalities.

Splitting is by brackets alone; what the parts mean is decided where they are compared. An inequality in one
variable is read as the interval that it says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lema_local.answers.numbers import parse_number

Kind = Literal["list", "tuple", "set", "union", "matrix"]
MAX_PARTS = 100


@dataclass(frozen=True, slots=True)
class Group:
    """An answer of several parts (or a set of one)."""

    kind: Kind
    parts: tuple[str, ...]
    brackets: str = ""
    """The two brackets of a tuple or interval: `()`, `[)`, ..."""
    columns: int = 0
    """Cells in a row of a matrix, whose parts are its cells row by row."""

    @property
    def is_ordered(self) -> bool:
        """Whether the order of the parts matters."""
        return self.kind in ("tuple", "matrix")


_OPENING = "([{"
_CLOSING = ")]}"
_AND = re.compile(r"\s*(?:,\s*(?:and|or)\b|;|\b(?:and|or)\b|&)\s*", re.IGNORECASE)
_COMMA = re.compile(r"\s*[,;]\s*")
_SPACED_COMMA = re.compile(r"\s*,\s+")
_UNION = re.compile(r"\s*(?:\\cup(?![a-zA-Z])|(?<=[)\]])\s*U\s*(?=[(\[]))\s*")
_MATRIX = re.compile(
    r"\\begin\s*\{([pbB]?matrix|smallmatrix|array)\}(?:\s*\{[lcr|\s]*\})?(.*)\\end\s*\{\1\}", re.DOTALL
)
_MEMBER = re.compile(r"^[a-zA-Z]\s*\\in(?![a-zA-Z])\s*")
_ANGLES = re.compile(r"\\langle(?![a-zA-Z])(.*)\\rangle", re.DOTALL)


def parse_group(text: str) -> Group | None:
    """Return the parts of a cleaned answer; None where it is a single expression."""
    text = _MEMBER.sub("", text.strip())
    if not text or parse_number(text) is not None:
        return None
    for read in (_read_matrix, _read_brackets, _read_union, _read_inequality, _read_list, _read_plus_minus):
        group = read(text)
        if group is not None:
            return group if len(group.parts) <= MAX_PARTS else None
    return None


def _read_matrix(text: str) -> Group | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    rows = [row.split("&") for row in match[2].split("\\\\") if row.strip(" \\hline")]
    if not rows or len({len(row) for row in rows}) != 1:
        return None
    return Group("matrix", tuple(cell.strip() for row in rows for cell in row), columns=len(rows[0]))


def _read_brackets(text: str) -> Group | None:
    if text in ("\\emptyset", "\\varnothing"):
        return Group("set", ())
    angles = _ANGLES.fullmatch(text)
    if angles:
        return Group("tuple", tuple(split_top(angles[1].strip(), _COMMA)), "()")
    is_escaped = text.startswith("\\{") and text.endswith("\\}")
    opening, closing = (text[:2], text[-2:]) if is_escaped else (text[:1], text[-1:])
    if not opening or opening[-1] not in _OPENING or closing[-1:] not in _CLOSING:
        return None
    inner = text[len(opening) : -len(closing)]
    if not is_balanced(inner):
        return None
    parts = split_top(inner.strip(), _COMMA)
    if opening in ("\\{", "{"):
        return Group("set", tuple(parts) if inner.strip() else ()) if is_escaped or len(parts) > 1 else None
    return Group("tuple", tuple(parts), opening + closing) if len(parts) > 1 else None


def is_balanced(text: str) -> bool:
    """Whether every bracket closes within the text; the kinds may differ, as in `[1,2)`."""
    depth = 0
    for character in text:
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
            if depth < 0:
                return False
    return depth == 0


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split a text at the separators that stand in no brackets."""
    depths = [0] * (len(text) + 1)
    depth = 0
    for position, character in enumerate(text):
        if character in _CLOSING:
            depth -= 1
        depths[position] = depth
        if character in _OPENING:
            depth += 1
    parts, start = [], 0
    for match in separator.finditer(text):
        if depths[match.start()] == 0 and match.end() > match.start():
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def _read_union(text: str) -> Group | None:
    parts = split_top(text, _UNION)
    return Group("union", tuple(part.strip() for part in parts)) if len(parts) > 1 else None


def _read_list(text: str) -> Group | None:
    parts = [piece for part in split_top(text, _AND) for piece in _split_commas(part.strip())]
    parts = [part.strip() for part in parts if part.strip()]
    return Group("list", tuple(parts)) if len(parts) > 1 else None


def _split_commas(text: str) -> list[str]:
    """Split at commas; `1,000, 2,000` has two parts, `1,2,3` three."""
    if "," not in text or parse_number(text) is not None:
        return [text]
    parts = split_top(text, _SPACED_COMMA)
    if len(parts) > 1:
        return [piece for part in parts for piece in _split_commas(part)]
    return split_top(text, _COMMA)


_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])|\+/-|\+-")


def _read_plus_minus(text: str) -> Group | None:
    if len(_PLUS_MINUS.findall(text)) != 1:
        return None
    left, right = (part.strip() for part in _PLUS_MINUS.split(text))
    if not is_balanced(left):
        # `\\frac{1 \\pm \\sqrt{5}}{2}`: the sign stands inside; the text is written out twice.
        return Group("list", tuple(_PLUS_MINUS.sub(sign, text) for sign in ("+", "-")))
    if not right or not is_balanced(right):
        return None
    return Group("list", (f"{left}+{right}" if left else right, f"{left}-{right}" if left else f"-{right}"))


_RELATION = re.compile(r"\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![a-zA-Z])|<=|>=|<|>")
_UPWARD = {"<": "<", "<=": "<=", "lt": "<", "le": "<=", "leq": "<=", "leqslant": "<="}
_DOWNWARD = {">": "<", ">=": "<=", "gt": "<", "ge": "<=", "geq": "<=", "geqslant": "<="}
_VARIABLE = re.compile(r"\s*(?:[a-zA-Z]|\\theta)\s*")
_LETTER = re.compile(r"(?<!\\)(?<![a-zA-Z])[a-df-hj-zA-Z](?![a-zA-Z])")


def _read_inequality(text: str) -> Group | None:
    """Return the interval that `1 \\le x < 2` or `x > 3` says; None where it is no inequality in one variable."""
    signs = [sign.lstrip("\\") for sign in _RELATION.findall(text)]
    sides = [side.strip() for side in _RELATION.split(text)]
    if not 1 <= len(signs) <= 2 or not all(sides):
        return None
    if all(sign in _DOWNWARD for sign in signs):
        signs, sides = [_DOWNWARD[sign] for sign in reversed(signs)], sides[::-1]
    elif all(sign in _UPWARD for sign in signs):
        signs = [_UPWARD[sign] for sign in signs]
    else:
        return None
    if len(signs) == 2:
        low, middle, high = sides
        brackets = ("[" if signs[0] == "<=" else "(") + ("]" if signs[1] == "<=" else ")")
        is_plain = _VARIABLE.fullmatch(middle) and not (_LETTER.search(low) or _LETTER.search(high))
        return Group("tuple", (low, high), brackets) if is_plain else None
    left, right = sides
    if _VARIABLE.fullmatch(left) and not _LETTER.search(right):
        return Group("tuple", ("-\\infty", right), "(]" if signs[0] == "<=" else "()")
    if _VARIABLE.fullmatch(right) and not _LETTER.search(left):
        return Group("tuple", (left, "\\infty"), "[)" if signs[0] == "<=" else "()")
    return None
