"""What a run will take, told before anything is spent: calls, tokens, dollars, hours, memory, and what is missing.

Nothing is sampled and no teacher is asked. What is known is taken as it is (the questions, finished stages of the run,
replies in the journal); what is not is bounded, and estimated where there is something to estimate from. Each
estimate says what it rests on; what cannot be estimated honestly is None, with the reason.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lema_local.errors import LemaError
from lema_local.jsonl import read_records
from lema_local.prompts import CotPrompt, format_correction, load_correction_prompt, load_cot_prompt
from lema_local.recipe import QuestionSource, Recipe
from lema_local.records import Correction, Question, ReasoningPath
from lema_local.runs import Manifest, RunFolder, StageFolder
from lema_local.stage_runner import STAGES
from lema_local.stages.correct import (
    Mistake,
    build_locating_request,
    build_request,
    describe_asking,
    path_key,
    select_mistakes,
)
from lema_local.steps import number_steps, split_steps
from lema_local.teachers import prompt_for
from lema_local.teachers.base import TeacherRequest
from lema_local.teachers.journal import Journal, request_key
from lema_local.teachers.journal_views import list_replies
from lema_local.teachers.prices import Price, most_prompt_tokens
from lema_local.teachers.settings import TeacherSettings
from lema_local.teachers.team import Member, choose_member, open_member
from lema_local.wiring import load_source, student_path

if TYPE_CHECKING:
    from lema_local.training.shapes import ModelShape

CHARACTERS_PER_TOKEN = 4.0
"""Of English text, about; for what no reply in the journal tells better."""
_LOOKED_AT = 200
"""Replies of the journal, and rendered prompts, that an estimate rests on."""
_STAND_IN = ["A step of a solution with one computation in it, 12 * 3 = 36."] * 4


@dataclass(frozen=True, slots=True)
class Amount:
    """A number that is not known yet."""

    low: float
    about: float | None
    """None where there is nothing to estimate it from."""
    high: float

    def times(self, factor: float) -> Amount:
        """Return so many times as much."""
        return Amount(
            self.low * factor, None if self.about is None else self.about * factor, self.high * factor
        )


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


def _without_calls(plan: TeacherPlan) -> TeacherPlan:
    """Return the plan for a stage that is finished."""
    none = Amount(0, 0, 0)
    return replace(plan, calls=none, usd=none, batch_usd=None, hours=0.0)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will take."""

    recipe: str
    run: str
    questions: dict[str, int]
    paths: Amount
    """Sampled in all."""
    sample_tokens: float
    """At most."""
    sample_hours: float | None
    why_no_sample_hours: str | None
    mistakes: Amount
    mistakes_rest_on: str
    teachers: list[TeacherPlan]
    usd: Amount | None
    batch_usd: Amount | None
    max_usd: float | None
    examples: Amount
    """In each arm."""
    steps: Amount
    """Of the optimizer, in each arm."""
    train_hours: float | None
    why_no_train_hours: str | None
    answers: int
    """Given in the evaluation, by all arms."""
    answer_hours: float | None
    """None as for `train_hours`."""
    memory: list[str] = field(default_factory=list)
    """What training and export need, in words."""
    disk_gib: float | None = None
    free_disk_gib: float | None = None
    missing: list[str] = field(default_factory=list)
    """What has to be there first."""
    rounds: int = 1
    """At most: sampling, training and evaluation stand here for one of them, the teachers' work for all."""


