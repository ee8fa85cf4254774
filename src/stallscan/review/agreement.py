"""How well reviewers agree with each other, and one reviewer with known labels.

Only answers of stalled or flowing count. A reviewer who chose recordings by score has not seen a
random sample, and the figures hold for the recordings that were answered.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from stallscan.review.answers import Given
from stallscan.review.labels import VOTES
from stallscan.scores.intervals import TAILS, Share, clopper_pearson
from stallscan.words import percent, printable

# Added to each cell before drawing: the prior of Jeffreys.
PRIOR = 0.5
DRAWS = 4_000
SEED = 0


@dataclass(frozen=True)
class Agreement:
    """Agreement of two reviewers.

    Attributes
    ----------
    first, second : str
        Their names, in alphabetical order.
    both : int
        Recordings that both answered with stalled or flowing.
    agreement : float or None
        Share of these with the same answer, 0..1; None if there are none.
    kappa, low, high : float or None
        Cohen's kappa with its 95 % interval, -1..1. None if it is undefined, because there are no
        such recordings or both reviewers gave the same answer to all of them.
    """

    first: str
    second: str
    both: int
    agreement: float | None
    kappa: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ReviewerAccuracy:
    """A reviewer's answers against known labels.

    Attributes
    ----------
    stalled, flowing : int
        Known recordings of each kind that the reviewer answered with stalled or flowing.
    true_stalled, true_flowing : int
        How many of these were answered correctly.
    sensitivity, specificity : Share or None
        Value, low and high, 0..1, with the interval of Clopper & Pearson (1934); None without a
        recording of that kind.
    """

    stalled: int
    flowing: int
    true_stalled: int
    true_flowing: int
    sensitivity: Share | None
    specificity: Share | None


def pairs(answers: Sequence[Given]) -> list[Agreement]:
    """Compare each two reviewers, by name.

    Parameters
    ----------
    answers : sequence of Given
        The current answer of each reviewer to each recording.
    """
    votes: dict[str, dict[str, int]] = {given.reviewer: {} for given in answers}
    for given in answers:
        if given.answer in VOTES:
            votes[given.reviewer][given.filename] = VOTES[given.answer]
    return [
        _compare(first, second, votes[first], votes[second])
        for first, second in itertools.combinations(sorted(votes), 2)
    ]


def as_table(agreements: Sequence[Agreement]) -> Table:
    """Return the result of `pairs` as a table for the terminal."""
    table = Table("reviewers", "both answered", "agree", "Cohen's kappa", "95 % interval")
    for pair in agreements:
        defined = pair.kappa is not None
        table.add_row(
            # Text instead of markup, because a name may contain brackets.
            Text(printable(f"{pair.first} and {pair.second}")),
            f"{pair.both:,}",
            "" if pair.agreement is None else percent(pair.agreement),
            f"{pair.kappa:.2f}" if defined else "not defined",
            f"{pair.low:.2f} to {pair.high:.2f}" if defined else "",
        )
    return table


def accuracy(answers: Sequence[Given], known: Mapping[str, bool]) -> ReviewerAccuracy:
    """Compare a reviewer's answers with known labels.

    Parameters
    ----------
    answers : sequence of Given
        The reviewer's current answers.
    known : mapping
        Whether a recording is stalled, by its filename as in the answers.
    """
    votes = [
        (known[given.filename], VOTES[given.answer])
        for given in answers
        if given.answer in VOTES and given.filename in known
    ]
    of_stalled = [vote == 1 for stalled, vote in votes if stalled]
    of_flowing = [vote == 0 for stalled, vote in votes if not stalled]
    return ReviewerAccuracy(
        stalled=len(of_stalled),
        flowing=len(of_flowing),
        true_stalled=sum(of_stalled),
        true_flowing=sum(of_flowing),
        sensitivity=_share(of_stalled),
        specificity=_share(of_flowing),
    )


def kappa(counts: Any) -> Any:
    """Compute Cohen's kappa (Cohen 1960) of two-by-two tables.

    Parameters
    ----------
    counts : ndarray
        (..., 4), counts or shares: both stalled, only the first, only the second, both flowing.

    Returns
    -------
    ndarray
        float64 (...), -1..1; NaN if both gave the same answer to all.
    """
    shares = np.asarray(counts, np.float64)
    shares = shares / shares.sum(axis=-1, keepdims=True)
    both, only_first, only_second, neither = np.moveaxis(shares, -1, 0)
    first, second = both + only_first, both + only_second  # called stalled, (...)
    expected = first * second + (1.0 - first) * (1.0 - second)
    room = 1.0 - expected
    defined = room > 1e-12
    return np.where(defined, (both + neither - expected) / np.where(defined, room, 1.0), np.nan)


def _compare(first: str, second: str, ours: dict[str, int], theirs: dict[str, int]) -> Agreement:
    shared = ours.keys() & theirs.keys()
    counts = np.zeros(4)
    for filename in shared:
        counts[3 - 2 * ours[filename] - theirs[filename]] += 1
    if not shared:
        return Agreement(first, second, 0, None, None, None, None)
    agreement = float((counts[0] + counts[3]) / len(shared))
    value = float(kappa(counts))
    if np.isnan(value):
        return Agreement(first, second, len(shared), agreement, None, None, None)
    return Agreement(first, second, len(shared), agreement, value, *_interval(counts, value))


def _interval(counts: NDArray[np.float64], value: float) -> tuple[float, float]:
    """Return the central 95 % of kappa for tables drawn from the posterior of the counts.

    This is a bootstrap of the recordings whose cells are smoothed by half a count. The asymptotic
    interval (Fleiss, Cohen & Everitt 1969) and the plain bootstrap have no width at all if two
    reviewers happen to agree on everything, and with 50 recordings and 5 % stalls they contain the
    true kappa in 68 % of simulated trials; this one in 94 %.
    """
    drawn = kappa(np.random.default_rng(SEED).dirichlet(counts + PRIOR, DRAWS))
    low, high = np.quantile(drawn, TAILS)
    if counts[1] + counts[2] == 0:
        high = 1.0
    return min(float(low), value), max(float(high), value)


def _share(right: list[bool]) -> Share | None:
    if not right:
        return None
    return Share(*map(float, clopper_pearson(sum(right), len(right))))
