"""Make new calls from existing scores: reads a table of predictions, no recordings."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan import files, runs
from stallscan.calls.drafts import Draft, Step, choose, estimate, fill_in, steps_of
from stallscan.calls.predictions import (
    Predictions,
    decided_from,
    is_on_labels,
    read_chosen,
    refuse_other_tables,
)
from stallscan.calls.settings import CallSettings
from stallscan.catalog import names, tables
from stallscan.catalog.names import match
from stallscan.errors import InputError
from stallscan.runs import (
    CHOSEN_NAME,
    PREDICTIONS_NAME,
    RUN_NAME,
    SOURCES_NAME,
    SUBMISSION_NAME,
)
from stallscan.scores.calibration import Calibration, fit_calibration, log_odds, shift
from stallscan.scores.thresholds import on_grid, rounded
from stallscan.words import percent

Floats = NDArray[np.float64]


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
    doubts: list[str] = []
    known = None if labels is None else _known(predictions, labels, doubts)
    if settings.calibrate and known is None:
        raise InputError(
            "calibrating the scores takes labels of some of the recordings. Give them with --labels"
        )
    draft, step = _convert(predictions, settings, prevalence, known)
    draft.doubts[:0] = doubts
    chosen_on = [read_chosen(path)]  # what chose an earlier threshold stays listed
    has_chosen = settings.calibrate
    if np.isnan(draft.threshold):
        choose(draft, settings, known, step.to, predictions.run)
        has_chosen |= draft.on_labels
    if known is not None and has_chosen:
        filenames = predictions.table["filename"][has_score][known >= 0]
        now = pd.DataFrame({"filename": filenames, "stalled": known[known >= 0]})
        chosen_on.insert(0, now)
    chosen = pd.concat(chosen_on).drop_duplicates("filename")
    return as_calls(predictions, draft, chosen, settings, [*steps_of(predictions.run), step])


def as_calls(
    predictions: Predictions,
    draft: Draft,
    chosen: pd.DataFrame,
    settings: CallSettings,
    steps: Sequence[Step],
) -> Calls:
    """Return the calls of a draft, with the description of the run; `steps` made its scores."""
    decision = {
        **settings.model_dump(mode="json"),
        # Of this decision; the run states that of the scores.
        **files.provenance(),
        # The table and those that it was decided from: their folders may hold answers of a review.
        "tables": [
            *map(str, decided_from(predictions.path, predictions.run)),
            str(predictions.path.resolve()),
        ],
        "how": "; ".join(draft.how),
        "threshold": draft.threshold,
        "threshold_on_labels": draft.on_labels,
        "low": draft.low,
        "steps": [step.model_dump(mode="json") for step in steps],
        "chosen_on": len(chosen),
    }
    table = fill_in(predictions, draft)
    run = {
        **predictions.run,
        "threshold": draft.threshold,
        "prevalence": steps[-1].at if steps[-1].to is None else steps[-1].to,
        "calls": {str(call): int(count) for call, count in table["call"].value_counts().items()},
        "decision": decision,
    }
    return Calls(table, run, chosen, tuple(draft.doubts))


def _known(predictions: Predictions, labels: str | Path, doubts: list[str]) -> NDArray[np.int64]:
    """Return the label of each recording with a score, -1 where there is none that may choose."""
    refuse_other_tables(predictions.run, labels)
    known = _read_known(labels, predictions.table["filename"])
    is_seen = predictions.was_learned & (known >= 0)
    if is_seen.any():
        known = np.where(is_seen, -1, known)
        doubts.append(
            f"{int(is_seen.sum()):,} labels were not used to choose, because the bundle has "
            "learned from these recordings"
        )
    known = known[predictions.has_score]
    if is_seen.any() and not (known >= 0).any():
        raise InputError(
            f"{labels}: the bundle has learned from all of its recordings, so they cannot "
            "choose a threshold. Label others"
        )
    if not (known >= 0).any():
        raise InputError(
            f"{labels}: none of its recordings has a score in {predictions.path}, so it cannot "
            "choose a threshold. Label some that have a score"
        )
    return known


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
    # No file of an earlier decision is left beside those of this one.
    for name in (PREDICTIONS_NAME, CHOSEN_NAME, SUBMISSION_NAME, SOURCES_NAME):
        with files.writing(out / name):
            (out / name).unlink(missing_ok=True)
    # First, because `_refuse_other` reads from it that the other files may be replaced.
    decision = calls.run["decision"]
    relative = [_relative(table, out) for table in decision["tables"]]
    files.write_json(
        out / RUN_NAME, calls.run | {"decision": decision | {"tables_relative": relative}}
    )
    # Which files were called, as long as the table itself says so: they may be predicted again.
    sources = Path(decision["tables"][-1]).parent / SOURCES_NAME
    if sources.is_file():
        with files.atomic_path(out / SOURCES_NAME) as new:
            shutil.copyfile(sources, new)
    if len(calls.chosen_on):
        tables.write_table(calls.chosen_on, out / CHOSEN_NAME)
    tables.write_table(written, out / PREDICTIONS_NAME)


def _relative(path: str, folder: Path) -> str:
    """Return a path relative to a folder, with slashes on every system."""
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        return path


def _convert(
    predictions: Predictions,
    settings: CallSettings,
    before: float | None,
    known: NDArray[np.int64] | None,
) -> tuple[Draft, Step]:
    """Calibrate and convert the scores, and set the threshold if none is to be chosen.

    Returns
    -------
    draft : Draft
    step : Step
        What was done to the scores.
    """
    path, scored = predictions.path, predictions.table[predictions.has_score]
    scores = scored["score"].to_numpy(float)
    low = predictions.run.get("decision", {}).get("low")
    # The lower limit of the rule `limits` is converted with them.
    thresholds = np.append(scored["threshold"].to_numpy(float), [] if low is None else [low])
    step = Step(before=before, at=before)
    how: list[str] = []
    doubts: list[str] = []
    if settings.calibrate and known is not None:
        calibration = _calibrate(scores[known >= 0], known[known >= 0])
        if calibration is None:
            doubts.append(
                "the scores rank the labelled recordings no better than chance, so they "
                "were not calibrated again"
            )
        else:
            scores, thresholds = (
                calibration.score(log_odds(each)) for each in (scores, thresholds)
            )
            before = float(np.mean(known[known >= 0]))
            step = Step(before=step.before, calibration=calibration, at=before)
            how.append(f"scores calibrated on {int((known >= 0).sum()):,} labelled recordings")
    if settings.prevalence is not None:
        if before is None:
            raise InputError(_not_calibrated(predictions))
        if isinstance(settings.prevalence, float):
            share = settings.prevalence
            how.append(f"declared prevalence {percent(settings.prevalence)}")
        else:
            share, said, doubted = estimate(predictions.run, scores, before)
            how, doubts = how + said, doubts + doubted
        step = step.model_copy(update={"to": share})
        scores, thresholds = shift(scores, before, share), shift(thresholds, before, share)
    draft = Draft(rounded(scores), how=how, doubts=doubts)
    threshold = settings.threshold
    if threshold is None and settings.rule == "keep":
        values, lows = np.unique(thresholds[: len(scored)]), thresholds[len(scored) :]
        if len(values) != 1 or np.isnan(values[0]):
            raise InputError(
                f"{path}: has no single threshold to keep. Give one with --threshold, or choose "
                "one with --rule"
            )
        threshold, draft.low = float(values[0]), on_grid(lows[0]) if len(lows) else None
        draft.on_labels = is_on_labels(predictions.run.get("decision", {}))
        # Where calls were left to a person, the threshold does not say which.
        calls = scored["call"].to_numpy(str)
        draft.calls = calls if "review" in calls else None
    if threshold is not None:
        draft.threshold = on_grid(threshold)
        draft.how.append(f"threshold {draft.threshold:.4f}")
    return draft, step


def _calibrate(scores: Floats, labels: NDArray[np.int64]) -> Calibration | None:
    """Fit a calibration of scores on labels; None if the scores rank no better than chance."""
    if not 0 < labels.sum() < len(labels):
        raise InputError(
            "calibrating the scores takes labels of stalled and of flowing recordings, but "
            f"{int(labels.sum())} of {len(labels)} are stalled. Label some of the other class"
        )
    calibration = fit_calibration(log_odds(scores), labels)
    return None if calibration == Calibration() else calibration


def _not_calibrated(predictions: Predictions) -> str:
    if "prevalence" in predictions.run and predictions.run["prevalence"] is None:
        return (
            f"{predictions.path}: the scores of a vote are no probabilities, so they cannot be "
            "converted. Predict again with 'stallscan predict --prevalence'"
        )
    return (
        f"{predictions.path}: no {RUN_NAME} beside it gives the prevalence for which the scores "
        "are calibrated. Give it with --calibrated-at, or calibrate them on labels (--labels, "
        "--calibrate)"
    )


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
