"""Means over mice, differences between groups of mice, and their significance."""

import warnings
from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stallscan.rates.rogan_gladen import correct, correct_difference
from stallscan.scores.intervals import (
    TAILS,
    Share,
    Z,
    around,
    clopper_pearson,
    exactly,
    jeffreys,
    subtract,
)

# Try all splits of the mice into two groups up to this number (9 against 9 mice have 48,620), and
# otherwise this many random ones; chosen.
MOST_SPLITS = 50_000
PERMUTATION_SEED = 0
# Largest factor on the variance between mice, chosen among 30 kinds of intervals
# (benchmarks/rates_coverage.md). Without a limit, the interval would be useless if only a single
# mouse has stalls.
MOST_SPREAD_GAIN = 3.0
# A variance up to this is a rounding error.
NO_SPREAD = 1e-15


def mean_of_mice(shares: ArrayLike, scored: ArrayLike, false_stalled: Any = 0.0) -> Share:
    """Compute the unweighted mean over mice with a 95 % interval for the population of mice.

    The interval is that of Korn & Graubard (1998). The variance of the mean, estimated from the
    spread between mice (which includes the counting error), is converted to an effective number of
    independent recordings. This number is reduced because few mice give an uncertain variance, and
    inserted into the Clopper-Pearson interval.

    Two changes are our own. The effective number is at most that of independent recordings, so mice
    that agree by chance do not make the mean look certain. And where mice differ by as much as
    their mean, the variance is multiplied by up to `MOST_SPREAD_GAIN`, because few mice then tend
    to underestimate both the mean and the spread.

    If no mouse has a stall, the upper limit is the mean for which mice with exponentially
    distributed rates (standard deviation equal to the mean) have no stall in 2.5 % of trials.

    Parameters
    ----------
    shares : ndarray
        (..., M): share of each mouse, 0 to 1; at least two mice.
    scored : ndarray
        (..., M): recordings of each mouse, at least 1.
    false_stalled : float or ndarray
        (...): share of the flowing called stalled. It is the same in all mice, so the spread is
        judged relative to the excess over it.
    """
    from scipy.special import stdtrit

    shares, scored = np.asarray(shares, np.float64), np.asarray(scored, np.float64)
    mice = shares.shape[-1]
    mean = shares.mean(axis=-1)
    variance = shares.var(axis=-1, ddof=1) / mice  # of the mean
    # Effective number of independent recordings if the mice did not differ: it has the same
    # counting error. (...), as everything below.
    alike = mice * equal_size(np.broadcast_to(scored, shares.shape))
    # Variance of the mean due to true differences between mice.
    between = np.maximum(variance - mean * (1.0 - mean) / alike, 0.0)
    spread = np.minimum(between / np.maximum(mean - false_stalled, 1e-9) ** 2, 1.0 - 1e-9)
    gain = np.minimum((1.0 - spread) ** -2, MOST_SPREAD_GAIN)
    # Below 1, because the variance is estimated with M - 1 degrees of freedom.
    few = (Z / stdtrit(mice - 1, TAILS[1])) ** 2
    independent = np.minimum(
        np.divide(
            mean * (1.0 - mean) * few,
            variance * gain,
            out=np.array(alike),
            where=variance > NO_SPREAD,
        ),
        alike,
    )
    interval = clopper_pearson(mean * independent, independent)
    # Upper limit without any stall; the lower limit without any flowing one mirrors it.
    none = np.minimum((TAILS[0] ** (-1.0 / mice) - 1.0) * mice / alike, 1.0)
    return Share(
        mean,
        np.where(mean >= 1, np.minimum(interval.low, 1.0 - none), interval.low)[()],
        np.where(mean <= 0, np.maximum(interval.high, none), interval.high)[()],
    )


def corrected_mean_of_mice(
    shares: ArrayLike,
    scored: ArrayLike,
    sensitivity: Share,
    false_stalled: Share,
    *,
    differs: bool = False,
) -> Share:
    """Correct the mean over mice; its interval contains that of the pooled recordings.

    Parameters are those of `mean_of_mice`, (..., M), and of `correct`, (...). If the accuracy
    `differs` between mice, it is that of `reviewed.balance`, and holds only where all mice have the
    same weight, so the recordings are pooled with these weights.
    """
    called = mean_of_mice(shares, scored, false_stalled.value)
    pooled = pool_equally(shares, scored) if differs else pool(shares, scored)
    return around(
        correct(called, sensitivity, false_stalled),
        correct(pooled, sensitivity, false_stalled),
    )


