"""Ensembles: several bundles joined into one model that is used like a bundle.

Calibration and threshold of an ensemble are chosen on recordings that its members held out in
training. There, each recording is scored only by the members that held it out.
"""

import logging
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
from stallscan.bundle.spec import SPEC_NAME, EnsembleSpec, Floats, combine, shifts_to_first
from stallscan.catalog import text
from stallscan.catalog.tables import labels_of
from stallscan.errors import InputError, TableError
from stallscan.runs import HELD_OUT_NAME
from stallscan.scores import metrics
from stallscan.scores.calibration import Calibration, fit_calibration, log_odds
from stallscan.scores.thresholds import best_mcc_threshold, on_grid, rounded
from stallscan.settings import LONGEST_NAME, Name, Settings
from stallscan.templates import render

# Columns of the tables of held-out recordings that say which recording a row is of; tables of older
# versions lack them.
HASHES = ("file_sha256", "clip_sha256")

log = logging.getLogger("stallscan")


class EnsembleSettings(Settings):
    """How to join members into an ensemble."""

    name: Name = "ensemble"  # in predictions
    # For a vote, the number of members that must call a recording stalled; 0 averages the log-odds
    # of their scores instead.
    needed: int = Field(default=0, ge=0)
    # For a vote, one threshold per member, on its calibrated score (empty: the members' own). For
    # an average, a single threshold (empty: chosen for the highest MCC).
    thresholds: tuple[float, ...] = ()
    # For an average, one weight per member (empty: equal weights).
    weights: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "EnsembleSettings":
        if any(not 0 <= threshold <= 1 for threshold in self.thresholds):
            raise ValueError("thresholds must be from 0 to 1")
        # NaN fails every comparison, so test for valid weights, not for invalid ones.
        is_valid = all(0 <= weight < np.inf for weight in self.weights)
        if not is_valid or (self.weights and not sum(self.weights)):
            raise ValueError("weights must be finite, 0 or more, and not all 0")
        if self.needed and self.weights:
            raise ValueError("a vote does not use weights. Remove either the weights or the vote")
        return self


