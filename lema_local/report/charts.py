"""The report's charts: drawn once by matplotlib, given as an SVG for the page, as an SVG file and as a PNG file.

In the page every colour becomes a CSS variable (`var(--ink)`, `var(--series-1)`), so that one drawing serves light
and dark; the files beside the page keep the light colours on white.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lema_local.records import ArmComparison, ArmScore, Share
from lema_local.report.data import (
    FunnelStep,
    LossCurve,
    PairedRuns,
    ReportData,
    RoundLine,
    RunsCompared,
    WrongAnswers,
)
from lema_local.report.went_wrong import KIND_WORDS
from lema_local.report.words import clean, difference, percent, percent_range, signed

INK, GRID, ACCENT = "#1c2330", "#d5dae1", "#0f766e"
SERIES = {"base": "#5b6472", "base_zero_shot": "#8a6d1d", "cot": "#0b5cad", "lema": "#b0410e"}
OTHERS = ("#7a3fa0", "#0f766e", "#a11d5b", "#4d6b12", "#6b4423", "#35508c")
MARKERS = ("o", "D", "s", "^", "v", "P", "X", "*", "<", "p")
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
        every = data.every_arm
        for dataset in data.datasets:
            charts += _draw_scores(dataset, data.arm_scores(dataset), every)
        if data.comparisons:
            charts.append(_draw_differences(data.comparisons, every))
        for wrong in data.wrong:
            charts += _draw_wrong(wrong, every)
        if data.compared and data.compared.pairs:
            charts.append(_draw_runs(data.compared, every))
        charts += _draw_rounds(data.rounds, every)
        if any(step.count for step in data.funnel):
            charts.append(_draw_funnel(data.funnel))
        if data.curves:
            charts.append(_draw_losses(data.curves, every))
    return {chart.name: chart for chart in charts}


def slug(name: str) -> str:
    """Return a name that is safe in a file's name and in an id."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:60] or "x"


def scores_chart_name(dataset: str, tag: str | None = None) -> str:
    """Return the name of the chart of a dataset's scores, by a tag or for all questions."""
    return f"pass_at_1_{slug(dataset)}" + (f"_by_{slug(tag)}" if tag else "")


def wrong_chart_name(dataset: str, what: str) -> str:
    """Return the name of the chart of a dataset's mistakes: `kinds` or `steps`."""
    return f"wrong_{what}_{slug(dataset)}"


def arm_style(arm: str, every: Sequence[str]) -> tuple[str, str]:
    """Return an arm's colour and marker; it looks the same in every chart of a report.

    Args:
        arm: One of them, or one of another run.
        every: All arms of the report, in their order.
    """
    known = list(dict.fromkeys((*SERIES, *every, arm)))
    position = known.index(arm)
    colours = [*SERIES.values(), *OTHERS]
    return colours[position % len(colours)], MARKERS[position % len(MARKERS)]


# --- the charts ---------------------------------------------------------------------------------------------


