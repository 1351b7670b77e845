"""The chart of a learning curve: pass@1 by the number of corrections, on a scale of doublings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lema_local.records import Share
from lema_local.report.charts import INK, STYLE, Chart, _legend, _render, arm_style, slug
from lema_local.report.words import percent, percent_range

NUDGE = 0.012
"""Trainings of one size stand side by side: so much of the scale's width apart."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One training."""

    arm: str
    size: int
    seed: int
    share: Share


def draw_learning_curve(dataset: str, points: Sequence[CurvePoint], base: Share | None) -> Chart:
    """Return the chart: each training with its Wilson interval, the mean over the seeds as a line.

    Args:
        dataset: Of the test questions.
        points: At least one.
        base: The student as it was; None: not evaluated.
    """
    import matplotlib

    arms = list(dict.fromkeys(one.arm for one in points))
    title = f"pass@1 on {dataset} by the number of corrections (greedy, 95 % Wilson intervals)"

    def draw(axes: Any) -> None:
        _draw(axes, points, arms, base)

    with matplotlib.rc_context(STYLE):
        return _render(
            f"curve_{slug(dataset)}", title, f"{title}. {_describe(points, arms, base)}.", 3.6, draw
        )


def _draw(axes: Any, points: Sequence[CurvePoint], arms: Sequence[str], base: Share | None) -> None:
    sizes = sorted({one.size for one in points})
    seeds = list(dict.fromkeys(one.seed for one in points))
    spread = max(sizes) / min(sizes) if len(sizes) > 1 else 2.0
    if base is not None:
        axes.axhline(100 * base.pass_at_1, color=arm_style("base", arms)[0], linewidth=1.2, linestyle="--")
        axes.annotate(
            f"base\n{percent(base.pass_at_1)}", (1, 100 * base.pass_at_1), xycoords=("axes fraction", "data"),
            xytext=(4, 0), textcoords="offset points", va="center", fontsize=10, color=INK, parse_math=False,
        )  # fmt: skip
    for number, arm in enumerate(arms):
        colour, marker = arm_style(arm, arms)
        own = [one for one in points if one.arm == arm]
        means = [_mean([one.share.pass_at_1 for one in own if one.size == size]) for size in sizes]
        shown = [(size, 100 * mean) for size, mean in zip(sizes, means, strict=True) if mean is not None]
        axes.plot(*zip(*shown, strict=True), color=colour, linewidth=2.2, marker=marker, markersize=8)
        for one in own:
            place = seeds.index(one.seed) * len(arms) + number - (len(seeds) * len(arms) - 1) / 2
            x = one.size * spread ** (NUDGE * place)
            low, high = 100 * one.share.low, 100 * one.share.high
            axes.plot([x, x], [low, high], color=colour, linewidth=1.0, alpha=0.55)
            axes.plot(
                [x], [100 * one.share.pass_at_1], color=colour, marker=marker, markersize=3.5, alpha=0.7
            )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.margins(x=0.12)
    axes.set_xlabel("accepted corrections (scale of doublings)")
    axes.set_ylabel("pass@1, %")
    axes.grid(axis="y")
    _legend(axes, arms, arms)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _describe(points: Sequence[CurvePoint], arms: Sequence[str], base: Share | None) -> str:
    told = [f"base: {percent(base.pass_at_1)}"] if base is not None else []
    told += [
        f"{one.arm}, {one.size:,} corrections, seed {one.seed}: {percent(one.share.pass_at_1)}"
        f" ({percent_range(one.share.low, one.share.high)})"
        for arm in arms
        for one in points
        if one.arm == arm
    ]
    return "; ".join(told)
