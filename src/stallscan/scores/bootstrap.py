"""Compute 95 % intervals for the figures of `metrics` by a bootstrap.

Recordings are drawn within each class, or as whole groups, such as mice. The number of stalled
recordings in a draw is random, so the figures of each draw are computed at the prevalence of the
sample, or at the prevalence that a figure is re-weighted to.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import stdtrit

from stallscan.scores.intervals import TAILS, Z
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

# Prevalences of the curve, around and between those at which MCC is reported.
PREVALENCE_GRID = np.geomspace(0.001, 0.5, 109)

BOOTSTRAP_SEED = 0
# Percentiles that bound the central 95 % of the draws.
INTERVAL = (2.5, 97.5)
# Chosen: with fewer groups the intervals of a bootstrap are too narrow.
FEWEST_GROUPS = 10
# Chosen: figures are undefined in draws with one class. If more than this share of the draws is
# undefined, there is no interval.
MOST_UNDEFINED = 0.1


class ClassRates(NamedTuple):
    """Sensitivity and specificity in each draw, float64 (D,), NaN where a class is missing."""

    recall: Floats
    specificity: Floats


@dataclass(frozen=True)
class Drawn:
    """The figures of each of D draws, at the prevalence of the sample."""

    prevalence: float  # share of stalled in the sample
    rates: ClassRates  # of the calls as made
    # roc_auc, pr_auc, brier, log_loss: float64 (D,), NaN where undefined.
    roc_auc: Floats
    pr_auc: Floats
    brier: Floats
    log_loss: Floats
    sensitivity_at: dict[float, Floats]  # the same, for each of `SPECIFICITIES`

    def figures(self, rates: ClassRates | None = None) -> dict[str, Floats]:
        """Return the draws of each figure by its name in `Metrics` or `sensitivity_name`.

        Figures of the calls are computed from `rates`, by default the drawn ones.
        """
        return of_rates(rates or self.rates, self.prevalence) | {
            "roc_auc": self.roc_auc,
            "pr_auc": self.pr_auc,
            **{sensitivity_name(at): values for at, values in self.sensitivity_at.items()},
            "brier": self.brier,
            "log_loss": self.log_loss,
        }


class Curve(NamedTuple):
    """MCC at each of P prevalences with its 95 % band, float64 (P,) each."""

    prevalence: Floats
    mcc: Floats
    low: Floats
    high: Floats


def draw(scored: Scored, groups: NDArray[np.generic] | None = None) -> Drawn:
    """Bootstrap the figures of `scored`.

    Without groups, the recordings of each class are drawn with replacement (a class larger than
    `POISSON_FROM` by Poisson weights, which is equivalent). With groups, whole groups are drawn.
    Equal labels and groups give equal draws, so two models of the same recordings can be compared
    draw by draw.

    Parameters
    ----------
    scored : Scored
        N recordings.
    groups : ndarray, optional
        (N,): recordings with the same value are drawn together.
    """
    if groups is None:
        # `of` is the unit of each recording, (N,); here each recording is a unit of its own.
        of, count = np.arange(len(scored.labels)), len(scored.labels)
        strata = [np.flatnonzero(scored.labels), np.flatnonzero(~scored.labels)]
    else:
        of, count = _number(groups)
        strata = [np.arange(count)]
    codes, width = as_codes(scored)
    # Number of recordings by code and class in each unit, (2 width, count): stalled first.
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
    """Draw smoothed rates of each class, see `mcc_interval`; NaN for a missing class."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    return ClassRates(
        _draw_rate(rng, cells.true_stalled, cells.stalled),
        _draw_rate(rng, cells.true_flowing, cells.flowing),
    )


def group_rates(scored: Scored, groups: NDArray[np.generic]) -> ClassRates:
    """Draw the rates of the calls by group.

    A rate of exactly 0 or 1 is the same in every draw of groups and would look certain. In that
    case the recordings are drawn as in `smoothed_rates`.
    """
    of, count = _number(groups)
    cells = cells_by_group(scored, of, count).astype(np.float64)
    drawn = [cells @ weights for weights in draw_weights([np.arange(count)], BOOTSTRAP_SEED)]
    rates = _rates_of(Confusion(*np.concatenate(drawn, axis=1)))  # (4, D)
    return _without_certainty(rates, Confusion(*cells.sum(axis=1).astype(int).tolist()))


def effective_counts(scored: Scored, groups: NDArray[np.generic]) -> tuple[float, float]:
    """Return how many independent stalled and flowing recordings tell as much as those of groups.

    Recordings of a group, such as a mouse, are alike, so they tell less about sensitivity and
    specificity. As in Korn & Graubard (1998): the variance of each share is that between groups,
    and few groups give an uncertain variance, so the number is reduced further. It is at most that
    of the recordings, and equal to it where nothing shows how groups differ: with one group, or
    with a share of 0 or 1.

    Parameters
    ----------
    scored : Scored
        N recordings.
    groups : ndarray
        (N,): the group of each.
    """
    of, count = _number(groups)
    cells = Confusion(*cells_by_group(scored, of, count))  # (groups,) each
    return (
        _effective_count(cells.true_stalled, cells.stalled),
        _effective_count(cells.true_flowing, cells.flowing),
    )


def marginal_rates(drawn: Drawn, cells: Confusion, grouped: bool) -> ClassRates:
    """Return the rates for the intervals of one set of calls, whose counts are `cells`.

    Drawn groups keep their draws, except for rates that look certain, see `smoothed_rates`.
    """
    return _without_certainty(drawn.rates, cells) if grouped else smoothed_rates(cells)


