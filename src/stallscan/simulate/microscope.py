"""How a scene is scanned, detected and displayed."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.simulate.scene import F32, F64, Outline, Rng, Scene


@dataclass(frozen=True)
class Microscope:
    """How the scene is scanned, detected and displayed.

    Attributes
    ----------
    frame_s, line_s : float
        Time from frame to frame (0.5..1 s) and from row to row (1..2.5 ms at 384 rows).
    psf_xy_um, psf_z_um : float
        Standard deviations of the point spread function: 0.9..1.4 and 1.8..2.8.
    power : ndarray
        float64 (frames,): laser power times attenuation, with median 1.
    photons : float
        Mean photons a pixel from undiluted plasma, 12..150.
    excess : float
        Spread of the gain of one photon, relative to it, 0.2..0.5.
    read_noise : float
        Standard deviation of the detector's noise in photons, 0.1..0.6.
    blur_px : tuple of float
        Standard deviations of the smoothing of the noise by registration: in x (0.7..1.2) and in y
        (0.5..0.8).
    background : float
        Brightness of tissue relative to plasma, 0.07..0.22.
    stretch : tuple of float
        Percentiles of the recording, 0..100, that are displayed as black and as 243.
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


def draw_microscope(rng: Rng, scene: Scene) -> Microscope:
    """Draw how the scene is scanned, detected and displayed.

    Parameters
    ----------
    rng : Generator
        Source of everything drawn.
    scene : Scene
        Its size, and the outline, which the wedges leave (nearly) clear.

    Returns
    -------
    Microscope
        Its arrays have the scene's number of frames and size of field.
    """
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
