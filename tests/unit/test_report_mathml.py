from __future__ import annotations

import pytest

from lema_local.report.mathml import render_math


@pytest.mark.parametrize(
    "text",
    [
        "She pays $5 and gets $3 back.",
        "It costs $5, so 3*$5=$15.",
        "From $10 to $ 5",
        "$12 for apples and pears$",
        "5$ and 6$",
        r"\frac{1}{2} without any sign",
        "$" + "{" * 300 + "$",
        "$" + "x" * 500 + "$",
        "",
    ],
)
def test_what_is_no_formula_stays_as_it_stands(text: str) -> None:
    assert render_math(text) == text


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("$x^2$", "<msup><mi>x</mi><mn>2</mn></msup>"),
        (r"\(\frac{1}{2}\)", "<mfrac>"),
        (r"\[a \le b\]", 'display="block"'),
        ("$$a<b$$", "<mo>&lt;</mo>"),
        (r"$\text{for all apples and pears}$", "<mtext>for\xa0all"),
        (r"$\begin{pmatrix}1&2\\3&4\end{pmatrix}$", "<mtable>"),
    ],
)
def test_formulas_become_mathml(text: str, piece: str) -> None:
    assert piece in render_math(f"before {text} after")


@pytest.mark.parametrize(
    "text",
    [
        r"$\text{<script>alert(1)</script>}$",
        r"$\href{javascript:alert(1)}{x}$",
        r"$\text{</math><img src=x onerror=alert(1)>}$",
        r"$&#60;script&#62;$",
        r"\(<img src=x onerror=alert(1)>\)",
        r"$\style{background:url(http://evil.example)}{x}$",
        "<b>$x$</b><script>",
    ],
)
def test_no_formula_brings_an_element_of_its_own(text: str) -> None:
    shown = str(render_math(text)).lower()
    for piece in ("<script", "<img", "<b>", "href=", "style=", "javascript:alert(1)&quot;"):
        assert piece not in shown
