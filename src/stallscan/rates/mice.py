"""Rates of groups of mice: their mean, their difference, and whether it is more than chance."""

import warnings
from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stallscan.rates.rogan_gladen import correct, correct_difference
from stallscan.scores.intervals import TAILS, Share, Z, around, clopper_pearson, jeffreys, subtract

# Every way to part the mice is tried up to so many (9 against 9 mice); chosen.
MOST_SPLITS = 50_000
PERMUTATION_SEED = 0
# By how much the variance between mice is enlarged at most. Chosen among 30 intervals, see
# benchmarks/rates_coverage.md; without a bound a single mouse with stalls would tell nothing.
MOST_SPREAD_GAIN = 3.0
# A variance up to this is rounding.
NO_SPREAD = 1e-15


def mean_of_mice(shares: ArrayLike, scored: ArrayLike, false_stalled: Any = 0.0) -> Share:
    """Mean over mice, every mouse counting the same, with an interval for the mice to come.

    The variance of the mean, estimated from the spread between mice (which contains the chance of
    counting), is turned into an effective number of independent recordings, reduced for the few
    mice that it is estimated from, and used in the interval of Clopper & Pearson: Korn & Graubard
    (1998). Two things are added. That number is never above what independent recordings give, so
    mice that happen to agree do not make the mean certain. And where mice differ as much as their
    mean, the variance is multiplied by up to `MOST_SPREAD_GAIN`, because then few mice show too
    small a spread about too small a mean.

    If no mouse has a stall, the upper limit is the mean at which mice with exponentially
    distributed rates (standard deviation equal to the mean) show none in 2.5 % of trials.

    Parameters
    ----------
    shares : ndarray
        (..., M): share of each mouse, 0 to 1; at least two mice.
    scored : ndarray
        (..., M): recordings of each, at least 1.
    false_stalled : float or ndarray
        (...): share of the flowing called stalled. It is the same in all mice, so the spread is
        compared with what is above it.
    """
    from scipy.special import stdtrit

    shares, scored = np.asarray(shares, np.float64), np.asarray(scored, np.float64)
    mice = shares.shape[-1]
    mean = shares.mean(axis=-1)
    variance = shares.var(axis=-1, ddof=1) / mice
    # Independent recordings that would leave the variance which counting alone does.
    alike = mice / np.broadcast_to(1.0 / scored, shares.shape).mean(axis=-1)
    between = np.maximum(variance - mean * (1.0 - mean) / alike, 0.0)
    spread = np.minimum(between / np.maximum(mean - false_stalled, 1e-9) ** 2, 1.0 - 1e-9)
    gain = np.minimum((1.0 - spread) ** -2, MOST_SPREAD_GAIN)
    few = (Z / stdtrit(mice - 1, TAILS[1])) ** 2
    independent = np.minimum(
        np.divide(
            *(mean * (1.0 - mean) * few, variance * gain),
            out=np.array(alike),
            where=variance > NO_SPREAD,
        ),
        alike,
    )
    interval = clopper_pearson(mean * independent, independent)
    none = np.minimum((TAILS[0] ** (-1.0 / mice) - 1.0) * mice / alike, 1.0)
    return Share(
        mean,
        np.where(mean >= 1, np.minimum(interval.low, 1.0 - none), interval.low)[()],
        np.where(mean <= 0, np.maximum(interval.high, none), interval.high)[()],
    )


def corrected_mean_of_mice(
    shares: ArrayLike, scored: ArrayLike, sensitivity: Share, false_stalled: Share
) -> Share:
    """Correct the mean over mice; the interval contains that of all recordings at once.

    Parameters
    ----------
    shares, scored : ndarray
        (..., M) each, as for `mean_of_mice`.
    sensitivity, false_stalled : Share
        As for `correct`.
    """
    called = mean_of_mice(shares, scored, false_stalled.value)
    pooled = correct(pool(shares, scored), sensitivity, false_stalled)
    return around(correct(called, sensitivity, false_stalled), pooled)


def pool(shares: ArrayLike, scored: ArrayLike) -> Share:
    """Share of the recordings of all mice as if they were independent: (..., M) to (...)."""
    scored = np.asarray(scored, np.float64)
    return jeffreys((np.asarray(shares, np.float64) * scored).sum(axis=-1), scored.sum(axis=-1))


