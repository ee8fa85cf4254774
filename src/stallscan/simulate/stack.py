"""A simulated raw stack, as a microscope writes it, with the truth of all its segments.

The vessels, blood and optics are those of simulated recordings. Nothing is outlined or converted to
grey levels: the values are counts of a detector, 16 bits. Frame k is one step deeper than frame
k - 1, and later, as in the recordings.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import Field

from stallscan import files, runs
from stallscan.settings import Settings
from stallscan.simulate import blood as bloods
from stallscan.simulate.blood import Blood, draw_blood
from stallscan.simulate.imaging import Window, render
from stallscan.simulate.look import LookSettings
from stallscan.simulate.microscope import Microscope
from stallscan.simulate.raw import (
    NOTE_NAME,
    Counts,
    Progress,
    Streams,
    draw_row_noise,
    draw_specimen,
    longest_run,
    to_counts,
    write_frames,
)
from stallscan.simulate.recording import find_in_focus
from stallscan.simulate.scene import F32, F64, LARGE_RADIUS_UM, Rng, Scene
from stallscan.vessels.regions import Field as StackField
from stallscan.vessels.regions import outline_line
from stallscan.vessels.segment_files import LINES_NAME, SEGMENTS_NAME, write_labels, write_lines

# Incremented whenever the same seed yields another stack.
FORMAT = 2
STACK_NAME, LABELS_NAME, TRUTH_NAME = "stack.tif", "vessels.tif", "labels.csv"
# Chosen: a shorter part of a vessel inside the field is no segment, and in fewer frames in focus
# nobody could call it.
MIN_LENGTH_UM, MIN_IN_FOCUS = 25.0, 5


class RawSettings(Settings):
    """What stack to simulate.

    Attributes
    ----------
    seed : int
        The same seed gives the same stack.
    stalled : float
        Share of stalled segments, 0..1 (rounded to whole segments). docs/facts.md 1: 2 % in
        Alzheimer's models.
    frames, height, width : int
        Size of the stack.
    look : LookSettings
        Ranges of optics and noise; those of the display do not apply.
    """

    seed: int = Field(default=0, ge=0)
    stalled: float = Field(default=0.02, ge=0, le=1)
    frames: int = Field(default=100, ge=17, le=1000)
    height: int = Field(default=512, ge=128, le=4096)
    width: int = Field(default=512, ge=128, le=4096)
    look: LookSettings = LookSettings()


@dataclass(frozen=True)
class Truth:
    """The ground truth of one segment.

    Attributes
    ----------
    vessel : int
        Index in the scene.
    line : ndarray
        float64 (n, 3): frame, row and column, in voxels; inside the stack.
    stalled : bool
        The label.
    """

    vessel: int
    line: F64
    length_um: float
    radius_um: float
    first_in_focus: int
    last_in_focus: int
    frames_in_focus: int
    stalled: bool = False
    kind: str = ""
    motion: str = ""
    speed_um_s: float = 0.0


@dataclass(frozen=True)
class RawPlan:
    """Everything drawn for a stack before rendering; `rng` is the source of the noise."""

    scene: Scene
    blood: Blood
    microscope: Microscope
    segments: tuple[Truth, ...]
    row_noise: F32  # (T, H, 1), photons
    rng: Rng

    @property
    def voxel_um(self) -> tuple[float, float, float]:
        """Distance of frames, rows and columns in um."""
        return self.scene.step_um, self.scene.um_per_px, self.scene.um_per_px


@dataclass(frozen=True)
class StackSummary:
    """The result of `simulate_stack`."""

    path: Path
    segments: int
    stalled: int

    def __str__(self) -> str:
        return f"1 stack with {self.segments:,} segments, {self.stalled:,} stalled -> {self.path}"


def simulate_stack(
    out: str | Path, settings: RawSettings, progress: Progress = lambda _done, _of: None
) -> StackSummary:
    """Write a raw stack and its truth.

    The files are ``stack.tif`` (16 bits, ImageJ, with voxel size and frame time), ``segments.csv``,
    ``centrelines.csv`` (frame, row and column of points on the centre lines, in voxels),
    ``vessels.tif`` (the voxels of each segment, by its number) and ``labels.csv`` (filename and
    stalled, with the names of `stallscan stack`).

    Raises
    ------
    InputError
        If `out` cannot be written, or contains another simulation.
    """
    with runs.hold(out) as folder:
        now = {"format": FORMAT, "stack": settings.model_dump(mode="json")}
        runs.claim(folder / NOTE_NAME, now, "a simulation", (STACK_NAME, SEGMENTS_NAME))
        plan = draw_stack(settings)
        write_frames(
            folder / STACK_NAME,
            plan.scene,
            plan.microscope.frame_s,
            functools.partial(film_raw, plan),
            progress,
        )
        write_labels(folder / LABELS_NAME, plan.segments, plan.scene.shape, plan.voxel_um)
        _write_tables(folder, plan)
    stalled = sum(segment.stalled for segment in plan.segments)
    return StackSummary(folder / STACK_NAME, len(plan.segments), stalled)


def draw_stack(settings: RawSettings) -> RawPlan:
    """Draw everything about a stack."""
    streams = Streams.of(settings.seed, 5)
    shape = settings.frames, settings.height, settings.width
    scene, microscope, look = draw_specimen(streams, settings.look, shape, settings.frames)
    first = find_in_focus(scene.vessels[0], scene, microscope)
    blood = draw_blood(
        streams.blood,
        scene,
        microscope.frame_s,
        (int(first[0]), int(first[-1])),
        look.clear,
        stalled_neighbours=0.0,
    )
    segments = list(_find_segments(scene, microscope))
    count = round(settings.stalled * len(segments))
    chosen = set(streams.stalls.permutation(len(segments))[:count].tolist())
    blood, segments = _stall(scene, blood, segments, chosen, streams.stalls)
    row_noise = draw_row_noise(streams.rows, scene, microscope)
    return RawPlan(scene, blood, microscope, tuple(segments), row_noise, streams.pixels)


def film_raw(plan: RawPlan, window: Window) -> Counts:
    """Render a window of a stack in detector counts, uint16 (T, h, w)."""
    light = render(plan.scene, plan.blood, plan.microscope, window)  # (T, h, w) float32
    return to_counts(light, plan.microscope, plan.rng, plan.row_noise[:, window.rows])


def _find_segments(scene: Scene, microscope: Microscope) -> Iterator[Truth]:
    """Yield the part of each capillary that lies inside the stack."""
    frames, height, width = scene.shape
    sides = np.array([scene.step_um, scene.um_per_px, scene.um_per_px])
    for index, vessel in enumerate(scene.vessels):
        if vessel.radius_um.mean() > LARGE_RADIUS_UM:
            continue
        line = vessel.line[:, ::-1] / sides  # (n, 3) frame, row, column
        inside = ((line >= 0) & (line <= np.array([frames, height, width]) - 1)).all(axis=1)
        part = longest_run(inside)
        length_um = float(np.linalg.norm(np.diff(vessel.line[part], axis=0), axis=1).sum())
        if length_um < MIN_LENGTH_UM:
            continue
        seen = replace(vessel, line=vessel.line[part], radius_um=vessel.radius_um[part])
        focus = find_in_focus(seen, scene, microscope)
        if len(focus) >= MIN_IN_FOCUS:
            yield Truth(
                vessel=index,
                line=line[part],
                length_um=length_um,
                radius_um=float(seen.radius_um.mean()),
                first_in_focus=int(focus[0]),
                last_in_focus=int(focus[-1]),
                frames_in_focus=len(focus),
            )


def _stall(
    scene: Scene, blood: Blood, segments: list[Truth], chosen: set[int], rng: Rng
) -> tuple[Blood, list[Truth]]:
    """Stall the chosen segments, and describe the blood in all."""
    described = []
    for index, segment in enumerate(segments):
        vessel = segment.vessel
        focus = segment.first_in_focus, segment.last_in_focus
        # Other vessels flow at an even speed or reverse, which `draw_blood` does not tell.
        motion = blood.motion if vessel == 0 else "flow"
        if index in chosen:
            length_um = len(scene.vessels[vessel].line)
            stalled = bloods.stall(blood, length_um, focus, rng, vessel)
            motion = stalled.motion
            # The motion of a blood is that of its vessel 0.
            blood = stalled if vessel == 0 else replace(stalled, motion=blood.motion)
        seen = np.abs(blood.speed_um_s[vessel, focus[0] : focus[1] + 1])  # (frames in focus,)
        described.append(
            replace(
                segment,
                stalled=index in chosen,
                kind=blood.kinds[blood.pattern[vessel]],
                motion=motion,
                speed_um_s=float(seen.mean()),
            )
        )
    return blood, described


def _write_tables(folder: Path, plan: RawPlan) -> None:
    names: tuple[str, ...] = ("stalled", "kind", "motion", "speed_um_s", "length_um", "radius_um")
    names += ("first_in_focus", "last_in_focus", "frames_in_focus")
    segments: list[list[object]] = []
    for number, segment in enumerate(plan.segments, start=1):
        values = {name: getattr(segment, name) for name in names}
        cells = [f"{value:.3f}" if isinstance(value, float) else value for value in values.values()]
        segments.append([number, int(segment.stalled), *cells[1:]])
    files.write_rows(folder / SEGMENTS_NAME, ("segment", *names), segments)
    write_lines(folder / LINES_NAME, [segment.line for segment in plan.segments])
    field = StackField(plan.scene.shape, plan.voxel_um)
    labels = []
    for number, segment in enumerate(plan.segments, start=1):
        region = outline_line(f"{number}", segment.line, field)
        labels.append([f"{STACK_NAME}/{region.full_name}", int(segment.stalled)])
    files.write_rows(folder / TRUTH_NAME, ("filename", "stalled"), labels)
