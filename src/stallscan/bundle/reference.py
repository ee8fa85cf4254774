"""Comparison of new recordings with those that a bundle was trained on.

A net is unreliable on recordings that differ from its training data, and its scores do not show
this.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stallscan.clips.traits import Traits
from stallscan.scores.prevalence import estimate_prevalence
from stallscan.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

# The traits that are compared, with their names in messages.
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
# Quantiles of each trait that a bundle stores.
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_Q01, _Q05, _Q50, _Q95, _Q99 = (QUANTILES.index(q) for q in (0.01, 0.05, 0.5, 0.95, 0.99))
# Number of validation scores that a bundle stores, at evenly spaced ranks.
SCORES_KEPT = 401
DIGITS = 3  # decimals to which scores are compared

# The limits below are chosen, not measured.
# A recording is an outlier if a trait lies outside the range of the training recordings, and also
# outside their inner 98 % widened by this share of its width on either side.
OUTLIER_MARGIN = 0.25
# A run differs from the training if more than this share of its recordings lies outside the inner
# 98 % of the training recordings (2 % are expected),
MAX_SHARE_OUTSIDE = 0.1
# or if its score distribution differs by this much more than chance explains.
MAX_SCORE_DISTANCE = 0.08
# Runs with fewer recordings are not judged.
MIN_RECORDINGS = 30


class Reference(Settings):
    """Traits of the training recordings, and scores of the held-out ones."""

    trained: int  # number of training recordings
    validated: int  # number of held-out recordings
    # `QUANTILES` of each trait in `WORDS` over the training recordings; empty if not measured.
    traits: dict[str, tuple[float, ...]]
    # Evenly spaced quantiles, ascending, of the calibrated scores (0..1) of the held-out
    # recordings; empty if nothing was held out.
    scores: tuple[float, ...]

    @classmethod
    def of(cls, traits: "pd.DataFrame", scores: ArrayLike) -> "Reference":
        """Summarise the traits and scores of a training run.

        Parameters
        ----------
        traits : DataFrame
            One row per training recording, with the columns of `Traits`; may be empty.
        scores : array-like
            float (N,), 0..1, of the held-out recordings; may be empty.
        """
        trait_quantiles = {
            name: tuple(round(float(value), 4) for value in np.quantile(traits[name], QUANTILES))
            for name in (WORDS if len(traits) else ())
        }
        scores = np.asarray(scores, np.float64)
        score_quantiles = scores[:0]
        if len(scores):
            ranks = np.linspace(0, 1, min(len(scores), SCORES_KEPT))
            score_quantiles = np.quantile(scores, ranks)
        return cls(
            trained=len(traits),
            validated=len(scores),
            traits=trait_quantiles,
            scores=tuple(round(float(value), 6) for value in score_quantiles),
        )

    def outliers(self, traits: Traits) -> str:
        """Describe the traits of a recording far outside the training range; empty if none are."""
        outliers = []
        for name, trained in self.traits.items():
            margin = OUTLIER_MARGIN * (trained[_Q99] - trained[_Q01])
            low = min(trained[0], trained[_Q01] - margin)
            high = max(trained[-1], trained[_Q99] + margin)
            value = getattr(traits, name)
            if not low <= value <= high:
                outliers.append(
                    f"{WORDS[name]}: {value:.4g}, in training {trained[0]:g} to {trained[-1]:g}"
                )
        return "; ".join(outliers)


class Drift(NamedTuple):
    """Differences between the recordings of a run and those of training."""

    doubts: tuple[str, ...]  # a phrase for each difference larger than chance
    figures: dict[str, Any]  # everything that was compared, for run.json


def compare(
    reference: Reference,
    prevalence: float,
    traits: Floats,
    scores: ArrayLike,
    ignored: Collection[str] = (),
) -> Drift:
    """Compare the recordings of a run with those of training.

    Parameters
    ----------
    reference : Reference
        The reference of the bundle.
    prevalence : float
        Share of stalled recordings for which the scores of both the reference and the run are
        calibrated, above 0 and below 1.
    traits : ndarray
        float (N, len(Traits._fields)), columns in the order of `Traits`.
    scores : array-like
        float (N,), 0..1.
    ignored : collection of str
        Traits that are not compared.
    """
    doubts: list[str] = []
    outside: dict[str, Any] = {}
    for name, trained in reference.traits.items():
        values = traits[:, Traits._fields.index(name)]  # (N,)
        if not len(values) or name in ignored:
            continue
        share = float(np.mean((values < trained[_Q01]) | (values > trained[_Q99])))
        here = np.quantile(values, [0.05, 0.5, 0.95])
        outside[name] = {
            "outside_98": round(share, 4),
            "here_5_50_95": [round(float(value), 4) for value in here],
            "trained_5_50_95": [trained[index] for index in (_Q05, _Q50, _Q95)],
        }
        if share > MAX_SHARE_OUTSIDE and len(values) >= MIN_RECORDINGS:
            doubts.append(
                f"{WORDS[name]}: {share:.0%} of recordings outside {trained[_Q01]:g} to "
                f"{trained[_Q99]:g} (median {here[1]:g}, in training {trained[_Q50]:g})"
            )
    figures: dict[str, Any] = {"recordings": len(traits), "traits": outside}
    scores = np.asarray(scores, np.float64)
    if len(scores) and len(reference.scores) > 1:
        distance, share = _score_distance(reference, prevalence, scores)
        # Critical distance of the two-sample Kolmogorov-Smirnov test at 5 %.
        chance = 1.36 * np.sqrt(1 / len(scores) + 1 / reference.validated)
        figures["scores"] = {"distance": round(distance, 4), "at_prevalence": round(share, 6)}
        if distance > MAX_SCORE_DISTANCE + chance and len(scores) >= MIN_RECORDINGS:
            doubts.append(
                f"scores: no share of stalled recordings explains their distribution (at the "
                f"best-fitting share, {share:.1%}, it differs from training by {distance:.0%})"
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
    # A score s stands for s stalled and 1 - s flowing recordings; reweight both to the new share.
    weights = trained * (share / prevalence) + (1 - trained) * ((1 - share) / (1 - prevalence))
    # Scores have six digits, and converting them to another prevalence loses some of these.
    trained, scores = trained.round(DIGITS), scores.round(DIGITS)
    grid = np.unique(np.concatenate([trained, scores]))  # (K,): where either distribution steps
    cumulative = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()  # (M + 1,)
    expected = cumulative[np.searchsorted(trained, grid, side="right")]  # (K,), as in training
    observed = np.searchsorted(np.sort(scores), grid, side="right") / len(scores)  # (K,)
    return float(np.abs(expected - observed).max()), share