def welch(first: ArrayLike, second: ArrayLike) -> tuple[Share, Any]:
    """Difference of the means of two groups of mice, and its two-sided p (Welch 1947).

    Parameters
    ----------
    first, second : ndarray
        (..., M) each: one value a mouse, at least two mice.

    Returns
    -------
    Share
        Second less first, with the t interval for unequal spreads.
    float or ndarray
        p; 1 where neither group has any spread, of which nothing can be concluded.
    """
    from scipy import stats

    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    # scipy warns of groups without spread: one is no matter, and two are dealt with here.
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        tested = stats.ttest_ind(second, first, axis=-1, equal_var=False)
        low, high = tested.confidence_interval()
    spread = sum(group.var(axis=-1, ddof=1) / group.shape[-1] for group in (first, second))
    known = spread > NO_SPREAD
    return Share(
        second.mean(axis=-1) - first.mean(axis=-1),
        np.where(known, low, -np.inf)[()],
        np.where(known, high, np.inf)[()],
    ), np.where(known, tested.pvalue, 1.0)[()]


def corrected_difference_of_mice(
    shares: tuple[ArrayLike, ArrayLike],
    scored: tuple[ArrayLike, ArrayLike],
    sensitivity: Share,
    false_stalled: Share,
) -> tuple[Share, Any]:
    """Corrected difference of the means of two groups of mice, and its two-sided p.

    A limit between 0 and the difference is Welch's. The others are as far out as the intervals of
    the two means, joined by MOVER, allow, because Welch's symmetric interval is too short on the
    side of the long tail that rates have. The whole contains the interval of independent
    recordings, and p is the larger of Welch's and theirs. p is below 0.05 exactly where 0 is
    outside.

    Parameters
    ----------
    shares, scored : tuple of ndarray
        (..., M) for each group, as for `mean_of_mice`.
    sensitivity, false_stalled : Share
        As for `correct`; the same for both groups.

    Returns
    -------
    Share
        Second less first.
    float or ndarray
        p.
    """
    from scipy.special import ndtr

    tested, p = welch(*shares)
    # Without any spread the interval of Welch is infinite: then only the recordings tell.
    told = np.isfinite(tested.low)
    low, high = (np.where(told, limit, tested.value) for limit in tested[1:])
    means = subtract(
        *(
            mean_of_mice(group, count, false_stalled.value)
            for group, count in zip(shares, scored, strict=True)
        )
    )
    pooled = subtract(*map(pool, shares, scored))
    mice = Share(
        tested.value,
        np.where(low > 0, low, np.minimum(low, means.low))[()],
        np.where(high < 0, high, np.maximum(high, means.high))[()],
    )
    difference, vessels = (
        correct_difference(called, sensitivity, false_stalled) for called in (mice, pooled)
    )
    # The limit on the side of 0 lies Z standard errors from the difference.
    side = np.where(tested.value < 0, -1.0, 1.0)
    room = np.where(side < 0, pooled.high - pooled.value, pooled.value - pooled.low)
    of_vessels = np.minimum(2.0 * ndtr(-Z * side * pooled.value / room), 1.0)
    return around(difference, vessels), np.maximum(np.where(told, p, 0.0), of_vessels)[()]


def permutation_p(first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided p of the difference of two means, by trying the ways to part the mice in two.

    All ways where they are `MOST_SPLITS` or fewer: then p is exact. Otherwise as many, drawn with a
    fixed seed.

    Parameters
    ----------
    first, second : ndarray
        (M,) each: one value a mouse.
    """
    from scipy import stats

    result = stats.permutation_test(
        (np.asarray(first, np.float64), np.asarray(second, np.float64)),
        lambda one, two, axis: two.mean(axis=axis) - one.mean(axis=axis),
        vectorized=True,
        n_resamples=MOST_SPLITS,
        rng=np.random.default_rng(PERMUTATION_SEED),
    )
    return float(result.pvalue)


def smallest_permutation_p(first: int, second: int) -> float:
    """Give the smallest p that `permutation_p` can have with so many mice in the groups."""
    return min(1.0, 2.0 / comb(first + second, first))
