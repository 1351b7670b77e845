# ruff: noqa: RUF001 (the look-alikes of minus, times and the apostrophe that people type are meant)
"""Recompute the arithmetic in a step of text: `3 hours x 60 mph = 180 miles`, `12+9=20`, `<<2/2=1>>1`.

A small tokenizer and a recursive-descent parser of our own work on exact fractions; nothing is evaluated by
Python. Text that is no plain arithmetic (variables, clock times, towers of powers) is passed over, never guessed
at. What is found are claims, "this expression equals that one", each with what it really comes to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from lema_local.errors import LemaError

MAX_TEXT = 20_000
"""Characters; a longer text is cut, so that no reply can keep the parser busy."""
_MAX_DIGITS = 30
_MAX_DEPTH = 40
_MAX_BITS = 2_000
_MAX_EXPONENT = 64
_MAX_UNIT_WORDS = 6


class NotArithmetic(LemaError):
    """A text that is no plain arithmetic: a word, a variable, a division by zero, a number too large."""


@dataclass(frozen=True, slots=True)
class Claim:
    """`left` = `right` as a step asserts it. An expression by itself is no claim."""

    left: str
    """The expression alone, without units and calculator marks: `3*60`."""
    right: str
    value: Fraction
    """What `left` comes to."""
    stated: Fraction
    """What the step says that it comes to."""
    is_true: bool
    operands: tuple[Fraction, ...]
    """The numbers in `left`, in order."""
    terms: tuple[Fraction, ...]
    """What `left` adds up, with signs: `16-3*4` has 16 and -12; one term where it is no sum."""
    factors: tuple[Fraction, ...]
    """What `left` multiplies, divisors as fractions: `60/2*5` has 60, 1/2 and 5; one factor where it is no product."""
    operators: str
    """The operators in `left`, in the order they are worked out."""


def strip_marks(text: str) -> str:
    """Return the text without the `<<3*4=12>>` marks of GSM8K's rationales."""
    return _MARK.sub("", text)


@dataclass(frozen=True, slots=True)
class Expression:
    """A worked-out expression."""

    value: Fraction
    terms: tuple[Fraction, ...]
    """As in `Claim`."""
    factors: tuple[Fraction, ...]


def evaluate(expression: str) -> Fraction:
    """Return the exact value of an arithmetic expression: numbers, `+ - * / ^`, brackets, `%`, `$`.

    Raises:
        NotArithmetic: If there is anything else in it, or nothing at all.
    """
    return read_expression(expression).value


def read_expression(expression: str, numbers: Sequence[Fraction] = ()) -> Expression:
    """Work out an expression; with `numbers`, these stand in the places of its own, in order.

    Raises:
        NotArithmetic: As `evaluate`.
    """
    tokens = _tokenize(expression)
    given = iter(numbers)
    tokens = [t._replace(value=next(given, t.value)) if t.kind == "number" else t for t in tokens]
    value, position = _Parser(tokens).parse(0)
    if position != len(tokens):
        raise NotArithmetic(f"{expression[:80]!r} is no plain arithmetic")
    return Expression(value.value, value.terms, value.factors)


def find_claims(text: str) -> list[Claim]:
    """Return the equations that a text asserts, in order; calculator marks that only repeat one are left out."""
    text = text[:MAX_TEXT]
    is_rounded = bool(_ROUNDING.search(text))
    claims = list(_scan(strip_marks(text), is_rounded))
    seen = {(claim.value, claim.stated) for claim in claims}
    for mark in _MARK.finditer(text):
        claims += [c for c in _scan(mark.group(1), is_rounded) if (c.value, c.stated) not in seen]
    return claims


def chain_equations(text: str) -> tuple[str, ...]:
    """Return the equations of a solution in order, as `3*4=12`: two wordings of one solution have the same chain."""
    return tuple(
        f"{claim.left}={format_number(claim.stated)}".replace(",", "") for claim in find_claims(text)
    )


def find_numbers(text: str) -> list[Fraction]:
    """Return the numbers that stand in a text, in order; calculator marks are left out, signs are not read."""
    return [token.value for token in _tokenize(strip_marks(text[:MAX_TEXT])) if token.kind == "number"]


