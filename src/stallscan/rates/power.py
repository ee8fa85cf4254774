"""Number of mice that a study needs, given the errors of the calls."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from stallscan.errors import InputError
from stallscan.rates.correction import PERFECT, PUBLISHED, CallAccuracy
from stallscan.rates.mice import NO_SPREAD
from stallscan.words import percent

# Rates of healthy mice and of a model of Alzheimer's disease (docs/facts.md 6).
HEALTHY, DISEASED = 0.004, 0.02
# By convention: the share of studies that should find the difference at a two-sided 5 % level.
POWER = 0.8
# Standard deviation of the true rates of mice in a group, divided by their mean. Chosen, because no
# value is published; with 0.5, most mice have rates between half and twice the mean.
SPREAD = 0.5
# Chosen: vessels scored per mouse, if there are no calls to count them in.
VESSELS = 1000
MOST_MICE = 100
TRIALS = 4000
POWER_SEED = 0


@dataclass(frozen=True)
class Power:
    """Number of mice that a study needs to detect a difference."""

    # Name of the kind of scoring.
    scoring: str
    # True rates of the two groups, 0 to 1.
    low: float
    high: float
    # Recordings scored per mouse.
    vessels: int
    # Standard deviation of the mice's true rates divided by their mean.
    spread: float
    # Mice per group with which `POWER` of the studies detect it; None for more than `MOST_MICE`.
    mice: int | None
    # Expected shares called stalled in the two groups.
    measured: tuple[float, float]


def mice_needed(
    errors: CallAccuracy,
    scoring: str = "",
    *,
    low: float = HEALTHY,
    high: float = DISEASED,
    vessels: int = VESSELS,
    spread: float = SPREAD,
) -> Power:
    """Find the number of mice per group that a study needs to detect a difference of true rates.

    It is simulated, because no formula holds for few stalls per mouse: `TRIALS` studies, with a
    fixed seed, draw the true rates of mice from a beta distribution and the calls of each mouse
    from a binomial one. The groups are compared with Welch's test at a two-sided 5 % level, which
    does not depend on how precisely the errors are known.

    Parameters
    ----------
    errors : CallAccuracy
        Sensitivity and specificity of the calls.
    scoring : str
        Name of the kind of scoring. By default sensitivity / specificity.
    low, high : float
        True rates, above 0 and below 1.
    vessels : int
        Recordings scored per mouse, at least 1.
    spread : float
        Standard deviation of the mice's true rates divided by their mean, 0 or more.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    from scipy import stats

    if not (0 < low < 1 and 0 < high < 1):
        raise InputError(
            f"rates of {low:g} and {high:g} are out of range. Give shares above 0 and below 1"
        )
    if vessels < 1:
        raise InputError(f"{vessels} vessels per mouse are too few. Give at least 1")
    # Negated, so that NaN is refused, too.
    if not 0 <= spread < np.inf:
        raise InputError(
            f"a spread of {spread:g} is out of range. Give a finite number of 0 or more"
        )
    gain = errors.sensitivity + errors.specificity - 1.0
    rng = np.random.default_rng(POWER_SEED)
    moments = []
    counts = np.arange(2, MOST_MICE + 1)
    for true in (low, high):
        called = 1.0 - errors.specificity + gain * draw_mice(rng, true, spread, (TRIALS, MOST_MICE))
        share = rng.binomial(vessels, np.clip(called, 0.0, 1.0)) / vessels  # (TRIALS, MOST_MICE)
        # Cumulative sums give the moments for every number of mice, 2 to MOST_MICE, from one draw:
        # (TRIALS, MOST_MICE - 1).
        mean = np.cumsum(share, axis=1)[:, 1:] / counts
        square = np.cumsum(share**2, axis=1)[:, 1:] / counts
        variance = np.maximum(square - mean**2, 0.0) * counts / (counts - 1)
        moments += [mean, np.sqrt(variance), counts]
    with np.errstate(invalid="ignore", divide="ignore"):
        # Called with mean, standard deviation and mice of the first group, then of the second.
        p = stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue  # (TRIALS, MOST_MICE - 1)
    # p is not defined if no mice of a study differ.
    is_detected = (p < 0.05) & (moments[1] ** 2 + moments[4] ** 2 > NO_SPREAD)
    enough = np.flatnonzero(is_detected.mean(axis=0) >= POWER)
    return Power(
        scoring=scoring or f"{percent(errors.sensitivity)} / {percent(errors.specificity)}",
        low=low,
        high=high,
        vessels=vessels,
        spread=spread,
        mice=int(counts[enough[0]]) if enough.size else None,
        measured=(1 - errors.specificity + gain * low, 1 - errors.specificity + gain * high),
    )


def compare_scorings(
    errors: CallAccuracy,
    *,
    low: float = HEALTHY,
    high: float = DISEASED,
    vessels: int = VESSELS,
    spread: float = SPREAD,
) -> tuple[Power, ...]:
    """Find the mice needed with these calls, with perfect scoring and with the published calls."""
    scorings = (
        ("these calls", errors),
        ("perfect scoring", PERFECT),
        ("published 85 % / 99.3 %", PUBLISHED),
    )
    return tuple(
        mice_needed(accuracy, name, low=low, high=high, vessels=vessels, spread=spread)
        for name, accuracy in scorings
    )


def draw_mice(
    rng: np.random.Generator, mean: float, spread: float, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Draw true rates of mice from a beta distribution.

    `spread` is the standard deviation divided by the mean; with 0 every mouse has the mean.

    Raises
    ------
    InputError
        If the spread is too large for rates between 0 and 1.
    """
    if spread == 0:
        return np.full(shape, mean)
    # Sum of the two parameters of the beta distribution, from its mean and variance.
    size = (1.0 - mean) / (mean * spread**2) - 1.0
    if size <= 0:
        limit = np.sqrt((1.0 - mean) / mean)
        raise InputError(
            f"a spread of {spread:g} is too large for a mean rate of {percent(mean)}. Give less "
            f"than {limit:.3g}"
        )
    return rng.beta(mean * size, (1.0 - mean) * size, shape)


def as_table(powers: Sequence[Power]) -> Table:
    """Return the numbers of mice as a table for the terminal."""
    first = powers[0]
    table = Table(
        "scoring",
        "measured as",
        "mice per group",
        title=f"mice per group to detect {percent(first.low)} against {percent(first.high)} in "
        f"{percent(POWER)} of studies, {first.vessels:,} vessels per mouse, spread of mice "
        f"{first.spread:g}",
        title_justify="left",
    )
    for power in powers:
        measured = f"{percent(power.measured[0])} against {percent(power.measured[1])}"
        mice = f"more than {MOST_MICE}" if power.mice is None else f"{power.mice}"
        table.add_row(power.scoring, measured, mice)
    return table
