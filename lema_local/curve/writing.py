"""A learning curve on disk: curve.json, curve.md, and a drawing for each dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lema_local.curve.findings import Curve
from lema_local.report.curve_chart import CurvePoint, draw_learning_curve
from lema_local.report.words import percent, percent_range
from lema_local.runs import write_text


def write_curve(curve: Curve, folder: Path) -> None:
    """Write what is known so far."""
    write_text(folder / "curve.json", curve.model_dump_json(indent=2) + "\n")
    datasets = list(dict.fromkeys(one.dataset for one in curve.trainings))
    names = {}
    for dataset in datasets:
        points = [
            CurvePoint(one.arm, one.size, one.seed, one.share)
            for one in curve.trainings
            if one.dataset == dataset
        ]
        chart = draw_learning_curve(dataset, points, curve.base.get(dataset))
        names[dataset] = "curve" if len(datasets) == 1 else chart.name
        write_text(folder / f"{names[dataset]}.svg", chart.svg)
        (folder / f"{names[dataset]}.png").write_bytes(chart.png)
    write_text(folder / "curve.md", "\n".join(describe_in_markdown(curve, names)) + "\n")


def describe_in_markdown(curve: Curve, names: dict[str, str]) -> Iterator[str]:
    """Yield the page's lines; `names` are the drawings' files by dataset, without ending."""
    yield f"# Would more corrections help? The learning curve of {curve.run}"
    yield ""
    yield (
        f"Arms {', '.join(curve.arms)}, trained on nested subsets of the run's {curve.available:,} accepted"
        f" corrections, seeds {', '.join(map(str, curve.seeds))}. Plain rationales are all there in"
        " every training, and `cot` holds the same corrected solutions as plain rationales. Steps:"
        f" {curve.steps_rule}."
    )
    yield ""
    if curve.missing:
        yield f"**Not finished**: {curve.missing} point(s) are still to be trained."
        yield ""
    for dataset in dict.fromkeys(one.dataset for one in curve.trainings):
        yield f"## {dataset}"
        yield ""
        if dataset in names:
            yield f"![pass@1 on {dataset} by the number of corrections]({names[dataset]}.svg)"
            yield ""
        yield from _tables(curve, dataset)
        for trend in curve.trends:
            if trend.dataset == dataset:
                yield f"- {trend.sentence}"
        yield ""
    yield from _limits(curve)


def _tables(curve: Curve, dataset: str) -> Iterator[str]:
    if dataset in curve.base:
        share = curve.base[dataset]
        yield f"The student as it was: {percent(share.pass_at_1)} ({percent_range(share.low, share.high)})."
        yield ""
    yield "| Corrections | Arm | Seed | Examples | Steps | Correct | pass@1 | 95 % interval (Wilson) |"
    yield "| ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |"
    for one in curve.trainings:
        if one.dataset == dataset:
            share = one.share
            yield (
                f"| {one.corrections:,} | {one.arm} | {one.seed} | {one.examples:,} | {one.optimizer_steps:,}"
                f" | {share.correct:,} of {share.n:,} | {percent(share.pass_at_1)}"
                f" | {percent_range(share.low, share.high)} |"
            )
    yield ""
    if len(curve.seeds) > 1:
        yield "| Corrections | Arm | Seeds | Mean pass@1 | Standard deviation | 95 % interval of the mean (t) |"
        yield "| ---: | --- | ---: | ---: | ---: | --- |"
        for mean in curve.means:
            if mean.dataset == dataset:
                known = mean.low is not None and mean.high is not None
                interval = percent_range(mean.low or 0.0, mean.high or 0.0) if known else "-"
                yield (
                    f"| {mean.size:,} | {mean.arm} | {mean.seeds} | {percent(mean.mean)}"
                    f" | {100 * mean.deviation:.1f} points | {interval} |"
                )
        yield ""


def _limits(curve: Curve) -> Iterator[str]:
    yield "## What this does not say"
    yield ""
    steps = {one.optimizer_steps for one in curve.trainings}
    if len(steps) > 1:
        yield (
            f"- Larger sets were trained on for more steps ({min(steps):,} to {max(steps):,}): what the corrections"
            " bring and what the steps bring cannot be told apart."
        )
    elif curve.trainings:
        yield "- All trainings had as many steps: larger sets were passed through fewer times."
    yield "- Nothing beyond the largest set, on other questions, with another teacher or another student."
    yield "- Smaller subsets lie within larger ones: one unlucky draw of a subset is in all of them."
    changed = {one.size for one in curve.trainings if one.corrections != one.size}
    if changed:
        yield (
            f"- Of {', '.join(f'{size:,}' for size in sorted(changed))} some were left out: they share their text with"
            " a test question. The table counts what was trained on."
        )
