r"""LaTeX in a text of a model as MathML; the rest of the text escaped.

latex2mathml translates. What it returns is taken as a tree and written out here, known elements and attributes only:
its own output holds the text of `\text{<script>}` and the address of `\href` as they came.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from markupsafe import Markup, escape

MAX_FORMULA = 400
"""Characters; a longer one is shown as it stands."""
MAX_FORMULAS = 200
"""In one text."""

_FORMULA = re.compile(
    r"\\\((?P<round>.{1,400}?)\\\)|\\\[(?P<square>.{1,400}?)\\\]|(?<![\\$])\$\$(?P<double>[^$]{1,400})\$\$"
    r"|(?<![\\$\w])\$(?P<single>(?=\S)[^$\n]{0,399}[^\s$\\])\$(?![\d$])",
    re.DOTALL,
)
"""A dollar sign opens a formula as in pandoc: no space after it, none before the closing one, no digit behind."""
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}(?:,? +[A-Za-z]{2,})+")
_IN_WORDS = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{[^{}]*\}")
_ELEMENTS = frozenset((
    "math", "mrow", "mi", "mn", "mo", "mtext", "ms", "mspace", "mfrac", "msqrt", "mroot", "msup", "msub",
    "msubsup", "mover", "munder", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom",
    "menclose", "mmultiscripts", "mprescripts", "none",
))  # fmt: skip
_ATTRIBUTES = frozenset((
    "display", "stretchy", "fence", "form", "separator", "lspace", "rspace", "width", "height", "depth",
    "minsize", "maxsize", "linethickness", "columnalign", "columnlines", "rowlines", "rowspacing",
    "columnspacing", "accent", "accentunder", "movablelimits", "largeop", "mathvariant", "displaystyle",
    "scriptlevel", "notation",
))  # fmt: skip
_VALUE = re.compile(r"[\w .%+-]{0,40}")


def render_math(text: str) -> Markup:
    """Return a text as HTML: its formulas as MathML, everything else escaped."""
    return Markup("").join(_parts(text))


def _parts(text: str) -> Iterator[Markup]:
    end = 0
    for count, found in enumerate(_FORMULA.finditer(text)):
        if count >= MAX_FORMULAS:
            break
        kind, formula = next((name, value) for name, value in found.groupdict().items() if value is not None)
        is_dollar = kind in ("single", "double")
        shown = None if is_dollar and _PROSE.search(_IN_WORDS.sub("", formula)) else _translate(
            formula.strip(), kind in ("square", "double")
        )  # fmt: skip
        if shown is not None:
            yield escape(text[end : found.start()])
            yield shown
            end = found.end()
    yield escape(text[end:])


@lru_cache(maxsize=4096)
def _translate(formula: str, is_block: bool) -> Markup | None:
    """Return a formula as MathML; None where it is none that can be shown."""
    from latex2mathml.converter import convert_to_element

    if not formula or len(formula) > MAX_FORMULA:
        return None
    try:
        tree = convert_to_element(formula, display="block" if is_block else "inline")
        return Markup("").join(_write(tree))
    except Exception:  # whatever a model's LaTeX does to the translator, the text is still shown
        return None


def _write(node: Any) -> Iterator[Markup]:
    tag = node.tag if node.tag in _ELEMENTS else "mrow"
    kept = [
        Markup(' {}="{}"').format(name, value)
        for name, value in node.attrib.items()
        if name in _ATTRIBUTES and _VALUE.fullmatch(value)
    ]
    yield Markup("<{}{}>").format(Markup(tag), Markup("").join(kept))  # noqa: S704 - a name of the list above
    if node.text:
        yield escape(html.unescape(node.text))
    for child in node:
        yield from _write(child)
    yield Markup("</{}>").format(Markup(tag))  # noqa: S704 - a name of the list above
