"""What ``bundle.json`` says, of a bundle and of an ensemble."""

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
# What of an ensemble's spec its calls follow from.
DECIDES = {
    "members_sha256",
    "combine",
    "needed",
    "weights",
    "thresholds",
    "calibration",
    "threshold",
}
# What of a bundle's spec its calls do not follow from.
TELLS = {"reference", "metrics", "provenance"}
Floats = NDArray[np.float64]


class BundleSpec(Settings):
    """What ``bundle.json`` holds.

    Attributes
    ----------
    format : int
        Number of this format.
    name : str
        What predictions call the bundle.
    outline, clip, net
        How a recording becomes a logit.
    calibration : Calibration
        How a logit becomes a score.
    threshold : float
        Stalled is called at or above this score.
    prevalence : float
        Share of stalled in the set that calibration and threshold were chosen on.
    frames : tuple of int
        Fewest and most frames of the recordings it was trained on.
    simulated : bool
        Whether all recordings it was trained on are simulated; of an ensemble: whether those of
        any member are.
    reference : Reference or None
        What those recordings were like, and the scores of those held back; None where that is not
        known.
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
        """How its net is shown a recording."""
        return Preprocessing(self.outline, self.clip)

    @property
    def is_vote(self) -> bool:
        """Whether its score is no probability: that of one net is."""
        return False


class EnsembleSpec(Settings):
    """What ``bundle.json`` of an ensemble holds: how the calls of its members become one.

    Attributes
    ----------
    format : int
        Number of this format.
    kind : str
        What tells it from a single bundle.
    name : str
        What predictions call it.
    members : tuple of str
        Their folders, in ``members/``.
    members_sha256 : tuple of str
        Hashes of their weights.
    combine : str
        ``average``: the mean log-odds of the members' scores, calibrated; ``vote``: stalled is
        called where at least `needed` members call so, each at its own threshold.
    needed : int
        Of a vote; published: 2 of 3 (docs/facts.md 2).
    weights : tuple of float
        Of the members in an average.
    thresholds : tuple of float
        Of the members in a vote, on their scores.
    calibration : Calibration
        How the mean log-odds become a score.
    threshold, prevalence, frames, simulated, reference, metrics, provenance
        As in `BundleSpec`. The score of a vote is no probability, and its threshold is a half.
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
        """Whether its score is no probability."""
        return self.combine == "vote"

    @model_validator(mode="after")
    def _one_for_each(self) -> "EnsembleSpec":
        count = len(self.members)
        wanted = self.thresholds if self.is_vote else self.weights
        if len(self.members_sha256) != count or len(wanted) != count:
            raise ValueError(f"{count} members need a hash and a weight or threshold each")
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
    """Combine the members' scores, float (members, N), 0..1, as an ensemble does.

    Returns
    -------
    ndarray
        float64 (N,), 0..1.
    """
    if spec.is_vote:
        return vote_margin(scores, spec.thresholds, spec.needed)
    mean = np.average(log_odds(scores), axis=0, weights=spec.weights)
    return spec.calibration.score(mean)