def plan_run(recipe: Recipe, run: Path, *, wrong_share: float = 0.5, reuse: Path | None = None) -> RunPlan:
    """Return what a run of a recipe will take.

    Args:
        recipe: What is to be done.
        run: The run's folder; what it holds already is taken into account.
        wrong_share: Share of the paths that end wrong, for a run that has not sampled yet.
        reuse: Another run, whose paths are taken for this one's where this one has none.

    Raises:
        PromptError: If a prompt cannot be loaded.
    """
    missing: list[str] = []
    questions = _load_questions(recipe, missing)
    sampled = next((one for one in (run, reuse) if one is not None and _is_done(one, "sample")), None)
    found = _find_mistakes(recipe, sampled, questions["train"], wrong_share)
    with Journal() as journal:
        teachers = _plan_teachers(recipe, questions["train"], found, journal, missing)
        further = _plan_further_rounds(recipe, questions["train"], journal, missing)
    teachers = [_without_calls(one) if _is_done(run, one.run_stage) else one for one in teachers] + further
    usd, batch_usd = _sum(teachers, "usd"), _sum(teachers, "batch_usd")
    paths = _count_paths(recipe, len(questions["train"]))
    examples = _count_examples(recipe, questions["train"], found.count)
    steps = _count_steps(recipe, examples)
    student = {"student": recipe.student.model}
    sample_rate = _rate(run, student, _sampled_per_s)
    train_rate = _rate(run, {"base": recipe.student.base or recipe.student.model}, _steps_per_s)
    answer_rate = _rate(run, student, _answers_per_s)
    memory, disk_gib = _plan_memory(recipe, missing)
    trainings = len(recipe.train.arms) * len({recipe.train.seed, *recipe.train.seeds})
    has_zero_shot = recipe.evaluate.base_zero_shot and recipe.sample.prompt != recipe.build.cot_prompt
    answers = (1 + has_zero_shot + trainings) * len(questions["test"]) * (1 + recipe.evaluate.samples)
    free = shutil.disk_usage(_existing(run)).free / 2**30
    if disk_gib is not None and free < disk_gib:
        missing.append(f"disk: {disk_gib:.1f} GiB are needed, {free:.1f} are free at {_existing(run)}")
    return RunPlan(
        recipe=recipe.name,
        run=str(run),
        questions={split: len(some) for split, some in questions.items()},
        paths=paths,
        sample_tokens=paths.high * recipe.sample.max_tokens,
        sample_hours=None if sample_rate is None else (paths.about or paths.high) / sample_rate / 3600,
        why_no_sample_hours=None if sample_rate else "no run beside this one has sampled with this student",
        mistakes=found.count,
        mistakes_rest_on=found.rests_on,
        teachers=teachers,
        usd=usd,
        batch_usd=batch_usd,
        max_usd=recipe.teacher.max_usd,
        examples=examples,
        steps=steps,
        train_hours=None
        if train_rate is None
        else trainings * (steps.about or steps.high) / train_rate / 3600,
        why_no_train_hours=None if train_rate else "no run beside this one has trained this base",
        answers=answers,
        answer_hours=answers / answer_rate / 3600 if answer_rate else None,
        memory=memory,
        disk_gib=disk_gib,
        free_disk_gib=free,
        missing=list(dict.fromkeys(missing)),
        rounds=recipe.rounds.count,
    )


def _plan_further_rounds(
    recipe: Recipe, train: Sequence[Question], journal: Journal, missing: list[str]
) -> list[TeacherPlan]:
    """Return what all further rounds together ask at most: every path wrong in a new way, no round left out."""
    more = recipe.rounds.count - 1
    if not more:
        return []
    # Rationales are written once; students but the run's own are sampled in the first round alone.
    correct = recipe.correct.model_copy(update={"source": None})
    later = recipe.model_copy(update={"augment": None, "other_students": (), "correct": correct})
    most = _find_mistakes(later, None, train, 1.0)
    new = recipe.evolve.questions if recipe.evolve else 0
    # The new questions of a round are sampled in it and in all after it.
    growth = 1 + new / len(train) * (more + 1) / 2 if train else 1.0
    found = replace(most, count=Amount(0, None, math.ceil(most.count.high * more * growth)))
    plans = _plan_teachers(later, train, found, journal, missing)
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


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())


# --- questions and mistakes ---------------------------------------------------------------------------------


def _load_questions(recipe: Recipe, missing: list[str]) -> dict[str, list[Question]]:
    blocks = recipe.questions
    loaded = {
        "train": _load(blocks.train, missing),
        "validation": _load(blocks.validation, missing) if blocks.validation else [],
        "test": [question for source in blocks.test for question in _load(source, missing)],
    }
    if blocks.validation is None and blocks.validation_count and loaded["train"]:
        from lema_local.datasets import split_validation

        try:
            loaded["train"], loaded["validation"] = split_validation(loaded["train"], blocks.validation_count)
        except LemaError as err:
            missing.append(f"questions: {err}")
    return loaded


def _load(source: QuestionSource, missing: list[str]) -> list[Question]:
    try:
        return load_source(source)
    except LemaError as err:
        missing.append(f"questions: {err}")
        return []


@dataclass(frozen=True, slots=True)
class _Found:
    """The mistakes that will be corrected, as far as they are known."""

    count: Amount
    mistakes: list[Mistake] | None
    """None where nothing has been sampled yet."""
    rests_on: str


def _is_done(run: Path, stage: str) -> bool:
    return RunFolder(run).stage(STAGES[stage]).manifest() is not None


