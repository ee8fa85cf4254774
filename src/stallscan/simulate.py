"""Outlined recordings with known label: vessels in depth, blood that moves or stays, a microscope.

The order is that of nature: `draw_scene` (vessels in um), `draw_blood` (cells on the arc length and
how they move), `draw_microscope`, `render` (light), `expose` (photons and display), `draw_outline`
and the file. Everything of a recording but the motion in its outlined segment is drawn before, and
independently of, its label: whether it stalls can be read from motion alone.

One pixel is 1 um, one frame is one z step of 1 um; frames are scanned row by row (FACTS 1 and 5).
"""

import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import cKDTree

from stallscan import video
from stallscan.errors import InputError
from stallscan.files import make_folder, write_json, write_text
from stallscan.settings import Settings

# Goes up whenever the same seed gives other recordings: old folders are then not continued.
FORMAT = 1
COLOUR = (255, 102, 0)  # FACTS 5
LINE_WIDTH_PX = 2.5  # FACTS 5
AREA_PX = (1150, 6400)  # FACTS 5: what an outline encloses
PROJECTS = tuple("ACDEFGHIJKLM")  # FACTS 4: there is no B
EXPERT_PROJECT = "L"  # FACTS 4: labelled by experts only, crowd score 0 in all rows
FIRST_NAME = 100000
# FACTS 4: micro holds 1,693 and nano 707 flowing recordings beside the 706 stalled of tier 1.
MICRO_FLOWING, NANO_FLOWING = 1693 / 706, 707 / 706

PATTERN_STEP_UM = 0.25
PATTERN_LENGTH = 4096
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
REACH_SIGMAS = 3.2

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
Image = NDArray[np.uint8]
Rng = np.random.Generator


class SimulateSettings(Settings):
    """What to simulate.

    Attributes
    ----------
    count : int
        Recordings, at least 1.
    stalled : float
        Fraction of them that is stalled, 0..1 (rounded to whole recordings).
    seed : int
        Everything follows from it, row by row.
    height, width : int
        Field in pixels of 1 um, even; 384 x 512 in the competition (FACTS 5).
    frame_rate : int
        Frames per second of the file; 15 in the competition.
    crf : int
        Constant rate factor of x264; 15 in the competition.
    """

    count: int = Field(default=200, ge=1)
    stalled: float = Field(default=0.3, ge=0, le=1)
    seed: int = Field(default=0, ge=0)
    height: int = Field(default=384, ge=128, multiple_of=2)
    width: int = Field(default=512, ge=128, multiple_of=2)
    frame_rate: int = Field(default=15, ge=1)
    crf: int = Field(default=15, ge=0, le=51)


@dataclass(frozen=True)
class Vessel:
    """A tube: centre line (n, 3) as x, y, z in um, a point each um; radius; brightness 0..1."""

    line: F64
    radius_um: float
    brightness: float


@dataclass(frozen=True)
class Shaft:
    """A penetrating vessel: it drifts by `slope` um (x, y) for each um of depth."""

    centre: F64
    slope: F64
    radius_um: float
    brightness: float


@dataclass(frozen=True)
class Trunk:
    """A large vessel lying in the plane: its picture, the depth of its axis, and its radius."""

    mask: F32
    z_um: float
    radius_um: float
    brightness: float


@dataclass(frozen=True)
class Outline:
    """The drawn contour: line pixels and filled interior, bool (H, W)."""

    line: NDArray[np.bool_]
    interior: NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """What lies in the field, in um; `vessels[0]` is the outlined segment.

    Attributes
    ----------
    shape : tuple of int
        Frames (1 um of depth each), rows, columns.
    shape_kind : str
        How the outlined segment runs: plane, oblique, end_on, horseshoe, arch.
    puncta : ndarray
        float (n, 4): x, y, z in um and brightness of bright spots.
    haze : ndarray
        float (a, b, c): coarse brightness of what is out of focus, over depth, rows, columns.
    """

    shape: tuple[int, int, int]
    shape_kind: str
    vessels: tuple[Vessel, ...]
    shafts: tuple[Shaft, ...]
    trunks: tuple[Trunk, ...]
    puncta: F64
    haze: F32
    outline: Outline


@dataclass(frozen=True)
class Blood:
    """Cells of each vessel and how they move.

    Attributes
    ----------
    kind : str
        Pattern of cells in the outlined segment: cells, train, plug.
    crawls : bool
        Whether the outlined segment, if it flows, is a nearly-stalled crawl.
    plasma : ndarray
        float32 (vessels, `PATTERN_LENGTH`): brightness 0..1 along the arc length, one value for
        each `PATTERN_STEP_UM`, repeating.
    speed_um_s : ndarray
        float (vessels, frames): mean speed during each frame, signed.
    start_um : ndarray
        float (vessels, frames): how far the cells have moved when the frame starts.
    pulse : ndarray
        float (vessels, 3): amplitude relative to the speed, frequency in Hz, phase.
    """

    kind: str
    crawls: bool
    plasma: F32
    speed_um_s: F64
    start_um: F64
    pulse: F64


