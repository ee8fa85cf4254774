"""Bootstrap: how far chance may have moved the figures of `metrics`, and their 95 % intervals.

Single recordings are drawn within each class, or whole groups, such as mice. How many stalled ones
a draw holds is chance, so its figures are stated at the sample's own prevalence, or at the one that
a figure is re-weighted to.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stallscan.scores.metrics import (
    SPECIFICITIES,
    Confusion,
    Floats,
    Interval,
    Metrics,
    Scored,
    divide,
    reweighted_mcc,
    sensitivity_name,
)
from stallscan.scores.resample import (
    BOOTSTRAP_DRAWS,
    as_codes,
    cells_by_group,
    draw_weights,
    sums_by_unit,
)

# Prevalences of the curve: around and between those at which MCC is stated.
PREVALENCE_GRID = np.geomspace(0.001, 0.5, 109)

BOOTSTRAP_SEED = 0
# Bounds of the central 95 % of the draws, in percent.
INTERVAL = (2.5, 97.5)
# Chosen: of fewer groups a bootstrap knows too little, and its intervals come out too narrow.
FEWEST_GROUPS = 10
# Chosen: draws that hold one class only cannot tell; where more than this share cannot, nothing is
# said.
MOST_UNTOLD = 0.1


class ClassRates(NamedTuple):
    """Sensitivity and specificity in each draw, float64 (D,), NaN where a class is missing."""

    recall: Floats
    specificity: Floats


@dataclass(frozen=True)
class Drawn:
    """What each draw of a bootstrap gives, at the prevalence of the sample.

    Attributes
    ----------
    prevalence : float
        Share of stalled in the sample.
    rates : ClassRates
        Of the calls as made.
    roc_auc, pr_auc, brier, log_loss : ndarray
        float64 (D,), NaN where a draw cannot tell.
    sensitivity_at : dict of ndarray
        The same, for each of `SPECIFICITIES`.
    """

    prevalence: float
    rates: ClassRates
    roc_auc: Floats
    pr_auc: Floats
    brier: Floats
    log_loss: Floats
    sensitivity_at: dict[float, Floats]

    def figures(self, rates: ClassRates | None = None) -> dict[str, Floats]:
        """Give the draws of each figure by its name in `Metrics` (and `sensitivity_name`).

        Parameters
        ----------
        rates : ClassRates, optional
            What to derive the figures of the calls from; the drawn ones if not given.
        """
        return of_rates(rates or self.rates, self.prevalence) | {
            "roc_auc": self.roc_auc,
            "pr_auc": self.pr_auc,
            **{sensitivity_name(at): values for at, values in self.sensitivity_at.items()},
            "brier": self.brier,
            "log_loss": self.log_loss,
        }


class Curve(NamedTuple):
    """MCC against prevalence with its 95 % band, float64 (P,) each."""

    prevalence: Floats
    mcc: Floats
    low: Floats
    high: Floats


def draw(scored: Scored, groups: NDArray[np.generic] | None = None) -> Drawn:
    """Bootstrap the figures of `scored`.

    Without groups the recordings of each class are drawn with replacement, as many as there are
    (more than `POISSON_FROM` by Poisson weights, which comes to the same); with groups, whole
    groups are. Equal labels and groups give equal draws, so that two models of the same recordings
    are compared by the difference of what `draw` gives for each.

    Parameters
    ----------
    scored : Scored
        (N,).
    groups : ndarray, optional
        (N,): recordings with the same value are drawn together.
    """
    if groups is None:
        of, count = np.arange(len(scored.labels)), len(scored.labels)
        strata = [np.flatnonzero(scored.labels), np.flatnonzero(~scored.labels)]
    else:
        of, count = _number(groups)
        strata = [np.arange(count)]
    codes, width = as_codes(scored)
    counted = csr_array(
        (np.ones(len(of)), (codes + width * ~scored.labels, of)), shape=(2 * width, count)
    )
    summed = sums_by_unit(scored, of, count)
    prevalence = float(scored.labels.mean())
    parts = [
        _figures_of_draws(counted @ weights, summed @ weights, prevalence)
        for weights in draw_weights(strata, BOOTSTRAP_SEED)
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Drawn(
        prevalence=prevalence,
        rates=ClassRates(joined["recall"], joined["specificity"]),
        roc_auc=joined["roc_auc"],
        pr_auc=joined["pr_auc"],
        brier=joined["brier"],
        log_loss=joined["log_loss"],
        sensitivity_at={at: joined[sensitivity_name(at)] for at in SPECIFICITIES},
    )


def smoothed_rates(cells: Confusion) -> ClassRates:
    """Draw rates as `mcc_interval` says, each class by itself; NaN of a class that is missing."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    return ClassRates(
        _draw_rate(rng, cells.true_stalled, cells.stalled),
        _draw_rate(rng, cells.true_flowing, cells.flowing),
    )


