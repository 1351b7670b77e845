"""What a report says in sentences of its own, derived from the data and never beyond it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lema_local.report.data import Change, ReportData, StageLine, TrainedArm, WrongAnswers
from lema_local.report.stage_lines import walk
from lema_local.report.words import duration, number
from lema_local.steps import number_steps

UNMATCHED: Mapping[str, str] = {
    "cot_unmatched": "it is the setting of the paper's main table, plain rationales without the corrected solutions;"
    " its difference to lema is also one of more examples",
    "preference": "it has pairs alone, without the plain rationales of the other arms; its optimizer steps are as many",
}
"""Arms that are no part of the comparison by construction, and why."""
QUANTITIES: Mapping[str, Callable[[TrainedArm], int | None]] = {
    "examples": lambda arm: arm.examples,
    "optimizer steps": lambda arm: arm.optimizer_steps,
    "examples in a step": lambda arm: arm.batch_size,
    "trained tokens in a pass": lambda arm: arm.trained_tokens,
    "trained tokens over the whole training": lambda arm: arm.tokens_in_training,
    "characters to be learnt": lambda arm: arm.target_characters,
}
"""What two arms may have in common; by default the examples are matched and the tokens are not."""


def describe_matching(arms: Iterable[TrainedArm]) -> list[str]:
    """Say of each quantity whether the arms had the same of it, and how they differ where they had not."""
    every = list(arms)
    known = [arm for arm in every if arm.name not in UNMATCHED]
    if len(known) < 2:
        return []
    found: list[str | None] = []
    for name, take in QUANTITIES.items():
        values = {arm.name: take(arm) for arm in known}
        if name == "characters to be learnt" and all(arm.trained_tokens is not None for arm in known):
            continue  # tokens say the same, better
        found.append(_describe_quantity(name, values))
    found += [f"{arm.name} is not matched: {UNMATCHED[arm.name]}." for arm in every if arm.name in UNMATCHED]
    return [sentence for sentence in found if sentence]


def _describe_quantity(name: str, values: Mapping[str, int | None]) -> str | None:
    counts = {arm: value for arm, value in values.items() if value is not None}
    if len(counts) < len(values):
        return None
    least, most = min(counts.values()), max(counts.values())
    if least == most:
        return (
            f"The same in both arms: {name} ({least:,})."
            if len(counts) == 2
            else f"The same in all {len(counts)}: {name} ({least:,})."
        )
    listed = ", ".join(f"{arm} {value:,}" for arm, value in counts.items())
    more = f"; the largest has {100 * (most / least - 1):.1f} % more than the smallest" if least else ""
    return f"Not the same: {name} ({listed}{more})."


def missing_stages(stages: Sequence[StageLine]) -> list[StageLine]:
    """Return the stages that a whole run has and this one has not.

    A run without augmentation is whole, and so is one whose corrections were made elsewhere, without sampling.
    """
    takes = any(one.name == "2_correct" and one.manifest and "taken" in one.manifest.counts for one in stages)
    needless = {"3_augment", *(["1_sample"] if takes else [])}
    return [
        line
        for line in stages
        if "/" not in line.name
        and line.state != "finished"
        and (line.name not in needless or line.state in ("unfinished", "damaged"))
    ]


def describe_state(stages: Sequence[StageLine]) -> str:
    """Say in one sentence how far a run has come."""
    missing = missing_stages(stages)
    if not missing:
        return "This run is finished."
    words = ", ".join(f"{line.name} ({line.state})" for line in missing)
    return f"This run is not finished; the report shows what is there. Missing: {words}."


def total_seconds(stages: Sequence[StageLine]) -> float:
    """Return the work time of all stages; a finished stage's own line holds that of its parts (arms) already."""
    whole = {line.name for line in stages if line.manifest and line.state == "finished"}
    return sum(
        line.manifest.seconds
        for line in stages
        if line.manifest and line.name.rpartition("/")[0] not in whole
    )


def total_cost_usd(stages: Sequence[StageLine]) -> float:
    """Return the dollars that a run paid."""
    return sum(line.manifest.cost_usd for line in stages if line.manifest)


def describe_change(one: Change) -> str:
    """Say how many mistakes an arm mended and how many it made anew."""
    where = f"{one.questions:,} questions of {one.dataset}"
    return (
        f"Of {where}, {one.arm} answers {one.mended:,} rightly that {one.base} got wrong, and gets {one.new:,} wrong"
        f" that {one.base} had right."
    )


def describe_classified(wrong: WrongAnswers) -> str:
    """Say what the kinds of mistakes rest on, and how far they reach."""
    chosen = (
        f"All {wrong.questions:,} questions that somebody answered wrongly were read."
        if wrong.classified == wrong.questions
        else f"{wrong.classified:,} of the {wrong.questions:,} questions that somebody answered wrongly were read,"
        " chosen by chance."
    )
    without = wrong.classified - wrong.with_rationale
    told = (
        f" {without:,} of them have no gold rationale or no number for an answer: there only false arithmetic is told."
        if without
        else ""
    )
    return (
        f"{chosen}{told} The first wrong step and its kind are found by a program that holds the answer's arithmetic"
        " against the gold rationale; it misreads some, so take them as a guide. What was mended and what is new is"
        " exact."
    )


def describe_tokens(data: ReportData, line: StageLine) -> str:
    """Return the tokens that a stage read and wrote, or trained on; empty where it says nothing of them."""
    counts = line.manifest.counts if line.manifest else {}
    if line.name == "1_sample" and data.samples.completion_tokens:
        return _read_and_written(data.samples.prompt_tokens, data.samples.completion_tokens, line)
    if "completion_tokens" in counts:
        return _read_and_written(counts.get("prompt_tokens"), counts["completion_tokens"], line)
    if "trained_tokens" in counts:
        return f"{number(counts['trained_tokens'])} trained"
    return ""


def _read_and_written(read: object, written: object, line: StageLine) -> str:
    seconds = line.manifest.seconds if line.manifest else 0.0
    rate = f" ({written / seconds:,.0f} a second)" if isinstance(written, int | float) and seconds else ""
    return f"{number(read)} read, {number(written)} written{rate}"


def describe_time(line: StageLine) -> str:
    """Return a stage's work time so far; empty where there is none."""
    return duration(line.manifest.seconds) if line.manifest and line.manifest.seconds else ""


def flatten(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, value) of everything that is no mapping, long values cut."""
    for path, value in walk(values):
        if path and not isinstance(value, Mapping):
            text = number(value) if isinstance(value, int | float) else str(value)
            yield ".".join(path), text if len(text) <= 200 else text[:199] + "…"


def numbered(steps: Sequence[str]) -> str:
    """Return a solution's steps, numbered, one a line."""
    return number_steps([" ".join(step.split()) for step in steps])
