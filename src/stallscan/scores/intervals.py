"""Shares with their 95 % intervals.

Every function takes numbers or arrays of one shape, so that the benchmark of interval coverage
(benchmarks/rates_coverage.py) runs the same code that computes the tables.

scipy is imported inside the functions, because prediction imports this module but not scipy.
"""

from fractions import Fraction
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# Both tails of a 95 % interval.
TAILS = (0.025, 0.975)
# The normal quantile of the upper tail, 1.96.
Z = NormalDist().inv_cdf(TAILS[1])


class Share(NamedTuple):
    """A share, or a difference of shares, with its 95 % interval; numbers or arrays."""

    # value, low, high: 0..1; corrected shares may lie outside this range until they are clipped.
    value: Any
    low: Any
    high: Any


def portion(share: float, count: int) -> Fraction:
    """Compute a share of a count exactly, using the decimal digits of the share: 0.29 of 100 is 29.

    In floating point 0.29 * 100 is 28.999999999999996, whose integer part is 28.
    """
    return Fraction(repr(float(share))) * count


def exactly(value: float) -> Share:
    """Return a share without sampling error."""
    return Share(value, value, value)


def wilson(part: ArrayLike, whole: ArrayLike) -> Share:
    """Compute a share of counts with the interval of Wilson (1927)."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    share = part / whole
    centre = (part + Z**2 / 2) / (whole + Z**2)
    half = Z * np.sqrt(part * (whole - part) / whole + Z**2 / 4) / (whole + Z**2)
    # Clip rounding errors beyond 0, 1 or the share itself.
    return Share(share, np.clip(centre - half, 0.0, share), np.clip(centre + half, share, 1.0))


def jeffreys(part: ArrayLike, whole: ArrayLike) -> Share:
    """Compute a share with the interval of Jeffreys, as in Brown, Cai & DasGupta (2001).

    It misses the true share equally often on both sides, unlike Wilson's interval of small shares.
    The counts may be effective ones, not whole numbers.
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
    """Compute a share of (effective) counts with the interval of Clopper & Pearson (1934)."""
    from scipy.special import betaincinv

    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    rest = np.maximum(whole - part, 0.0)
    none, all_ = part <= 0, rest <= 0
    low = betaincinv(np.where(none, 1.0, part), rest + 1.0, TAILS[0])
    high = betaincinv(part + 1.0, np.where(all_, 1.0, rest), TAILS[1])
    return Share(part / whole, np.where(none, 0.0, low)[()], np.where(all_, 1.0, high)[()])


def around(share: Share, other: Share) -> Share:
    """Widen the interval of a share to include the interval of another."""
    return Share(share.value, np.minimum(share.low, other.low), np.maximum(share.high, other.high))


def subtract(first: Share, second: Share) -> Share:
    """Subtract the first share from the second; the interval is by MOVER (Zou & Donner 2008)."""
    value = second.value - first.value
    return Share(
        value,
        value - np.hypot(second.value - second.low, first.high - first.value),
        value + np.hypot(second.high - second.value, first.value - first.low),
    )
