"""Shares with their 95 % intervals, corrected for calls that are sometimes wrong.

Every function takes numbers or arrays of one shape, so that the benchmark that counts how often an
interval holds the truth (benchmarks/rates_coverage.py) runs the very code that makes the tables.

scipy is imported where it is needed: prediction, which imports this module, does without.
"""

from fractions import Fraction
from math import comb
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Both tails of a 95 % interval.
TAILS = (0.025, 0.975)
# Normal quantile of the upper one: 1.96.
Z = NormalDist().inv_cdf(TAILS[1])
# Every way to part the mice is tried up to so many (9 against 9 mice); chosen.
MOST_SPLITS = 50_000
PERMUTATION_SEED = 0
# By how much the variance between mice is enlarged at most. Chosen among 30 intervals, see
# benchmarks/rates_coverage.md; without a bound a single mouse with stalls would tell nothing.
MOST_SPREAD_GAIN = 3.0


class Share(NamedTuple):
    """A share, or a difference of shares, with its 95 % interval; numbers or arrays.

    Attributes
    ----------
    value, low, high : float or ndarray
        Shares are 0 to 1; corrected ones may lie outside until they are clipped.
    """

    value: Any
    low: Any
    high: Any


def portion(share: float, count: int) -> Fraction:
    """Compute a share of a count exactly, the share taken as it is written: 0.29 of 100 is 29.

    In binary 0.29 * 100 is 28.999999999999996, and its whole part 28.
    """
    return Fraction(repr(float(share))) * count


def exactly(value: float) -> Share:
    """Give a share that is known without sampling error."""
    return Share(value, value, value)


def wilson(part: ArrayLike, whole: ArrayLike) -> Share:
    """Share with the interval of Wilson (1927).

    Parameters
    ----------
    part, whole : int or ndarray
        Counts; whole at least 1.
    """
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    share = part / whole
    centre = (part + Z**2 / 2) / (whole + Z**2)
    half = Z * np.sqrt(part * (whole - part) / whole + Z**2 / 4) / (whole + Z**2)
    # Rounding must not put a limit beyond 0, 1 or the share itself.
    return Share(share, np.clip(centre - half, 0.0, share), np.clip(centre + half, share, 1.0))


def jeffreys(part: ArrayLike, whole: ArrayLike) -> Share:
    """Share with the interval of Jeffreys, as Brown, Cai & DasGupta (2001) advise it.

    It misses the truth as often on either side, which Wilson's does not where the share is small.

    Parameters
    ----------
    part, whole : float or ndarray
        Counts, or effective ones; whole above 0.
    """
    from scipy.special import betaincinv

    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    rest = np.maximum(whole - part, 0.0)
    low, high = (betaincinv(part + 0.5, rest + 0.5, tail) for tail in TAILS)
    return Share(
        part / whole,
        np.where(part <= 0, 0.0, low)[()],
        np.where(rest <= 0, 1.0, high)[()],
    )


def clopper_pearson(part: ArrayLike, whole: ArrayLike) -> Share:
    """Share with the interval of Clopper & Pearson (1934).

    Parameters
    ----------
    part, whole : float or ndarray
        Counts, or effective ones; whole above 0.
    """
    from scipy.special import betaincinv

    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    rest = np.maximum(whole - part, 0.0)
    none, all_ = part <= 0, rest <= 0
    low = betaincinv(np.where(none, 1.0, part), rest + 1.0, TAILS[0])
    high = betaincinv(part + 1.0, np.where(all_, 1.0, rest), TAILS[1])
    return Share(part / whole, np.where(none, 0.0, low)[()], np.where(all_, 1.0, high)[()])


def around(share: Share, other: Share) -> Share:
    """Widen the interval of a share until it contains the interval of another."""
    return Share(share.value, np.minimum(share.low, other.low), np.maximum(share.high, other.high))


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
            where=variance > 1e-15,
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


def correct(called: Share, sensitivity: Share, false_stalled: Share) -> Share:
    """Share truly stalled, from the share called stalled (Rogan & Gladen 1978).

    A rate r is inside the interval if the share called stalled may be what it should be at that
    rate, r * sensitivity + (1 - r) * false_stalled, given the intervals of all three. Their
    distances from the estimates are joined as the sides of a right angle, each on the side that
    counts (MOVER: Zou & Donner 2008; for a ratio Donner & Zou 2012), which leaves a quadratic
    equation for each limit.

    Parameters
    ----------
    called : Share
        Share called stalled.
    sensitivity : Share
        Share of the stalled that are called stalled.
    false_stalled : Share
        Share of the flowing that are called stalled: one less the specificity.

    Returns
    -------
    Share
        Not clipped to 0..1, so that means of it are unbiased. The limits are infinite where the
        sensitivity may be as low as the share of false calls.
    """
    excess = called.value - false_stalled.value
    gain = sensitivity.value - false_stalled.value
    low = _limit(
        -1.0,
        excess,
        gain,
        called.value - called.low,
        sensitivity.high - sensitivity.value,
        false_stalled.high - false_stalled.value,
    )
    high = _limit(
        1.0,
        excess,
        gain,
        called.high - called.value,
        sensitivity.value - sensitivity.low,
        false_stalled.value - false_stalled.low,
    )
    return Share(excess / gain, low, high)


