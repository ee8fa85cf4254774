"""Ensembles: several bundles joined into one that calls like any other.

What an ensemble chooses (calibration, threshold, weights) it chooses on recordings that its members
held back in their training. A recording is scored by those members only that did not learn from it.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.optimize import minimize

from stallscan import bundle as bundles
from stallscan import decide, files, metrics
from stallscan.bundle import Bundle, EnsembleSpec
from stallscan.decide import Calibration
from stallscan.drift import Reference
from stallscan.errors import InputError, TableError
from stallscan.settings import Settings
from stallscan.templates import render

# What train writes beside a bundle: the recordings held back, with their scores.
HELD_OUT_NAME = "validation.csv"

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
    weights : tuple of float or "fit"
        Of the members in a mean: alike if empty; ``fit`` chooses them for the highest likelihood.
    """

    name: str = "ensemble"
    needed: int = Field(default=0, ge=0)
    thresholds: tuple[float, ...] = ()
    weights: tuple[float, ...] | str = ()

    @model_validator(mode="after")
    def _check(self) -> "EnsembleSettings":
        if any(not 0 <= threshold <= 1 for threshold in self.thresholds):
            raise ValueError("thresholds must be within 0 to 1")
        if isinstance(self.weights, str) and self.weights != "fit":
            raise ValueError("weights are numbers, one for each member, or fit")
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
    members = [bundles.load(folder) for folder in folders]
    if len(members) < 2:
        raise InputError(f"an ensemble needs at least two bundles, {len(members)} given")
    if any(member.path.resolve().is_relative_to(out.resolve()) for member in members):
        raise InputError(f"{out}: holds one of the members; choose another folder with -o")
    held_out = _read_held_out(members)
    base = {
        "name": settings.name,
        "members": tuple(f"{number}-{one.spec.name}" for number, one in enumerate(members, 1)),
        "members_sha256": tuple(one.spec.weights_sha256 for one in members),
        # What all members have seen.
        "frames": (
            max(one.spec.frames[0] for one in members),
            min(one.spec.frames[1] for one in members),
        ),
        "simulated": all(one.spec.simulated for one in members),
        "prevalence": members[0].spec.prevalence,
        "provenance": {
            **files.provenance(),
            "members": [str(Path(folder).resolve()) for folder in folders],
            "chosen_on": len(held_out),
        },
    }
    if settings.needed:
        spec = _vote(base, members, settings)
    else:
        spec = _average(base, members, settings, held_out)
    spec = _describe(spec, members, held_out)
    bundles.save_ensemble(out, spec, members, _card(spec, members))
    return spec


def _vote(
    base: dict[str, object], members: Sequence[Bundle], settings: EnsembleSettings
) -> EnsembleSpec:
    thresholds = settings.thresholds or tuple(one.spec.threshold for one in members)
    if len(thresholds) != len(members):
        raise InputError(f"{len(thresholds)} thresholds are given for {len(members)} members")
    return EnsembleSpec.parse(
        {
            **base,
            "combine": "vote",
            "needed": settings.needed,
            "thresholds": thresholds,
            "threshold": 0.5,
        },
        "ensemble",
    )


def _average(
    base: dict[str, object],
    members: Sequence[Bundle],
    settings: EnsembleSettings,
    held_out: pd.DataFrame,
) -> EnsembleSpec:
    odds = held_out[[str(number) for number in range(len(members))]].to_numpy(np.float64)
    labels = held_out["stalled"].to_numpy(np.int64)
    can_choose = 0 < labels.sum() < len(labels)
    if isinstance(settings.weights, str):
        weights = _fit_weights(odds, labels)
    else:
        weights = settings.weights or (1.0,) * len(members)
    if len(weights) != len(members):
        raise InputError(f"{len(weights)} weights are given for {len(members)} members")
    if len(settings.thresholds) > 1:
        raise InputError(f"{len(settings.thresholds)} thresholds are given where one is used")
    if can_choose:
        mean = _mean(odds, weights)
        calibration = decide.fit_calibration(mean, labels)
        base = {**base, "prevalence": float(labels.mean())}
        chosen = decide.best_mcc_threshold(calibration.score(mean), labels)
    elif settings.thresholds:
        # Scores of the members are read at the prevalence of the first.
        first = members[0].spec.prevalence
        moves = [Calibration().at(one.spec.prevalence, first).bias for one in members]
        calibration = Calibration(bias=float(np.average(moves, weights=weights)))
    else:
        raise InputError(
            f"no {HELD_OUT_NAME} with both kinds of recordings stands beside the bundles, so no "
            "threshold can be chosen; give one with --threshold"
        )
    return EnsembleSpec.parse(
        {
            **base,
            "combine": "average",
            "weights": weights,
            "calibration": calibration.model_dump(),
            "threshold": settings.thresholds[0] if settings.thresholds else chosen,
        },
        "ensemble",
    )


