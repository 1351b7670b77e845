"""Stage 8: score each arm's answers, and compare the arms on the same questions.

Reads   reasoning paths    one greedy path per question, on request further sampled ones, graded as in stage 1
Writes  predictions        one per path and arm
        scores             pass@1 with intervals, per arm and group; pass@k and maj@k of sampled answers; paired
                           comparisons between arms; mean and spread over training seeds

An arm is the base student or one of its adapters. All arms answer the same questions; each answers the prompt
that it was trained on, the base also the few-shot prompt that it was sampled with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from lema_local.answers import vote_key
from lema_local.records import (
    ArmComparison,
    ArmScore,
    BestOnTest,
    Estimate,
    Prediction,
    Question,
    ReasoningPath,
    SampledScore,
    Scores,
    SeedSpread,
    Share,
)

if TYPE_CHECKING:
    from lema_local.statistics import ArmComparison as Comparison

IsCorrect = Mapping[str, bool]
"""By question id. An answer without a verdict counts as not correct."""


BASE_ROWS = ("base", "base_zero_shot")
"""Names of the rows that no adapter was trained for."""


class EvaluateSettings(BaseModel):
    """How arms are evaluated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = 1024
    """A path that has given no answer by then is `truncated`. The paper allows 2,048 (section 3.3)."""
    base_zero_shot: bool = True
    """Also let the base answer the zero-shot prompt that the arms answer, as a row of its own."""
    samples: int = Field(default=0, ge=0)
    """Further answers a question, drawn at `temperature`, for pass@k and maj@k; 0: the greedy one alone."""
    temperature: float = Field(default=0.7, gt=0)
    """Of these further answers."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Of these further answers."""
    seed: int = 1
    """Of these further answers."""
    group_by: list[str] = ["level", "subject", "steps"]
    """Tags of the questions to report by: MATH has level and subject, GSM8K the number of steps; a dataset without
    a tag is not divided by it."""
    compare_groups: list[str] = []
    """Tags whose groups are compared between arms too."""


def predict(path: ReasoningPath, question: Question, arm: str) -> Prediction:
    """Return the prediction that a graded path stands for."""
    is_correct = None if path.verdict == "undecided" else path.verdict == "correct"
    return Prediction(
        question_id=question.id,
        arm=arm,
        sample_index=path.sample_index,
        text=path.text,
        final_answer=path.final_answer,
        gold_answer=question.gold_answer,
        is_correct=is_correct,
        verdict=path.verdict,
        rule=path.rule,
    )


def score_predictions(
    questions: Sequence[Question],
    predictions: Mapping[str, Sequence[Prediction]],
    prompts: Mapping[str, str],
    settings: EvaluateSettings,
    *,
    sampled: Mapping[str, Sequence[Prediction]] | None = None,
    by_seed: Mapping[str, Mapping[int, str]] | None = None,
) -> Scores:
    """Return each arm's score on each dataset, and every pair of arms compared.

    Args:
        questions: All that were asked, of any number of datasets.
        predictions: By row (an arm, or one of its further trainings), one per question.
        prompts: By row, the name of the prompt it answered.
        settings: What to group by, and how was sampled.
        sampled: By row, `settings.samples` further predictions per question.
        by_seed: By arm, each training seed's row, the one first that is compared with other arms.
    """
    datasets = dict.fromkeys(question.dataset for question in questions)
    asked = {name: [one for one in questions if one.dataset == name] for name in datasets}
    answered = {row: {one.question_id: one for one in some} for row, some in predictions.items()}
    arms = [
        _score_arm(name, row, prompts[row], asked[name], by_id, settings).model_copy(
            update={"sampled": _score_samples(asked[name], (sampled or {}).get(row, ()), settings)}
        )
        for name in datasets
        for row, by_id in answered.items()
    ]
    correct = {
        row: {key: one.is_correct is True for key, one in by_id.items()} for row, by_id in answered.items()
    }
    further = {row for rows in (by_seed or {}).values() for row in list(rows.values())[1:]}
    compared = {row: found for row, found in correct.items() if row not in further}
    return Scores(
        arms=arms,
        comparisons=_compare_all(_list_places(asked, settings.compare_groups), compared),
        seeds=[one for name in datasets for one in _spread_seeds(name, arms, by_seed or {})],
    )


