"""What lies in the field: the outlined segment, its neighbours and the other tissue, in um."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stallscan.simulate.settings import SimulateSettings

COLOUR = (255, 102, 0)  # FACTS 5
LINE_WIDTH_PX = 2.5  # FACTS 5
AREA_PX = (1150, 6400)  # FACTS 5: what an outline encloses

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
Image = NDArray[np.uint8]
Rng = np.random.Generator


@dataclass(frozen=True)
class Vessel:
    """A tube around a centre line.

    Attributes
    ----------
    line : ndarray
        float64 (n, 3): x, y, z in um, about one point each um.
    radius_um : float
        Radius, 1.8 um and up.
    brightness : float
        Of its plasma, 0..1.
    """

    line: F64
    radius_um: float
    brightness: float


@dataclass(frozen=True)
class Shaft:
    """A large vessel that runs down through the field.

    Attributes
    ----------
    centre : ndarray
        float64 (2,): x and y in um in the first frame.
    slope : ndarray
        float64 (2,): by how many um it drifts in x and y for each um of depth.
    radius_um : float
        Radius, 5..15 um.
    brightness : float
        Relative to capillary plasma, 0.7..1.4.
    """

    centre: F64
    slope: F64
    radius_um: float
    brightness: float


@dataclass(frozen=True)
class Trunk:
    """A large vessel that lies in the plane.

    Attributes
    ----------
    mask : ndarray
        float32 (H, W): its picture, 0 outside to 1 inside, soft at the edge.
    z_um : float
        Depth of its axis; it may lie above the first frame.
    radius_um : float
        Radius, 5..18 um.
    brightness : float
        Relative to capillary plasma, 0.4..1.
    """

    mask: F32
    z_um: float
    radius_um: float
    brightness: float


@dataclass(frozen=True)
class Outline:
    """The drawn contour.

    Attributes
    ----------
    line : ndarray
        bool (H, W): pixels of the line.
    interior : ndarray
        bool (H, W): what the contour encloses, half of its line included.
    """

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
    vessels : tuple of Vessel
        The outlined segment, the four it joins, and its neighbours.
    shafts : tuple of Shaft
        Large vessels running down, at most two.
    trunks : tuple of Trunk
        Large vessels in the plane, at most two.
    puncta : ndarray
        float64 (n, 4): x, y, z in um and brightness of bright spots.
    haze : ndarray
        float32 (a, b, c), around 1: coarse brightness of what is out of focus, over depth, rows,
        columns.
    outline : Outline
        The contour drawn around the segment.
    """

    shape: tuple[int, int, int]
    shape_kind: str
    vessels: tuple[Vessel, ...]
    shafts: tuple[Shaft, ...]
    trunks: tuple[Trunk, ...]
    puncta: F64
    haze: F32
    outline: Outline


def draw_frame_count(rng: Rng) -> int:
    """Draw a number of frames as in the real table: quartiles 49, 56, 66, range 17..434 (FACTS 4).

    Two half-normals on the logarithm meet the quartiles; one recording in a hundred is from a deep
    stack, two to six times as long.

    Parameters
    ----------
    rng : Generator
        Source of the number.

    Returns
    -------
    int
        Frames, 17..434.
    """
    deviate = rng.standard_normal()
    spread = 0.198 if deviate < 0 else 0.243
    deep = rng.uniform(2, 6) if rng.random() < 0.01 else 1.0
    return int(np.clip(round(56 * math.exp(spread * deviate) * deep), 17, 434))


def draw_scene(rng: Rng, settings: SimulateSettings) -> Scene:
    """Draw the outlined segment, the vessels it joins, its neighbours and the other tissue.

    Parameters
    ----------
    rng : Generator
        Source of everything drawn.
    settings : SimulateSettings
        Size of the field; nothing else in it is used.

    Returns
    -------
    Scene
        It is `draw_frame_count` frames deep, 1 um each.
    """
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
        Arc length; whole um count, and at least 4.
    tilt : float
        Mean angle to the image plane in radians.
    turn, dive : float
        By how much the direction changes from end to end, in radians, in the image plane and out
        of it.

    Returns
    -------
    ndarray
        float64 (n, 3): x, y, z in um, n = length + 1, one point each um.
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
        float64 (n, 3): centre line as x, y, z in um; it may run out of the field.
    shape : tuple of int
        Rows and columns of the field.
    dilation_px : float
        Distance of the contour from the projected centre line.

    Returns
    -------
    Outline
        Cut off at the border of the field, where its line stays open.
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
