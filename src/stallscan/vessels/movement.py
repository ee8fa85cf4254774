"""Whether an outline stays in its place."""

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.errors import NoOutlineError
from stallscan.recordings.recording import Box, Recording
from stallscan.vessels import enclosure
from stallscan.vessels.colours import MEAN_RED_OVER_BLUE, warmth
from stallscan.vessels.enclosure import Mask

MOVEMENT_FRAMES = 3
# Two frames whose contours are at least this much alike (cosine) need no closer look: moving by
# the half of a line's width makes it 0.6.
UNMOVED_LIKENESS = 0.8
# Still outlines move by less than a pixel when encoded. One that moves by a larger share of the
# smaller side of its box encloses something else in the end.
MOVED_PX = 2.0
MOST_MOVED_SHARE = 0.25
# Farther movement is measured by the first and the last frame.
MATCHED_PX = 8


def moved_px(recording: Recording, around: Box, line: Mask, shown: NDArray[np.intp]) -> float:
    """Compare where a contour is in some of the frames that show it; pixels, to the next even one.

    The place of the best correlation does not change if parts of the contour are hidden.
    """
    reach = MATCHED_PX // 2 + 1
    half = (slice(None, None, 2), slice(None, None, 2))
    near = cv2.dilate(line[half].astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8))
    chosen = shown[np.linspace(0, len(shown) - 1, MOVEMENT_FRAMES).astype(int)]
    parts = []
    start = 0
    for chunk in recording.chunks(around):
        few = chunk[chosen[(chosen >= start) & (chosen < start + len(chunk))] - start, *half]
        parts.append(few[..., 0].astype(np.float32) - few[..., 2])
        start += len(chunk)
    pictures = np.maximum(np.concatenate(parts), 0) * near
    flat = pictures.reshape(len(pictures), -1)
    alike = flat @ flat.T
    likeness = alike[0] / np.sqrt(alike[0, 0] * alike.diagonal() + 1)
    bordered = cv2.copyMakeBorder(pictures[0], *(reach,) * 4, cv2.BORDER_CONSTANT)
    farthest = 0.0
    for picture in pictures[likeness < UNMOVED_LIKENESS]:
        places = cv2.matchTemplate(bordered, picture, cv2.TM_CCORR)
        row, col = np.unravel_index(int(places.argmax()), places.shape)
        farthest = max(farthest, 2 * float(np.hypot(row - reach, col - reach)))
    return farthest


def moving_outline(recording: Recording, px: float) -> NoOutlineError:
    """Make the error of an outline that does not stay in its place."""
    return NoOutlineError(
        f"{recording.path}: the outline moves by {px:.0f} pixels or more, so it does not enclose "
        "the same segment in all frames. Draw it at the same place in every frame"
    )


def frames_drawn_in(recording: Recording, part: Box) -> NDArray[np.bool_]:
    """Say of every frame, bool (T,), whether as much is drawn in it as in those with the most."""
    counts = []
    for chunk in recording.chunks(part):
        excess = cv2.subtract(chunk[..., 0], chunk[..., 2])
        counts.append(np.count_nonzero(excess >= MEAN_RED_OVER_BLUE, axis=(1, 2)))
    count = np.concatenate(counts)
    return np.asarray(count >= max(enclosure.MIN_CONTOUR_PX, 0.5 * count.max()))


def displacement(recording: Recording) -> float | None:
    """Measure how far the outline of the last frame is from that of the first one, pixels.

    None unless each has one.
    """
    centres = []
    first = next(recording.chunks())[0]
    *_, last = recording.chunks()
    for frame in (first, last[-1]):
        _, found = enclosure.find(warmth(frame.astype(np.float32)), 0)
        if len(found) != 1:
            return None
        centres.append(np.argwhere(found[0].line).mean(axis=0))
    return float(np.hypot(*(centres[1] - centres[0])))
