"""Compare teachers on one frozen sample of mistakes: which one should correct, before the money is spent.

Reads   cases              mistakes of one's own, or solutions whose first wrong step a person has marked
Writes  a score per teacher, and how often teachers name the same step

A figure that the data cannot give is None, with the reason beside it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from lema_local.arithmetic import NotArithmetic, evaluate
from lema_local.corrections import (
    UnparseableReply,
    judge_correction,
    list_steps,
    parse_reply,
    read_named_step,
)
from lema_local.datasets.labelled import LabelledMistake
from lema_local.errors import LemaError
from lema_local.records import Question
from lema_local.stages.correct import (
    CorrectSettings,
    Mistake,
    describe_asking,
    request_correction,
)
from lema_local.statistics import wilson_interval
from lema_local.teachers import MistakePrompt
from lema_local.teachers.base import Answered, Desk, Failed
from lema_local.teachers.settings import AS_THE_STAGE_SAYS, TeacherSettings

T = TypeVar("T")
_NUMBER = re.compile(r"\d+")
UNREAD = 0
"""Stands for a reply that says nothing of steps; no step has this number."""


@dataclass(frozen=True, slots=True)
class Case:
    """One solution to be corrected."""

    question: Question
    """Its gold answer is empty where none is known."""
    steps: Sequence[str]
    is_labelled: bool = False
    label: int | None = None
    """1-based first wrong step as a person marked it; None where all are right."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a teacher made of one case."""

    named: int | None
    """1-based; None: no step is incorrect; `UNREAD`: it says nothing of steps, or gave no reply."""
    is_accepted: bool
    reason: str | None
    cost_usd: float
    latency_s: float
    is_answered: bool


@dataclass(frozen=True, slots=True)
class Rate:
    """Some of how many, with the 95 % Wilson interval; None in all where it cannot be computed."""

    hits: int | None
    n: int
    share: float | None
    low: float | None
    high: float | None
    why_not: str | None = None

    @classmethod
    def of(cls, hits: int, n: int, why_not: str) -> Rate:
        """Return a rate; where nothing was counted, the reason why there is none."""
        if n == 0:
            return cls(None, 0, None, None, None, why_not)
        low, high = wilson_interval(hits, n)
        return cls(hits, n, hits / n, low, high)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, or the reason why there is none."""

    value: float | None
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class TeacherScore:
    """What a teacher earned on the sample."""

    teacher: str
    cases: int
    failed: int
    """Cases without a reply."""
    accepted: Rate
    """Corrections of wrong solutions that the final-answer rule keeps."""
    on_wrong: Rate
    """Wrong solutions whose first wrong step it named."""
    on_right: Rate
    """Right solutions of which it said that no step is incorrect."""
    harmonic_mean: Figure
    """Of the two, as ProcessBench defines its F1 (arXiv 2412.06559, section 3.3)."""
    cost_usd: float
    usd_per_kept: Figure
    seconds: float
    """Latencies of the replies, summed: as if one came after the other."""
    seconds_per_kept: Figure
    reasons: dict[str, int]
    """Why corrections were not kept, without the answers in the words; the commonest first."""
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two teachers name the same step (or both none)."""

    one: str
    other: str
    same_step: Rate
    both_accepted: int
    only_one_accepted: int
    only_other_accepted: int


def cases_of_mistakes(mistakes: Iterable[Mistake]) -> list[Case]:
    """Return one's own mistakes as cases; nobody has marked their steps."""
    return [Case(question, list_steps(path)) for question, path in mistakes]


def cases_of_labelled(labelled: Iterable[LabelledMistake]) -> list[Case]:
    """Return labelled solutions as cases; the gold answer of a bare expression is what it evaluates to."""
    return [
        Case(
            Question(
                id=one.id,
                dataset=one.dataset,
                split="test",
                question=one.question,
                gold_answer=_find_gold(one),
            ),
            one.steps,
            is_labelled=True,
            label=one.incorrect_step,
        )
        for one in labelled
    ]


def _find_gold(one: LabelledMistake) -> str:
    try:
        return str(evaluate(one.question.strip().rstrip("= ")))
    except NotArithmetic:
        return one.gold_answer or ""


def draw_sample(items: Sequence[T], limit: int | None, name: Callable[[T], str], seed: int = 0) -> list[T]:
    """Return at most `limit` of the items, chosen by a hash of their names: the same ones for every teacher."""
    if limit is None or limit >= len(items):
        return list(items)
    drawn = sorted(
        range(len(items)), key=lambda i: hashlib.sha256(f"{seed}/{name(items[i])}".encode()).digest()
    )
    return [items[index] for index in sorted(drawn[:limit])]


