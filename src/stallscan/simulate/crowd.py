"""The crowd and the experts: scores of a project's recordings, and the subsets made from them.

All figures are computed from the competition's own train tables (573,048 rows, docs/facts.md 4). In
most projects the crowd and the label agree by construction: no flowing recording has half of the
crowd against it and no stalled one less than half. Only in G and J, which experts have looked at,
do they differ, and L was never shown to the crowd.
"""

import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Mask = NDArray[np.bool_]

UNSEEN_PROJECT = "L"  # labelled by experts only, score 0 in all rows
# Share of exact zeros among the flowing recordings of a project.
FLOWING_ZERO = {
    "A": 0.963, "C": 0.950, "D": 0.887, "E": 0.949, "F": 0.874, "G": 0.856,
    "H": 0.964, "I": 0.906, "J": 0.728, "K": 0.859, "M": 0.933,
}  # fmt: skip
# Share of exact zeros among the stalled ones; none elsewhere but in L.
STALLED_ZERO = {"J": 0.205}
# Share (flowing, stalled) that an expert has labelled, read off the rows of tier1 that have a score
# between 0 and 0.75: all in J, most in G, none elsewhere.
EXPERT = {"G": (0.973, 0.862), "J": (1.0, 1.0)}
# Quantiles of the scores that are not 0, (flowing, stalled); 0.785 is where `SURE_SCORE` lies.
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
# A score is trusted without an expert if it is 0 or at least this (docs/facts.md 4).
SURE_SCORE = 0.75
# Flowing recordings of micro and nano for each stalled one of tier1 (docs/facts.md 4).
MICRO_FLOWING, NANO_FLOWING = 1693 / 706, 707 / 706


def draw_crowd(rng: Rng, project: str, stalled: bool) -> tuple[float, bool]:
    """Draw what the crowd says of a recording, and whether an expert has labelled it.

    Parameters
    ----------
    rng : Generator
        Source of both.
    project : str
        Letter of the project.
    stalled : bool
        The label.

    Returns
    -------
    score : float
        Share of the crowd that says stalled, 0..1, to six digits as in the real table.
    expert : bool
        Whether an expert has labelled it.
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
    """Tell whether a recording is tier1: labelled by an expert, or a sure crowd (docs/facts.md 4).

    Parameters
    ----------
    score : float
        Share of the crowd that says stalled, 0..1.
    expert : bool
        Whether an expert has labelled it.
    """
    return expert or score == 0 or score >= SURE_SCORE


def draw_subsets(
    rng: Rng, project: NDArray[np.str_], stalled: Mask, tier1: Mask
) -> tuple[Mask, Mask]:
    """Draw the subsets micro and nano: all stalled recordings of tier1, and flowing ones of it.

    The flowing ones follow the stalled ones project by project: the real nano has exactly as many
    of each kind in every project (134 and 133 in L), and the real micro, 2.4 times as many, varies
    around that no more than a draw does (chi square 10.5 on 11 degrees of freedom); within a
    project they are drawn evenly. A project with too few leaves the rest to the others.

    Parameters
    ----------
    rng : Generator
        Source of the draw.
    project : ndarray
        str (n,): letters.
    stalled, tier1 : ndarray
        bool (n,).

    Returns
    -------
    micro, nano : ndarray
        bool (n,); nano is part of micro.
    """
    stalls, flowing = stalled & tier1, np.flatnonzero(~stalled & tier1)
    flowing = rng.permutation(flowing)
    turn = np.full(len(flowing), np.inf)
    for letter in np.unique(project[stalls]):
        places = np.flatnonzero(project[flowing] == letter)
        share = np.count_nonzero(project[stalls] == letter)
        # Taken in the order of these numbers, every project has its share at any length.
        turn[places] = (np.arange(len(places)) + 0.5) / share
    order = flowing[np.argsort(turn, kind="stable")]
    micro, nano = stalls.copy(), stalls.copy()
    micro[order[: round(MICRO_FLOWING * np.count_nonzero(stalls))]] = True
    nano[order[: round(NANO_FLOWING * np.count_nonzero(stalls))]] = True
    return micro, nano
