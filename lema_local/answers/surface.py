"""Undress an answer: Markdown, LaTeX wrappers and Unicode look-alikes off, so that the rest sees one form.

Nothing here decides whether answers are equal, and nothing here is slower than linear: model text may be a
megabyte of brackets.
"""

from __future__ import annotations

import re

MAX_ANSWER_CHARS = 2000
"""A longer final answer is not looked at: no problem of the known sets has an answer a tenth as long."""

_CHARACTERS = {
    # minus signs and dashes
    **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\ufe63\uff0d", "-"),
    # spaces, and marks without width
    **dict.fromkeys(
        "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "
    ),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u200e\u200f", ""),
    # quotes
    **dict.fromkeys("\u2018\u2019\u2032", "'"),
    **dict.fromkeys("\u201c\u201d\u2033", '"'),
    # operators and relations
    "\u00d7": "*",
    "\u22c5": "*",
    "\u00b7": "*",
    "\u2217": "*",
    "\u00f7": "/",
    "\u2044": "/",
    "\u2215": "/",
    "\u2264": "\\le ",
    "\u2265": "\\ge ",
    "\u2260": "\\ne ",
    "\u2248": "\\approx ",
    "\u00b1": "\\pm ",
    "\u221a": "\\sqrt",
    "\u221e": "\\infty ",
    "\u222a": "\\cup ",
    "\u2229": "\\cap ",
    "\u2205": "\\emptyset ",
    "\u2208": "\\in ",
    "\u211d": "\\mathbb{R}",
    "\u03c0": "\\pi ",
    "\u00b0": "^\\circ ",
    "\uff0c": ",",
    "\uff1a": ":",
    "\uff08": "(",
    "\uff09": ")",
    "\uff05": "%",
    "\uff04": "$",
    # vulgar fractions; the space keeps `3½` a mixed number
    "\u00bd": " 1/2",
    "\u2153": " 1/3",
    "\u2154": " 2/3",
    "\u00bc": " 1/4",
    "\u00be": " 3/4",
    "\u2155": " 1/5",
    "\u2156": " 2/5",
    "\u2157": " 3/5",
    "\u2158": " 4/5",
    "\u2159": " 1/6",
    "\u215a": " 5/6",
    "\u215b": " 1/8",
    "\u215c": " 3/8",
    "\u215d": " 5/8",
    "\u215e": " 7/8",
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
    **{
        sign: f"^{power}"
        for power, sign in enumerate("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
    },
}
_TRANSLATION = str.maketrans(_CHARACTERS)

# `2**3` is a power: emphasis stands apart from what surrounds it.
_EMPHASIS = re.compile(r"(?<![\w)\]}*])(\*\*\*|\*\*|__|`+)(?=\S)([^*`\n]+?)(?<=\S)\1(?![\w(*])")
_STRAY_MARKS = re.compile(r"^(?:\*\*|__|`|\s)+|(?:\*\*|__|`|\s)+$")
_SPACING = re.compile(
    r"\\[,;: ]|~|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|quad|qquad|"
    r"hspace\{[^{}]*\}|h?phantom\s*(?:\{[^{}]*\}|.))(?![a-zA-Z])"
)
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mathrm|mathbf|mathit|mathsf|mathtt|bold|boldsymbol|mbox|hbox|"
    r"operatorname\*?|emph|underline)\s*\{([^{}]*)\}"
)
_DELIMITER = re.compile(r"\\[()\[\]]|(?:\bUS|\bCA|\bAU)?\\?\$")
_FRACTION_NAME = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_SYMBOL = r"(\w|\\(?:pi|theta|alpha|beta|lambda)(?![a-zA-Z]))"
_BARE_FRACTION = re.compile(rf"\\frac\s*(?:\{{([^{{}}]+)\}}|{_SYMBOL})\s*(?:\{{([^{{}}]+)\}}|{_SYMBOL})")
_BARE_ROOT = re.compile(r"\\sqrt\s*([0-9a-zA-Z])")
_DEGREE = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degrees?(?![a-zA-Z])")
_ROW_END = re.compile(r"\\\\(?:\[-?[\d.]+(?:pt|em|ex|mm|cm)\])?")
_SPECIAL = re.compile(r"[\\*_`$~{]")


def clean_answer(text: str) -> str:
    """Return an answer without its wrapping: `**\\$1{,}000**` becomes `1,000`, `\\dfrac12` `\\frac{1}{2}`.

    Currency signs, spacing commands and text commands go; structure (brackets, fractions, operators) stays.
    """
    if not text.isascii():
        text = text.translate(_TRANSLATION)
    text = text.strip()
    if _SPECIAL.search(text) is None:
        return strip_full_stop(text)
    text = _STRAY_MARKS.sub("", _EMPHASIS.sub(r"\2", text))
    if "\\" in text or "$" in text or "~" in text or "{" in text:
        text = _clean_latex(text)
    return strip_full_stop(" ".join(text.split()))


def _clean_latex(text: str) -> str:
    text = _ROW_END.sub("\x00", text)  # a row's end in a matrix: no command begins here
    text = _SPACING.sub(" ", text.replace("\\!", ""))
    for _ in range(4):  # wrappers stand in one another, seldom deeper
        text, count = _WRAPPER.subn(r" \1 ", text)
        if not count:
            break
    text = _DELIMITER.sub("", text)
    text = text.replace("{,}", ",").replace("\\%", "%")
    text = _FRACTION_NAME.sub(r"\\frac", text)
    text = _BARE_FRACTION.sub(_brace_fraction, text)
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text)
    text = _DEGREE.sub(" degrees", text)
    return text.replace("\x00", "\\\\")


def _brace_fraction(match: re.Match[str]) -> str:
    top, bottom = match[1] or match[2], match[3] or match[4]
    return f"\\frac{{{top}}}{{{bottom}}}"


def strip_full_stop(text: str) -> str:
    """Return `text` without the punctuation that ends a sentence (`5!` is a factorial and stays), and unquoted."""
    text = text.rstrip(" .,;:") if text[-1:] in " .,;:" else text
    if text[:1] in ('"', "'") and len(text) > 2 and text[-1] == text[0]:
        return text[1:-1].strip(" .,;:")
    return text


_BRACKET_OR_ESCAPE = {pair: re.compile(rf"\\.|[{re.escape(pair)}]", re.DOTALL) for pair in ("{}", "()", "[]")}


def find_closing(text: str, start: int, brackets: str = "{}", limit: int | None = None) -> int:
    """Return the position of the bracket that closes the one at `start`, or -1 where none does.

    A bracket behind a backslash does not count.

    Args:
        text: Where to look.
        start: Position of the opening bracket.
        brackets: The opening and the closing one.
        limit: Characters to look at; None for all.
    """
    depth = 0
    end = len(text) if limit is None else min(len(text), start + limit)
    for match in _BRACKET_OR_ESCAPE[brackets].finditer(text, start, end):
        if match[0] == brackets[0]:
            depth += 1
        elif match[0] == brackets[1]:
            depth -= 1
            if depth == 0:
                return match.start()
    return -1