def group_rates(scored: Scored, groups: NDArray[np.generic]) -> ClassRates:
    """Draw the rates of the calls by group.

    A rate of exactly 0 or 1 is the same in every draw of groups, which would make it look certain:
    there the recordings are drawn as `smoothed_rates` does.

    Parameters
    ----------
    scored : Scored
        (N,).
    groups : ndarray
        (N,): recordings with the same value are drawn together.
    """
    of, count = _number(groups)
    cells = cells_by_group(scored, of, count).astype(np.float64)
    drawn = [cells @ weights for weights in draw_weights([np.arange(count)], BOOTSTRAP_SEED)]
    rates = _rates_of(Confusion(*np.concatenate(drawn, axis=1)))
    return _without_certainty(rates, Confusion(*cells.sum(axis=1).astype(int).tolist()))


def marginal_rates(drawn: Drawn, cells: Confusion, grouped: bool) -> ClassRates:
    """Rates for the intervals of one set of calls: never certain, see `smoothed_rates`.

    Parameters
    ----------
    drawn : Drawn
        From `draw`.
    cells : Confusion
        The counts of the sample.
    grouped : bool
        Whether groups were drawn.
    """
    return _without_certainty(drawn.rates, cells) if grouped else smoothed_rates(cells)


def of_rates(rates: ClassRates, prevalence: float) -> dict[str, Floats]:
    """Figures that calls of these rates have at a prevalence, by their names in `Metrics`.

    Returns
    -------
    dict of ndarray
        ``mcc``, ``accuracy``, ``precision``, ``recall``, ``specificity``, ``f1``: float64 (D,),
        NaN where undefined.
    """
    stalled, flowing = prevalence, 1.0 - prevalence
    both = np.where(np.isnan(rates.recall) | np.isnan(rates.specificity), np.nan, 1.0)
    # Of a class that is not there nothing is called anything, whatever its rate (NaN).
    hits = stalled * rates.recall if stalled else np.zeros_like(rates.recall)
    kept = flowing * rates.specificity if flowing else np.zeros_like(rates.specificity)
    called = hits + flowing - kept
    return {
        # An MCC of 0 says that calls carry no information, not that a class is missing.
        "mcc": both * reweighted_mcc(*rates, prevalence),
        "accuracy": hits + kept,
        "precision": both * divide(hits, called),
        "recall": rates.recall,
        "specificity": rates.specificity,
        "f1": both * divide(2.0 * hits, called + stalled),
    }


def mcc_interval(cells: Confusion, prevalence: float) -> Interval | None:
    """95 % interval of the MCC at `prevalence`, by a stratified bootstrap.

    Recordings drawn with replacement within each class give binomial numbers of right calls, so
    the counts are drawn rather than the recordings, and a million recordings cost no more than
    ten. The rates drawn from are smoothed by half a count, (k + 1/2) / (n + 1): without that, a
    class in which every call happens to be right would look certain.

    Parameters
    ----------
    cells : Confusion
        The counts of the sample.
    prevalence : float
        Share of stalled the MCC is stated for, 0 to 1; the sample's own for its own MCC.

    Returns
    -------
    Interval or None
        None where a class is missing from the sample.
    """
    if cells.stalled == 0 or cells.flowing == 0:
        return None
    return interval(reweighted_mcc(*smoothed_rates(cells), prevalence))


def mcc_curve(rates: ClassRates, measured: Metrics) -> Curve | None:
    """MCC at every prevalence of `PREVALENCE_GRID`; None where no draw has both classes.

    Parameters
    ----------
    rates : ClassRates
        Draws that the band is made of.
    measured : Metrics
        What the curve is made of.
    """
    if measured.recall is None or measured.specificity is None:
        return None
    told = ~np.isnan(rates.recall + rates.specificity)
    if not told.any():
        return None
    draws = reweighted_mcc(
        rates.recall[told], rates.specificity[told], PREVALENCE_GRID[:, np.newaxis]
    )
    low, high = np.percentile(draws, INTERVAL, axis=1)
    middle = reweighted_mcc(measured.recall, measured.specificity, PREVALENCE_GRID)
    return Curve(PREVALENCE_GRID, middle, low, high)