@dataclass(frozen=True)
class Microscope:
    """How the scene is scanned, detected and displayed.

    Attributes
    ----------
    frame_s, line_s : float
        Time from frame to frame (0.5-1 s) and from row to row (1-2.5 ms).
    psf_xy_um, psf_z_um : float
        Standard deviations of the point spread function.
    power : ndarray
        float (frames,): laser power times attenuation.
    photons : float
        Mean photons a pixel from undiluted plasma.
    excess : float
        Spread of the gain of one photon, relative to it.
    read_noise : float
        Standard deviation of the detector's noise, in photons.
    blur_px : tuple of float
        Smoothing of the noise by registration, along columns and along rows.
    background : float
        Brightness of tissue relative to plasma.
    stretch : tuple of float
        Percentiles of the recording that are displayed as black and as 243.
    offset : ndarray
        float32 (frames, rows, 2): by how many pixels, in x and y, each row was displaced.
    wedge : ndarray
        bool (H, W): left black by registration.
    """

    frame_s: float
    line_s: float
    psf_xy_um: float
    psf_z_um: float
    power: F64
    photons: float
    excess: float
    read_noise: float
    blur_px: tuple[float, float]
    background: float
    stretch: tuple[float, float]
    offset: F32
    wedge: NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """What is known about one simulated recording.

    Attributes
    ----------
    stalled : bool
        The label.
    kind : str
        stall, crawl or flow, then the pattern of cells: ``stall-plug``, ``flow-cells``.
    shape : str
        How the segment runs: plane, oblique, end_on, horseshoe, arch.
    speed_um_s : float
        Mean speed of the cells, 0 when stalled.
    first_in_focus, last_in_focus, frames_in_focus : int
        Frames in which any part of the segment is in focus (half the axial PSF).
    frames : int
        Frames of the recording.
    frame_s, line_s : float
        Seconds from frame to frame and from row to row.
    line_um : ndarray
        float (n, 3): centre line as x, y, z; x and y are pixels, z is the frame.
    offset_px : ndarray
        float32 (frames, rows, 2): by how much each row was displaced in x and y.
    """

    stalled: bool
    kind: str
    shape: str
    speed_um_s: float
    first_in_focus: int
    last_in_focus: int
    frames_in_focus: int
    frames: int
    frame_s: float
    line_s: float
    line_um: F64
    offset_px: F32


@dataclass(frozen=True)
class Summary:
    """What `simulate` left in the folder, and how many recordings it rendered this time."""

    folder: Path
    recordings: int
    stalled: int
    rendered: int


class Plan(NamedTuple):
    """Everything that is drawn for one recording before a pixel is rendered."""

    scene: Scene
    blood: Blood
    microscope: Microscope
    truth: Truth
    rng: Rng


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


def one(seed: int, row: int, stalled: bool, settings: SimulateSettings) -> tuple[Image, Truth]:
    """Simulate one recording in memory.

    Parameters
    ----------
    seed, row : int
        Which recording; both labels of the same (seed, row) share all but the segment's motion.
    stalled : bool
        Whether the outlined segment is stalled.
    settings : SimulateSettings
        Size of the field; count, fraction and seed in it are not used.

    Returns
    -------
    frames : ndarray
        uint8 (T, H, W, 3) RGB, the outline drawn in.
    truth : Truth
        What is known about it.
    """
    plan = make_plan(seed, row, stalled, settings)
    grey = expose(render(plan.scene, plan.blood, plan.microscope, plan.rng), plan)
    frames = np.repeat(grey[..., None], 3, axis=3)
    frames[:, plan.scene.outline.line] = COLOUR
    return frames, plan.truth


def draw_labels(settings: SimulateSettings) -> NDArray[np.bool_]:
    """Choose which recordings are stalled: bool (count,), exactly the rounded fraction."""
    labels = np.arange(settings.count) < round(settings.count * settings.stalled)
    rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(1,)))
    return rng.permutation(labels)


def make_plan(seed: int, row: int, stalled: bool, settings: SimulateSettings) -> Plan:
    """Draw all that one recording is made of; only the segment's motion depends on `stalled`."""
    of_scene, of_blood, of_scope, of_pixels = np.random.default_rng(
        np.random.SeedSequence([seed, row])
    ).spawn(4)
    scene = draw_scene(of_scene, settings)
    microscope = draw_microscope(of_scope, scene)
    blood = draw_blood(of_blood, scene, microscope.frame_s)
    if stalled:
        blood = hold(blood, len(scene.vessels[0].line), of_blood)
    return Plan(scene, blood, microscope, _tell(scene, blood, microscope, stalled), of_pixels)


# --- scene ----------------------------------------------------------------------------------------


def draw_frame_count(rng: Rng) -> int:
    """Draw a number of frames as in the real table: quartiles 49, 56, 66, range 17..434 (FACTS 4).

    Two half-normals on the logarithm meet the quartiles; one recording in a hundred is from a deep
    stack, two to six times as long.
    """
    deviate = rng.standard_normal()
    spread = 0.198 if deviate < 0 else 0.243
    deep = rng.uniform(2, 6) if rng.random() < 0.01 else 1.0
    return int(np.clip(round(56 * math.exp(spread * deviate) * deep), 17, 434))


