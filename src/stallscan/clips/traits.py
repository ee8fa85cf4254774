"""Traits: simple measurements of a recording inside its outline.

They decide whether a recording can be judged at all (`gradable`) and whether it resembles the
recordings that a bundle was trained on (`bundle.reference`).
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.recordings.recording import Frames

Floats = NDArray[np.float64]

# Grey levels up to this one count as black, because the codec changes black by a few levels.
BLACK = 8
# A frame is black if at least this share of the region is.
_BLACK_SHARE = 0.98
# A frame is in focus if its contrast is at least this share of the highest contrast.
_FOCUS = 0.5
# Side of the box filter applied before brightness is measured, px: it averages noise out and keeps
# a capillary (4 to 8 px wide, docs/facts.md 5).
_LIGHT_PX = 5
# Percentile of the region's brightness that counts as the vessel, even if the vessel is small.
_BRIGHT = 97

# Chosen limits, far from the values of 400 simulated recordings (of five real ones): light at least
# 106 (178), contrast at least 45 (15), frames in focus at least 5 (13), never lit at most 0.44
# (0.02), black between at most 0.30 (0).
DARKEST_LIGHT = 30
FAINTEST_CONTRAST = 6
FEWEST_IN_FOCUS = 3
MOST_NEVER_LIT = 0.7
MOST_BLACK_BETWEEN = 0.5


class Traits(NamedTuple):
    """Measurements of one recording inside its outline. Grey levels are 0..255."""

    rows_px: float  # size of the outline's box
    cols_px: float
    frames: float  # number of frames
    grey_low: float  # 5th, 50th and 95th percentile of the grey levels
    grey_middle: float
    grey_high: float
    change: float  # median change of a pixel from frame to frame, grey levels
    likeness: float  # median correlation of neighbouring frames, -1..1
    light: float  # grey level that the brightest 3 % of the region reach in any frame
    contrast: float  # difference between the vessel and its surroundings at its best, grey levels
    frames_in_focus: float  # frames with at least half of that contrast
    never_lit: float  # share of the region that is black in every frame, 0..1
    black_between: float  # share of black frames between the first and last in focus, 0..1


class Gatherer:
    """Measures the traits of a recording whose frames arrive in chunks.

    Parameters
    ----------
    mask : ndarray
        bool (h, w): the pixels inside the outline, in the crop that `add` gets.
    size : tuple of int
        Rows and columns of the outline's box.
    """

    def __init__(self, mask: NDArray[np.bool_], size: tuple[int, int]) -> None:
        # The contour's ringing reaches one pixel inside, and the box filter half its width further.
        self._mask = _inner(mask, 1)
        self._deep = _inner(self._mask, _LIGHT_PX // 2)
        self._size = size
        self._levels = np.zeros(256, np.int64)  # histogram of the grey levels inside
        self._changes = np.zeros(256, np.int64)  # and of their changes from frame to frame
        self._likeness: list[float] = []  # one per pair of neighbouring frames
        self._contrast: list[Floats] = []  # one value per frame, in chunks
        self._black: list[Floats] = []
        self._last: NDArray[np.uint8] | None = None
        self._brightest = np.zeros(int(self._mask.sum()), np.uint8)  # maximum over the frames
        self._lightest = np.zeros(int(self._deep.sum()), np.uint8)  # the same after the filter

    def add(self, grey: Frames) -> None:
        """Add the next frames, uint8 (n, h, w)."""
        inside = grey[:, self._mask]  # (n, pixels inside)
        blurred = np.stack([cv2.blur(frame, (_LIGHT_PX, _LIGHT_PX)) for frame in grey])
        light = blurred[:, self._deep]  # (n, pixels deep inside)
        self._levels += np.bincount(inside.ravel(), minlength=256)
        self._black.append((inside <= BLACK).mean(axis=1))
        middle, high = np.percentile(light, [50, _BRIGHT], axis=1)  # (n,) each
        self._contrast.append(high - middle)
        self._brightest = np.maximum(self._brightest, inside.max(axis=0))
        self._lightest = np.maximum(self._lightest, light.max(axis=0))
        # The last frame of the previous chunk belongs to the first pair of this one.
        run = inside if self._last is None else np.concatenate([self._last[np.newaxis], inside])
        self._last = inside[-1]
        if len(run) > 1:
            changes = cv2.absdiff(run[1:], run[:-1])
            self._changes += np.bincount(changes.ravel(), minlength=256)
            self._likeness += _correlations(run).tolist()

    def traits(self) -> Traits:
        """Return the traits of all frames added so far; at least two are needed."""
        contrast, black = np.concatenate(self._contrast), np.concatenate(self._black)  # (T,)
        # The median of three frames ignores a flash in a single frame.
        threes = np.lib.stride_tricks.sliding_window_view(np.pad(contrast, 1, mode="reflect"), 3)
        best = float(np.median(threes, axis=1).max())
        focus = np.flatnonzero(contrast >= _FOCUS * best)
        between = black[focus[0] : focus[-1] + 1]
        low, middle, high = _percentiles(self._levels, (5, 50, 95))
        return Traits(
            rows_px=self._size[0],
            cols_px=self._size[1],
            frames=len(black),
            grey_low=low,
            grey_middle=middle,
            grey_high=high,
            change=_percentiles(self._changes, (50,))[0],
            likeness=round(float(np.median(self._likeness)), 4) if self._likeness else 1.0,
            light=float(np.percentile(self._lightest, _BRIGHT)),
            contrast=round(best, 4),
            frames_in_focus=len(focus),
            never_lit=round(float((self._brightest <= BLACK).mean()), 4),
            black_between=round(float((between >= _BLACK_SHARE).mean()), 4),
        )


def gradable(traits: Traits) -> tuple[str, str]:
    """Check whether a recording can be judged.

    Returns
    -------
    status : str
        ``ok``, ``too_dark``, ``out_of_view`` or ``out_of_focus``.
    reason : str
        What is wrong and what to do, to follow "FILE: "; empty for ``ok``.
    """
    if traits.light < DARKEST_LIGHT:
        return "too_dark", (
            f"the brightest pixels inside the outline reach only grey level {traits.light:.0f} of "
            "255. Export the recording with more contrast, or leave this vessel out"
        )
    if traits.never_lit > MOST_NEVER_LIT:
        return "out_of_view", (
            f"{traits.never_lit:.0%} of the outlined region is black in every frame. Outline a "
            "region inside the field of view"
        )
    if traits.black_between > MOST_BLACK_BETWEEN:
        return "out_of_view", (
            f"the outlined region is black in {traits.black_between:.0%} of the frames between the "
            "first and the last that show it. Register the stack again, or leave this vessel out"
        )
    if traits.contrast < FAINTEST_CONTRAST:
        return "out_of_focus", (
            "no vessel inside the outline is brighter than its surroundings in more than one "
            "frame. Outline a visible vessel, or leave this one out"
        )
    if traits.frames_in_focus < FEWEST_IN_FOCUS:
        return "out_of_focus", (
            f"the outlined region is in focus in {traits.frames_in_focus:.0f} frames, but at least "
            f"{FEWEST_IN_FOCUS} are needed. Export more planes above and below the vessel"
        )
    return "ok", ""


def _inner(mask: NDArray[np.bool_], px: int) -> NDArray[np.bool_]:
    """Erode a mask unless that empties it; replace an empty mask by the whole crop."""
    square = np.ones((2 * px + 1, 2 * px + 1), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), square) > 0
    return next((each for each in (inner, mask) if each.any()), np.ones_like(mask))


def _correlations(frames: NDArray[np.uint8]) -> Floats:
    """Correlate each frame of (n, pixels) with the next, (n - 1,); uniform frames give 1."""
    centred = frames - frames.mean(axis=1, keepdims=True, dtype=np.float32)
    spread = np.sqrt(np.einsum("ij,ij->i", centred, centred))
    together = np.einsum("ij,ij->i", centred[1:], centred[:-1])
    product = (spread[1:] * spread[:-1]).astype(np.float64)
    alike = np.ones(len(product))
    np.divide(together, product, out=alike, where=product > 0)
    return alike


def _percentiles(counts: NDArray[np.int64], wanted: tuple[int, ...]) -> list[float]:
    """Return percentiles of grey levels from their histogram (256,)."""
    total = np.cumsum(counts)
    if total[-1] == 0:
        return [0.0] * len(wanted)
    return [float(np.searchsorted(total, total[-1] * percent / 100)) for percent in wanted]
