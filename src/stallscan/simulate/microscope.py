"""Parameters of the microscope: scan, motion, detector and display. `imaging` applies them."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.simulate.look import LookSettings
from stallscan.simulate.projects import Project
from stallscan.simulate.scene import F32, F64, Rng, Scene

# Unless a source is named, every range below is chosen to span the range of real recordings
# (docs/facts.md 5).
# Share of the frame time that is spent scanning; the rest is fly-back and the step of the stage. At
# 384 rows this is 1-2.5 ms per row (docs/facts.md 5: 1-2).
SCANNED_SHARE = (0.8, 0.97)
ATTENUATION_UM = (100.0, 600.0)
PHOTONS = (5.0, 150.0)  # per pixel, unless the look says otherwise
WHITE_GREY = 243  # docs/facts.md 5: 99th percentile of the only original stack
JITTER_PX = (0.1, 0.5)
SMEAR_PX = (3.0, 14.0)
BAND_PX = (10.0, 40.0)


@dataclass(frozen=True)
class Microscope:
    """Parameters of scanning, detection and display of one recording.

    Attributes
    ----------
    frame_s, line_s : float
        Time from frame to frame and from row to row.
    psf_xy_um, psf_z_um : float
        Standard deviations of the point spread function.
    attenuation_um : float
        Depth over which the signal falls to 1 / e.
    laser : ndarray
        float64 (frames,): laser power, 1 at first; some recordings step it up with depth.
    power : ndarray
        float64 (frames,): laser power times attenuation, scaled to median 1.
    photons : float
        Mean photons per pixel from undiluted plasma at power 1.
    excess : float
        Standard deviation of the gain for one photon, relative to its mean.
    read_noise : float
        Standard deviation of the detector noise in photons.
    blur_px : tuple of float
        Standard deviations in x and y of the blur that registration adds.
    background : float
        Brightness of tissue relative to plasma.
    black_photons : float
        Number of photons displayed as grey level 0.
    grey_per_photon : float
        Grey levels per further photon.
    row_noise : float
        Standard deviation of the noise that the pixels of a row share, in photons.
    gamma : float
        Exponent of the display.
    offset : ndarray
        float32 (frames, rows, 2): displacement of each row in x and y, in pixels.
    static_black : ndarray
        bool (H, W): pixels that are black in all frames: wedges, a band, a dead strip.
    edges : ndarray
        int (frames, 4): width of the black margins at the left, top, right and bottom of each
        frame, which registration leaves.
    """

    frame_s: float
    line_s: float
    psf_xy_um: float
    psf_z_um: float
    attenuation_um: float
    laser: F64
    power: F64
    photons: float
    excess: float
    read_noise: float
    blur_px: tuple[float, float]
    background: float
    black_photons: float
    grey_per_photon: float
    row_noise: float
    gamma: float
    offset: F32
    static_black: NDArray[np.bool_]
    edges: NDArray[np.int64]


def draw_microscope(rng: Rng, scene: Scene, project: Project, look: LookSettings) -> Microscope:
    """Draw the microscope parameters of a recording, which vary around those of the project.

    Black areas leave the outlined region of the scene (nearly) clear.
    """
    frames, height, _ = scene.shape
    frame_s = rng.uniform(*look.frame_s)
    attenuation = rng.uniform(*ATTENUATION_UM)
    laser = _draw_laser(rng, frames)
    power = laser * np.exp(-np.arange(frames) * scene.step_um / attenuation)
    photons = _vary(rng, project.photons, 0.45, look.photons or PHOTONS)
    background = _vary(rng, project.background, 0.35, look.background or (0.02, 0.3))
    black = photons * background * rng.uniform(*look.black_level)
    white = max(photons * rng.uniform(*look.white_level), black + 0.2 * photons)
    return Microscope(
        frame_s=frame_s,
        line_s=frame_s * rng.uniform(*SCANNED_SHARE) / height,
        psf_xy_um=project.psf_xy_um * rng.uniform(0.9, 1.1),
        psf_z_um=project.psf_z_um * rng.uniform(0.85, 1.15),
        attenuation_um=attenuation,
        laser=laser,
        power=power / np.median(power),
        photons=photons,
        excess=rng.uniform(*look.excess),
        read_noise=rng.uniform(*look.read_noise),
        blur_px=(rng.uniform(*look.blur_along_px), rng.uniform(*look.blur_across_px)),
        background=background,
        black_photons=black,
        grey_per_photon=WHITE_GREY / (white - black),
        offset=_draw_offset(rng, frames, height),
        static_black=_draw_static_black(rng, scene),
        edges=_draw_edges(rng, scene),
        # Last, so that a look without them leaves the other draws as they are.
        row_noise=rng.uniform(*look.row_noise),
        gamma=rng.uniform(*look.gamma),
    )


def black_area(
    microscope: Microscope, frame: int, rows: slice, columns: slice
) -> NDArray[np.bool_]:
    """Return the black pixels in a window of one frame, bool (h, w).

    The slices `rows` and `columns` need start and stop inside the field.
    """
    black = microscope.static_black[rows, columns].copy()
    height, width = microscope.static_black.shape
    left, top, right, bottom = microscope.edges[frame].tolist()
    black[:, : max(left - columns.start, 0)] = True
    black[: max(top - rows.start, 0)] = True
    black[:, max(width - right - columns.start, 0) :] = True
    black[max(height - bottom - rows.start, 0) :] = True
    return black


def _vary(rng: Rng, centre: float, spread: float, limits: tuple[float, float]) -> float:
    """Draw a log-normal value around the project's, within limits."""
    return float(np.clip(centre * math.exp(spread * rng.standard_normal()), *limits))


