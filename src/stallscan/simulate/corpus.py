"""A folder of simulated recordings, or of their clips, in the competition's format.

An interrupted run resumes where it left off, and the files do not depend on the number of
processes.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan import runs, workers
from stallscan.clips import fill, traits
from stallscan.clips.clip import ClipSettings, make_clip
from stallscan.clips.prepare import Prepared
from stallscan.errors import InputError, RecordingError, WorkerError
from stallscan.files import make_folder, sha256, write_text
from stallscan.recordings import encode
from stallscan.recordings.bucket import SIMULATED_BUCKET
from stallscan.recordings.find import SIMULATION, Source
from stallscan.recordings.recording import from_array
from stallscan.simulate import crowd
from stallscan.simulate.recording import Truth, make_plan, one, region
from stallscan.simulate.settings import SimulateSettings
from stallscan.vessels.outline import OutlineSettings, find_outline

# Incremented whenever the same seed yields other recordings; older folders are not resumed.
FORMAT = 6
FIRST_NAME = 100000  # docs/facts.md 4
# Recorded only if there is a test split, so that folders from before this setting can resume.
TEST_SETTINGS = {"test", "test_stalled"}
# If one of these exists without simulation.json, the folder is not from a simulation.
OUTPUTS = ("train_metadata.csv", "train_labels.csv", "truth.csv", "train", "test", "store")
# Chosen: extra pixels beyond the clip's margin, so that the outline is complete within the window.
SPARE_PX = 3
# Chosen: the centre line hardly bends over this distance.
LINE_STEP_UM = 5.0

Result = TypeVar("Result")
Row = dict[str, Any]
Recording = tuple["_Part", int, bool]  # split, row in it, whether stalled
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CorpusSummary:
    """The result of `simulate` or `simulate_clips`.

    Attributes
    ----------
    folder : Path
        The folder.
    recordings, stalled : int
        Number of recordings in it, and of stalled ones.
    rendered : int
        Number of recordings that this run rendered; the others are from earlier runs.
    test, test_stalled : int
        Number of recordings in the test split, and of stalled ones.
    """

    folder: Path
    recordings: int
    stalled: int
    rendered: int
    test: int = 0
    test_stalled: int = 0

    def __str__(self) -> str:
        to_test = f" (including {self.test:,} for testing, {self.test_stalled:,} stalled)"
        return (
            f"{self.recordings:,} recordings, {self.stalled:,} stalled"
            f"{to_test if self.test else ''}, {self.rendered:,} new -> {self.folder}"
        )


@dataclass(frozen=True)
class _Part:
    """The training or the test split.

    Attributes
    ----------
    name : str
        ``train`` or ``test``: its folder, and the prefix of its tables.
    settings : SimulateSettings
        With the count, the share and the seed of this split.
    first_name : int
        Number in the file name of the first recording.
    """

    name: str
    settings: SimulateSettings
    first_name: int = FIRST_NAME

    @classmethod
    def test_of(cls, settings: SimulateSettings) -> "_Part":
        """Return the test split: other scenes, numbered after the last one of training."""
        seed = np.random.SeedSequence(settings.seed, spawn_key=(4,)).generate_state(1)[0]
        changes = {"count": settings.test, "stalled": settings.test_stalled, "seed": int(seed)}
        part = settings.model_copy(update=changes)
        return cls("test", part, FIRST_NAME + settings.count)

    def filename(self, row: int) -> str:
        """Return the file name of a recording."""
        return f"{self.first_name + row}.mp4"


def simulate(
    out: str | Path,
    settings: SimulateSettings,
    processes: int | None = None,
    progress: Progress = lambda _done, _of: None,
) -> CorpusSummary:
    """Write a corpus in the competition's exact format (docs/facts.md 4 and 5).

    The files are ``train/*.mp4``, ``train_metadata.csv`` and ``train_labels.csv``, and in addition
    ``truth.csv`` and ``simulation.json`` (the settings). A test split has ``test/*.mp4``,
    ``test_metadata.csv``, ``submission_format.csv``, rows in ``truth.csv``, and
    ``test_labels.csv``, which the competition never published. An interrupted run keeps existing
    videos; tables are written last. The recordings depend only on the settings.

    Parameters
    ----------
    out : str or Path
        Output folder.
    settings : SimulateSettings
        What to simulate.
    processes : int, optional
        Number of rendering processes; one per core by default. 0 and 1 render in this process.
    progress : callable
        Called with (recordings done, total) after each recording.

    Raises
    ------
    InputError
        If `out` cannot be written, or contains a simulation with other settings.
    """
    workers.count(processes)
    with runs.hold(out) as folder:
        return _simulate(folder, settings, processes, progress)


def _simulate(
    out: Path, settings: SimulateSettings, processes: int | None, progress: Progress
) -> CorpusSummary:
    _claim(out, _name_origin(settings))
    parts = [_Part("train", settings)]
    if settings.test:
        parts.append(_Part.test_of(settings))
    items = []
    for part in parts:
        make_folder(out / part.name)
        items += [(part, row, bool(label)) for row, label in enumerate(draw_labels(part.settings))]
    rows: list[Row] = []
    rendered = 0
    for row, is_new in _in_order(partial(_render_file, out), items, processes):
        rows.append(row)
        rendered += is_new
        progress(len(rows), len(items))
    every = pd.DataFrame(rows)
    test = every[settings.count :]
    if settings.test:
        _write_test_tables(out, test)
    _write_tables(out, every[: settings.count], every, settings)
    return CorpusSummary(
        folder=out,
        recordings=len(every),
        stalled=int(every["stalled"].sum()),
        rendered=rendered,
        test=len(test),
        test_stalled=int(test["stalled"].sum()),
    )


def simulate_clips(
    out: str | Path,
    settings: SimulateSettings,
    outline: OutlineSettings,
    clip: ClipSettings,
    processes: int | None = None,
    progress: Progress = lambda _done, _of: None,
) -> CorpusSummary:
    """Write the prepared clips of a corpus and its tables, but no videos.

    Only the surroundings of each outline are rendered, and nothing is encoded. The clips are those
    of `simulate` with the same settings, except for the noise and the losses of the codec.
    ``store/`` has the format of `fill.build`; the other files are those of `simulate`. An
    interrupted run resumes after the last complete shard.

    Parameters
    ----------
    out, settings, processes, progress
        As for `simulate`.
    outline, clip
        Settings of the clips, from a recipe.

    Raises
    ------
    InputError
        If `out` cannot be written or contains a simulation with other settings, or `settings` asks
        for a test split.
    """
    if settings.test:
        raise InputError(
            "a test split has videos, not clips. Simulate it without --clips into another folder"
        )
    workers.count(processes)
    with runs.hold(out) as folder:
        return _simulate_clips(folder, settings, outline, clip, processes, progress)


def _simulate_clips(
    out: Path,
    settings: SimulateSettings,
    outline: OutlineSettings,
    clip: ClipSettings,
    processes: int | None,
    progress: Progress,
) -> CorpusSummary:
    part = _Part("train", settings)
    made_with = {
        **_name_origin(settings),
        "outline": outline.model_dump(mode="json"),
        "clip": clip.model_dump(mode="json"),
    }
    _claim(out, made_with)
    labels = draw_labels(settings).tolist()
    items = {part.filename(row): (part, row, label) for row, label in enumerate(labels)}
    rows: dict[str, Row] = {}

    def prepare(todo: Sequence[Source]) -> Iterator[Prepared]:
        task = partial(_make_clip, outline, clip)
        wanted = [items[source.filename] for source in todo]
        for prepared, row in _in_order(task, wanted, processes):
            rows[row["filename"]] = row
            yield prepared

    sources = [Source(name, Path(name)) for name in items]
    # No recordings are written: files of their names in the working folder are others.
    fill.fill(out / "store", sources, prepare, outline, clip, progress, have_files=False)
    rendered = len(rows)
    kept = [item for name, item in items.items() if name not in rows]
    for row in _in_order(_plan_row, kept, processes):
        rows[row["filename"]] = row
    every = pd.DataFrame([rows[name] for name in items])
    _write_tables(out, every, every, settings)
    return CorpusSummary(out, len(rows), sum(labels), rendered)


def draw_labels(settings: SimulateSettings) -> NDArray[np.bool_]:
    """Draw which recordings are stalled, bool (count,): exactly the rounded share."""
    labels = np.arange(settings.count) < round(settings.count * settings.stalled)
    rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(1,)))
    return rng.permutation(labels)


def _name_origin(settings: SimulateSettings) -> dict[str, Any]:
    """Return everything that determines the recordings, for simulation.json."""
    unsaid = set() if settings.test else TEST_SETTINGS
    origin: dict[str, Any] = {"settings": settings.model_dump(mode="json", exclude=unsaid)}
    if settings.label_stack:
        if not Path(settings.label_stack).is_file():
            raise InputError(
                f"{settings.label_stack}: no such file. --label-stack takes a segmented stack"
            )
        origin["label_stack_sha256"] = sha256(settings.label_stack)
    return origin


def _claim(out: Path, made_with: dict[str, Any]) -> None:
    """Record the settings in the folder; refuse a folder with other settings."""
    wanted = {"format": FORMAT, **made_with}
    runs.claim(out / SIMULATION, wanted, "a simulation", OUTPUTS)


def _in_order(
    task: Callable[[Recording], Result], items: Sequence[Recording], processes: int | None
) -> Iterator[Result]:
    """Process recordings in order, in worker processes, or in this one for 0 or 1."""
    started = min(workers.count(processes), len(items))
    return workers.in_order(task, items, started if started > 1 else 0, _lost)


def _lost(item: Recording, reason: str) -> NoReturn:
    part, row, _ = item
    raise WorkerError(
        f"{part.filename(row)}: the process that simulated this recording failed ({reason}). Run "
        "the same command again to resume, with fewer --processes if memory runs out"
    )


def _render_file(out: Path, item: Recording) -> tuple[Row, bool]:
    """Write a video unless it exists; return its table row, and whether it is new."""
    part, row, stalled = item
    settings = part.settings
    path = out / part.name / part.filename(row)
    if path.exists():
        return _plan_row(item), False
    frames, truth = one(settings.seed, row, stalled, settings)
    # The preset changes the file size by a few per cent, not the quality.
    encode.write_video(
        path, frames, frame_rate=settings.frame_rate, crf=settings.crf, preset="veryfast"
    )
    return _describe(part, row, truth), True


def _make_clip(
    outline: OutlineSettings, clip: ClipSettings, item: Recording
) -> tuple[Prepared, Row]:
    """Render the surroundings of the outline; return the clip and its table row."""
    part, row, stalled = item
    settings = part.settings
    margin_px = clip.margin + SPARE_PX
    frames, truth = region(settings.seed, row, stalled, settings, margin_px)
    source = Source(part.filename(row), Path(part.filename(row)))
    count = len(frames)
    try:
        # Every frame has the same outline, so one frame is enough.
        found = find_outline(from_array(frames[:1], source.path), outline)
        made = make_clip(from_array(frames, source.path), found, clip)
        status, reason = traits.gradable(made.traits)
        reason = f"{source.path}: {reason}" if reason else ""
        prepared = Prepared(source, status, reason, count, count, (made,))
    except RecordingError as error:
        prepared = Prepared(source, error.status, str(error), count, count)
    return prepared, _describe(part, row, truth)


def _plan_row(item: Recording) -> Row:
    part, row, stalled = item
    plan = make_plan(part.settings.seed, row, stalled, part.settings)
    return _describe(part, row, plan.truth)


def _describe(part: _Part, row: int, truth: Truth) -> Row:
    """Return the table row of a recording: its truth, and the columns of the metadata."""
    rng = np.random.default_rng(np.random.SeedSequence(part.settings.seed, spawn_key=(2, row)))
    score, expert = crowd.draw_crowd(rng, truth.project, truth.stalled)
    known = {
        field.name: float(f"{value:.6g}") if isinstance(value, float) else value
        for field in fields(truth)
        if np.ndim(value := getattr(truth, field.name)) == 0
    }
    return {
        "filename": part.filename(row),
        "crowd_score": score,
        "tier1": crowd.is_tier1(score, expert),
        **known,
        "stalled": int(truth.stalled),
        "line_px": _line_px(truth),
    }


def _line_px(truth: Truth) -> str:
    """Return the centre line as a JSON list of [column, row, frame], one every `LINE_STEP_UM`."""
    steps_um = np.linalg.norm(np.diff(truth.line_um, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(steps_um)])
    wanted = np.linspace(0, along[-1], max(round(along[-1] / LINE_STEP_UM), 1) + 1)
    points = [np.interp(wanted, along, places) for places in truth.line_px.T]
    return json.dumps(np.column_stack(points).round(1).tolist())


def _write_test_tables(out: Path, rows: pd.DataFrame) -> None:
    url = f"{SIMULATED_BUCKET}test/" + rows["filename"]
    metadata = rows[["filename"]].assign(url=url, num_frames=rows["frames"])
    write_text(out / "test_labels.csv", rows[["filename", "stalled"]].to_csv(index=False))
    write_text(
        out / "submission_format.csv", rows[["filename"]].assign(stalled=0).to_csv(index=False)
    )
    write_text(out / "test_metadata.csv", metadata.to_csv(index=False))


def _write_tables(
    out: Path, rows: pd.DataFrame, every: pd.DataFrame, settings: SimulateSettings
) -> None:
    """Write the tables of the training split (`rows`), and the truth of every recording."""
    rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(3,)))
    project = rows["project"].to_numpy(dtype=str)
    stalled = rows["stalled"].to_numpy(dtype=bool)
    micro, nano = crowd.draw_subsets(rng, project, stalled, rows["tier1"].to_numpy(dtype=bool))
    metadata = rows[["filename"]].assign(
        url=f"{SIMULATED_BUCKET}train/" + rows["filename"],
        project_id=rows["project"],
        num_frames=rows["frames"],
        crowd_score=rows["crowd_score"],
        tier1=rows["tier1"],
        micro=micro,
        nano=nano,
    )
    truth = every.drop(columns=["crowd_score", "tier1"])
    write_text(out / "truth.csv", truth.to_csv(index=False))
    write_text(out / "train_labels.csv", rows[["filename", "stalled"]].to_csv(index=False))
    write_text(out / "train_metadata.csv", metadata.to_csv(index=False))
