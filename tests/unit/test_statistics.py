import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lema_local.errors import LemaError
from lema_local.statistics import (
    cohens_kappa,
    compare_arms,
    describe_seeds,
    format_p,
    holm,
    maj_at_k,
    mcnemar_exact,
    paired_bootstrap,
    pass_at_k,
    smallest_detectable_difference,
    summarize_seeds,
    wilson_interval,
)


def test_wilson_s_interval_is_the_published_one() -> None:
    # Source: Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, method 3.
    low, high = wilson_interval(81, 263)

    assert low == pytest.approx(0.2553, abs=5e-5)
    assert high == pytest.approx(0.3662, abs=5e-5)


def test_the_interval_of_nothing_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@settings(deadline=None)  # the first call imports SciPy
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share(counts: tuple[int, int]) -> None:
    correct, n = counts
    low, high = wilson_interval(correct, n)

    assert 0 <= low <= correct / n + 1e-12
    assert correct / n - 1e-12 <= high <= 1


def test_mcnemar_s_p_is_the_two_sided_binomial_one() -> None:
    assert mcnemar_exact(10, 3) == pytest.approx(2 * sum(math.comb(13, k) for k in range(4)) / 2**13)
    assert mcnemar_exact(3, 10) == mcnemar_exact(10, 3)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 1), (5, 5)])
def test_equal_counts_show_nothing(only_a: int, only_b: int) -> None:
    assert mcnemar_exact(only_a, only_b) == 1.0


def test_the_bootstrap_is_paired_and_repeats_with_its_seed() -> None:
    a = [True] * 500 + [False] * 500
    b = [True] * 540 + [False] * 460

    difference, interval = paired_bootstrap(a, b, seed=1)

    assert difference == pytest.approx(0.04)
    assert interval == paired_bootstrap(a, b, seed=1)[1]
    # Unpaired, the interval would be about +-0.044 wide; the forty discordant questions all fall to one side.
    assert 0.027 < interval.low < 0.04 < interval.high < 0.053


def test_without_a_discordant_question_the_interval_is_a_point() -> None:
    assert paired_bootstrap([True, False], [True, False]) == (0.0, (0.0, 0.0))


@pytest.mark.parametrize(("a", "b"), [([], []), ([True], [True, False])])
def test_unpaired_answers_are_refused(a: list[bool], b: list[bool]) -> None:
    with pytest.raises(LemaError, match="same questions"):
        paired_bootstrap(a, b)


def test_the_smallest_difference_has_the_power_that_it_says() -> None:
    import numpy as np

    n, discordant = 600, 0.15
    difference = smallest_detectable_difference(n, discordant)
    draw = np.random.default_rng(0)
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    found = [mcnemar_exact(int(a), int(b)) <= 0.05 for a, b, _ in draw.multinomial(n, shares, size=1500)]

    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


def test_more_questions_show_smaller_differences() -> None:
    found = [smallest_detectable_difference(n, 0.1) for n in (100, 400, 1600)]

    assert found == sorted(found, reverse=True)


def test_a_handful_of_questions_can_show_nothing() -> None:
    assert smallest_detectable_difference(5, 0.2) == math.inf
    assert smallest_detectable_difference(0, 0.2) == math.inf


def test_the_difference_may_exceed_the_discordance_that_was_found() -> None:
    assert 0.005 < smallest_detectable_difference(1000, 0.0) < 0.02


def test_holm_s_values_stay_in_their_places() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_pass_at_k_is_the_share_of_draws_with_a_right_one() -> None:
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 4) == 1.0
    assert pass_at_k(4, 0, 4) == 0.0
    assert pass_at_k(5, 2, 2) == pytest.approx(1 - 3 / 10)


@pytest.mark.parametrize(("n", "correct", "k"), [(2, 1, 3), (2, 3, 1), (2, 1, 0)])
def test_pass_at_k_needs_k_samples(n: int, correct: int, k: int) -> None:
    with pytest.raises(LemaError):
        pass_at_k(n, correct, k)


def test_ties_of_a_majority_are_averaged() -> None:
    assert maj_at_k(["1", "2", "2"], [True, False, False]) == 0.0
    assert maj_at_k(["1", "2", "1"], [True, False, True]) == 1.0
    assert maj_at_k(["1", "2"], [True, False]) == 0.5
    assert maj_at_k([None, None, "1"], [False, False, True]) == 1.0
    assert maj_at_k([None], [False]) == 0.0
    assert maj_at_k(["1", "2", "2"], [True, False, False], k=1) == 1.0


def test_seeds_have_a_mean_and_a_spread() -> None:
    summary = summarize_seeds([0.5, 0.52, 0.54])

    assert (summary.n, summary.mean, summary.deviation) == (3, pytest.approx(0.52), pytest.approx(0.02))
    assert summary.interval.low == pytest.approx(0.52 - 4.302653 * 0.02 / math.sqrt(3))
    assert summarize_seeds([0.5]).deviation == 0.0
    with pytest.raises(LemaError):
        summarize_seeds([])


def test_a_clear_difference_is_said_as_such() -> None:
    first = [True] * 500 + [False] * 500
    second = [True] * 600 + [False] * 400

    found = compare_arms(first, second, names=("cot", "lema"))

    assert (found.n, found.only_first, found.only_second) == (1000, 0, 100)
    assert found.is_different
    assert "lema answers 600 of 1,000 questions rightly, cot 500: 10.0 points more" in found.sentence
    assert "lema is better than cot by more than chance explains" in found.sentence
    assert "not of other datasets or training seeds" in found.sentence


def test_the_better_arm_is_named_whichever_it_is() -> None:
    found = compare_arms([True] * 60 + [False] * 40, [True] * 30 + [False] * 70, names=("cot", "lema"))

    assert "30.0 points fewer" in found.sentence
    assert "cot is better than lema" in found.sentence


def test_no_difference_is_never_called_equality() -> None:
    first = [True, False] * 500
    second = [True, False] * 490 + [False, True] * 10

    found = compare_arms(first, second, names=("cot", "lema"))

    assert not found.is_different
    assert "cannot be told apart" in found.sentence
    assert "no proof that they are equal" in found.sentence
    assert f"below {found.smallest_difference * 100:.1f} points" in found.sentence


def test_the_same_answers_are_as_many() -> None:
    found = compare_arms([True, False], [True, False], names=("cot", "lema"))

    assert "as many" in found.sentence
    assert found.p_value == 1.0


def test_small_p_values_are_not_written_as_zero() -> None:
    assert format_p(1e-9) == "p < 0.001"
    assert format_p(0.0341) == "p = 0.034"


@pytest.mark.parametrize(
    ("values", "tells"),
    [([0.02, 0.021, 0.022], True), ([0.02, 0.021], False), ([0.02] * 3, False), ([-0.1, 0.1, 0.0], False)],
)
def test_only_three_differing_seeds_on_one_side_of_nothing_tell(values: list[float], tells: bool) -> None:
    sentence = describe_seeds("cot", "lema", summarize_seeds(values))
    assert ("lema is better than cot" in sentence) == tells
    assert ("do not tell" in sentence) != tells


def test_one_who_grades_all_alike_agrees_by_chance_only() -> None:
    found = cohens_kappa(["excellent"] * 9 + ["poor"], ["excellent"] * 10)
    assert found.kappa == 0.0
    assert found.interval == (0.0, 0.0)
