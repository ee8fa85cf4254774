"""Prediction: recordings in, one row each out, written as the run goes.

A run that was killed goes on where it was: the rows that stand are kept, in order, and the table
ends up the same as that of an undisturbed run.
"""

import csv
import datetime
import io
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from stallscan import bundle as bundles
from stallscan import decide, drift, files, inputs
from stallscan import engine as engines
from stallscan.bundle import Bundle, Ensemble
from stallscan.drift import Drift
from stallscan.engine import Chosen, Engine, Which
from stallscan.errors import BundleError, InputError
from stallscan.prepare import Prepared
from stallscan.recording import Frames
from stallscan.tables import PREDICTION_COLUMNS, PREDICTIONS_NAME, RUN_NAME, TRAITS_NAME
from stallscan.traits import Traits
from stallscan.video import Source
from stallscan.words import printable

log = logging.getLogger("stallscan")

# Rows reach the disk so many seconds after they are known at the latest: to write each by itself
# takes as long as to find its outline.
WRITE_S = 0.25


@dataclass(frozen=True)
class Summary:
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
        Rows that stood there already.
    doubts : tuple of str
        In what these recordings are unlike those that the bundle was trained on.
    """

    table: Path
    calls: dict[str, int]
    statuses: dict[str, int]
    resumed: int
    doubts: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """Recordings without a call of flowing or stalled."""
        return self.calls.get("unscorable", 0)


def predict(
    paths: Sequence[str | Path],
    out: Path,
    bundle: str | Path = bundles.DEFAULT,
    processes: int | None = None,
    prevalence: float | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
    engine: Which = "auto",
) -> Summary:
    """Score and call every recording in files and folders, or in a store.

    Parameters
    ----------
    paths : sequence of str or Path
        Files and folders, as `video.list_recordings` takes them, or one store of their clips.
    out : Path
        Folder for ``predictions.csv``, ``run.json`` and ``traits.csv``, what was measured of each
        recording (`traits.Traits`).
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
        What runs the nets, as `engine.choose` takes it; ``auto`` goes on with that of a run that
        was interrupted.

    Raises
    ------
    InputError
        If there are no recordings, `out` cannot be written, it holds another run, or the engine
        is not installed.
    StoreError
        If a store is damaged, or its clips are not those of the bundle.
    BundleError
        If the bundle cannot be used, or carries nothing for the engine.
    """
    model = bundles.load_any(bundle)
    given = inputs.find(paths, model.members, processes)
    sources = given.sources
    calibrated_at = model.spec.prevalence
    if prevalence is not None:
        if not 0 < prevalence < 1:
            raise InputError(f"a prevalence of {prevalence:g}: give a share above 0 and below 1")
        model = model.at(prevalence)
    files.make_folder(out)
    before = _interrupted(out)
    if before and engine == "auto":
        # Runs that do not name theirs are of a time when there was no other.
        chosen = _as_before(model, before.get("engine", "torch"), out)
    else:
        chosen = engines.choose(model, engine)
    log.info("engine %s: %s", chosen.name, chosen.reason)
    run = _run(paths, model, chosen.name, len(sources)) | {"passed_over": given.passed_over}
    standing = _standing_rows(out, before, run, sources)
    _keep_traits(out, standing)
    files.write_json(out / RUN_NAME, run)
    todo = given.stream(len(standing))
    calls: dict[str, int] = {}
    statuses: dict[str, int] = {}

    def count(row: dict[str, Any]) -> None:
        calls[row["call"]] = calls.get(row["call"], 0) + 1
        statuses[row["status"]] = statuses.get(row["status"], 0) + 1

    for row in standing:
        count(row)
    done = len(standing)
    progress(done, len(sources))
    with _Tables(out) as tables:
        for prepared, logits in _score(todo, chosen.engines):
            row = _row(prepared, logits, model)
            tables.append(row, prepared.clip.traits if prepared.clip is not None else None)
            count(row)
            done += 1
            progress(done, len(sources))
    found = _drift(model, calibrated_at, out)
    run |= {"finished": _now(), "calls": calls, "statuses": statuses, "drift": found.figures}
    files.write_json(out / RUN_NAME, run)
    return Summary(out / PREDICTIONS_NAME, calls, statuses, len(standing), found.doubts)


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


def _row(
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
                call = decide.call(value, spec.threshold)
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
        "threshold": f"{spec.threshold:.6f}",
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
        found += filter(None, [model.spec.reference.unlike(prepared.clip.traits)])
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
    known = decide.shift([] if spec.is_vote else scores, spec.prevalence, calibrated_at)
    traits = values.reshape(-1, len(Traits._fields))
    return drift.compare(spec.reference, calibrated_at, traits, known)


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


def _interrupted(out: Path) -> dict[str, Any] | None:
    """Read what an interrupted run noted of itself; None where there is none to go on with.

    Raises
    ------
    InputError
        If rows stand there, and nothing says of which run.
    """
    table, notes = out / PREDICTIONS_NAME, out / RUN_NAME
    head = _line(PREDICTION_COLUMNS)
    if not table.is_file() or head.startswith(table.read_text(encoding="utf-8", errors="replace")):
        return None
    try:
        before: dict[str, Any] = json.loads(notes.read_text(encoding="utf-8"))
        return before
    except (OSError, ValueError):
        raise InputError(
            f"{out}: holds a {PREDICTIONS_NAME} but no readable {RUN_NAME}, so it cannot be gone "
            "on with; choose another folder with -o, or remove the table"
        ) from None


def _standing_rows(
    out: Path, before: dict[str, Any] | None, run: dict[str, Any], sources: Sequence[Source]
) -> list[dict[str, Any]]:
    """Rows of an interrupted run, with a torn last line cut off the file.

    Raises
    ------
    InputError
        If the folder holds a run over other paths or with another bundle or engine.
    """
    table = out / PREDICTIONS_NAME
    if before is None:
        files.write_text(table, _line(PREDICTION_COLUMNS))
        return []
    for key in ("paths", "bundle", "threshold", "prevalence", "engine"):
        if before.get(key) != run[key]:
            raise InputError(
                f"{out}: holds predictions with other {key} ({before.get(key)}, now {run[key]}); "
                "choose another folder with -o, or remove this one"
            )
    whole = _whole_lines(table)
    rows = list(csv.DictReader(io.StringIO(whole)))
    names = [row["filename"] for row in rows]
    if names != [source.filename for source in sources[: len(names)]]:
        raise InputError(
            f"{out}: the recordings have changed since {PREDICTIONS_NAME} was begun; choose "
            "another folder with -o, or remove this one"
        )
    with table.open("r+b") as file:
        file.truncate(len(whole.encode()))
    return rows


def _whole_lines(path: Path) -> str:
    content = path.read_bytes()
    # Cut before decoding: a torn line may end inside a character.
    return content[: content.rfind(b"\n") + 1].decode()


def _keep_traits(out: Path, standing: Sequence[dict[str, Any]]) -> None:
    """Keep the traits of rows that stand, and cut off those of a row that was not finished."""
    path = out / TRAITS_NAME
    head = _line(["filename", *Traits._fields])
    kept: list[str] = []
    if standing and path.is_file():
        # They are in the order of the rows, and of a row without a clip there are none.
        names = {row["filename"] for row in standing}
        for line in _whole_lines(path).splitlines(keepends=True)[1:]:
            if next(csv.reader([line]))[0] in names:
                kept.append(line)
    files.write_text(path, "".join([head, *kept]))


class _Tables:
    """Appends to the tables of a run, some rows at a time: a row that stands has its traits."""

    def __init__(self, out: Path) -> None:
        self._rows: list[str] = []
        self._traits: list[str] = []
        self._files: list[tuple[list[str], TextIO]] = [
            (self._traits, (out / TRAITS_NAME).open("a", encoding="utf-8", newline="")),
            (self._rows, (out / PREDICTIONS_NAME).open("a", encoding="utf-8", newline="")),
        ]
        self._written = time.monotonic()

    def __enter__(self) -> "_Tables":
        return self

    def __exit__(self, *error: object) -> None:
        self._write()
        for _, file in self._files:
            file.close()

    def append(self, row: dict[str, Any], traits: Traits | None) -> None:
        """Add a recording's row, and its traits if it has a clip."""
        if traits is not None:
            self._traits.append(_line([row["filename"], *(f"{value:g}" for value in traits)]))
        self._rows.append(_line([row[name] for name in PREDICTION_COLUMNS]))
        if time.monotonic() - self._written >= WRITE_S:
            self._write()

    def _write(self) -> None:
        # Traits before rows.
        for lines, file in self._files:
            file.write("".join(lines))
            file.flush()
            lines.clear()
        self._written = time.monotonic()


def _line(values: Sequence[Any]) -> str:
    """One line of CSV; quoted line breaks are replaced, so that a line is always one row."""
    buffer = io.StringIO()
    cleaned = [str(value).replace("\n", " ").replace("\r", " ") for value in values]
    csv.writer(buffer, lineterminator="\n").writerow(cleaned)
    return buffer.getvalue()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
