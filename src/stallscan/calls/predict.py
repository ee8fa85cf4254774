"""Predict: score and call recordings, and write one row for each as the run proceeds.

A killed run resumes where it left off: existing rows are kept, and the finished table is the same
as that of an uninterrupted run.
"""

import collections
import contextlib
import csv
import datetime
import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stallscan import files, runs
from stallscan.bundle import disk, reference
from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.bundle.reference import Drift
from stallscan.calls import inputs, resume, rows, written
from stallscan.calls.inputs import Inputs
from stallscan.calls.resume import Appender, Standing
from stallscan.clips.traits import Traits
from stallscan.engines import choose
from stallscan.engines.choose import Chosen, Engine, Which
from stallscan.errors import BundleError, InputError
from stallscan.runs import (
    LEARNED,
    PREDICTION_COLUMNS,
    PREDICTIONS_NAME,
    RUN_NAME,
    TRAITS_NAME,
)
from stallscan.scores import calibration

log = logging.getLogger("stallscan")

# Traits of the clips of regions that stallscan chose itself.
CUT_TRAITS = ("frames",)
# Entries of run.json that must be the same for a run to be resumed.
SAME = ("paths", "bundle", "threshold", "prevalence", "engine", "consistency")


@dataclass(frozen=True)
class PredictionSummary:
    """The result of a run of predictions."""

    table: Path  # ``predictions.csv``
    calls: "collections.Counter[str]"  # recordings by call
    # Recordings by the reason why they were or were not predicted in this run.
    counts: "collections.Counter[runs.Why]"
    # How these recordings differ from those that the bundle was trained on.
    doubts: tuple[str, ...] = ()
    is_simulated: bool = False  # whether the bundle has learned from simulated recordings only
    learned: int = 0  # recordings that the bundle has learned from
    remarks: int = 0  # other recordings with a call and a remark on it in the column reason

    @property
    def failed(self) -> int:
        """Number of recordings without a reliable score."""
        return self.calls["unscorable"]

    @property
    def resumed(self) -> int:
        """Number of rows kept from an earlier run."""
        return self.counts["kept"] + self.counts["unknown"]


def predict(
    paths: Sequence[str | Path],
    out: Path,
    bundle: str | Path = disk.DEFAULT,
    processes: int | None = None,
    prevalence: float | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
    engine: Which = "auto",
    consistency: bool = False,
    stack: Mapping[str, Any] | None = None,
) -> PredictionSummary:
    """Score and call every recording in files and folders, or in a store.

    Parameters
    ----------
    paths : sequence of str or Path
        Files and folders, as `find.list_recordings` takes them, or one store of their clips.
    out : Path
        Folder for ``predictions.csv``, ``run.json``, ``traits.csv`` (the measured `traits.Traits`
        of each recording) and ``sources.csv`` (the `stamps.Stamp` of each, which reveals a
        replaced file).
    bundle : str or Path
        Name of a shipped bundle, or the folder of a bundle or ensemble.
    processes : int, optional
        Decoding processes. By default one per core, or 0 for one or two recordings; 0 decodes in
        this process.
    prevalence : float, optional
        Share of stalled among these recordings, above 0 and below 1, for which scores are converted
        and the threshold is chosen. By default that of the bundle's validation split.
    progress : callable
        Called with the number of finished recordings and of all.
    engine : str
        What runs the nets, as `choose.choose` takes it. With ``auto`` a resumed run keeps its
        engine.
    consistency : bool
        Score each recording also with the changes of `changes`; where one of them changes the
        call, the call is ``review`` and the reason says with which. Takes ten times as long to
        score.
    stack : mapping, optional
        Of which raw stack the recordings are regions, as `predictions.stack_of` returns it.

    Raises
    ------
    InputError
        If there are no recordings, `out` cannot be written, holds another run or is in use by
        another process, or the engine is not installed.
    StoreError
        If a store is damaged, or its clips do not suit the bundle.
    BundleError
        If the bundle cannot be used, or has no export for the engine.
    """
    model = disk.load_any(bundle)
    given = inputs.find(paths, model.members, processes, after_death=runs.has_died(out))
    calibrated_at = model.spec.prevalence
    model = at_prevalence(model, prevalence)
    run = describe(paths, model, len(given.sources), prevalence) | {
        "passed_over": given.passed_over
    }
    if consistency:
        run["consistency"] = True
    if stack is not None:
        run["stack"] = dict(stack)
    with runs.hold(out):
        return _predict(run, out, model, given, calibrated_at, progress, engine)


