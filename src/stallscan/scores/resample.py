"""Draw bootstrap samples of recordings or mice, as weights."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stallscan.scores.metrics import Floats, Scored

BOOTSTRAP_DRAWS = 1000

# A larger class is drawn by independent Poisson(1) weights, which is twice as fast (Chamandy et al.
# 2012). Measured on 40,000 recordings: the widths of the intervals agree within the 2 % that are
# the sampling error of 1,000 draws.
POISSON_FROM = 20_000
# Weights held in memory at once, for all draws together: 32 MB.
HELD_WEIGHTS = 4_000_000
# Scores at which the curves of a draw are evaluated. With at most this many distinct scores among
# the stalled, ROC and PR AUC of a draw are exact; with 20,000 their error was at most 0.00005.
MOST_CUTS = 5_000


def cells_by_group(scored: Scored, of: NDArray[np.int64], count: int) -> Floats:
    """Count the cells of `Confusion` in each of `count` groups, float64 (4, count).

    `of` is the index of each recording's group, (N,).
    """
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
    """Sum the numerators of the means in each of `count` units, float64 (6, count).

    Rows: true stalled, true flowing; squared error of the stalled and of the flowing recordings;
    log-loss of the stalled and of the flowing ones. `of` is the index of each recording's unit,
    (N,).
    """
    stalled, flowing = scored.labels, ~scored.labels
    squared = (scored.scores - stalled) ** 2
    # Clipped like scikit-learn's log_loss, to keep it finite.
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
    """Reduce the scores to their rank among the stalled ones, which determines the curves.

    Returns
    -------
    codes : ndarray
        int64 (N,): 2 k + 1 for the k-th distinct score of a stalled recording, counted from 0, and
        2 k for scores between it and the one before.
    width : int
        The number of codes.
    """
    cuts = np.unique(scored.scores[scored.labels])
    if len(cuts) > MOST_CUTS:
        cuts = cuts[np.linspace(0, len(cuts) - 1, MOST_CUTS).round().astype(int)]
    below = np.searchsorted(cuts, scored.scores, "left")
    return below + np.searchsorted(cuts, scored.scores, "right"), 2 * len(cuts) + 1


def draw_weights(strata: Sequence[NDArray[np.int64]], seed: int) -> Iterator[Floats]:
    """Yield how often each unit is drawn, float64 (units, draws), `BOOTSTRAP_DRAWS` in all.

    A single unit gets NaN: every draw would be the same, and its figures would look certain.
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
    """Return 2**16 equally likely weights with the distribution Poisson(1)."""
    weights = np.arange(12)
    chances = np.exp(-1.0) / np.cumprod(np.maximum(weights, 1))
    places = (np.arange(2**16) + 0.5) / 2**16
    return np.searchsorted(np.cumsum(chances), places).astype(np.float64)


POISSON_TABLE = _poisson_table()
