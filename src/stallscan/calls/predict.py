"""Prediction: recordings in, one row each out, written as the run goes.

A run that was killed goes on where it was: the rows that stand are kept, in order, and the table
ends up the same as that of an undisturbed run.
"""

import contextlib
import csv
import datetime
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stallscan import files, runs
from stallscan.bundle import disk, reference
from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.bundle.reference import Drift
from stallscan.calls import inputs, resume
from stallscan.calls.inputs import Inputs
from stallscan.calls.resume import Appender, Standing
from stallscan.clips.prepare import Prepared
from stallscan.clips.traits import Traits
from stallscan.engines import choose as engines
from stallscan.engines.choose import Chosen, Engine, Which
from stallscan.errors import BundleError, InputError
from stallscan.recordings.recording import Frames
from stallscan.runs import PREDICTION_COLUMNS, PREDICTIONS_NAME, RUN_NAME, TRAITS_NAME
from stallscan.scores import calibration, thresholds
from stallscan.words import printable

log = logging.getLogger("stallscan")

# What must be the same for a run to be resumed.
SAME = ("paths", "bundle", "threshold", "prevalence", "engine")


@dataclass(frozen=True)
class PredictionSummary:
    """What a run of predictions came to.

    Attributes
    ----------
    table : Path
        ``predictions.csv``.
    calls : dict
        Recordings by call.
    statuses : dict
        Recordings by status.
    resumed : int
        Rows that stood there already and still hold.
    doubts : tuple of str
        In what these recordings are unlike those that the bundle was trained on.
    changed : int
        Recordings that were done again because they were replaced.
    again : int
        Those that were tried again because they could not be read before.
    unknown : int
        Rows of an older version among `resumed`, of which it is not known whether the recording
        was replaced.
    removed : int
        Rows that were removed because their recording is gone.
    """

    table: Path
    calls: dict[str, int]
    statuses: dict[str, int]
    resumed: int
    doubts: tuple[str, ...] = ()
    changed: int = 0
    again: int = 0
    unknown: int = 0
    removed: int = 0

    @property
    def failed(self) -> int:
        """Recordings without a call of flowing or stalled."""
        return self.calls.get("unscorable", 0)


def predict(
    paths: Sequence[str | Path],
    out: Path,
    bundle: str | Path = disk.DEFAULT,
    processes: int | None = None,
    prevalence: float | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
    engine: Which = "auto",
) -> PredictionSummary:
    """Score and call every recording in files and folders, or in a store.

    Parameters
    ----------
    paths : sequence of str or Path
        Files and folders, as `find.list_recordings` takes them, or one store of their clips.
    out : Path
        Folder for ``predictions.csv``, ``run.json``, ``traits.csv``, what was measured of each
        recording (`traits.Traits`), and ``sources.csv``, by which one that was replaced is known
        (`stamps.Stamp`).
    bundle : str or Path
        Name of a shipped bundle, or the folder of a bundle or ensemble.
    processes : int, optional
        That decode; default one a core, or none for one or two recordings; 0 does it in this
        process.
    prevalence : float, optional
        Share of stalled among these recordings, above 0 and below 1: what scores are read and the
        threshold is chosen for. That of the bundle's validation part if not given.
    progress : callable
        Called with how many recordings are done, of how many.
    engine : str
        What runs the nets, as `choose.choose` takes it; ``auto`` goes on with that of a run that
        was interrupted.

    Raises
    ------
    InputError
        If there are no recordings, `out` cannot be written, it holds another run or another
        process writes into it, or the engine is not installed.
    StoreError
        If a store is damaged, or its clips are not those of the bundle.
    BundleError
        If the bundle cannot be used, or carries nothing for the engine.
    """
    model = disk.load_any(bundle)
    given = inputs.find(paths, model.members, processes)
    calibrated_at = model.spec.prevalence
    if prevalence is not None:
        if not 0 < prevalence < 1:
            raise InputError(f"a prevalence of {prevalence:g}: give a share above 0 and below 1")
        model = model.at(prevalence)
    with runs.hold(out):
        return _predict(paths, out, model, given, calibrated_at, progress, engine)


