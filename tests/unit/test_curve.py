"""The learning curve: nested subsets, its plan, and what may be concluded."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_run import FakeRun

from lema_local.corrections import choose_nested
from lema_local.curve.findings import Step, Training, Trend, _find_trend, describe_trend
from lema_local.curve.points import CurvePlan, estimate, plan_curve
from lema_local.errors import InputError, LemaError, RecipeError, RunStateError
from lema_local.jsonl import read_records
from lema_local.recipe import Recipe, settings_in_result
from lema_local.records import Correction, Question, Share
from lema_local.report.curve_chart import CurvePoint, draw_learning_curve
from lema_local.run_progress import ProgressFile
from lema_local.runs import Manifest, RunFolder
from lema_local.stage_runner import Outcome, StageRunner
from lema_local.stages.build import BuildSettings, build_arms
from lema_local.statistics import fit_slope


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return _with_accepted(FakeRun(train=20, test=4).write(tmp_path / "run"))


def _with_accepted(run: RunFolder) -> RunFolder:
    accepted = read_records(run.path / "4_filter/accepted.jsonl", Correction)
    _finish(run, "4_filter", {"accepted": len(accepted)})
    return run


def _finish(run: RunFolder, stage: str, counts: dict[str, Any], seconds: float = 0.0) -> None:
    manifest = Manifest(stage=stage, fingerprint="f", made_from={}, counts=counts, seconds=seconds)
    run.stage(stage).save_manifest(manifest)


# --- subsets ------------------------------------------------------------------------------------------------


def test_smaller_subsets_lie_within_larger_ones_whatever_the_order(run: RunFolder) -> None:
    corrections = read_records(run.path / "4_filter/accepted.jsonl", Correction)
    subsets = [choose_nested(corrections, count) for count in (3, 7, 12)]
    assert [len(some) for some in subsets] == [3, 7, 12]
    for smaller, larger in pairwise(subsets):
        assert all(one in larger for one in smaller)
    assert [one for one in corrections if one in subsets[1]] == subsets[1], "their order is kept"
    shuffled = random.Random(3).sample(corrections, len(corrections))
    assert sorted(map(repr, choose_nested(shuffled, 7))) == sorted(map(repr, subsets[1]))
    assert choose_nested(corrections, None) == choose_nested(corrections, 10**6) == corrections


def test_a_limited_build_keeps_all_rationales_and_matches_its_arms(run: RunFolder) -> None:
    questions = read_records(run.path / "0_questions/train.jsonl", Question)
    accepted = read_records(run.path / "4_filter/accepted.jsonl", Correction)
    arms = build_arms(questions, accepted, [], BuildSettings(max_corrections=5))
    kinds = {arm: [one.source["kind"] for one in examples] for arm, examples in arms.items()}
    assert kinds["lema"].count("gold") == kinds["cot"].count("gold") == 20
    assert kinds["lema"].count("correction") == kinds["cot"].count("corrected") == 5
    assert [one.question_id for one in arms["cot"]] == [one.question_id for one in arms["lema"]]


def test_runs_of_before_the_limit_keep_their_fingerprints() -> None:
    values = {"name": "x", "questions": {"train": "a", "test": ["b"]}, "student": {"model": "m"}}
    plain = Recipe.model_validate(values)
    limited = Recipe.model_validate({**values, "build": {"max_corrections": 5}})
    assert "max_corrections" not in settings_in_result(plain, "build")
    assert settings_in_result(limited, "build")["max_corrections"] == 5


# --- the plan -----------------------------------------------------------------------------------------------


def test_sizes_and_seeds_are_sorted_once_each(run: RunFolder) -> None:
    plan = plan_curve(run, "8,4,8,all", seeds="2,0,2", arms="lema")
    assert plan.sizes == (4, 8, plan.available)
    assert plan.seeds == (2, 0)
    assert [(one.size, one.seed) for one in plan.points][:4] == [(4, 2), (8, 2), (plan.available, 2), (4, 0)]
    assert plan.recipe.train.arms == ("lema",)
    limits = [plan.recipe_of(one).build.max_corrections for one in plan.points[:3]]
    assert limits == [4, 8, None], "the whole set is the run's own training file"
    assert plan.folder == run.path / "curve"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"sizes": "10000"}, "10,000 corrections are asked for, .* accepted ones"),
        ({"sizes": "0"}, "'0' is no number of corrections"),
        ({"sizes": "4,few"}, "'few' is no number of corrections"),
        ({"sizes": ","}, "names nothing"),
        ({"sizes": "4", "seeds": "-1"}, "'-1' is no seed"),
        ({"sizes": "4", "arms": "lima"}, r"train.arms.0: input should be 'cot', .* got 'lima'"),
        ({"sizes": "4", "overrides": ["sample.seed=3"]}, "rests on the run's own questions"),
        ({"sizes": "4", "overrides": ["train.seed=3"]}, "a curve sets that itself"),
    ],
)
def test_what_cannot_be_drawn_is_told(run: RunFolder, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        plan_curve(run, **flags)
    assert caught.value.hint
    assert caught.value.exit_code == RecipeError.exit_code == 2


def test_the_hint_of_too_large_a_size_keeps_the_others(run: RunFolder) -> None:
    with pytest.raises(InputError) as caught:
        plan_curve(run, "4,10000")
    assert caught.value.hint == "--sizes 4,all"


def test_a_run_that_has_not_come_to_its_filter_is_told(run: RunFolder, tmp_path: Path) -> None:
    run.stage("4_filter").manifest_path.unlink()
    with pytest.raises(RunStateError, match="has not come to its filter") as caught:
        plan_curve(run, "4")
    assert "--until filter" in str(caught.value.hint)
    with pytest.raises(RunStateError, match="holds no run"):
        plan_curve(RunFolder(tmp_path / "nothing"), "4")


def test_time_is_told_by_what_was_measured(run: RunFolder) -> None:
    def plan() -> CurvePlan:
        return plan_curve(run, "4,8", overrides=["train.batch_size=4", "train.epochs=2"])

    counts = {"lema": {"examples": 30, "correction": 10, "repeated": 0}}
    _finish(run, "5_build", counts)
    for arm in ("cot", "lema"):
        run.stage("6_train").path.joinpath(arm, "manifest.json").unlink()
    before = estimate(plan())
    assert [(one.examples, one.steps, one.seconds) for one in before] == [(24, 12, None), (28, 14, None)]
    _finish(run, "6_train/lema", {"optimizer_steps": 10}, seconds=20.0)
    told = estimate(plan())
    exporting = 2 * (12.0 + 12.5) / 2  # the fake run's exports; nothing is known of its evaluations by arm
    assert [one.seconds for one in told] == [
        pytest.approx(2 * (steps * 2.0 + exporting)) for steps in (12, 14)
    ]
    _finish(plan().points[0].folder, "8_evaluate", {})
    done = estimate(plan())[0]
    assert (done.finished, done.trainings, done.seconds) == (2, 2, 0.0)


def test_a_stage_that_costs_money_is_never_begun(tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "run")
    runner = StageRunner(
        RunFolder(tmp_path / "point"), tell=print, reuse=other,
        progress=ProgressFile(tmp_path / "point", lambda *_: None, str),  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    runner.only_taken = frozenset({"correct"})

    def work(*_: object) -> Outcome:
        raise AssertionError("begun")

    with pytest.raises(RunStateError, match="has not finished its stage 'correct'"):
        runner.do("correct", {"teacher": "a"}, work)
    other.stage("2_correct").save_manifest(
        Manifest(stage="correct", fingerprint="x", made_from={"teacher": "b"})
    )
    with pytest.raises(RunStateError, match="teacher: was b, is a"):
        runner.do("correct", {"teacher": "a"}, work)


# --- what may be concluded ----------------------------------------------------------------------------------


def test_the_slope_is_that_of_least_squares() -> None:
    slope, interval = fit_slope([0, 1, 2, 3], [1.0, 3.2, 4.8, 7.0])
    assert slope == pytest.approx(1.96)
    assert interval is not None
    # By hand: residuals -0.06, 0.18, -0.18, 0.06; s^2 = 0.036; half width 4.303 * sqrt(0.036 / 5).
    assert interval.high - slope == pytest.approx(4.302653 * (0.036 / 5) ** 0.5, rel=1e-4)
    assert fit_slope([0, 1], [0.0, 1.0]) == (1.0, None)
    with pytest.raises(LemaError, match="two different values"):
        fit_slope([1, 1], [0.0, 1.0])


def _training(size: int, seed: int, value: float) -> Training:
    share = Share(n=200, correct=round(200 * value), pass_at_1=value, low=value - 0.05, high=value + 0.05)
    return Training(
        dataset="d",
        arm="lema",
        size=size,
        corrections=size,
        seed=seed,
        examples=size,
        optimizer_steps=9,
        share=share,
    )


def _trend(values: dict[int, float], seeds: int = 3) -> Trend:
    """The first so many questions are right in every training of a size."""
    right = {
        size: {f"q{number}": float(number < 200 * value) for number in range(200)}
        for size, value in values.items()
    }
    trainings = [
        _training(size, seed, value + 0.002 * (seed - 1))
        for size, value in values.items()
        for seed in range(seeds)
    ]
    return _find_trend("d", "lema", right, trainings)


def test_a_rising_curve_says_so_and_what_its_last_step_brought() -> None:
    trend = _trend({100: 0.3, 200: 0.4, 400: 0.5})
    assert trend.whole.difference == pytest.approx(0.2)
    assert trend.last.difference == pytest.approx(0.1)
    assert trend.per_doubling == pytest.approx(0.1, abs=0.001)
    assert trend.slope_low is not None
    assert (
        "So far more corrections have helped; the last step, from 200, brought +10.0 points" in trend.sentence
    )
    assert "lies beyond what was measured" in trend.sentence
    assert "hardly known" not in trend.sentence


def test_a_curve_that_has_flattened_is_told() -> None:
    sentence = _trend({100: 0.3, 200: 0.5, 400: 0.5}).sentence
    assert (
        "brought +0.0 points, 95 % interval +0.0 to +0.0: by itself not to be told from nothing" in sentence
    )


def test_a_falling_and_a_level_curve_promise_nothing() -> None:
    assert "made it worse here" in _trend({100: 0.5, 200: 0.4, 400: 0.3}).sentence
    level = _trend({100: 0.5, 400: 0.505}, seeds=1)
    assert "cannot be told from these trainings, which is no proof" in level.sentence
    assert "With 1 seed the spread between trainings is hardly known" in level.sentence
    assert level.slope_low is None


def test_rising_questions_do_not_outweigh_trainings_that_scatter() -> None:
    step = Step(smaller=100, larger=400, difference=0.05, low=0.01, high=0.09)
    trend = Trend(
        dataset="d",
        arm="lema",
        whole=step,
        last=step,
        per_doubling=0.025,
        slope_low=-0.04,
        slope_high=0.09,
        sentence="",
    )
    told = describe_trend(trend, 200, [_training(100, seed, 0.4) for seed in range(3)])
    assert "cannot be told" in told


def test_the_chart_shows_every_training_and_reads_as_text() -> None:
    points = [
        CurvePoint(arm, size, seed, _training(size, seed, 0.3 + size / 2000).share)
        for arm in ("cot", "lema")
        for size in (100, 200, 400)
        for seed in (0, 1)
    ]
    base = Share(n=200, correct=40, pass_at_1=0.2, low=0.15, high=0.26)
    chart = draw_learning_curve("d & <co>", points, base)
    assert ET.fromstring(chart.svg).tag.endswith("svg")
    assert chart.png.startswith(b"\x89PNG")
    for words in ("base: 20.0 %", "lema, 400 corrections, seed 1: 50.0 %"):
        assert words in chart.description
    assert draw_learning_curve("d", points[:1], None).svg
