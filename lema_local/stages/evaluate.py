"""Stage 8: score greedy answers of each arm, and compare the arms on the same questions.

Reads   reasoning paths    one greedy path per question, sampled and graded as in stage 1
Writes  predictions        one per question and arm
        scores             pass@1 with intervals, per arm and group; paired comparisons between arms

An arm is the base student or one of its adapters. All arms answer the same questions; each answers the prompt
that it was trained on, the base also the few-shot prompt that it was sampled with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from pydantic import BaseModel, ConfigDict

from lema_local.records import ArmComparison, ArmScore, Prediction, Question, ReasoningPath, Scores, Share

IsCorrect = Mapping[str, bool]
"""By question id. An answer without a verdict counts as not correct."""


class EvaluateSettings(BaseModel):
    """How arms are evaluated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = 1024
    """A path that has given no answer by then is `truncated`. The paper allows 2,048 (section 3.3)."""
    base_zero_shot: bool = True
    """Also let the base answer the zero-shot prompt that the arms answer, as a row of its own."""
    group_by: list[str] = []
    """Tags of the questions to report by, such as level, subject, family."""
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
) -> Scores:
    """Return each arm's score on each dataset, and every pair of arms compared.

    Args:
        questions: All that were asked, of any number of datasets.
        predictions: By arm, one per question.
        prompts: By arm, the name of the prompt it answered.
        settings: What to group by.
    """
    arms: list[ArmScore] = []
    comparisons: list[ArmComparison] = []
    for dataset in dict.fromkeys(question.dataset for question in questions):
        asked = [question for question in questions if question.dataset == dataset]
        ids = {question.id for question in asked}
        answered = {
            arm: {one.question_id: one for one in some if one.question_id in ids}
            for arm, some in predictions.items()
        }
        arms += [
            _score_arm(dataset, arm, prompts[arm], asked, by_id, settings) for arm, by_id in answered.items()
        ]
        correct = {
            arm: {key: bool(one.is_correct) for key, one in by_id.items()} for arm, by_id in answered.items()
        }
        comparisons += _compare_arms(dataset, None, [question.id for question in asked], correct)
        for tag in settings.compare_groups:
            for value, members in _groups(asked, tag).items():
                comparisons += _compare_arms(dataset, f"{tag}={value}", [one.id for one in members], correct)
    return Scores(arms=arms, comparisons=comparisons)


def _score_arm(
    dataset: str,
    arm: str,
    prompt: str,
    asked: Sequence[Question],
    by_id: Mapping[str, Prediction],
    settings: EvaluateSettings,
) -> ArmScore:
    def share(members: Iterable[Question]) -> Share:
        verdicts = [by_id[question.id].is_correct is True for question in members if question.id in by_id]
        return _share(sum(verdicts), len(verdicts))

    def count(verdict: str) -> int:
        return sum(one.verdict == verdict for one in by_id.values())

    return ArmScore(
        arm=arm,
        dataset=dataset,
        prompt=prompt,
        share=share(asked),
        no_answer=count("no_answer"),
        truncated=count("truncated"),
        undecided=count("undecided"),
        groups={
            tag: {value: share(members) for value, members in _groups(asked, tag).items()}
            for tag in settings.group_by
        },
    )


def _share(correct: int, n: int) -> Share:
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
    return dict(sorted(found.items()))


def _compare_arms(
    dataset: str, group: str | None, ids: Sequence[str], correct: Mapping[str, IsCorrect]
) -> list[ArmComparison]:
    """Compare every two arms, on the questions that both answered."""
    from lema_local.statistics import compare_arms

    found = []
    for first, second in combinations(correct, 2):
        both = [key for key in ids if key in correct[first] and key in correct[second]]
        if both:
            result = compare_arms(
                [correct[first][key] for key in both],
                [correct[second][key] for key in both],
                names=(first, second),
            )
            found.append(
                ArmComparison(
                    dataset=dataset,
                    group=group,
                    first=first,
                    second=second,
                    n=len(both),
                    only_first=result.only_first,
                    only_second=result.only_second,
                    p_value=result.p_value,
                    difference=result.difference,
                    low=result.interval.low,
                    high=result.interval.high,
                    smallest_difference=result.smallest_difference,
                    sentence=result.sentence,
                )
            )
    return found
