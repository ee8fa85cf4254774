"""Rendering of frames: the light that reaches the detector."""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.simulate.blood import PATTERN_LENGTH, PATTERN_STEP_UM, Blood
from stallscan.simulate.microscope import Microscope
from stallscan.simulate.scene import F32, F64, LARGE_RADIUS_UM, Scene

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
REACH_SIGMAS = 3.0
# Margin rendered around a window, for motion that shifts it into view.
PAD_PX = 14
# Maximum number of (element, frame) pairs processed at once: about 100 MB of temporary arrays.
PAIRS_AT_ONCE = 600_000
# Light scattered around a large vessel: out to this many radii, and its share; chosen.
HALO_RADII, HALO_SHARE = 1.7, 0.12


class Window(NamedTuple):
    """A part of the field; the slices have start and stop inside the field."""

    rows: slice
    columns: slice


class _Elements(NamedTuple):
    """Small volumes of dye, each field (n,), sorted by depth."""

    x: F32  # px of the padded window
    y: F32
    z: F32  # um
    arc_um: F32  # along the centre line of the vessel
    swift: F32  # speed relative to the mean of the vessel
    light: F32  # volume times brightness
    vessel: NDArray[np.int32]


def whole_field(scene: Scene) -> Window:
    """Return the window of the whole field."""
    return Window(slice(0, scene.shape[1]), slice(0, scene.shape[2]))


def render(scene: Scene, blood: Blood, microscope: Microscope, window: Window) -> F32:
    """Compute the light that reaches each pixel of a window, before photon noise.

    Vessels are sampled by many small volumes of dye. The brightness of each depends on the cells
    that are there when its row is scanned. A frame sums the volumes near its depth and blurs them
    with the lateral PSF.

    Returns
    -------
    ndarray
        float32 (T, h, w), at least 0; 1 is undiluted plasma that fills the PSF at laser power 1.
    """
    frames = scene.shape[0]
    height = window.rows.stop - window.rows.start
    width = window.columns.stop - window.columns.start
    elements = _make_elements(scene, microscope, window)
    haze = _spread_haze(scene, microscope.background, window)
    x, y = np.meshgrid(
        np.arange(width, dtype=np.float32) + PAD_PX, np.arange(height, dtype=np.float32) + PAD_PX
    )
    sigma_px = microscope.psf_xy_um / scene.um_per_px
    light = np.empty((frames, height, width), np.float32)
    for some, sharp in _add_up(elements, scene, blood, microscope, window):
        for frame, image in zip(some, sharp, strict=True):
            image = cv2.GaussianBlur(image, (0, 0), sigma_px)
            place = frame / frames * (len(haze) - 1)
            node, part = int(place), place % 1
            image += np.float32(1 - part) * haze[node]
            image += np.float32(part) * haze[node + 1]
            shift = microscope.offset[frame, window.rows]
            light[frame] = cv2.remap(
                image,
                x + shift[:, :1],
                y + shift[:, 1:],
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REFLECT_101,
            )
            light[frame] *= microscope.power[frame]
    return light


class _Tubes(NamedTuple):
    """The points of all centre lines, concatenated."""

    line: F64  # (n, 3), um
    along: F64  # (n, 3): unit tangents
    length: F64  # (n,): length of the tube that a point represents, um
    arc: F64  # (n,): arc length from the start of the vessel, um
    radius: F64  # (n,), um
    brightness: F64  # (n,)
    vessel: NDArray[np.int64]  # (n,)
    lanes: NDArray[np.int64]  # (n,): number of lanes in the vessel, negative in large vessels

    @classmethod
    def of(cls, scene: Scene) -> "_Tubes":
        sizes = np.array([len(vessel.line) for vessel in scene.vessels])
        if not sizes.size:
            return cls(*(np.zeros((0, 3)),) * 2, *(np.zeros(0),) * 4, *(np.zeros(0, int),) * 2)
        first = np.cumsum(sizes) - sizes
        vessel = np.repeat(np.arange(len(sizes)), sizes)
        line = np.concatenate([vessel.line for vessel in scene.vessels])
        radius = np.concatenate([vessel.radius_um for vessel in scene.vessels])
        steps = np.diff(line, axis=0, append=line[-1:])
        steps[first[1:] - 1] = 0  # no step from one vessel to the next
        back = np.roll(steps, 1, axis=0)
        size = np.sqrt((steps**2).sum(axis=1))
        arc = np.cumsum(size) - size
        along = steps + back
        along /= np.sqrt((along**2).sum(axis=1))[:, None]
        brightness = np.array([vessel.brightness for vessel in scene.vessels])
        mean = np.add.reduceat(radius, first) / sizes
        # At most 2.5 um between lanes, which the PSF blurs into one.
        lanes = np.maximum(8, np.rint(0.5 * mean**2).astype(int))
        return cls(
            line, along, (size + np.roll(size, 1)) / 2, arc - arc[first][vessel], radius,
            brightness[vessel], vessel, np.where(mean > LARGE_RADIUS_UM, -lanes, lanes)[vessel],
        )  # fmt: skip

    def near(self, low: F64, high: F64) -> "_Tubes":
        """Select the points whose tube may reach into a box, (x, y, z) in um."""
        room = (self.radius * HALO_RADII)[:, None]
        kept = ((self.line > low - room) & (self.line < high + room)).all(axis=1)
        return _Tubes._make(table[kept] for table in self)


