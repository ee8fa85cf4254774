"""Prediction: recordings in, one row each out, written as the run goes.

A run that was killed goes on where it was: the rows that stand are kept, in order, and the table
ends up the same as that of an undisturbed run.
"""

import csv
import datetime
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stallscan import bundle as bundles
from stallscan import decide, files, prepare, video
from stallscan.bundle import Bundle
from stallscan.engine import TorchEngine
from stallscan.errors import InputError
from stallscan.prepare import Prepared
from stallscan.tables import PREDICTION_COLUMNS, PREDICTIONS_NAME, RUN_NAME
from stallscan.video import Source


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
    """

    table: Path
    calls: dict[str, int]
    statuses: dict[str, int]
    resumed: int

    @property
    def failed(self) -> int:
        """Recordings without a call of flowing or stalled."""
        return self.calls.get("unscorable", 0)


def predict(
    paths: Sequence[str | Path],
    out: Path,
    bundle: str | Path = bundles.DEFAULT,
    processes: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Summary:
    """Score and call every recording in files and folders.

    Parameters
    ----------
    paths : sequence of str or Path
        Files and folders, as `video.list_recordings` takes them.
    out : Path
        Folder for ``predictions.csv`` and ``run.json``.
    bundle : str or Path
        Name of a shipped bundle, or a bundle's folder.
    processes : int, optional
        That decode; default one a core, 0 does it in this process.
    progress : callable
        Called with how many recordings are done, of how many.

    Raises
    ------
    InputError
        If there are no recordings, `out` cannot be written, or it holds another run.
    BundleError
        If the bundle cannot be used.
    """
    sources = video.list_recordings(paths)
    model = bundles.load(bundle)
    files.make_folder(out)
    run = _run(paths, model, len(sources))
    standing = _standing_rows(out, run, sources)
    files.write_json(out / RUN_NAME, run)
    engine = TorchEngine(model)
    spec = model.spec
    todo = prepare.many(sources[len(standing) :], spec.outline, spec.clip, processes)
    calls: dict[str, int] = {}
    statuses: dict[str, int] = {}

    def count(row: dict[str, Any]) -> None:
        calls[row["call"]] = calls.get(row["call"], 0) + 1
        statuses[row["status"]] = statuses.get(row["status"], 0) + 1

    for row in standing:
        count(row)
    done = len(standing)
    progress(done, len(sources))
    with (out / PREDICTIONS_NAME).open("a", encoding="utf-8", newline="") as table:
        for prepared in todo:
            row = _row(prepared, engine, model)
            table.write(_line(row))
            table.flush()
            count(row)
            done += 1
            progress(done, len(sources))
    run |= {"finished": _now(), "calls": calls, "statuses": statuses}
    files.write_json(out / RUN_NAME, run)
    return Summary(out / PREDICTIONS_NAME, calls, statuses, len(standing))


def _row(prepared: Prepared, engine: TorchEngine, model: Bundle) -> dict[str, Any]:
    """Score one prepared recording."""
    spec = model.spec
    status, reason, call, score = prepared.status, prepared.reason, "unscorable", ""
    if prepared.clip is not None:
        logit = engine.logit(prepared.clip.pixels)
        if not math.isfinite(logit):
            status = "failed"
            reason = f"{prepared.source.path}: the net gave no finite number for this recording"
        else:
            value = round(float(spec.calibration.score(logit)), 6)
            score = f"{value:.6f}"
            # Frames that are missing may be the ones that show the stall: no call without them.
            if status == "ok":
                call = decide.call(value, spec.threshold)
                reason = reason or _unusual_length(prepared, model)
    return {
        "filename": prepared.source.filename,
        "status": status,
        "reason": reason,
        "frames": prepared.frames if prepared.frames is not None else "",
        "frames_declared": (
            prepared.frames_declared if prepared.frames_declared is not None else ""
        ),
        "score": score,
        "call": call,
        "threshold": f"{spec.threshold:.6f}",
        "bundle": model.label,
    }


def _unusual_length(prepared: Prepared, model: Bundle) -> str:
    fewest, most = model.spec.frames
    if prepared.frames is None or fewest <= prepared.frames <= most:
        return ""
    return (
        f"{prepared.source.path}: {prepared.frames} frames, the bundle was trained on recordings "
        f"of {fewest} to {most}; look at this one yourself"
    )


def _run(paths: Sequence[str | Path], model: Bundle, count: int) -> dict[str, Any]:
    return {
        **files.provenance(),
        "paths": [str(Path(path).resolve()) for path in paths],
        "recordings": count,
        "bundle": model.label,
        "bundle_path": str(model.path.resolve()),
        "simulated_training": model.spec.simulated,
        "threshold": model.spec.threshold,
        "prevalence": model.spec.prevalence,
        "started": _now(),
        "finished": None,
    }


def _standing_rows(
    out: Path, run: dict[str, Any], sources: Sequence[Source]
) -> list[dict[str, Any]]:
    """Rows of an interrupted run, with a torn last line cut off the file.

    Raises
    ------
    InputError
        If the folder holds a run over other paths or with another bundle.
    """
    table, notes = out / PREDICTIONS_NAME, out / RUN_NAME
    if not table.is_file():
        files.write_text(
            table, _line(dict(zip(PREDICTION_COLUMNS, PREDICTION_COLUMNS, strict=True)))
        )
        return []
    try:
        before = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"{out}: holds a {PREDICTIONS_NAME} but no readable {RUN_NAME}, so it cannot be gone "
            "on with; choose another folder with -o, or remove the table"
        ) from None
    for key in ("paths", "bundle", "threshold"):
        if before.get(key) != run[key]:
            raise InputError(
                f"{out}: holds predictions with other {key} ({before.get(key)}, now {run[key]}); "
                "choose another folder with -o, or remove this one"
            )
    content = table.read_bytes()
    # Cut before decoding: the torn row may end inside a character.
    whole = content[: content.rfind(b"\n") + 1]
    rows = list(csv.DictReader(io.StringIO(whole.decode())))
    names = [row["filename"] for row in rows]
    if names != [source.filename for source in sources[: len(names)]]:
        raise InputError(
            f"{out}: the recordings have changed since {PREDICTIONS_NAME} was begun; choose "
            "another folder with -o, or remove this one"
        )
    if whole != content:
        with table.open("r+b") as file:
            file.truncate(len(whole))
    return rows


def _line(row: dict[str, Any]) -> str:
    """One line of CSV; quoted line breaks are replaced, so that a line is always one row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [str(row[name]).replace("\n", " ").replace("\r", " ") for name in PREDICTION_COLUMNS]
    )
    return buffer.getvalue()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
