"""A simulated time series at one depth: segments whose blood stops and starts, and when.

The vessels, blood and optics are those of simulated stacks, but all frames show the same plane.
``bessel`` has a deep focus, as a Bessel beam has, so that many vessels are in it. An ``angiogram``
has that, too, and shows where blood moves instead of the blood itself, as OCT angiography does.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stallscan import files, runs
from stallscan.series.stallogram import FLOWING, STALLED, Stallogram
from stallscan.settings import Settings
from stallscan.simulate import blood as bloods
from stallscan.simulate.blood import PATTERN_LENGTH, PATTERN_STEP_UM, Blood, draw_blood
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
from stallscan.simulate.recording import half_focus_um
from stallscan.simulate.scene import F32, F64, LARGE_RADIUS_UM, Rng, Scene
from stallscan.vessels.segment_files import LINES_NAME, SEGMENTS_NAME, write_lines

# Incremented whenever the same seed yields another series.
FORMAT = 2
SERIES_NAME, TRUTH_NAME = "series.tif", "true_stallogram.csv"
# Planes of the scene from which the one with the longest vessels is chosen; none is near a face.
PLANES, FACE_PLANES = 40, 8
# Chosen: a shorter part of a vessel in focus is no segment.
MIN_LENGTH_UM = 20.0
# Standard deviation of a deep focus along depth. Chosen: several times that of a common one, but
# less than the depth of the scene.
DEEP_UM = 8.0
# Mean duration of a stall; docs/laboratory/series.md cites 15 s. Chosen: in short or slow series at
# least 3 frames, and at most 0.3 of the series.
STALL_S, FEWEST_FRAMES, MOST_OF_SERIES = 15.0, 3, 0.3
# Chosen: mean time between the stalls of a segment that stalls, relative to the series; and the
# share of these segments that stand still throughout.
BETWEEN, THROUGHOUT = 0.5, 0.1
# Chosen: the brightness changes slowly by up to this share (bleaching, drift of the laser).
DRIFT = 0.1
# Of an angiogram, chosen: darkness of standing blood, and the shape of the gamma distribution of
# speckle, whose relative standard deviation is 1 / sqrt(shape).
STANDING_DARK, SPECKLE_SHAPE = 0.85, 25.0

Kind = Literal["two-photon", "bessel", "angiogram"]


class SeriesSettings(Settings):
    """What time series to simulate.

    Attributes
    ----------
    seed : int
        The same seed gives the same series.
    stalled : float
        Share of the segments that stall at some time, 0..1 (rounded to whole segments).
    frames, height, width : int
        Size of the series.
    frame_s : float
        Seconds from frame to frame. The scan of a frame takes at most 1 s of them.
    kind : str
        ``two-photon``, ``bessel`` or ``angiogram``.
    look : LookSettings
        Ranges of optics and noise; those of the display do not apply.
    """

    seed: int = Field(default=0, ge=0)
    stalled: float = Field(default=0.2, ge=0, le=1)
    frames: int = Field(default=300, ge=17, le=1000)
    height: int = Field(default=512, ge=128, le=2048)
    width: int = Field(default=512, ge=128, le=2048)
    frame_s: float = Field(default=1.0, ge=0.02, le=60)
    kind: Kind = "two-photon"
    look: LookSettings = LookSettings()


@dataclass(frozen=True)
class Segment:
    """The part of a capillary that is in focus.

    Attributes
    ----------
    vessel : int
        Index in the scene.
    line : ndarray
        float64 (n, 2): row and column, in pixels; inside the frame.
    standing : ndarray
        bool (T,): frames in which its blood stands still.
    speed_um_s : float
        Mean absolute speed in the other frames; 0 without any.
    """

    vessel: int
    line: F64
    length_um: float
    radius_um: float
    standing: NDArray[np.bool_]
    speed_um_s: float = 0.0


@dataclass(frozen=True)
class SeriesPlan:
    """Everything drawn for a series before rendering; `rng` is the source of the noise."""

    scene: Scene
    blood: Blood
    microscope: Microscope
    segments: tuple[Segment, ...]
    is_angiogram: bool
    row_noise: F32  # (T, H, 1), photons
    rng: Rng

    @property
    def truth(self) -> Stallogram:
        """The true state of each segment in each frame."""
        standing = np.array([segment.standing for segment in self.segments], bool)
        states = np.where(standing, STALLED, FLOWING).astype(np.int8)
        names = tuple(str(number) for number in range(1, len(self.segments) + 1))
        shape = len(self.segments), self.scene.shape[0]
        return Stallogram(names, states.reshape(shape), self.microscope.frame_s)


@dataclass(frozen=True)
class SeriesSummary:
    """The result of `simulate_series`."""

    path: Path
    segments: int
    stalling: int

    def __str__(self) -> str:
        return (
            f"1 time series with {self.segments:,} segments, of which {self.stalling:,} stall at "
            f"some time -> {self.path}"
        )


def simulate_series(
    out: str | Path, settings: SeriesSettings, progress: Progress = lambda _done, _of: None
) -> SeriesSummary:
    """Write a time series at one depth and its truth.

    The files are ``series.tif`` (16 bits, ImageJ, with pixel size and frame time),
    ``segments.csv``, ``centrelines.csv`` (plane 0, row and column of points on the centre lines,
    in pixels) and ``true_stallogram.csv`` (1 stalled, 0 flowing).

    Raises
    ------
    InputError
        If `out` cannot be written, or contains another simulation.
    """
    with runs.hold(out) as folder:
        now = {"format": FORMAT, "series": settings.model_dump(mode="json")}
        runs.claim(folder / NOTE_NAME, now, "a simulation", (SERIES_NAME, SEGMENTS_NAME))
        plan = draw_series(settings)
        write_frames(
            folder / SERIES_NAME,
            plan.scene,
            plan.microscope.frame_s,
            functools.partial(film_series, plan),
            progress,
        )
        plan.truth.write(folder / TRUTH_NAME)
        _write_tables(folder, plan)
    stalling = sum(bool(segment.standing.any()) for segment in plan.segments)
    return SeriesSummary(folder / SERIES_NAME, len(plan.segments), stalling)


def draw_series(settings: SeriesSettings) -> SeriesPlan:
    """Draw everything about a series."""
    streams = Streams.of(settings.seed, 6)
    shape = settings.frames, settings.height, settings.width
    scene, microscope, look = draw_specimen(streams, settings.look, shape, PLANES, _choose_plane)
    microscope = _at_rest(microscope, settings, streams.microscope)
    blood = draw_blood(
        streams.blood,
        scene,
        microscope.frame_s,
        (0, settings.frames - 1),
        look.clear,
        stalled_neighbours=0.0,
    )
    # The first vessel may pause, which the truth would not say.
    blood = bloods.keep_moving(blood)
    found = list(_find_segments(scene, microscope))
    count = round(settings.stalled * len(found))
    for index in streams.stalls.permutation(len(found))[:count].tolist():
        standing = _draw_standing(streams.stalls, settings.frames, settings.frame_s)
        blood = bloods.stand(blood, found[index].vessel, standing, streams.stalls)
    # Before `_show_motion`, which stops all blood.
    segments = tuple(_describe(segment, blood.speed_um_s[segment.vessel]) for segment in found)
    is_angiogram = settings.kind == "angiogram"
    if is_angiogram:
        blood = _show_motion(blood)
    row_noise = draw_row_noise(streams.rows, scene, microscope)
    return SeriesPlan(scene, blood, microscope, segments, is_angiogram, row_noise, streams.pixels)


def _describe(segment: Segment, speed_um_s: F64) -> Segment:
    """Return a segment with the motion of its blood, signed speeds (T,)."""
    moving = np.abs(speed_um_s[speed_um_s != 0])
    mean = float(moving.mean()) if moving.size else 0.0
    return replace(segment, standing=speed_um_s == 0, speed_um_s=mean)


def film_series(plan: SeriesPlan, window: Window) -> Counts:
    """Render a window of a series in detector counts, uint16 (T, h, w)."""
    light = render(plan.scene, plan.blood, plan.microscope, window)  # (T, h, w) float32
    if plan.is_angiogram:
        _add_speckle(light, plan.microscope.psf_xy_um / plan.scene.um_per_px, plan.rng)
    return to_counts(light, plan.microscope, plan.rng, plan.row_noise[:, window.rows])


def _choose_plane(scene: Scene) -> Scene:
    """Return a scene at rest at the plane with the longest capillaries near it."""
    depth_um = np.concatenate(
        [
            vessel.line[:, 2]
            for vessel in scene.vessels
            if vessel.radius_um.mean() <= LARGE_RADIUS_UM
        ]
    )
    planes = np.arange(FACE_PLANES, scene.shape[0] - FACE_PLANES)
    # The points of a line are 1 um apart; 3 um is about the depth of focus.
    near = np.abs(depth_um[:, None] - planes * scene.step_um) < 3
    plane = int(planes[near.sum(axis=0).argmax()])
    down = np.array([0.0, 0.0, plane * scene.step_um])
    vessels = tuple(replace(vessel, line=vessel.line - down) for vessel in scene.vessels)
    node = round(plane / scene.shape[0] * (len(scene.haze) - 1))
    return replace(
        scene,
        step_um=0.0,
        vessels=vessels,
        puncta=scene.puncta - [*down, 0],
        haze=np.repeat(scene.haze[node : node + 1], 2, axis=0),
    )


def _at_rest(microscope: Microscope, settings: SeriesSettings, rng: Rng) -> Microscope:
    """Return a microscope that stays at one depth, with the interval of the series."""
    scan_s = min(microscope.frame_s, settings.frame_s)
    drift = 1 + rng.uniform(-DRIFT, DRIFT) * np.linspace(-1, 1, settings.frames)
    return replace(
        microscope,
        line_s=microscope.line_s * scan_s / microscope.frame_s,
        frame_s=settings.frame_s,
        psf_z_um=microscope.psf_z_um if settings.kind == "two-photon" else DEEP_UM,
        laser=drift,
        power=drift,
    )


def _find_segments(scene: Scene, microscope: Microscope) -> Iterator[Segment]:
    """Yield the longest part of each capillary that is in focus and inside the frame."""
    frames, height, width = scene.shape
    for index, vessel in enumerate(scene.vessels):
        radius_um = float(vessel.radius_um.mean())
        # The first one may crawl some um per frame, as the outlined segment of a recording.
        if index == 0 or radius_um > LARGE_RADIUS_UM:
            continue
        line = vessel.line[:, 1::-1] / scene.um_per_px  # (n, 2) row, column
        inside = ((line >= 0) & (line <= np.array([height, width]) - 1)).all(axis=1)
        inside &= np.abs(vessel.line[:, 2]) <= half_focus_um(radius_um, microscope)
        part = longest_run(inside)
        length_um = float(np.linalg.norm(np.diff(vessel.line[part], axis=0), axis=1).sum())
        if length_um >= MIN_LENGTH_UM:
            yield Segment(index, line[part], length_um, radius_um, np.zeros(frames, bool))


def _draw_standing(rng: Rng, frames: int, frame_s: float) -> NDArray[np.bool_]:
    """Draw when the blood of a segment stands still, bool (T,); at least once."""
    standing = np.zeros(frames, bool)
    if rng.random() < THROUGHOUT:
        return ~standing
    mean = np.clip(STALL_S / frame_s, FEWEST_FRAMES, MOST_OF_SERIES * frames)
    at = float(rng.uniform(0, 0.9 * frames))
    while at < frames:
        count = 1 + rng.exponential(mean)
        standing[int(at) : int(at + count)] = True
        at += count + 1 + rng.exponential(BETWEEN * frames)
    return standing


def _show_motion(blood: Blood) -> Blood:
    """Return blood that is bright where it moves and dark where it stands."""
    half_um = PATTERN_LENGTH * PATTERN_STEP_UM / 2
    dark = np.zeros((1, PATTERN_LENGTH), np.float32)
    dark[0, PATTERN_LENGTH // 2 :] = 1
    standing = blood.speed_um_s == 0
    contrast = np.where(standing.any(axis=1), STANDING_DARK, 0).astype(np.float32)
    return replace(
        blood,
        dark=dark,
        pattern=np.zeros_like(blood.pattern),
        contrast=contrast,
        speed_um_s=np.zeros_like(blood.speed_um_s),
        start_um=np.where(standing, half_um, 0.0),
    )


def _add_speckle(light: F32, grain_px: float, rng: Rng) -> None:
    """Multiply frames, float32 (T, h, w), by speckle of mean 1, another one in each."""
    for frame in light:
        grain = rng.gamma(SPECKLE_SHAPE, 1 / SPECKLE_SHAPE, frame.shape).astype(np.float32)
        smooth = cv2.GaussianBlur(grain, (0, 0), grain_px) - 1
        frame *= 1 + smooth * (SPECKLE_SHAPE**-0.5 / max(float(smooth.std()), 1e-6))
        np.maximum(frame, 0, out=frame)


def _write_tables(folder: Path, plan: SeriesPlan) -> None:
    head = ("segment", "stalled_share", "kind", "speed_um_s", "length_um", "radius_um")
    segments: list[list[object]] = []
    for number, segment in enumerate(plan.segments, start=1):
        kinds = plan.blood.kinds
        kind = "angiogram" if plan.is_angiogram else kinds[plan.blood.pattern[segment.vessel]]
        share = float(segment.standing.mean())
        numbers = (share, kind, segment.speed_um_s, segment.length_um, segment.radius_um)
        segments.append(
            [number, *(f"{each:.3f}" if isinstance(each, float) else each for each in numbers)]
        )
    files.write_rows(folder / SEGMENTS_NAME, head, segments)
    # In plane 0: (n, 2) -> (n, 3)
    write_lines(
        folder / LINES_NAME,
        [np.pad(segment.line, ((0, 0), (1, 0))) for segment in plan.segments],
    )