def _find_mistakes(
    recipe: Recipe, sampled: Path | None, train: Sequence[Question], wrong_share: float
) -> _Found:
    if (source := recipe.correct.source) is not None:
        return _count_taken(Path(source), train)
    if sampled is not None:
        paths = read_records(RunFolder(sampled).stage(STAGES["sample"]).path / "paths.jsonl", ReasoningPath)
        mistakes = list(select_mistakes(paths, train, recipe.correct))
        return _Found(
            Amount(len(mistakes), len(mistakes), len(mistakes)), mistakes, f"the paths sampled in {sampled}"
        )
    settings = recipe.sample
    samples = settings.samples_per_question * (1 + len(recipe.other_students))
    most = (settings.max_samples_per_question or settings.samples_per_question) * (
        1 + len(recipe.other_students)
    )
    cap = min(filter(None, [recipe.correct.max_per_question, settings.max_mistakes_per_question, most]))
    about = len(train) * _expect_capped(samples, wrong_share, cap)
    limit = min(
        filter(None, [recipe.correct.limit, settings.stop_after_mistakes, len(train) * cap]), default=0
    )
    count = Amount(0, min(about, limit), min(limit, len(train) * cap))
    assumed = (
        f"nothing is sampled yet: {wrong_share:.0%} of the paths taken to end wrong, all in different words"
    )
    return _Found(count, None, assumed)


def _count_taken(source: Path, train: Sequence[Question]) -> _Found:
    """Count corrections that were made elsewhere."""
    ids = {question.id for question in train}
    count = sum(one.question_id in ids for one in read_records(source, Correction))
    return _Found(Amount(count, count, count), [], f"the corrections in {source}: no teacher is asked")


def _expect_capped(samples: int, share: float, cap: int) -> float:
    """Return the mean of min(wrong paths, cap) where each of `samples` paths is wrong with probability `share`."""
    chances = [
        math.comb(samples, wrong) * share**wrong * (1 - share) ** (samples - wrong)
        for wrong in range(samples + 1)
    ]
    return sum(chance * min(wrong, cap) for wrong, chance in enumerate(chances))


def _count_paths(recipe: Recipe, questions: int) -> Amount:
    if recipe.correct.source is not None:
        return Amount(0, 0, 0)
    settings = recipe.sample
    students = 1 + len(recipe.other_students)
    first = questions * settings.samples_per_question * students
    most = questions * (settings.max_samples_per_question or settings.samples_per_question) * students
    low = 0 if settings.stop_after_mistakes else first
    return Amount(low, first if low == most else None, most)


def _count_examples(recipe: Recipe, train: Sequence[Question], mistakes: Amount) -> Amount:
    """Examples of an arm: gold rationales, further rationales, and a correction for each mistake that is kept."""
    gold = sum(question.gold_rationale is not None for question in train)
    asked = train[: recipe.augment.limit] if recipe.augment else []
    more = len(asked) * recipe.augment.rationales_per_question if recipe.augment else 0
    return Amount(gold, None, gold + more + mistakes.high)


def _count_steps(recipe: Recipe, examples: Amount) -> Amount:
    settings = recipe.train
    if settings.max_steps is not None:
        return Amount(settings.max_steps, settings.max_steps, settings.max_steps)
    low, high = (
        max(1, math.ceil(settings.epochs * count / settings.batch_size))
        for count in (examples.low, examples.high)
    )
    return Amount(low, None, high)


# --- teachers -----------------------------------------------------------------------------------------------


def _plan_teachers(
    recipe: Recipe, train: Sequence[Question], found: _Found, journal: Journal, missing: list[str]
) -> list[TeacherPlan]:
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


def _sum(plans: Sequence[TeacherPlan], name: str) -> Amount | None:
    if not plans:
        return Amount(0, 0, 0)  # nobody is asked
    amounts: list[Amount | None] = [getattr(plan, name) or plan.usd for plan in plans]
    if any(amount is None for amount in amounts) or all(getattr(plan, name) is None for plan in plans):
        return None
    known = [amount for amount in amounts if amount is not None]
    abouts = [amount.about for amount in known]
    about = None if None in abouts else sum(value for value in abouts if value is not None)
    return Amount(sum(one.low for one in known), about, sum(one.high for one in known))


# --- this machine -------------------------------------------------------------------------------------------


