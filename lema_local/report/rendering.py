"""Write the report: one self-contained HTML page, one Markdown file, and the charts beside them.

Model text is hostile: Jinja2 escapes everything, the page's content security policy allows our own script by its
hash, no other and no network; control characters and those that turn text around are taken out.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lema_local import __version__
from lema_local.jsonl import told_disk_errors
from lema_local.report import summary, words
from lema_local.report.charts import (
    VARIABLES,
    Chart,
    arm_style,
    draw_charts,
    group_shares,
    scores_chart_name,
    wrong_chart_name,
)
from lema_local.report.data import ReportData
from lema_local.report.mathml import render_math
from lema_local.report.went_wrong import KIND_WORDS
from lema_local.runs import write_text
from lema_local.statistics import wilson_interval

CHARTS_DIR = "charts"


def write_report(data: ReportData, out_dir: Path) -> None:
    """Write `report.html`, `report.md` and `charts/*.{svg,png}` into `out_dir`.

    Raises:
        LemaError: If they cannot be written.
    """
    charts = draw_charts(data)
    for chart in charts.values():
        _write_bytes(out_dir / CHARTS_DIR / f"{chart.name}.svg", chart.svg.encode())
        _write_bytes(out_dir / CHARTS_DIR / f"{chart.name}.png", chart.png)
    environment = _environment()
    values = _values(data, charts)
    write_text(out_dir / "report.md", environment.get_template("report.md").render(values))
    write_text(out_dir / "report.html", environment.get_template("report.html").render(values))


def _write_bytes(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with told_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lema_local.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "percent": words.percent,
        "points": words.difference,
        "dollars": words.dollars,
        "duration": words.duration,
        "number": words.number,
        "p_value": words.p_value,
        "clip": words.clip,
        "md": escape_markdown,
        "fenced": fence,
        "code": code_span,
        "math": show_math,
        "kind": name_kind,
        "preview": words.preview,
    }
    return environment


def _finalize(value: Any) -> Any:
    """Clean every plain text that a template shows; markup is ours."""
    return words.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def show_math(text: str) -> Markup:
    """Return a text of a model as HTML, cut to a bounded length: LaTeX as MathML, the rest escaped."""
    return render_math(words.clean(words.clip(text)))


def name_kind(kind: str) -> str:
    """Return a kind of mistake in words."""
    return KIND_WORDS.get(kind, kind.replace("_", " "))


def _values(data: ReportData, charts: Mapping[str, Chart]) -> dict[str, Any]:
    script = _read_template("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "script": Markup(script),  # noqa: S704 - a file of this package
        "script_hash": Markup(f"sha256-{digest}"),  # noqa: S704 - base64
        "data": data,
        "charts": charts,
        "summary": summary,
        "words": words,
        "version": __version__,
        "css": Markup(_read_template("style.css")),  # noqa: S704 - a file of this package
        "inline_svg": {name: Markup(chart.inline_svg) for name, chart in charts.items()},  # noqa: S704 - by matplotlib
        "group_shares": group_shares,
        "scores_chart_name": scores_chart_name,
        "wrong_chart_name": wrong_chart_name,
        "wilson": wilson_interval,
        "arm_variable": lambda arm: VARIABLES[arm_style(arm, data.every_arm)[0]],
        "charts_dir": CHARTS_DIR,
    }


def _read_template(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def escape_markdown(text: object) -> Markup:
    """Return a text as one line that Markdown shows as it stands, also in a table's cell."""
    line = html.escape(" ".join(words.clean(str(text)).split()), quote=False)
    # A bare address would become a link, an @name a mention.
    escaped = re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", line).replace("@", "&#64;").replace("://", "&#58;//")
    return Markup(escaped)  # noqa: S704 - escaped just above


def fence(text: object, language: str = "") -> Markup:
    """Return a text as a fenced block that nothing in it can close."""
    cleaned = words.clean(words.clip(str(text)))
    longest = max((len(run) for run in re.findall(r"`+", cleaned)), default=0)
    ticks = "`" * max(3, longest + 1)
    return Markup(f"{ticks}{language}\n{cleaned}\n{ticks}")  # noqa: S704 - nothing within is interpreted


def code_span(text: object) -> Markup:
    """Return a short text as a code span."""
    line = " ".join(words.clean(words.clip(str(text), 300)).split()) or " "
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    ticks = "`" * (longest + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return Markup(f"{ticks}{pad}{line}{pad}{ticks}")  # noqa: S704 - nothing within is interpreted
