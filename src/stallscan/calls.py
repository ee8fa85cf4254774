"""Calls made anew from scores that stand: one table of predictions or several, no video is read."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stallscan import decide, files, tables
from stallscan.errors import InputError, TableError
from stallscan.evaluate import read_predictions
from stallscan.settings import Settings

log = logging.getLogger(__name__)

SUBMISSION_NAME = "submission.csv"
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
        For the rule of that name; 99.9 % is what users need (FACTS 6).
    load : float
        Share of the recordings to be called stalled, for those who look at them all.
    missed, false, confidence : float
        For the rule ``limits``, see `decide.Limits`.
    """

    combine: Literal["vote", "average"] = "average"
    needed: int = Field(default=2, ge=1)
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
        if any(weight < 0 for weight in self.weights) or (self.weights and not sum(self.weights)):
            raise ValueError("weights must be 0 or more, and not all 0")
        return self


@dataclass(frozen=True)
class Calls:
    """What was decided.

    Attributes
    ----------
    table : DataFrame
        `tables.PREDICTION_COLUMNS`, a row for each recording, in the order of the first table.
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


def decide_anew(
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
    paths = [Path(path) for path in predictions]
    all_tables = [read_predictions(path) for path in paths]
    runs = [_read_run(path) for path in paths]
    _check_same(paths, all_tables)
    first = all_tables[0].set_index("filename", drop=False)
    aligned = [first, *(table.set_index("filename").loc[first.index] for table in all_tables[1:])]
    usable = np.logical_and.reduce(
        [(table["call"] != "unscorable") & table["score"].notna() for table in aligned]
    )
    if not usable.any():
        raise InputError(f"{paths[0]}: no recording has a score in every table, nothing to call")
    scores = np.stack([table["score"].to_numpy(np.float64)[usable] for table in aligned])
    own = np.stack([table["threshold"].to_numpy(np.float64)[usable] for table in aligned])
    share, how, doubts = None, list[str](), list[str]()
    if settings.prevalence is not None:
        at = [
            _calibrated_at(run, path, calibrated_at) for run, path in zip(runs, paths, strict=True)
        ]
        share = _find_share(scores, at, settings, runs, how, doubts)
        scores, own = (
            np.stack(
                [decide.shift(one, before, share) for one, before in zip(each, at, strict=True)]
            )
            for each in (scores, own)
        )
    work = _combine(scores, own, settings, paths)
    chosen_on = pd.DataFrame({"filename": [], "stalled": []}, dtype=object)
    names = first["filename"].to_numpy()[usable]
    if settings.rule != "keep" and not settings.thresholds:
        known = _labelled(labels, names) if labels is not None else None
        _choose(work, settings, known)
        if known is not None and settings.rule != "load":
            chosen_on = pd.DataFrame({"filename": names[known >= 0], "stalled": known[known >= 0]})
    table = _as_table(first, aligned, usable, work)
    decision = {
        **settings.model_dump(mode="json"),
        "tables": [str(path.resolve()) for path in paths],
        "how": "; ".join(how + work.how),
        "threshold": work.threshold,
        "chosen_on": len(chosen_on),
    }
    run = {**runs[0], **files.provenance(), "threshold": work.threshold, "decision": decision}
    if share is not None:
        run["prevalence"] = share
    return Calls(table, run, chosen_on, tuple(doubts + work.doubts))


def write(calls: Calls, out: Path) -> Path:
    """Write ``predictions.csv``, ``run.json`` and, if labels chose, ``chosen_on.csv``.

    Raises
    ------
    InputError
        If the folder cannot be written, or holds one of the tables that were decided on.
    """
    files.make_folder(out)
    table = out / tables.PREDICTIONS_NAME
    if str(table.resolve()) in calls.run["decision"]["tables"]:
        raise InputError(f"{out}: holds the predictions themselves; choose another folder with -o")
    written = calls.table.copy()
    for name in ("score", "threshold"):
        written[name] = [f"{value:.6f}" if value == value else "" for value in written[name]]
    for name in ("frames", "frames_declared"):
        written[name] = [f"{value:.0f}" if value == value else "" for value in written[name]]
    if len(calls.chosen_on):
        tables.write_table(calls.chosen_on, out / tables.CHOSEN_NAME)
    else:
        (out / tables.CHOSEN_NAME).unlink(missing_ok=True)
    files.write_json(out / tables.RUN_NAME, calls.run)
    tables.write_table(written, table)
    return table


def submit(calls: Calls, form: str | Path, out: Path) -> tuple[Path, str]:
    """Write the competition's file: the names of its form in its order, each 0 or 1.

    Parameters
    ----------
    calls : Calls
        All recordings of the form, and perhaps others.
    form : str or Path
        ``submission_format.csv``, also gzipped.
    out : Path
        The folder for ``submission.csv``.

    Returns
    -------
    path : Path
    doubt : str
        Says how many were neither called flowing nor stalled, and count as flowing; or empty.

    Raises
    ------
    TableError
        If the form cannot be read, or names recordings that were not called.
    """
    wanted = tables.read_labels(form)
    called = calls.table.set_index("filename")["call"]
    missing = [name for name in wanted["filename"] if name not in called.index]
    if missing:
        raise TableError(
            f"{form}: {len(missing):,} of its {len(wanted):,} recordings are not among the "
            f"predictions: {tables.listed(missing)}; predict them, too"
        )
    chosen = called.loc[wanted["filename"]]
    path = out / SUBMISSION_NAME
    stalled = (chosen == "stalled").astype(int).to_numpy()
    tables.write_table(pd.DataFrame({"filename": wanted["filename"], "stalled": stalled}), path)
    open_ = int((~chosen.isin(["flowing", "stalled"])).sum())
    doubt = f"{open_:,} recordings without a call are submitted as flowing" if open_ else ""
    return path, doubt


def _find_share(
    scores: Floats,
    at: Sequence[float],
    settings: CallSettings,
    runs: Sequence[dict[str, Any]],
    how: list[str],
    doubts: list[str],
) -> float:
    """Give the declared share of stalled, or estimate it; say which, and what to doubt."""
    if isinstance(settings.prevalence, float):
        how.append(f"declared prevalence {settings.prevalence:.2%}")
        return settings.prevalence
    together = decide.average(
        [decide.shift(each, share, at[0]) for each, share in zip(scores, at, strict=True)]
    )
    found = decide.estimate_prevalence(together, at[0])
    low, high = found.interval
    how.append(f"estimated prevalence {found.prevalence:.2%} ({low:.2%} to {high:.2%})")
    if found.doubt:
        doubts.append(f"the estimated prevalence is not to be relied on: {found.doubt}")
    if any(run.get("simulated_training") for run in runs):
        doubts.append(
            "the prevalence was estimated with a bundle that learned from simulated recordings "
            "only; how well it is calibrated on real ones is not known, and the estimate is no "
            "better than the calibration"
        )
    return min(max(found.prevalence, decide.CERTAIN), 1 - decide.CERTAIN)


def _combine(scores: Floats, own: Floats, settings: CallSettings, paths: Sequence[Path]) -> _Work:
    """Make one score and one threshold of those of all tables."""
    given = settings.thresholds
    if len(scores) == 1 or settings.combine == "average":
        if len(given) > 1:
            raise InputError(f"{len(given)} thresholds are given where one is used")
        if settings.weights and len(settings.weights) != len(scores):
            raise InputError(f"{len(settings.weights)} weights are given for {len(scores)} tables")
        if len(scores) == 1:
            work = _Work(scores[0], float(own[0, 0]))
        else:
            work = _Work(
                decide.average(scores, settings.weights or None),
                float(decide.average(own[:, :1], settings.weights or None)[0]),
                how=[f"mean log-odds of {len(scores)} models"],
            )
        if given:
            work.threshold = given[0]
        if given or settings.rule == "keep":
            work.how.append(f"threshold {work.threshold:.4f}")
        return work
    if given and len(given) != len(scores):
        raise InputError(
            f"{len(given)} thresholds are given for {len(scores)} tables; a vote takes one for "
            "each, in the same order"
        )
    if settings.rule != "keep":
        raise InputError(
            "a vote has a threshold for each model; choose them for each table by itself and give "
            "them, or average"
        )
    cuts = np.broadcast_to(np.array(given)[:, None], own.shape) if given else own
    voted = decide.vote(scores >= cuts, settings.needed)
    # What orders the recordings: how far the last model that is needed is above its own threshold,
    # as if all thresholds were a half. It is no probability.
    margins = decide.shift(scores, np.clip(cuts, decide.CERTAIN, 1 - decide.CERTAIN), 0.5)
    score = np.sort(margins, axis=0)[-settings.needed]
    # Rounding must not part it from the vote.
    score = np.where(voted, np.maximum(score, 0.5), np.minimum(score, 0.5 - decide.CERTAIN))
    work = _Work(score, 0.5)
    work.calls = np.where(voted, "stalled", "flowing")
    named = ", ".join(
        f"{cut:.4f} ({path.parent.name})" for cut, path in zip(cuts[:, 0], paths, strict=True)
    )
    work.how.append(f"vote of {settings.needed} among {len(scores)} at {named}")
    return work


def _choose(work: _Work, settings: CallSettings, known: NDArray[np.int64] | None) -> None:
    """Choose the threshold, or the limits, by the rule; `known` is -1 where there is no label."""
    if settings.rule == "load":
        work.threshold = decide.load_threshold(work.scores, settings.load)
        work.how.append(f"threshold {work.threshold:.4f} for {settings.load:.1%} called stalled")
        return
    if known is None:
        if settings.rule != "mcc":
            raise InputError(
                f"the rule {settings.rule} needs labels of some of the recordings; give them with "
                "--labels"
            )
        if settings.prevalence is None:
            raise InputError(
                "the best threshold is chosen on labels (--labels), or expected from the scores at "
                "a declared prevalence (--prevalence); give one of the two"
            )
        work.threshold = decide.expected_mcc_threshold(work.scores)
        work.how.append(f"threshold {work.threshold:.4f}, the best that the scores let expect")
        return
    labelled = known >= 0
    scores, labels = work.scores[labelled], known[labelled]
    on = f"on {len(labels):,} labelled recordings"
    if settings.rule == "limits":
        limits = decide.Limits.of(
            scores, labels, settings.missed, settings.false, settings.confidence
        )
        work.threshold, work.calls = limits.high, limits.call(work.scores)
        work.how.append(
            f"flowing below {limits.low:.4f}, stalled from {limits.high:.4f}, chosen {on}: with "
            f"{limits.confidence:.0%} confidence at most {limits.missed:.1%} of the stalled ones "
            f"are called flowing, and with as much at most {limits.false:.1%} of the flowing ones "
            "stalled"
        )
    elif settings.rule == "specificity":
        work.threshold, doubt = decide.specificity_threshold(scores, labels, settings.specificity)
        work.doubts += [doubt] if doubt else []
        work.how.append(
            f"threshold {work.threshold:.4f} for a specificity of {settings.specificity:.2%} {on}"
        )
    else:
        share = settings.prevalence if isinstance(settings.prevalence, float) else None
        work.threshold = decide.best_mcc_threshold(scores, labels, share)
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


def _labelled(labels: str | Path, names: NDArray[np.object_]) -> NDArray[np.int64]:
    """Give the label of each recording, -1 where there is none."""
    table = tables.read_labels(labels).set_index("filename")["stalled"]
    known = pd.Series(names).map(table)
    if known.notna().sum() == 0:
        raise InputError(f"{labels}: none of its recordings has a score among the predictions")
    return np.asarray(known.fillna(-1), np.int64)


def _check_same(paths: Sequence[Path], all_tables: Sequence[pd.DataFrame]) -> None:
    names = set(all_tables[0]["filename"])
    for path, table in zip(paths[1:], all_tables[1:], strict=True):
        if different := sorted(names ^ set(table["filename"])):
            raise TableError(
                f"{paths[0]} and {path}: {len(different):,} recordings stand in one of them only: "
                f"{tables.listed(different)}; predict the same recordings with every model"
            )


def _read_run(predictions: Path) -> dict[str, Any]:
    """Read what stands beside a table; nothing where it is missing."""
    path = predictions.with_name(tables.RUN_NAME)
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}); remove or restore it") from None
    return run if isinstance(run, dict) else {}


def _calibrated_at(run: dict[str, Any], path: Path, given: float | None) -> float:
    share = given if given is not None else run.get("prevalence")
    if not isinstance(share, float) or not 0 < share < 1:
        raise InputError(
            f"{path}: no {tables.RUN_NAME} beside it says at which prevalence the scores are "
            "calibrated; give it with --calibrated-at"
        )
    return share
