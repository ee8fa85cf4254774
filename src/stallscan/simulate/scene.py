"""The scene: the outlined segment, the network around it, and other tissue."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stallscan.errors import InputError
from stallscan.simulate.contour import LINE_WIDTH_PX, Outline, draw_outline
from stallscan.simulate.network import Network, grow
from stallscan.simulate.projects import Project, draw_frame_count
from stallscan.simulate.settings import SimulateSettings
from stallscan.vessels import labels
from stallscan.vessels.lines import cut, resample

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
Image = NDArray[np.uint8]
Rng = np.random.Generator

# Probabilities of the shapes of an outlined segment; chosen to match the real recordings
# (docs/facts.md 5).
SHAPES = {
    "plane": 0.42,
    "oblique": 0.22,
    "horseshoe": 0.18,
    "arch": 0.12,
    "end_on": 0.04,
    "large": 0.02,
}
# A further shape: directions in space are equally likely, but for those near the image plane and
# those across it, so the sine of their angle to it is uniform.
STEEP, STEEP_SINE = "steep", (0.3, 0.9)
# Share of the frames, but for those at the ends, that a segment may pass through (chosen).
DEPTH, STEEP_DEPTH = 0.65, 0.95
# docs/facts.md 5: capillaries are 4-8 px wide
CAPILLARY_RADIUS_UM = (2.1, 4.0)
LARGE_RADIUS_UM = 6.0  # chosen: wider vessels carry many cells abreast
WIDE_BRIGHTNESS = (0.5, 1.4)  # chosen: of large vessels and of those that cross a region
# Of a wide vessel that crosses the outlined region, and between its wall and the centre line of the
# segment where they cross. Chosen: in real recordings such vessels come into focus after it.
CROSSING_RADIUS_UM, CROSSING_GAP_UM = (4.0, 15.0), (4.0, 25.0)
# Vessel length density; 1e-3 um per um3 is 1 m per mm3. Chosen around the 0.9 m per mm3 that
# Blinder et al. 2013 find in the cortex.
LENGTH_UM3 = (0.8e-3, 1.7e-3)
# Distance of the outline from the centre line; chosen so that enclosed areas match real ones.
DILATION_PX = (7.5, 28.0)
# Margin around the field (x, y, z) for vessels that reach into it.
MARGIN_UM = np.array([35.0, 35.0, 25.0])


@dataclass(frozen=True)
class Vessel:
    """A tube around a centre line.

    Attributes
    ----------
    line : ndarray
        float64 (n, 3): x, y, z in um, points 1 um apart (2 um in large vessels).
    radius_um : ndarray
        float64 (n,): radius, 1.5..30.
    brightness : float
        Brightness of its plasma, 0.2..1.4; 1 is typical.
    """

    line: F64
    radius_um: F64
    brightness: float


@dataclass(frozen=True)
class Scene:
    """The contents of the field; `vessels[0]` is the outlined segment.

    Attributes
    ----------
    shape : tuple of int
        Frames, rows, columns.
    um_per_px, step_um : float
        Size of a pixel, and depth between frames.
    shape_kind : str
        Shape of the outlined segment: a key of `SHAPES`.
    vessels : tuple of Vessel
        The outlined segment, then all others.
    puncta : ndarray
        float64 (n, 4): x, y, z in um and brightness of bright spots.
    haze : ndarray
        float32 (a, b, c), around 1: brightness of out-of-focus tissue on a coarse grid over depth,
        rows and columns.
    outline : Outline
        The contour drawn around the segment.
    """

    shape: tuple[int, int, int]
    um_per_px: float
    step_um: float
    shape_kind: str
    vessels: tuple[Vessel, ...]
    puncta: F64
    haze: F32
    outline: Outline


def draw_scene(
    rng: Rng,
    settings: SimulateSettings,
    project: Project,
    stalled: bool,
    frames: int | None = None,
    steep: float = 0.0,
    crossed: float = 0.0,
) -> Scene:
    """Draw the outlined segment, the network around it, and other tissue.

    Parameters
    ----------
    rng : Generator
        Random source.
    settings : SimulateSettings
        Size of the field, and the label stack, if any.
    project : Project
        Pixel size, depth of a step, distribution of the number of frames.
    stalled : bool
        A stalled segment is never a large vessel, because those do not stall. Nothing else depends
        on it.
    frames : int, optional
        Number of frames; by default, drawn for the project.
    steep : float
        Share of segments of the shape ``steep``, 0..1, in place of the `SHAPES`.
    crossed : float
        Share of outlined regions that a wide vessel crosses above or below the segment, 0..1.
    """
    frames = draw_frame_count(rng, project) if frames is None else frames
    shape = (frames, settings.height, settings.width)
    pixel, step = project.um_per_px, project.step_um
    extent = np.array([shape[2] * pixel, shape[1] * pixel, frames * step])
    shares = {name: share * (1 - steep) for name, share in SHAPES.items()} | {STEEP: steep}
    kind = str(rng.choice(list(shares), p=list(shares.values())))
    if stalled and kind == "large":
        kind = "plane"
    if settings.label_stack:
        kind, vessels, outline = _from_labels(rng, settings, project, extent)
    else:
        vessels, outline = _draw_vessels(rng, kind, shape, project, extent)
    if crossed and rng.random() < crossed:
        vessels += _draw_crossing(rng, vessels[0].line, outline, pixel, extent)
    return Scene(
        shape=shape,
        um_per_px=pixel,
        step_um=step,
        shape_kind=kind,
        vessels=tuple(vessels),
        puncta=_draw_puncta(rng, extent),
        haze=_draw_haze(rng, shape),
        outline=outline,
    )


def draw_line(rng: Rng, length_um: float, tilt: float, turn: float, dive: float) -> F64:
    """Draw a smooth random curve that starts at the origin.

    Parameters
    ----------
    rng : Generator
        Random source.
    length_um : float
        Arc length, rounded down to whole um, at least 4.
    tilt : float
        Mean angle to the image plane in radians.
    turn, dive : float
        Change of direction from end to end in radians, in the image plane and out of it.

    Returns
    -------
    ndarray
        float64 (length + 1, 3): x, y, z in um, a point per um.
    """
    step = np.arange(max(int(length_um), 4)) / max(int(length_um), 4)
    waves = length_um / rng.uniform(30, 80, size=2)
    bend = rng.normal(0, (0.35, 0.12))[:, None] * np.sin(
        2 * math.pi * (waves[:, None] * step + rng.random((2, 1)))
    )
    heading = rng.uniform(0, 2 * math.pi) + turn * (step - 0.5) + bend[0]
    climb = tilt + dive * (step - 0.5) + bend[1]
    # (n, 3) steps of 1 um
    steps = np.stack(
        [np.cos(climb) * np.cos(heading), np.cos(climb) * np.sin(heading), np.sin(climb)], axis=1
    )
    return np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])


def _draw_target(
    rng: Rng, kind: str, shape: tuple[int, int, int], project: Project
) -> tuple[F64, Outline]:
    """Draw segments until one fits the field, the depth and the range of outlined areas.

    Each attempt is flatter and shorter than the last, so that one eventually fits.
    """
    frames, height, width = shape
    touches = rng.random() < 0.05  # docs/facts.md 5: some outlines are open at the image border
    for shrink in np.linspace(1, 0, 100):
        size = math.exp(0.43 * rng.standard_normal())
        line = _draw_target_line(rng, kind, size, shrink)
        dilation = _draw_dilation(rng, size)
        low, high = line.min(axis=0), line.max(axis=0)
        depth = (high[2] - low[2]) / project.step_um
        room = np.array([width, height]) - (high - low)[:2] / project.um_per_px
        room -= 2 * (dilation + 5)
        filled = STEEP_DEPTH if kind == STEEP else DEPTH
        if (room < 0).any() or depth > filled * (frames - 6):
            continue
        corner = dilation + 5 + rng.random(2) * room
        if touches:
            corner[rng.integers(2)] = rng.uniform(0.2, 0.8) * dilation
        middle = float(
            np.clip(rng.normal(frames / 2, 0.06 * frames), 3 + depth / 2, frames - 4 - depth / 2)
        )
        line = line - low
        line[:, :2] += corner * project.um_per_px
        line[:, 2] += (middle - depth / 2) * project.step_um
        outline = draw_outline(
            line[:, :2] / project.um_per_px, (height, width), dilation, rng.uniform(*LINE_WIDTH_PX)
        )
        if outline.has_real_size:
            return line, outline
    raise AssertionError("the last attempt is a short segment in the plane, which always fits")


def _draw_dilation(rng: Rng, size: float = 1.0) -> float:
    """Draw the distance of the outline from the segment in px; it grows with the segment."""
    return float(np.clip(13 * size * math.exp(0.15 * rng.standard_normal()), *DILATION_PX))


def _draw_target_line(rng: Rng, kind: str, size: float, shrink: float) -> F64:
    if kind == STEEP:  # apart: a look without it leaves the draws of the others as they are
        angle = math.asin(rng.uniform(*STEEP_SINE))
        tilt, turn, dive = rng.choice([-1, 1]) * angle, rng.normal(0, 0.7), 0.0
    else:
        tilt, turn, dive = {
            "plane": (rng.normal(0, 0.04), rng.normal(0, 0.7), rng.normal(0, 0.05)),
            "oblique": (rng.choice([-1, 1]) * rng.uniform(0.15, 0.5), rng.normal(0, 0.7), 0.0),
            "end_on": (rng.choice([-1, 1]) * rng.uniform(0.9, 1.3), rng.normal(0, 0.5), 0.0),
            "horseshoe": (rng.normal(0, 0.3), rng.choice([-1, 1]) * rng.uniform(2.4, 4.4), 0.0),
            "arch": (
                rng.normal(0, 0.1),
                rng.normal(0, 0.7),
                rng.choice([-1, 1]) * rng.uniform(0.8, 1.6),
            ),
            "large": (rng.normal(0, 0.05), rng.normal(0, 0.2), 0.0),
        }[kind]
    longest = {"end_on": 60, "large": 45}.get(kind, 200)
    wanted = float(np.clip(54 * size * math.exp(0.5 * rng.standard_normal()), 22, longest))
    length = 30 + (wanted - 30) * (0.4 + 0.6 * shrink)
    return draw_line(rng, length, tilt * shrink, turn, dive * shrink)


def _draw_vessels(
    rng: Rng, kind: str, shape: tuple[int, int, int], project: Project, extent: F64
) -> tuple[list[Vessel], Outline]:
    """Draw the outlined segment, the network around it, and large vessels."""
    line, outline = _draw_target(rng, kind, shape, project)
    others = list(_draw_network(rng, line, extent))
    radius = rng.uniform(10, 22) if kind == "large" else rng.uniform(*CAPILLARY_RADIUS_UM)
    target = Vessel(line, radius * _vary(rng, len(line)), rng.uniform(0.5, 1))
    if kind == "large":
        others += _continue(rng, target)
    others += _draw_large(rng, extent, outline, project.um_per_px)
    return [target, *others], outline


def _draw_network(rng: Rng, segment: F64, extent: F64) -> Iterator[Vessel]:
    length = rng.uniform(*LENGTH_UM3)
    network = grow(rng, segment, -MARGIN_UM, extent + MARGIN_UM, length)
    return _make_vessels(rng, network, extent)


def _make_vessels(rng: Rng, network: Network, extent: F64) -> Iterator[Vessel]:
    """Draw a radius and a brightness for each edge; leave out edges outside the field."""
    count = len(network.points)
    radius = rng.uniform(*CAPILLARY_RADIUS_UM, count)
    # Arterioles and venules: runs of wider edges.
    for _ in range(rng.poisson(2.5)):
        run = _draw_run(rng, network.nodes)
        radius[run] = rng.uniform(3.8, 6.5)
    light = rng.uniform(0.5, 1, count) * rng.choice([1, 0.5], count, p=[0.8, 0.2])
    low, high = network.points.min(axis=1), network.points.max(axis=1)
    seen = np.flatnonzero(((high > -5) & (low < extent + 5)).all(axis=1))
    if not seen.size:
        return
    lines = resample(network.points[seen])
    sizes = np.array([len(line) for line in lines])
    wide = np.maximum(np.repeat(radius[seen], sizes) * _vary(rng, int(sizes.sum())), 1.5)
    radii = cut(wide, sizes)
    yield from map(Vessel, lines, radii, light[seen].tolist())


def _draw_run(rng: Rng, nodes: NDArray[np.int64]) -> list[int]:
    """Walk along up to six edges from a random edge; stop at the segment."""
    if not len(nodes):
        return []
    edge = int(rng.integers(len(nodes)))
    run = [edge]
    node = int(nodes[edge, 1])
    for _ in range(rng.integers(1, 6)):
        ways = [int(way) for way in np.flatnonzero((nodes == node).any(axis=1)) if way not in run]
        if not ways or node < 2:
            break
        edge = int(rng.choice(ways))
        node = int(nodes[edge].sum()) - node
        run.append(edge)
    return run


def _vary(rng: Rng, count: int) -> F64:
    """Draw factors (points,) by which a radius varies along a vessel, about 12 % (chosen)."""
    knots = np.exp(rng.normal(0, 0.12, count // 12 + 3))
    return np.interp(np.arange(count) / 12, np.arange(len(knots)), knots)


def _continue(rng: Rng, target: Vessel) -> Iterator[Vessel]:
    """Extend a large vessel beyond both ends of its outlined piece."""
    for ends in (target.line, target.line[::-1]):
        ahead = ends[0] - ends[min(8, len(ends) - 1)]
        ahead /= np.linalg.norm(ahead)
        line = ends[0] + np.arange(0, 500, 2.0)[:, None] * ahead
        line[:, :2] += np.cumsum(np.cumsum(rng.normal(0, 0.003, (250, 2)), axis=0), axis=0)
        radius = float(target.radius_um[0 if ends is target.line else -1])
        yield Vessel(line, np.full(len(line), radius), target.brightness)


def _draw_large(rng: Rng, extent: F64, outline: Outline, um_per_px: float) -> Iterator[Vessel]:
    """Draw large vessels: some in the plane near the surface, some descending (docs/facts.md 5)."""
    rows, columns = np.nonzero(outline.interior)
    outlined = cKDTree(np.column_stack([columns, rows])[::7] * um_per_px)
    for _ in range(rng.choice(3, p=[0.5, 0.35, 0.15])):
        radius = rng.uniform(7, 25)
        line = _draw_wide_line(rng, extent, 0, rng.normal(0, 1))
        line += [*(rng.random(2) * extent[:2]), 0] - line[len(line) // 2]
        line[:, 2] = rng.uniform(-1.2 * radius, 0.3 * float(extent[2]))
        yield from _if_clear(rng, resample(line[None], 2.0)[0], radius, outlined)
    for _ in range(rng.choice(4, p=[0.2, 0.4, 0.3, 0.1])):
        depth = np.arange(-20, extent[2] + 20, 2.0)[:, None]
        slope = np.concatenate([rng.normal(0, 0.12, 2), [1.0]])
        wander = np.cumsum(np.cumsum(rng.normal(0, 0.01, (len(depth), 3)), axis=0), axis=0)
        line = np.concatenate([rng.random(2) * extent[:2], [0.0]]) + slope * depth + wander
        yield from _if_clear(rng, line, rng.uniform(5, 15), outlined)


def _if_clear(rng: Rng, line: F64, radius_um: float, outlined: cKDTree) -> Iterator[Vessel]:
    """Yield a large vessel unless it would hide the outlined region."""
    brightness = rng.uniform(*WIDE_BRIGHTNESS)
    if outlined.query(line[:, :2])[0].min() > radius_um + 2:
        yield Vessel(line, _vary_wide(rng, radius_um, len(line)), brightness)


def _draw_wide_line(rng: Rng, extent: F64, tilt: float, turn: float) -> F64:
    """Draw an enlarged capillary curve: wide vessels bend as much over a longer distance."""
    return float(extent[:2].max()) / 45 * draw_line(rng, 100, tilt, turn, 0)


def _vary_wide(rng: Rng, radius_um: float, count: int) -> F64:
    """Draw the radius (points,) along a wide vessel, which varies less than that of others."""
    return radius_um * _vary(rng, count) ** 0.4


def _draw_crossing(
    rng: Rng, segment: F64, outline: Outline, um_per_px: float, extent: F64
) -> Iterator[Vessel]:
    """Draw a wide vessel across the outlined region, out of focus where the segment is in focus."""
    rows, columns = np.nonzero(outline.interior)
    for _ in range(20):  # in a thin recording there may be no room: then there is none
        radius = math.exp(rng.uniform(*np.log(CROSSING_RADIUS_UM)))
        pixel = rng.integers(len(rows))
        place = np.array([columns[pixel], rows[pixel]]) * um_per_px
        beside = int(np.hypot(*(segment[:, :2] - place).T).argmin())
        away = rng.choice([-1, 1]) * (radius + rng.uniform(*CROSSING_GAP_UM))
        depth = float(segment[beside, 2]) + away
        if not 0 < depth < extent[2]:
            continue
        tilt, turn = rng.normal(0, (0.2, 0.7))
        line = _draw_wide_line(rng, extent, tilt, turn)
        line += np.array([*place, depth]) - line[len(line) // 2]
        line = resample(line[None], 2.0)[0]
        if cKDTree(line).query(segment)[0].min() < radius + CROSSING_GAP_UM[0]:
            continue
        radii = _vary_wide(rng, radius, len(line))
        yield Vessel(line, radii, rng.uniform(*WIDE_BRIGHTNESS))
        return


def _from_labels(
    rng: Rng, settings: SimulateSettings, project: Project, extent: F64
) -> tuple[str, list[Vessel], Outline]:
    """Take the vessels from a label stack, and outline a capillary that fits."""
    whole = _read_labels(settings.label_stack, settings.label_um)
    shape = (settings.height, settings.width)
    for _ in range(20):
        network = labels.place(whole, rng, (float(extent[0]), float(extent[1]), float(extent[2])))
        for index in rng.permutation(len(network.segments)):
            segment = network.segments[index]
            low, high = segment.line.min(axis=0), segment.line.max(axis=0)
            if (low[:2] < 0).any() or (high[:2] > extent[:2]).any():
                continue
            if high[2] - low[2] > 0.65 * extent[2] or segment.radius_um.mean() > LARGE_RADIUS_UM:
                continue
            dilation = _draw_dilation(rng)
            outline = draw_outline(
                segment.line[:, :2] / project.um_per_px,
                shape,
                dilation,
                rng.uniform(*LINE_WIDTH_PX),
            )
            if not outline.has_real_size:
                continue
            # The stack may be thicker than the recording: shift it so that the segment is centred.
            lift = [0.0, 0.0, float(extent[2] - low[2] - high[2]) / 2]
            others = [each for at, each in enumerate(network.segments) if at != index]
            vessels = [
                Vessel(each.line + lift, each.radius_um, rng.uniform(0.5, 1))
                for each in (segment, *others)
            ]
            return _name_shape(segment.line), vessels, outline
    raise InputError(
        f"{settings.label_stack}: none of its capillaries fits a recording of {shape[1]} x "
        f"{shape[0]} px. Check the voxel size, --label-um"
    )


@functools.cache
def _read_labels(path: str, um_per_voxel: tuple[float, float, float]) -> labels.Network:
    return labels.read_network(Path(path), um_per_voxel)


def _name_shape(line: F64) -> str:
    """Return the shape of a segment by its chord: end_on above 50 degrees, oblique above 15."""
    chord = line[-1] - line[0]
    tilt = math.degrees(math.atan2(abs(chord[2]), float(np.hypot(chord[0], chord[1]))))
    if np.linalg.norm(chord) < 0.6 * len(line):
        return "horseshoe"
    return "end_on" if tilt > 50 else "oblique" if tilt > 15 else "plane"


def _draw_puncta(rng: Rng, extent: F64) -> F64:
    """Draw bright spots (lipofuscin, debris) and many faint ones, the grain of tissue: (n, 4)."""
    box = extent + np.array([0, 0, 12])
    volume = float(box.prod())
    bright = rng.poisson(volume * 10 ** rng.uniform(-6, -4.8))
    faint = rng.poisson(volume * 10 ** rng.uniform(-4.2, -2.9))
    centre = rng.random((bright + faint, 3)) * box - (0, 0, 6)
    light = np.concatenate([rng.gamma(1.2, 0.5, bright), rng.gamma(1.5, 0.1, faint)])
    # Bright spots have various sizes: clusters of up to six points.
    size = np.concatenate([rng.integers(1, 7, bright), np.ones(faint, int)])
    place = np.repeat(centre, size, axis=0)
    spread = np.where(np.repeat(size, size)[:, None] > 1, rng.normal(0, 1.1, place.shape), 0)
    return np.column_stack([place + spread, np.repeat(light / size**0.6, size)])


def _draw_haze(rng: Rng, shape: tuple[int, int, int]) -> F32:
    frames, height, width = shape
    nodes = (frames // 15 + 2, height // 70 + 3, width // 70 + 3)
    return np.exp(rng.normal(0, rng.uniform(0.05, 0.18), nodes)).astype(np.float32)
