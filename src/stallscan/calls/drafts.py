"""Calls in the making: how a threshold is chosen for a table of scores."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.calls.predictions import Predictions, is_simulated
from stallscan.calls.settings import CallSettings
from stallscan.errors import BundleError, InputError
from stallscan.runs import RUN_NAME
from stallscan.scores.calibration import CERTAIN, Calibration
from stallscan.scores.prevalence import estimate_prevalence
from stallscan.scores.thresholds import (
    ReviewBand,
    best_mcc_threshold,
    expected_mcc_threshold,
    specificity_threshold,
    workload_threshold,
)
from stallscan.settings import Settings

Floats = NDArray[np.float64]


class Step(Settings):
    """What a decision did to scores.

    Attributes
    ----------
    before : float, optional
        The prevalence for which they were calibrated; None if unknown.
    calibration : Calibration, optional
        Applied to their log-odds first.
    at : float, optional
        The prevalence for which they are calibrated then.
    to : float, optional
        The prevalence to which they were converted last; None if they were not.
    """

    before: float | None = None
    calibration: Calibration | None = None
    at: float | None = None
    to: float | None = None


@dataclass
class Draft:
    """Calls in the making, for the N recordings that have a score."""

    scores: Floats  # (N,), 0..1, rounded as they will be written
    threshold: float = np.nan
    calls: NDArray[np.str_] | None = None  # (N,), where the threshold alone does not give them
    # For the rule `limits`, scores below are called flowing; otherwise None.
    low: float | None = None
    on_labels: bool = False  # whether labels chose the threshold
    how: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def estimate(
    run: dict[str, Any], scores: Floats, before: float
) -> tuple[float, list[str], list[str]]:
    """Return the prevalence estimated from the scores, how it was found, and its doubts."""
    found = estimate_prevalence(scores, before)
    low, high = found.interval
    doubts = []
    if found.doubt:
        doubts.append(f"the estimated prevalence is not reliable: {found.doubt}")
    if is_simulated(run):
        doubts.append(
            "the prevalence was estimated with a bundle trained on simulated recordings only. Its "
            "calibration on real recordings is unknown, and the estimate is only as good as the "
            "calibration"
        )
    share = min(max(found.prevalence, CERTAIN), 1 - CERTAIN)
    how = f"estimated prevalence {found.prevalence:.2%} ({low:.2%} to {high:.2%})"
    return share, [how], doubts


def choose(
    draft: Draft,
    settings: CallSettings,
    known: NDArray[np.int64] | None,
    share: float | None,
    run: dict[str, Any],
) -> None:
    """Choose the threshold or the limits by the rule.

    `known` (N,) is -1 where there is no label. The scores were converted to the prevalence `share`,
    and `run` is the ``run.json`` of the table.
    """
    if settings.rule == "load":
        draft.threshold = workload_threshold(draft.scores, settings.load)
        draft.how.append(f"threshold {draft.threshold:.4f} for {settings.load:.1%} called stalled")
    elif known is not None:
        labelled = known >= 0
        _choose_on_labels(draft, settings, draft.scores[labelled], known[labelled], share)
    elif settings.rule != "mcc":
        raise InputError(
            f"the rule {settings.rule} needs labels of some of the recordings. Give them with "
            "--labels"
        )
    elif share is None:
        raise InputError(
            "the rule mcc needs labels (--labels), or a prevalence (--prevalence) at which the "
            "scores predict the MCC. Give one of the two"
        )
    else:
        threshold, why = threshold_of_bundle(run, share)
        if threshold is None:
            draft.threshold = expected_mcc_threshold(draft.scores)
            draft.how.append(
                f"threshold {draft.threshold:.4f}, the best that the scores predict ('stallscan "
                f"predict --prevalence' uses the bundle's validation scores, but {why})"
            )
        else:
            draft.threshold = threshold
            draft.how.append(
                f"threshold {threshold:.4f}, the best by the bundle's validation scores, as "
                "'stallscan predict --prevalence' chooses it"
            )


def _choose_on_labels(
    draft: Draft,
    settings: CallSettings,
    scores: Floats,
    labels: NDArray[np.int64],
    share: float | None,
) -> None:
    """Choose the threshold, or the limits, on the labelled recordings alone."""
    draft.on_labels = True
    source = f"on {len(labels):,} labelled recordings"
    if settings.rule == "limits":
        limits = ReviewBand.of(scores, labels, settings.missed, settings.false, settings.confidence)
        draft.threshold, draft.calls = limits.high, limits.call(draft.scores)
        draft.low = limits.low
        draft.how.append(
            f"flowing below {limits.low:.4f}, stalled from {limits.high:.4f}, chosen {source}: at "
            f"most {limits.missed:.1%} of the stalled recordings are called flowing and at most "
            f"{limits.false:.1%} of the flowing ones stalled, each with {limits.confidence:.0%} "
            "confidence"
        )
    elif settings.rule == "specificity":
        draft.threshold, doubt = specificity_threshold(scores, labels, settings.specificity)
        draft.doubts += [doubt] if doubt else []
        draft.how.append(
            f"threshold {draft.threshold:.4f} for a specificity of {settings.specificity:.2%} "
            f"{source}"
        )
    else:
        draft.threshold = best_mcc_threshold(scores, labels, share)
        prevalence = f" at {share:.2%} stalled" if share else ""
        draft.how.append(
            f"threshold {draft.threshold:.4f} for the highest MCC{prevalence} {source}"
        )


def threshold_of_bundle(run: dict[str, Any], share: float) -> tuple[float | None, str]:
    """Return the threshold that `predict` chooses at a prevalence, or None and the reason.

    `run` is the ``run.json`` of the table of scores.
    """
    if any(step.calibration for step in steps_of(run)):
        return None, "these scores were calibrated again on labels"
    model, reason = bundle_of(run, share)
    return (model.spec.threshold if model else None), reason


def bundle_of(
    run: dict[str, Any], share: float | None = None
) -> tuple[Bundle | Ensemble | None, str]:
    """Return the bundle that made the scores of a run, or None and the reason, as a clause.

    `run` is its ``run.json``; with `share`, the bundle is that for this prevalence.
    """
    where, label = run.get("bundle_path"), run.get("bundle")
    if not (isinstance(where, str) and isinstance(label, str)):
        return None, f"no {RUN_NAME} names the bundle of these scores"
    try:
        model = disk.load_any(where)
        before = run.get("prevalence")
        # The label of an ensemble depends on its prevalence.
        is_same = label == model.label or (
            isinstance(before, float) and label == model.at(before).label
        )
        if not is_same:
            return None, f"the bundle in {where} is another one by now"
        return model if share is None else model.at(share), ""
    except (InputError, BundleError):
        return None, f"the bundle in {where} cannot be used"


def steps_of(run: dict[str, Any]) -> list[Step]:
    """Return what earlier decisions did to the scores of a run, in order.

    Raises
    ------
    SettingsError
        If the description of the run is damaged.
    """
    decision = run.get("decision")
    steps = decision.get("steps") if isinstance(decision, dict) else None
    return [Step.parse(step, RUN_NAME) for step in steps] if isinstance(steps, list) else []


def fill_in(predictions: Predictions, draft: Draft) -> pd.DataFrame:
    """Return the table with the new scores, threshold and calls.

    What `predict` left to a person stays so: no threshold makes such a call reliable.
    """
    has_score = predictions.has_score
    calls = draft.calls
    if calls is None:
        calls = np.where(draft.scores >= draft.threshold, "stalled", "flowing")
    if predictions.run.get("consistency"):
        before = predictions.table.loc[has_score, "call"]
        calls = np.where(before == "review", "review", calls)
    new = predictions.table.copy()
    # A score without a call is dropped: it was not converted to the new prevalence.
    new["score"] = np.nan
    new.loc[has_score, "score"] = draft.scores
    new["threshold"] = draft.threshold
    new["call"] = "unscorable"
    new.loc[has_score, "call"] = calls
    return new