def _draw_scores(dataset: str, scores: Sequence[ArmScore], every: Sequence[str]) -> list[Chart]:
    overall = {"all questions": [(score.arm, score.share) for score in scores]}
    title = f"pass@1 on {dataset} (greedy, 95 % Wilson intervals)"
    charts = [_draw_shares(scores_chart_name(dataset), title, overall, every)]
    for tag in dict.fromkeys(tag for score in scores for tag in score.groups):
        charts.append(
            _draw_shares(
                scores_chart_name(dataset, tag), f"{title}, by {tag}", group_shares(scores, tag), every
            )
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


def _draw_shares(
    name: str, title: str, groups: dict[str, list[tuple[str, Share]]], every: Sequence[str]
) -> Chart:
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
                colour, marker = arm_style(arm, every)
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
            _legend(axes, arms, every)

    rows = sum(map(len, shown.values())) + 0.8 * len(shown)
    return _render(
        name,
        title,
        _describe_shares(title, shown),
        0.9 + 0.24 * rows + is_grouped * (0.25 + _legend_height(arms)),
        draw,
    )


def _draw_differences(comparisons: Sequence[ArmComparison], every: Sequence[str]) -> Chart:
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
            _difference(axes, y, one, arm_style(one.second, every))
        axes.set_yticks(range(len(shown)), [label(one) for one in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel("percentage points")
        axes.margins(x=0.2)
        axes.grid(axis="x")

    described = "; ".join(f"{label(one)}: {difference(one.difference)}" for one in shown).replace("\n", ", ")
    return _render("differences", title, f"{title}. {described}.", 0.8 + 0.44 * len(shown), draw)


def _draw_wrong(wrong: WrongAnswers, every: Sequence[str]) -> list[Chart]:
    kinds = list(dict.fromkeys(kind for counts in wrong.kinds.values() for kind in counts))
    by_kind = {
        KIND_WORDS.get(kind, kind): {arm: counts.get(kind, 0) for arm, counts in wrong.kinds.items()}
        for kind in kinds
    }
    steps = next(iter(wrong.positions.values()))
    by_step = {
        f"step {step}": {arm: counts[step] for arm, counts in wrong.positions.items()} for step in steps
    }
    where = f"on {wrong.dataset} ({wrong.classified:,} questions)"
    return [
        _draw_counts(
            wrong_chart_name(wrong.dataset, "kinds"),
            f"Wrong answers {where}, by kind of mistake",
            by_kind,
            every,
        ),
        _draw_counts(
            wrong_chart_name(wrong.dataset, "steps"),
            f"Wrong answers {where}, by first wrong step",
            by_step,
            every,
        ),
    ]


def _draw_counts(
    name: str, title: str, groups: Mapping[str, Mapping[str, int]], every: Sequence[str]
) -> Chart:
    """Draw a bar an arm and group."""
    arms = list(next(iter(groups.values())))
    most = max((count for counts in groups.values() for count in counts.values()), default=0) or 1

    def draw(axes: Any) -> None:
        y, ticks = 0.0, []
        for counts in groups.values():
            ticks.append(y + (len(counts) - 1) / 2)
            for arm, count in counts.items():
                axes.barh(y, count, color=arm_style(arm, every)[0], height=0.78)
                _beside(axes, y, count, f"{count:,}")
                y += 1
            y += 0.8
        axes.set_yticks(ticks, [_wrapped(label) for label in groups])
        axes.set_ylim(y - 0.8 - 0.3, -0.7)
        axes.set_xlim(0, 1.12 * most)
        axes.set_xlabel("wrong answers")
        axes.grid(axis="x")
        _legend(axes, arms, every, has_markers=False)

    described = "; ".join(
        f"{label}: " + ", ".join(f"{arm} {count:,}" for arm, count in counts.items())
        for label, counts in groups.items()
    )
    rows = len(groups) * (len(arms) + 0.8)
    return _render(name, title, f"{title}. {described}.", 1.1 + 0.2 * rows + _legend_height(arms), draw)


def _draw_runs(two: RunsCompared, every: Sequence[str]) -> Chart:
    title = (
        f"pass@1 of {two.names[1]} less {two.names[0]}, same arm, same questions (95 % bootstrap intervals)"
    )
    several = len({one.dataset for one in two.pairs}) > 1

    def draw(axes: Any) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for y, one in enumerate(two.pairs):
            _difference(axes, y, one, arm_style(one.arm, every))
        labels = [_short(one.arm) + (f"\n{_short(one.dataset)}" if several else "") for one in two.pairs]
        axes.set_yticks(range(len(two.pairs)), labels)
        axes.set_ylim(len(two.pairs) - 0.4, -0.6)
        axes.set_xlabel("percentage points")
        axes.margins(x=0.2)
        axes.grid(axis="x")

    described = "; ".join(f"{one.arm} on {one.dataset}: {difference(one.difference)}" for one in two.pairs)
    return _render("runs", title, f"{title}. {described}.", 0.8 + 0.4 * len(two.pairs), draw)


def _draw_rounds(rounds: Sequence[RoundLine], every: Sequence[str]) -> list[Chart]:
    datasets = dict.fromkeys(dataset for one in rounds for _, dataset in one.shares)
    return [_draw_rounds_on(dataset, rounds, every) for dataset in datasets]


def _draw_rounds_on(dataset: str, rounds: Sequence[RoundLine], every: Sequence[str]) -> Chart:
    title = f"pass@1 on {dataset} by round (95 % Wilson intervals)"
    arms = list(dict.fromkeys(arm for one in rounds for arm, other in one.shares if other == dataset))
    points = {
        arm: [(one.number, one.shares[arm, dataset]) for one in rounds if (arm, dataset) in one.shares]
        for arm in arms
    }

    def draw(axes: Any) -> None:
        for position, (arm, found) in enumerate(points.items()):
            colour, marker = arm_style(arm, every)
            # A little beside each other: intervals would hide behind one another.
            x = [number + 0.06 * (position - (len(arms) - 1) / 2) for number, _ in found]
            axes.plot(x, [100 * one.pass_at_1 for _, one in found], color=colour, marker=marker, ms=6, lw=1.4)
            for at, (_, one) in zip(x, found, strict=True):
                axes.plot(
                    [at, at], [100 * one.low, 100 * one.high], color=colour, lw=2.4, solid_capstyle="butt"
                )
        axes.set_xticks([one.number for one in rounds], [f"round {one.number}" for one in rounds])
        axes.margins(x=0.12)
        axes.set_ylabel("pass@1, %")
        axes.grid(axis="y")
        _legend(axes, arms, every)

    described = "; ".join(
        f"{arm}: " + ", ".join(f"round {number} {percent(one.pass_at_1)}" for number, one in found)
        for arm, found in points.items()
    )
    return _render(
        f"rounds_{slug(dataset)}", title, f"{title}. {described}.", 3.0 + _legend_height(arms), draw
    )


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


def _draw_losses(curves: Sequence[LossCurve], every: Sequence[str]) -> Chart:
    title = "Training loss by optimizer step"
    arms = [curve.arm for curve in curves]

    def draw(axes: Any) -> None:
        for curve in curves:
            colour, marker = arm_style(curve.arm, every)
            stride = max(1, len(curve.steps) // 8)
            axes.plot(
                curve.steps, curve.losses, color=colour, linewidth=1.6, marker=marker, markevery=stride, ms=5
            )
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss on the trained tokens")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        _legend(axes, arms, every)

    described = "; ".join(
        f"{one.arm} from {one.losses[0]:.3f} to {one.losses[-1]:.3f} at step {one.steps[-1]:,.0f}"
        for one in curves
    )
    return _render("loss", title, f"{title}: {described}.", 3.2, draw)


# --- drawing ------------------------------------------------------------------------------------------------


def _interval(axes: Any, y: float, middle: float, low: float, high: float, colour: str, marker: str) -> None:
    axes.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt")
    axes.plot([100 * middle], [y], color=colour, marker=marker, markersize=7, linestyle="none")


def _beside(axes: Any, y: float, x: float, text: str, *, is_left: bool = False) -> None:
    axes.annotate(
        text, (x, y), xytext=(-5 if is_left else 5, 0), textcoords="offset points", va="center",
        ha="right" if is_left else "left", fontsize=10, parse_math=False,
    )  # fmt: skip


def _difference(axes: Any, y: float, one: ArmComparison | PairedRuns, style: tuple[str, str]) -> None:
    """Draw a difference with its interval; its number stands on the side away from zero."""
    _interval(axes, y, one.difference, one.low, one.high, *style)
    is_left = one.difference < 0
    _beside(axes, y, 100 * (one.low if is_left else one.high), signed(100 * one.difference), is_left=is_left)


def _percent_axis(axes: Any, label: str) -> None:
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20), [f"{tick} %" for tick in range(0, 101, 20)])
    axes.set_xlabel(label)
    axes.grid(axis="x")


def _legend_height(arms: Sequence[str]) -> float:
    """Return the inches that the rows of a legend take."""
    return 0.24 * math.ceil(len(arms) / (2 if len(arms) > 3 else 3))


def _legend(axes: Any, arms: Sequence[str], every: Sequence[str], *, has_markers: bool = True) -> None:
    from matplotlib.lines import Line2D

    styles = [arm_style(arm, every) for arm in arms]
    handles = [
        Line2D([], [], color=colour, marker=marker, ms=6, lw=2.4)
        if has_markers
        else Line2D([], [], color=colour, lw=7)
        for colour, marker in styles
    ]
    axes.legend(
        handles, [_short(arm) for arm in arms], loc="lower center", bbox_to_anchor=(0.42, 1.0),
        ncols=2 if len(arms) > 3 else 3,
        borderaxespad=0.2, handlelength=1.6, columnspacing=1.4,
    )  # fmt: skip


def _short(text: str, length: int = 22) -> str:
    """Return a label that fits; a dollar sign is no formula."""
    line = " ".join(clean(text).split())
    return (line if len(line) <= length else line[: length - 1] + "…").replace("$", r"\$")


def _wrapped(text: str) -> str:
    """Return a label on as many short lines as it takes."""
    return "\n".join(textwrap.wrap(_short(text, 40), 19))


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
