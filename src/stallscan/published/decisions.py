"""How the nets of a published approach decide: each alone, and together as an ensemble."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from stallscan.bundle.spec import BundleSpec, EnsembleSpec, combine, shifts_to_first
from stallscan.calls.predictions import Predictions
from stallscan.calls.settings import CallSettings
from stallscan.published.approaches import Approach, Model
from stallscan.scores.calibration import Calibration
from stallscan.scores.thresholds import on_grid

At = Literal["half", "published", "chosen"]
AT: tuple[At, ...] = get_args(At)


@dataclass(frozen=True)
class Member:
    """A trained bundle: a model, or one fold or snapshot of it."""

    name: str
    model: Model  # what was published about it
    folder: Path  # contains its ``bundle`` and ``validation.csv``
    spec: BundleSpec

    def cut(self, raw: float) -> float:
        """Convert a threshold on the sigmoid of the logit to one on the calibrated scores."""
        return float(self.spec.calibration.score(np.log(raw / (1 - raw))))

    def threshold(self, at: At) -> float:
        """Return the threshold on its scores."""
        if at == "chosen":
            return self.spec.threshold
        return self.cut(self.model.threshold if at == "published" else 0.5)


class Decision(NamedTuple):
    """Who decides, and at which thresholds."""

    who: str
    at: At
    members: tuple[Member, ...]
    ensemble: EnsembleSpec | None = None  # None: a single member

    @property
    def settings(self) -> CallSettings:
        """How the scores of `join` become calls."""
        if self.ensemble:
            return CallSettings(threshold=self.ensemble.threshold)
        return CallSettings(threshold=self.members[0].threshold(self.at))

    def join(self, predictions: Sequence[Predictions]) -> Predictions:
        """Make one table of the predictions of each member."""
        return join(predictions, self.ensemble) if self.ensemble else predictions[0]


def list_decisions(approach: Approach, members: Sequence[Member]) -> list[Decision]:
    """List the decisions to make: of each net alone, then of those that decide together."""
    decisions = [
        Decision(member.name, at, (member,))
        for member in members
        for at in AT
        if not (at == "half" and member.model.threshold == 0.5)  # then the published one is 0.5
    ]
    deciding = tuple(member for member in members if member.model.decides)
    if len(deciding) > 1:
        who = {"vote": "vote", "average": "mean"}[approach.combine]
        decisions += [
            Decision(who, at, deciding, ensemble_of(approach, deciding, at))
            for at in AT
            if at != "half"
        ]
    return decisions


def ensemble_of(approach: Approach, members: Sequence[Member], at: At) -> EnsembleSpec:
    """Describe the ensemble by which the members decide together.

    Scores are averaged at the prevalence of the first member. The threshold of the mean is the mean
    of the members' thresholds, averaged in the same way.
    """
    shifts = shifts_to_first([member.spec for member in members])
    cuts = [member.threshold(at) for member in members]
    is_vote = approach.combine == "vote"
    spec = EnsembleSpec(
        name=approach.name,
        members=tuple(member.name for member in members),
        members_sha256=tuple(member.spec.weights_sha256 for member in members),
        combine=approach.combine,
        needed=approach.needed,
        weights=() if is_vote else (1.0,) * len(members),
        thresholds=tuple(map(on_grid, cuts)) if is_vote else (),
        calibration=Calibration() if is_vote else Calibration(bias=float(np.mean(shifts))),
        threshold=0.5,
        prevalence=members[0].spec.prevalence,
        frames=(
            min(member.spec.frames[0] for member in members),
            max(member.spec.frames[1] for member in members),
        ),
        simulated=any(member.spec.simulated for member in members),
    )
    if is_vote:
        return spec
    mean = float(combine(spec, np.array(cuts)[:, np.newaxis])[0])
    return spec.model_copy(update={"threshold": on_grid(mean)})


def join(members: Sequence[Predictions], spec: EnsembleSpec) -> Predictions:
    """Combine the predictions of an ensemble's members as the ensemble does.

    A recording has a score if every member gave it one. If not, its status and reason are those of
    the first member that gives a reason.
    """
    first = members[0]
    order = first.table["filename"]
    tables = [each.table.set_index("filename", drop=False).loc[order] for each in members]
    has_score = np.logical_and.reduce([replace(first, table=table).has_score for table in tables])
    scores = np.stack([table["score"].to_numpy(float) for table in tables])  # (members, N)
    joined = first.table.copy()
    joined["score"] = np.nan
    joined.loc[has_score, "score"] = combine(spec, scores[:, has_score])
    joined["threshold"] = spec.threshold
    joined["call"] = np.where(has_score, "flowing", "unscorable")  # `decide` makes the calls
    joined["bundle"] = [
        "+".join(labels) for labels in zip(*(table["bundle"] for table in tables), strict=True)
    ]
    for table in tables[1:]:
        silent = ~has_score & (joined["status"] == "ok").to_numpy()
        for name in ("status", "reason"):
            joined.loc[silent, name] = table[name].to_numpy()[silent]
    # The score of a vote is not a probability, so it is calibrated for no prevalence.
    prevalence = None if spec.is_vote else spec.prevalence
    paths = [str(each.path.resolve()) for each in members]
    ensemble = {"how": str(spec), "tables": paths}
    run = {**first.run, "prevalence": prevalence, "ensemble": ensemble}
    return Predictions(first.path, joined, run)
