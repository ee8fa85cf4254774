"""Make new calls from existing scores: reads a table of predictions, no recordings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stallscan import files, runs
from stallscan.calls.predictions import Predictions, is_simulated, read_chosen
from stallscan.catalog import names, tables
from stallscan.catalog.names import match
from stallscan.errors import InputError
from stallscan.runs import CHOSEN_NAME, PREDICTIONS_NAME, RUN_NAME, SUBMISSION_NAME
from stallscan.scores.calibration import CERTAIN, shift
from stallscan.scores.prevalence import estimate_prevalence
from stallscan.scores.thresholds import (
    ReviewBand,
    best_mcc_threshold,
    expected_mcc_threshold,
    on_grid,
    rounded,
    specificity_threshold,
    workload_threshold,
)
from stallscan.settings import Settings

Floats = NDArray[np.float64]


class CallSettings(Settings):
    """How scores become calls.

    Attributes
    ----------
    threshold : float, optional
        A given threshold, instead of a rule that chooses one.
    prevalence : float or "estimate" or None
        Share of stalled recordings among these, to which the scores are converted; ``estimate``
        estimates it from the scores. None leaves the scores as they are.
    rule : str
        How the threshold is chosen: ``mcc`` (the highest MCC, on labels or as the scores predict
        it), ``specificity``, ``load``, ``limits``, or ``keep`` (the threshold of the table).
    specificity : float
        For the rule ``specificity``; users need 99.9 % (docs/facts.md 6).
    load : float
        For the rule ``load``: the share of the recordings to call stalled, all of which a person
        reviews.
    missed, false, confidence : float
        For the rule ``limits``, see `thresholds.ReviewBand`.
    """

    threshold: float | None = Field(default=None, ge=0, le=1)
    prevalence: float | Literal["estimate"] | None = None
    rule: Literal["mcc", "specificity", "load", "limits", "keep"] = "keep"
    specificity: float = Field(default=0.999, gt=0, lt=1)
    load: float = Field(default=0.05, gt=0, lt=1)
    missed: float = Field(default=0.05, gt=0, lt=1)
    false: float = Field(default=0.01, gt=0, lt=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> "CallSettings":
        if isinstance(self.prevalence, float) and not 0 < self.prevalence < 1:
            raise ValueError("prevalence must be above 0 and below 1")
        if self.threshold is not None and self.rule != "keep":
            raise ValueError(
                f"a threshold is given, so the rule {self.rule} would choose none. Give one of them"
            )
        return self


@dataclass(frozen=True)
class Calls:
    """New calls."""

    # `runs.PREDICTION_COLUMNS`, one row per recording, in the order of the old table.
    table: pd.DataFrame
    # The ``run.json`` of the predictions, with ``decision``: how the calls were made.
    run: dict[str, Any]
    # filename and stalled of the recordings that chose the threshold. Figures must not be reported
    # on them.
    chosen_on: pd.DataFrame
    doubts: tuple[str, ...] = ()  # sentences on what not to rely on

    def __str__(self) -> str:
        counts = self.table["call"].value_counts()
        calls = ", ".join(f"{count:,} {call}" for call, count in counts.items())
        return f"{len(self.table):,} recordings: {calls}; {self.run['decision']['how']}"


@dataclass
class _Draft:
    """Calls in the making, for the N recordings that have a score."""

    scores: Floats  # (N,), 0..1, rounded as they will be written
    threshold: float = np.nan
    calls: NDArray[np.str_] | None = None  # (N,), where the threshold alone does not give them
    how: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def decide(
    predictions: str | Path | Predictions,
    settings: CallSettings,
    labels: str | Path | None = None,
    calibrated_at: float | None = None,
) -> Calls:
    """Make new calls from a table of predictions.

    Parameters
    ----------
    predictions : str, Path or Predictions
        ``predictions.csv``, or its content.
    settings : CallSettings
        How scores become calls.
    labels : str or Path, optional
        Labels of some of the recordings. They choose the threshold and are recorded in `Calls`.
    calibrated_at : float, optional
        The prevalence for which the scores are calibrated, if the ``run.json`` beside the table
        does not give it.

    Raises
    ------
    InputError
        If table, settings and labels do not fit together.
    TableError
        If a table is invalid.
    """
    if calibrated_at is not None and not 0 < calibrated_at < 1:
        raise InputError(
            f"scores calibrated at a prevalence of {calibrated_at:g}: expected a share above 0 and "
            "below 1. Change --calibrated-at"
        )
    if not isinstance(predictions, Predictions):
        predictions = Predictions.read(predictions)
    path, has_score = predictions.path, predictions.has_score
    if not has_score.any():
        raise InputError(f"{path}: no recording has a score, so there is nothing to call")
    prevalence = predictions.prevalence if calibrated_at is None else calibrated_at
    draft, share = _convert(predictions, settings, prevalence)
    known = None
    if labels is not None:
        known = _read_known(labels, predictions.table["filename"])
        is_seen = predictions.was_learned & (known >= 0)
        if is_seen.any():
            known = np.where(is_seen, -1, known)
            draft.doubts.append(
                f"{int(is_seen.sum()):,} labels were not used to choose, because the bundle has "
                "learned from these recordings"
            )
        known = known[has_score]
        if is_seen.any() and not (known >= 0).any():
            raise InputError(
                f"{labels}: the bundle has learned from all of its recordings, so they cannot "
                "choose a threshold. Label others"
            )
        if not (known >= 0).any():
            raise InputError(
                f"{labels}: none of its recordings has a score in {path}, so it cannot choose a "
                "threshold. Label some that have a score"
            )
    chosen_on = [read_chosen(path)]  # what chose an earlier threshold stays listed
    if np.isnan(draft.threshold):
        _choose(draft, settings, known, share)
        if known is not None and settings.rule != "load":
            filenames = predictions.table["filename"][has_score][known >= 0]
            now = pd.DataFrame({"filename": filenames, "stalled": known[known >= 0]})
            chosen_on.insert(0, now)
    chosen = pd.concat(chosen_on).drop_duplicates("filename")
    decision = {
        **settings.model_dump(mode="json"),
        "tables": [str(path.resolve())],
        "how": "; ".join(draft.how),
        "threshold": draft.threshold,
        "chosen_on": len(chosen),
    }
    run = {
        **predictions.run,
        **files.provenance(),
        "threshold": draft.threshold,
        "prevalence": prevalence if share is None else share,
        "decision": decision,
    }
    table = _fill_in(predictions, draft)
    return Calls(table, run, chosen, tuple(draft.doubts))


def write_calls(calls: Calls, out: Path) -> Path:
    """Write ``predictions.csv``, ``run.json`` and, if labels chose, ``chosen_on.csv``.

    Raises
    ------
    InputError
        If the folder cannot be written, or holds the table that the calls were made from.
    """
    table = out / PREDICTIONS_NAME
    if str(table.resolve()) in calls.run["decision"]["tables"]:
        raise InputError(f"{out}: holds the predictions themselves. Choose another folder with -o")
    with runs.hold(out):
        _refuse_other(out)
        _write(calls, out)
    return table


def _refuse_other(out: Path) -> None:
    """Raise InputError if the folder has output files that `write_calls` did not write."""
    before = runs.read_note(out / RUN_NAME, "calls") or {}
    outputs = (PREDICTIONS_NAME, RUN_NAME, CHOSEN_NAME, SUBMISSION_NAME)
    existing = [name for name in outputs if (out / name).exists()]
    if existing and "decision" not in before:
        raise InputError(
            f"{out}: holds {', '.join(existing)} from another command, which are not replaced. "
            "Choose another folder with -o"
        )


def _write(calls: Calls, out: Path) -> None:
    written = calls.table.copy()
    for name in ("score", "threshold"):
        written[name] = [f"{value:.6f}" if value == value else "" for value in written[name]]
    for name in ("frames", "frames_declared"):
        written[name] = [f"{value:.0f}" if value == value else "" for value in written[name]]
    # First, because `_refuse_other` reads from it that the other files may be replaced.
    files.write_json(out / RUN_NAME, calls.run)
    if len(calls.chosen_on):
        tables.write_table(calls.chosen_on, out / CHOSEN_NAME)
    else:
        (out / CHOSEN_NAME).unlink(missing_ok=True)
    tables.write_table(written, out / PREDICTIONS_NAME)


def _convert(
    predictions: Predictions, settings: CallSettings, before: float | None
) -> tuple[_Draft, float | None]:
    """Convert scores to the wanted prevalence, and set the threshold if none is to be chosen.

    Returns
    -------
    draft : _Draft
    share : float or None
        The prevalence that the scores were converted to.
    """
    path, scored = predictions.path, predictions.table[predictions.has_score]
    scores, thresholds = scored["score"].to_numpy(float), scored["threshold"].to_numpy(float)
    share: float | None = None
    how: list[str] = []
    doubts: list[str] = []
    if settings.prevalence is not None:
        if before is None:
            raise InputError(
                f"{path}: no {RUN_NAME} beside it gives the prevalence for which the scores are "
                "calibrated. Give it with --calibrated-at"
            )
        if isinstance(settings.prevalence, float):
            share, how = settings.prevalence, [f"declared prevalence {settings.prevalence:.2%}"]
        else:
            share, how, doubts = _estimate(predictions.run, scores, before)
        scores, thresholds = shift(scores, before, share), shift(thresholds, before, share)
    draft = _Draft(rounded(scores), how=how, doubts=doubts)
    threshold = settings.threshold
    if threshold is None and settings.rule == "keep":
        values = np.unique(thresholds)
        if len(values) != 1 or np.isnan(values[0]):
            raise InputError(
                f"{path}: has no single threshold to keep. Give one with --threshold, or choose "
                "one with --rule"
            )
        threshold = float(values[0])
        # Where calls were left to a person, the threshold does not say which.
        calls = scored["call"].to_numpy(str)
        draft.calls = calls if "review" in calls else None
    if threshold is not None:
        draft.threshold = on_grid(threshold)
        draft.how.append(f"threshold {draft.threshold:.4f}")
    return draft, share


def _estimate(
    run: dict[str, Any], scores: Floats, before: float
) -> tuple[float, list[str], list[str]]:
    """Return the prevalence estimated from the scores, how it was found, and its doubts."""
    estimate = estimate_prevalence(scores, before)
    low, high = estimate.interval
    doubts = []
    if estimate.doubt:
        doubts.append(f"the estimated prevalence is not reliable: {estimate.doubt}")
    if is_simulated(run):
        doubts.append(
            "the prevalence was estimated with a bundle trained on simulated recordings only. Its "
            "calibration on real recordings is unknown, and the estimate is only as good as the "
            "calibration"
        )
    share = min(max(estimate.prevalence, CERTAIN), 1 - CERTAIN)
    how = f"estimated prevalence {estimate.prevalence:.2%} ({low:.2%} to {high:.2%})"
    return share, [how], doubts


def _choose(
    draft: _Draft, settings: CallSettings, known: NDArray[np.int64] | None, share: float | None
) -> None:
    """Choose the threshold or the limits by the rule; `known` is -1 where there is no label."""
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
        draft.threshold = expected_mcc_threshold(draft.scores)
        draft.how.append(f"threshold {draft.threshold:.4f}, the best that the scores predict")


def _choose_on_labels(
    draft: _Draft,
    settings: CallSettings,
    scores: Floats,
    labels: NDArray[np.int64],
    share: float | None,
) -> None:
    """Choose the threshold, or the limits, on the labelled recordings alone."""
    source = f"on {len(labels):,} labelled recordings"
    if settings.rule == "limits":
        limits = ReviewBand.of(scores, labels, settings.missed, settings.false, settings.confidence)
        draft.threshold, draft.calls = limits.high, limits.call(draft.scores)
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


def _fill_in(predictions: Predictions, draft: _Draft) -> pd.DataFrame:
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


def _read_known(labels: str | Path, filenames: "pd.Series[str]") -> NDArray[np.int64]:
    """Return the label of each recording, -1 where there is none."""
    table = tables.read_labels(labels)
    stalled = table.set_index("filename")["stalled"]
    known = match(filenames, table["filename"], labels).map(stalled)
    if not known.notna().any():
        raise InputError(
            f"{labels}: has no recording in common with the predictions "
            f"({names.contrast(filenames.tolist(), table['filename'].tolist())}). Give the labels "
            "of these recordings"
        )
    return np.asarray(known.fillna(-1), np.int64)
