"""The third place's preprocessing, frame by frame, from its description (docs/facts.md 2)."""

import cv2
import numpy as np

from stallscan.recordings.recording import Frames


def box(frame: Frames) -> tuple[int, int, int, int]:
    """First and last row and column (half-open) of what is orange in a frame (H, W, 3)."""
    red, green, blue = (frame[..., channel].astype(int) for channel in range(3))
    rows, cols = np.where((red >= 200) & (green <= 150) & (blue <= 150))
    return rows.min(), rows.max() + 1, cols.min(), cols.max() + 1


def clip(frames: Frames) -> Frames:
    """Crop (T, H, W, 3) by the first frame, with the margin, and resize to (T, 112, 112, 3)."""
    top, bottom, left, right = box(frames[0])
    top, bottom = max(top - 5, 0), min(bottom - 1 + 5, frames.shape[1])
    left, right = max(left - 5, 0), min(right - 1 + 5, frames.shape[2])
    return np.stack(
        [
            cv2.resize(frame[top:bottom, left:right], (112, 112), interpolation=cv2.INTER_AREA)
            for frame in frames
        ]
    )
