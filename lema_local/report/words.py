"""Numbers as people read them."""

from __future__ import annotations

import math
import re


def percent(share: float) -> str:
    """Return a share of 1 as a percentage: `41.3 %`."""
    return f"{100 * share:.1f} %"


def count_of(count: int, total: int) -> str:
    """Return a count and its share of a total: `12 (0.9 %)`, `0`."""
    return f"{count:,} ({percent(count / total)})" if count and total else f"{count:,}"


def percent_range(low: float, high: float) -> str:
    """Return an interval of shares: `38.2 to 44.5 %`."""
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def difference(share: float) -> str:
    """Return a difference of shares in percentage points, with its sign: `+2.1 points`."""
    return f"{signed(100 * share)} points"


def difference_range(low: float, high: float) -> str:
    """Return an interval of differences: `-0.4 to +4.6`."""
    return f"{signed(100 * low)} to {signed(100 * high)}"


def signed(value: float) -> str:
    """Return a value with one decimal and always a sign."""
    rounded = round(value, 1)
    return f"{'-' if rounded < 0 else '+'}{abs(rounded):.1f}"


def p_value(value: float) -> str:
    """Return a p-value: `0.034`, `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def dollars(value: float) -> str:
    """Return dollars, with more digits where there is less than one cent: `$12.40`, `$0.0031`."""
    if value == 0 or value >= 0.01:
        return f"${value:,.2f}"
    return f"${value:.4f}" if value >= 0.0001 else "under $0.0001"


def duration(seconds: float) -> str:
    """Return a time in two units: `2 h 05 min`, `3 min 20 s`, `4.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def number(value: object) -> str:
    """Return a count or a measured value: `1,319`, `0.0123`; `not known` for None."""
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}" if math.isfinite(value) else "not known"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


_NOT_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_TURNS_TEXT = re.compile("[\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Return model text that can stand in a page: no control characters, and none that turns the text around."""
    return _TURNS_TEXT.sub("", _NOT_SHOWN.sub("\ufffd", text.replace("\r\n", "\n")))


def clip(text: str, length: int = 6000) -> str:
    """Return a text of bounded length, saying how much was left out."""
    return text if len(text) <= length else f"{text[:length]}\n[... {len(text) - length:,} more characters]"


def preview(text: str, length: int = 110) -> str:
    """Return the beginning of a text as one short line."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
