"""A simulated raw stack, as a microscope writes it, with the truth of all its segments.

The vessels, blood and optics are those of simulated recordings. Nothing is outlined or converted to
grey levels: the values are counts of a detector, 16 bits. Frame k is one step deeper than frame
k - 1, and later, as in the recordings.
"""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from pydantic import Field

from stallscan import files, runs
from stallscan.settings import Settings
from stallscan.simulate import blood as bloods
from stallscan.simulate.blood import Blood, draw_blood
from stallscan.simulate.detector import detect
from stallscan.simulate.imaging import PAD_PX, Window, render
from stallscan.simulate.look import LookSettings, draw_look, vary_project
from stallscan.simulate.microscope import Microscope, draw_microscope
from stallscan.simulate.projects import draw_project
from stallscan.simulate.recording import find_in_focus
from stallscan.simulate.scene import F32, F64, LARGE_RADIUS_UM, Rng, Scene, draw_scene
from stallscan.simulate.settings import SimulateSettings
from stallscan.vessels.regions import Field as StackField
from stallscan.vessels.regions import outline_line
from stallscan.vessels.segment_files import write_labels

# Incremented whenever the same seed yields another stack.
FORMAT = 1
NOTE_NAME, STACK_NAME, LABELS_NAME = "simulation.json", "stack.tif", "vessels.tif"
SEGMENTS_NAME, LINES_NAME, TRUTH_NAME = "segments.csv", "centrelines.csv", "labels.csv"
# Detector counts without light, and for a photon; chosen.
OFFSET_COUNTS, COUNTS_PER_PHOTON = 100.0, 20.0
# Side of the tiles that are rendered at once, pixels: 100 frames of one take 26 MB.
TILE_PX = 256
# Chosen: a shorter part of a vessel inside the field is no segment, and in fewer frames in focus
# nobody could call it.
MIN_LENGTH_UM, MIN_IN_FOCUS = 25.0, 5

Progress = Callable[[int, int], None]


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
        tiles = list(tiles_of(plan.scene))
        with files.atomic_path(folder / STACK_NAME) as temporary:
            stack = create_tiff(temporary, plan.scene, plan.microscope.frame_s)
            for index, window in enumerate(tiles):
                stack[:, window.rows, window.columns] = film_raw(plan, window)
                progress(index + 1, len(tiles))
            stack.flush()
            del stack
        write_labels(folder / LABELS_NAME, plan.segments, plan.scene.shape, plan.voxel_um)
        _write_tables(folder, plan)
    stalled = sum(segment.stalled for segment in plan.segments)
    return StackSummary(folder / STACK_NAME, len(plan.segments), stalled)


def draw_stack(settings: RawSettings) -> RawPlan:
    """Draw everything about a stack."""
    of_scene, of_blood, of_scope, of_pixels, of_project, of_look, of_stalls = np.random.default_rng(
        np.random.SeedSequence(settings.seed, spawn_key=(5,))
    ).spawn(7)
    look = draw_look(of_look, settings.look)
    project = vary_project(of_look, draw_project(of_project, stalled=False), look)
    field = SimulateSettings(
        height=settings.height + settings.height % 2, width=settings.width + settings.width % 2
    )
    # `stalled` only keeps large vessels from being the segment that the network grows around.
    scene = draw_scene(of_scene, field, project, stalled=True, frames=settings.frames)
    scene = replace(scene, shape=(settings.frames, settings.height, settings.width))
    microscope = without_display(draw_microscope(of_scope, scene, project, look))
    first = find_in_focus(scene.vessels[0], scene, microscope)
    blood = draw_blood(
        *(of_blood, scene, microscope.frame_s, (int(first[0]), int(first[-1])), look.clear),
        stalled_neighbours=0.0,
    )
    segments = list(_find_segments(scene, microscope))
    count = round(settings.stalled * len(segments))
    chosen = set(of_stalls.permutation(len(segments))[:count].tolist())
    blood, segments = _stall(scene, blood, segments, chosen, of_stalls)
    return RawPlan(scene, blood, microscope, tuple(segments), of_pixels)