def level(
    shares: ArrayLike,
    sensitivity: Share,
    false_stalled: Share,
    each: tuple[ArrayLike, ArrayLike],
) -> Any:
    """Return the shares called stalled as if all mice of a group had the same accuracy.

    After a review, mice differ in the wrong calls that remain. That is no difference in stalls, so
    it must not count as spread between mice. The mean over mice stays the same. Shares that would
    differ more than before are left as they are: with few calls, the wrong calls that are expected
    exceed those that are there.

    Parameters
    ----------
    shares : ndarray
        (..., M): share of each mouse called stalled.
    sensitivity, false_stalled : Share
        (...): of the group, from `reviewed.balance`.
    each : tuple of ndarray
        (..., M) both: sensitivity and share of false calls of each mouse.
    """
    shares, (sensitivities, false) = np.asarray(shares, np.float64), map(np.asarray, each)
    gain = np.asarray(sensitivity.value - false_stalled.value)[..., np.newaxis]
    levelled = gain * (shares - false) / (sensitivities - false)
    levelled += (shares - levelled).mean(axis=-1, keepdims=True)
    is_closer = levelled.var(axis=-1, keepdims=True) < shares.var(axis=-1, keepdims=True)
    return np.where(is_closer, levelled, shares)


def pool(shares: ArrayLike, scored: ArrayLike) -> Share:
    """Pool the recordings of all mice as if they were independent: (..., M) to (...)."""
    scored = np.asarray(scored, np.float64)
    return jeffreys((np.asarray(shares, np.float64) * scored).sum(axis=-1), scored.sum(axis=-1))


def pool_equally(shares: ArrayLike, scored: ArrayLike) -> Share:
    """Pool as `pool` does, but give all mice the same weight: (..., M) to (...)."""
    shares = np.asarray(shares, np.float64)
    return pool(shares, np.broadcast_to(equal_size(scored)[..., np.newaxis], shares.shape))


def equal_size(scored: ArrayLike) -> Any:
    """Return the number of recordings per mouse, if all had the same, with an equal error.

    This is the harmonic mean of `scored`, (..., M) to (...): the mean over mice then has the same
    counting error.
    """
    return 1.0 / (1.0 / np.asarray(scored, np.float64)).mean(axis=-1)


def welch(first: ArrayLike, second: ArrayLike) -> tuple[Share, Any]:
    """Compute the difference of the means of two groups of mice, and its two-sided p (Welch 1947).

    Each group is (..., M): one value per mouse, at least two mice. The difference is second minus
    first, with the t interval for unequal variances. p is 1, and the interval infinite, if neither
    group has any spread.
    """
    from scipy import stats

    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    # scipy warns about groups without spread. One does no harm, and two are handled below.
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        tested = stats.ttest_ind(second, first, axis=-1, equal_var=False)
        low, high = tested.confidence_interval()
    spread = sum(group.var(axis=-1, ddof=1) / group.shape[-1] for group in (first, second))
    is_defined = spread > NO_SPREAD
    return Share(
        second.mean(axis=-1) - first.mean(axis=-1),
        np.where(is_defined, low, -np.inf)[()],
        np.where(is_defined, high, np.inf)[()],
    ), np.where(is_defined, tested.pvalue, 1.0)[()]


def corrected_difference_of_mice(
    shares: tuple[ArrayLike, ArrayLike],
    scored: tuple[ArrayLike, ArrayLike],
    sensitivity: Share,
    false_stalled: Share,
) -> tuple[Share, Any]:
    """Compute the corrected difference of the means of two groups of mice, and its two-sided p.

    A limit between 0 and the difference is that of Welch's interval. The other limits are extended
    to those of the two means combined by MOVER, because rates have a long upper tail, for which
    Welch's symmetric interval is too short. The interval contains that of independent recordings,
    and p is the larger of Welch's and theirs. p is below 0.05 exactly if the interval excludes 0.

    Parameters are those of `mean_of_mice`, (..., M) for each group, and of `correct`, the same for
    both groups. The difference is second minus first.
    """
    from scipy.special import ndtr

    tested, p = welch(*shares)
    # Without any spread, Welch's interval is infinite, and only the recordings count.
    is_defined = np.isfinite(tested.low)
    low, high = (np.where(is_defined, limit, tested.value) for limit in tested[1:])
    # Limits of the difference from those of the means, (...), by MOVER.
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
    # The limit on the side of 0 is Z standard errors from the difference, which gives p.
    side = np.where(tested.value < 0, -1.0, 1.0)
    room = np.where(side < 0, pooled.high - pooled.value, pooled.value - pooled.low)
    of_vessels = np.minimum(2.0 * ndtr(-Z * side * pooled.value / room), 1.0)
    return around(difference, vessels), np.maximum(np.where(is_defined, p, 0.0), of_vessels)[()]


