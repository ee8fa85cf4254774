"""Stalls as vessels that darken, in movies in which moving blood is bright (OCT angiograms)."""

import numpy as np
from numpy.typing import NDArray

from stallscan.series.pattern import FEWEST_FLOWING, Found
from stallscan.series.stallogram import FLOWING, STALLED, UNKNOWN

F32 = NDArray[np.float32]

# Blood stands where a vessel is less than half as bright, relative to the tissue, as when it flows.
DARK = 0.5
# Chosen: the bright frames must be so many standard deviations above that.
CLEAR_SDS = 3.0
# The first guess of the brightness in flow: stalls may fill almost all other frames.
BRIGHT_QUANTILE = 0.9
ITERATIONS = 5


def find_states(values: F32, tissue: float) -> Found:
    """Find the stalls of one segment.

    Parameters
    ----------
    values : ndarray
        float32 (T, n): the segment along its line, from `traces`; NaN in damaged frames.
    tissue : float
        The value beside it.
    """
    states = np.full(len(values), UNKNOWN, np.int8)
    level = values.mean(axis=1) - tissue  # (T,)
    good = np.isfinite(level)
    if good.sum() < FEWEST_FLOWING:
        return Found(states, np.inf, "too few frames")
    seen = level[good].astype(np.float64)
    flowing = float(np.quantile(seen, BRIGHT_QUANTILE))
    for _ in range(ITERATIONS):
        flowing = float(np.median(seen[seen >= DARK * flowing])) if flowing > 0 else 0.0
    bright = seen[seen >= DARK * flowing]
    if flowing <= 0 or (1 - DARK) * flowing < CLEAR_SDS * float(bright.std()):
        reason = "not clearly brighter than the tissue at any time"
        return Found(states, np.inf, reason)
    states[good] = np.where(seen < DARK * flowing, STALLED, FLOWING)
    return Found(states, 1.0)