def _make_elements(scene: Scene, microscope: Microscope, window: Window) -> _Elements:
    pixel = scene.um_per_px
    reach = REACH_SIGMAS * microscope.psf_z_um
    low = np.array([window.columns.start - PAD_PX, window.rows.start - PAD_PX, 0.0])
    high = np.array([window.columns.stop + PAD_PX, window.rows.stop + PAD_PX, scene.shape[0] - 1.0])
    size = [pixel, pixel, scene.step_um]
    box = low * size - [0, 0, reach], high * size + [0, 0, reach]
    tubes = _Tubes.of(scene).near(*box)
    parts = [_fill_tubes(tubes, lanes) for lanes in np.unique(tubes.lanes)]
    # (7, elements): rows as in `_fill_tubes`
    table = np.concatenate([*parts, _place_spots(scene, microscope)], axis=1)
    x, y = table[0] / pixel - low[0], table[1] / pixel - low[1]
    seen = (x > 0) & (x < high[0] - low[0] - 1.001) & (y > 0) & (y < high[1] - low[1] - 1.001)
    seen &= (table[2] > box[0][2]) & (table[2] < box[1][2])
    kept = np.flatnonzero(seen)
    kept = kept[np.argsort(table[2, kept], kind="stable")]
    z, arc, swift, light, vessel = table[2:, kept].astype(np.float32)
    return _Elements(
        x[kept].astype(np.float32), y[kept].astype(np.float32), z, arc, swift, light,
        vessel.astype(np.int32),
    )  # fmt: skip


def _place_spots(scene: Scene, microscope: Microscope) -> F64:
    """Return the bright spots in the form of `_fill_tubes`, as elements of an extra vessel."""
    x, y, z, brightness = scene.puncta.T
    # Volume of the PSF: a point of this light is as bright as plasma that fills the PSF.
    volume = (2 * math.pi) ** 1.5 * microscope.psf_xy_um**2 * microscope.psf_z_um
    still = np.zeros(len(x))
    return np.stack(
        [x, y, z, still, still, brightness * volume, np.full(len(x), len(scene.vessels))]
    )


def _fill_tubes(tubes: _Tubes, lanes: int) -> F64:
    """Fill the tubes with this number of lanes with elements; return (7, elements).

    Rows: x, y, z, arc length, speed relative to the mean, volume times brightness, vessel.
    """
    tubes = _Tubes._make(table[tubes.lanes == lanes] for table in tubes)
    # Any two perpendicular directions will do: the lanes are almost rotationally symmetric.
    ax, ay, az = tubes.along.T
    flat = np.hypot(ax, ay)
    upright = flat < 0.4
    side = np.stack(
        [np.where(upright, 0, ay), np.where(upright, az, -ax), np.where(upright, -ay, 0)]
    )
    side /= np.sqrt((side**2).sum(axis=0))
    other = np.stack(
        [ay * side[2] - az * side[1], az * side[0] - ax * side[2], ax * side[1] - ay * side[0]]
    )
    u, v, swift, phase, share = _fill_disc(lanes).T[:, None, :]  # each (1, lanes)
    radius = tubes.radius[:, None]
    # (3, points, lanes)
    place = tubes.line.T[..., None] + (u * radius) * side[..., None]
    place += (v * radius) * other[..., None]
    volume = math.pi * radius**2 * (tubes.length * tubes.brightness)[:, None] * share
    rest = tubes.arc[:, None] + phase, swift, volume, tubes.vessel[:, None]
    return np.stack([each.ravel() for each in np.broadcast_arrays(*place, *rest)])