def format_number(value: Fraction) -> str:
    """Return a number as a person writes it: `21`, `2.5`, `0.333` (three decimals where it does not end)."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.3f}".rstrip("0").rstrip(".")


# --- tokens -------------------------------------------------------------------------------------------------


class _Token(NamedTuple):
    kind: str
    """number, op, open, close, equals, states ("is", between two expressions), percent, currency, word, break."""
    text: str
    start: int
    end: int
    value: Fraction = Fraction(0)
    decimals: int = 0


_MARK = re.compile(r"<<([^<>]*)>>")
_TOKEN = re.compile(
    r"(?P<clock>\d{1,2}:\d{2})"
    r"|(?P<mixed>(?<![\d/.,])\d{1,6} \d{1,3}/[1-9]\d{0,2}(?![\d.,/]))"
    r"|(?P<number>(?:\d{1,3}(?:,\d{3})+(?!\d)|(?<!\d)\d{1,3}(?: 000)+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)"
    r"|(?P<op>\*\*|[-+*/×÷·^−–])|(?P<open>[(\[])|(?P<close>[)\]])|(?P<equals>[=≈])|(?P<percent>%)"
    r"|(?P<currency>[$€£])|(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)?|¢)|(?P<space>\s+)|(?P<break>.)",
    re.DOTALL,
)
_OPERATORS = {"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "**": "^"}
_WORD_OPERATORS = {"x": "*", "times": "*", "plus": "+", "minus": "-", "by": "/"}
_STATES = frozenset({"is", "are", "equals", "makes", "gives", "to"})
_UNIT_LETTERS = frozenset("ghklm¢")
_NO_UNITS = frozenset({"and", "or", "so", "but", "then", "if", "where", "when", "because"})
_CENTS = frozenset({"cents", "cent", "¢"})
_FRACTION_CHARACTERS = {"½": "(1/2)", "¼": "(1/4)", "¾": "(3/4)", "⅓": "(1/3)", "⅔": "(2/3)"}
_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\\(?:left|right|[,;!])"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([$%])"), r"\1"),
)
_ROUNDING = re.compile(r"\bround|\babout\b|\bapprox|\bnearly\b|\balmost\b|≈|\bwhole\b", re.IGNORECASE)


def _tokenize(text: str) -> list[_Token]:
    for pattern, replacement in _LATEX if "\\" in text or "{,}" in text else ():
        text = pattern.sub(replacement, text)
    for character, replacement in _FRACTION_CHARACTERS.items():
        text = text.replace(character, replacement)
    tokens = [_read_token(match) for match in _TOKEN.finditer(text) if match.lastgroup != "space"]
    return [_settle(tokens, position) for position in range(len(tokens))]


def _read_token(match: re.Match[str]) -> _Token:
    kind, text, (start, end) = match.lastgroup or "break", match.group(), match.span()
    if kind == "clock" or (kind in ("number", "mixed") and len(text) > _MAX_DIGITS):
        return _Token("break", text, start, end)
    if kind == "mixed":
        whole, _, part = text.partition(" ")
        return _Token("number", text, start, end, int(whole) + Fraction(part))
    if kind == "number":
        return _Token(
            "number", text, start, end, Fraction(re.sub("[, ]", "", text)), len(text.partition(".")[2])
        )
    return _Token(kind, _OPERATORS.get(text, text), start, end)


def _settle(tokens: Sequence[_Token], position: int) -> _Token:
    """Tell operators in words (`3 x 4`, `3+4 is 7`), units with a slash (`GB/minute`) and variables (`3x + 2`)."""
    token = tokens[position]
    if token.text == "/" and position + 1 < len(tokens) and tokens[position + 1].kind == "word":
        return token._replace(kind="word")
    if token.kind != "word":
        return token
    word = token.text.lower()
    begins_number = position > 0 and _begins_number(tokens, position + 1)
    if begins_number and word in _WORD_OPERATORS and tokens[position + 1].kind != "op":
        is_operator = word != "by" or tokens[position - 1].text == "divided"
        return token._replace(kind="op", text=_WORD_OPERATORS[word]) if is_operator else token
    if len(token.text) == 1 and token.text != "a" and token.text not in _UNIT_LETTERS:
        return token._replace(kind="break")
    return token._replace(kind="states") if begins_number and word in _STATES else token


def _begins_number(tokens: Sequence[_Token], position: int) -> bool:
    for token in tokens[position : position + _MAX_DEPTH]:
        if token.kind == "number":
            return True
        if token.kind not in ("open", "currency") and token.text not in ("-", "+", "the"):
            return False
    return False


# --- expressions --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Value:
    """A parsed expression. A percent sign counts as hundredths in `value` and as nothing in `plain`."""

    value: Fraction
    plain: Fraction
    first: Fraction
    """The value of the first number or bracket: what `5+3=8-2=6` means by its 8."""
    written: str
    operands: tuple[Fraction, ...]
    terms: tuple[Fraction, ...]
    factors: tuple[Fraction, ...]
    operators: str = ""
    percents: int = 0
    decimals: int = 0
    has_cents: bool = False


class _Parser:
    """Recursive descent over tokens: sums of products of powers of atoms, units of measure passed over."""

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self._tokens = tokens

    def parse(self, position: int, depth: int = 0) -> tuple[_Value, int]:
        """Return the expression that begins at a token, and the position after it.

        Raises:
            NotArithmetic: If none does.
        """
        return self._chain(position, depth, "+-", self._product)

    def _product(self, position: int, depth: int) -> tuple[_Value, int]:
        return self._chain(position, depth, "*/", self._power)

    def _chain(
        self, position: int, depth: int, operators: str, read_part: Callable[[int, int], tuple[_Value, int]]
    ) -> tuple[_Value, int]:
        left, position = read_part(position, depth)
        while (found := self._operator(position, left)) and found[0] in operators:
            right, position = read_part(found[1], depth)
            left = _apply(left, found[0], right)
        return left, position

    def _power(self, position: int, depth: int) -> tuple[_Value, int]:
        base, position = self._atom(position, depth)
        if not (found := self._operator(position, base)) or found[0] != "^":
            return base, position
        exponent, position = self._power(found[1], depth + 1)
        return _apply(base, "^", exponent), position

    def _atom(self, position: int, depth: int) -> tuple[_Value, int]:
        token = self._at(position)
        if token is None or depth > _MAX_DEPTH:
            raise NotArithmetic("the expression ends too early or is nested too deeply")
        if token.kind == "op" and token.text in "+-":
            value, position = self._atom(position + 1, depth + 1)
            return (_negate(value) if token.text == "-" else value), position
        if token.kind == "currency" or token.text == "the":
            return self._atom(position + 1, depth + 1)
        if token.kind == "open":
            return self._bracket(position, depth)
        if token.kind != "number":
            raise NotArithmetic(f"{token.text!r} is no number")
        number, alone = token.value, (token.value,)
        value = _Value(number, number, number, token.text, alone, alone, alone, decimals=token.decimals)
        return self._with_suffix(value, position + 1)

    def _bracket(self, position: int, depth: int) -> tuple[_Value, int]:
        value, position = self.parse(position + 1, depth + 1)
        if (closing := self._at(position)) is None or closing.kind != "close":
            raise NotArithmetic("a bracket is not closed")
        written = f"({value.written})" if value.operators or value.value < 0 else value.written
        return self._with_suffix(replace(value, first=value.value, written=written), position + 1)

    def _with_suffix(self, value: _Value, position: int) -> tuple[_Value, int]:
        token = self._at(position)
        if token is not None and token.kind == "percent":
            return _percent(value), self._skip_units(position + 1)
        has_cents = token is not None and token.text.lower() in _CENTS
        return replace(value, has_cents=has_cents or value.has_cents), self._skip_units(position)

    def _skip_units(self, position: int) -> int:
        """Pass over `hours`, `miles per hour`, `GB/minute` where an operator, an equation or a bracket follows."""
        for after in range(position, position + _MAX_UNIT_WORDS):
            token = self._at(after)
            if (
                token is None
                or token.kind not in ("word", "op", "equals", "states", "close")
                or token.text in _NO_UNITS
            ):
                return position
            if token.kind != "word" or (token.text == "of" and after == position):
                return after
        return position

    def _operator(self, position: int, left: _Value) -> tuple[str, int] | None:
        """Return the operator at a position and where its right side begins."""
        token = self._at(position)
        if token is None:
            return None
        begins_number = _begins_number(self._tokens, position + 1)
        if token.kind == "op" and begins_number:
            return token.text, position + 1
        # "40% of 200", "3/4 of the 20", but not "3 of 4".
        is_part = left.percents > 0 or left.value.denominator > 1
        if token.text == "of" and is_part and begins_number:
            return "*", position + 1
        is_attached = token.kind == "open" and token.start == self._tokens[position - 1].end
        return ("*", position) if is_attached and begins_number else None

    def _at(self, position: int) -> _Token | None:
        return self._tokens[position] if position < len(self._tokens) else None


def _apply(left: _Value, operator: str, right: _Value) -> _Value:
    value = _compute(left.value, operator, right.value)
    terms: tuple[Fraction, ...] = (value,)
    factors = terms
    if operator in "+-":
        terms = left.terms + tuple(term if operator == "+" else -term for term in right.terms)
    elif operator in "*/":
        factors = left.factors + tuple(factor if operator == "*" else 1 / factor for factor in right.factors)
    return _Value(
        value,
        _compute(left.plain, operator, right.plain),
        left.first,
        f"{left.written}{operator}{right.written}",
        left.operands + right.operands,
        terms,
        factors,
        left.operators + right.operators + operator,
        left.percents + right.percents,
        max(left.decimals, right.decimals),
        left.has_cents or right.has_cents,
    )


def _compute(left: Fraction, operator: str, right: Fraction) -> Fraction:
    if operator == "/" and right == 0:
        raise NotArithmetic("a division by zero")
    if operator == "^" and (
        right.denominator != 1 or abs(right) > _MAX_EXPONENT or (left == 0 and right < 0)
    ):
        raise NotArithmetic("a power that is not worked out")
    match operator:
        case "+":
            value = left + right
        case "-":
            value = left - right
        case "*":
            value = left * right
        case "/":
            value = left / right
        case _:
            value = Fraction(left ** int(right))
    if value.numerator.bit_length() + value.denominator.bit_length() > _MAX_BITS:
        raise NotArithmetic("a number too large")
    return value


def _negate(value: _Value) -> _Value:
    return replace(
        value,
        value=-value.value,
        plain=-value.plain,
        first=-value.first,
        operands=(-value.operands[0], *value.operands[1:]),
        terms=tuple(-term for term in value.terms),
        factors=(-value.factors[0], *value.factors[1:]),
        written=f"-{value.written}",
    )


def _percent(value: _Value) -> _Value:
    return replace(
        value,
        value=value.value / 100,
        first=value.first / 100,
        terms=(value.value / 100,),
        factors=(value.value / 100,),
        percents=value.percents + 1,
        written=f"{value.written}%",
    )


# --- claims -------------------------------------------------------------------------------------------------


def _scan(text: str, is_rounded: bool) -> Iterator[Claim]:
    """Yield the claims of a text without marks: at each number that may begin one, the longest chain of `=`."""
    tokens = _tokenize(text)
    parser = _Parser(tokens)
    position = 0
    while position < len(tokens):
        sides, after = (
            _read_sides(parser, tokens, position) if _may_begin(tokens, position) else ([], position)
        )
        for left, right in pairwise(sides):
            if left.operators or right.operators:
                is_true = _holds(left, right, is_rounded)
                yield Claim(
                    left.written,
                    right.written,
                    left.value,
                    right.value,
                    is_true,
                    left.operands,
                    left.terms,
                    left.factors,
                    left.operators,
                )
        position = max(after, position + 1)


def _read_sides(parser: _Parser, tokens: Sequence[_Token], position: int) -> tuple[list[_Value], int]:
    """Return the sides of the chain of equations that begins at a token (one side: no equation)."""
    sides: list[_Value] = []
    while True:
        try:
            value, after = parser.parse(position)
        except NotArithmetic:
            return sides, position
        sides.append(value)
        token = tokens[after] if after < len(tokens) else None
        if token is None or not (token.kind == "equals" or (token.kind == "states" and value.operators)):
            return sides, after
        position = after + 1


def _may_begin(tokens: Sequence[_Token], position: int) -> bool:
    """An expression must not begin inside another one that could not be read, as in `x + 3 + 4 = 10`."""
    token = tokens[position]
    is_sign = token.kind == "op" and token.text in "+-"
    if not is_sign and token.kind not in ("number", "open", "currency"):
        return False
    if position == 0:
        return True
    before = tokens[position - 1]
    if is_sign and before.kind not in ("equals", "open"):
        is_attached = position + 1 < len(tokens) and tokens[position + 1].start == token.end > before.end + 1
        return is_attached and before.kind in ("word", "break", "states") and len(before.text) > 1
    return before.kind not in ("op", "number", "close", "percent", "currency")


def _holds(left: _Value, right: _Value, is_rounded: bool) -> bool:
    """Is `left = right` a fair thing to write? Percents, cents, rounding and run-on equations are read kindly."""
    found, wanted = {left.value}, {right.value, right.first}
    if right.percents or (left.percents and left.percents == len(left.operands)):
        found.add(left.plain)
        wanted |= {right.plain, right.value * 100}
    if left.has_cents != right.has_cents:
        found |= {left.value / 100, left.value * 100}
    return any(_is_close(a, b, right.decimals, is_rounded) for a in found for b in wanted)


def _is_close(exact: Fraction, stated: Fraction, decimals: int, is_rounded: bool) -> bool:
    gap = abs(exact - stated)
    if gap == 0 or (is_rounded and gap < 1):
        return True
    # 10/3 = 3.33 and 12.345 = 12.35 are rounded; 3.75 = 3.7 and 7/2 = 3 are mistakes.
    is_long = (exact * 100).denominator > 1
    return is_long and decimals > 0 and gap < Fraction(1, 10 ** min(decimals, 9))
