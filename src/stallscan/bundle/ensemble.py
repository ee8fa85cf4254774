"""Ensembles: several bundles joined into one that calls like any other.

What an ensemble chooses (calibration, threshold) it chooses on recordings that its members held
back in their training. A recording is scored by those members only that did not learn from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stallscan import files
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle
from stallscan.bundle.reference import Reference
from stallscan.bundle.spec import SPEC_NAME, EnsembleSpec, combine
from stallscan.catalog import text
from stallscan.catalog.tables import labels_of
from stallscan.errors import InputError, TableError
from stallscan.runs import HELD_OUT_NAME
from stallscan.scores import metrics
from stallscan.scores.calibration import Calibration, fit_calibration, log_odds
from stallscan.scores.thresholds import best_mcc_threshold, on_grid, rounded
from stallscan.settings import LONGEST_NAME, Name, Settings
from stallscan.templates import render

Floats = NDArray[np.float64]


class EnsembleSettings(Settings):
    """How members become an ensemble.

    Attributes
    ----------
    name : str
        What predictions call it.
    needed : int
        So many members must call a recording stalled; 0 takes the mean of their log-odds.
    thresholds : tuple of float
        For a vote one for each member, on its calibrated score (those of the members if empty);
        for a mean one (chosen for the highest MCC if empty).
    weights : tuple of float
        Of the members in a mean: alike if empty.
    """

    name: Name = "ensemble"
    needed: int = Field(default=0, ge=0)
    thresholds: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "EnsembleSettings":
        if any(not 0 <= threshold <= 1 for threshold in self.thresholds):
            raise ValueError("thresholds must be within 0 to 1")
        # NaN fails every comparison, so it must be this way round.
        finite = all(0 <= weight < np.inf for weight in self.weights)
        if not finite or (self.weights and not sum(self.weights)):
            raise ValueError("weights must be finite, 0 or more, and not all 0")
        if self.needed and self.weights:
            raise ValueError("a vote has no weights")
        return self


def join(folders: Sequence[str | Path], out: Path, settings: EnsembleSettings) -> EnsembleSpec:
    """Join bundles into an ensemble and write it.

    Parameters
    ----------
    folders : sequence of str or Path
        The members: bundles by folder or shipped name, at least two. ``validation.csv`` of their
        training is looked for beside each folder.
    out : Path
        The ensemble's folder.
    settings : EnsembleSettings
        How they are joined.

    Raises
    ------
    BundleError
        If a member cannot be used.
    InputError
        If settings and members do not go together, or a threshold is to be chosen and there is
        nothing to choose it on.
    """
    members = [disk.load(folder) for folder in folders]
    if len(members) < 2:
        raise InputError(f"an ensemble needs at least two bundles, {len(members)} given")
    _refuse_copies(members)
    for member in members:
        folder, target = member.path.resolve(), out.resolve()
        if folder.is_relative_to(target) or target.is_relative_to(folder):
            raise InputError(
                f"{out}: holds one of the members, or lies in it. Choose another folder with -o"
            )
    spec_path = out / SPEC_NAME
    files.refuse_foreign(spec_path, ['"kind": "ensemble"'], "that of an ensemble")
    held_out = HeldOut.read(members)
    base = {
        "name": settings.name,
        "members": tuple(
            f"{number}-{one.spec.name}"[:LONGEST_NAME] for number, one in enumerate(members, 1)
        ),
        "members_sha256": tuple(one.spec.weights_sha256 for one in members),
        "frames": (
            min(one.spec.frames[0] for one in members),
            max(one.spec.frames[1] for one in members),
        ),
        "simulated": any(one.spec.simulated for one in members),
        "prevalence": members[0].spec.prevalence,
        "provenance": {
            **files.provenance(),
            "members": [str(Path(folder).resolve()) for folder in folders],
        },
    }
    if settings.needed:
        spec = _vote(base, members, settings)
    else:
        spec = _average(base, members, settings, held_out)
    spec = _describe(spec, members, held_out)
    measured = spec.metrics.get("validation")
    card = render("ensemble.md.j2", spec=spec, members=members, measured=measured) + "\n"
    disk.save_ensemble(out, spec, members, card)
    return spec


def _refuse_copies(members: Sequence[Bundle]) -> None:
    """Refuse a net that is given twice: it would count twice."""
    first: dict[str, Bundle] = {}
    for member in members:
        other = first.setdefault(member.spec.weights_sha256, member)
        if other is not member:
            raise InputError(
                f"{member.path}: has the same weights as {other.path}, so this net would count "
                "twice. Give each net once"
            )


@dataclass(frozen=True)
class HeldOut:
    """What the members held back in their training.

    Attributes
    ----------
    odds : ndarray
        float64 (N, members): log-odds of each member's score, read at the prevalence of the first
        member; nan where it did not hold the recording back.
    labels : ndarray
        int (N,), 0 or 1.
    moves : tuple of float
        What was added to the log-odds of each member.
    """

    odds: Floats
    labels: NDArray[np.int64]
    moves: tuple[float, ...]

    @classmethod
    def read(cls, members: Sequence[Bundle]) -> "HeldOut":
        """Read the tables beside the bundles.

        Raises
        ------
        TableError
            If one lacks a column, or two do not agree on a label.
        """
        first = members[0].spec.prevalence
        moves = tuple(Calibration().at(one.spec.prevalence, first).bias for one in members)
        parts = [
            table.assign(member=number, odds=table["odds"] + moves[number])
            for number, member in enumerate(members)
            if (table := _read_table(member)) is not None
        ]
        if not parts:
            return cls(np.empty((0, len(members))), np.empty(0, np.int64), moves)
        every = pd.concat(parts)
        labels = every.groupby("filename")["stalled"]
        if (differing := labels.nunique() > 1).any():
            raise TableError(
                f"the members were trained with different labels of {differing.idxmax()}; train "
                "them on one table"
            )
        wide = every.pivot(index="filename", columns="member", values="odds")
        wide = wide.reindex(columns=range(len(members)))
        return cls(
            wide.to_numpy(np.float64), labels.first().loc[wide.index].to_numpy(np.int64), moves
        )

    @property
    def has_both(self) -> bool:
        """Whether stalled and flowing recordings are among them."""
        return 0 < int(self.labels.sum()) < len(self.labels)

    def of_all(self) -> "HeldOut":
        """Keep the recordings that every member held back: what the ensemble itself would say."""
        rows = ~np.isnan(self.odds).any(axis=1)
        return replace(self, odds=self.odds[rows], labels=self.labels[rows])

    def mean(self, weights: Sequence[float]) -> Floats:
        """Mean log-odds over the members that held each recording back."""
        known = ~np.isnan(self.odds) * np.asarray(weights)
        total = known.sum(axis=1)
        # Where only members without weight held it back, these are all there is.
        known = np.where(total[:, np.newaxis] > 0, known, ~np.isnan(self.odds))
        mean: Floats = (np.nan_to_num(self.odds) * known).sum(axis=1) / known.sum(axis=1)
        return mean


def _vote(
    base: dict[str, Any], members: Sequence[Bundle], settings: EnsembleSettings
) -> EnsembleSpec:
    thresholds = tuple(map(on_grid, settings.thresholds or (one.spec.threshold for one in members)))
    if len(thresholds) != len(members):
        raise InputError(f"{len(thresholds)} thresholds are given for {len(members)} members")
    if settings.needed > len(members):
        raise InputError(f"a vote of {len(members)} members cannot need {settings.needed}")
    return EnsembleSpec(
        **base, combine="vote", needed=settings.needed, thresholds=thresholds, threshold=0.5
    )


def _average(
    base: dict[str, Any],
    members: Sequence[Bundle],
    settings: EnsembleSettings,
    held_out: HeldOut,
) -> EnsembleSpec:
    whole = held_out.of_all()
    weights = settings.weights or (1.0,) * len(members)
    if len(weights) != len(members):
        raise InputError(f"{len(weights)} weights are given for {len(members)} members")
    if len(settings.thresholds) > 1:
        raise InputError(f"{len(settings.thresholds)} thresholds are given where one is used")
    calibration, threshold = Calibration(), None
    if whole.has_both:
        mean = whole.mean(weights)
        calibration = fit_calibration(mean, whole.labels)
        threshold = best_mcc_threshold(calibration.score(mean), whole.labels)
        base["prevalence"] = float(whole.labels.mean())
    elif held_out.has_both and not np.isnan(held_out.odds).all(axis=0).any():
        # Folds: of the mean itself nothing is known, so it stays as its members calibrated it.
        scores = calibration.score(held_out.mean(weights))
        threshold = best_mcc_threshold(scores, held_out.labels)
    if settings.thresholds:
        threshold = on_grid(settings.thresholds[0])
    if threshold is None:
        raise InputError(
            f"not every bundle has its {HELD_OUT_NAME} beside it, with stalled and flowing "
            "recordings, so no threshold can be chosen; give one with --threshold"
        )
    # The members' own scores are averaged: what brings them to one prevalence goes into the bias.
    move = float(np.average(held_out.moves, weights=weights))
    moved = Calibration(scale=calibration.scale, bias=calibration.bias + calibration.scale * move)
    return EnsembleSpec(
        **base, combine="average", weights=weights, calibration=moved, threshold=threshold
    )


def _describe(spec: EnsembleSpec, members: Sequence[Bundle], held_out: HeldOut) -> EnsembleSpec:
    """Add figures on recordings held back, and what the members' training was like."""
    whole = held_out.of_all()
    # A vote takes all members: those that learned from a recording must not have one.
    by_all = whole.has_both or spec.is_vote
    part = whole if by_all else held_out
    update: dict[str, Any] = {}
    scores = np.empty(0)
    if part.has_both:
        if spec.is_vote:
            scores = combine(spec, Calibration().score((part.odds - part.moves).T))
        else:
            move = float(np.average(part.moves, weights=spec.weights))
            scores = spec.calibration.score(part.mean(spec.weights) - move)
        cut = spec.threshold
        scores = rounded(scores)
        scored = metrics.Scored.check(part.labels, scores, scores >= cut, (cut,))
        figures = metrics.measure(scored).as_json() | {"by_all": by_all}
        update["metrics"] = {"validation": figures}
    if (seen := members[0].spec.reference) is not None:
        # The members saw the same recordings, or as good as: the first says what they were like.
        # The scores must be the ensemble's own; those of a vote are no probabilities.
        own = Reference.of(pd.DataFrame(), np.empty(0) if spec.is_vote else scores)
        update["reference"] = seen.model_copy(
            update={"scores": own.scores, "validated": own.validated}
        )
    return spec.model_copy(update=update)


def _read_table(member: Bundle) -> pd.DataFrame | None:
    """Read filename, stalled and the log-odds of its score; None where there is no table."""
    path = member.path.parent / HELD_OUT_NAME
    if not path.is_file():
        return None
    table = text.read(path)
    if missing := {"filename", "stalled", "logit"} - set(table.header):
        raise TableError(
            f"{path}: column {sorted(missing)[0]} is missing; expected the table that 'stallscan "
            "train' writes beside a bundle"
        )
    labels = labels_of(table)
    logits = pd.to_numeric(pd.Series(table.column("logit")), errors="coerce").loc[labels.index]
    if not np.isfinite(logits).all():
        raise TableError(
            f"{path}: line {table.lines[int(np.argmin(np.isfinite(logits)))]}: logit is no number"
        )
    scores = member.spec.calibration.score(logits)
    # As prediction averages them.
    return labels.assign(odds=log_odds(scores))
