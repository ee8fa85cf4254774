"""The content of ``bundle.json``, of single bundles and of ensembles."""

from collections.abc import Sequence
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
# Fields of an ensemble's spec that determine its calls; its label is a hash of them.
DECISIVE_FIELDS = {
    "members_sha256",
    "combine",
    "needed",
    "weights",
    "thresholds",
    "calibration",
    "threshold",
}
# Fields of a bundle's spec that do not influence its calls.
DESCRIPTIVE_FIELDS = {"reference", "metrics", "provenance"}
Floats = NDArray[np.float64]


class BundleSpec(Settings):
    """The content of ``bundle.json`` of a single bundle."""

    format: Literal[1] = 1
    name: Name  # in predictions
    outline: OutlineSettings
    clip: ClipSettings
    net: NetSettings
    calibration: Calibration  # turns a logit into a score
    threshold: float = Field(ge=0, le=1)  # scores at or above it are called stalled
    # Share of stalled recordings in the data on which calibration and threshold were chosen.
    prevalence: float = Field(gt=0, lt=1)
    frames: tuple[int, int]  # fewest and most frames of the training recordings
    simulated: bool  # whether all training recordings are simulated
    # Traits of the training recordings and scores of the held-out ones; None if unknown.
    reference: Reference | None = None
    weights_sha256: str = ""  # of the weights file
    metrics: dict[str, Any] = Field(default_factory=dict)  # on the validation split
    # Recipe, data hash, versions, seed.
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def view(self) -> Preprocessing:
        """The preprocessing that turns recordings into clips for its net."""
        return Preprocessing(self.outline, self.clip)

    @property
    def is_vote(self) -> bool:
        """Whether its score is a vote margin instead of a probability: never for one net."""
        return False


class EnsembleSpec(Settings):
    """The content of ``bundle.json`` of an ensemble; other fields as in `BundleSpec`."""

    format: Literal[1] = 1
    kind: Literal["ensemble"] = "ensemble"  # single bundles have no kind
    name: Name
    members: tuple[Name, ...] = Field(min_length=1)  # folder names in members/
    members_sha256: tuple[str, ...]  # of the members' weights
    # average: the calibrated mean log-odds of the members' scores. vote: a recording is stalled if
    # at least `needed` members call it stalled, each at its own threshold.
    combine: Literal["average", "vote"] = "average"
    needed: int = Field(default=1, ge=1)  # published: 2 of 3 (docs/facts.md 2)
    weights: tuple[float, ...] = ()  # one per member, for an average
    thresholds: tuple[float, ...] = ()  # one per member, on its scores, for a vote
    calibration: Calibration = Calibration()  # turns the mean log-odds into a score
    threshold: float = Field(ge=0, le=1)  # 0.5 for a vote
    prevalence: float = Field(gt=0, lt=1)
    frames: tuple[int, int]
    simulated: bool  # whether the training recordings of any member are simulated
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
        per_member = self.thresholds if self.is_vote else self.weights
        if len(self.members_sha256) != count or len(per_member) != count:
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
            return (
                f"{self.name}: vote of {len(self.members)} bundles ({self.needed} needed), "
                f"thresholds {cuts}"
            )
        weights = ", ".join(f"{weight:g}" for weight in self.weights)
        return (
            f"{self.name}: mean log-odds of {len(self.members)} bundles (weights {weights}), "
            f"threshold {self.threshold:.4f}"
        )


def shifts_to_first(members: Sequence[BundleSpec]) -> tuple[float, ...]:
    """Return what converts each member's log-odds to the prevalence of the first member."""
    first = members[0].prevalence
    return tuple(Calibration().at(member.prevalence, first).bias for member in members)


def combine(spec: EnsembleSpec, scores: Floats) -> Floats:
    """Combine the members' scores, float (members, N), 0..1, into those of the ensemble, (N,)."""
    if spec.is_vote:
        return vote_margin(scores, spec.thresholds, spec.needed)
    mean = np.average(log_odds(scores), axis=0, weights=spec.weights)  # (N,)
    return spec.calibration.score(mean)