def _rate(run: Path, wanted: dict[str, Any], measured: Callable[[RunFolder], float | None]) -> float | None:
    """Return what was measured in a finished run beside this one, or this one, with the same model; units a second."""
    for recipe_path in sorted(run.resolve().parent.glob("*/recipe.yaml"), reverse=True):
        try:
            if _is_same_model(recipe_path, wanted) and (found := measured(RunFolder(recipe_path.parent))):
                return found
        except (LemaError, OSError):
            continue
    return None


def _sampled_per_s(run: RunFolder) -> float | None:
    return _per_s([run.stage(STAGES["sample"]).manifest()], lambda counts: counts.get("paths", 0))


def _steps_per_s(run: RunFolder) -> float | None:
    def steps(counts: dict[str, Any]) -> float:
        return sum(int(one.get("optimizer_steps", 0)) for one in counts.values() if isinstance(one, dict))

    return _per_s([run.stage(STAGES["train"]).manifest()], steps)


def _answers_per_s(run: RunFolder) -> float | None:
    folder = run.stage(STAGES["evaluate"])
    arms = [folder.path / arm for arm in ("base", "cot", "lema")]
    verdicts = [StageFolder(arm).manifest() for arm in arms]
    return _per_s(verdicts, lambda counts: sum(n for n in counts.values() if isinstance(n, int)))


def _per_s(manifests: Sequence[Manifest | None], count: Callable[[dict[str, Any]], float]) -> float | None:
    known = [one for one in manifests if one is not None]
    seconds = sum(one.seconds for one in known)
    return sum(count(one.counts) for one in known) / seconds if seconds else None


def _is_same_model(recipe_path: Path, wanted: dict[str, Any]) -> bool:
    import yaml

    student = yaml.safe_load(recipe_path.read_text(encoding="utf-8")).get("student", {})
    model = {"student": student.get("model"), "base": student.get("base") or student.get("model")}
    return all(model.get(name) == value for name, value in wanted.items())


CPU_PARAMETERS = 200_000_000
"""A larger student is not trained on a CPU in reasonable time."""


def _plan_memory(recipe: Recipe, missing: list[str]) -> tuple[list[str], float | None]:
    """Return what sampling, training and export need, in words, and the disk for base and adapters, GiB."""
    block = recipe.student
    try:
        if block.url is not None:
            missing.append(
                f"student: {block.model} is served at {block.url}; training, export and evaluation need its GGUF file"
                " (--until build ends before)"
            )
            return ["- (the student is served elsewhere)"], None
        if block.base is None and block.model.startswith("hf:"):
            missing.append(f"student: {block.model} is fetched from the hub where it is not here yet")
            return ["- (the student's file is not looked for on the hub)"], None
        sampling = _describe_sampling(student_path(block))
        base = block.base or str(student_path(block))
        from lema_local.training.memory import estimate_disk
        from lema_local.training.shapes import read_shape

        shape, train = read_shape(base), recipe.train
        disk = estimate_disk(
            shape, train, len(train.arms) * len({train.seed, *train.seeds}), recipe.export.merge,
            has_held_out=bool(recipe.questions.validation or recipe.questions.validation_count),
        )  # fmt: skip
        return [sampling, *_describe_training(shape, recipe, missing)], disk / 2**30
    except (LemaError, ImportError) as err:
        hint = f" ({err.hint})" if isinstance(err, LemaError) and err.hint else ""
        missing.append(f"student or base: {err}{hint}")
        return ["- (see what is missing)"], None


def _describe_sampling(path: Path) -> str:
    from lema_local.students.inspection import inspect_gguf

    facts = inspect_gguf(path)
    return (
        f"sampling: {facts['typical_memory_bytes'] / 2**30:.2f} GiB of {facts['free_memory_bytes'] / 2**30:.2f}"
        f" ({facts['typical_slots']} paths at once)"
    )


def _describe_training(shape: ModelShape, recipe: Recipe, missing: list[str]) -> list[str]:
    from lema_local.training.layout import plan_for_machine
    from lema_local.training.memory import describe_memory
    from lema_local.training.models import choose_compute

    if not choose_compute().is_cuda and shape.parameters > CPU_PARAMETERS:
        missing.append(
            f"GPU: torch sees no CUDA card here, and training {shape.parameters / 1e9:.1f} billion parameters on"
            " a CPU takes weeks (lema run ... --until build makes the training files; train them elsewhere)"
        )
    try:
        return describe_memory(shape, recipe.train, plan_for_machine(shape, recipe.train))
    except LemaError as err:
        missing.append(f"memory: {err}" + (f" ({err.hint})" if err.hint else ""))
        return ["training: - (see what is missing)"]
