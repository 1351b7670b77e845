"""What each teacher will be asked in a run, and what that costs and takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from lema_local.errors import LemaError
from lema_local.planning.amounts import Amount
from lema_local.planning.mistakes import Found, find_mistakes
from lema_local.prompts import CotPrompt, format_correction, load_correction_prompt, load_cot_prompt
from lema_local.recipe import Recipe
from lema_local.records import Question, ReasoningPath
from lema_local.stages.correct import (
    Mistake,
    build_locating_request,
    build_request,
    describe_asking,
    path_key,
)
from lema_local.steps import number_steps, split_steps
from lema_local.teachers import prompt_for
from lema_local.teachers.base import TeacherRequest
from lema_local.teachers.journal import Journal, request_key
from lema_local.teachers.journal_views import list_replies
from lema_local.teachers.prices import Price, most_prompt_tokens
from lema_local.teachers.settings import TeacherSettings
from lema_local.teachers.team import Member, choose_member, open_member

CHARACTERS_PER_TOKEN = 4.0
"""Of English text, about; for what no reply in the journal tells better."""
_LOOKED_AT = 200
"""Replies of the journal, and rendered prompts, that an estimate rests on."""
_STAND_IN = ["A step of a solution with one computation in it, 12 * 3 = 36."] * 4


@dataclass(frozen=True, slots=True)
class TeacherPlan:
    """What one teacher will be asked in one stage."""

    stage: str
    teacher: str
    calls: Amount
    from_journal: int | None
    """Of the first calls, those whose reply stands there already; None where it is not known what will be asked."""
    prompt_tokens: float
    """Of a call, about."""
    reply_tokens: float
    """Of a call, about."""
    usd: Amount | None
    batch_usd: Amount | None
    """In the provider's batches; None as for `usd`, or where it has none."""
    why_no_usd: str | None
    hours: float | None
    why_no_hours: str | None
    rests_on: str

    @property
    def run_stage(self) -> str:
        """The stage of the run that the calls are made in."""
        return "correct" if self.stage == "fallback" else self.stage


def without_calls(plan: TeacherPlan) -> TeacherPlan:
    """Return the plan for a stage that is finished."""
    none = Amount(0, 0, 0)
    return replace(plan, calls=none, usd=none, batch_usd=None, hours=0.0)


def plan_further_rounds(
    recipe: Recipe, train: Sequence[Question], journal: Journal, missing: list[str]
) -> list[TeacherPlan]:
    """Return what all further rounds together ask at most: every path wrong in a new way, no round left out."""
    more = recipe.rounds.count - 1
    if not more:
        return []
    # Rationales are written once; students but the run's own are sampled in the first round alone.
    correct = recipe.correct.model_copy(update={"source": None})
    later = recipe.model_copy(update={"augment": None, "other_students": (), "correct": correct})
    most = find_mistakes(later, None, train, 1.0)
    new = recipe.evolve.questions if recipe.evolve else 0
    # The new questions of a round are sampled in it and in all after it.
    growth = 1 + new / len(train) * (more + 1) / 2 if train else 1.0
    found = replace(most, count=Amount(0, None, math.ceil(most.count.high * more * growth)))
    plans = plan_teachers(later, train, found, journal, missing)
    stage = f"round 2-{more + 1}" if more > 1 else "round 2"
    plans = [replace(one, stage=stage) for one in plans]
    return [*_plan_evolving(recipe, more, train, journal, missing), *plans]


