"""Recordings or mice drawn again, as weights."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stallscan.scores.metrics import (
    Floats,
    Scored,
)

BOOTSTRAP_DRAWS = 1000

# A class of more recordings is drawn by independent Poisson(1) weights, twice as fast (Chamandy et
# al. 2012). Measured on 40,000 recordings: intervals as wide as by drawing, but for the 2 % that
# 1,000 draws leave to chance.
POISSON_FROM = 20_000
# Weights held at once, of all draws together: 32 MB.
HELD_WEIGHTS = 4_000_000
# Scores at which the curves of a draw are cut. With no more distinct scores among the stalled than
# this the ROC and PR AUC of a draw are exact; with 20,000 they were off by 0.00005 at most.
MOST_CUTS = 5_000


def cells_by_group(scored: Scored, of: NDArray[np.int64], count: int) -> Floats:
    """Count the cells of `Confusion` in each group: (4, count)."""
    return np.stack(
        [
            np.bincount(of, labels & calls, minlength=count)
            for labels, calls in (
                (scored.labels, scored.calls),
                (~scored.labels, scored.calls),
                (~scored.labels, ~scored.calls),
                (scored.labels, ~scored.calls),
            )
        ]
    )


def sums_by_unit(scored: Scored, of: NDArray[np.int64], count: int) -> Floats:
    """Sum, in each unit, what means are made of: (6, count).

    Found stalls, kept flowing; squared error of stalled, of flowing; log-loss of either.
    """
    stalled, flowing = scored.labels, ~scored.labels
    squared = (scored.scores - stalled) ** 2
    # As scikit-learn keeps log-loss finite.
    tiny = np.finfo(np.float64).eps
    lost = -np.log(np.clip(np.where(stalled, scored.scores, 1.0 - scored.scores), tiny, 1.0 - tiny))
    return np.stack(
        [
            np.bincount(of, values * chosen, minlength=count)
            for values, chosen in (
                (scored.calls, stalled),
                (~scored.calls, flowing),
                (squared, stalled),
                (squared, flowing),
                (lost, stalled),
                (lost, flowing),
            )
        ]
    )


def as_codes(scored: Scored) -> tuple[NDArray[np.int64], int]:
    """Reduce the scores to what the curves depend on: their order among the stalled ones.

    Returns
    -------
    codes : ndarray
        int64 (N,): 2 k + 1 at the k-th distinct score of a stalled recording, counted from 0, and
        2 k just below it.
    width : int
        How many codes there are.
    """
    cuts = np.unique(scored.scores[scored.labels])
    if len(cuts) > MOST_CUTS:
        cuts = cuts[np.linspace(0, len(cuts) - 1, MOST_CUTS).round().astype(int)]
    below = np.searchsorted(cuts, scored.scores, "left")
    return below + np.searchsorted(cuts, scored.scores, "right"), 2 * len(cuts) + 1


def draw_weights(strata: Sequence[NDArray[np.int64]], seed: int) -> Iterator[Floats]:
    """Yield how often each unit is drawn: (units, draws of the part), `BOOTSTRAP_DRAWS` in all.

    A single unit would be the same in every draw, and its figures look certain: NaN.
    """
    rng = np.random.default_rng(seed)
    units = sum(len(stratum) for stratum in strata)
    if units == 1:
        yield np.full((1, BOOTSTRAP_DRAWS), np.nan)
        return
    most = max(1, HELD_WEIGHTS // units)
    for start in range(0, BOOTSTRAP_DRAWS, most):
        drawn = np.zeros((min(most, BOOTSTRAP_DRAWS - start), units))
        for row in drawn:
            for stratum in strata:
                row[stratum] = _draw_units(rng, len(stratum))
        yield np.ascontiguousarray(drawn.T)


def _draw_units(rng: np.random.Generator, count: int) -> NDArray[Any]:
    if count > POISSON_FROM:
        return POISSON_TABLE[rng.integers(0, 2**16, count, dtype=np.uint16)]
    return np.bincount(rng.integers(0, count, count), minlength=count) if count else np.zeros(0)


def _poisson_table() -> Floats:
    """Poisson(1) weights of equal chance, 2**16 of them."""
    weights = np.arange(12)
    chances = np.exp(-1.0) / np.cumprod(np.maximum(weights, 1))
    places = (np.arange(2**16) + 0.5) / 2**16
    return np.searchsorted(np.cumsum(chances), places).astype(np.float64)


POISSON_TABLE = _poisson_table()