def name_sample(cases: Sequence[Case]) -> str:
    """Return a short hash of what is asked about: two benches with the same one are comparable."""
    content = "\n".join(f"{case.question.id}\n{case.question.question}\n{list(case.steps)}" for case in cases)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def bench_teacher(
    cases: Sequence[Case],
    desk: Desk,
    prompt: MistakePrompt,
    settings: CorrectSettings,
    teacher: TeacherSettings = AS_THE_STAGE_SAYS,
    on_done: Callable[[int], None] = lambda done: None,
) -> list[Finding]:
    """Return what a teacher makes of each case, in their order.

    Raises:
        BudgetReached: Replies stand in the journal.
        BackendError: If the teacher does not answer any more.
    """
    asked = describe_asking(desk, settings.model_copy(update={"locates_first": False}))
    requests = (
        (index, request_correction(case.question, case.steps, prompt, settings, 0, teacher, asked))
        for index, case in enumerate(cases)
    )
    found: dict[int, Finding] = {}
    for index, outcome in desk.ask_many(requests):
        found[index] = _read(cases[index], outcome)
        on_done(len(found))
    return [found[index] for index in range(len(cases))]


def _read(case: Case, outcome: Answered | Failed) -> Finding:
    if isinstance(outcome, Failed):
        return Finding(UNREAD, False, outcome.reason, 0.0, 0.0, is_answered=False)
    reply = outcome.reply
    try:
        named = read_named_step(reply.text)
    except UnparseableReply:
        named = UNREAD
    accepted, reason = _judge(case, reply.text)
    return Finding(named, accepted, reason, reply.cost_usd, reply.latency_s, is_answered=True)


def _judge(case: Case, text: str) -> tuple[bool, str | None]:
    try:
        parsed = parse_reply(text, case.steps)
        judgement = judge_correction(parsed, case.question, case.steps)
    except UnparseableReply as err:
        return False, err.reason
    except LemaError as err:  # the gold answer cannot be read
        return False, str(err)
    return judgement.verdict == "accepted", judgement.reason


def score_teacher(
    name: str, cases: Sequence[Case], findings: Sequence[Finding], *, reads_gold: bool
) -> TeacherScore:
    """Return what a teacher earned; see `TeacherScore`."""
    pairs = list(zip(cases, findings, strict=True))
    judged = [found for case, found in pairs if case.question.gold_answer and not _is_right(case)]
    kept = sum(found.is_accepted for found in judged)
    wrong = [(case, found) for case, found in pairs if case.is_labelled and case.label is not None]
    right = [found for case, found in pairs if _is_right(case)]
    why_none = "no solution is labelled" if not any(case.is_labelled for case in cases) else None
    on_wrong = Rate.of(
        sum(found.named == case.label for case, found in wrong), len(wrong), why_none or "no wrong solution"
    )
    on_right = Rate.of(
        sum(found.named is None for found in right), len(right), why_none or "no right solution in the sample"
    )
    cost = sum(found.cost_usd for found in findings)
    seconds = sum(found.latency_s for found in findings)
    why_no_yield = (
        "no gold answers" if not any(case.question.gold_answer for case in cases) else "no mistakes"
    )
    why_not_kept = why_no_yield if not judged else "none was kept"
    lacks_gold = reads_gold and not all(case.question.gold_rationale for case in cases)
    return TeacherScore(
        teacher=name,
        cases=len(cases),
        failed=sum(not found.is_answered for found in findings),
        accepted=Rate.of(kept, len(judged), why_no_yield),
        on_wrong=on_wrong,
        on_right=on_right,
        harmonic_mean=_mean(on_wrong, on_right),
        cost_usd=cost,
        usd_per_kept=Figure(cost / kept) if kept else Figure(None, why_not_kept),
        seconds=seconds,
        seconds_per_kept=Figure(seconds / kept) if kept else Figure(None, why_not_kept),
        reasons=dict(Counter(_shorten(found.reason) for found in judged if found.reason).most_common()),
        note="no gold rationale for some: there it sees slips of arithmetic only" if lacks_gold else None,
    )


def _shorten(reason: str) -> str:
    if "is not the gold answer" in reason:
        return "its final answer is not the gold answer"
    return _NUMBER.sub("N", reason)


def _is_right(case: Case) -> bool:
    return case.is_labelled and case.label is None


def _mean(on_wrong: Rate, on_right: Rate) -> Figure:
    if on_wrong.share is None or on_right.share is None:
        return Figure(None, on_wrong.why_not or on_right.why_not)
    total = on_wrong.share + on_right.share
    return Figure(2 * on_wrong.share * on_right.share / total if total else 0.0)


def compare_findings(findings: Mapping[str, Sequence[Finding]]) -> list[Agreement]:
    """Return the agreement of each two teachers; cases that one of them gave no reply to are left out."""
    found = []
    for one, other in combinations(findings, 2):
        pairs = [
            pair
            for pair in zip(findings[one], findings[other], strict=True)
            if all(x.is_answered for x in pair)
        ]
        same = sum(a.named == b.named != UNREAD for a, b in pairs)
        found.append(
            Agreement(
                one,
                other,
                Rate.of(same, len(pairs), "no case was answered by both"),
                both_accepted=sum(a.is_accepted and b.is_accepted for a, b in pairs),
                only_one_accepted=sum(a.is_accepted and not b.is_accepted for a, b in pairs),
                only_other_accepted=sum(b.is_accepted and not a.is_accepted for a, b in pairs),
            )
        )
    return found