def _plan_evolving(
    recipe: Recipe, rounds: int, train: Sequence[Question], journal: Journal, missing: list[str]
) -> Iterator[TeacherPlan]:
    """Yield the plan of each teacher that writes new questions, and answers them."""
    evolve = recipe.evolve
    if evolve is None:
        return
    prompts = [load_cot_prompt(evolve.prompt), *[load_cot_prompt(evolve.answer_prompt)] * evolve.votes]
    replies = [train[0].question] if train else []
    replies += [example.solution for example in prompts[-1].examples[: evolve.votes]]
    writers = [one for one in recipe.teacher.members if one.model != "reference"]
    count = rounds * evolve.questions * len(prompts)
    for settings in writers:
        calls = Amount(0, None, math.ceil(count * settings.weight / sum(one.weight for one in writers)))
        requests = [
            settings.shape(TeacherRequest(messages=messages, max_tokens=evolve.max_tokens), is_first=False)
            for question in train[: _LOOKED_AT // len(prompts)]
            for prompt in prompts
            if not isinstance(messages := prompt.render(question, "chat"), str)
        ]
        limits = evolve.max_tokens_on_cut, evolve.concurrency, evolve.rpm
        member = _open(settings, missing)
        yield _plan_calls("evolve", settings, member, calls, None, requests, replies, limits, journal)
        _close([member] if member else [])


def plan_teachers(
    recipe: Recipe, train: Sequence[Question], found: Found, journal: Journal, missing: list[str]
) -> list[TeacherPlan]:
    """Return what each teacher is asked in the first round, stage by stage; who cannot be asked is missing."""
    if recipe.correct.source is not None and recipe.augment is None:
        return []
    block = recipe.teacher
    weights = [one.weight for one in block.members]
    opened = [_open(one, missing) for one in block.members]
    plans = []
    for index, (settings, member) in enumerate(zip(block.members, opened, strict=True)):
        mine = None
        if found.mistakes is not None:
            mine = [
                one
                for one in found.mistakes
                if choose_member("/".join(map(str, path_key(one[1]))), weights) == index
            ]
        count = found.count.times(settings.weight / sum(weights))
        if mine is not None:
            count = Amount(len(mine), len(mine), len(mine))
        plans.append(_plan_correcting("correct", recipe, settings, member, count, mine, train, journal))
    if block.fallback is not None:
        count = Amount(0, None, found.count.high)
        member = _open(block.fallback, missing)
        opened.append(member)
        plans.append(
            _plan_correcting("fallback", recipe, block.fallback, member, count, None, train, journal)
        )
    if recipe.augment is not None:
        writers = [pair for pair in zip(block.members, opened, strict=False) if pair[0].model != "reference"]
        share = sum(settings.weight for settings, _ in writers)
        plans += [
            _plan_augmenting(recipe, settings, member, settings.weight / share, train, journal)
            for settings, member in writers
        ]
        if writers and block.fallback is not None and block.fallback.model != "reference":
            plans.append(_plan_augmenting(recipe, block.fallback, opened[-1], None, train, journal))
        if not writers:
            missing.append(
                "augment: the reference teacher writes no rationales of its own; name another teacher"
            )
    _close([member for member in opened if member is not None])
    return plans


def _open(settings: TeacherSettings, missing: list[str]) -> Member | None:
    try:
        return open_member(settings)
    except LemaError as err:
        missing.append(f"teacher: {err}" + (f" ({err.hint})" if err.hint else ""))
    try:
        return open_member(settings, needs_key=False)  # what it costs is known without its key
    except LemaError:
        return None


def _close(members: Sequence[Member]) -> None:
    import asyncio

    for member in members:
        asyncio.run(member.teacher.close())


def _plan_correcting(
    stage: str,
    recipe: Recipe,
    settings: TeacherSettings,
    member: Member | None,
    mistakes: Amount,
    known: list[Mistake] | None,
    train: Sequence[Question],
    journal: Journal,
) -> TeacherPlan:
    asked = describe_asking(member.teacher, recipe.correct) if member else {}
    prompt = load_correction_prompt(recipe.correct.prompt)
    told = prompt_for(member.teacher, prompt) if member else prompt
    calls_each = 2 if asked.get("locates_first") else 1
    shown = known if known is not None else [(one, _stand_in(one)) for one in train[:_LOOKED_AT]]

    def request(mistake: Mistake) -> TeacherRequest:
        """The first one that is sent about a mistake."""
        if asked.get("locates_first"):
            return build_locating_request(*mistake, told, recipe.correct, 0, settings)
        return build_request(*mistake, told, recipe.correct, 0, settings, asked)

    def requests_of(mistake: Mistake) -> list[TeacherRequest]:
        second = build_request(*mistake, told, recipe.correct, 0, settings, {**asked, "located_step": 1})
        return [request(mistake), second] if asked.get("locates_first") else [request(mistake)]

    from_journal = None
    if known is not None and member is not None:
        teacher = member.teacher
        keys = (
            (request_key(teacher.name, teacher.identity, one), one.max_tokens) for one in map(request, known)
        )
        from_journal = sum(journal.find(key, most) is not None for key, most in keys)
    replies = [
        format_correction(one.incorrect_step, one.explanation, one.corrected_steps) for one in prompt.examples
    ]
    left = mistakes if not from_journal else Amount(*(max(0.0, n - from_journal) for n in _numbers(mistakes)))
    calls = Amount(
        left.low * calls_each,
        None if left.about is None else left.about * calls_each,
        left.high * calls_each * recipe.correct.attempts,
    )
    requests = [one for mistake in shown[:_LOOKED_AT] for one in requests_of(mistake)]
    plan = recipe.correct.max_tokens_on_cut, recipe.correct.concurrency, recipe.correct.rpm
    return _plan_calls(stage, settings, member, calls, from_journal, requests, replies, plan, journal)


def _numbers(amount: Amount) -> tuple[float, float, float]:
    return amount.low, amount.high if amount.about is None else amount.about, amount.high


def _stand_in(question: Question) -> ReasoningPath:
    """Return a path as long as a real one may be: the gold rationale's steps, where there is one."""
    steps = split_steps(question.gold_rationale or "") or _STAND_IN
    text = number_steps([*steps, f"The answer is {question.gold_answer}."])
    return ReasoningPath(
        question_id=question.id, sample_index=0, seed=None, student="", text=text, final_answer=None,
        verdict="wrong", rule="none", stop_reason="end", prompt_tokens=None, completion_tokens=None,
    )  # fmt: skip


def _plan_augmenting(
    recipe: Recipe,
    settings: TeacherSettings,
    member: Member | None,
    share: float | None,
    train: Sequence[Question],
    journal: Journal,
) -> TeacherPlan:
    """Return the plan of one teacher for its share of the questions; None: of the fallback, for up to all of them."""
    augment = recipe.augment
    assert augment is not None
    prompt: CotPrompt = load_cot_prompt(augment.prompt)
    asked = train[: augment.limit]
    count = len(asked) * augment.rationales_per_question * (1.0 if share is None else share)
    requests = []
    for question in asked[:_LOOKED_AT]:
        messages = prompt.render(question, "chat")
        assert not isinstance(messages, str)
        request = TeacherRequest(messages=messages, max_tokens=augment.max_tokens)
        requests.append(settings.shape(request, is_first=False))
    replies = [example.solution for example in prompt.examples]
    plan = augment.max_tokens_on_cut, augment.concurrency, augment.rpm
    calls = Amount(count, count, count) if share is not None else Amount(0, None, count)
    return _plan_calls("augment", settings, member, calls, None, requests, replies, plan, journal)


def _plan_calls(
    stage: str,
    settings: TeacherSettings,
    member: Member | None,
    calls: Amount,
    from_journal: int | None,
    requests: Sequence[TeacherRequest],
    replies: Sequence[str],
    limits: tuple[int | None, int, int | None],
    journal: Journal,
) -> TeacherPlan:
    """Return a teacher's plan.

    Args:
        stage: What it is asked in.
        settings: Of the teacher.
        member: The teacher, opened; None where it cannot be asked as things stand.
        calls: How many.
        from_journal: Replies that are there already.
        requests: Some of what is asked.
        replies: What a reply looks like, for its length.
        limits: `max_tokens_on_cut`, concurrency, calls a minute.
        journal: For what earlier replies of this teacher took.
    """
    longer, concurrency, rpm = limits
    past = _past_replies(settings.model, journal)
    prompt_tokens = (
        _mean([sum(len(m["content"]) for m in one.messages) for one in requests]) / CHARACTERS_PER_TOKEN
    )
    reply_tokens = _mean([len(text) for text in replies]) / CHARACTERS_PER_TOKEN
    rests_on = "tokens: about four characters each; a reply as long as the prompt's worked examples"
    if past.reply_tokens is not None:
        reply_tokens = past.reply_tokens
        rests_on = f"length and time of a reply: the mean of this teacher's last {past.count} in the journal"
    usd, batch_usd, why = _price(member, calls, requests, prompt_tokens, reply_tokens, longer)
    hours: float | None = None
    why_no_hours: str | None = "no reply of this teacher in the journal tells how long one takes"
    if past.seconds is not None:
        number = calls.high if calls.about is None else calls.about
        hours, why_no_hours = number * max(past.seconds / concurrency, 60 / rpm if rpm else 0.0) / 3600, None
    return TeacherPlan(
        stage=stage, teacher=settings.model, calls=calls, from_journal=from_journal, prompt_tokens=prompt_tokens,
        reply_tokens=reply_tokens, usd=usd, batch_usd=batch_usd, why_no_usd=why, hours=hours,
        why_no_hours=why_no_hours, rests_on=rests_on,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Past:
    """What earlier replies of a teacher took, on average."""

    count: int
    reply_tokens: float | None
    seconds: float | None


def _past_replies(teacher: str, journal: Journal) -> _Past:
    lines = list_replies(journal, _LOOKED_AT, teacher)
    tokens = [line.completion_tokens for line in lines if line.completion_tokens]
    seconds = [journal.read(line.reply_key).reply.latency_s for line in lines]
    return _Past(len(lines), fmean(tokens) if tokens else None, fmean(seconds) if seconds else None)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _price(
    member: Member | None,
    calls: Amount,
    requests: Sequence[TeacherRequest],
    prompt_tokens: float,
    reply_tokens: float,
    longer: int | None,
) -> tuple[Amount | None, Amount | None, str | None]:
    """Return dollars online and in batches; the most is what the budget reserves, each reply cut and asked again."""
    if member is None:
        return None, None, "the teacher cannot be asked as things stand"
    online: Price | None = getattr(member.teacher, "price", Price(0.0, 0.0))
    if online is None:
        return None, None, "its price is not known; set price_in and price_out"
    get_batch_price: Callable[[], Price | None] = getattr(member.teacher, "batch_price", lambda: None)
    worst_prompt = _mean([most_prompt_tokens(one) for one in requests])
    max_tokens = max((one.max_tokens for one in requests), default=0)
    again = longer if longer is not None and longer > max_tokens else None

    def cost(price: Price) -> Amount:
        usual = prompt_tokens * price.prompt_usd + reply_tokens * price.completion_usd
        most = worst_prompt * price.prompt_usd + max_tokens * price.completion_usd
        if again is not None:
            most += worst_prompt * price.prompt_usd + again * price.completion_usd
        return Amount(
            calls.low * usual, None if calls.about is None else calls.about * usual, calls.high * most
        )

    batch = get_batch_price() if online.prompt_usd or online.completion_usd else None
    return cost(online), cost(batch) if batch else None, None


def add_up(plans: Sequence[TeacherPlan], name: str) -> Amount | None:
    """Return the dollars (`usd` or `batch_usd`) of all plans; None where they are not known."""
    if not plans:
        return Amount(0, 0, 0)  # nobody is asked
    amounts: list[Amount | None] = [getattr(plan, name) or plan.usd for plan in plans]
    if any(amount is None for amount in amounts) or all(getattr(plan, name) is None for plan in plans):
        return None
    known = [amount for amount in amounts if amount is not None]
    abouts = [amount.about for amount in known]
    about = None if None in abouts else sum(value for value in abouts if value is not None)
    return Amount(sum(one.low for one in known), about, sum(one.high for one in known))
