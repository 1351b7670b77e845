"""Correct, augment and evolve with several teachers: who gets which mistake, and what a fallback spared.

Reads   mistakes, questions
Writes  corrections, rationales; as `correct.py` and `augment.py` with one teacher
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lema_local.errors import InputError
from lema_local.records import Correction, EvolvedQuestion, Question, Rationale, ReasoningPath
from lema_local.resuming import ResumedFile
from lema_local.stages.augment import SAME_EQUATIONS, AugmentSettings, augment_rationales
from lema_local.stages.correct import (
    CorrectSettings,
    Mistake,
    build_locating_request,
    build_request,
    correct_mistakes,
    describe_asking,
    path_key,
)
from lema_local.stages.evolve import Draw, EvolveSettings, evolve_questions
from lema_local.teachers import MistakePrompt, prompt_for
from lema_local.teachers.asking import QuestionPrompt
from lema_local.teachers.journal import request_key
from lema_local.teachers.settings import TeacherSettings
from lema_local.teachers.team import Member, Team, choose_member


def correct_with_team(
    mistakes: Iterable[Mistake], team: Team, prompt: MistakePrompt, settings: CorrectSettings
) -> Iterator[Correction]:
    """Yield one correction per mistake; each mistake goes to one teacher, and to the fallback where that one failed.

    One teacher after the other; a mistake that goes to the fallback has its correction at the end.

    Raises:
        BudgetReached: Corrections already yielded stay valid; replies of the others stand in the journal.
        BackendError: If a teacher does not answer any more; likewise.
    """
    left: list[Mistake] = []
    for member, mine in _share_out(mistakes, team):
        with team.desk(member) as desk:
            asked = prompt_for(desk, prompt)
            by_key = {} if team.fallback is None else {path_key(mistake[1]): mistake for mistake in mine}
            for correction in correct_mistakes(mine, desk, asked, settings, member.settings):
                if team.fallback is None or correction.verdict == "accepted":
                    yield correction
                else:
                    left.append(by_key[path_key(correction)])
    if left and team.fallback is not None:
        with team.desk(team.fallback) as desk:
            asked = prompt_for(desk, prompt)
            for correction in correct_mistakes(left, desk, asked, settings, team.fallback.settings):
                yield correction.model_copy(update={"asked": {**correction.asked, "is_fallback": True}})


def _share_out(mistakes: Iterable[Mistake], team: Team) -> Iterator[tuple[Member, Iterable[Mistake]]]:
    """Yield each teacher that gets mistakes with those; a single one without a fallback gets them as they come."""
    if len(team.members) == 1 and team.fallback is None:
        yield team.members[0], mistakes
        return
    shares = share_mistakes(mistakes, [member.settings for member in team.members])
    yield from ((member, mine) for member, mine in zip(team.members, shares, strict=True) if mine)


def share_mistakes(mistakes: Iterable[Mistake], teachers: Sequence[TeacherSettings]) -> list[list[Mistake]]:
    """Return the mistakes of each teacher, by weight."""
    shares: list[list[Mistake]] = [[] for _ in teachers]
    for mistake in mistakes:
        shares[_choose(mistake[1], teachers)].append(mistake)
    return shares


def share_questions(
    questions: Iterable[Question], teachers: Sequence[TeacherSettings]
) -> list[list[Question]]:
    """Return the questions of each teacher, by weight."""
    shares: list[list[Question]] = [[] for _ in teachers]
    for question in questions:
        shares[choose_member(question.id, [one.weight for one in teachers])].append(question)
    return shares


def _choose(path: ReasoningPath, teachers: Sequence[TeacherSettings]) -> int:
    return choose_member("/".join(map(str, path_key(path))), [one.weight for one in teachers])


def is_made_so(
    correction: Correction, mistake: Mistake, team: Team, prompt: MistakePrompt, settings: CorrectSettings
) -> bool:
    """Return whether a correction answers the very request that would be sent for this mistake today."""
    is_fallback = bool(correction.asked.get("is_fallback"))
    member = (
        team.fallback
        if is_fallback
        else team.members[_choose(mistake[1], [one.settings for one in team.members])]
    )
    if member is None or correction.reply_key is None:
        return False
    asked = {
        k: v for k, v in correction.asked.items() if k not in {"located_step", "locating_key", "is_fallback"}
    }
    if asked != describe_asking(member.teacher, settings):
        return False
    told = prompt_for(member.teacher, prompt)
    if asked.get("locates_first") and "located_step" not in correction.asked:
        request = build_locating_request(*mistake, told, settings, correction.attempt, member.settings)
    else:
        how = correction.asked
        request = build_request(*mistake, told, settings, correction.attempt, member.settings, how)
    key = request_key(member.teacher.name, member.teacher.identity, request)
    return correction.reply_key.partition(".")[0] == key


def augment_with_team(
    questions: Sequence[Question], team: Team, prompt: QuestionPrompt, settings: AugmentSettings
) -> Iterator[Rationale]:
    """Yield rationales; each question goes to one teacher, and to the fallback for those that one failed on.

    A right rationale with equations that are known already is no failure: another teacher would write it, too.
    Teachers that read the gold rationale are left out.

    Raises:
        InputError: If all of them do: they have no other rationale to give.
        BudgetReached: Rationales already yielded stay valid.
        BackendError: If a teacher does not answer any more; likewise.
    """
    members = [one for one in team.members if not one.teacher.reads_gold] or team.members[:1]
    asked = questions[: settings.limit]
    fallback = team.fallback if team.fallback and not team.fallback.teacher.reads_gold else None
    earlier: dict[str, list[Rationale]] = {}
    for member, mine in zip(members, share_questions(asked, [one.settings for one in members]), strict=True):
        if mine:
            with team.desk(member) as desk:
                made = augment_rationales(mine, desk, prompt, settings, member.settings)
                yield from made if fallback is None else _set_aside(made, earlier)
    left = [
        question for question in asked if len(earlier.get(question.id, ())) < settings.rationales_per_question
    ]
    if left and fallback is not None:
        with team.desk(fallback) as desk:
            for one in augment_rationales(left, desk, prompt, settings, fallback.settings, earlier):
                yield one.model_copy(update={"is_fallback": True})


def _set_aside(rationales: Iterable[Rationale], earlier: dict[str, list[Rationale]]) -> Iterator[Rationale]:
    """Yield the rationales that stand, and note them by their question; the others are for the fallback."""
    for question_id, its in groupby(rationales, key=lambda one: one.question_id):
        earlier[question_id] = [
            one for one in its if one.verdict == "accepted" or one.reason == SAME_EQUATIONS
        ]
        yield from earlier[question_id]


def evolve_with_team(
    draws: Sequence[Draw],
    team: Team,
    prompt: QuestionPrompt,
    answer_prompt: QuestionPrompt,
    settings: EvolveSettings,
) -> Iterator[EvolvedQuestion]:
    """Yield a new question for each draw; each draw goes to one teacher, and to the fallback where that one failed.

    Raises:
        BudgetReached: Questions already yielded stay valid; replies of the others stand in the journal.
        BackendError: If a teacher does not answer any more; likewise.
    """
    weights = [one.settings.weight for one in team.members]
    left: list[Draw] = []
    for index, member in enumerate(team.members):
        mine = {one.id: one for one in draws if choose_member(one.id, weights) == index}
        if not mine:
            continue
        with team.desk(member) as desk:
            made = evolve_questions(
                list(mine.values()), desk, prompt, answer_prompt, settings, member.settings
            )
            for one in made:
                if team.fallback is None or one.verdict == "accepted":
                    yield one
                else:
                    left.append(mine[one.id])
    if left and team.fallback is not None:
        with team.desk(team.fallback) as desk:
            yield from evolve_questions(left, desk, prompt, answer_prompt, settings, team.fallback.settings)


def evolve_into_file(
    path: Path,
    draws: Sequence[Draw],
    team: Team,
    prompts: tuple[QuestionPrompt, QuestionPrompt],
    settings: EvolveSettings,
    judge: Callable[[list[EvolvedQuestion]], list[EvolvedQuestion]],
    *,
    on_progress: Callable[[int], None] = lambda done: None,
    is_fresh: bool = False,
) -> list[EvolvedQuestion]:
    """Write a record for each draw to `path`, and return them; an earlier go's records there are not made again.

    Args:
        path: The file to write.
        draws: All of them, also those that an earlier go did.
        team: Who is asked.
        prompts: For a new question, and for its answers.
        settings: How.
        judge: Rejects those that copy something, once all are there.
        on_progress: Told how many are done.
        is_fresh: Put aside what stands from earlier goes.

    Raises:
        InputError: If the file holds questions by another teacher.
        LemaError: As `evolve_with_team`; what was written is kept.
    """
    names = {member.teacher.name for member in [*team.members, *filter(None, [team.fallback])]}
    with ResumedFile(path, EvolvedQuestion, is_fresh=is_fresh) as file:
        if other := next((one.teacher for one in file.sample_kept() if one.teacher not in names), None):
            raise InputError(
                f"{path} holds questions that were made by {other}",
                hint="choose another --out, or --fresh to make them anew",
            )
        order = [one.id for one in draws]
        left = [one for one in draws if one.id not in file.kept]
        on_progress(len(order) - len(left))
        for done, one in enumerate(
            evolve_with_team(left, team, *prompts, settings), len(order) - len(left) + 1
        ):
            file.append(one)
            on_progress(done)
        return file.finish(order, judge)


@dataclass(frozen=True, slots=True)
class FallbackAccount:
    """What a fallback did, and what it spared not to ask it about everything."""

    teacher: str
    asked: int
    """Mistakes that it was asked about, or rationales that it was asked for."""
    accepted: int
    """Of those."""
    cost_usd: float
    spared: int
    """That it was not asked: the others had done it."""
    spared_usd: float | None
    """About what these would have cost, at its mean in this run; None where it was never asked."""
    others_cost_usd: float
    noun: str
    """`mistake` or `rationale`."""

    def describe(self) -> str:
        """Return it in words."""
        told = (
            f"- (it was never asked, so its cost per {self.noun} is not known)"
            if self.spared_usd is None
            else f"about ${self.spared_usd:.4f}"
        )
        did = ("about", "corrected") if self.noun == "mistake" else ("for", "wrote")
        return (
            f"{self.teacher} was asked {did[0]} {self.asked} {self.noun}s ({self.accepted} accepted, "
            f"${self.cost_usd:.4f}); {self.spared} that others {did[1]} (${self.others_cost_usd:.4f}) were spared it: "
            f"saved {told}"
        )


def account_for_fallback(records: Iterable[Correction | Rationale], team: Team) -> FallbackAccount | None:
    """Return what the fallback did and spared; None where the team has none."""
    if team.fallback is None:
        return None
    every = list(records)
    its = [one for one in every if _is_by_fallback(one)]
    others = [one for one in every if not _is_by_fallback(one)]
    spent = sum(one.cost_usd for one in its)
    return FallbackAccount(
        teacher=team.fallback.teacher.name,
        asked=len(its),
        accepted=sum(one.verdict == "accepted" for one in its),
        cost_usd=spent,
        spared=len(others),
        spared_usd=spent / len(its) * len(others) if its else None,
        others_cost_usd=sum(one.cost_usd for one in others),
        noun="rationale" if any(isinstance(one, Rationale) for one in every) else "mistake",
    )


def _is_by_fallback(record: Correction | Rationale) -> bool:
    return record.is_fallback if isinstance(record, Rationale) else bool(record.asked.get("is_fallback"))


def count_by_teacher(
    records: Iterable[Correction | EvolvedQuestion | Rationale],
) -> dict[str, dict[str, Any]]:
    """Return accepted, rejected, failed and dollars by teacher."""
    table: dict[str, dict[str, Any]] = {}
    for one in records:
        row = table.setdefault(one.teacher, {"accepted": 0, "rejected": 0, "failed": 0, "cost_usd": 0.0})
        row[one.verdict] += 1
        row["cost_usd"] = round(row["cost_usd"] + one.cost_usd, 6)
    return table
