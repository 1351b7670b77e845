"""The report's charts: drawn once by matplotlib, given as an SVG for the page, as an SVG file and as a PNG file.

In the page every colour becomes a CSS variable (`var(--ink)`, `var(--series-1)`), so that one drawing serves light
and dark; the files beside the page keep the light colours on white.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lema_local.records import ArmComparison, ArmScore, Share
from lema_local.report.data import FunnelStep, LossCurve, ReportData
from lema_local.report.words import clean, difference, percent, percent_range, signed

INK, GRID, ACCENT = "#1c2330", "#d5dae1", "#0f766e"
SERIES = {"base": "#5b6472", "base_zero_shot": "#8a6d1d", "cot": "#0b5cad", "lema": "#b0410e"}
OTHERS = ("#7a3fa0", "#0f766e", "#a11d5b", "#4d6b12")
MARKERS = ("o", "D", "s", "^", "v", "P", "X", "*")
"""Arms differ by shape too: colour alone does not tell them apart for everybody."""
VARIABLES = {INK: "--ink", GRID: "--grid", ACCENT: "--accent"} | {
    colour: f"--series-{number}" for number, colour in enumerate((*SERIES.values(), *OTHERS), 1)
}
WIDTH = 4.9
"""Inches. The page shows a chart at this width or narrower: 11 points stay readable on a phone."""
GROUPS_SHOWN = 12
STYLE = {
    "font.family": "sans-serif",
    "font.size": 11.0,
    "svg.fonttype": "none",
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn chart."""

    name: str
    """Of its files, without the ending."""
    title: str
    description: str
    """What it shows in words and numbers, for those who do not see it."""
    inline_svg: str
    """For the page: no XML header, ids of its own, colours as CSS variables."""
    svg: str
    png: bytes


def draw_charts(data: ReportData) -> dict[str, Chart]:
    """Return the charts that the run has data for, by name."""
    import matplotlib

    charts: list[Chart] = []
    with matplotlib.rc_context(STYLE):
        for dataset in data.datasets:
            charts += _draw_scores(dataset, data.arm_scores(dataset))
        if data.comparisons:
            charts.append(_draw_differences(data.comparisons))
        if any(step.count for step in data.funnel):
            charts.append(_draw_funnel(data.funnel))
        if data.curves:
            charts.append(_draw_losses(data.curves))
    return {chart.name: chart for chart in charts}


def slug(name: str) -> str:
    """Return a name that is safe in a file's name and in an id."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:60] or "x"


def scores_chart_name(dataset: str, tag: str | None = None) -> str:
    """Return the name of the chart of a dataset's scores, by a tag or for all questions."""
    return f"pass_at_1_{slug(dataset)}" + (f"_by_{slug(tag)}" if tag else "")


def arm_style(arm: str, arms: Sequence[str]) -> tuple[str, str]:
    """Return an arm's colour and marker; an arm looks the same in every chart of a report."""
    known = [*SERIES, *(other for other in arms if other not in SERIES)]
    position = known.index(arm)
    colours = [*SERIES.values(), *OTHERS]
    return colours[position % len(colours)], MARKERS[position % len(MARKERS)]


# --- the charts ---------------------------------------------------------------------------------------------


def _draw_scores(dataset: str, scores: Sequence[ArmScore]) -> list[Chart]:
    overall = {"all questions": [(score.arm, score.share) for score in scores]}
    title = f"pass@1 on {dataset} (greedy, 95 % Wilson intervals)"
    charts = [_draw_shares(scores_chart_name(dataset), title, overall)]
    for tag in dict.fromkeys(tag for score in scores for tag in score.groups):
        charts.append(
            _draw_shares(scores_chart_name(dataset, tag), f"{title}, by {tag}", group_shares(scores, tag))
        )
    return charts


def group_shares(scores: Sequence[ArmScore], tag: str) -> dict[str, list[tuple[str, Share]]]:
    """Return each arm's share by the value of a tag; a chart shows the first 12 values."""
    values = dict.fromkeys(value for score in scores for value in score.groups.get(tag, {}))
    return {
        value: [
            (score.arm, score.groups[tag][value]) for score in scores if value in score.groups.get(tag, {})
        ]
        for value in values
    }


def _draw_shares(name: str, title: str, groups: dict[str, list[tuple[str, Share]]]) -> Chart:
    shown = dict(list(groups.items())[:GROUPS_SHOWN])
    arms = list(dict.fromkeys(arm for rows in shown.values() for arm, _ in rows))
    is_grouped = len(groups) > 1 or "all questions" not in groups

    def draw(axes: Any) -> None:
        ticks: list[float] = []
        labels: list[str] = []
        y = 0.0
        for value, rows in shown.items():
            top = y
            for arm, share in rows:
                colour, marker = arm_style(arm, arms)
                _interval(axes, y, share.pass_at_1, share.low, share.high, colour, marker)
                _beside(axes, y, 100 * share.high, percent(share.pass_at_1))
                if not is_grouped:
                    ticks, labels = [*ticks, y], [*labels, arm]
                y += 1
            if is_grouped:
                ticks, labels = (
                    [*ticks, (top + y - 1) / 2],
                    [*labels, f"{_short(value)}\nn = {rows[0][1].n:,}"],
                )
            y += 0.8
        axes.set_yticks(ticks, labels)
        axes.set_ylim(y - 0.8 - 0.3, -0.7)
        _percent_axis(axes, "pass@1")
        if is_grouped:
            _legend(axes, arms)

    rows = sum(map(len, shown.values())) + 0.8 * len(shown)
    return _render(name, title, _describe_shares(title, shown), 0.9 + 0.24 * rows + 0.5 * is_grouped, draw)


