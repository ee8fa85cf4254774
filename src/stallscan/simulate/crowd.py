"""Scores of the crowd and labels of experts, and the subsets derived from them.

All figures are computed from the competition's training tables (573,048 rows, docs/facts.md 4). In
most projects the crowd agrees with the label by construction: flowing recordings have scores of at
most one half, stalled ones at least one half. They differ only in G and J, which experts reviewed;
L was never shown to the crowd.
"""

import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Mask = NDArray[np.bool_]

UNSEEN_PROJECT = "L"  # labelled only by experts; the score is 0 in all rows
# Share of scores of exactly 0 among the flowing recordings of a project.
FLOWING_ZERO = {
    "A": 0.963, "C": 0.950, "D": 0.887, "E": 0.949, "F": 0.874, "G": 0.856,
    "H": 0.964, "I": 0.906, "J": 0.728, "K": 0.859, "M": 0.933,
}  # fmt: skip
# Share of scores of exactly 0 among the stalled recordings; none in other projects, except L.
STALLED_ZERO = {"J": 0.205}
# Share (flowing, stalled) labelled by an expert, derived from the rows of tier1 with scores between
# 0 and 0.75: all in J, most in G, none in other projects.
EXPERT = {"G": (0.973, 0.862), "J": (1.0, 1.0)}
# Quantiles of nonzero scores, (flowing, stalled). 0.785 is the quantile of `SURE_SCORE`.
SHARES = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.6, 0.7, 0.75, 0.785, 0.85, 0.9, 0.95, 0.99, 1)
Quantiles = tuple[float, ...]
USUAL: tuple[Quantiles, Quantiles] = (
    (.013, .033, .050, .074, .115, .162, .206, .248, .269, .285, .313, .333, .364, .443, .5),
    (.500, .503, .516, .539, .609, .659, .674, .705, .731, .750, .905, 1, 1, 1, 1),
)  # fmt: skip
POSITIVE: dict[str, tuple[Quantiles, Quantiles]] = {
    "G": (
        (.004, .018, .035, .047, .092, .201, .268, .314, .335, .348, .381, .452, .607, .718, 1),
        (.524, .530, .676, .710, .749, .852, .929, 1, 1, 1, 1, 1, 1, 1, 1),
    ),
    "J": (
        (.014, .021, .034, .042, .058, .092, .113, .135, .157, .184, .228, .290, .408, .804, 1),
        (.104, .110, .133, .197, .303, .539, .784, .809, .856, .897, .927, .941, .979, .995, 1),
    ),
}  # fmt: skip
# tier1 trusts the crowd if the score is 0 or at least this (docs/facts.md 4).
SURE_SCORE = 0.75
# Flowing recordings in micro and nano per stalled recording of tier1 (docs/facts.md 4).
MICRO_FLOWING, NANO_FLOWING = 1693 / 706, 707 / 706


def draw_crowd(rng: Rng, project: str, stalled: bool) -> tuple[float, bool]:
    """Draw the crowd's score of a recording, and whether an expert has labelled it.

    Parameters
    ----------
    rng : Generator
        Random source.
    project : str
        Letter of the project.
    stalled : bool
        The label.

    Returns
    -------
    score : float
        Share of the crowd that votes stalled, 0..1, with six digits as in the real table.
    expert : bool
        Whether an expert has labelled the recording.
    """
    if project == UNSEEN_PROJECT:
        return 0.0, True
    expert = bool(rng.random() < EXPERT.get(project, (0.0, 0.0))[stalled])
    zero = STALLED_ZERO.get(project, 0.0) if stalled else FLOWING_ZERO[project]
    if rng.random() < zero:
        return 0.0, expert
    quantiles = POSITIVE.get(project, USUAL)[stalled]
    return float(f"{np.interp(rng.random(), SHARES, quantiles):.6g}"), expert


def is_tier1(score: float, expert: bool) -> bool:
    """Return whether a recording is tier1: an expert label or a sure crowd (docs/facts.md 4)."""
    return expert or score == 0 or score >= SURE_SCORE


def draw_subsets(
    rng: Rng, project: NDArray[np.str_], stalled: Mask, tier1: Mask
) -> tuple[Mask, Mask]:
    """Draw the subsets micro and nano: all stalled recordings of tier1, and some flowing ones.

    The number of flowing recordings per project is proportional to that of stalled ones. The real
    nano has equal numbers in every project (134 and 133 in L). The real micro has 2.4 times as many
    flowing ones, and deviates from proportional no more than a random draw (chi square 10.5, 11
    degrees of freedom). Within a project they are drawn evenly. If a project has too few, the
    others supply the rest.

    Parameters
    ----------
    rng : Generator
        Random source.
    project : ndarray
        str (n,): letters.
    stalled, tier1 : ndarray
        bool (n,).

    Returns
    -------
    micro, nano : ndarray
        bool (n,); nano is a subset of micro.
    """
    stalls, flowing = stalled & tier1, np.flatnonzero(~stalled & tier1)
    flowing = rng.permutation(flowing)
    turn = np.full(len(flowing), np.inf)
    for letter in np.unique(project[stalls]):
        places = np.flatnonzero(project[flowing] == letter)
        share = np.count_nonzero(project[stalls] == letter)
        # Sorted by these ranks, any prefix of the list has each project's share.
        turn[places] = (np.arange(len(places)) + 0.5) / share
    order = flowing[np.argsort(turn, kind="stable")]
    micro, nano = stalls.copy(), stalls.copy()
    micro[order[: round(MICRO_FLOWING * np.count_nonzero(stalls))]] = True
    nano[order[: round(NANO_FLOWING * np.count_nonzero(stalls))]] = True
    return micro, nano
