"""Random appearance: the same blood as another microscope, laser, detector and display show it.

A net that is trained on one appearance learns its noise and brightness instead of the blood. All
ranges are wider than believed, and are the same for both labels. Unless a source is named, they are
chosen.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.recordings.recording import Frames

F32 = NDArray[np.float32]
Rng = np.random.Generator
Mask = NDArray[np.uint8]  # (S, S): 0 or 255

# Every other frame is left out only of clips with at least this many, so that a segment in the
# image plane stays in focus for several frames (docs/facts.md 5: 6-12).
FRAMES_FOR_HALF = 24
FEWEST_FRAMES = 10
GAIN = (0.4, 3.5)
# Standard deviation of the added noise, grey levels: a decade and a half around what real
# recordings show.
NOISE = (0.5, 14.0)


def change(clip: Frames, rng: Rng) -> Frames:
    """Return a copy of a clip with another appearance.

    The order is that of an image's formation: depth steps, averaged frames, position, optics,
    light, noise, display, surround. Each change happens with its own chance.

    Parameters
    ----------
    clip : ndarray
        uint8 (T, S, S, 2): grey, and the mask (0 or 255).
    rng : Generator
        Random source.

    Returns
    -------
    ndarray
        uint8 (T', S, S, 2), T' at most T.
    """
    grey = _average_frames(_leave_out_frames(clip[..., 0], rng).astype(np.float32), rng)
    mask = np.ascontiguousarray(clip[0, ..., 1])
    grey, mask = _move(grey, mask, rng)
    grey = _light(_defocus(grey, rng), rng)
    grey = _display(_add_noise(_amplify(grey, rng), rng), mask, rng)
    changed = np.empty((*grey.shape, 2), np.uint8)
    changed[..., 0] = np.clip(grey, 0, 255)
    changed[..., 1] = mask
    return changed


def _leave_out_frames(grey: Frames, rng: Rng) -> Frames:
    if rng.random() < 0.12 and len(grey) >= FRAMES_FOR_HALF:
        grey = grey[rng.integers(2) :: 2]  # a depth step twice as wide
    if rng.random() < 0.2:
        kept = rng.random(len(grey)) >= rng.uniform(0, 0.25)
        if kept.sum() >= FEWEST_FRAMES:
            grey = grey[kept]
    if rng.random() < 0.1:
        grey = grey.copy()
        grey[rng.integers(len(grey))] = 0  # a black-out
    return grey


def _average_frames(grey: F32, rng: Rng) -> F32:
    """Average each frame with its neighbours, as some laboratories do against noise: (T', S, S)."""
    if rng.random() >= 0.5:
        return grey
    weights = [(1, 2, 1), (0, 1, 1), (1, 1, 1)][rng.integers(3)]
    padded = np.pad(grey, ((1, 1), (0, 0), (0, 0)), mode="edge")
    parts = (weight * padded[lag : lag + len(grey)] for lag, weight in enumerate(weights))
    return np.asarray(sum(parts) / np.float32(sum(weights)), np.float32)


def _move(grey: F32, mask: Mask, rng: Rng) -> tuple[F32, Mask]:
    """Zoom (more along one axis), turn and shift."""
    if rng.random() >= 0.6:
        return grey, mask
    size = mask.shape[0]
    zoom, stretch = np.exp(rng.normal(0, (0.15, 0.08)))
    centre = np.full(2, size / 2 - 0.5)
    matrix = cv2.getRotationMatrix2D(tuple(centre), rng.normal(0, 8), 1.0)  # (2, 3)
    matrix[:, :2] *= [[zoom * stretch], [zoom / stretch]]
    matrix[:, 2] = centre - matrix[:, :2] @ centre + rng.normal(0, 2, 2)
    moved = np.stack([cv2.warpAffine(frame, matrix, (size, size)) for frame in grey])
    outside = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST)
    return np.asarray(moved, np.float32), np.asarray(outside, np.uint8)


def _defocus(grey: F32, rng: Rng) -> F32:
    """Blur as wider optics, or as a lower resolution."""
    if rng.random() < 0.35:
        across, ratio = rng.uniform(0.4, 1.4), rng.uniform(0.7, 1.3)
        grey = _each(
            grey, lambda frame: cv2.GaussianBlur(frame, (0, 0), across, None, across * ratio)
        )
    if rng.random() < 0.2:
        size = grey.shape[1]
        fewer = int(size * rng.uniform(0.5, 0.9))

        def resample(frame: F32) -> F32:
            small = cv2.resize(frame, (fewer, fewer), interpolation=cv2.INTER_AREA)
            return np.asarray(cv2.resize(small, (size, size)), np.float32)

        grey = _each(grey, resample)
    return grey


def _light(grey: F32, rng: Rng) -> F32:
    """Add a smooth background; let the light drift, step and flicker with depth."""
    frames, size, _ = grey.shape
    if rng.random() < 0.4:
        coarse = rng.normal(0, 1, (3, 3)).astype(np.float32)
        grey = grey + rng.uniform(0, 18) * cv2.resize(
            coarse, (size, size), None, 0, 0, cv2.INTER_CUBIC
        )
    depth = np.arange(frames, dtype=np.float32)
    factor = np.ones(frames, np.float32)
    if rng.random() < 0.4:
        factor *= np.exp(rng.normal(0, 0.25) * (depth / frames - 0.5))
    if rng.random() < 0.25:
        factor[rng.integers(frames) :] *= np.exp(rng.normal(0, 0.4))
    if rng.random() < 0.2:
        factor *= np.exp(rng.normal(0, 0.06, frames))
    return grey * factor[:, None, None]


def _amplify(grey: F32, rng: Rng) -> F32:
    """Apply gain, gamma and an offset; levels above white stay there until the display clips."""
    if rng.random() >= 0.7:
        return grey
    gain = np.exp(rng.uniform(*np.log(GAIN)))
    gamma, offset = np.exp(rng.normal(0, 0.3)), rng.normal(0, 8)
    return np.asarray(255 * (np.clip(grey, 0, 255) / 255) ** gamma * gain + offset, np.float32)


def _add_noise(grey: F32, rng: Rng) -> F32:
    """Add noise: of pixels or correlated along rows, constant or growing with the signal."""
    if rng.random() >= 0.7:
        return grey
    level = np.exp(rng.uniform(*np.log(NOISE)))
    noise = rng.standard_normal(grey.shape, dtype=np.float32)
    if rng.random() < 0.5:
        along, across = int(rng.choice([1, 3, 5])), int(rng.choice([1, 1, 3]))
        noise = _each(noise, lambda frame: cv2.blur(frame, (along, across)))
        noise *= np.sqrt(along * across)
    if rng.random() < 0.5:
        # variance proportional to the signal, as photons and real detectors have it
        # (docs/facts.md 9); 80 is a usual level of a vessel
        noise *= np.sqrt(np.clip(grey, 1, 255) / 80)
    if rng.random() < 0.35:
        noise += rng.normal(0, rng.uniform(0, 0.6), (*grey.shape[:2], 1)).astype(np.float32)
    return np.asarray(grey + level * noise, np.float32)


def _display(grey: F32, mask: Mask, rng: Rng) -> F32:
    """Show few grey levels, or nothing of what is outside the outline."""
    if rng.random() < 0.08:
        step = int(rng.choice([8, 16]))
        grey = np.floor(grey / step) * step
    surround = rng.random()
    if surround < 0.15:
        grey = grey * (mask > 0)
    elif surround < 0.25:
        grey = np.where(mask > 0, grey, np.float32(rng.uniform(0, 80)))
    return grey


def _each(grey: F32, change_frame: Callable[[F32], Any]) -> F32:
    return np.asarray(np.stack([change_frame(frame) for frame in grey]), np.float32)
