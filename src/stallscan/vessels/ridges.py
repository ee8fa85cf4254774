"""Bright tubes in a slab of a stack: their strength, their skeleton, and what is too wide."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from stallscan.settings import Settings
from stallscan.vessels.labels import FINE, skeletonize_vessels
from stallscan.vessels.slabs import Block

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

# chosen: brightness is compared on a logarithmic scale that becomes linear below this, so that dim
# and bright vessels have equal contrast
SOFT = 0.3
# Bright ridges must exceed this many medians of the dark ones, which are noise. Chosen so that
# noise alone shows none: its largest ridge in 50 million voxels is 6 medians.
NOISE_MEDIANS = 7.0
# About this many voxels are enough to estimate the noise.
NOISE_VOXELS = 200_000
# The weaker threshold, of voxels connected to a stronger one, relative to that.
WEAK = 0.5
# Voxels whose curvatures are computed at once, which takes 100 bytes each.
CHUNK = 2**20
# Directions and distances of the profiles that measure a radius.
DIRECTIONS = 8
STEP_UM = 0.5
# A radius is measured up to this many times that of a capillary.
MEASURED_RADII = 2.0


class RidgeSettings(Settings):
    """How vessels are told from tissue, and capillaries from larger vessels.

    Attributes
    ----------
    contrast : float
        Least strength of a vessel, see `measure_ridges`. Smaller values find dimmer vessels, and
        more that are none.
    scales_um : tuple of float
        Standard deviations of the blur with which ridges are looked for.
    capillary_radius_um : float
        Larger vessels are left out. Capillaries are 4 to 8 um wide (docs/facts.md 5), which the
        microscope blurs by about 1 um on either side.
    large_level : float
        Least brightness of a large vessel, relative to the brightest vessels at that depth.
    """

    contrast: float = Field(default=0.11, gt=0)
    scales_um: tuple[float, ...] = Field(default=(1.5, 2.5, 4.0), min_length=1)
    capillary_radius_um: float = Field(default=5.0, gt=0)
    large_level: float = Field(default=0.3, gt=0, lt=1)


@dataclass(frozen=True)
class Skeleton:
    """The skeleton of the vessels in a block, and the large vessels there.

    Attributes
    ----------
    steps : ndarray
        int64 (n, 3): voxels of the whole grid along z, and half voxels along y and x.
    radius_um : ndarray
        float64 (n,): half the width at half the brightness.
    to_large_um : ndarray
        float64 (n,): distance to the nearest large vessel, 0 inside; infinite without any nearby.
    large : ndarray
        bool (H, W): where the core of the block shows a large vessel at any depth.
    """

    steps: NDArray[np.int64]
    radius_um: F64
    to_large_um: F64
    large: Mask


def find_skeleton(block: Block, sides_um: F64, settings: RidgeSettings) -> Skeleton:
    """Return the centre lines of all vessels in the core of a block, as voxels."""
    from skimage.filters import apply_hysteresis_threshold

    values = block.values
    strong = settings.contrast
    ridges, noise = measure_ridges(
        compress(values), sides_um, settings.scales_um, WEAK * settings.contrast
    )
    strong = max(strong, NOISE_MEDIANS * noise)
    tubes = apply_hysteresis_threshold(ridges, WEAK * strong, strong)  # type: ignore[no-untyped-call]
    away_um = find_large(values, sides_um, settings.capillary_radius_um, settings.large_level)
    steps = skeletonize_vessels(tubes) if tubes.any() else np.zeros((0, 3), np.int64)
    voxels = steps // FINE
    first = np.array([each.start for each in block.core])
    last = np.array([each.stop for each in block.core])
    inside = ((voxels >= first) & (voxels < last)).all(axis=1)
    steps, voxels = steps[inside], voxels[inside]
    most_um = MEASURED_RADII * settings.capillary_radius_um
    large = np.zeros([each.stop - each.start for each in block.core[1:]], bool)
    if away_um is not None:
        large |= (away_um[block.core] <= 0).any(axis=0)
    return Skeleton(
        steps + np.array(block.start) * FINE,
        measure_radius(values, voxels, sides_um, most_um),
        np.full(len(voxels), np.inf)
        if away_um is None
        else np.asarray(away_um[tuple(voxels.T)], np.float64),
        large,
    )


def compress(values: F32) -> F32:
    """Return values on the scale on which contrast is measured, logarithmic above `SOFT`."""
    return np.log1p(np.maximum(values, -SOFT / 2) / np.float32(SOFT))


def measure_ridges(
    values: F32, sides_um: F64, scales_um: tuple[float, ...], least: float
) -> tuple[F32, float]:
    """Return the strength of bright ridges, and the typical strength of dark ones.

    The strength is the geometric mean of the two curvatures across the ridge, multiplied by the
    square of the scale. Weaker ridges than `least` may be 0.

    Parameters
    ----------
    values : ndarray
        float32 (D, H, W), from `compress`.
    sides_um : ndarray
        float64 (3,): size of a voxel along z, y, x.
    scales_um : tuple of float
        Standard deviations of the blur; a tube of radius r is strongest at about 0.7 r.
    least : float
        Smallest strength of interest.

    Returns
    -------
    strength, noise
        float32 (D, H, W), at least 0; and the median strength of dark ridges at the scale at which
        it is largest. Noise has as many dark ridges as bright ones, vessels have none.
    """
    strength = np.zeros_like(values)
    noise = 0.0
    for scale_um in scales_um:
        smooth = ndimage.gaussian_filter(values, scale_um / sides_um, truncate=3)
        # A face is continued by its own outermost voxels.
        smooth = np.pad(smooth * np.float32(scale_um**2), 1, mode="edge")
        trace = _measure_trace(smooth, sides_um).ravel()
        # Two equal curvatures sum up to twice the strength, two different ones to more. Of that,
        # the curvature along the ridge may take a quarter.
        bright = np.flatnonzero(trace < -1.5 * least)
        flat = strength.reshape(-1)
        for start in range(0, len(bright), CHUNK):
            some = bright[start : start + CHUNK]
            across = np.minimum(_find_curvatures(smooth, some, sides_um)[:, :2], 0)
            flat[some] = np.maximum(flat[some], np.sqrt(across[:, 0] * across[:, 1]))
        dark = np.flatnonzero(trace > 0)
        dark = dark[:: max(1, len(dark) // NOISE_VOXELS)]
        if len(dark):
            across = np.maximum(_find_curvatures(smooth, dark, sides_um)[:, 1:], 0)
            noise = max(noise, float(np.median(np.sqrt(across[:, 0] * across[:, 1]))))
    return strength, noise


def _measure_trace(padded: F32, sides_um: F64) -> F32:
    """Return the sum of the second derivatives along z, y and x of a padded array."""
    middle = padded[1:-1, 1:-1, 1:-1]
    trace = np.zeros_like(middle)
    for axis, side_um in enumerate(sides_um):
        inner = np.moveaxis(padded, axis, 0)
        others = (slice(1, -1), slice(1, -1))
        second = inner[(slice(2, None), *others)] + inner[(slice(None, -2), *others)]
        trace += (np.moveaxis(second, 0, axis) - 2 * middle) / np.float32(side_um**2)
    return trace


def _find_curvatures(padded: F32, voxels: NDArray[np.int64], sides_um: F64) -> F32:
    """Return the principal curvatures of some voxels, ascending: float32 (n, 3).

    `voxels` are indices of the flattened array without padding.
    """
    inner = tuple(size - 2 for size in padded.shape)
    place = np.ravel_multi_index(
        tuple(each + 1 for each in np.unravel_index(voxels, inner)), padded.shape
    )
    flat = padded.reshape(-1)
    steps = (padded.shape[1] * padded.shape[2], padded.shape[2], 1)
    here = flat[place]
    zz, yy, xx = (
        (flat[place + step] + flat[place - step] - 2 * here) / np.float32(side_um**2)
        for step, side_um in zip(steps, sides_um, strict=True)
    )
    zy, zx, yx = (
        (
            flat[place + steps[a] + steps[b]]
            + flat[place - steps[a] - steps[b]]
            - flat[place + steps[a] - steps[b]]
            - flat[place - steps[a] + steps[b]]
        )
        / np.float32(4 * sides_um[a] * sides_um[b])
        for a, b in ((0, 1), (0, 2), (1, 2))
    )
    # The eigenvalues of a symmetric matrix of order 3 in closed form: five times as fast as
    # numpy's for many small matrices.
    mean = (zz + yy + xx) / 3
    zz, yy, xx = zz - mean, yy - mean, xx - mean
    spread = np.sqrt((zz**2 + yy**2 + xx**2 + 2 * (zy**2 + zx**2 + yx**2)) / 6)
    determinant = zz * (yy * xx - yx**2) - zy * (zy * xx - yx * zx) + zx * (zy * yx - yy * zx)
    cosine = np.clip(determinant / np.maximum(2 * spread**3, 1e-30), -1, 1)
    angle = np.arccos(cosine) / 3
    largest = mean + 2 * spread * np.cos(angle)
    smallest = mean + 2 * spread * np.cos(angle + np.float32(2 * math.pi / 3))
    return np.stack([smallest, 3 * mean - largest - smallest, largest], axis=1)


def find_large(values: F32, sides_um: F64, radius_um: float, level: float) -> F32 | None:
    """Return the distance of each voxel in um to vessels wider than a capillary; None without any.

    Parameters
    ----------
    values : ndarray
        float32 (D, H, W), from `slabs.Grid`.
    sides_um : ndarray
        float64 (3,): size of a voxel along z, y, x.
    radius_um : float
        Radius of the largest ball that fits into a capillary.
    level : float
        Value that separates vessels from tissue.
    """
    smooth = ndimage.gaussian_filter(values, 1.0 / sides_um, truncate=3)
    # Every other voxel of fine axes is enough for vessels of this size.
    steps = [
        1 if radius_um < 4 * side or n < 4 else 2
        for side, n in zip(sides_um, values.shape, strict=False)
    ]
    coarse = smooth[:: steps[0], :: steps[1], :: steps[2]]
    coarse_um = sides_um * steps
    # Half the brightness of what is nearby, so that the blur of a bright capillary is not wide.
    size = 2 * np.ceil(radius_um / coarse_um).astype(int) + 1
    inside = coarse > np.maximum(ndimage.maximum_filter(coarse, size) / 2, np.float32(level))
    # A vessel continues beyond the faces.
    deep = ndimage.distance_transform_edt(np.pad(inside, 1, mode="edge"), sampling=coarse_um)
    deep = _drop_knots(deep[1:-1, 1:-1, 1:-1] > radius_um, coarse_um, 2 * radius_um)
    if not deep.any():
        return None
    away = ndimage.distance_transform_edt(~deep, sampling=coarse_um).astype(np.float32)
    for axis, step in enumerate(steps):
        away = np.repeat(away, step, axis=axis)
    depth, height, width = values.shape
    rest = np.maximum(away[:depth, :height, :width] - np.float32(radius_um), 0)
    return np.asarray(rest, np.float32)


def _drop_knots(deep: Mask, sides_um: F64, least_um: float) -> Mask:
    """Drop pieces shorter than `least_um`, such as branch points, unless they reach a face."""
    pieces, count = ndimage.label(deep, np.ones((3, 3, 3)))
    keep = np.zeros(count + 1, bool)
    for index, box in enumerate(ndimage.find_objects(pieces), start=1):
        size = np.array([each.stop - each.start for each in box])
        at_face = any(
            each.start == 0 or each.stop == n
            for each, n in zip(box[1:], deep.shape[1:], strict=True)
        )
        keep[index] = at_face or np.linalg.norm((size - 1) * sides_um) >= least_um
    return np.asarray(keep[pieces])


def measure_radius(values: F32, voxels: NDArray[np.int64], sides_um: F64, most_um: float) -> F64:
    """Return half the width of a vessel at half its brightness, in um: float64 (n,).

    A plane cuts a tube along an ellipse whose shorter half-axis is the radius of the tube, however
    oblique the tube is. So the width is measured within the plane, as the smallest of `DIRECTIONS`.

    Parameters
    ----------
    values : ndarray
        float32 (D, H, W), linear in brightness.
    voxels : ndarray
        int64 (n, 3): voxels near the centre lines.
    sides_um : ndarray
        float64 (3,): size of a voxel along z, y, x.
    most_um : float
        Wider vessels get this radius.
    """
    steps_um = np.arange(0, most_um + STEP_UM, STEP_UM)
    angles = np.arange(2 * DIRECTIONS) * math.pi / DIRECTIONS
    rows = np.outer(np.sin(angles), steps_um) / sides_um[1]  # (2 DIRECTIONS, steps)
    columns = np.outer(np.cos(angles), steps_um) / sides_um[2]
    radius = np.empty(len(voxels))
    block = max(1, 2**22 // rows.size)  # so that memory stays below 100 MB
    for start in range(0, len(voxels), block):
        some = voxels[start : start + block]
        place = np.empty((3, len(some), *rows.shape))
        place[0] = some[:, 0, None, None]
        place[1] = some[:, 1, None, None] + rows
        place[2] = some[:, 2, None, None] + columns
        profile = ndimage.map_coordinates(values, place, order=1, mode="nearest")
        top = profile[..., :3].max(axis=(1, 2))[:, None, None]
        outside = profile < top / 2  # tissue is 0
        reach = np.where(outside.any(axis=2), outside.argmax(axis=2), len(steps_um))
        widths = (reach[:, :DIRECTIONS] + reach[:, DIRECTIONS:]) * STEP_UM / 2  # (n, DIRECTIONS)
        radius[start : start + block] = widths.min(axis=1)
    return np.minimum(radius, most_um)