def at_prevalence(model: Bundle | Ensemble, prevalence: float | None) -> Bundle | Ensemble:
    """Convert a model to the prevalence that a user gave, or leave it as it is for None.

    Raises
    ------
    InputError
        If it is not above 0 and below 1.
    BundleError
        If the bundle does not contain its validation scores.
    """
    if prevalence is None:
        return model
    if not 0 < prevalence < 1:
        raise InputError(f"a prevalence of {prevalence:g}: expected a share above 0 and below 1")
    return model.at(prevalence)


def _predict(
    run: dict[str, Any],
    out: Path,
    model: Bundle | Ensemble,
    given: Inputs,
    calibrated_at: float,
    progress: Callable[[int, int], None],
    engine: Which,
) -> PredictionSummary:
    sources = given.sources
    table = written.read_table(out / PREDICTIONS_NAME, PREDICTION_COLUMNS)
    before = _run_of(out) if table is not None else None
    if before and engine == "auto":
        # Older runs did not record the engine; it was always torch.
        chosen = _as_before(model, before.get("engine", "torch"), out)
    else:
        chosen = choose.choose(model, engine)
    log.info("engine %s: %s", chosen.name, chosen.reason)
    run["engine"] = chosen.name
    if before is not None:
        runs.refuse_other(
            out,
            {key: before.get(key) for key in SAME},
            {key: run.get(key) for key in SAME},
            "predictions",
        )
        _say_versions(out, before, run)
    standing = Standing.of(out, given, table or [])
    if before is not None:
        log.info("%s: %s", out, runs.say_resumed(standing.counts, standing.removed))
    # A finished run with nothing pending leaves all files as they are.
    idle = bool(before and before.get("finished")) and standing.is_whole
    if not idle:
        files.write_json(out / RUN_NAME, run)
        standing.write(out)
    calls: collections.Counter[str] = collections.Counter()
    statuses: collections.Counter[str] = collections.Counter()
    remarks: collections.Counter[str] = collections.Counter()
    for cells in standing.rows.values():
        row = dict(zip(PREDICTION_COLUMNS, cells, strict=True))
        calls[row["call"]] += 1
        statuses[row["status"]] += 1
        remarks.update(rows.remarks(row))
    done = len(standing.rows)
    progress(done, len(sources))
    for new in _append_rows(out, model, given, standing, chosen.engines, "consistency" in run):
        calls[new["call"]] += 1
        statuses[new["status"]] += 1
        remarks.update(rows.remarks(new))
        done += 1
        progress(done, len(sources))
    if not standing.is_prefix:
        resume.sort(out, sources)
    # How many frames the clip of a region has is a choice of stallscan, not a trait of the stack.
    drift = measure_drift(model, calibrated_at, out, CUT_TRAITS if "stack" in run else ())
    run |= {"finished": now(), "calls": calls, "statuses": statuses, "drift": drift.figures}
    if not idle:
        files.write_json(out / RUN_NAME, run)
    return PredictionSummary(
        out / PREDICTIONS_NAME,
        calls,
        standing.counts,
        drift.doubts,
        run["simulated_training"],
        learned=remarks[LEARNED],
        remarks=remarks["others"],
    )


def _append_rows(
    out: Path,
    model: Bundle | Ensemble,
    given: Inputs,
    standing: Standing,
    engines: Sequence[Engine],
    consistency: bool,
) -> Iterator[dict[str, Any]]:
    """Predict the pending recordings, append their rows to the tables, and yield each row."""
    if not standing.todo:
        return
    # Closing the stream stops the decoding processes after an error.
    with Appender(out) as appender, contextlib.closing(given.stream(standing.todo)) as todo:
        for answer in rows.answer(todo, standing.stamps, model, engines, consistency):
            appender.append(answer)
            yield answer.row