def _score_arm(
    dataset: str,
    arm: str,
    prompt: str,
    asked: Sequence[Question],
    by_id: Mapping[str, Prediction],
    settings: EvaluateSettings,
) -> ArmScore:
    own = [by_id[question.id] for question in asked if question.id in by_id]

    def share(members: Iterable[Question]) -> Share:
        verdicts = [by_id[question.id].is_correct is True for question in members if question.id in by_id]
        return share_of(sum(verdicts), len(verdicts))

    def count(verdict: str) -> int:
        return sum(one.verdict == verdict for one in own)

    return ArmScore(
        arm=arm,
        dataset=dataset,
        prompt=prompt,
        share=share(asked),
        no_answer=count("no_answer"),
        truncated=count("truncated"),
        undecided=count("undecided"),
        groups={
            tag: {value: share(members) for value, members in groups.items()}
            for tag in settings.group_by
            if (groups := _groups(asked, tag))
        },
    )


def _score_samples(
    asked: Sequence[Question], predictions: Sequence[Prediction], settings: EvaluateSettings
) -> SampledScore | None:
    """Score the sampled answers; questions that do not have all of them (refused ones) are left out."""
    from lema_local.statistics import bootstrap_mean, maj_at_k, pass_at_k

    by_id: dict[str, list[Prediction]] = {question.id: [] for question in asked}
    for one in predictions:
        if one.question_id in by_id:
            by_id[one.question_id].append(one)
    n = settings.samples
    whole = [
        sorted(some, key=lambda one: one.sample_index) for some in by_id.values() if n and len(some) == n
    ]
    if not whole:
        return None
    answers = [
        [None if one.final_answer is None else vote_key(one.final_answer) for one in some] for some in whole
    ]
    right = [[one.is_correct is True for one in some] for some in whole]
    ks = sorted({k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, n) if k <= n})

    def estimate(values: Sequence[float]) -> Estimate:
        value, interval = bootstrap_mean(values)
        return Estimate(value=value, low=interval.low, high=interval.high)

    return SampledScore(
        samples=n,
        temperature=settings.temperature,
        questions=len(whole),
        pass_at_k={k: estimate([pass_at_k(n, sum(some), k) for some in right]) for k in ks},
        maj_at_k={
            k: estimate([maj_at_k(votes, some, k) for votes, some in zip(answers, right, strict=True)])
            for k in ks
            if k > 2  # one vote is pass@1, and two that differ are a draw
        },
    )


def share_of(correct: int, n: int) -> Share:
    """Return so many of so many, with the 95 % Wilson interval."""
    from lema_local.statistics import wilson_interval

    interval = wilson_interval(correct, n)
    return Share(
        n=n, correct=correct, pass_at_1=correct / n if n else 0.0, low=interval.low, high=interval.high
    )


def _groups(questions: Iterable[Question], tag: str) -> dict[str, list[Question]]:
    """Return the questions by the value of a tag, in the order of the values; those without it are left out."""
    found: dict[str, list[Question]] = {}
    for question in questions:
        if tag in question.tags:
            found.setdefault(question.tags[tag], []).append(question)
    return dict(sorted(found.items(), key=lambda item: (int(item[0]) if item[0].isdecimal() else 0, item[0])))


def compare_predictions(arms: Mapping[str, Mapping[str, Sequence[Prediction]]]) -> list[ArmComparison]:
    """Return every two arms compared on every dataset, on the questions that both answered.

    Args:
        arms: By arm and dataset, one prediction per question.
    """
    datasets = dict.fromkeys(dataset for by_dataset in arms.values() for dataset in by_dataset)
    ids = {
        name: list(dict.fromkeys(one.question_id for some in arms.values() for one in some.get(name, ())))
        for name in datasets
    }
    correct = {
        arm: {one.question_id: one.is_correct is True for some in by_dataset.values() for one in some}
        for arm, by_dataset in arms.items()
    }
    return _compare_all([(name, None, found) for name, found in ids.items()], correct)


def choose_best_on_test(
    arm: str, questions: Sequence[Question], by_step: Mapping[int, Sequence[Prediction]]
) -> list[BestOnTest]:
    """Return by dataset an arm's best checkpoint on the test questions, the earliest of equal ones.

    Source: arXiv 2310.20689v4, section 3.3: "the accuracy of the best checkpoint". It is chosen on the very questions
    that it is scored on, and so too high.

    Args:
        arm: Its name.
        questions: All that were asked.
        by_step: By optimizer step, the checkpoint's predictions.
    """
    found = []
    for dataset in dict.fromkeys(question.dataset for question in questions) if by_step else ():
        ids = {question.id for question in questions if question.dataset == dataset}
        own = {
            step: [one.is_correct is True for one in some if one.question_id in ids]
            for step, some in by_step.items()
        }
        step = max(sorted(own), key=lambda one: sum(own[one]))
        share = share_of(sum(own[step]), len(own[step]))
        found.append(
            BestOnTest(
                arm=arm,
                dataset=dataset,
                step=step,
                checkpoints=len(own),
                share=share,
                sentence=f"{arm} in the paper's style: {share.correct:,} of {share.n:,} "
                f"({100 * share.pass_at_1:.1f} %), the best of {len(own)} checkpoints on these very test questions "
                f"(step {step:,}). It is for comparison with the paper's tables alone: chosen on the test, it is too "
                f"high, and shows nothing.",
            )
        )
    return found