def draw_scene(rng: Rng, settings: SimulateSettings) -> Scene:
    """Draw the outlined segment, the vessels it joins, its neighbours and the other tissue."""
    shape = (draw_frame_count(rng), settings.height, settings.width)
    shape_kind, target, outline = _draw_target(rng, shape)
    vessels = [target, *_draw_branches(rng, target)]
    vessels += _draw_neighbours(rng, shape, target, vessels)
    return Scene(
        shape=shape,
        shape_kind=shape_kind,
        vessels=tuple(vessels),
        shafts=tuple(_draw_shafts(rng, shape, target)),
        trunks=tuple(_draw_trunks(rng, shape, outline)),
        puncta=_draw_puncta(rng, shape),
        haze=_draw_haze(rng, shape),
        outline=outline,
    )


def draw_line(rng: Rng, length_um: float, tilt: float, turn: float, dive: float) -> F64:
    """Draw a smooth curve that starts at the origin.

    Parameters
    ----------
    rng : Generator
        Source of the direction and of the bends.
    length_um : float
        Arc length.
    tilt : float
        Mean angle to the image plane in radians.
    turn, dive : float
        By how much the direction changes from end to end, in radians, in the image plane and out
        of it.

    Returns
    -------
    ndarray
        float (n, 3): x, y, z in um, n = length + 1, one point each um.
    """
    step = np.arange(max(int(length_um), 4)) / max(int(length_um), 4)
    waves = length_um / rng.uniform(30, 80, size=2)
    bend = rng.normal(0, (0.3, 0.12))[:, None] * np.sin(
        2 * math.pi * (waves[:, None] * step + rng.random((2, 1)))
    )
    heading = rng.uniform(0, 2 * math.pi) + turn * (step - 0.5) + bend[0]
    climb = tilt + dive * (step - 0.5) + bend[1]
    steps = np.stack(
        [np.cos(climb) * np.cos(heading), np.cos(climb) * np.sin(heading), np.sin(climb)], axis=1
    )
    return np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])