def correct_difference(called: Share, sensitivity: Share, false_stalled: Share) -> Share:
    """Difference of two shares truly stalled, from the difference of those called stalled.

    Calls that are false by chance fall out of the difference; what remains is that it is seen too
    small, by sensitivity less false_stalled. The interval is made as in `correct`, and holds 0
    exactly where that of `called` does.

    Parameters
    ----------
    called : Share
        Difference of the shares called stalled, -1 to 1.
    sensitivity, false_stalled : Share
        As for `correct`; the same for both.
    """
    gain = sensitivity.value - false_stalled.value
    # What makes the gain larger brings a limit nearer to 0, what makes it smaller takes it away.
    larger = np.hypot(sensitivity.high - sensitivity.value, false_stalled.value - false_stalled.low)
    smaller = np.hypot(
        sensitivity.value - sensitivity.low, false_stalled.high - false_stalled.value
    )
    low = _limit(
        -1.0,
        called.value,
        gain,
        called.value - called.low,
        np.where(np.asarray(called.low) > 0, larger, smaller),
        None,
    )
    high = _limit(
        1.0,
        called.value,
        gain,
        called.high - called.value,
        np.where(np.asarray(called.high) > 0, smaller, larger),
        None,
    )
    return Share(called.value / gain, low, high)


def lang_reiczigel(
    part: ArrayLike,
    whole: ArrayLike,
    sensitivity: ArrayLike,
    stalled: ArrayLike,
    specificity: ArrayLike,
    flowing: ArrayLike,
) -> Share:
    """Corrected share with the interval of Lang & Reiczigel (2014).

    Preventive Veterinary Medicine 113:13-22, equations 6, 7, 16 and 17, in which every share is
    first drawn a little towards one half; in the variance (1 - p)^2, where print has (1 + p)^2.
    Where calls are false in one of a thousand it holds the truth too often (98 %), which is why it
    is given beside the interval of `correct`, as the method that is published, and not in its
    place.

    Parameters
    ----------
    part, whole : int or ndarray
        Recordings called stalled, and all that were called.
    sensitivity, specificity : float or ndarray
        0 to 1, as measured.
    stalled, flowing : float or ndarray
        On how many recordings; infinite for a rate that is known without error.

    Returns
    -------
    Share
        Value and interval of the adjusted shares, not clipped; NaN and infinite where the adjusted
        sensitivity and specificity are no better than chance.
    """
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    called = (part + Z**2 / 2) / (whole + Z**2)
    found, found_variance = _plus_one(sensitivity, stalled)
    left, left_variance = _plus_one(specificity, flowing)
    gain = np.asarray(found + left - 1.0)
    told = gain > 0
    safe = np.where(told, gain, 1.0)
    rate = (called + left - 1.0) / safe
    shift = 2 * Z**2 * (rate * found_variance - (1.0 - rate) * left_variance)
    variance = (
        called * (1.0 - called) / (whole + Z**2)
        + rate**2 * found_variance
        + (1.0 - rate) ** 2 * left_variance
    )
    half = np.where(told, Z * np.sqrt(variance) / safe, np.inf)[()]
    return Share(np.where(told, rate, np.nan)[()], rate + shift - half, rate + shift + half)


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
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    means = [group.mean(axis=-1) for group in (first, second)]
    variances = [group.var(axis=-1, ddof=1) / group.shape[-1] for group in (first, second)]
    return welch_of_moments(means, variances, (first.shape[-1], second.shape[-1]))


def welch_of_moments(
    means: "list[Any]", variances: "list[Any]", mice: tuple[Any, Any]
) -> tuple[Share, Any]:
    """Do as `welch` with the mean of each group, the variance of that mean, and its mice."""
    from scipy.special import stdtr, stdtrit

    total = variances[0] + variances[1]
    known = np.asarray(total) > 1e-15
    safe = np.where(known, total, 1.0)
    parts = [(part / safe) ** 2 / (count - 1) for part, count in zip(variances, mice, strict=True)]
    freedom = np.where(known, 1.0 / np.where(known, sum(parts), 1.0), 1.0)
    difference = means[1] - means[0]
    error = np.where(known, np.sqrt(safe), np.inf)
    half = stdtrit(freedom, TAILS[1]) * error
    p = 2.0 * stdtr(freedom, -np.abs(difference) / error)
    return Share(difference, difference - half, difference + half), p


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


def subtract(first: Share, second: Share) -> Share:
    """Second less first, the intervals joined by MOVER (Zou & Donner 2008)."""
    value = second.value - first.value
    return Share(
        value,
        value - np.hypot(second.value - second.low, first.high - first.value),
        value + np.hypot(second.high - second.value, first.value - first.low),
    )


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


def _limit(
    side: float, excess: Any, gain: Any, of_called: Any, of_found: Any, of_false: Any | None
) -> Any:
    """Solve (excess - r gain)^2 = of_called^2 + (r of_found)^2 + ((1 - r) of_false)^2 for r.

    Give the smaller root for side -1, the larger one for 1. Without `of_false` its term is none.
    """
    false = 0.0 if of_false is None else of_false
    square = np.asarray(gain**2 - of_found**2 - false**2, np.float64)
    half = excess * gain - false**2
    rest = excess**2 - of_called**2 - false**2
    # Above 0 wherever square is: the estimate lies between the roots.
    root = np.sqrt(np.maximum(half**2 - square * rest, 0.0))
    solvable = (square > 0) & (np.asarray(gain) > 0)
    limit = (half + side * root) / np.where(solvable, square, 1.0)
    return np.where(solvable, limit, side * np.inf)[()]


def _plus_one(share: ArrayLike, count: ArrayLike) -> tuple[Any, Any]:
    """Add one success and one failure; give the share and its variance."""
    share, count = np.asarray(share, np.float64), np.asarray(count, np.float64)
    known = np.isinf(count)
    finite = np.where(known, 0.0, count)
    adjusted = np.where(known, share, (finite * share + 1.0) / (finite + 2.0))
    return adjusted, np.where(known, 0.0, adjusted * (1.0 - adjusted) / (finite + 2.0))
