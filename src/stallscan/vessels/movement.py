"""Whether an outline stays in place."""

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.errors import NoOutlineError
from stallscan.recordings.recording import Box, Recording
from stallscan.vessels import enclosure
from stallscan.vessels.colours import MEAN_RED_OVER_BLUE, warmth
from stallscan.vessels.enclosure import Mask

MOVEMENT_FRAMES = 3
# Contours at least this similar (cosine) have not moved: moving by half the width of the line
# reduces the similarity to 0.6.
UNMOVED_LIKENESS = 0.8
# Encoding moves a still outline by less than a pixel.
MOVED_PX = 2.0
# An outline that moves by more than this share of the shorter side of its box ends up enclosing
# something else.
MOST_MOVED_SHARE = 0.25
# Larger movements are measured from the first to the last frame.
MATCHED_PX = 8


def moved_px(recording: Recording, around: Box, line: Mask, shown: NDArray[np.intp]) -> float:
    """Return how far a contour moves between some of the frames that show it, in pixels.

    The shift of the best correlation is measured at half the resolution. It does not change if
    parts of the contour are hidden.

    Parameters
    ----------
    recording : Recording
        In colour.
    around : Box
        The contour with a margin.
    line : ndarray
        bool (h, w), the size of `around`: pixels of the contour.
    shown : ndarray
        int (n,): frames that show the contour.
    """
    reach = MATCHED_PX // 2 + 1
    half = (slice(None, None, 2), slice(None, None, 2))
    near = cv2.dilate(line[half].astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8))
    chosen = shown[np.linspace(0, len(shown) - 1, MOVEMENT_FRAMES).astype(int)]
    excesses = []  # red minus blue, (n, h / 2, w / 2)
    start = 0
    for chunk in recording.chunks(around):
        frames = chunk[chosen[(chosen >= start) & (chosen < start + len(chunk))] - start, *half]
        excesses.append(frames[..., 0].astype(np.float32) - frames[..., 2])
        start += len(chunk)
    pictures = np.maximum(np.concatenate(excesses), 0) * near
    flat = pictures.reshape(len(pictures), -1)
    products = flat @ flat.T  # (n, n)
    likeness = products[0] / np.sqrt(products[0, 0] * products.diagonal() + 1)
    bordered = cv2.copyMakeBorder(pictures[0], *(reach,) * 4, cv2.BORDER_CONSTANT)
    farthest = 0.0
    for picture in pictures[likeness < UNMOVED_LIKENESS]:
        # One value for each shift of up to `reach`: (2 * reach + 1, 2 * reach + 1).
        correlation = cv2.matchTemplate(bordered, picture, cv2.TM_CCORR)
        row, col = np.unravel_index(int(correlation.argmax()), correlation.shape)
        farthest = max(farthest, 2 * float(np.hypot(row - reach, col - reach)))
    return farthest


def moving_outline(recording: Recording, px: float) -> NoOutlineError:
    """Return the error for an outline that moves too far."""
    return NoOutlineError(
        f"{recording.path}: the outline moves by {px:.0f} pixels or more, so it does not enclose "
        "the same segment in all frames. Draw it in the same place in every frame"
    )


def frames_drawn_in(recording: Recording, box: Box) -> NDArray[np.bool_]:
    """Return which frames show at least half as much contour as any other: bool (T,)."""
    counts = []
    for chunk in recording.chunks(box):
        # OpenCV drops the last axis of frames that are a pixel wide.
        excess = cv2.subtract(chunk[..., 0], chunk[..., 2]).reshape(chunk.shape[:3])
        counts.append(np.count_nonzero(excess >= MEAN_RED_OVER_BLUE, axis=(1, 2)))
    count = np.concatenate(counts)
    return np.asarray(count >= max(enclosure.MIN_CONTOUR_PX, 0.5 * count.max()))


def displacement(recording: Recording) -> float | None:
    """Return the distance between the outlines of the first and the last frame, in pixels.

    None unless each has exactly one outline.
    """
    centres = []
    first = next(recording.chunks())[0]
    *_, last = recording.chunks()
    for frame in (first, last[-1]):
        _, outlines = enclosure.find(warmth(frame.astype(np.float32)), 0)
        if len(outlines) != 1:
            return None
        centres.append(np.argwhere(outlines[0].line).mean(axis=0))
    return float(np.hypot(*(centres[1] - centres[0])))