def join(folders: Sequence[str | Path], out: Path, settings: EnsembleSettings) -> EnsembleSpec:
    """Join bundles into an ensemble and write it.

    Parameters
    ----------
    folders : sequence of str or Path
        At least two members: folders of bundles or names of shipped ones. The table of the
        recordings that a member held out, ``validation.csv``, is read from next to its folder if it
        exists.
    out : Path
        Folder of the ensemble.

    Raises
    ------
    BundleError
        If a member cannot be read.
    InputError
        If settings and members do not match, or a threshold is neither given nor can be chosen on
        held-out recordings.
    TableError
        If a table of held-out recordings is invalid.
    """
    members = [disk.load(folder) for folder in folders]
    if len(members) < 2:
        raise InputError(
            f"an ensemble needs at least two bundles, got {len(members)}. Give more folders"
        )
    _refuse_copies(members)
    for member in members:
        folder, target = member.path.resolve(), out.resolve()
        if folder.is_relative_to(target) or target.is_relative_to(folder):
            raise InputError(
                f"{out}: contains a member or is inside one. Choose another folder with -o"
            )
    spec_path = out / SPEC_NAME
    files.refuse_foreign(spec_path, ['"kind": "ensemble"'], "that of an ensemble")
    held_out = HeldOut.read(members)
    base = {
        "name": settings.name,
        "members": tuple(
            f"{number}-{member.spec.name}"[:LONGEST_NAME]
            for number, member in enumerate(members, 1)
        ),
        "members_sha256": tuple(member.spec.weights_sha256 for member in members),
        "frames": (
            min(member.spec.frames[0] for member in members),
            max(member.spec.frames[1] for member in members),
        ),
        "simulated": any(member.spec.simulated for member in members),
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
    """Raise InputError if two members have the same weights, because that net would count twice."""
    by_hash: dict[str, Bundle] = {}
    for member in members:
        other = by_hash.setdefault(member.spec.weights_sha256, member)
        if other is not member:
            raise InputError(
                f"{member.path}: has the same weights as {other.path}. Give each net only once"
            )


@dataclass(frozen=True)
class HeldOut:
    """Log-odds and labels of the N recordings that any of the members held out in training."""

    # float64 (N, members): log-odds of each member's score, shifted to the prevalence of the first
    # member; nan where the member did not hold the recording out.
    odds: Floats
    labels: NDArray[np.int64]  # (N,), 0 or 1
    shifts: tuple[float, ...]  # added to the log-odds of each member, included in `odds`

    @classmethod
    def read(cls, members: Sequence[Bundle]) -> "HeldOut":
        """Read the tables next to the bundles.

        Raises
        ------
        TableError
            If a table is invalid, or two tables disagree about a label.
        """
        shifts = shifts_to_first([member.spec for member in members])
        tables = [
            table.assign(member=number, odds=table["odds"] + shifts[number])
            for number, member in enumerate(members)
            if (table := _read_table(member)) is not None
        ]
        if not tables:
            return cls(np.empty((0, len(members))), np.empty(0, np.int64), shifts)
        same_clips = len({member.spec.view for member in members}) == 1
        # columns filename, stalled, odds, member and those of HASHES
        rows = _told_apart(pd.concat(tables, ignore_index=True), same_clips)
        labels = rows.groupby("filename")["stalled"]
        if (differing := labels.nunique() > 1).any():
            raise TableError(
                f"the members were trained with different labels for {differing.idxmax()}. Train "
                "them on the same table, or, if they are different recordings that share a name, "
                "rename one"
            )
        wide = rows.pivot(index="filename", columns="member", values="odds")
        odds = wide.reindex(columns=range(len(members))).to_numpy(np.float64)  # (N, members)
        return cls(odds, labels.first().loc[wide.index].to_numpy(np.int64), shifts)

    @property
    def has_both(self) -> bool:
        """Whether both classes are present."""
        return 0 < int(self.labels.sum()) < len(self.labels)

    def of_all(self) -> "HeldOut":
        """Keep only the recordings that all members held out, so the whole ensemble scores them."""
        rows = ~np.isnan(self.odds).any(axis=1)
        return replace(self, odds=self.odds[rows], labels=self.labels[rows])

    def mean(self, weights: Sequence[float]) -> Floats:
        """Average the log-odds, float64 (N,), over the members that held each recording out."""
        held_out = ~np.isnan(self.odds)  # (N, members)
        shares = held_out * np.asarray(weights)  # (N, members)
        # If only members of weight 0 held a recording out, weight them equally.
        shares = np.where(shares.sum(axis=1, keepdims=True) > 0, shares, held_out)
        mean: Floats = (np.nan_to_num(self.odds) * shares).sum(axis=1) / shares.sum(axis=1)
        return mean


def _vote(
    base: dict[str, Any], members: Sequence[Bundle], settings: EnsembleSettings
) -> EnsembleSpec:
    defaults = (member.spec.threshold for member in members)
    thresholds = tuple(map(on_grid, settings.thresholds or defaults))
    if len(thresholds) != len(members):
        raise InputError(
            f"{len(thresholds)} thresholds for {len(members)} members. Give one per member"
        )
    if settings.needed > len(members):
        raise InputError(
            f"a vote of {len(members)} members cannot need {settings.needed}. Lower --vote"
        )
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
        raise InputError(f"{len(weights)} weights for {len(members)} members. Give one per member")
    if len(settings.thresholds) > 1:
        raise InputError(
            f"{len(settings.thresholds)} thresholds for an average. Give one, or add --vote"
        )
    calibration, threshold = Calibration(), None
    if whole.has_both:
        mean = whole.mean(weights)
        calibration = fit_calibration(mean, whole.labels)
        threshold = best_mcc_threshold(calibration.score(mean), whole.labels)
        base["prevalence"] = float(whole.labels.mean())
    elif held_out.has_both and not np.isnan(held_out.odds).all(axis=0).any():
        # Members trained on folds: no recording was held out by all of them, so the mean of their
        # calibrated log-odds cannot itself be calibrated. It is at the prevalence of the first
        # fold, but the threshold is chosen on all folds: shift it to theirs.
        first, base["prevalence"] = base["prevalence"], float(held_out.labels.mean())
        calibration = calibration.at(first, base["prevalence"])
        scores = calibration.score(held_out.mean(weights))
        threshold = best_mcc_threshold(scores, held_out.labels)
    if settings.thresholds:
        threshold = on_grid(settings.thresholds[0])
    if threshold is None:
        raise InputError(
            f"no threshold can be chosen, because not every bundle has a {HELD_OUT_NAME} with "
            "stalled and flowing recordings next to it. Give a threshold with --threshold"
        )
    # Prediction averages the log-odds without these shifts, so the bias must include them.
    shift = float(np.average(held_out.shifts, weights=weights))
    bias = calibration.bias + calibration.scale * shift
    shifted = Calibration(scale=calibration.scale, bias=bias)
    return EnsembleSpec(
        **base, combine="average", weights=weights, calibration=shifted, threshold=threshold
    )


def _describe(spec: EnsembleSpec, members: Sequence[Bundle], held_out: HeldOut) -> EnsembleSpec:
    """Add the metrics on held-out recordings, and a reference to compare new recordings with."""
    whole = held_out.of_all()
    # A vote needs all members, so it can score only recordings that all of them held out.
    by_all = whole.has_both or spec.is_vote
    scored = whole if by_all else held_out
    update: dict[str, Any] = {}
    scores = np.empty(0)
    if scored.has_both:
        if spec.is_vote:
            member_odds = (scored.odds - scored.shifts).T  # (members, N)
            scores = combine(spec, Calibration().score(member_odds))
        else:
            shift = float(np.average(scored.shifts, weights=spec.weights))
            scores = spec.calibration.score(scored.mean(spec.weights) - shift)
        scores = rounded(scores)
        calls = scores >= spec.threshold
        checked = metrics.Scored.check(scored.labels, scores, calls, (spec.threshold,))
        figures = metrics.measure(checked).as_json() | {"by_all": by_all}
        update["metrics"] = {"validation": figures}
    if (reference := members[0].spec.reference) is not None:
        # The members were trained on nearly the same recordings, so the traits of the first
        # represent all. The scores must be those of the ensemble, but vote margins are not
        # probabilities and are left out.
        own = Reference.of(pd.DataFrame(), np.empty(0) if spec.is_vote else scores)
        update["reference"] = reference.model_copy(
            update={"scores": own.scores, "validated": own.validated}
        )
    return spec.model_copy(update=update)


def _told_apart(rows: pd.DataFrame, same_clips: bool) -> pd.DataFrame:
    """Rename different recordings that share a file name: those with different hashes.

    Hashes of clips tell recordings apart only if the clips were cut with the same settings, and a
    hash decides only if it is known in all rows of the name.
    """
    filenames = names = rows["filename"]
    decided = pd.Series(False, rows.index)
    for column in HASHES if same_clips else HASHES[:1]:
        knows = (rows[column] != "").groupby(filenames).transform("all")
        differ = rows[column].groupby(filenames).transform("nunique") > 1
        names = names.where(~(knows & differ & ~decided), names + " " + rows[column])
        decided |= knows
    if count := filenames[names != filenames].nunique():
        log.info("%s file names mean different recordings in different bundles", f"{count:,}")
    return rows.assign(filename=names)


def _read_table(member: Bundle) -> pd.DataFrame | None:
    """Read the held-out recordings of a member: filename, stalled, odds. None without a table."""
    path = member.path.parent / HELD_OUT_NAME
    if not path.is_file():
        return None
    table = text.read(path)
    if missing := {"filename", "stalled", "logit"} - set(table.header):
        raise TableError(
            f"{path}: column {sorted(missing)[0]} is missing. Restore the table that 'stallscan "
            "train' wrote next to the bundle"
        )
    labels = labels_of(table)
    logits = pd.to_numeric(pd.Series(table.column("logit")), errors="coerce").loc[labels.index]
    if not np.isfinite(logits).all():
        raise TableError(
            f"{path}: line {table.lines[int(np.argmin(np.isfinite(logits)))]}: logit is not a "
            "finite number. Restore the table that 'stallscan train' wrote next to the bundle"
        )
    scores = member.spec.calibration.score(logits)
    for column in HASHES:
        cells = table.column(column) if column in table.header else [""] * len(table.rows)
        labels = labels.assign(**{column: [cells[row] for row in labels.index]})
    # Prediction averages the log-odds of the calibrated scores, not the raw logits.
    return labels.assign(odds=log_odds(scores))