def _as_before(model: Bundle | Ensemble, engine: Which, out: Path) -> Chosen:
    """Open the engine of an interrupted run again."""
    try:
        return choose.choose(model, engine, "as in the earlier run in this folder")
    except (BundleError, InputError) as error:
        raise InputError(
            f"{out}: this run was started with the engine {engine}, which can no longer be used "
            f"({error}). Choose another folder with -o, or remove this one"
        ) from None


def measure_drift(
    model: Bundle | Ensemble, calibrated_at: float, out: Path, ignored: Collection[str] = ()
) -> Drift:
    """Compare traits and scores of a run with those of the bundle's training.

    Parameters
    ----------
    calibrated_at : float
        The bundle's own prevalence; `model` may be converted to another.
    out : Path
        The folder with the finished tables of the run.
    ignored : collection of str
        Traits that are not compared.
    """
    spec = model.spec
    if spec.reference is None:
        return Drift((), {})
    # Without pandas, whose import takes longer than predicting a recording.
    with (out / TRAITS_NAME).open(encoding="utf-8", newline="") as file:
        rows = itertools.islice(csv.reader(file), 1, None)
        values = np.fromiter((float(value) for row in rows for value in row[1:]), np.float64)
    with (out / PREDICTIONS_NAME).open(encoding="utf-8", newline="") as file:
        called = (row for row in csv.DictReader(file) if row["call"] != "unscorable")
        scores = np.fromiter((float(row["score"]) for row in called), np.float64)
    # The score of a vote is not a probability, so no prevalence can explain its distribution.
    comparable = calibration.shift([] if spec.is_vote else scores, spec.prevalence, calibrated_at)
    traits = values.reshape(-1, len(Traits._fields))  # (N, traits)
    return reference.compare(spec.reference, calibrated_at, traits, comparable, ignored)


def describe(
    paths: Sequence[str | Path],
    model: Bundle | Ensemble,
    count: int,
    prevalence: float | None,
    engine: str = "",
) -> dict[str, Any]:
    """Return the ``run.json`` of a run that begins now, on `count` recordings in `paths`.

    `prevalence` is the share that a user expects, to which `model` was converted; None if not.
    """
    return {
        **files.provenance(),
        "paths": [str(Path(path).resolve()) for path in paths],
        "recordings": count,
        "bundle": model.label,
        "bundle_path": str(model.path.resolve()),
        "simulated_training": all(member.spec.simulated for member in model.members),
        "threshold": model.spec.threshold,
        # The score of a vote is not a probability, so it is calibrated for no prevalence.
        "prevalence": None if model.spec.is_vote else model.spec.prevalence,
        "expected_prevalence": prevalence,
        "engine": engine,
        "started": now(),
        "finished": None,
    }


def _run_of(out: Path) -> dict[str, Any]:
    """Read the ``run.json`` of the existing rows in a folder.

    Raises
    ------
    InputError
        If there is none, or `decide` made the rows.
    """
    before = runs.read_note(out / RUN_NAME, "predictions")
    if before is None:
        raise InputError(
            f"{out}: has a {PREDICTIONS_NAME} but no {RUN_NAME}, so the run cannot be resumed. "
            "Choose another folder with -o, or remove the table"
        )
    if "decision" in before:
        raise InputError(
            f"{out}: holds calls that 'stallscan decide' made. Choose another folder with -o"
        )
    return before


def _say_versions(out: Path, before: dict[str, Any], run: dict[str, Any]) -> None:
    """Record all versions that the rows were made with, and warn if they differ."""
    versions = before.get("versions") or [str(before.get("stallscan", "an unknown version"))]
    run["versions"] = list(dict.fromkeys([*versions, run["stallscan"]]))
    if len(run["versions"]) > 1:
        log.warning(
            "%s: its rows were made with several versions of stallscan (%s). To use one version "
            "for all of them, predict into another folder",
            out,
            ", ".join(run["versions"]),
        )


def now() -> str:
    """Return the time, as tables of runs hold it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