def _draw_laser(rng: Rng, frames: int) -> F64:
    """Draw the laser power (frames,): a quarter of the recordings step it up."""
    laser = np.ones(frames)
    for _ in range(rng.choice(3, p=[0.75, 0.2, 0.05])):
        laser[rng.integers(1, frames) :] *= rng.uniform(1.2, 2.2)
    return laser


def _draw_offset(rng: Rng, frames: int, height: int) -> F32:
    """Draw residual motion after registration, in px: of frames, within frames, and artefacts."""
    offset = rng.normal(0, rng.uniform(*JITTER_PX), (frames, 1, 2))  # whole frames
    # Smooth motion within frames, interpolated from 9 nodes per frame: (height, frames * 2).
    nodes = rng.normal(0, rng.uniform(0.1, 0.4), (9, frames * 2)).astype(np.float32)
    within = cv2.resize(nodes, (frames * 2, height), interpolation=cv2.INTER_LINEAR)
    offset = offset + within.reshape(height, frames, 2).swapaxes(0, 1)
    kind = rng.random()
    if kind < 0.2:
        _smear(rng, offset)
    if 0.13 < kind < 0.33:
        _roll(rng, offset)
    return np.asarray(offset, np.float32)


def _smear(rng: Rng, offset: F64) -> None:
    """Displace the rows of 1 to 4 consecutive frames smoothly, in 1 to 3 places."""
    frames, height, _ = offset.shape
    for _ in range(rng.integers(1, 4)):
        count = int(rng.integers(1, 5))
        start = int(rng.integers(max(frames - count, 1)))
        nodes = rng.normal(0, rng.uniform(*SMEAR_PX), (7, 2)).astype(np.float32)
        walk = cv2.resize(nodes, (2, height), interpolation=cv2.INTER_CUBIC)
        fade = np.hanning(count + 2)[1:-1, None, None]
        part = offset[start : start + count]
        part += (walk * fade)[: len(part)]


def _roll(rng: Rng, offset: F64) -> None:
    """Shift a band of rows sideways in 1 to 3 frames."""
    frames, height, _ = offset.shape
    for _ in range(rng.integers(1, 4)):
        top = int(rng.integers(height))
        band = slice(top, top + int(rng.integers(4, max(height // 5, 5))))
        offset[rng.integers(frames), band, 0] += rng.choice([-1, 1]) * rng.uniform(*BAND_PX)


def _draw_static_black(rng: Rng, scene: Scene) -> NDArray[np.bool_]:
    """Draw wedges along the edges, and in some recordings a band across or a dead strip."""
    _, height, width = scene.shape
    black = np.zeros((height, width), np.uint8)
    # The band comes first, because `_fill_clear` counts all that is already black.
    if rng.random() < 0.25:
        angle, reach = rng.uniform(0, math.pi), 2 * (height + width)
        along = np.array([math.cos(angle), math.sin(angle)])
        across = np.array([-along[1], along[0]])
        middle = np.array([width, height]) * rng.uniform(0.2, 0.8, 2)
        half = rng.uniform(0.03, 0.08) * width * across
        ends = middle - reach * along, middle + reach * along
        _fill_clear(
            black, np.array([ends[0] - half, ends[1] - half, ends[1] + half, ends[0] + half]),
            scene, 0.0,
        )  # fmt: skip
    if rng.random() < 0.6:
        for corners in (
            [(0, 0), (0, height), (1, height), (1, 0)],
            [(width, 0), (width, height), (-1, height), (-1, 0)],
            [(0, 0), (width, 0), (width, 1), (0, 1)],
            [(0, height), (width, height), (width, -1), (0, -1)],
        ):
            _fill_clear(black, _draw_wedge(rng, corners, (width, height)), scene, 0.15)
    if rng.random() < 0.1:
        strip = height - int(rng.integers(6, 21))
        _fill_clear(
            black, np.array([(0, strip), (width, strip), (width, height), (0, height)]), scene, 0.15
        )
    return black.astype(bool)


def _draw_wedge(
    rng: Rng, corners: list[tuple[int, int]], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Move the two inner corners, marked by 1 or -1 in the coordinate across the edge, inwards."""
    points = np.array(corners, float)
    across = 0 if abs(corners[2][0]) == 1 else 1
    far = 0 if corners[2][across] == 1 else size[across]
    inward = 1 if far == 0 else -1
    points[2:, across] = far + inward * rng.exponential(0.03, 2) * size[0]
    return points


def _fill_clear(
    black: NDArray[np.uint8], polygon: NDArray[np.float64], scene: Scene, share: float
) -> None:
    """Fill a polygon, unless more than `share` of the outlined region would then be black."""
    piece = black.copy()
    cv2.fillPoly(piece, [np.rint(polygon).astype(np.int32)], 1)
    if cv2.mean(piece, scene.outline.interior.astype(np.uint8))[0] <= share:
        black[:] = piece


def _draw_edges(rng: Rng, scene: Scene) -> NDArray[np.int64]:
    """Draw the black margins of each frame; they drift slowly and never reach the outline."""
    frames, height, width = scene.shape
    rows, columns = (np.flatnonzero(scene.outline.line.any(axis=axis)) for axis in (1, 0))
    room = np.array([columns[0], rows[0], width - 1 - columns[-1], height - 1 - rows[-1]])
    walk = np.cumsum(rng.normal(0, 0.7, (frames, 2)), axis=0)
    # A shift by registration adds to one side what it takes from the other.
    walk = np.column_stack([walk, -walk])
    wide = rng.exponential(6, 4) * (rng.random(4) < 0.8)
    return np.clip(np.rint(wide + walk), 0, np.maximum(room, 0)).astype(np.int64)
