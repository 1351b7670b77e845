"""What runs in a worker process: Math-Verify's parser and grader, with checks that close their known holes.

Only `symbolic` calls this, always in another process. Math-Verify alone takes the first expression that it finds
in a text and compares at 15 digits after the point; here the whole text has to parse, and numbers are compared
relative to their size, so that `1/2004!` is not `1/2006!`.
"""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

TIMEOUT_S = 2.0
"""An answer's time: the worker's processor time where the platform counts it, else the clock's."""
MEMORY_MIB = 1024
"""What an answer may take above what the worker itself needs."""
COUNTS_CPU = hasattr(signal, "setitimer")
"""Whether the platform can end a worker by its processor time (not Windows)."""

is_worker = False
"""Whether this process is one that `prepare_worker` made ready."""

DIGITS = 40
"""Digits that expressions are evaluated to; 25 of them have to agree."""
RELATIVE_TOLERANCE = "1e-25"
POINTS = 6
"""Random points at which expressions with variables are compared."""
DECIMALS_FOR_IRRATIONAL = 6
"""A decimal prediction for an irrational gold has to be right to all its digits, and have as many as this."""


def prepare_worker() -> None:
    """Load the libraries, cap this worker's memory, ignore Ctrl-C."""
    global is_worker
    is_worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when the work ends
    warm_up()
    if sys.platform == "linux":
        _limit_memory()
    else:  # no system call holds there
        threading.Thread(target=watch_memory, args=(MEMORY_MIB,), daemon=True).start()


def _limit_memory() -> None:
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + MEMORY_MIB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def watch_memory(mib: int, every_s: float = 0.05) -> None:
    """End this process once it takes so much more memory than now; what it worked on is undecided then."""
    import psutil

    process = psutil.Process()
    limit = process.memory_info().rss + mib * 2**20
    while process.memory_info().rss < limit:
        time.sleep(every_s)
    os._exit(1)


def _start_clock() -> None:
    """Let the system kill this process after its time: no Python code needs to run for that."""
    if COUNTS_CPU:
        signal.setitimer(signal.ITIMER_PROF, TIMEOUT_S)


def _stop_clock() -> None:
    if COUNTS_CPU:
        signal.setitimer(signal.ITIMER_PROF, 0)


