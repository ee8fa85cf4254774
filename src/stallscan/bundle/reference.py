"""Comparison of recordings with those that a bundle was trained on.

A net is unreliable on recordings unlike its training data, and its scores do not show it.
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

# The traits compared, and their names in messages.
WORDS = {
    "rows_px": "height of the outline, px",
    "cols_px": "width of the outline, px",
    "frames": "frames",
    "grey_low": "dark grey level (5 %)",
    "grey_middle": "middle grey level",
    "grey_high": "bright grey level (95 %)",
    "change": "change in grey level from frame to frame",
    "likeness": "correlation of neighbouring frames",
    "light": "brightest grey level",
    "contrast": "contrast of the vessel",
    "frames_in_focus": "frames in focus",
}
# Quantiles of each trait that a bundle keeps.
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_LOW, _LOWER, _MIDDLE, _HIGHER, _HIGH = (QUANTILES.index(q) for q in (0.01, 0.05, 0.5, 0.95, 0.99))
# Number of validation scores that a bundle keeps, at evenly spaced ranks.
SCORES_KEPT = 401
DIGITS = 3  # decimals to which scores are compared

# The limits below are chosen, not measured.
# A recording is an outlier if a trait lies outside the range of the training recordings and also
# outside their inner 98 % widened by this share on either side.
WIDER = 0.25
# A run differs from the training if this share of its recordings lies outside the inner 98 %, where
# 2 % are expected,
MOST_OUTSIDE = 0.1
# or if the score distributions differ by this much more than chance explains.
FARTHEST = 0.08
# Runs with fewer recordings are not judged.
FEWEST = 30


class Reference(Settings):
    """Traits of the training recordings and scores of the held-out ones."""

    trained: int  # number of training recordings
    validated: int  # number of held-out recordings
    # `QUANTILES` of each trait in `WORDS` over the training recordings; empty if not measured.
    traits: dict[str, tuple[float, ...]]
    # Evenly spaced quantiles, from lowest to highest, of the calibrated scores (0..1) of the
    # held-out recordings; empty if there are none.
    scores: tuple[float, ...]

    @classmethod
    def of(cls, traits: "pd.DataFrame", scores: ArrayLike) -> "Reference":
        """Summarise the traits and scores of a training.

        Parameters
        ----------
        traits : DataFrame
            Of the training recordings, columns as in `Traits`; may be empty.
        scores : array-like
            float (N,), 0..1, of the held-out recordings; may be empty.
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
        """Name the traits of a recording that are far outside the training range; empty if none."""
        outliers = []
        for name, trained in self.traits.items():
            spare = WIDER * (trained[_HIGH] - trained[_LOW])
            low = min(trained[0], trained[_LOW] - spare)
            high = max(trained[-1], trained[_HIGH] + spare)
            value = getattr(traits, name)
            if not low <= value <= high:
                outliers.append(
                    f"{WORDS[name]}: {value:.4g}, in training {trained[0]:g} to {trained[-1]:g}"
                )
        return "; ".join(outliers)


class Drift(NamedTuple):
    """Differences between the recordings of a run and those of the training."""

    doubts: tuple[str, ...]  # a phrase for each difference larger than chance
    figures: dict[str, Any]  # all quantities compared, for run.json


def compare(reference: Reference, prevalence: float, traits: Floats, scores: ArrayLike) -> Drift:
    """Compare the recordings of a run with those of the training.

    Parameters
    ----------
    reference : Reference
        Of the bundle.
    prevalence : float
        Share of stalled that the scores of both the reference and the run are calibrated for,
        above 0 and below 1.
    traits : ndarray
        float (N, len(Traits._fields)), columns in the order of `Traits`.
    scores : array-like
        float (N,), 0..1.
    """
    doubts: list[str] = []
    outside: dict[str, Any] = {}
    for name, trained in reference.traits.items():
        values = traits[:, Traits._fields.index(name)]
        if not len(values):
            continue
        share = float(np.mean((values < trained[_LOW]) | (values > trained[_HIGH])))
        here = np.quantile(values, [QUANTILES[_LOWER], 0.5, QUANTILES[_HIGHER]])
        outside[name] = {
            "outside_98": round(share, 4),
            "here_5_50_95": [round(float(value), 4) for value in here],
            "trained_5_50_95": [trained[index] for index in (_LOWER, _MIDDLE, _HIGHER)],
        }
        if share > MOST_OUTSIDE and len(values) >= FEWEST:
            doubts.append(
                f"{WORDS[name]}: {share:.0%} of them outside {trained[_LOW]:g} to "
                f"{trained[_HIGH]:g} (median {here[1]:g}, in training {trained[_MIDDLE]:g})"
            )
    figures: dict[str, Any] = {"recordings": len(traits), "traits": outside}
    scores = np.asarray(scores, np.float64)
    if len(scores) and len(reference.scores) > 1:
        distance, share = _score_distance(reference, prevalence, scores)
        # Critical distance of the two-sample Kolmogorov-Smirnov test at 5 %.
        chance = 1.36 * np.sqrt(1 / len(scores) + 1 / reference.validated)
        figures["scores"] = {"distance": round(distance, 4), "at_prevalence": round(share, 6)}
        if distance > FARTHEST + chance and len(scores) >= FEWEST:
            doubts.append(
                f"scores: no share of stalled recordings explains their distribution (at the "
                f"closest share, {share:.1%}, it differs by {distance:.0%})"
            )
    return Drift(tuple(doubts), figures)


def _score_distance(reference: Reference, prevalence: float, scores: Floats) -> tuple[float, float]:
    """Compare scores with those of the training at the best-fitting share of stalled.

    Returns
    -------
    distance : float
        Kolmogorov-Smirnov distance: the largest difference of the two distributions, 0..1.
    share : float
        The best-fitting share of stalled.
    """
    share = estimate_prevalence(scores, prevalence).prevalence
    trained = np.asarray(reference.scores)  # (M,) ascending
    # A score is the probability of stalled, so reweight both classes to the new share.
    weights = trained * (share / prevalence) + (1 - trained) * ((1 - share) / (1 - prevalence))
    # Scores are written with six digits, and converting them to another prevalence loses some.
    trained, scores = trained.round(DIGITS), scores.round(DIGITS)
    grid = np.unique(np.concatenate([trained, scores]))  # where either distribution steps
    cumulative = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()  # (M + 1,)
    expected = cumulative[np.searchsorted(trained, grid, side="right")]
    observed = np.searchsorted(np.sort(scores), grid, side="right") / len(scores)
    return float(np.abs(expected - observed).max()), share