def _draw_differences(comparisons: Sequence[ArmComparison]) -> Chart:
    title = "Paired differences in pass@1, second arm less first (95 % bootstrap intervals)"
    # The base's second prompt has its rows in the table; the chart is about what training brought.
    shown = ([one for one in comparisons if "base_zero_shot" not in (one.first, one.second)] or comparisons)[
        :18
    ]
    several = len({one.dataset for one in shown}) > 1

    def label(one: ArmComparison) -> str:
        questions = ", ".join(part for part in (one.dataset if several else None, one.group) if part)
        return _short(f"{one.first} → {one.second}", 30) + (f"\n{_short(questions, 26)}" if questions else "")

    def draw(axes: Any) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for y, one in enumerate(shown):
            colour, marker = arm_style(one.second, [one.second])
            _interval(axes, y, one.difference, one.low, one.high, colour, marker)
            _beside(axes, y, 100 * one.high, signed(100 * one.difference))
        axes.set_yticks(range(len(shown)), [label(one) for one in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel("percentage points")
        axes.margins(x=0.14)
        axes.grid(axis="x")

    described = "; ".join(f"{label(one)}: {difference(one.difference)}" for one in shown).replace("\n", ", ")
    return _render("differences", title, f"{title}. {described}.", 0.8 + 0.44 * len(shown), draw)


def _draw_funnel(steps: Sequence[FunnelStep]) -> Chart:
    title = "From sampled solutions to training examples"
    shown = [step for step in steps if step.name != "training questions"] or list(steps)

    def draw(axes: Any) -> None:
        axes.barh(range(len(shown)), [step.count for step in shown], color=ACCENT, height=0.62)
        for y, step in enumerate(shown):
            _beside(axes, y, step.count, f"{step.count:,}")
        axes.set_yticks(range(len(shown)), [step.name for step in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(0, 1.18 * max(step.count for step in shown))
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(bottom=False, labelbottom=False)

    described = ", ".join(f"{step.name} {step.count:,}" for step in shown)
    return _render("funnel", title, f"{title}: {described}.", 0.4 + 0.34 * len(shown), draw)


def _draw_losses(curves: Sequence[LossCurve]) -> Chart:
    title = "Training loss by optimizer step"
    arms = [curve.arm for curve in curves]

    def draw(axes: Any) -> None:
        for curve in curves:
            colour, marker = arm_style(curve.arm, arms)
            every = max(1, len(curve.steps) // 8)
            axes.plot(
                curve.steps, curve.losses, color=colour, linewidth=1.6, marker=marker, markevery=every, ms=5
            )
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss on the trained tokens")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        _legend(axes, arms)

    described = "; ".join(
        f"{one.arm} from {one.losses[0]:.3f} to {one.losses[-1]:.3f} at step {one.steps[-1]:,.0f}"
        for one in curves
    )
    return _render("loss", title, f"{title}: {described}.", 3.2, draw)


# --- drawing ------------------------------------------------------------------------------------------------


def _interval(axes: Any, y: float, middle: float, low: float, high: float, colour: str, marker: str) -> None:
    axes.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt")
    axes.plot([100 * middle], [y], color=colour, marker=marker, markersize=7, linestyle="none")


def _beside(axes: Any, y: float, x: float, text: str) -> None:
    axes.annotate(
        text, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=10, parse_math=False
    )


def _percent_axis(axes: Any, label: str) -> None:
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20), [f"{tick} %" for tick in range(0, 101, 20)])
    axes.set_xlabel(label)
    axes.grid(axis="x")


def _legend(axes: Any, arms: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    styles = [arm_style(arm, arms) for arm in arms]
    handles = [Line2D([], [], color=colour, marker=marker, ms=6, lw=2.4) for colour, marker in styles]
    axes.legend(
        handles, [_short(arm) for arm in arms], loc="lower center", bbox_to_anchor=(0.42, 1.0),
        ncols=2 if len(arms) > 3 else 3,
        borderaxespad=0.2, handlelength=1.6, columnspacing=1.4,
    )  # fmt: skip


def _short(text: str, length: int = 22) -> str:
    """Return a label that fits; a dollar sign is no formula."""
    line = " ".join(clean(text).split())
    return (line if len(line) <= length else line[: length - 1] + "…").replace("$", r"\$")


def _describe_shares(title: str, groups: dict[str, list[tuple[str, Share]]]) -> str:
    rows = (
        f"{value}, {arm}: {percent(share.pass_at_1)} ({percent_range(share.low, share.high)})"
        for value, shares in groups.items()
        for arm, share in shares
    )
    return f"{title}. " + "; ".join(rows) + "."


def _render(name: str, title: str, description: str, height: float, draw: Callable[[Any], None]) -> Chart:
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot: no global state, no window system

    # The salt makes a drawing's ids a function of its name: same run, same bytes, and no two charts share an id.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        vector, pixels = io.StringIO(), io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Glyph .* missing"
            )  # a script that the drawing font does not have
            figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None})
            figure.savefig(pixels, format="png", dpi=144, metadata={"Software": None})
    svg = vector.getvalue()
    return Chart(name, title, description, _inline(svg, name), svg, pixels.getvalue())


def _inline(svg: str, name: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<title>.*?</title>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true" focusable="false"', body, count=1)
    body = re.sub(r"font: (\d+(?:\.\d+)?px) [^;\"]*", r"font-size: \1", body)
    body = body.replace("fill: #ffffff", "fill: none").replace("<style", "<style data-of-chart")
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return body
