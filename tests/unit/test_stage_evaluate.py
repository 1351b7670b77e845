"""Scoring arms: shares, groups, sampled answers, comparisons judged together, training seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from lema_local.records import Prediction, Question, Scores
from lema_local.stages.evaluate import (
    EvaluateSettings,
    choose_best_on_test,
    compare_predictions,
    score_predictions,
)

PROMPTS = {
    "base": "few",
    "cot": "zero",
    "lema": "zero",
    "restart": "zero",
    "cot-seed-1": "zero",
    "lema-seed-1": "zero",
}


def ask(dataset: str, count: int, **tags: str) -> list[Question]:
    return [
        Question(
            id=f"{dataset}/{n}", dataset=dataset, split="test", question="?", gold_answer="1",
            tags={name: str(n % int(many)) for name, many in tags.items()},
        )
        for n in range(count)
    ]  # fmt: skip


def answer(
    question: Question, arm: str, *, right: bool | None = True, index: int = 0, text: str | None = "1"
) -> Prediction:
    verdict = "undecided" if right is None else "correct" if right else "wrong"
    if text is None:
        verdict = "no_answer"
    return Prediction(
        question_id=question.id, arm=arm, sample_index=index, text="", final_answer=text, gold_answer="1",
        is_correct=right, verdict=verdict, rule="number",
    )  # fmt: skip


def answer_all(questions: Iterable[Question], arm: str, right: Iterable[bool]) -> list[Prediction]:
    return [answer(one, arm, right=is_right) for one, is_right in zip(questions, right, strict=True)]


def score(questions: list[Question], **arms: list[bool]) -> Scores:
    rows = {arm: answer_all(questions, arm, right) for arm, right in arms.items()}
    return score_predictions(questions, rows, PROMPTS, EvaluateSettings())


def test_a_share_is_that_of_the_right_answers_and_an_undecided_one_is_not_right() -> None:
    questions = ask("d", 4)
    rows = [
        answer(questions[0], "base"),
        answer(questions[1], "base", right=False),
        answer(questions[2], "base", right=None),
        answer(questions[3], "base", right=False, text=None),
    ]
    [found] = score_predictions(questions, {"base": rows}, PROMPTS, EvaluateSettings()).arms
    assert (found.share.correct, found.share.n, found.no_answer, found.undecided) == (1, 4, 1, 1)
    assert found.prompt == "few"


def test_what_is_counted_is_counted_by_dataset() -> None:
    questions = [*ask("one", 2), *ask("two", 3)]
    rows = [answer(one, "base", right=False, text=None) for one in questions]
    scores = score_predictions(questions, {"base": rows}, PROMPTS, EvaluateSettings())
    assert [(one.dataset, one.no_answer) for one in scores.arms] == [("one", 2), ("two", 3)]


def test_math_is_reported_by_level_and_gsm8k_by_steps_without_being_asked() -> None:
    questions = [*ask("math", 10, level="5", subject="2"), *ask("gsm8k", 24, steps="12")]
    scores = score(questions, base=[n % 2 == 0 for n in range(34)])
    by_dataset = {one.dataset: one.groups for one in scores.arms}
    assert list(by_dataset["math"]) == ["level", "subject"]
    assert [share.n for share in by_dataset["math"]["level"].values()] == [2] * 5
    assert list(by_dataset["gsm8k"]["steps"]) == [str(n) for n in range(12)]  # 10 after 9


def test_pass_at_k_and_maj_at_k_of_known_samples() -> None:
    questions = ask("d", 2)
    samples = {
        questions[0].id: ["1", "2", "2", "1"],  # a draw of right and wrong
        questions[1].id: ["3", "1", "1", None],
    }
    drawn = [
        answer(one, "base", right=text == "1", index=n, text=text)
        for one in questions
        for n, text in enumerate(samples[one.id])
    ]
    [found] = score_predictions(
        questions,
        {"base": answer_all(questions, "base", [True, False])},
        PROMPTS,
        EvaluateSettings(samples=4),
        sampled={"base": drawn},
    ).arms
    assert found.sampled is not None
    assert found.share.correct == 1
    assert {k: one.value for k, one in found.sampled.pass_at_k.items()} == pytest.approx(
        {1: 0.5, 2: 1 - (1 / 6 + 1 / 6) / 2, 4: 1.0}
    )
    assert {k: one.value for k, one in found.sampled.maj_at_k.items()} == {4: 0.75}
    assert found.sampled.pass_at_k[2].low <= found.sampled.pass_at_k[2].value


def test_equal_answers_written_differently_vote_together() -> None:
    [question] = ask("d", 1)
    texts = ["1.0", "1", "2"]
    drawn = [answer(question, "base", right=t != "2", index=n, text=t) for n, t in enumerate(texts)]
    settings = EvaluateSettings(samples=3)
    rows = {"base": [answer(question, "base")]}
    [found] = score_predictions([question], rows, PROMPTS, settings, sampled={"base": drawn}).arms
    assert found.sampled is not None
    assert found.sampled.maj_at_k[3].value == 1.0


def test_two_datasets_are_judged_together() -> None:
    questions = [*ask("one", 60), *ask("two", 60)]
    cot = [False] * 120
    lema = [n < 7 or 60 <= n < 63 for n in range(120)]
    first, second = score(questions, cot=cot, lema=lema).comparisons
    assert (first.p_value, second.p_value) == (pytest.approx(2 / 2**7), pytest.approx(2 / 2**3))
    assert first.p_holm == pytest.approx(2 * first.p_value)
    assert second.p_holm == pytest.approx(second.p_value)
    assert first.tests == 2
    assert "with Holm's correction for 2 tests" in first.sentence


def test_trained_arms_are_judged_together_and_apart_from_the_base() -> None:
    questions = ask("one", 60)
    arms = {"cot": 0, "lema": 7, "restart": 8}
    scores = score(
        questions, base=[False] * 60, **{arm: [n < many for n in range(60)] for arm, many in arms.items()}
    )
    tests = {(one.first, one.second): one for one in scores.comparisons}
    assert {one.tests for one in tests.values()} == {3}
    assert tests["cot", "restart"].p_holm == pytest.approx(3 * 2 / 2**8)
    assert tests["cot", "lema"].p_holm == pytest.approx(2 * 2 / 2**7)
    assert tests["base", "restart"].p_holm == pytest.approx(3 * 2 / 2**8)
    assert "with Holm's correction for 3 tests of arms and datasets" in tests["cot", "lema"].sentence


def test_holm_decides_what_may_be_concluded() -> None:
    one_set = ask("one", 60)
    lema = [n < 6 for n in range(60)]
    [alone] = score(one_set, cot=[False] * 60, lema=lema).comparisons
    assert "better than cot" in alone.sentence
    assert alone.p_holm is None
    together = score([*one_set, *ask("two", 60)], cot=[False] * 120, lema=lema + [False] * 60)
    assert "cannot be told apart" in together.comparisons[0].sentence


def test_seeds_have_a_mean_a_spread_and_the_difference_of_equal_seeds() -> None:
    questions = ask("d", 10)
    rows = {
        "base": 3, "cot": 5, "cot-seed-1": 7, "lema": 6, "lema-seed-1": 9
    }  # fmt: skip
    predictions = {
        row: answer_all(questions, row, [n < many for n in range(10)]) for row, many in rows.items()
    }
    by_seed = {"cot": {0: "cot", 1: "cot-seed-1"}, "lema": {0: "lema", 1: "lema-seed-1"}}
    scores = score_predictions(questions, predictions, PROMPTS, EvaluateSettings(), by_seed=by_seed)
    assert [(one.first, one.second) for one in scores.seeds] == [
        (None, "cot"),
        (None, "lema"),
        ("cot", "lema"),
    ]
    difference = scores.seeds[-1]
    assert difference.values == pytest.approx([0.1, 0.2])
    assert difference.mean == pytest.approx(0.15)
    assert difference.deviation == pytest.approx(math.sqrt(0.005))
    assert "lema less cot over 2 training seeds" in difference.sentence
    assert {(one.first, one.second) for one in scores.comparisons} == {
        ("base", "cot"), ("base", "lema"), ("cot", "lema"),
    }  # fmt: skip


def test_answers_of_two_evaluations_are_compared_on_what_both_answered() -> None:
    questions = ask("d", 5)
    found = compare_predictions(
        {
            "a": {"d": answer_all(questions, "a", [True] * 5)},
            "b": {"d": answer_all(questions[1:], "b", [False] * 4), "other": []},
        }
    )
    assert [(one.first, one.second, one.n, one.only_first) for one in found] == [("a", "b", 4, 4)]


def test_the_best_checkpoint_on_test_is_labelled_as_such() -> None:
    questions = [*ask("one", 4), *ask("two", 2)]
    by_step = {
        10: answer_all(questions, "cot", [True, False, False, False, True, True]),
        20: answer_all(questions, "cot", [True, True, False, False, False, True]),
        30: answer_all(questions, "cot", [True, True, False, False, False, False]),
    }
    one, two = choose_best_on_test("cot", questions, by_step)
    assert (one.dataset, one.step, one.share.correct, one.checkpoints) == ("one", 20, 2, 3)
    assert (two.dataset, two.step, two.share.correct) == ("two", 10, 2)
    assert "the best of 3 checkpoints on these very test questions" in one.sentence
    assert choose_best_on_test("cot", questions, {}) == []


def test_scores_of_very_few_questions_can_be_read_again() -> None:
    scores = score(ask("d", 2), base=[True, False], cot=[True, True])
    assert scores.comparisons[0].smallest_difference == 1.0
    assert Scores.model_validate_json(scores.model_dump_json()) == scores
