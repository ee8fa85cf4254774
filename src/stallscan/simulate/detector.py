"""The detector and the display: photons, noise, grey levels."""

import functools
import math
from collections.abc import Iterator

import cv2
import numpy as np
from scipy import special

from stallscan.simulate.imaging import Window
from stallscan.simulate.microscope import PHOTONS, Microscope, black_area
from stallscan.simulate.scene import F32, Image, Rng

# Poisson numbers are looked up by the square root of their mean, in steps of 1/8 of their standard
# deviation, up to a mean of 1,020; drawing each would take as long as the rest. Beyond, normal
# numbers serve, which are looked up, too. The tables are constant; only the choice of the entry is
# random.
LEVELS_PER_ROOT, LEVELS, SAMPLES = 16, 512, 1024
NORMALS = 1 << 16
# Five taps serve deviations up to that of the competition's recordings, px: 1.2 gives 1.1. Wider
# kernels would change these recordings, and a wider blur would be cut off: 2.0 gave 1.3.
TAPS, TAPS_SERVE_PX = 5, 1.2


@functools.cache
def _noise_tables() -> tuple[F32, F32]:
    # Evenly spaced quantiles, because a table of random samples would keep its sampling error.
    mean = (np.arange(LEVELS) / LEVELS_PER_ROOT) ** 2
    share = (np.arange(SAMPLES) + 0.5) / SAMPLES
    chance = special.pdtr(np.arange(mean[-1] + 6 * math.sqrt(mean[-1])), mean[:, None])
    poisson = np.concatenate([np.searchsorted(row, share) for row in chance])
    normal = special.ndtri((np.arange(NORMALS) + 0.5) / NORMALS)
    return poisson.astype(np.float32), normal.astype(np.float32)


def detect(
    light: F32, microscope: Microscope, rng: Rng, row_noise: F32 | None = None
) -> Iterator[F32]:
    """Add photon and detector noise to light, float32 (T, h, w); yield the frames in photons.

    `light` is the result of `render`. Each frame is float32 (h, w). The noise that a row shares is
    drawn unless it is given, in photons, float32 (T, h, 1).
    """
    poisson, normal = _noise_tables()
    shape = light.shape[1:]
    excess, read = np.float32(microscope.excess**2), np.float32(microscope.read_noise**2)
    # Up to the competition's photons only spots leave the table. They are white anyway, and stay at
    # its end, so that these recordings stay what they are.
    is_bright = microscope.photons > PHOTONS[1]
    to_level = np.float32(LEVELS_PER_ROOT * math.sqrt(microscope.photons))
    for frame, image in enumerate(light):
        level = np.sqrt(image)
        level *= to_level
        level += np.float32(0.5)
        # Lookups are twice as fast with indices of the machine's word size.
        index = np.minimum(level, LEVELS - 1).astype(np.intp)
        index *= SAMPLES
        # 32 random bits per pixel: the low 10 choose the Poisson number, the high 16 the normal.
        drawn = rng.integers(0, 1 << 32, shape, np.uint32).astype(np.intp)
        index += drawn & (SAMPLES - 1)
        photons = np.take(poisson, index, mode="clip")
        if is_bright and (many := level >= LEVELS).any():
            # The low 16 bits, which chose an entry of the table, choose a normal number instead.
            root = (level[many] - np.float32(0.5)) / np.float32(LEVELS_PER_ROOT)  # of the mean
            photons[many] = root * (root + normal[drawn[many] & (NORMALS - 1)])
        noise = np.sqrt(excess * photons + read)
        drawn >>= 16
        noise *= np.take(normal, drawn, mode="clip")
        photons += noise
        if row_noise is not None:
            photons += row_noise[frame]
        elif microscope.row_noise:
            photons += rng.normal(0, microscope.row_noise, (shape[0], 1)).astype(np.float32)
        if max(microscope.blur_px) > 0:
            # OpenCV would replace a deviation of 0 by one of its own.
            along_x, along_y = (max(deviation, 0.01) for deviation in microscope.blur_px)
            # With 0 OpenCV chooses the number of taps.
            taps = [TAPS if px <= TAPS_SERVE_PX else 0 for px in (along_x, along_y)]
            photons = np.asarray(
                cv2.GaussianBlur(photons, taps, along_x, sigmaY=along_y), np.float32
            )
        yield photons


def expose(light: F32, microscope: Microscope, window: Window, rng: Rng) -> Image:
    """Add noise to light, float32 (T, h, w), and convert it to the grey levels of the display.

    `light` is the result of `render` for the same window. Returns uint8 (T, h, w).
    """
    grey = np.empty(light.shape, np.uint8)
    for frame, photons in enumerate(detect(light, microscope, rng)):
        photons -= np.float32(microscope.black_photons)
        photons *= np.float32(microscope.grey_per_photon)
        np.clip(photons, 0, 255, out=photons)
        if microscope.gamma != 1:
            photons = np.float32(255) * (photons / np.float32(255)) ** np.float32(microscope.gamma)
        grey[frame] = photons
        grey[frame][black_area(microscope, frame, window.rows, window.columns)] = 0
    return grey
