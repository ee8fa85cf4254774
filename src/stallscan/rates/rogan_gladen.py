"""Correction of rates for wrong calls (Rogan & Gladen 1978)."""

from typing import Any

import numpy as np

from stallscan.scores.intervals import Share


def correct(called: Share, sensitivity: Share, false_stalled: Share) -> Share:
    """Compute the share that is truly stalled from the share called stalled (Rogan & Gladen 1978).

    At a true rate r, the expected share called stalled is
    r * sensitivity + (1 - r) * false_stalled. The interval contains all r for which this agrees
    with `called`, given the intervals of all three shares. The distances of their limits from the
    estimates are added in quadrature, each on the relevant side (MOVER: Zou & Donner 2008; for
    ratios Donner & Zou 2012). This gives a quadratic equation for each limit.

    Parameters
    ----------
    called : Share
        Share called stalled.
    sensitivity : Share
        Share of the stalled that are called stalled.
    false_stalled : Share
        Share of the flowing that are called stalled: 1 - specificity.

    Returns
    -------
    Share
        Not clipped to 0..1, so that means of it are unbiased. The limits are infinite if the
        sensitivity may be as low as the share of false calls.
    """
    # All arrays have the common shape of the shares, (...).
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
    """Compute the difference of two true shares from the difference of those called stalled.

    False calls cancel out in the difference. It is still too small by the factor
    sensitivity - false_stalled. The interval is computed as in `correct`, and contains 0 exactly if
    that of `called`, -1 to 1, does. The other parameters are the same for both groups.
    """
    gain = sensitivity.value - false_stalled.value
    # A larger gain moves a limit towards 0, a smaller one away from it.
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
    )
    high = _limit(
        1.0,
        called.value,
        gain,
        called.high - called.value,
        np.where(np.asarray(called.high) > 0, smaller, larger),
    )
    return Share(called.value / gain, low, high)


def _limit(
    side: float, excess: Any, gain: Any, of_called: Any, of_gain: Any, of_false: Any = 0.0
) -> Any:
    """Solve (excess - r gain)^2 = of_called^2 + (r of_gain)^2 + ((1 - r) of_false)^2 for r.

    Return the smaller root for side -1, the larger one for 1, or an infinite limit if the gain may
    be 0.
    """
    # square * r^2 - 2 * half * r + rest = 0
    square = np.asarray(gain**2 - of_gain**2 - of_false**2, np.float64)
    half = excess * gain - of_false**2
    rest = excess**2 - of_called**2 - of_false**2
    # The discriminant is positive if `square` is, because the estimate lies between the roots.
    root = np.sqrt(np.maximum(half**2 - square * rest, 0.0))
    solvable = (square > 0) & (np.asarray(gain) > 0)
    limit = (half + side * root) / np.where(solvable, square, 1.0)
    return np.where(solvable, limit, side * np.inf)[()]