@functools.cache
def _fill_disc(lanes: int) -> F64:
    """Spread lanes evenly over a disc of radius 1, like the seeds of a sunflower.

    Returns (lanes, 5): u, v, speed relative to the mean, shift of the cells in um, share of the
    volume. In a capillary cells move in single file at one speed. In a large vessel (`lanes` is
    negative) each lane has its own cells, the middle is fastest (Poiseuille), and a halo of
    scattered light surrounds the vessel.
    """
    count = abs(lanes)
    index = np.arange(count)
    radius = np.sqrt((index + 0.5) / count)
    angle = GOLDEN_ANGLE * index
    disc = np.column_stack(
        [radius * np.cos(angle), radius * np.sin(angle), np.ones(count), np.zeros(count),
         np.full(count, 1 / count)]
    )  # fmt: skip
    if lanes > 0:
        return disc
    disc[:, 2] = 2 * (1 - 0.9 * radius**2) / 1.1
    disc[:, 3] = (GOLDEN_ANGLE * 977 * index) % 1000
    index = np.arange(count // 2)
    radius = np.linspace(1, HALO_RADII, index.size)
    angle = 1.7 * GOLDEN_ANGLE * index
    fade = np.linspace(1, 0, index.size)
    halo = np.column_stack(
        [radius * np.cos(angle), radius * np.sin(angle), np.full(index.size, 5.0),
         (137.0 * index) % 1000, HALO_SHARE * fade / fade.sum()]
    )  # fmt: skip
    return np.concatenate([disc, halo])


def _add_up(
    elements: _Elements, scene: Scene, blood: Blood, microscope: Microscope, window: Window
) -> Iterator[tuple[range, F32]]:
    """Sum the elements in focus; yield ranges of frames and their unblurred images (n, h, w)."""
    height = window.rows.stop - window.rows.start + 2 * PAD_PX
    width = window.columns.stop - window.columns.start + 2 * PAD_PX
    reach = REACH_SIGMAS * microscope.psf_z_um
    depth = np.arange(scene.shape[0]) * scene.step_um
    # Elements first[k]..last[k] - 1 are within reach of frame k.
    first, last = np.searchsorted(elements.z, (depth - reach, depth + reach))
    row_s = (elements.y + (window.rows.start - PAD_PX)) * np.float32(microscope.line_s)
    # Bilinear splatting: top left pixel of each element, and its offset within that pixel.
    corner = elements.y.astype(np.int32) * width + elements.x.astype(np.int32)
    right, down = elements.x % 1, elements.y % 1
    motion = _Motion.of(blood, microscope.frame_s)
    for some in _in_parts(last - first):
        # One entry per (frame, element) pair from here on; `at` indexes the elements.
        count = (last - first)[some.start : some.stop]
        frame = np.repeat(np.arange(some.start, some.stop, dtype=np.int32), count)
        skipped = np.cumsum(count) - count - first[some.start : some.stop]
        at = np.arange(len(frame)) - np.repeat(skipped, count)
        arc = elements.arc_um[at]
        vessel = elements.vessel[at]
        arc -= motion.moved_um(vessel, frame, row_s[at]) * elements.swift[at]
        away = (elements.z[at] - frame * np.float32(scene.step_um)) / np.float32(
            microscope.psf_z_um
        )
        light = elements.light[at] * np.exp(np.float32(-0.5) * away * away)
        light *= motion.plasma(vessel, arc)
        # Normalise by the axial PSF and the pixel area, so that dye that fills the PSF gives 1.
        light /= np.float32(microscope.psf_z_um * math.sqrt(2 * math.pi) * scene.um_per_px**2)
        pixel = corner[at] + (frame - np.int32(some.start)) * np.int32(height * width)
        lower, dx = light * down[at], right[at]
        light -= lower
        size = len(some) * height * width
        flat = np.zeros(size)
        for offset, part, share in (
            (0, light, 1 - dx), (1, light, dx), (width, lower, 1 - dx), (width + 1, lower, dx),
        ):  # fmt: skip
            flat += np.bincount(pixel + np.int32(offset), part * share, minlength=size)
        yield some, flat.reshape(len(some), height, width).astype(np.float32)


def _in_parts(pairs: NDArray[np.int64]) -> Iterator[range]:
    """Split frames with these numbers of elements into ranges of at most `PAIRS_AT_ONCE` pairs."""
    start, total = 0, 0
    for frame, count in enumerate(pairs.tolist()):
        # At most eight frames, because their images must also fit the cache.
        if frame > start and (total + count > PAIRS_AT_ONCE or frame - start == 8):
            yield range(start, frame)
            start, total = frame, 0
        total += count
    yield range(start, len(pairs))


class _Motion(NamedTuple):
    """Blood in 32 bits, which is twice as fast; the still spots are an extra last vessel."""

    dark: F32  # (patterns * PATTERN_LENGTH,)
    pattern: NDArray[np.int32]  # (vessels,), start of its pattern in `dark`
    contrast: F32  # (vessels,)
    start: F32  # (vessels * frames,), um
    speed: F32  # (vessels * frames,), um/s
    swing: F32  # (vessels,), s
    rate: F32  # (vessels,), radians a second
    angle: F32  # (vessels * frames,), radians
    frames: int

    @classmethod
    def of(cls, blood: Blood, frame_s: float) -> "_Motion":
        frames = blood.start_um.shape[1]
        amplitude, hertz, phase = blood.pulse.T
        omega = 2 * math.pi * hertz
        # Pulse and pattern are periodic; reduced modulo the period they are precise in 32 bits.
        angle = (omega[:, None] * (np.arange(frames) * frame_s) + phase[:, None]) % (2 * math.pi)
        start = blood.start_um % (PATTERN_LENGTH * PATTERN_STEP_UM)
        return cls(
            blood.dark.ravel(),
            np.append(blood.pattern, 0).astype(np.int32) * np.int32(PATTERN_LENGTH),
            np.append(blood.contrast, 0).astype(np.float32),
            _with_still(start),
            _with_still(blood.speed_um_s),
            np.append(amplitude / omega, 0).astype(np.float32),
            np.append(omega, 0).astype(np.float32),
            _with_still(angle),
            frames,
        )

    def moved_um(self, vessel: NDArray[np.int32], frame: NDArray[np.int32], time: F32) -> F32:
        """Return the displacement of the cells at a time after the start of a frame; all (n,)."""
        at = vessel * np.int32(self.frames) + frame
        swing = self.swing[vessel] * np.sin(self.rate[vessel] * time + self.angle[at])
        return np.asarray(self.start[at] + self.speed[at] * (time + swing))

    def plasma(self, vessel: NDArray[np.int32], arc_um: F32) -> F32:
        """Return the brightness 0..1 at positions along the vessels; all (n,)."""
        index = np.floor(arc_um * np.float32(1 / PATTERN_STEP_UM)).astype(np.int32)
        # Modulo the length, which is a power of two.
        index &= PATTERN_LENGTH - 1
        return np.asarray(1 - self.contrast[vessel] * self.dark[self.pattern[vessel] + index])


def _with_still(table: F64) -> F32:
    return np.concatenate([table, np.zeros((1, table.shape[1]))]).astype(np.float32).ravel()


def _spread_haze(scene: Scene, background: float, window: Window) -> list[F32]:
    """Interpolate the haze to the padded window; one image per depth of its coarse grid."""
    _, height, width = scene.shape
    _, rows, columns = scene.haze.shape
    step = np.array([(columns - 1) / width, (rows - 1) / height])
    start = (np.array([window.columns.start, window.rows.start]) - PAD_PX) * step
    size = (
        window.columns.stop - window.columns.start + 2 * PAD_PX,
        window.rows.stop - window.rows.start + 2 * PAD_PX,
    )
    to_nodes = np.array([[step[0], 0, start[0]], [0, step[1], start[1]]])
    return [
        np.asarray(
            cv2.warpAffine(
                nodes, to_nodes, size,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
            ),
            np.float32,
        )
        for nodes in scene.haze * np.float32(background)
    ]  # fmt: skip
