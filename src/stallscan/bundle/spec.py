"""The content of ``bundle.json``, for bundles and for ensembles."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stallscan.bundle.reference import Reference
from stallscan.clips.clip import ClipSettings
from stallscan.clips.prepare import Preprocessing
from stallscan.nets.settings import NetSettings
from stallscan.scores.calibration import Calibration, log_odds
from stallscan.scores.vote import vote_margin
from stallscan.settings import Name, Settings
from stallscan.vessels.outline import OutlineSettings

SPEC_NAME = "bundle.json"
WEIGHTS_NAME = "weights.safetensors"
MEMBERS = "members"
# Fields of an ensemble's spec that determine its calls.
DECIDES = {
    "members_sha256",
    "combine",
    "needed",
    "weights",
    "thresholds",
    "calibration",
    "threshold",
}
# Fields of a bundle's spec that do not influence its calls.
TELLS = {"reference", "metrics", "provenance"}
Floats = NDArray[np.float64]


class BundleSpec(Settings):
    """The content of ``bundle.json``.

    Attributes
    ----------
    format : int
        Version of this format.
    name : str
        Name of the bundle in predictions.
    outline, clip, net
        Settings of the path from recording to logit.
    calibration : Calibration
        Turns a logit into a score.
    threshold : float
        Scores at or above this are called stalled.
    prevalence : float
        Share of stalled in the data that calibration and threshold were chosen on.
    frames : tuple of int
        Fewest and most frames of the training recordings.
    simulated : bool
        Whether all training recordings are simulated (for an ensemble, those of any member).
    reference : Reference or None
        Traits of the training recordings and scores of the held-out ones; None if unknown.
    weights_sha256 : str
        Hash of the weights file.
    metrics : dict
        On the validation part of the training data.
    provenance : dict
        Recipe, data hash, versions, seed.
    """

    format: Literal[1] = 1
    name: Name
    outline: OutlineSettings
    clip: ClipSettings
    net: NetSettings
    calibration: Calibration
    threshold: float = Field(ge=0, le=1)
    prevalence: float = Field(gt=0, lt=1)
    frames: tuple[int, int]
    simulated: bool
    reference: Reference | None = None
    weights_sha256: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def view(self) -> Preprocessing:
        """The preprocessing of recordings for its net."""
        return Preprocessing(self.outline, self.clip)

    @property
    def is_vote(self) -> bool:
        """Whether its score is a vote margin instead of a probability: never for a single net."""
        return False


class EnsembleSpec(Settings):
    """The content of ``bundle.json`` of an ensemble: how the members' calls become one.

    Attributes
    ----------
    format : int
        Version of this format.
    kind : str
        Distinguishes an ensemble from a single bundle.
    name : str
        Name of the ensemble in predictions.
    members : tuple of str
        Folder names in ``members/``.
    members_sha256 : tuple of str
        Hashes of the members' weights.
    combine : str
        ``average``: the mean log-odds of the members' scores, calibrated; ``vote``: stalled if at
        least `needed` members call it stalled, each at its own threshold.
    needed : int
        Votes needed; published: 2 of 3 (docs/facts.md 2).
    weights : tuple of float
        Weight of each member in an average.
    thresholds : tuple of float
        Threshold of each member in a vote, on its scores.
    calibration : Calibration
        Turns the mean log-odds into a score.
    threshold, prevalence, frames, simulated, reference, metrics, provenance
        As in `BundleSpec`. The score of a vote is not a probability, and its threshold is 0.5.
    """

    format: Literal[1] = 1
    kind: Literal["ensemble"] = "ensemble"
    name: Name
    members: tuple[Name, ...] = Field(min_length=1)
    members_sha256: tuple[str, ...]
    combine: Literal["average", "vote"] = "average"
    needed: int = Field(default=1, ge=1)
    weights: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    calibration: Calibration = Calibration()
    threshold: float = Field(ge=0, le=1)
    prevalence: float = Field(gt=0, lt=1)
    frames: tuple[int, int]
    simulated: bool
    reference: Reference | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_vote(self) -> bool:
        """Whether its score is a vote margin instead of a probability."""
        return self.combine == "vote"

    @model_validator(mode="after")
    def _check_members(self) -> "EnsembleSpec":
        count = len(self.members)
        wanted = self.thresholds if self.is_vote else self.weights
        if len(self.members_sha256) != count or len(wanted) != count:
            raise ValueError(f"each of the {count} members needs a hash, and a weight or threshold")
        if len({name.casefold() for name in self.members}) < count:
            raise ValueError("two members have the same name")
        if self.is_vote and self.needed > count:
            raise ValueError(f"a vote of {count} members cannot need {self.needed}")
        if self.combine == "average" and (min(self.weights) < 0 or sum(self.weights) <= 0):
            raise ValueError("weights must be 0 or more, and not all 0")
        return self

    def __str__(self) -> str:
        if self.is_vote:
            cuts = ", ".join(f"{cut:.4f}" for cut in self.thresholds)
            return f"{self.name}: vote of {self.needed} among {len(self.members)} at {cuts}"
        weights = ", ".join(f"{weight:g}" for weight in self.weights)
        return (
            f"{self.name}: mean log-odds of {len(self.members)} bundles (weights {weights}), "
            f"threshold {self.threshold:.4f}"
        )


def combine(spec: EnsembleSpec, scores: Floats) -> Floats:
    """Combine the members' scores, float (members, N), 0..1, into those of the ensemble, (N,)."""
    if spec.is_vote:
        return vote_margin(scores, spec.thresholds, spec.needed)
    mean = np.average(log_odds(scores), axis=0, weights=spec.weights)  # (N,)
    return spec.calibration.score(mean)