def _predict(
    paths: Sequence[str | Path],
    out: Path,
    model: Bundle | Ensemble,
    given: Inputs,
    calibrated_at: float,
    progress: Callable[[int, int], None],
    engine: Which,
) -> PredictionSummary:
    sources = given.sources
    rows = resume.read_table(out / PREDICTIONS_NAME, PREDICTION_COLUMNS)
    before = _run_of(out) if rows is not None else None
    if before and engine == "auto":
        # Runs that do not name theirs are of a time when there was no other.
        chosen = _as_before(model, before.get("engine", "torch"), out)
    else:
        chosen = engines.choose(model, engine)
    log.info("engine %s: %s", chosen.name, chosen.reason)
    run = _run(paths, model, chosen.name, len(sources)) | {"passed_over": given.passed_over}
    if before is not None:
        runs.refuse_other(
            out,
            {key: before.get(key) for key in SAME},
            {key: run[key] for key in SAME},
            "predictions",
        )
        _say_versions(out, before, run)
    standing = Standing.of(out, given, rows or [])
    if before is not None:
        log.info("%s: %s", out, runs.say_resumed(standing.counts, standing.removed))
    # A run that is finished and has nothing to do leaves all files as they are.
    idle = bool(before and before.get("finished")) and standing.is_whole
    if not idle:
        files.write_json(out / RUN_NAME, run)
        standing.write(out)
    calls: dict[str, int] = {}
    statuses: dict[str, int] = {}

    def count(row: dict[str, Any]) -> None:
        calls[row["call"]] = calls.get(row["call"], 0) + 1
        statuses[row["status"]] = statuses.get(row["status"], 0) + 1

    for cells in standing.rows.values():
        count(dict(zip(PREDICTION_COLUMNS, cells, strict=True)))
    done = len(standing.rows)
    progress(done, len(sources))
    if standing.todo:
        # Closed, so that after an error no process goes on decoding.
        with Appender(out) as appender, contextlib.closing(given.stream(standing.todo)) as todo:
            for prepared, logits in _score(todo, chosen.engines):
                row = make_row(prepared, logits, model)
                stamp = standing.stamps.get(row["filename"])
                appender.append(
                    row,
                    prepared.clip.traits if prepared.clip is not None else None,
                    stamp and stamp.sealed(prepared.source.path),
                )
                count(row)
                done += 1
                progress(done, len(sources))
    if not standing.is_prefix:
        resume.sort(out, sources)
    found = _drift(model, calibrated_at, out)
    run |= {"finished": _now(), "calls": calls, "statuses": statuses, "drift": found.figures}
    if not idle:
        files.write_json(out / RUN_NAME, run)
    return PredictionSummary(
        out / PREDICTIONS_NAME,
        calls,
        statuses,
        len(standing.rows),
        found.doubts,
        changed=standing.counts["changed"],
        again=standing.counts["again"],
        unknown=standing.counts["unknown"],
        removed=standing.removed,
    )


def _as_before(model: Bundle | Ensemble, engine: Which, out: Path) -> Chosen:
    """Open the engine of an interrupted run again."""
    try:
        return engines.choose(model, engine)
    except (BundleError, InputError) as error:
        raise InputError(
            f"{out}: holds a run that was begun with the engine {engine}, and that cannot be used "
            f"any more ({error}); choose another folder with -o, or remove this one"
        ) from None


def _score(
    todo: Iterable[Prepared], engines: Sequence[Engine]
) -> Iterator[tuple[Prepared, tuple[float | None, ...]]]:
    """Give every recording the logits of all engines, which look a bounded number ahead."""
    ours, *theirs = itertools.tee(todo, 1 + len(engines))
    logits = [
        engine.stream(_pixels(prepared, place) for prepared in each)
        for place, (engine, each) in enumerate(zip(engines, theirs, strict=True))
    ]
    yield from zip(ours, zip(*logits, strict=True), strict=True)


def _pixels(prepared: Prepared, place: int) -> Frames | None:
    return prepared.clips[place].pixels if prepared.clips else None