def draw_outline(line_um: F64, shape: tuple[int, int], dilation_px: float) -> Outline:
    """Draw the contour around a segment's projection.

    Parameters
    ----------
    line_um : ndarray
        float (n, 3): centre line; it may run out of the field.
    shape : tuple of int
        Rows and columns of the field.
    dilation_px : float
        Distance of the contour from the projected centre line.
    """
    # On a larger canvas, so that at the border the contour stays open as in the real files.
    margin = 64
    canvas = np.full((shape[0] + 2 * margin, shape[1] + 2 * margin), 255, np.uint8)
    points = np.rint(line_um[:, :2] + margin).astype(np.int32)
    cv2.polylines(canvas, [points], False, 0, 1)
    near = (cv2.distanceTransform(canvas, cv2.DIST_L2, 5) <= dilation_px).astype(np.float32)
    smooth = (cv2.GaussianBlur(near, (0, 0), 3) > 0.5).astype(np.uint8)
    contour = max(cv2.findContours(smooth, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
    interior = cv2.drawContours(np.zeros_like(canvas), [contour], -1, 1, -1)
    fine = 4
    line = cv2.polylines(
        np.zeros((canvas.shape[0] * fine, canvas.shape[1] * fine), np.uint8),
        [contour * fine + fine // 2],
        True,
        255,
        round(LINE_WIDTH_PX * fine),
    )
    line = cv2.resize(line, canvas.shape[::-1], interpolation=cv2.INTER_AREA)
    crop = (slice(margin, margin + shape[0]), slice(margin, margin + shape[1]))
    return Outline(line[crop] > 127, interior[crop].astype(bool))


def _draw_target(rng: Rng, shape: tuple[int, int, int]) -> tuple[str, Vessel, Outline]:
    """Draw segments until one fits the field, the depth and the range of outlined areas.

    Each try is flatter and shorter than the one before, so that one does fit in the end.
    """
    frames, height, width = shape
    kind = str(
        rng.choice(
            ["plane", "oblique", "end_on", "horseshoe", "arch"], p=[0.38, 0.3, 0.06, 0.16, 0.1]
        )
    )
    touches = rng.random() < 0.05  # FACTS 5: at times open at the image border
    for shrink in np.linspace(1, 0, 200):
        line = _draw_target_line(rng, kind, shrink)
        dilation = rng.uniform(10, 15)
        low, high = line.min(axis=0), line.max(axis=0)
        room = np.array([width, height]) - (high - low)[:2] - 2 * (dilation + 5)
        if (room < 0).any() or high[2] - low[2] > 0.65 * (frames - 6):
            continue
        corner = dilation + 5 + rng.random(2) * room
        if touches:
            corner[rng.integers(2)] = rng.uniform(0.2, 0.8) * dilation
        centre_z = np.clip(
            rng.normal(frames / 2, 0.06 * frames),
            3 + (high - low)[2] / 2,
            frames - 4 - (high - low)[2] / 2,
        )
        line = line - low + [*corner, centre_z - (high - low)[2] / 2]
        outline = draw_outline(line, (height, width), dilation)
        if AREA_PX[0] <= outline.interior.sum() <= AREA_PX[1]:
            return kind, Vessel(line, rng.uniform(2, 3.8), rng.uniform(0.65, 1)), outline
    raise AssertionError("the last try is a short segment in the plane, which always fits")


def _draw_target_line(rng: Rng, kind: str, shrink: float) -> F64:
    tilt, turn, dive = {
        "plane": (rng.normal(0, 0.12), rng.normal(0, 0.7), rng.normal(0, 0.2)),
        "oblique": (rng.choice([-1, 1]) * rng.uniform(0.25, 0.75), rng.normal(0, 0.7), 0.0),
        "end_on": (rng.choice([-1, 1]) * rng.uniform(0.9, 1.3), rng.normal(0, 0.5), 0.0),
        "horseshoe": (rng.normal(0, 0.3), rng.choice([-1, 1]) * rng.uniform(2.4, 4.0), 0.0),
        "arch": (
            rng.normal(0, 0.1),
            rng.normal(0, 0.7),
            rng.choice([-1, 1]) * rng.uniform(0.8, 1.6),
        ),
    }[kind]
    longest = 60 if kind == "end_on" else 100
    length = 30 + (rng.uniform(35, longest) - 30) * (0.4 + 0.6 * shrink)
    return draw_line(rng, length, tilt * shrink, turn, dive * shrink)


def _draw_branches(rng: Rng, target: Vessel) -> Iterator[Vessel]:
    """Draw two vessels at each end of the segment: a segment runs from branching to branching."""
    for end in (target.line[0], target.line[-1]):
        away = end - target.line[len(target.line) // 2]
        for _ in range(2):
            line = draw_line(rng, rng.uniform(40, 120), rng.normal(0, 0.5), rng.normal(0, 0.5), 0)
            # A branch that would run back along the segment leaves on the other side instead.
            ahead = line if np.dot(line[min(25, len(line) - 1)], away) > 0 else -line
            yield Vessel(end + ahead, rng.uniform(2, 3.8), target.brightness * rng.uniform(0.7, 1))


def _draw_neighbours(
    rng: Rng, shape: tuple[int, int, int], target: Vessel, roots: list[Vessel]
) -> list[Vessel]:
    """Fill the volume with capillaries: 1.0-2.2 m a mm3; half of them branch off another one."""
    frames, height, width = shape
    margin = np.array([25.0, 25.0, 12.0])
    extent = np.array([width, height, frames]) + 2 * margin
    wanted_um = rng.uniform(1.0e-3, 2.2e-3) * extent.prod()
    tree = cKDTree(target.line)
    vessels: list[Vessel] = []
    while wanted_um > 0:
        start = rng.random(3) * extent - margin
        if vessels and rng.random() < 0.5:
            parent = vessels[rng.integers(len(vessels))].line
            start = parent[rng.integers(len(parent))]
        tilt = math.asin(rng.uniform(-0.85, 0.85))
        line = start + draw_line(rng, rng.uniform(60, 200), tilt, rng.normal(0, 1), 0)
        wanted_um -= len(line)
        # Two capillaries are hardly ever closer than this; nearer they would look like one.
        clear = tree.query(line, distance_upper_bound=9)[0] > 9
        if clear.all():
            radius = rng.uniform(1.8, 3.8) + (rng.random() < 0.15) * rng.exponential(1)
            vessels.append(Vessel(line, radius, rng.uniform(0.4, 1)))
    return vessels


def _draw_shafts(rng: Rng, shape: tuple[int, int, int], target: Vessel) -> Iterator[Shaft]:
    _, height, width = shape
    middle = target.line[:, :2].mean(axis=0)
    for _ in range(rng.integers(0, 3)):
        centre, slope = rng.random(2) * (width, height), rng.normal(0, 0.15, 2)
        radius = rng.uniform(5, 15)
        if np.hypot(*(centre - middle)) > radius + 70:
            yield Shaft(centre, slope, radius, rng.uniform(0.7, 1.4))


def _draw_trunks(rng: Rng, shape: tuple[int, int, int], outline: Outline) -> Iterator[Trunk]:
    frames, height, width = shape
    for _ in range(rng.choice(3, p=[0.5, 0.35, 0.15])):
        # A capillary's curve enlarged: large vessels bend as much, over a longer way.
        line = max(height, width) / 65 * draw_line(rng, 100, 0, rng.normal(0, 1), 0)
        line += [*(rng.random(2) * (width, height)), 0] - line[len(line) // 2]
        radius = rng.uniform(5, 18)
        mask = np.zeros((height, width), np.uint8)
        cv2.polylines(
            mask, [np.rint(line[:, :2] * 8).astype(np.int32)], False, 255, round(2 * radius),
            cv2.LINE_AA, 3,
        )  # fmt: skip
        z = rng.uniform(-1.5 * radius, 0.25 * frames)
        if not mask[outline.interior].any():
            soft = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 1.5)
            yield Trunk(np.asarray(soft, np.float32), z, radius, rng.uniform(0.4, 1))


def _draw_puncta(rng: Rng, shape: tuple[int, int, int]) -> F64:
    """Draw bright spots (lipofuscin, cell debris) and many faint ones, the grain of tissue."""
    frames, height, width = shape
    volume = (frames + 12) * height * width
    bright = rng.poisson(volume * 10 ** rng.uniform(-5.7, -4.5))
    faint = rng.poisson(volume * 10 ** rng.uniform(-3.3, -2.6))
    place = rng.random((bright + faint, 3)) * (width, height, frames + 12) - (0, 0, 6)
    light = np.concatenate([rng.gamma(2, 0.25, bright), rng.gamma(1.5, 0.08, faint)])
    return np.column_stack([place, light])


def _draw_haze(rng: Rng, shape: tuple[int, int, int]) -> F32:
    frames, height, width = shape
    nodes = (frames // 15 + 2, height // 70 + 3, width // 70 + 3)
    return np.exp(rng.normal(0, rng.uniform(0.08, 0.25), nodes)).astype(np.float32)


# --- blood ----------------------------------------------------------------------------------------


def draw_blood(rng: Rng, scene: Scene, frame_s: float) -> Blood:
    """Draw cells and speeds for all vessels, all of them flowing.

    Speeds are log-normal around the measured median of 110 um/s (FACTS 5), 30 um/s to 2 mm/s. One
    outlined segment in ten crawls instead: 3-6 um a frame, which over the eight or so frames in
    which a point is in focus is well over the length of a cell.
    """
    count, frames = len(scene.vessels), scene.shape[0]
    kinds = rng.choice(["cells", "train", "plug"], size=count, p=[0.5, 0.25, 0.25])
    plasma = np.stack([draw_pattern(rng, str(kind)) for kind in kinds])
    # A cell fills a capillary; in a wider vessel plasma passes beside it.
    radius = np.array([vessel.radius_um for vessel in scene.vessels])
    filled = np.minimum(1, (3.8 / radius) ** 3).astype(np.float32)
    plasma = 1 - (1 - plasma) * filled[:, None]
    speed = np.clip(110 * np.exp(0.9 * rng.standard_normal(count)), 30, 2000)
    crawls = bool(rng.random() < 0.1)
    crawl = rng.uniform(3, 6) / frame_s
    if crawls:
        speed[0] = crawl
    speed *= rng.choice([-1, 1], count)
    each = speed[:, None] * np.clip(1 + 0.12 * rng.standard_normal((count, frames)), 0.5, 1.5)
    start = rng.uniform(0, 1000, (count, 1)) + np.cumsum(each, axis=1) * frame_s
    pulse = np.column_stack(
        [rng.uniform(0.1, 0.4, count), np.full(count, rng.uniform(6, 10)), rng.uniform(0, 7, count)]
    )
    return Blood(str(kinds[0]), crawls, plasma, each, start, pulse)


def hold(blood: Blood, length_um: int, rng: Rng) -> Blood:
    """Stall the outlined segment: its cells stay where they are, but for a jitter of 0.2 um.

    Parameters
    ----------
    blood : Blood
        From `draw_blood`.
    length_um : int
        Length of the segment.
    rng : Generator
        Source of the place where the cells have come to rest.
    """
    speed, start = blood.speed_um_s.copy(), blood.start_um.copy()
    speed[0] = 0
    # Cells and plasma must both be in sight: a segment evenly bright or dark shows no stall.
    for rest in rng.uniform(0, 1000, 50):
        at = np.floor((np.arange(length_um) - rest) / PATTERN_STEP_UM).astype(int)
        dark = (blood.plasma[0, at % PATTERN_LENGTH] < 0.5).mean()
        if 0.2 < dark < 0.8:
            break
    start[0] = rest + rng.normal(0, 0.2, start.shape[1])
    return replace(blood, speed_um_s=speed, start_um=start, crawls=False)


def draw_pattern(rng: Rng, kind: str) -> F32:
    """Draw the brightness along a vessel: 1 is plasma, dark where cells fill the tube.

    Cells are 4-8 um long, the tube hematocrit is 0.2-0.45 (FACTS 5).

    Parameters
    ----------
    rng : Generator
        Source of lengths and gaps.
    kind : str
        ``cells``: each by itself; ``train``: 2-6 cells packed, then plasma; ``plug``: 8-32 um of
        packed cells with 10-32 um of bright plasma between.

    Returns
    -------
    ndarray
        float32 (`PATTERN_LENGTH`,), one value for each `PATTERN_STEP_UM`.
    """
    whole_um = PATTERN_LENGTH * PATTERN_STEP_UM
    number = int(whole_um / 4)
    cells = rng.uniform(4, 8, number)
    gaps = _draw_gaps(rng, kind, number, cells.mean())
    starts = np.cumsum(cells + gaps) - cells
    place = (np.arange(PATTERN_LENGTH) + 0.5) * PATTERN_STEP_UM
    index = np.maximum(np.searchsorted(starts, place) - 1, 0)
    inside = (place >= starts[index]) & (place < (starts + cells)[index])
    dark = inside * rng.uniform(0.7, 0.95, number)[index] * rng.uniform(0.9, 1)
    smooth = cv2.GaussianBlur(
        (1 - dark).astype(np.float32)[None], (0, 0), 0.5 / PATTERN_STEP_UM,
        borderType=cv2.BORDER_REFLECT,
    )  # fmt: skip
    return np.asarray(smooth[0], dtype=np.float32)


def _draw_gaps(rng: Rng, kind: str, number: int, cell_um: float) -> F64:
    if kind == "cells":
        mean = cell_um * (1 / rng.uniform(0.2, 0.45) - 1)
        return 0.8 + rng.gamma(1.5, (mean - 0.8) / 1.5, number)
    packed = rng.uniform(0.4, 1.5, number)
    runs, plasma = ((2, 7), (5, 15)) if kind == "train" else ((2, 5), (10, 32))
    ends = np.cumsum(rng.integers(*runs, size=number))
    ends = ends[ends < number]
    packed[ends] = rng.uniform(*plasma, ends.size)
    return packed


# --- microscope -----------------------------------------------------------------------------------


def draw_microscope(rng: Rng, scene: Scene) -> Microscope:
    """Draw how the scene is scanned, detected and displayed."""
    frames, height, _ = scene.shape
    frame_s = rng.uniform(0.5, 1.0)
    return Microscope(
        frame_s=frame_s,
        # Most of a frame is scanned, the rest is fly-back and the step of the stage.
        line_s=frame_s * rng.uniform(0.8, 0.97) / height,
        psf_xy_um=rng.uniform(0.9, 1.4),
        psf_z_um=rng.uniform(1.8, 2.8),
        power=_draw_power(rng, frames),
        photons=float(np.clip(60 * math.exp(0.6 * rng.standard_normal()), 12, 150)),
        excess=rng.uniform(0.2, 0.5),
        read_noise=rng.uniform(0.1, 0.6),
        blur_px=(rng.uniform(0.7, 1.2), rng.uniform(0.5, 0.8)),
        background=rng.uniform(0.07, 0.22),
        stretch=(rng.uniform(0.2, 4), rng.uniform(98.3, 99.5)),
        offset=_draw_offset(rng, frames, height),
        wedge=_draw_wedge(rng, scene),
    )


def _draw_power(rng: Rng, frames: int) -> F64:
    """Draw brightness over depth: slow attenuation, and in some recordings steps of the laser."""
    depth = np.arange(frames)
    power = np.exp(-depth / rng.uniform(100, 600))
    for _ in range(rng.choice(3, p=[0.8, 0.15, 0.05])):
        power = power * np.where(depth >= rng.integers(frames), rng.uniform(1.2, 2.2), 1)
    return np.asarray(power / np.median(power), np.float64)


def _draw_offset(rng: Rng, frames: int, height: int) -> F32:
    """Draw what registration left of motion: whole frames, within frames, and rare bad bands."""
    whole = rng.normal(0, rng.uniform(0.1, 0.5), (frames, 1, 2))
    nodes = rng.normal(0, rng.uniform(0.1, 0.4), (frames, 9, 2)).astype(np.float32)
    within = np.stack([cv2.resize(n, (2, height), interpolation=cv2.INTER_LINEAR) for n in nodes])
    offset = whole + within
    rows = np.arange(height)
    for _ in range(rng.choice(4, p=[0.7, 0.15, 0.1, 0.05])):
        at, middle = rng.integers(frames), rng.uniform(0, height)
        bump = np.exp(-(((rows - middle) / rng.uniform(8, 50)) ** 2))
        offset[at, :, rng.integers(2)] += rng.normal(0, 18) * bump
    return np.asarray(offset, np.float32)


def _draw_wedge(rng: Rng, scene: Scene) -> NDArray[np.bool_]:
    """Draw black wedges along edges and, at times, a band across; 15 % of the field on average."""
    _, height, width = scene.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    wedge = np.zeros((height, width), bool)
    if rng.random() < 0.25:
        return wedge
    ragged = cv2.GaussianBlur(
        rng.normal(0, 5, (max(height, width), 1)).astype(np.float32), (1, 31), 3
    )
    sides = (
        (x, y / height, ragged[:height]),
        (width - 1 - x, y / height, ragged[:height]),
        (y, x / width, ragged[:width].T),
        (height - 1 - y, x / width, ragged[:width].T),
    )
    for distance, along, rag in sides:
        deep = rng.exponential(0.025) * width
        piece = distance + rag < deep * (1 + rng.uniform(-1, 1) * (2 * along - 1))
        wedge |= _clear_of(piece, scene.outline, 0.15)
    if rng.random() < 0.25:
        angle = rng.uniform(0, math.pi)
        across = (x - width / 2) * math.cos(angle) + (y - height / 2) * math.sin(angle)
        shift = rng.uniform(-0.3, 0.3) * width
        band = np.abs(across - shift) < rng.uniform(0.03, 0.08) * width
        wedge |= _clear_of(band, scene.outline, 0.0)
    return wedge


def _clear_of(piece: NDArray[np.bool_], outline: Outline, share: float) -> NDArray[np.bool_]:
    covered = piece[outline.interior].mean()
    return piece if covered <= share else np.zeros_like(piece)


# --- light ----------------------------------------------------------------------------------------


class _Elements(NamedTuple):
    """Small volumes of dye, sorted by depth; what one of them gives goes to four pixels."""

    z: F32
    arc_um: F32
    vessel: NDArray[np.int32]
    row: NDArray[np.int32]
    light: F32
    pixel: NDArray[np.int32]
    share: F32


def render(scene: Scene, blood: Blood, microscope: Microscope, rng: Rng) -> F32:
    """Compute the light that reaches each pixel, before photons are counted.

    Vessels are many small volumes of dye, each as bright as the plasma that is there when its row
    is scanned; each frame adds up those near its depth and blurs them by the lateral PSF.

    Returns
    -------
    ndarray
        float32 (T, H, W): 1 is undiluted plasma that fills the PSF, at laser power 1.
    """
    frames, height, width = scene.shape
    elements = _make_elements(scene)
    plasma = np.concatenate([blood.plasma, np.ones((1, PATTERN_LENGTH), np.float32)]).ravel()
    row_s = np.arange(height, dtype=np.float64) * microscope.line_s
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    light = np.empty((frames, height, width), np.float32)
    for frame in range(frames):
        moved = _moved_um(blood, frame, microscope.frame_s, row_s)
        sharp = _add_up(elements, frame, plasma, moved, microscope.psf_z_um, (height, width))
        image = np.asarray(cv2.GaussianBlur(sharp, (0, 0), microscope.psf_xy_um), np.float32)
        _add_large(image, scene, frame, rng)
        haze = _haze_at(scene.haze, frame / frames)
        image += microscope.background * cv2.resize(
            haze, (width, height), interpolation=cv2.INTER_CUBIC
        )
        dx, dy = microscope.offset[frame].T[:, :, None]
        light[frame] = cv2.remap(
            image, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        light[frame] *= microscope.power[frame]
    return light


def _make_elements(scene: Scene) -> _Elements:
    parts = [_fill_tube(index, vessel) for index, vessel in enumerate(scene.vessels)]
    spots = scene.puncta.copy()
    # 44 is what a point must hold to be as bright as plasma: (2 pi)^1.5 sx sy sz for 1.2, 1.2, 2.
    spots[:, 3] *= 44
    fixed = np.column_stack([spots, np.zeros(len(spots)), np.full(len(spots), len(scene.vessels))])
    table = np.concatenate([*parts, fixed])
    frames, height, width = scene.shape
    x, y, z = table[:, :3].T
    seen = (x > 0) & (y > 0) & (x < width - 1) & (y < height - 1) & (z > -9) & (z < frames + 9)
    table = table[seen]
    x, y, z, light, arc, vessel = table[np.argsort(table[:, 2], kind="stable")].T
    column, row = x.astype(np.int32), y.astype(np.int32)
    right, down = x - column, y - row
    corner = row * width + column
    pixel = np.stack([corner, corner + 1, corner + width, corner + width + 1], axis=1)
    share = np.stack(
        [(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], axis=1
    )
    return _Elements(
        z.astype(np.float32),
        arc.astype(np.float32),
        vessel.astype(np.int32),
        row,
        light.astype(np.float32),
        pixel.astype(np.int32),
        share.astype(np.float32),
    )


def _fill_tube(index: int, vessel: Vessel) -> F64:
    """Fill a tube with elements: rows of x, y, z, volume times brightness, arc length, vessel."""
    line = vessel.line
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    # Any two directions across will do: the lanes lie nearly alike however they are turned.
    helper = np.where(np.abs(along[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    side = np.cross(along, helper)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(along, side)
    lanes = _fill_disc(vessel.radius_um)
    u, v = lanes.T[:, None, :, None]
    place = line[:, None] + u * side[:, None] + v * other[:, None]
    count = len(line) * len(lanes)
    volume = math.pi * vessel.radius_um**2 / len(lanes) * vessel.brightness
    arc = np.repeat(np.arange(len(line)), len(lanes))
    return np.column_stack(
        [place.reshape(-1, 3), np.full(count, volume), arc, np.full(count, index)]
    )


def _fill_disc(radius_um: float) -> F64:
    """Spread points evenly over a cross-section, float (n, 2), n at least 7 and about radius^2 / 2.

    A sunflower's arrangement; points lie up to 2.5 um apart, which the PSF blurs into one.
    """
    count = max(7, round(0.5 * radius_um**2))
    index = np.arange(count)
    radius = radius_um * np.sqrt((index + 0.5) / count)
    angle = GOLDEN_ANGLE * index
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _moved_um(blood: Blood, frame: int, frame_s: float, row_s: F64) -> F32:
    """How far cells have moved when each row is scanned: float32 (vessels + 1, rows)."""
    # The pulse and the pattern repeat: what is left of them fits 32 bits, which are twice as fast.
    amplitude, hertz, phase = blood.pulse.T
    omega = 2 * math.pi * hertz
    angle = (omega * frame * frame_s + phase) % (2 * math.pi)
    start = blood.start_um[:, frame] % (PATTERN_LENGTH * PATTERN_STEP_UM)
    columns = np.stack([amplitude / omega, omega, angle, start, blood.speed_um_s[:, frame]])
    swing, rate, angle, start, speed = columns.astype(np.float32)[:, :, None]
    time = row_s.astype(np.float32)
    # The last row is for spots, which do not move.
    moved = np.zeros((len(start) + 1, time.size), np.float32)
    moved[:-1] = start + speed * (time + swing * np.sin(rate * time + angle))
    return moved


def _add_up(
    elements: _Elements, frame: int, plasma: F32, moved: F32, sigma: float, shape: tuple[int, int]
) -> F32:
    reach = REACH_SIGMAS * sigma
    near = slice(*np.searchsorted(elements.z, (frame - reach, frame + reach)))
    vessel = elements.vessel[near]
    at = elements.arc_um[near] - moved[vessel, elements.row[near]]
    index = np.floor(at / np.float32(PATTERN_STEP_UM)).astype(np.int32) & (PATTERN_LENGTH - 1)
    focus = np.exp(-0.5 * ((elements.z[near] - frame) / sigma) ** 2)
    light = elements.light[near] * focus * plasma[vessel * PATTERN_LENGTH + index]
    light /= np.float32(sigma * math.sqrt(2 * math.pi))
    flat = np.bincount(
        elements.pixel[near].ravel(),
        (elements.share[near] * light[:, None]).ravel(),
        minlength=shape[0] * shape[1],
    )
    return flat.reshape(shape).astype(np.float32)


def _add_large(image: F32, scene: Scene, frame: int, rng: Rng) -> None:
    """Add the large vessels, streaked by blood that is faster than the rows are scanned."""
    height, width = image.shape
    streaks = rng.standard_normal((height, width // 16 + 1), dtype=np.float32)
    texture = 1 + 0.15 * cv2.resize(streaks, (width, height), interpolation=cv2.INTER_LINEAR)
    for trunk in scene.trunks:
        nearness = math.exp(-0.5 * ((frame - trunk.z_um) / (0.6 * trunk.radius_um + 2)) ** 2)
        if nearness > 0.01:
            image += trunk.mask * texture * (trunk.brightness * nearness)
    for shaft in scene.shafts:
        x, y = shaft.centre + shaft.slope * frame
        reach = int(shaft.radius_um + 4)
        rows = slice(max(int(y) - reach, 0), max(int(y) + reach + 1, 0))
        columns = slice(max(int(x) - reach, 0), max(int(x) + reach + 1, 0))
        part = image[rows, columns]
        down = (np.arange(part.shape[0], dtype=np.float32) + rows.start - y)[:, None]
        right = (np.arange(part.shape[1], dtype=np.float32) + columns.start - x)[None]
        inside = np.clip((shaft.radius_um - np.hypot(down, right)) / 3 + 0.5, 0, 1)
        part += inside * texture[rows, columns] * shaft.brightness


def _haze_at(haze: F32, depth: float) -> F32:
    """Interpolate the coarse haze at a relative depth of 0..1."""
    place = depth * (len(haze) - 1)
    index = min(int(place), len(haze) - 2)
    part = place - index
    return np.asarray(haze[index] * (1 - part) + haze[index + 1] * part, dtype=np.float32)


# --- photons and display --------------------------------------------------------------------------


def expose(light: F32, plan: Plan) -> Image:
    """Count photons and stretch the contrast for display.

    Parameters
    ----------
    light : ndarray
        float32 (T, H, W) from `render`; it is overwritten.
    plan : Plan
        The microscope and the generator of the noise.

    Returns
    -------
    ndarray
        uint8 (T, H, W) grey.
    """
    microscope, rng = plan.microscope, plan.rng
    levels, samples = 256, 2048
    top = microscope.photons * 3
    # Poisson numbers are looked up in a table drawn for this recording, by the square root of the
    # mean (the noise is even there): some ten times faster than drawing one for each pixel.
    means = (np.arange(levels) / (levels - 1)) ** 2 * top
    counts = rng.poisson(means[:, None], (levels, samples)).astype(np.float32)
    # The gains of single photons and the detector's noise add up to one normal deviate.
    spread = np.sqrt(np.float32(microscope.excess**2) * counts + microscope.read_noise**2)
    counts += spread * rng.standard_normal(counts.shape, dtype=np.float32)
    table = counts.ravel()
    along_x, along_y = microscope.blur_px
    for image in light:
        level = np.sqrt(np.clip(image, 0, 3) * np.float32((levels - 1) ** 2 / 3)).astype(np.int32)
        level *= samples
        level += rng.integers(0, samples, image.shape, dtype=np.uint16)
        image[:] = cv2.GaussianBlur(table[level], (5, 5), along_x, sigmaY=along_y)
    return _stretch(light, microscope)


def _stretch(photons: F32, microscope: Microscope) -> Image:
    seen = photons[::5, ::3, ::3][:, ~microscope.wedge[::3, ::3]]
    black, white = np.percentile(seen, microscope.stretch)
    photons -= black
    photons *= 243 / max(white - black, 1e-6)
    np.clip(photons, 0, 255, out=photons)
    grey = photons.astype(np.uint8)
    grey[:, microscope.wedge] = 0
    return grey


# --- truth, tables, files -------------------------------------------------------------------------


def _tell(scene: Scene, blood: Blood, microscope: Microscope, stalled: bool) -> Truth:
    target = scene.vessels[0]
    half = 1.18 * math.hypot(microscope.psf_z_um, target.radius_um / 2)
    depth = np.arange(scene.shape[0])
    seen = np.abs(depth[:, None] - target.line[None, :, 2]).min(axis=1) <= half
    in_focus = np.flatnonzero(seen)
    motion = "stall" if stalled else "crawl" if blood.crawls else "flow"
    return Truth(
        stalled=stalled,
        kind=f"{motion}-{blood.kind}",
        shape=scene.shape_kind,
        speed_um_s=float(np.abs(blood.speed_um_s[0]).mean()),
        first_in_focus=int(in_focus[0]),
        last_in_focus=int(in_focus[-1]),
        frames_in_focus=int(in_focus.size),
        frames=scene.shape[0],
        frame_s=microscope.frame_s,
        line_s=microscope.line_s,
        line_um=target.line,
        offset_px=microscope.offset,
    )


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
    # Spawned, not forked: a fork of a process that has run OpenCV or torch threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _begin_worker) as pool:
        yield from pool.map(task, items, chunksize=1)


def _begin_worker() -> None:
    cv2.setNumThreads(1)


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
    """Draw what the crowd says, 0..1: of the flowing, 94 % have exactly 0 (FACTS 4, tier1)."""
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