def of_rates(rates: ClassRates, prevalence: float) -> dict[str, Floats]:
    """Compute the figures of calls with these rates at a prevalence.

    The values are float64 (D,), NaN where undefined, by the names of `Metrics`.
    """
    stalled, flowing = prevalence, 1.0 - prevalence
    both = np.where(np.isnan(rates.recall) | np.isnan(rates.specificity), np.nan, 1.0)
    # A class with a share of 0 contributes 0, although its rate is NaN.
    hits = stalled * rates.recall if stalled else np.zeros_like(rates.recall)
    kept = flowing * rates.specificity if flowing else np.zeros_like(rates.specificity)
    called = hits + flowing - kept
    return {
        # NaN, because an MCC of 0 means calls without information, not a missing class.
        "mcc": both * reweighted_mcc(*rates, prevalence),
        "accuracy": hits + kept,
        "precision": both * divide(hits, called),
        "recall": rates.recall,
        "specificity": rates.specificity,
        "f1": both * divide(2.0 * hits, called + stalled),
    }


def mcc_interval(cells: Confusion, prevalence: float) -> Interval | None:
    """Compute the 95 % interval of the MCC at `prevalence` by a stratified bootstrap.

    Drawing recordings with replacement within each class gives binomial numbers of right calls, so
    these counts are drawn instead of the recordings, at a cost that does not depend on the number
    of recordings. The rates are smoothed by half a count, (k + 1/2) / (n + 1); otherwise a class in
    which every call happens to be right would look certain. None if the sample lacks a class.
    """
    if cells.stalled == 0 or cells.flowing == 0:
        return None
    return interval(reweighted_mcc(*smoothed_rates(cells), prevalence))


def mcc_curve(rates: ClassRates, measured: Metrics) -> Curve | None:
    """Compute the MCC of `measured` at every prevalence of `PREVALENCE_GRID`.

    `rates` are the draws for the band. None if no draw has both classes.
    """
    if measured.recall is None or measured.specificity is None:
        return None
    defined = ~np.isnan(rates.recall + rates.specificity)
    if not defined.any():
        return None
    draws = reweighted_mcc(  # (P, D)
        rates.recall[defined], rates.specificity[defined], PREVALENCE_GRID[:, np.newaxis]
    )
    low, high = np.percentile(draws, INTERVAL, axis=1)
    middle = reweighted_mcc(measured.recall, measured.specificity, PREVALENCE_GRID)
    return Curve(PREVALENCE_GRID, middle, low, high)


def mcc_gain(
    before: Scored, after: Scored, groups: NDArray[np.generic] | None = None
) -> Interval | None:
    """Compute the 95 % interval of the gain in MCC, `after` minus `before`.

    Both are calls of the same recordings in the same order and are measured on the same draws, at
    the prevalence of the sample, so differences between draws that affect both cancel out. None if
    too many draws lack a class.
    """
    old, new = (draw(scored, groups).figures()["mcc"] for scored in (before, after))
    return interval(new - old)


def interval(draws: Floats) -> Interval | None:
    """Compute the 95 % interval of draws, float (D,); None if too many of them are NaN."""
    defined = draws[~np.isnan(draws)]
    if len(defined) < (1.0 - MOST_UNDEFINED) * len(draws):
        return None
    low, high = np.percentile(defined, INTERVAL)
    return Interval(float(low), float(high))


def _number(groups: NDArray[np.generic]) -> tuple[NDArray[np.int64], int]:
    """Return the index of each recording's group, (N,), and the number of groups."""
    names, of = np.unique(groups, return_inverse=True)
    return of, len(names)


def _figures_of_draws(counted: Floats, summed: Floats, prevalence: float) -> dict[str, Floats]:
    """Compute the figures of each draw, from counts by code (2 codes, D) and sums (6, D)."""
    stalled, flowing = np.split(counted, 2)  # (codes, D) each
    totals = stalled.sum(axis=0), flowing.sum(axis=0)  # (D,) each
    # Now shares within each class.
    stalled, flowing = (
        divide(counts, np.broadcast_to(total, counts.shape))
        for counts, total in zip((stalled, flowing), totals, strict=True)
    )
    # Rates with the threshold at each code, summed from the highest code down, (codes, D).
    recall, alarms = (shares[::-1].cumsum(axis=0)[::-1] for shares in (stalled, flowing))
    called = prevalence * recall + (1.0 - prevalence) * alarms
    precision = np.divide(prevalence * recall, called, out=np.zeros_like(called), where=called > 0)
    both = np.where(np.minimum(*totals) > 0, 1.0, np.nan)
    # The rows of `sums_by_unit` alternate between stalled and flowing.
    hits, kept, *losses = (divide(row, totals[index % 2]) for index, row in enumerate(summed))
    return {
        "recall": hits,
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
    """Average the means of both classes; a class missing from the sample does not count."""
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


def _effective_count(right: Floats, counts: Floats) -> float:
    """Convert the spread of a share between groups, (groups,) each, to a number of recordings."""
    right, counts = right[counts > 0], counts[counts > 0]
    groups, total = len(counts), float(counts.sum())
    if groups < 2:
        return total
    share = right.sum() / total
    # Of a ratio of two sums over groups, linearised.
    variance = groups / (groups - 1) * np.sum((right - share * counts) ** 2) / total**2
    if not variance > 0:
        return total
    few = (Z / stdtrit(groups - 1, TAILS[1])) ** 2
    return float(min(total, share * (1.0 - share) * few / variance))


def _draw_rate(rng: np.random.Generator, right: int, count: int) -> Floats:
    if not count:
        return np.full(BOOTSTRAP_DRAWS, np.nan)
    smoothed = (right + 0.5) / (count + 1.0)
    return rng.binomial(count, smoothed, BOOTSTRAP_DRAWS) / count