def mcc_gain(
    before: Scored, after: Scored, groups: NDArray[np.generic] | None = None
) -> Interval | None:
    """95 % interval of what the second of two sets of calls gains in MCC over the first.

    Both are measured on the same draws, at the prevalence of the sample, so what makes a draw easy
    for both falls out.

    Parameters
    ----------
    before, after : Scored
        (N,) each, of the same recordings in the same order.
    groups : ndarray, optional
        As for `draw`.

    Returns
    -------
    Interval or None
        MCC after less MCC before; None where too many draws lack a class.
    """
    old, new = (draw(scored, groups).figures()["mcc"] for scored in (before, after))
    return interval(new - old)


def interval(draws: Floats) -> Interval | None:
    """95 % interval of draws; None where too many of them are NaN.

    Parameters
    ----------
    draws : ndarray
        float (D,).
    """
    told = draws[~np.isnan(draws)]
    if len(told) < (1.0 - MOST_UNTOLD) * len(draws):
        return None
    low, high = np.percentile(told, INTERVAL)
    return Interval(float(low), float(high))


def _number(groups: NDArray[np.generic]) -> tuple[NDArray[np.int64], int]:
    """Count the groups, and give each recording the number of its own, from 0: (N,)."""
    names, of = np.unique(groups, return_inverse=True)
    return of, len(names)


def _figures_of_draws(counted: Floats, summed: Floats, prevalence: float) -> dict[str, Floats]:
    """Figures of each draw, from counts by code (2 codes, D) and sums (6, D)."""
    stalled, flowing = np.split(counted, 2)
    totals = stalled.sum(axis=0), flowing.sum(axis=0)
    stalled, flowing = (
        divide(part, np.broadcast_to(total, part.shape))
        for part, total in zip((stalled, flowing), totals, strict=True)
    )
    # Called stalled with the threshold at each code.
    recall, alarms = (part[::-1].cumsum(axis=0)[::-1] for part in (stalled, flowing))
    called = prevalence * recall + (1.0 - prevalence) * alarms
    precision = np.divide(prevalence * recall, called, out=np.zeros_like(called), where=called > 0)
    both = np.where(np.minimum(*totals) > 0, 1.0, np.nan)
    found, kept, *losses = (divide(part, totals[index % 2]) for index, part in enumerate(summed))
    return {
        "recall": found,
        "specificity": kept,
        "roc_auc": both * (stalled * (1.0 - alarms + flowing / 2.0)).sum(axis=0),
        "pr_auc": both * (stalled * precision).sum(axis=0),
        "brier": _mix(losses[0], losses[1], prevalence),
        "log_loss": _mix(losses[2], losses[3], prevalence),
        **{
            sensitivity_name(at): both
            * np.where(alarms <= 1.0 - at + 1e-9, recall, 0.0).max(axis=0)
            for at in SPECIFICITIES
        },
    }


def _mix(stalled: Floats, flowing: Floats, prevalence: float) -> Floats:
    """Join the means of both classes; one that is not in the sample does not count."""
    if prevalence in (0.0, 1.0):
        return stalled if prevalence else flowing
    return prevalence * stalled + (1.0 - prevalence) * flowing


def _rates_of(cells: Confusion) -> ClassRates:
    return ClassRates(
        divide(cells.true_stalled, cells.stalled), divide(cells.true_flowing, cells.flowing)
    )


def _without_certainty(rates: ClassRates, cells: Confusion) -> ClassRates:
    smoothed = smoothed_rates(cells)
    return ClassRates(
        smoothed.recall if cells.true_stalled in (0, cells.stalled) else rates.recall,
        smoothed.specificity if cells.true_flowing in (0, cells.flowing) else rates.specificity,
    )


def _draw_rate(rng: np.random.Generator, right: int, count: int) -> Floats:
    if not count:
        return np.full(BOOTSTRAP_DRAWS, np.nan)
    smoothed = (right + 0.5) / (count + 1.0)
    return rng.binomial(count, smoothed, BOOTSTRAP_DRAWS) / count