# --- comparisons --------------------------------------------------------------------------------------------


Place = tuple[str, str | None, Sequence[str]]
"""Dataset, group (`tag=value`, None for all questions), and the ids of its questions."""


def _list_places(asked: Mapping[str, Sequence[Question]], tags: Sequence[str]) -> list[Place]:
    """Return where arms are compared: each dataset, then its groups."""
    places: list[Place] = []
    for name, members in asked.items():
        places.append((name, None, [one.id for one in members]))
        for tag in tags:
            groups = _groups(members, tag)
            places += [(name, f"{tag}={value}", [one.id for one in group]) for value, group in groups.items()]
    return places


def _compare_all(places: Sequence[Place], correct: Mapping[str, IsCorrect]) -> list[ArmComparison]:
    """Compare every two arms in every place.

    The tests of trained arms among each other, on all datasets, are judged together (Holm's correction), and so are
    those against the base, and of each the tests on groups: each of these answers a question of its own.
    """
    from lema_local.statistics import adjust_together

    families: dict[tuple[bool, bool], list[tuple[int, Comparison]]] = {}
    for position, (_, group, ids) in enumerate(places):
        for result in _compare_pairs(ids, correct):
            families.setdefault((_is_with_base(result.names), group is None), []).append((position, result))
    found = [
        (position, result)
        for family in families.values()
        for (position, _), result in zip(family, adjust_together([one for _, one in family]), strict=True)
    ]
    found.sort(key=lambda one: one[0])  # stable: pairs stay in their order
    return [_to_record(*places[position][:2], result) for position, result in found]


def _is_with_base(names: tuple[str, str]) -> bool:
    """True where one of the two rows is the base, by whichever prompt."""
    return any(name in BASE_ROWS for name in names)


def _compare_pairs(ids: Sequence[str], correct: Mapping[str, IsCorrect]) -> list[Comparison]:
    """Compare every two arms, on the questions that both answered."""
    from lema_local.statistics import compare_arms

    found = []
    for first, second in combinations(correct, 2):
        both = [key for key in ids if key in correct[first] and key in correct[second]]
        if both:
            verdicts = ([correct[arm][key] for key in both] for arm in (first, second))
            found.append(compare_arms(*verdicts, names=(first, second)))
    return found


def _to_record(dataset: str, group: str | None, result: Comparison) -> ArmComparison:
    return ArmComparison(
        dataset=dataset,
        group=group,
        first=result.names[0],
        second=result.names[1],
        n=result.n,
        only_first=result.only_first,
        only_second=result.only_second,
        p_value=result.p_value,
        p_holm=result.p_holm,
        tests=result.tests,
        difference=result.difference,
        low=result.interval.low,
        high=result.interval.high,
        smallest_difference=min(1.0, result.smallest_difference),  # JSON knows no infinity
        sentence=result.sentence,
    )


# --- training seeds -----------------------------------------------------------------------------------------


def _spread_seeds(
    dataset: str, scores: Sequence[ArmScore], by_seed: Mapping[str, Mapping[int, str]]
) -> list[SeedSpread]:
    """Return each arm's pass@1 over its training seeds, and every two arms' difference at equal seeds."""
    shares = {one.arm: one.share.pass_at_1 for one in scores if one.dataset == dataset}
    values = {
        arm: {seed: shares[row] for seed, row in rows.items() if row in shares}
        for arm, rows in by_seed.items()
        if len(rows) > 1
    }
    found = [_spread(dataset, None, arm, some) for arm, some in values.items()]
    for first, second in combinations(values, 2):
        differences = {
            seed: values[second][seed] - values[first][seed]
            for seed in values[first]
            if seed in values[second]
        }
        if len(differences) > 1:
            found.append(_spread(dataset, first, second, differences))
    return found


def _spread(dataset: str, first: str | None, second: str, values: Mapping[int, float]) -> SeedSpread:
    from lema_local.statistics import describe_seeds, summarize_seeds

    summary = summarize_seeds(list(values.values()))
    return SeedSpread(
        dataset=dataset,
        first=first,
        second=second,
        seeds=list(values),
        values=list(values.values()),
        mean=summary.mean,
        deviation=summary.deviation,
        low=summary.interval.low,
        high=summary.interval.high,
        sentence=describe_seeds(first, second, summary),
    )
