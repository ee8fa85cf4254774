"""How many mice the next study needs, given how often the calls are wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from stallscan.errors import InputError
from stallscan.rates.correction import PERFECT, PUBLISHED, CallAccuracy
from stallscan.rates.mice import NO_SPREAD
from stallscan.words import percent

# A healthy mouse and a model of Alzheimer's disease: docs/facts.md 6.
HEALTHY, DISEASED = 0.004, 0.02
# The share of studies that are to find the difference, at a two-sided 5 %: the usual convention.
POWER = 0.8
# How far mice of one group differ: standard deviation of their true rates over their mean. Chosen:
# nothing published says it; at 0.5 the rates of most mice lie within half and twice the mean.
SPREAD = 0.5
# Vessels scored a mouse where there are no calls to take it from; chosen.
VESSELS = 1000
MOST_MICE = 100
TRIALS = 4000
POWER_SEED = 0


@dataclass(frozen=True)
class Power:
    """How many mice a study needs to see a difference.

    Attributes
    ----------
    scoring : str
        What the calls are, in words.
    errors : CallAccuracy
        Their errors.
    low, high : float
        True rates of the two groups, 0 to 1.
    vessels : int
        Recordings scored a mouse.
    spread : float
        Standard deviation of the mice's true rates over their mean.
    mice : int or None
        Mice a group, so that `POWER` of the studies see it; None: more than `MOST_MICE`.
    seen : tuple of float
        The shares that are called stalled on average.
    """

    scoring: str
    errors: CallAccuracy
    low: float
    high: float
    vessels: int
    spread: float
    mice: int | None
    seen: tuple[float, float]

    def __str__(self) -> str:
        mice = f"more than {MOST_MICE}" if self.mice is None else f"{self.mice}"
        return (
            f"{self.scoring}: {mice} mice a group to see {percent(self.low)} against "
            f"{percent(self.high)} (read as {percent(self.seen[0])} and {percent(self.seen[1])}) "
            f"in {percent(POWER)} of studies with {self.vessels:,} vessels a mouse"
        )


def mice_needed(
    errors: CallAccuracy,
    scoring: str = "",
    *,
    low: float = HEALTHY,
    high: float = DISEASED,
    vessels: int = VESSELS,
    spread: float = SPREAD,
) -> Power:
    """Find how many mice a group a study needs to see one true rate against another.

    Simulated, because at few stalls a mouse no formula holds: true rates of mice are drawn from a
    beta distribution, the calls of each from a binomial one, and the groups compared with Welch's
    test at a two-sided 5 %; `TRIALS` studies, with a fixed seed. How well the errors are known
    makes no difference to the test.

    Parameters
    ----------
    errors : CallAccuracy
        Of the calls.
    scoring : str
        What to call them; by default their rates.
    low, high : float
        True rates, above 0 and below 1.
    vessels : int
        Recordings scored a mouse, at least 1.
    spread : float
        Standard deviation of the mice's true rates over their mean, 0 or more.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    from scipy import stats

    if not (0 < low < 1 and 0 < high < 1):
        raise InputError(f"rates of {low:g} and {high:g}: expected shares above 0 and below 1")
    # NaN fails every comparison, so it must be this way round.
    if vessels < 1 or not 0 <= spread < np.inf:
        raise InputError(f"{vessels} vessels a mouse with a spread of {spread:g} are no study")
    gain = errors.sensitivity + errors.specificity - 1.0
    rng = np.random.default_rng(POWER_SEED)
    moments = []
    counts = np.arange(2, MOST_MICE + 1)
    for true in (low, high):
        called = 1.0 - errors.specificity + gain * draw_mice(rng, true, spread, (TRIALS, MOST_MICE))
        # Each study is seen as it grows by a mouse at a time: all sizes from one draw.
        seen = rng.binomial(vessels, np.clip(called, 0.0, 1.0)) / vessels
        mean = np.cumsum(seen, axis=1)[:, 1:] / counts
        square = np.cumsum(seen**2, axis=1)[:, 1:] / counts
        variance = np.maximum(square - mean**2, 0.0) * counts / (counts - 1)
        moments += [mean, np.sqrt(variance), counts]
    with np.errstate(invalid="ignore", divide="ignore"):
        p = stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue
    is_seen = (p < 0.05) & (moments[1] ** 2 + moments[4] ** 2 > NO_SPREAD)
    enough = np.flatnonzero(is_seen.mean(axis=0) >= POWER)
    return Power(
        scoring=scoring or f"{percent(errors.sensitivity)} / {percent(errors.specificity)}",
        errors=errors,
        low=low,
        high=high,
        vessels=vessels,
        spread=spread,
        mice=int(counts[enough[0]]) if enough.size else None,
        seen=(1 - errors.specificity + gain * low, 1 - errors.specificity + gain * high),
    )


def compare_scorings(
    errors: CallAccuracy,
    *,
    low: float = HEALTHY,
    high: float = DISEASED,
    vessels: int = VESSELS,
    spread: float = SPREAD,
) -> tuple[Power, ...]:
    """Find the mice needed with these errors, with perfect scoring and with the published calls."""
    scorings = (
        ("these calls", errors),
        ("perfect scoring", PERFECT),
        ("published 85 % / 99.3 %", PUBLISHED),
    )
    return tuple(
        mice_needed(who, name, low=low, high=high, vessels=vessels, spread=spread)
        for name, who in scorings
    )


def draw_mice(
    rng: np.random.Generator, mean: float, spread: float, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Draw true rates of mice from a beta distribution.

    Parameters
    ----------
    rng : Generator
        Advanced by the draw.
    mean : float
        Above 0 and below 1.
    spread : float
        Standard deviation over the mean; 0 gives every mouse the mean.
    shape : tuple of int
        Of the array.

    Raises
    ------
    InputError
        If no rates between 0 and 1 have such a spread.
    """
    if spread == 0:
        return np.full(shape, mean)
    size = (1.0 - mean) / (mean * spread**2) - 1.0
    if size <= 0:
        raise InputError(f"a spread of {spread:g} is too wide for rates about {percent(mean)}")
    return rng.beta(mean * size, (1.0 - mean) * size, shape)


def as_table(powers: Sequence[Power]) -> Table:
    """Lay the mice that are needed out for the terminal."""
    first = powers[0]
    table = Table(
        "scoring",
        "reads as",
        "mice a group",
        title=f"mice a group to see {percent(first.low)} against {percent(first.high)} in "
        f"{percent(POWER)} of studies, {first.vessels:,} vessels a mouse, spread of mice "
        f"{first.spread:g}",
        title_justify="left",
    )
    for one in powers:
        reads = f"{percent(one.seen[0])} against {percent(one.seen[1])}"
        mice = f"more than {MOST_MICE}" if one.mice is None else f"{one.mice}"
        table.add_row(one.scoring, reads, mice)
    return table