def difference_of_corrected_means(
    shares: tuple[ArrayLike, ArrayLike],
    scored: tuple[ArrayLike, ArrayLike],
    accuracies: tuple[tuple[Share, Share], tuple[Share, Share]],
) -> tuple[Share, Any]:
    """Compute the difference of the means of two groups that are corrected in different ways.

    After a review, more wrong calls may remain in one group than in the other, so they do not
    cancel in the difference. The interval is that of `corrected_difference_of_mice`, but Welch's
    is that of the corrected rates of the mice, extended by the errors of sensitivity and
    specificity in both groups. They count as independent, so it is too wide where they are not. p
    is below 0.05 exactly if the interval excludes 0.

    Parameters are those of `mean_of_mice`, (..., M) for each group, and of `correct`, (...) for
    each group: sensitivity and share of flowing recordings called stalled.
    """
    from scipy.special import ndtr, stdtr, stdtrit

    groups = tuple(zip(shares, scored, accuracies, strict=True))
    values = [_correct_each(group, *accuracy) for group, _, accuracy in groups]
    tested, _ = welch(*values)
    # Limits of the difference from the accuracies alone, as if the means were known, (...).
    exact = [exactly(np.asarray(group, np.float64).mean(axis=-1)) for group in shares]
    known = subtract(*(correct(mean, *pair) for mean, pair in zip(exact, accuracies, strict=True)))
    means = subtract(
        *(corrected_mean_of_mice(*group[:2], *group[2], differs=True) for group in groups)
    )
    vessels = subtract(*(correct(pool_equally(*group[:2]), *group[2]) for group in groups))
    # Without any spread, Welch's interval is infinite, and only the recordings count.
    is_defined = np.isfinite(tested.low)
    centre = tested.value
    low = centre - np.hypot(np.where(is_defined, centre - tested.low, 0.0), centre - known.low)
    high = centre + np.hypot(np.where(is_defined, tested.high - centre, 0.0), known.high - centre)
    mice = Share(
        centre,
        np.where(low > 0, low, np.minimum(low, means.low))[()],
        np.where(high < 0, high, np.maximum(high, means.high))[()],
    )
    # The limit on the side of 0 gives p: it is this many standard errors from the difference.
    side = np.where(centre < 0, -1.0, 1.0)
    freedom = _freedom(*values)
    steps = _steps(side * centre, np.where(side < 0, high - centre, centre - low))
    of_mice = 2.0 * stdtr(freedom, -stdtrit(freedom, TAILS[1]) * steps)
    room = np.where(side < 0, vessels.high - vessels.value, vessels.value - vessels.low)
    of_vessels = np.minimum(2.0 * ndtr(-Z * _steps(side * vessels.value, room)), 1.0)
    return around(mice, vessels), np.maximum(np.where(is_defined, of_mice, 0.0), of_vessels)[()]


def permutation_p(first: ArrayLike, second: ArrayLike) -> float:
    """Compute the two-sided p of the difference of two means by a permutation test.

    Each group is (M,): one value per mouse. p is exact if there are at most `MOST_SPLITS` ways to
    split the mice into the two groups. Otherwise, that many are drawn with a fixed seed.
    """
    from scipy import stats

    result = stats.permutation_test(
        (np.asarray(first, np.float64), np.asarray(second, np.float64)),
        lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis),
        vectorized=True,
        n_resamples=MOST_SPLITS,
        rng=np.random.default_rng(PERMUTATION_SEED),
    )
    return float(result.pvalue)


def smallest_permutation_p(first: int, second: int) -> float:
    """Return the smallest p that `permutation_p` can reach with these numbers of mice."""
    return min(1.0, 2.0 / comb(first + second, first))


def _correct_each(shares: ArrayLike, sensitivity: Share, false_stalled: Share) -> Any:
    """Correct the share of each mouse, (..., M), without an interval."""
    false = np.asarray(false_stalled.value, np.float64)[..., None]
    gain = np.asarray(sensitivity.value, np.float64)[..., None] - false
    return (np.asarray(shares, np.float64) - false) / gain


def _freedom(first: Any, second: Any) -> Any:
    """Return the degrees of freedom of Welch's test, (...); 1 where there is no spread."""
    variances = [group.var(axis=-1, ddof=1) / group.shape[-1] for group in (first, second)]
    parts = sum(
        variance**2 / (group.shape[-1] - 1)
        for variance, group in zip(variances, (first, second), strict=True)
    )
    return np.where(parts > 0, sum(variances) ** 2 / np.where(parts > 0, parts, 1.0), 1.0)


def _steps(distance: Any, room: Any) -> Any:
    """Return a distance from 0 in units of a limit's; 0 if both are 0 or the limit is infinite."""
    return np.where(room > 0, distance / np.where(room > 0, room, 1.0), 0.0)
