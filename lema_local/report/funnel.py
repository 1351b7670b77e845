"""The way from questions to training examples: how many there were at each step, and why the next has fewer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lema_local.corrections import CHECKS
from lema_local.records import Correction, Rationale, ReasoningPath
from lema_local.report.data import FunnelStep, Loss, SampleCounts, TeacherLine, TrainedArm
from lema_local.report.files import RunReader

REASONS_SHOWN = 12
PATHS = "1_sample/paths.jsonl"
CORRECTIONS = "2_correct/corrections.jsonl"
RATIONALES = "3_augment/rationales.jsonl"
ACCEPTED = "4_filter/accepted.jsonl"
REJECTED = "4_filter/rejected.jsonl"

VERDICT_WORDS = {
    "correct": "the final answer is right: no mistake",
    "no_answer": "no final answer found",
    "truncated": "cut at the token limit before a final answer",
    "undecided": "no verdict could be reached",
}

PathKey = tuple[str, str, int]
CorrectionKey = tuple[str, str, int, str, int]


@dataclass(slots=True)
class PathTally:
    """What the paths' file holds."""

    samples: Counter[str] = field(default_factory=Counter)
    distinct: Counter[str] = field(default_factory=Counter)
    mistakes: set[PathKey] = field(default_factory=set)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    students: Counter[str] = field(default_factory=Counter)

    def add(self, path: ReasoningPath) -> None:
        """Count one path."""
        self.samples[path.verdict] += path.count
        self.distinct[path.verdict] += 1
        self.students[path.student] += 1
        self.prompt_tokens += (path.prompt_tokens or 0) * path.count
        self.completion_tokens += (path.completion_tokens or 0) * path.count
        if path.verdict == "wrong":
            self.mistakes.add((path.question_id, path.student, path.sample_index))

    def counts(self) -> SampleCounts:
        """Return the counts that the report shows."""
        return SampleCounts(
            samples=self.samples.total(),
            distinct=self.distinct.total(),
            by_verdict=dict(self.samples),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            students=list(self.students),
        )


@dataclass(slots=True)
class CorrectionTally:
    """What the teacher's and the filter's files hold."""

    asked: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    cost_usd: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    teacher_of: dict[CorrectionKey, tuple[str, str | None]] = field(default_factory=dict)
    lost: dict[CorrectionKey, str] = field(default_factory=dict)
    accepted: set[CorrectionKey] = field(default_factory=set)
    checks: dict[str, list[int]] = field(default_factory=dict)
    named: dict[CorrectionKey, tuple[str, int]] = field(default_factory=dict)
    """Teacher and the step that it named, of those that a step was named in."""
    students: Counter[str] = field(default_factory=Counter)

    def add_reply(self, correction: Correction) -> None:
        """Count one record of the teacher's file."""
        key, teacher = _key(correction), (correction.teacher, correction.teacher_reported)
        self.asked[teacher] += 1
        self.students[correction.student] += 1
        self.cost_usd[teacher] += correction.cost_usd  # type: ignore[assignment]  # a Counter of dollars
        self.teacher_of[key] = teacher
        if correction.incorrect_step is not None:
            self.named[key] = correction.teacher, correction.incorrect_step
        if correction.verdict == "accepted":
            self.accepted.add(key)
        else:
            self.lost[key] = _reason(correction)

    def add_verdict(self, correction: Correction) -> None:
        """Count what the filter said of a correction; it overrules what the parser said."""
        key = _key(correction)
        if correction.verdict == "accepted":
            self.accepted.add(key)
            self.lost.pop(key, None)
        else:
            self.accepted.discard(key)
            self.lost[key] = _reason(correction)
        for name, has_passed in correction.checks.items():
            tally = self.checks.setdefault(name, [0, 0])
            tally[0] += has_passed
            tally[1] += 1

    @property
    def named_steps(self) -> dict[str, list[int]]:
        """Return by teacher the steps (1-based) that the accepted corrections named."""
        found: dict[str, list[int]] = {}
        for key, (teacher, step) in self.named.items():
            if key in self.accepted:
                found.setdefault(teacher, []).append(step)
        return found

    def teachers(self) -> list[TeacherLine]:
        """Return what each teacher wrote."""
        accepted = Counter(self.teacher_of[key] for key in self.accepted if key in self.teacher_of)
        return [
            TeacherLine(asked, reported, count, accepted[asked, reported], self.cost_usd[asked, reported])
            for (asked, reported), count in self.asked.items()
        ]


def _key(correction: Correction) -> CorrectionKey:
    one = correction
    return one.question_id, one.student, one.sample_index, one.teacher, one.attempt


def _reason(correction: Correction | Rationale) -> str:
    return f"{correction.verdict}: {correction.reason or 'no reason given'}"


def tally_paths(reader: RunReader) -> PathTally:
    """Read the paths."""
    tally = PathTally()
    for path in reader.read(PATHS, ReasoningPath):
        tally.add(path)
    return tally


