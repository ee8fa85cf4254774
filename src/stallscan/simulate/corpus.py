"""A folder of simulated recordings in the competition's form, which a killed run continues."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan import video, workers
from stallscan.errors import InputError
from stallscan.files import make_folder, write_json, write_text
from stallscan.simulate.recording import Truth, make_plan, one
from stallscan.simulate.scene import Rng
from stallscan.simulate.settings import SimulateSettings

# Goes up whenever the same seed gives other recordings: old folders are then not continued.
FORMAT = 1
PROJECTS = tuple("ACDEFGHIJKLM")  # FACTS 4: there is no B
EXPERT_PROJECT = "L"  # FACTS 4: labelled by experts only, crowd score 0 in all rows
FIRST_NAME = 100000
# FACTS 4: micro holds 1,693 and nano 707 flowing recordings beside the 706 stalled of tier 1.
MICRO_FLOWING, NANO_FLOWING = 1693 / 706, 707 / 706


@dataclass(frozen=True)
class Summary:
    """What `simulate` left in the folder.

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
    progress: Callable[[int, int], None] | None = None,
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
    progress : callable, optional
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
    _claim(out, settings)
    make_folder(out / "train")
    labels = draw_labels(settings)
    task = partial(_render_file, out, settings)
    rows: list[dict[str, Any]] = []
    rendered = 0
    for row, is_new in _map(task, list(enumerate(labels)), processes):
        rows.append(row)
        rendered += is_new
        if progress is not None:
            progress(len(rows), len(labels))
    _write_tables(out, pd.DataFrame(rows), settings)
    return Summary(out, len(rows), int(labels.sum()), rendered)


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


def _claim(out: Path, settings: SimulateSettings) -> None:
    """Keep the settings in the folder; refuse a folder that was made with other ones."""
    path = out / "simulation.json"
    wanted = {"format": FORMAT, "settings": settings.model_dump()}
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
    elif (out / "train_metadata.csv").exists() or (out / "train").exists():
        raise InputError(
            f"{out}: holds recordings that were not simulated here; choose another folder"
        )
    else:
        write_json(path, wanted)


def _map(
    task: Callable[[tuple[int, Any]], tuple[dict[str, Any], bool]],
    items: list[tuple[int, Any]],
    processes: int | None,
) -> Iterator[tuple[dict[str, Any], bool]]:
    count = min(processes or os.cpu_count() or 1, len(items))
    if count <= 1:
        yield from map(task, items)
        return
    with workers.pool(count) as pool:
        yield from pool.map(task, items, chunksize=1)


def _render_file(
    out: Path, settings: SimulateSettings, item: tuple[int, bool]
) -> tuple[dict[str, Any], bool]:
    """Write one video unless it exists, and return its row of all tables."""
    row, stalled = item
    path = out / "train" / f"{FIRST_NAME + row}.mp4"
    is_new = not path.exists()
    if is_new:
        frames, truth = one(settings.seed, row, bool(stalled), settings)
        # The preset changes the size of the file by some per cent, and not its quality.
        video.write(
            path, frames, frame_rate=settings.frame_rate, crf=settings.crf, preset="superfast"
        )
    else:
        truth = make_plan(settings.seed, row, bool(stalled), settings).truth
    return {"filename": path.name, **_describe(settings.seed, row, truth)}, is_new


def _describe(seed: int, row: int, truth: Truth) -> dict[str, Any]:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, row)))
    project = str(rng.choice(PROJECTS))
    return {
        "project_id": project,
        "num_frames": truth.frames,
        "crowd_score": 0.0 if project == EXPERT_PROJECT else draw_crowd_score(rng, truth.stalled),
        "stalled": int(truth.stalled),
        "kind": truth.kind,
        "shape": truth.shape,
        "speed_um_s": round(truth.speed_um_s, 2),
        "first_in_focus": truth.first_in_focus,
        "last_in_focus": truth.last_in_focus,
        "frames_in_focus": truth.frames_in_focus,
        "frame_s": round(truth.frame_s, 4),
        "line_s": round(truth.line_s, 6),
    }


def draw_crowd_score(rng: Rng, stalled: bool) -> float:
    """Draw what the crowd says: of the flowing, 94 % have exactly 0 (FACTS 4, tier1).

    Parameters
    ----------
    rng : Generator
        Source of the score.
    stalled : bool
        The label.

    Returns
    -------
    float
        Share of the crowd that says stalled, 0..1, four decimals.
    """
    if stalled:
        return round(float(rng.beta(4, 1.2)), 4)
    return 0.0 if rng.random() < 0.94 else round(float(rng.beta(1, 4)), 4)


def _write_tables(out: Path, rows: pd.DataFrame, settings: SimulateSettings) -> None:
    score, stalled = rows["crowd_score"], rows["stalled"] == 1
    tier1 = (rows["project_id"] == EXPERT_PROJECT) | (score == 0) | (score >= 0.75)
    rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(3,)))
    rank = pd.Series(rng.permutation(len(rows)), rows.index).where(tier1 & ~stalled).rank()
    stalls = (tier1 & stalled).sum()
    metadata = rows[["filename"]].assign(
        url="s3://simulated/train/" + rows["filename"],
        project_id=rows["project_id"],
        num_frames=rows["num_frames"],
        crowd_score=score,
        tier1=tier1,
        micro=(tier1 & stalled) | (rank <= round(MICRO_FLOWING * stalls)),
        nano=(tier1 & stalled) | (rank <= round(NANO_FLOWING * stalls)),
    )
    truth = rows.drop(columns=["project_id", "num_frames", "crowd_score"])
    write_text(out / "truth.csv", truth.to_csv(index=False))
    write_text(out / "train_labels.csv", rows[["filename", "stalled"]].to_csv(index=False))
    write_text(out / "train_metadata.csv", metadata.to_csv(index=False))
