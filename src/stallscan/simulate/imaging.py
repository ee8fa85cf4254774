"""From a scene to grey frames: light on the detector, photons, contrast for display."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.simulate.blood import PATTERN_LENGTH, PATTERN_STEP_UM, Blood
from stallscan.simulate.microscope import Microscope
from stallscan.simulate.scene import F32, F64, Image, Rng, Scene, Vessel

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
REACH_SIGMAS = 3.2


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

    Parameters
    ----------
    scene : Scene
        What lies in the field.
    blood : Blood
        From `draw_blood` or `hold`, for this scene.
    microscope : Microscope
        From `draw_microscope`, for this scene.
    rng : Generator
        Source of the streaks in large vessels.

    Returns
    -------
    ndarray
        float32 (T, H, W), 0 and up: 1 is undiluted plasma that fills the PSF, at laser power 1.
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


def expose(light: F32, microscope: Microscope, rng: Rng) -> Image:
    """Count photons and stretch the contrast for display.

    Parameters
    ----------
    light : ndarray
        float32 (T, H, W) from `render`; it is overwritten.
    microscope : Microscope
        The detector, the smoothing by registration, the contrast and the black wedges.
    rng : Generator
        Source of the noise.

    Returns
    -------
    ndarray
        uint8 (T, H, W) grey, 0..255.
    """
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