def film_raw(plan: RawPlan, window: Window) -> NDArray[np.uint16]:
    """Render a window of a stack in detector counts, uint16 (T, h, w)."""
    light = render(plan.scene, plan.blood, plan.microscope, window)  # (T, h, w) float32
    return to_counts(light, plan.microscope, plan.rng)


def to_counts(light: F32, microscope: Microscope, rng: Rng) -> NDArray[np.uint16]:
    """Convert light, float32 (T, h, w), to detector counts with noise, uint16 (T, h, w)."""
    counts = np.empty(light.shape, np.uint16)
    for frame, photons in zip(counts, detect(light, microscope, rng), strict=True):
        frame[:] = np.clip(OFFSET_COUNTS + COUNTS_PER_PHOTON * photons, 0, 65535)
    return counts


def without_display(microscope: Microscope) -> Microscope:
    """Return a microscope without the black areas of registered videos, and without their jumps.

    Tiles are rendered with `PAD_PX` around them, so rows must not be shifted by more.
    """
    return replace(
        microscope,
        offset=np.clip(microscope.offset, 2 - PAD_PX, PAD_PX - 2),
        static_black=np.zeros_like(microscope.static_black),
        edges=np.zeros_like(microscope.edges),
    )


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
                *(index, line[part], length_um, float(seen.radius_um.mean())),
                *(int(focus[0]), int(focus[-1]), len(focus)),
            )


def longest_run(inside: NDArray[np.bool_]) -> slice:
    """Return the longest run of True in bool (n,); empty without any."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]])))
    starts, stops = edges[::2], edges[1::2]
    if not len(starts):
        return slice(0, 0)
    longest = int((stops - starts).argmax())
    return slice(int(starts[longest]), int(stops[longest]))


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


def tiles_of(scene: Scene) -> Iterator[Window]:
    """Yield the windows that are rendered at once, which cover the field."""
    _, height, width = scene.shape
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            yield Window(
                slice(top, min(top + TILE_PX, height)), slice(left, min(left + TILE_PX, width))
            )


def create_tiff(
    path: Path, scene: Scene, frame_s: float, axes: str = "ZYX"
) -> "np.memmap[tuple[int, ...], np.dtype[np.uint16]]":
    """Create a TIFF file in ImageJ's form, to be filled."""
    depth = {"spacing": scene.step_um} if "Z" in axes else {}
    created: np.memmap[tuple[int, ...], np.dtype[np.uint16]] = tifffile.memmap(
        path,
        shape=scene.shape,
        dtype=np.uint16,
        imagej=True,
        resolution=(1 / scene.um_per_px, 1 / scene.um_per_px),
        metadata={"axes": axes, **depth, "unit": "um", "finterval": frame_s},
    )
    return created


def _write_tables(folder: Path, plan: RawPlan) -> None:
    field = StackField(plan.scene.shape, plan.voxel_um)
    names: tuple[str, ...] = ("stalled", "kind", "motion", "speed_um_s", "length_um", "radius_um")
    names += ("first_in_focus", "last_in_focus", "frames_in_focus")
    segments: list[list[object]] = [["segment", *names]]
    lines: list[list[object]] = [["segment", "z", "y", "x"]]
    labels: list[list[object]] = [["filename", "stalled"]]
    for number, segment in enumerate(plan.segments, start=1):
        values = {name: getattr(segment, name) for name in names}
        cells = [f"{value:.3f}" if isinstance(value, float) else value for value in values.values()]
        segments.append([number, int(segment.stalled), *cells[1:]])
        lines += [[number, *(f"{place:.2f}" for place in point)] for point in segment.line]
        region = outline_line(f"{number}", segment.line, field)
        labels.append([f"{STACK_NAME}/{region.full_name}", int(segment.stalled)])
    for name, rows in ((SEGMENTS_NAME, segments), (LINES_NAME, lines), (TRUTH_NAME, labels)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        files.write_text(folder / name, text.getvalue())
