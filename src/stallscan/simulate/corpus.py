"""A folder of simulated recordings, or of their clips, in the competition's form.

A run that was killed goes on where it was, and any number of processes gives the same files.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan import clip as clips
from stallscan import outline as outlines
from stallscan import recording as recordings
from stallscan import store, video, workers
from stallscan.clip import ClipSettings
from stallscan.errors import InputError, RecordingError
from stallscan.files import make_folder, sha256, write_json, write_text
from stallscan.outline import OutlineSettings
from stallscan.prepare import Prepared
from stallscan.simulate import crowd
from stallscan.simulate.recording import Truth, make_plan, one, region
from stallscan.simulate.settings import SimulateSettings
from stallscan.video import Source

# Goes up whenever the same seed gives other recordings: old folders are then not continued.
FORMAT = 4
FIRST_NAME = 100000  # FACTS 4
# chosen: results of one task travel together; more would only lengthen the wait for the first
CLIPS_A_TASK, PLANS_A_TASK = 4, 16
# chosen: pixels beyond the clip's own margin, in which the outline ends as it does in the field
SPARE_PX = 3
# chosen: about as far apart as the centre line bends at all
LINE_STEP_UM = 5.0

Item = TypeVar("Item")
Made = TypeVar("Made")
Row = dict[str, Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Summary:
    """What `simulate` or `simulate_clips` left in the folder.

    Attributes
    ----------
    folder : Path
        The folder.
    recordings : int
        Recordings in it.
    stalled : int
        Stalled ones among them.
    rendered : int
        How many were rendered this time, and not kept from a run before.
    """

    folder: Path
    recordings: int
    stalled: int
    rendered: int

    def __str__(self) -> str:
        return (
            f"{self.recordings:,} recordings, {self.stalled:,} stalled, {self.rendered:,} new "
            f"-> {self.folder}"
        )


def simulate(
    out: str | Path,
    settings: SimulateSettings,
    processes: int | None = None,
    progress: Progress = lambda _done, _of: None,
) -> Summary:
    """Write a corpus in the competition's exact form (FACTS 4 and 5).

    ``train/*.mp4``, ``train_metadata.csv``, ``train_labels.csv``, and beside them ``truth.csv`` and
    ``simulation.json`` (the settings). Videos that exist are kept, so a killed run goes on where it
    was; the tables come last. The same settings give the same recordings, whatever `processes`.

    Parameters
    ----------
    out : str or Path
        Output folder.
    settings : SimulateSettings
        What to simulate.
    processes : int, optional
        Processes to render with; all processors by default, 1 renders in this process.
    progress : callable
        Called with (recordings done, recordings in all) after each.

    Returns
    -------
    Summary
        What the folder holds now, for printing.

    Raises
    ------
    InputError
        If `out` cannot be written or holds a simulation with other settings.
    """
    out = make_folder(out)
    _claim(out, _name_origin(settings))
    make_folder(out / "train")
    labels = draw_labels(settings).tolist()
    task = partial(_render_file, out, settings)
    rows: list[Row] = []
    rendered = 0
    for row, is_new in _in_order(task, list(enumerate(labels)), processes):
        rows.append(row)
        rendered += is_new
        progress(len(rows), len(labels))
    _write_tables(out, pd.DataFrame(rows), settings)
    return Summary(out, len(rows), sum(labels), rendered)


def simulate_clips(
    out: str | Path,
    settings: SimulateSettings,
    outline: OutlineSettings,
    clip: ClipSettings,
    processes: int | None = None,
    progress: Progress = lambda _done, _of: None,
) -> Summary:
    """Write the prepared clips of a corpus, and its tables, but no videos.

    Only the surroundings of each outline are rendered, and nothing is encoded: the clips of the
    same settings as `simulate` has them, but for the noise and the codec's losses. ``store/`` holds
    them as `store.build` would; the tables and files beside it are those of `simulate`. A killed
    run goes on after the last whole shard.

    Parameters
    ----------
    out, settings, processes, progress
        As for `simulate`.
    outline, clip
        How clips are made, as a recipe says it.

    Returns
    -------
    Summary
        What the folder holds now, for printing.

    Raises
    ------
    InputError
        If `out` cannot be written or holds a simulation with other settings.
    """
    out = make_folder(out)
    made_with = {
        **_name_origin(settings),
        "outline": outline.model_dump(mode="json"),
        "clip": clip.model_dump(mode="json"),
    }
    _claim(out, made_with)
    labels = draw_labels(settings).tolist()
    items = {_name(row): (row, label) for row, label in enumerate(labels)}
    rows: dict[str, Row] = {}

    def prepare(todo: Sequence[Source]) -> Iterator[Prepared]:
        task = partial(_make_clip, settings, outline, clip)
        wanted = [items[source.filename] for source in todo]
        for prepared, row in _in_order(task, wanted, processes, CLIPS_A_TASK):
            rows[row["filename"]] = row
            yield prepared

    sources = [Source(name, Path(name)) for name in items]
    store.fill(out / "store", sources, prepare, outline, clip, progress)
    rendered = len(rows)
    kept = [item for name, item in items.items() if name not in rows]
    for row in _in_order(partial(_plan_row, settings), kept, processes, PLANS_A_TASK):
        rows[row["filename"]] = row
    _write_tables(out, pd.DataFrame([rows[name] for name in items]), settings)
    return Summary(out, len(rows), sum(labels), rendered)


def draw_labels(settings: SimulateSettings) -> NDArray[np.bool_]:
    """Choose which recordings are stalled.

    Parameters
    ----------
    settings : SimulateSettings
        Count, fraction and seed.

    Returns
    -------
    ndarray
        bool (count,): True is stalled, for exactly the rounded fraction.
    """
    labels = np.arange(settings.count) < round(settings.count * settings.stalled)
    rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(1,)))
    return rng.permutation(labels)


def _name_origin(settings: SimulateSettings) -> dict[str, Any]:
    """Name all that the recordings follow from, for simulation.json."""
    origin: dict[str, Any] = {"settings": settings.model_dump(mode="json")}
    if settings.label_stack:
        if not Path(settings.label_stack).is_file():
            raise InputError(f"{settings.label_stack}: no such file; it should be a label stack")
        origin["label_stack_sha256"] = sha256(settings.label_stack)
    return origin


def _claim(out: Path, made_with: dict[str, Any]) -> None:
    """Keep the settings in the folder; refuse a folder that was made with other ones."""
    path = out / "simulation.json"
    wanted = {"format": FORMAT, **made_with}
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != wanted:
            raise InputError(
                f"{out}: holds a simulation with other settings (see simulation.json); "
                "choose another folder, or remove this one to start anew"
            )
    elif any((out / name).exists() for name in ("train_metadata.csv", "train", "store")):
        raise InputError(
            f"{out}: holds recordings that were not simulated here; choose another folder"
        )
    else:
        write_json(path, wanted)


def _in_order(
    task: Callable[[Item], Made], items: Sequence[Item], processes: int | None, together: int = 1
) -> Iterator[Made]:
    """Work through items in processes and yield what was made in the order of the items.

    At most three times `together` items a process are under way or waiting, so memory stays
    bounded.
    """
    parts = [items[start : start + together] for start in range(0, len(items), together)]
    processes = min(processes or os.cpu_count() or 1, len(parts))
    if processes <= 1:
        yield from map(task, items)
        return
    with workers.pool(processes) as pool:
        waiting: deque[Future[list[Made]]] = deque()
        for part in parts:
            if len(waiting) == 3 * processes:
                yield from waiting.popleft().result()
            waiting.append(pool.submit(_work, task, part))
        while waiting:
            yield from waiting.popleft().result()


def _work(task: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    return [task(item) for item in items]


def _render_file(out: Path, settings: SimulateSettings, item: tuple[int, bool]) -> tuple[Row, bool]:
    """Write one video unless it exists, and return its row of all tables."""
    row, stalled = item
    path = out / "train" / _name(row)
    if path.exists():
        return _plan_row(settings, item), False
    frames, truth = one(settings.seed, row, stalled, settings)
    # The preset changes the size of the file by some per cent, and not its quality.
    video.write(path, frames, frame_rate=settings.frame_rate, crf=settings.crf, preset="veryfast")
    return _describe(settings.seed, row, truth), True


def _make_clip(
    settings: SimulateSettings, outline: OutlineSettings, clip: ClipSettings, item: tuple[int, bool]
) -> tuple[Prepared, Row]:
    """Render what a clip shows, make the clip, and return it with its row of all tables."""
    row, stalled = item
    margin_px = clip.margin + SPARE_PX
    frames, truth = region(settings.seed, row, stalled, settings, margin_px)
    source = Source(_name(row), Path(_name(row)))
    count = len(frames)
    try:
        # The outline is drawn the same into every frame, so one of them shows all of it.
        found = outlines.find(recordings.from_array(frames[:1], source.path), outline)
        made = clips.make(recordings.from_array(frames, source.path), found, clip)
        prepared = Prepared(source, "ok", "", count, count, (made,))
    except RecordingError as error:
        prepared = Prepared(source, error.status, str(error), count, count)
    return prepared, _describe(settings.seed, row, truth)


def _plan_row(settings: SimulateSettings, item: tuple[int, bool]) -> Row:
    row, stalled = item
    return _describe(settings.seed, row, make_plan(settings.seed, row, stalled, settings).truth)


def _name(row: int) -> str:
    return f"{FIRST_NAME + row}.mp4"


def _describe(seed: int, row: int, truth: Truth) -> Row:
    """Say all about one recording: what the tables need beside what truth.csv holds."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, row)))
    score, expert = crowd.draw_crowd(rng, truth.project, truth.stalled)
    known = {
        field.name: float(f"{value:.6g}") if isinstance(value, float) else value
        for field in fields(truth)
        if np.ndim(value := getattr(truth, field.name)) == 0
    }
    return {
        "filename": _name(row),
        "crowd_score": score,
        "tier1": crowd.is_tier1(score, expert),
        **known,
        "stalled": int(truth.stalled),
        "line_px": _line_px(truth),
    }


def _line_px(truth: Truth) -> str:
    """Centre line as a JSON list of [column, row, frame], a point every `LINE_STEP_UM`."""
    steps_um = np.linalg.norm(np.diff(truth.line_um, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(steps_um)])
    wanted = np.linspace(0, along[-1], max(round(along[-1] / LINE_STEP_UM), 1) + 1)
    points = [np.interp(wanted, along, places) for places in truth.line_px.T]
    return json.dumps(np.column_stack(points).round(1).tolist())


def _write_tables(out: Path, rows: pd.DataFrame, settings: SimulateSettings) -> None:
    rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(3,)))
    project = rows["project"].to_numpy(dtype=str)
    stalled = rows["stalled"].to_numpy(dtype=bool)
    micro, nano = crowd.draw_subsets(rng, project, stalled, rows["tier1"].to_numpy(dtype=bool))
    metadata = rows[["filename"]].assign(
        url="s3://simulated/train/" + rows["filename"],
        project_id=rows["project"],
        num_frames=rows["frames"],
        crowd_score=rows["crowd_score"],
        tier1=rows["tier1"],
        micro=micro,
        nano=nano,
    )
    truth = rows.drop(columns=["crowd_score", "tier1"])
    write_text(out / "truth.csv", truth.to_csv(index=False))
    write_text(out / "train_labels.csv", rows[["filename", "stalled"]].to_csv(index=False))
    write_text(out / "train_metadata.csv", metadata.to_csv(index=False))