def warm_up() -> None:
    """Load the libraries and use them once."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we keep the time ourselves
    is_equivalent("x+1", "1+x")
    is_equivalent("x<y", "y>x")


def compare(gold: str, prediction: str) -> Any:
    """Return the `Comparison` of two cleaned answers, all of their parts."""
    from lema_local.answers.comparison import compare_here

    _start_clock()
    try:
        return compare_here(gold, prediction)
    finally:
        _stop_clock()


def is_readable(gold: str) -> bool:
    """Whether a cleaned gold answer can be compared with, all of its parts."""
    from lema_local.answers.comparison import is_readable_here

    _start_clock()
    try:
        return is_readable_here(gold)
    finally:
        _stop_clock()


def can_parse(text: str) -> bool:
    """Whether an expression can be read."""
    return _parse(text) is not None


def is_equivalent(gold: str, prediction: str) -> bool | None:
    """Whether two cleaned expressions mean the same; None where that cannot be told."""
    wanted = _parse(gold)
    if wanted is None:
        return None
    found = _parse(prediction)
    if found is None:
        return False
    decided = _compare_by_value(wanted, found, _count_decimals(gold), _count_decimals(prediction))
    if decided is not None:
        return decided
    from math_verify import verify

    return bool(verify(wanted, found, timeout_seconds=None))


_DECIMAL = re.compile(r"-?\d*\.(\d+)")


def _count_decimals(text: str) -> int | None:
    """Return the digits behind the point of a plain decimal; None where the text is none."""
    match = _DECIMAL.fullmatch(text.strip())
    return len(match[1]) if match else None


_COMMAND_NAMES = (
    "sqrt|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|pi|theta|alpha|beta|gamma|delta|"
    "lambda|mu|sigma|phi|omega|infty"
)
_COMMAND = re.compile(rf"(?<![\\a-zA-Z])({_COMMAND_NAMES})(?![a-zA-Z])")
_INFINITY = re.compile(r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])")
_ATOM = r"(?:\{[^{}]*\}|\d+(?:\.\d+)?|[a-zA-Z]|\\[a-zA-Z]+)"
_TOWER = re.compile(rf"(.*)\^\s*({_ATOM})\s*\^\s*({_ATOM})(?!\s*\^)", re.DOTALL)
_THOUSANDS = re.compile(r"(?<=\d),\s?(?=\d{3}(?!\d))")
_NEIGHBOURS = re.compile(r"(?<![_^\d.])\d+(?:\.\d+)?\s+\d")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)?(?:\s*degrees(?![a-z])|\s*\^\s*\{?\s*\\circ\s*\}?)")
_LOGARITHM = re.compile(r"\\log\s*_\s*([0-9a-zA-Z])")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_LONG_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}")


def to_latex(text: str) -> str | None:
    """Return a cleaned answer as LaTeX for the parser; None where it is no expression (words, `9 9`).

    Plain notation is understood too: `sqrt(2)`, `2**3`, `pi/4`, `x^(n+1)`; `a^b^c` is a tower.
    """
    text = _THOUSANDS.sub("", text)
    text = _INFINITY.sub(r"\\infty ", text.replace("**", "^"))
    text = _COMMAND.sub(r"\\\1 ", text)
    text = _DEGREES.sub(r"(\1 \\cdot \\frac{\\pi}{180})" if _TRIGONOMETRIC.search(text) else r"\1", text)
    text = _LOGARITHM.sub(r"\\log_{\1}", text)
    if _NEIGHBOURS.search(text) or _LONG_WORD.search(re.sub(r"\\[a-zA-Z]+", " ", text)):
        return None
    text = _brace_arguments(text)
    for _ in range(20):
        tower = _TOWER.fullmatch(text) or _TOWER.match(text)
        if tower is None:
            return text
        text = f"{tower[1]}^{{{tower[2]}^{tower[3]}}}{text[tower.end() :]}"
    return None


_ARGUMENT = re.compile(r"(\^|\\sqrt)\s*\(")


def _brace_arguments(text: str) -> str:
    """Write `^(...)` and `\\sqrt(...)` with braces."""
    from lema_local.answers.surface import find_closing

    start = 0
    while match := _ARGUMENT.search(text, start):
        closing = find_closing(text, match.end() - 1, "()")
        if closing < 0:
            return text
        text = f"{text[: match.start()]}{match[1]}{{{text[match.end() : closing]}}}{text[closing + 1 :]}"
        start = match.start() + 1
    return text


@lru_cache(maxsize=512)
def _parse(text: str) -> Any:
    """Return the sympy object that the whole text is; None where it is none."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    latex = to_latex(text)
    if latex is None:
        return None
    try:
        parsed = latex2sympy(
            latex,
            is_real=None,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except (MemoryError, RecursionError):
        raise
    except Exception:  # the parser raises plain `Exception` for what it cannot read
        return None
    return _to_exact(parsed)


def _to_exact(parsed: Any) -> Any:
    """Return an expression with fractions for its decimals (0.001 is 1/1000) and the imaginary unit for `i`."""
    import sympy

    if not isinstance(parsed, sympy.Basic):
        return parsed
    exact: dict[Any, Any] = {one: sympy.Rational(str(one)) for one in parsed.atoms(sympy.Float)}
    exact |= {symbol: sympy.I for symbol in parsed.free_symbols if symbol.name == "i"}
    return parsed.xreplace(exact) if exact else parsed


def _compare_by_value(
    gold: Any, prediction: Any, gold_decimals: int | None, decimals: int | None
) -> bool | None:
    """Compare expressions by their values, equations by the ratio of theirs; None where that does not apply."""
    import sympy

    if isinstance(gold, sympy.Eq) and isinstance(prediction, sympy.Eq):
        return _has_constant_ratio(gold.lhs - gold.rhs, prediction.lhs - prediction.rhs)
    if not isinstance(gold, sympy.Expr) or not isinstance(prediction, sympy.Expr):
        return None
    if gold.free_symbols != prediction.free_symbols:
        return _vanishes_alike(gold, prediction)
    if gold.free_symbols:
        return _agrees_at_points(gold, prediction)
    return _compare_constants(gold, prediction, gold_decimals, decimals)


def _compare_constants(
    gold: Any, prediction: Any, gold_decimals: int | None, decimals: int | None
) -> bool | None:
    import sympy

    gold, prediction = gold.doit(), prediction.doit()
    if gold.is_Rational and prediction.is_Rational and not gold_decimals:
        return bool(gold == prediction)  # 10^100 is not 10^100 + 1
    one, other = _evaluate(gold), _evaluate(prediction)
    if one is None or other is None:
        return None
    gap = abs(one - other)
    if gold_decimals:
        return bool(gap * 2 <= sympy.Rational(1, 10**gold_decimals))
    if decimals and decimals >= DECIMALS_FOR_IRRATIONAL and not gold.is_rational:
        return bool(gap * 2 <= sympy.Rational(1, 10**decimals))
    return _is_close(one, other)


def _evaluate(expression: Any, at: dict[Any, Any] | None = None) -> Any:
    """Return the finite value of an expression to `DIGITS` digits; None where it has none."""
    import sympy

    value = (expression.doit() if at is None else expression.subs(at).doit()).evalf(DIGITS)
    if not value.is_number or not value.is_finite:
        return None
    real, imaginary = value.as_real_imag()
    return real + sympy.I * imaginary if real.is_Number and imaginary.is_Number else None


def _is_close(one: Any, other: Any) -> bool:
    import sympy

    gap, size = abs(one - other), max(abs(one), abs(other))
    return bool(gap <= sympy.Float(RELATIVE_TOLERANCE, DIGITS) * size) or bool(
        size < sympy.Float("1e-35", DIGITS) and (one == 0 or other == 0)
    )


def _points(symbols: list[Any]) -> Iterator[dict[Any, Any]]:
    """Yield points to compare at: the same ones each time, positive and negative, away from special values."""
    import sympy

    draw = random.Random(0)
    for number in range(POINTS):
        sign = -1 if number % 2 else 1
        yield {symbol: sign * sympy.Rational(draw.randint(301, 2999), 1009) for symbol in symbols}


def _agrees_at_points(gold: Any, prediction: Any) -> bool | None:
    symbols = sorted(gold.free_symbols, key=str)
    agreed = 0
    for at in _points(symbols):
        one, other = _evaluate(gold, at), _evaluate(prediction, at)
        if one is None or other is None:
            continue
        if not _is_close(one, other):
            return False
        agreed += 1
    return True if agreed >= POINTS // 2 else None


def _vanishes_alike(gold: Any, prediction: Any) -> bool | None:
    """Whether two expressions with different variables still are one, because some variables cancel."""
    import sympy

    symbols = sorted(gold.free_symbols | prediction.free_symbols, key=str)
    for at in _points(symbols):
        one, other = _evaluate(gold, at), _evaluate(prediction, at)
        if one is not None and other is not None and not _is_close(one, other):
            return False
    return bool(sympy.simplify(gold - prediction) == 0)


def _has_constant_ratio(one: Any, other: Any) -> bool | None:
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    first = None
    agreed = 0
    for at in _points(symbols):
        top, bottom = _evaluate(one, at), _evaluate(other, at)
        if top is None or bottom is None or bottom == 0 or top == 0:
            continue
        ratio = top / bottom
        if first is not None and not _is_close(first, ratio):
            return False
        first = ratio if first is None else first
        agreed += 1
    return True if agreed >= POINTS // 2 else None