def tally_corrections(reader: RunReader) -> CorrectionTally:
    """Read the corrections, then what the filter made of them."""
    tally = CorrectionTally()
    for correction in reader.read(CORRECTIONS, Correction):
        tally.add_reply(correction)
    has_filter = reader.find(ACCEPTED) is not None
    if has_filter:
        tally.accepted.clear()
    for name in (ACCEPTED, REJECTED):
        for correction in reader.read(name, Correction):
            tally.add_verdict(correction)
    return tally


def count_rationales(reader: RunReader) -> FunnelStep | None:
    """Count the teacher's further rationales; None where there are none."""
    verdicts, lost = Counter[str](), Counter[str]()
    for rationale in reader.read(RATIONALES, Rationale):
        verdicts[rationale.verdict] += 1
        if rationale.verdict != "accepted":
            lost[_reason(rationale)] += 1
    if not verdicts:
        return None
    return FunnelStep(
        "rationales asked for", verdicts.total(), group_reasons(lost), f"{verdicts['accepted']:,} kept"
    )


def build_funnel(
    train_questions: int, paths: PathTally, corrections: CorrectionTally, taught: TrainedArm | None
) -> list[FunnelStep]:
    """Return the steps from training questions to the examples that were trained on, as far as the run has come."""
    steps = [FunnelStep("training questions", train_questions)] if train_questions else []
    if paths.samples:
        steps += _path_steps(paths, corrections)
    if corrections.asked or corrections.accepted or corrections.lost:
        steps += _correction_steps(corrections, taught)
    if taught is not None:
        steps += _training_steps(taught)
    return steps


def _path_steps(paths: PathTally, corrections: CorrectionTally) -> list[FunnelStep]:
    wrong, distinct = paths.samples["wrong"], paths.distinct["wrong"]
    no_mistakes = [Loss(words, paths.samples[verdict]) for verdict, words in VERDICT_WORDS.items()]
    sent = {key[:3] for key in (*corrections.accepted, *corrections.lost)}
    never_sent = len(paths.mistakes - sent) if sent else 0
    others = len(sent - paths.mistakes)
    note = f"and {others:,} sent to the teacher that gave no wrong answer but none at all" if others else None
    return [
        FunnelStep("solutions sampled", paths.samples.total(), _some(no_mistakes)),
        FunnelStep("wrong solutions", wrong, _some([Loss("the same text sampled again", wrong - distinct)])),
        FunnelStep("mistakes", distinct, _some([Loss("not sent to the teacher", never_sent)]), note),
    ]


def _correction_steps(corrections: CorrectionTally, taught: TrainedArm | None) -> list[FunnelStep]:
    lost = group_reasons(Counter(corrections.lost.values()))
    accepted = len(corrections.accepted)
    built = taught.by_source.get("correction", 0) if taught is not None else accepted
    left = [Loss("not built into an example", max(0, accepted - built))]
    asked = accepted + len(corrections.lost)
    mistakes = len({key[:3] for key in (*corrections.accepted, *corrections.lost)})
    note = f"for {mistakes:,} mistakes" if mistakes != asked else None
    return [
        FunnelStep("corrections asked for", asked, lost, note),
        FunnelStep("corrections accepted", accepted, _some(left)),
    ]


def _training_steps(taught: TrainedArm) -> list[FunnelStep]:
    corrections = taught.by_source.get("correction", 0)
    others = [f"{count:,} {kind}" for kind, count in taught.by_source.items() if kind != "correction"]
    note = f"arm {taught.name} holds {' and '.join(others)} examples beside them" if others else None
    return [FunnelStep("correction examples", corrections, (), note)]


def _some(losses: Iterable[Loss]) -> list[Loss]:
    return [loss for loss in losses if loss.count > 0]


def group_reasons(reasons: Counter[str]) -> Sequence[Loss]:
    """Return the reasons, most frequent first; those that differ in numbers and quotations only are one.

    At most 12 are named, the rest is counted.
    """
    grouped: Counter[str] = Counter()
    for reason, count in reasons.items():
        grouped[_general(reason)] += count
    shown = [Loss(reason, count) for reason, count in grouped.most_common(REASONS_SHOWN)]
    rest = grouped.total() - sum(loss.count for loss in shown)
    return [*shown, Loss("other reasons", rest)] if rest else shown


_OTHER_ANSWER = re.compile(r"its final answer .+ is not the gold answer .+")


def _general(reason: str) -> str:
    in_line = _OTHER_ANSWER.sub(CHECKS["final_answer"], " ".join(reason.split()))
    without_quotes = re.sub(r"(['\"`])(?:(?!\1).){1,200}\1", "…", in_line)
    general = re.sub(r"(?<![\w])-?\$?\d[\d,./]*%?", "…", without_quotes)
    return general if len(general) <= 160 else general[:159] + "…"
