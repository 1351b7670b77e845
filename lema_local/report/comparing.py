"""Two runs side by side: what was set otherwise, what came of it, and each arm against itself on the same questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from lema_local.records import Share
from lema_local.report.data import Outcome, PairedRuns, ReportData, RunsCompared
from lema_local.report.stage_lines import walk
from lema_local.report.summary import describe_state, missing_stages, total_cost_usd, total_seconds
from lema_local.report.words import dollars, duration, number

if TYPE_CHECKING:
    from lema_local.statistics import ArmComparison as Comparison

NOT_SET = "not set"


def compare_runs(first: ReportData, second: ReportData, names: tuple[str, str]) -> RunsCompared:
    """Return two runs side by side.

    Args:
        first: One run.
        second: The other one.
        names: What to call them; they differ.
    """
    pairs, notes = _pair_arms(first, second, names)
    if missing_stages(second.stages):
        notes.append(f"{names[1]}: {describe_state(second.stages)}")
    notes += [f"{names[1]}: {problem}" for problem in second.problems]
    return RunsCompared(
        names=names,
        settings=list(_list_settings(first.recipe, second.recipe)),
        shares=list(_list_shares(first, second)),
        pairs=pairs,
        notes=notes,
        counts=list(_list_counts(first, second)),
        teachers=[
            (name, one) for name, data in zip(names, (first, second), strict=True) for one in data.teachers
        ],
    )


def _list_settings(first: str | None, second: str | None) -> Iterator[tuple[str, str, str]]:
    one, other = _read_settings(first), _read_settings(second)
    for name in dict.fromkeys((*one, *other)):
        if one.get(name) != other.get(name):
            yield name, one.get(name, NOT_SET), other.get(name, NOT_SET)


def _read_settings(recipe: str | None) -> dict[str, str]:
    try:
        found = yaml.safe_load(recipe or "")
    except yaml.YAMLError:
        return {}  # told where the run was read
    values: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    return {
        ".".join(path): str(value) for path, value in walk(values) if path and not isinstance(value, Mapping)
    }


def _list_shares(
    first: ReportData, second: ReportData
) -> Iterator[tuple[str, str, Share | None, Share | None]]:
    one, other = (
        {(score.dataset, score.arm): score.share for score in (data.scores.arms if data.scores else ())}
        for data in (first, second)
    )
    for dataset, arm in dict.fromkeys((*one, *other)):
        yield dataset, arm, one.get((dataset, arm)), other.get((dataset, arm))


def _list_counts(first: ReportData, second: ReportData) -> Iterator[tuple[str, str, str]]:
    one, other = ({step.name: step.count for step in data.funnel} for data in (first, second))
    for name in dict.fromkeys((*one, *other)):
        yield name, number(one.get(name)), number(other.get(name))
    yield "dollars paid", *(dollars(total_cost_usd(data.stages)) for data in (first, second))  # type: ignore[misc]
    yield "work time", *(duration(total_seconds(data.stages)) for data in (first, second))  # type: ignore[misc]


# --- the same arm in both runs -----------------------------------------------------------------------------


def _pair_arms(
    first: ReportData, second: ReportData, names: tuple[str, str]
) -> tuple[list[PairedRuns], list[str]]:
    """Compare each arm that both runs have, on the questions that are the same; all tests are judged together."""
    from lema_local.statistics import adjust_together

    found: list[tuple[str, str, Comparison]] = []
    notes = []
    for arm, dataset in first.outcomes:
        if (arm, dataset) not in second.outcomes:
            continue
        one, other = first.outcomes[arm, dataset], second.outcomes[arm, dataset]
        same = [key for key in one if key in other and _is_same(first, second, key)]
        if len(same) < max(len(one), len(other)):
            notes.append(_describe_overlap(arm, dataset, len(same), (len(one), len(other))))
        if same:
            found.append(
                (arm, dataset, _compare(one, other, same, (f"{arm} of {names[0]}", f"{arm} of {names[1]}")))
            )
    adjusted = adjust_together([one for *_, one in found])
    pairs = [_to_pair(arm, dataset, one) for (arm, dataset, _), one in zip(found, adjusted, strict=True)]
    if not pairs and first.outcomes and second.outcomes:
        notes.append("No arm of the two runs answered the same questions: nothing can be paired.")
    return pairs, list(dict.fromkeys(notes))


def _is_same(first: ReportData, second: ReportData, key: str) -> bool:
    mark = first.test_questions.get(key)
    return mark is not None and mark == second.test_questions.get(key)


def _describe_overlap(arm: str, dataset: str, same: int, counts: tuple[int, int]) -> str:
    asked = f"{counts[0]:,} and {counts[1]:,} questions of {dataset}"
    if not same:
        return f"{arm} answered {asked}, none of them the same: not paired."
    return f"{arm} answered {asked}: only the {same:,} that are the same in both are paired."


def _compare(
    one: Mapping[str, Outcome], other: Mapping[str, Outcome], same: Sequence[str], names: tuple[str, str]
) -> Comparison:
    from lema_local.statistics import compare_arms

    return compare_arms(
        [one[key].is_correct for key in same], [other[key].is_correct for key in same], names=names
    )


def _to_pair(arm: str, dataset: str, one: Comparison) -> PairedRuns:
    return PairedRuns(
        dataset=dataset,
        arm=arm,
        first=_share(one.correct_first, one.n),
        second=_share(one.correct_second, one.n),
        difference=one.difference,
        low=one.interval.low,
        high=one.interval.high,
        p_value=one.p_value,
        p_holm=one.p_holm,
        tests=one.tests,
        sentence=one.sentence,
    )


def _share(correct: int, n: int) -> Share:
    from lema_local.statistics import wilson_interval

    interval = wilson_interval(correct, n)
    return Share(n=n, correct=correct, pass_at_1=correct / n, low=interval.low, high=interval.high)
