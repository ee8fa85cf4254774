"""Rates corrected for calls that are wrong at times (Rogan and Gladen 1978)."""

from typing import Any

import numpy as np

from stallscan.scores.intervals import Share


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
