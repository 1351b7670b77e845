"""How sure the numbers are: intervals for one arm, paired tests for two, and what a test set could have shown.

SciPy and statsmodels do the computing; they are imported by the functions that need them. Accuracies and
differences are shares (0 to 1); the sentences for people speak of percent and points.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lema_local.errors import LemaError


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's interval of a share; the whole of 0 to 1 where `n` is 0.

    Source: Wilson, JASA 22 (1927), by `scipy.stats.binomtest(...).proportion_ci(method="wilson")`.
    """
    if n == 0:
        return Interval(0.0, 1.0)
    from scipy.stats import binomtest

    found = binomtest(correct, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the two-sided p of McNemar's exact test.

    Source: McNemar, Psychometrika 12 (1947), by `statsmodels.stats.contingency_tables.mcnemar(exact=True)`.

    Args:
        only_a: Questions that a alone answers rightly.
        only_b: Questions that b alone answers rightly.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    if only_a == only_b:
        return 1.0  # statsmodels doubles the middle of the distribution here and may end above 1
    return min(1.0, float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue))


def bootstrap_mean(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 9999, seed: int = 0
) -> tuple[float, Interval]:
    """Return (mean, its bootstrap interval over the values); of questions, one value each.

    Source: Efron, Annals of Statistics 7 (1979), by `scipy.stats.bootstrap(method="percentile")`.

    Args:
        values: At least one.
        confidence: Of the interval.
        resamples: Drawn question sets.
        seed: The same seed gives the same interval.

    Raises:
        LemaError: If there are no values.
    """
    import numpy as np
    from scipy.stats import bootstrap

    if not values:
        raise LemaError("no questions to take a mean over")
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    if np.all(found == found[0]):
        return mean, Interval(mean, mean)
    interval = bootstrap(
        (found,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(found)),  # resamples held in memory at once
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return mean, Interval(float(interval.low), float(interval.high))


def paired_bootstrap(
    a: Sequence[bool], b: Sequence[bool], *, confidence: float = 0.95, resamples: int = 9999, seed: int = 0
) -> tuple[float, Interval]:
    """Return (accuracy of b minus accuracy of a, its bootstrap interval over questions).

    Args:
        a: Whether each question was answered rightly by a.
        b: The same questions in the same order, by b.
        confidence: Of the interval.
        resamples: Drawn question sets.
        seed: The same seed gives the same interval.

    Raises:
        LemaError: If the two differ in length or are empty.
    """
    if len(a) != len(b) or not a:
        raise LemaError(f"a paired comparison needs the same questions twice, found {len(a)} and {len(b)}")
    gains = [float(second) - float(first) for first, second in zip(a, b, strict=True)]
    return bootstrap_mean(gains, confidence=confidence, resamples=resamples, seed=seed)


def smallest_detectable_difference(
    n: int, discordant_rate: float, *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the smallest true difference of accuracy that McNemar's exact test shows with this power.

    The power is exact: over the binomial number of discordant questions, and over how they fall to either arm.
    Where the difference exceeds the rate of discordance, all discordant questions fall to one arm.

    Source: the exact unconditional power of McNemar's test, as in Duffy, Biometrics 40 (1984); binomial
    probabilities and root by SciPy.

    Args:
        n: Questions that both arms answered.
        discordant_rate: Share of questions that only one of the two answers rightly.
        power: Probability of p <= alpha under that difference.
        alpha: Level of the two-sided test.

    Returns:
        A share of the questions; infinity where even the largest difference would not show.
    """
    from scipy.optimize import brentq

    if n == 0 or _power_of_mcnemar(n, 1.0, 1.0, alpha) < power:
        return math.inf

    def lacking(difference: float) -> float:
        return _power_of_mcnemar(n, max(discordant_rate, difference), difference, alpha) - power

    return float(brentq(lacking, 1e-9, 1.0, xtol=1e-5))


def _power_of_mcnemar(n: int, discordant_rate: float, difference: float, alpha: float) -> float:
    """Return the probability of p <= alpha for a true difference at a rate of discordance."""
    import numpy as np
    from scipy.stats import binom

    low, high = binom.ppf([1e-9, 1 - 1e-9], n, discordant_rate)
    discordant = np.arange(max(1, int(low)), int(high) + 1)
    # The largest count whose lower tail is within alpha / 2; -1 where no count is that rare.
    edge = binom.ppf(alpha / 2, discordant, 0.5)
    edge = np.where(binom.cdf(edge, discordant, 0.5) <= alpha / 2, edge, edge - 1)
    share = (discordant_rate + difference) / (2 * discordant_rate)
    rejected = binom.cdf(edge, discordant, share) + binom.sf(discordant - edge - 1, discordant, share)
    return float(np.sum(binom.pmf(discordant, n, discordant_rate) * rejected))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for several tests, in the order given.

    Source: Holm, Scand. J. Statistics 6 (1979), by `statsmodels.stats.multitest.multipletests`.
    """
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Return the unbiased probability that one of `k` samples is right, from `n` samples of a question.

    Source: Chen et al., arXiv 2107.03374, equation 1.

    Raises:
        LemaError: If there are fewer than `k` samples.
    """
    if not 0 < k <= n or not 0 <= correct <= n:
        raise LemaError(f"pass@{k} needs at least {k} samples of a question, found {n} ({correct} right)")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def maj_at_k(answers: Sequence[str | None], is_correct: Sequence[bool], k: int | None = None) -> float:
    """Return the probability that the majority of the first `k` samples of a question is right.

    Equal votes are drawn by lot: the share of the tied answers that are right. A sample without an answer has no
    vote; 0 where nobody votes.

    Args:
        answers: Final answers, equal ones written equally (`lema_local.answers.vote_key`).
        is_correct: Whether each is right.
        k: None for all samples.
    """
    pairs = list(zip(answers, is_correct, strict=True))[:k]
    votes = Counter(answer for answer, _ in pairs if answer is not None)
    if not votes:
        return 0.0
    right = {answer for answer, correct in pairs if correct}
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    return sum(answer in right for answer in tied) / len(tied)


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """Several trainings of one arm."""

    n: int
    mean: float
    deviation: float
    """Standard deviation between seeds (n - 1); 0 for one seed."""
    interval: Interval
    """Of the mean, by Student's t; not a number for one seed."""


def summarize_seeds(values: Sequence[float], confidence: float = 0.95) -> SeedSummary:
    """Return mean and spread of one number over training seeds.

    Raises:
        LemaError: If there are no values.
    """
    if not values:
        raise LemaError("no seeds to summarize")
    import numpy as np
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) == 1:
        return SeedSummary(1, mean, 0.0, Interval(math.nan, math.nan))
    deviation = float(np.std(values, ddof=1))
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    return SeedSummary(len(values), mean, deviation, Interval(mean - half, mean + half))


def describe_seeds(first: str | None, second: str, summary: SeedSummary) -> str:
    """Return what several training seeds say of an arm, or of the difference `second` less `first`."""
    low, high = summary.interval
    points = [f"{100 * value:{'+' if first else ''}.1f}" for value in (summary.mean, low, high)]
    told = (
        f"{second if first is None else f'{second} less {first}'} over {summary.n} training seeds: mean {points[0]} "
        f"{'points' if first else '%'}, standard deviation {100 * summary.deviation:.1f} "
        f"(95 % interval of the mean {points[1]} to {points[2]}, by Student's t)."
    )
    if first is None:
        return told
    better = (second, first) if summary.mean > 0 else (first, second)
    if low <= 0 <= high or summary.n < 3 or not summary.deviation:
        return f"{told} So few trainings do not tell which of the two is better."
    return (
        f"{told} Trained anew on these data, {better[0]} is better than {better[1]} on these questions; this speaks "
        f"of the training's chance, not of other questions."
    )


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """Two arms on the same questions; the difference is second minus first."""

    names: tuple[str, str]
    n: int
    correct_first: int
    correct_second: int
    only_first: int
    only_second: int
    difference: float
    """Accuracy of the second minus accuracy of the first."""
    interval: Interval
    """Of the difference: paired bootstrap over questions, 95 %."""
    p_value: float
    """McNemar's exact test, two-sided."""
    smallest_difference: float
    """The smallest true difference that this test set shows with 80 % power, at the discordance found."""
    alpha: float = 0.05
    p_holm: float | None = None
    """`p_value` after Holm's correction; None where this test stands alone."""
    tests: int = 1
    """Tests that are judged together."""

    @property
    def is_different(self) -> bool:
        """Whether the test tells the arms apart at its level, corrected where there are several."""
        return (self.p_value if self.p_holm is None else self.p_holm) <= self.alpha

    @property
    def sentence(self) -> str:
        """What may be concluded, and what not, for a person."""
        return f"{self._describe()} {self._conclude()}"

    def _describe(self) -> str:
        first, second = self.names
        low, high = self.interval
        more = f"{abs(self.difference) * 100:.1f} points {'more' if self.difference > 0 else 'fewer'}"
        holm = (
            ""
            if self.p_holm is None
            else f", {format_p(self.p_holm)} with Holm's correction for {self.tests} tests of arms and datasets"
        )
        return (
            f"{second} answers {self.correct_second:,} of {self.n:,} questions rightly, {first} "
            f"{self.correct_first:,}: {more if self.difference else 'as many'} (95 % interval {low * 100:+.1f} to "
            f"{high * 100:+.1f}; {self.only_second} only {second}, {self.only_first} only {first}; exact McNemar "
            f"{format_p(self.p_value)}{holm})."
        )

    def _conclude(self) -> str:
        if self.is_different:
            worse, better = self.names if self.difference > 0 else reversed(self.names)
            return (
                f"On these questions {better} is better than {worse} by more than chance explains; this speaks of "
                f"this pair as evaluated, not of other datasets or training seeds."
            )
        return (
            f"The two cannot be told apart on these questions, which is no proof that they are equal: with this many "
            f"questions a true difference below {_in_points(self.smallest_difference)} is missed more often than "
            f"one time in five."
        )


def adjust_together(comparisons: Sequence[ArmComparison]) -> list[ArmComparison]:
    """Return comparisons that are judged together, with Holm's correction where there is more than one."""
    if len(comparisons) < 2:
        return list(comparisons)
    adjusted = holm([one.p_value for one in comparisons])
    return [
        replace(one, p_holm=p, tests=len(comparisons)) for one, p in zip(comparisons, adjusted, strict=True)
    ]


def format_p(p_value: float) -> str:
    """Return `p = 0.034`, or `p < 0.001`."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _in_points(share: float) -> str:
    return "100 points" if math.isinf(share) else f"{share * 100:.1f} points"


def compare_arms(
    first: Sequence[bool],
    second: Sequence[bool],
    *,
    names: tuple[str, str],
    alpha: float = 0.05,
    seed: int = 0,
) -> ArmComparison:
    """Return the paired comparison of two arms on the same questions.

    Args:
        first: Whether each question was answered rightly (an undecided answer counts as not right).
        second: The same questions in the same order.
        names: As the sentence shall call them.
        alpha: Level of the test.
        seed: Of the bootstrap.

    Raises:
        LemaError: If the two differ in length or are empty.
    """
    difference, interval = paired_bootstrap(first, second, seed=seed)
    pairs = list(zip(first, second, strict=True))
    only_first = sum(one and not other for one, other in pairs)
    only_second = sum(other and not one for one, other in pairs)
    return ArmComparison(
        names=names,
        n=len(pairs),
        correct_first=sum(first),
        correct_second=sum(second),
        only_first=only_first,
        only_second=only_second,
        difference=difference,
        interval=interval,
        p_value=mcnemar_exact(only_first, only_second),
        smallest_difference=smallest_detectable_difference(
            len(pairs), (only_first + only_second) / len(pairs), alpha=alpha
        ),
        alpha=alpha,
    )


class Agreement(NamedTuple):
    """How far two people's grades of the same items agree."""

    n: int
    """Items that both graded."""
    agreed: float
    """Share of them with the same grade."""
    kappa: float | None
    """Cohen's kappa: 1 agreement, 0 what chance would give; None where both gave one and the same grade throughout."""
    interval: Interval | None
    """Its 95 % interval; None where there is no kappa."""


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Return the agreement of two people who graded the same items, in the same order.

    Source: Cohen, Educational and Psychological Measurement 20 (1960), with the large-sample variance of Fleiss,
    Cohen and Everitt (1969), by `statsmodels.stats.inter_rater.cohens_kappa`.

    Raises:
        LemaError: If the two differ in length or are empty.
    """
    import numpy as np
    from statsmodels.stats.inter_rater import cohens_kappa as compute

    if len(first) != len(second) or not first:
        raise LemaError(f"agreement needs the same items twice, found {len(first)} and {len(second)}")
    pairs = list(zip(first, second, strict=True))
    agreed = sum(one == other for one, other in pairs) / len(pairs)
    grades = sorted({*first, *second})
    if len(grades) == 1:
        return Agreement(len(pairs), agreed, None, None)
    counts = Counter(pairs)
    table = [[counts[row, column] for column in grades] for row in grades]
    with np.errstate(
        invalid="ignore"
    ):  # where one of them gave one grade only, rounding can make it negative
        found = compute(table)
    half = 1.959964 * math.sqrt(max(0.0, float(found.var_kappa)))
    kappa = float(found.kappa)
    return Agreement(len(pairs), agreed, kappa, Interval(max(-1.0, kappa - half), min(1.0, kappa + half)))


def fit_slope(
    x: Sequence[float], y: Sequence[float], confidence: float = 0.95
) -> tuple[float, Interval | None]:
    """Return (slope of the least-squares line, its interval by Student's t).

    Source: `scipy.stats.linregress`.

    Args:
        x: At least two different values.
        y: One each.
        confidence: Of the interval.

    Returns:
        None as the interval where two points leave no spread to tell it from.

    Raises:
        LemaError: If there are no two different values of x.
    """
    from scipy.stats import linregress, t

    if len(x) != len(y) or len(set(x)) < 2:
        raise LemaError(f"a slope needs two different values of x, found {len(set(x))}")
    found = linregress(x, y)
    slope = float(found.slope)
    if len(x) < 3:
        return slope, None
    half = float(t.ppf((1 + confidence) / 2, len(x) - 2)) * float(found.stderr)
    return slope, Interval(slope - half, slope + half)