def _describe(
    spec: EnsembleSpec, members: Sequence[Bundle], held_out: pd.DataFrame
) -> EnsembleSpec:
    """Add what the ensemble gives for the recordings held back, and what its training was like."""
    odds = held_out[[str(number) for number in range(len(members))]].to_numpy(np.float64)
    labels = held_out["stalled"].to_numpy(np.int64)
    if spec.combine == "average":
        scores = spec.calibration.score(_mean(odds, spec.weights))
    else:
        # A vote takes all members: those that learned from a recording must not have one.
        whole = ~np.isnan(odds).any(axis=1)
        odds, labels = odds[whole], labels[whole]
        scores = bundles.combine(spec, Calibration().score(odds.T))
    update: dict[str, object] = {}
    if 0 < labels.sum() < len(labels):
        scored = metrics.Scored.check(labels, scores, scores >= spec.threshold, (spec.threshold,))
        measured = asdict(metrics.measure(scored))
        measured["confusion"] = metrics.measure(scored).confusion._asdict()
        update["metrics"] = {"validation": measured}
    # The members saw the same recordings, or as good as: the first says what they were like. The
    # scores that a prevalence is chosen with must be the ensemble's own.
    traits = members[0].spec.reference
    if traits is not None and len(scores):
        own = Reference.of(pd.DataFrame(), scores)
        update["reference"] = traits.model_copy(
            update={"scores": own.scores, "validated": own.validated}
        )
    return spec.model_copy(update=update)


def _read_held_out(members: Sequence[Bundle]) -> pd.DataFrame:
    """Read what the members held back.

    Returns
    -------
    DataFrame
        filename, stalled, and for each member, by its number as text, the log-odds of its score:
        nan where it did not hold the recording back.
    """
    parts = []
    for number, member in enumerate(members):
        path = member.path.parent / HELD_OUT_NAME
        if not path.is_file():
            continue
        table = pd.read_csv(path)
        if missing := {"filename", "stalled", "logit"} - set(table):
            raise TableError(
                f"{path}: column {sorted(missing)[0]} is missing; expected the table that "
                "'stallscan train' writes beside a bundle"
            )
        calibration = member.spec.calibration
        odds = calibration.scale * table["logit"] + calibration.bias
        parts.append(table[["filename", "stalled"]].assign(member=str(number), odds=odds))
    columns = ["filename", "stalled", *(str(number) for number in range(len(members)))]
    if not parts:
        return pd.DataFrame(columns=columns).astype({"stalled": int})
    every = pd.concat(parts)
    labels = every.groupby("filename")["stalled"]
    if (differing := labels.nunique() > 1).any():
        raise TableError(
            f"the members were trained with different labels of {differing.idxmax()}; train them "
            "on one table"
        )
    wide = every.pivot(index="filename", columns="member", values="odds").reindex(
        columns=columns[2:]
    )
    return wide.assign(stalled=labels.first()).reset_index()[columns]


def _mean(odds: Floats, weights: Sequence[float]) -> Floats:
    """Mean log-odds over the members that held each recording back."""
    known = ~np.isnan(odds) * np.asarray(weights)
    total = known.sum(axis=1)
    # Where only members without weight held it back, these are all there is.
    known = np.where(total[:, np.newaxis] > 0, known, ~np.isnan(odds))
    mean: Floats = (np.nan_to_num(odds) * known).sum(axis=1) / known.sum(axis=1)
    return mean


def _fit_weights(odds: Floats, labels: NDArray[np.int64]) -> tuple[float, ...]:
    """Choose weights of 0 or more for the highest likelihood; they add up to 1."""
    whole = ~np.isnan(odds).any(axis=1)
    odds, labels = odds[whole], labels[whole]
    if not 0 < labels.sum() < len(labels):
        raise InputError(
            "weights are fitted on recordings that every member held back, stalled and flowing "
            "ones; the members have none in common: train them with the same data.seed, or give "
            "the weights"
        )
    signs = 2.0 * labels - 1

    def loss(parameters: Floats) -> tuple[float, Floats]:
        margins = signs * (odds @ parameters[:-1] + parameters[-1])
        slopes = -signs * np.exp(-np.logaddexp(0, margins)) / len(labels)
        return float(np.logaddexp(0, -margins).mean()), np.append(odds.T @ slopes, slopes.sum())

    count: int = odds.shape[1]
    start = np.append(np.full(count, 1 / count), 0.0)
    bounds = [*[(0.0, None)] * count, (None, None)]
    found: Floats = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x[:-1]
    if found.sum() <= 0:
        return (1.0,) * count
    weights: list[float] = (found / found.sum()).round(6).tolist()
    return tuple(weights)


def _card(spec: EnsembleSpec, members: Sequence[Bundle]) -> str:
    measured = spec.metrics.get("validation")
    return render("ensemble.md.j2", spec=spec, members=members, measured=measured) + "\n"