def make_row(
    prepared: Prepared, given: Sequence[float | None], model: Bundle | Ensemble
) -> dict[str, Any]:
    """Make a row of a recording and the logits of the bundle's members, None without a clip."""
    spec = model.spec
    status, reason, call, score = prepared.status, prepared.reason, "unscorable", ""
    if prepared.clips:
        logits = np.array(given, np.float64)[:, np.newaxis]
        if not np.isfinite(logits).all():
            status = "failed"
            reason = f"{prepared.source.path}: the net gave no finite number for this recording"
        else:
            value = round(float(model.score(logits)[0]), 6)
            score = f"{value:.6f}"
            # Frames that are missing may be the ones that show the stall: no call without them.
            if status == "ok":
                call = thresholds.call(value, spec.threshold)
                reason = "; ".join(filter(None, [reason, _unlike(prepared, model)]))
    return {
        "filename": prepared.source.filename,
        "status": status,
        "reason": printable(reason),
        "frames": prepared.frames if prepared.frames is not None else "",
        "frames_declared": (
            prepared.frames_declared if prepared.frames_declared is not None else ""
        ),
        "score": score,
        "call": call,
        "threshold": f"{thresholds.on_grid(spec.threshold):.{thresholds.DIGITS}f}",
        "bundle": model.label,
    }


def _unlike(prepared: Prepared, model: Bundle | Ensemble) -> str:
    """Say what of a recording the bundle has not seen the like of; empty if nothing."""
    found = []
    fewest, most = model.spec.frames
    if prepared.frames is not None and not fewest <= prepared.frames <= most:
        found.append(
            f"{prepared.frames} frames, the bundle was trained on recordings of {fewest} to {most}"
        )
    if model.spec.reference is not None and prepared.clip is not None:
        found += filter(None, [model.spec.reference.outliers(prepared.clip.traits)])
    if not found:
        return ""
    return f"{prepared.source.path}: {'; '.join(found)}; look at this one yourself"


def _drift(model: Bundle | Ensemble, calibrated_at: float, out: Path) -> Drift:
    """Compare the recordings of the run with those of the training, as far as both are known."""
    spec = model.spec
    if spec.reference is None:
        return Drift((), {})
    # By hand: pandas takes longer to import than a recording to predict.
    with (out / TRAITS_NAME).open(encoding="utf-8", newline="") as file:
        rows = itertools.islice(csv.reader(file), 1, None)
        values = np.fromiter((float(value) for row in rows for value in row[1:]), np.float64)
    with (out / PREDICTIONS_NAME).open(encoding="utf-8", newline="") as file:
        called = (row for row in csv.DictReader(file) if row["call"] != "unscorable")
        scores = np.fromiter((float(row["score"]) for row in called), np.float64)
    # The score of a vote is no probability: there is no share of stalled to explain it with.
    known = calibration.shift([] if spec.is_vote else scores, spec.prevalence, calibrated_at)
    traits = values.reshape(-1, len(Traits._fields))
    return reference.compare(spec.reference, calibrated_at, traits, known)


def _run(
    paths: Sequence[str | Path], model: Bundle | Ensemble, engine: str, count: int
) -> dict[str, Any]:
    return {
        **files.provenance(),
        "paths": [str(Path(path).resolve()) for path in paths],
        "recordings": count,
        "bundle": model.label,
        "bundle_path": str(model.path.resolve()),
        "simulated_training": model.spec.simulated,
        "threshold": model.spec.threshold,
        # The score of a vote is no probability: there is no prevalence at which it is calibrated.
        "prevalence": None if model.spec.is_vote else model.spec.prevalence,
        "engine": engine,
        "started": _now(),
        "finished": None,
    }


def _run_of(out: Path) -> dict[str, Any]:
    """Read what the run whose rows stand in a folder noted of itself.

    Raises
    ------
    InputError
        If nothing says of which run the rows are, or `decide` made them.
    """
    before = runs.read_note(out / RUN_NAME, "predictions")
    if before is None:
        raise InputError(
            f"{out}: holds a {PREDICTIONS_NAME} but no {RUN_NAME}, so the run cannot be resumed. "
            "Choose another folder with -o, or remove the table"
        )
    if "decision" in before:
        raise InputError(
            f"{out}: holds calls that 'stallscan decide' made. Choose another folder with -o"
        )
    return before


def _say_versions(out: Path, before: dict[str, Any], run: dict[str, Any]) -> None:
    """Note all versions that rows are of, and say if they differ."""
    versions = before.get("versions") or [str(before.get("stallscan", "an unknown version"))]
    run["versions"] = list(dict.fromkeys([*versions, run["stallscan"]]))
    if len(run["versions"]) > 1:
        log.warning(
            "%s: its rows are of several versions of stallscan (%s); in another folder all are "
            "made by this one",
            out,
            ", ".join(run["versions"]),
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
