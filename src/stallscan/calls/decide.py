"""Calls made anew from scores that stand: one table of predictions or several, no video is read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stallscan import files, runs, words
from stallscan.calls.models import Model
from stallscan.calls.predictions import read_chosen, read_predictions, read_run
from stallscan.catalog import names, tables
from stallscan.catalog.names import match
from stallscan.errors import InputError, TableError
from stallscan.runs import CHOSEN_NAME, PREDICTIONS_NAME, RUN_NAME, SUBMISSION_NAME
from stallscan.scores.calibration import CERTAIN
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
from stallscan.scores.vote import average, check_vote, vote_margin
from stallscan.settings import Settings

Floats = NDArray[np.float64]


class CallSettings(Settings):
    """How scores become calls.

    Attributes
    ----------
    combine : str
        Several tables: ``vote`` calls stalled what `needed` of them do, ``average`` takes the mean
        of their log-odds.
    needed : int
        Of a vote; published: 2 of 3.
    weights : tuple of float
        Of an average, one for each table; alike if empty.
    thresholds : tuple of float
        Given ones: of a vote one for each table (those of the tables if empty), otherwise one.
    prevalence : float or "estimate" or None
        Share of stalled among these recordings, for which the scores are read anew; ``estimate``
        takes it from the scores. None leaves the scores as they are.
    rule : str
        Without given thresholds: ``mcc`` (the highest; on labels, or expected from the scores),
        ``specificity``, ``load``, ``limits``, or ``keep`` (the threshold of the table).
    specificity : float
        For the rule of that name; 99.9 % is what users need (docs/facts.md 6).
    load : float
        Share of the recordings to be called stalled, for those who look at them all.
    missed, false, confidence : float
        For the rule ``limits``, see `thresholds.ReviewBand`.
    """

    combine: Literal["vote", "average"] = "average"
    needed: int = 2
    weights: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    prevalence: float | Literal["estimate"] | None = None
    rule: Literal["mcc", "specificity", "load", "limits", "keep"] = "keep"
    specificity: float = Field(default=0.999, gt=0, lt=1)
    load: float = Field(default=0.05, gt=0, lt=1)
    missed: float = Field(default=0.05, gt=0, lt=1)
    false: float = Field(default=0.01, gt=0, lt=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> "CallSettings":
        if any(not 0 <= threshold <= 1 for threshold in self.thresholds):
            raise ValueError("thresholds must be within 0 to 1")
        if isinstance(self.prevalence, float) and not 0 < self.prevalence < 1:
            raise ValueError("prevalence must be above 0 and below 1")
        # NaN fails every comparison, so it must be this way round.
        finite = all(0 <= weight < np.inf for weight in self.weights)
        if not finite or (self.weights and not sum(self.weights)):
            raise ValueError("weights must be finite, 0 or more, and not all 0")
        return self


@dataclass(frozen=True)
class Calls:
    """What was decided.

    Attributes
    ----------
    table : DataFrame
        `runs.PREDICTION_COLUMNS`, a row for each recording, in the order of the first table.
    run : dict
        What is known of the run of the first table, and what was decided how.
    chosen_on : DataFrame
        filename and stalled of the recordings that chose the threshold: no figure may be reported
        on them.
    doubts : tuple of str
        Sentences on what should not be relied on.
    """

    table: pd.DataFrame
    run: dict[str, Any]
    chosen_on: pd.DataFrame
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = self.table["call"].value_counts()
        calls = ", ".join(f"{count:,} {call}" for call, count in counts.items())
        return f"{len(self.table):,} recordings: {calls}; {self.run['decision']['how']}"


@dataclass
class _Work:
    """Scores on their way to calls, of the recordings that every table could score."""

    scores: Floats
    threshold: float
    calls: NDArray[np.str_] | None = None
    how: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    chosen_on: list[pd.DataFrame] = field(default_factory=list)


def decide(
    predictions: Sequence[str | Path],
    settings: CallSettings,
    labels: str | Path | None = None,
    calibrated_at: float | None = None,
) -> Calls:
    """Call recordings anew.

    Parameters
    ----------
    predictions : sequence of str or Path
        ``predictions.csv`` of one model or of several, on the same recordings.
    settings : CallSettings
        How.
    labels : str or Path, optional
        Labels of some of the recordings, which choose the threshold and are noted.
    calibrated_at : float, optional
        The prevalence at which the scores are calibrated, where no ``run.json`` beside the tables
        says it.

    Raises
    ------
    InputError
        If tables, settings and labels do not go together.
    TableError
        If a table is wrong, or the tables hold different recordings.
    """
    if calibrated_at is not None and not 0 < calibrated_at < 1:
        raise InputError(
            f"scores calibrated at a prevalence of {calibrated_at:g}: expected a share above 0 and "
            "below 1; change --calibrated-at"
        )
    paths = [Path(path) for path in predictions]
    read = [read_predictions(path) for path in paths]
    runs = [read_run(path) for path in paths]
    _check_same(paths, read)
    first = read[0].set_index("filename", drop=False)
    aligned = [first, *(table.set_index("filename").loc[first.index] for table in read[1:])]
    usable = np.logical_and.reduce(
        [(table["call"] != "unscorable") & table["score"].notna() for table in aligned]
    )
    if not usable.any():
        raise InputError(f"{paths[0]}: no recording has a score in every table, nothing to call")
    if settings.combine == "vote":
        check_vote(settings.needed, len(paths))
        if settings.weights:
            raise InputError("weights are for an average; a vote has none, leave out --weights")
    models = [
        Model.of(path, table[usable], run, calibrated_at)
        for path, table, run in zip(paths, aligned, runs, strict=True)
    ]
    share, how, doubts = _find_share(models, settings)
    if share is not None:
        models = [model.at(share) for model in models]
    work = _vote(models, settings) if _is_vote(models, settings) else _average(models, settings)
    filenames = first["filename"][usable]
    known = None if labels is None else _labelled(labels, first["filename"])[usable]
    if known is not None and not (known >= 0).any():
        raise InputError(
            f"{labels}: none of its recordings has a score in {paths[0]}, so they choose nothing. "
            "Label some that have one"
        )
    if settings.rule != "keep" and not settings.thresholds:
        _choose(work, settings, known, share)
        if known is not None and settings.rule != "load":
            chose = pd.DataFrame({"filename": filenames[known >= 0], "stalled": known[known >= 0]})
            work.chosen_on.append(chose)
    # What chose a threshold before, or the threshold of one of the models, has been seen for good.
    work.chosen_on += [read_chosen(path) for path in paths]
    chosen_on = pd.concat(work.chosen_on).drop_duplicates("filename")
    decision = {
        **settings.model_dump(mode="json"),
        "tables": [str(path.resolve()) for path in paths],
        "how": "; ".join(how + work.how),
        "threshold": work.threshold,
        "chosen_on": len(chosen_on),
    }
    run = {**runs[0], **files.provenance(), "threshold": work.threshold, "decision": decision}
    # The score of a vote is no probability: there is no prevalence at which it is calibrated.
    run["prevalence"] = None if _is_vote(models, settings) else models[0].calibrated_at
    table = _as_table(first, aligned, usable, work)
    return Calls(table, run, chosen_on, tuple(doubts + work.doubts))


def write_calls(calls: Calls, out: Path) -> Path:
    """Write ``predictions.csv``, ``run.json`` and, if labels chose, ``chosen_on.csv``.

    Raises
    ------
    InputError
        If the folder cannot be written, or holds one of the tables that were decided on.
    """
    table = out / PREDICTIONS_NAME
    if str(table.resolve()) in calls.run["decision"]["tables"]:
        raise InputError(f"{out}: holds the predictions themselves; choose another folder with -o")
    with runs.hold(out):
        _refuse_other(out)
        _write(calls, out)
    return table


def _refuse_other(out: Path) -> None:
    """Refuse a folder in which something that `decide` did not write would be replaced."""
    before = runs.read_note(out / RUN_NAME, "calls") or {}
    names = (PREDICTIONS_NAME, RUN_NAME, CHOSEN_NAME, SUBMISSION_NAME)
    found = [name for name in names if (out / name).exists()]
    if found and "decision" not in before:
        raise InputError(
            f"{out}: holds {', '.join(found)} that 'stallscan decide' did not write, so nothing is "
            "replaced. Choose another folder with -o"
        )


def _write(calls: Calls, out: Path) -> None:
    written = calls.table.copy()
    for name in ("score", "threshold"):
        written[name] = [f"{value:.6f}" if value == value else "" for value in written[name]]
    for name in ("frames", "frames_declared"):
        written[name] = [f"{value:.0f}" if value == value else "" for value in written[name]]
    # First, because it says whose the other files are.
    files.write_json(out / RUN_NAME, calls.run)
    if len(calls.chosen_on):
        tables.write_table(calls.chosen_on, out / CHOSEN_NAME)
    else:
        (out / CHOSEN_NAME).unlink(missing_ok=True)
    tables.write_table(written, out / PREDICTIONS_NAME)


def _find_share(
    models: Sequence[Model], settings: CallSettings
) -> tuple[float | None, list[str], list[str]]:
    """Give the prevalence to read all scores at, or None; how it was found, and what to doubt."""
    if settings.prevalence is None:
        # Means of log-odds are of scores at one prevalence: at that of the first.
        known = [model.calibrated_at for model in models]
        same = len(set(known)) == 1 or None in known or _is_vote(models, settings)
        return (None if same else known[0]), [], []
    if isinstance(settings.prevalence, float):
        return settings.prevalence, [f"declared prevalence {settings.prevalence:.2%}"], []
    at = models[0].known_prevalence
    found = estimate_prevalence(average([model.at(at).scores for model in models]), at)
    low, high = found.interval
    doubts = []
    if found.doubt:
        doubts.append(f"the estimated prevalence is not to be relied on: {found.doubt}")
    if any(model.run.get("simulated_training") for model in models):
        doubts.append(
            "the prevalence was estimated with a bundle that learned from simulated recordings "
            "only; how well it is calibrated on real ones is not known, and the estimate is no "
            "better than the calibration"
        )
    share = min(max(found.prevalence, CERTAIN), 1 - CERTAIN)
    how = f"estimated prevalence {found.prevalence:.2%} ({low:.2%} to {high:.2%})"
    return share, [how], doubts


def _is_vote(models: Sequence[Model], settings: CallSettings) -> bool:
    return settings.combine == "vote" and len(models) > 1


def _average(models: Sequence[Model], settings: CallSettings) -> _Work:
    """Make one score of those of all models, and one threshold; of one model, its own."""
    given, weights = settings.thresholds, settings.weights
    if len(given) > 1:
        raise InputError(f"{len(given)} thresholds are given where one is used")
    if weights and len(weights) != len(models):
        raise InputError(f"{len(weights)} weights are given for {len(models)} tables")
    if len(models) == 1:
        work = _Work(rounded(models[0].scores), np.nan)
    else:
        scores = average([model.scores for model in models], weights or None)
        work = _Work(rounded(scores), np.nan, how=[f"mean log-odds of {len(models)} models"])
    if given:
        work.threshold = given[0]
    elif settings.rule == "keep":
        own = [[model.threshold] for model in models]
        work.threshold = own[0][0]
        if len(models) > 1:
            work.threshold = float(average(own, weights or None)[0])
        elif models[0].is_three_way:
            work.calls = models[0].calls
    if given or settings.rule == "keep":
        work.threshold = on_grid(work.threshold)
        work.how.append(f"threshold {work.threshold:.4f}")
    return work


def _vote(models: Sequence[Model], settings: CallSettings) -> _Work:
    """Call stalled what enough of the models call so, each at its own threshold."""
    given = settings.thresholds
    if given and len(given) != len(models):
        raise InputError(
            f"{len(given)} thresholds are given for {len(models)} tables; a vote takes one for "
            "each, in the same order"
        )
    if settings.rule != "keep":
        raise InputError(
            "a vote has a threshold for each model; choose them for each table by itself and give "
            "them, or average"
        )
    cuts = [on_grid(cut) for cut in given or [model.threshold for model in models]]
    scores = rounded(np.stack([model.scores for model in models]))
    score = rounded(vote_margin(scores, cuts, settings.needed))
    named = ", ".join(
        f"{cut:.4f} ({model.path.parent.name})" for cut, model in zip(cuts, models, strict=True)
    )
    how = f"vote of {settings.needed} among {len(models)} at {named}"
    return _Work(score, 0.5, calls=np.where(score >= 0.5, "stalled", "flowing"), how=[how])


def _choose(
    work: _Work, settings: CallSettings, known: NDArray[np.int64] | None, share: float | None
) -> None:
    """Choose the threshold, or the limits, by the rule; `known` is -1 where there is no label."""
    if settings.rule == "load":
        work.threshold = workload_threshold(work.scores, settings.load)
        work.how.append(f"threshold {work.threshold:.4f} for {settings.load:.1%} called stalled")
        return
    if known is None:
        if settings.rule != "mcc":
            raise InputError(
                f"the rule {settings.rule} needs labels of some of the recordings; give them with "
                "--labels"
            )
        if share is None:
            raise InputError(
                "the best threshold is chosen on labels (--labels), or expected from the scores at "
                "a declared prevalence (--prevalence); give one of the two"
            )
        work.threshold = expected_mcc_threshold(work.scores)
        work.how.append(f"threshold {work.threshold:.4f}, the best that the scores let expect")
        return
    labelled = known >= 0
    scores, labels = work.scores[labelled], known[labelled]
    on = f"on {len(labels):,} labelled recordings"
    if settings.rule == "limits":
        limits = ReviewBand.of(scores, labels, settings.missed, settings.false, settings.confidence)
        work.threshold, work.calls = limits.high, limits.call(work.scores)
        work.how.append(
            f"flowing below {limits.low:.4f}, stalled from {limits.high:.4f}, chosen {on}: with "
            f"{limits.confidence:.0%} confidence at most {limits.missed:.1%} of the stalled ones "
            f"are called flowing, and with as much at most {limits.false:.1%} of the flowing ones "
            "stalled"
        )
    elif settings.rule == "specificity":
        work.threshold, doubt = specificity_threshold(scores, labels, settings.specificity)
        work.doubts += [doubt] if doubt else []
        work.how.append(
            f"threshold {work.threshold:.4f} for a specificity of {settings.specificity:.2%} {on}"
        )
    else:
        work.threshold = best_mcc_threshold(scores, labels, share)
        at = f" at {share:.2%} stalled" if share else ""
        work.how.append(f"threshold {work.threshold:.4f} for the highest MCC{at} {on}")


def _as_table(
    first: pd.DataFrame, aligned: Sequence[pd.DataFrame], usable: NDArray[np.bool_], work: _Work
) -> pd.DataFrame:
    table = first.reset_index(drop=True).copy()
    made = work.calls
    if made is None:
        made = np.where(work.scores >= work.threshold, "stalled", "flowing")
    # Another score would be read at another prevalence, or be that of one model only.
    table["score"] = np.nan
    table.loc[usable, "score"] = work.scores
    table["threshold"] = work.threshold
    table["call"] = "unscorable"
    table.loc[usable, "call"] = made
    for other in aligned[1:]:
        # Why it is not called: what the first table says, or the first of the others.
        silent = ~usable & (table["call"] == "unscorable") & table["status"].isin(["ok"])
        for name in ("status", "reason"):
            table.loc[silent, name] = other[name].to_numpy()[silent]
    if len(aligned) > 1:
        table["bundle"] = [
            "+".join(names) for names in zip(*(t["bundle"] for t in aligned), strict=True)
        ]
    return table


def _labelled(labels: str | Path, filenames: "pd.Series[str]") -> NDArray[np.int64]:
    """Give the label of each recording, -1 where there is none."""
    table = tables.read_labels(labels)
    stalled = table.set_index("filename")["stalled"]
    known = match(filenames, table["filename"], labels).map(stalled)
    if known.notna().sum() == 0:
        raise InputError(
            f"{labels}: has no recording in common with the predictions "
            f"({names.contrast(filenames.tolist(), table['filename'].tolist())}); give the labels "
            "of these recordings"
        )
    return np.asarray(known.fillna(-1), np.int64)


def _check_same(paths: Sequence[Path], all_tables: Sequence[pd.DataFrame]) -> None:
    names = set(all_tables[0]["filename"])
    for path, table in zip(paths[1:], all_tables[1:], strict=True):
        if different := sorted(names ^ set(table["filename"])):
            raise TableError(
                f"{paths[0]} and {path}: {len(different):,} recordings stand in one of them only: "
                f"{words.listed(different)}; predict the same recordings with every model"
            )
