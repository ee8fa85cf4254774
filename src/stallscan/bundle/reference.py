"""Whether recordings are like those that a bundle was trained on.

A net says nothing certain of recordings unlike all that it has seen, and its scores do not show it.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stallscan.clips.traits import Traits
from stallscan.scores.prevalence import estimate_prevalence
from stallscan.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

# What is compared, and in which words.
WORDS = {
    "rows_px": "height of the outline, px",
    "cols_px": "width of the outline, px",
    "frames": "frames",
    "grey_low": "dark grey level (5 %)",
    "grey_middle": "middle grey level",
    "grey_high": "bright grey level (95 %)",
    "change": "change of grey from frame to frame",
    "likeness": "likeness of neighbouring frames",
    "light": "brightest light",
    "contrast": "contrast of the vessel",
    "frames_in_focus": "frames in focus",
}
# Which quantiles of each trait are kept.
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_LOW, _LOWER, _MIDDLE, _HIGHER, _HIGH = (QUANTILES.index(q) for q in (0.01, 0.05, 0.5, 0.95, 0.99))
# Scores of the validation part that are kept, at even steps of their rank.
SCORES_KEPT = 401

# Digits of scores that are compared.
DIGITS = 3

# All chosen. A recording is unlike where a trait is farther out than the inner 98 % of those that
# were trained on and a quarter of their width, and than any of them.
WIDER = 0.25
# A run is unlike where so many recordings lie outside the inner 98 %, which 2 % are to,
MOST_OUTSIDE = 0.1
# or where the shares of scores differ by so much more than chance explains. Nothing is said of
FARTHEST = 0.08
# fewer recordings than these.
FEWEST = 30


class Reference(Settings):
    """What the recordings of a training were like.

    Attributes
    ----------
    trained, validated : int
        Recordings that `traits` and `scores` are of.
    traits : dict
        `QUANTILES` of each of `WORDS` over the recordings trained on; empty if not measured.
    scores : tuple of float
        Quantiles, at even steps from the lowest to the highest, of the scores of the recordings
        held back: calibrated, 0..1, ascending; empty if there are none.
    """

    trained: int
    validated: int
    traits: dict[str, tuple[float, ...]]
    scores: tuple[float, ...]

    @classmethod
    def of(cls, traits: "pd.DataFrame", scores: ArrayLike) -> "Reference":
        """Keep what is needed of a training.

        Parameters
        ----------
        traits : DataFrame
            Of the recordings trained on, columns as in `Traits`; may be empty.
        scores : array-like
            float (N,), 0..1, of the recordings held back; may be empty.
        """
        kept = {
            name: tuple(round(float(value), 4) for value in np.quantile(traits[name], QUANTILES))
            for name in (WORDS if len(traits) else ())
        }
        scores = np.asarray(scores, np.float64)
        steps = scores[:0]
        if len(scores):
            steps = np.quantile(scores, np.linspace(0, 1, min(len(scores), SCORES_KEPT)))
        return cls(
            trained=len(traits),
            validated=len(scores),
            traits=kept,
            scores=tuple(round(float(value), 6) for value in steps),
        )

    def outliers(self, traits: Traits) -> str:
        """Say what of a recording lies far from all that was trained on; empty if nothing does."""
        far = []
        for name, known in self.traits.items():
            spare = WIDER * (known[_HIGH] - known[_LOW])
            low, high = min(known[0], known[_LOW] - spare), max(known[-1], known[_HIGH] + spare)
            value = getattr(traits, name)
            if not low <= value <= high:
                far.append(f"{WORDS[name]}: {value:.4g}, in training {known[0]:g} to {known[-1]:g}")
        return "; ".join(far)


class Drift(NamedTuple):
    """How the recordings of a run differ from those of the training.

    Attributes
    ----------
    doubts : tuple of str
        What differs by more than chance, a sentence part each; empty if nothing does.
    figures : dict
        All that was compared, for ``run.json``.
    """

    doubts: tuple[str, ...]
    figures: dict[str, Any]


def compare(reference: Reference, prevalence: float, traits: Floats, scores: ArrayLike) -> Drift:
    """Compare the recordings of a run with those of the training.

    Parameters
    ----------
    reference : Reference
        Of the bundle.
    prevalence : float
        Share of stalled that scores are calibrated at, above 0 and below 1: those of the reference
        and those given.
    traits : ndarray
        float (N, len(Traits._fields)): of the run, columns in the order of `Traits`.
    scores : array-like
        float (N,), 0..1.
    """
    doubts: list[str] = []
    outside: dict[str, Any] = {}
    for name, known in reference.traits.items():
        values = traits[:, Traits._fields.index(name)]
        if not len(values):
            continue
        share = float(np.mean((values < known[_LOW]) | (values > known[_HIGH])))
        here = np.quantile(values, [QUANTILES[_LOWER], 0.5, QUANTILES[_HIGHER]])
        outside[name] = {
            "outside_98": round(share, 4),
            "here_5_50_95": [round(float(value), 4) for value in here],
            "trained_5_50_95": [known[at] for at in (_LOWER, _MIDDLE, _HIGHER)],
        }
        if share > MOST_OUTSIDE and len(values) >= FEWEST:
            doubts.append(
                f"{WORDS[name]}: {share:.0%} of them outside {known[_LOW]:g} to {known[_HIGH]:g} "
                f"(median {here[1]:g}, in training {known[_MIDDLE]:g})"
            )
    figures: dict[str, Any] = {"recordings": len(traits), "traits": outside}
    scores = np.asarray(scores, np.float64)
    if len(scores) and len(reference.scores) > 1:
        distance, share = _score_distance(reference, prevalence, scores)
        # The largest difference that two draws of the same show in one of twenty cases.
        chance = 1.36 * np.sqrt(1 / len(scores) + 1 / reference.validated)
        figures["scores"] = {"distance": round(distance, 4), "at_prevalence": round(share, 6)}
        if distance > FARTHEST + chance and len(scores) >= FEWEST:
            doubts.append(
                f"scores: no share of stalled ones explains how they are spread (the nearest, "
                f"{share:.1%}, leaves {distance:.0%} of them elsewhere)"
            )
    return Drift(tuple(doubts), figures)


def _score_distance(reference: Reference, prevalence: float, scores: Floats) -> tuple[float, float]:
    """Compare scores with those of the training at the share of stalled that fits them best.

    Returns
    -------
    distance : float
        Of Kolmogorov and Smirnov: the largest difference of the two distributions, 0..1.
    share : float
        That share.
    """
    share = estimate_prevalence(scores, prevalence).prevalence
    known = np.asarray(reference.scores)
    weights = known * (share / prevalence) + (1 - known) * ((1 - share) / (1 - prevalence))
    # Scores are written with six digits, and those read at another prevalence lose some of them.
    known, scores = known.round(DIGITS), scores.round(DIGITS)
    places = np.unique(np.concatenate([known, scores]))
    expected = (
        np.concatenate([[0.0], np.cumsum(weights)])[np.searchsorted(known, places, side="right")]
        / weights.sum()
    )
    found = np.searchsorted(np.sort(scores), places, side="right") / len(scores)
    return float(np.abs(expected - found).max()), share
