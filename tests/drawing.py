"""Recordings drawn by hand for the tests: grey noise with an orange outline."""

from pathlib import Path

import cv2
import numpy as np

from stallscan.recordings import encode
from stallscan.recordings.recording import Frames

ORANGE = (255, 102, 0)


def frames(
    count: int = 8,
    height: int = 96,
    width: int = 128,
    *,
    contours: int = 1,
    seed: int = 0,
) -> Frames:
    """uint8 (T, H, W, 3): noise, and ellipses of half-axes (20, 14) drawn 3 px wide."""
    random = np.random.default_rng(seed)
    grey = random.integers(0, 120, (count, height, width), dtype=np.uint8)
    recording = np.repeat(grey[..., None], 3, axis=-1)
    for index in range(contours):
        for frame in recording:
            centre = (32 + 60 * index, 40)
            cv2.ellipse(frame, centre, (20, 14), 0, 0, 360, ORANGE, 3)
    return recording


def write(path: Path, **options: int) -> Path:
    """Encode such a recording as the competition's H.264."""
    encode.write_video(path, frames(**options))
    return path


def write_dark(path: Path) -> Path:
    """Write a recording in which nothing inside the outline is bright enough to be judged."""
    dark = frames(count=12)
    inside = dark[:, 28:53, 15:50]
    inside[~(inside == ORANGE).all(axis=-1)] //= 8
    encode.write_video(path, dark)
    return path
