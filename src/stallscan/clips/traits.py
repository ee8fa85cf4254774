"""What can be measured of any recording inside its outline, whatever it shows.

The traits tell whether a recording can be judged at all (`gradable`), and whether recordings are
like those that a bundle was trained on (`bundle.reference`).
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.recordings.recording import Frames

Floats = NDArray[np.float64]

# Grey levels up to this one are black, in one frame or in all: the codec rings by a few.
BLACK = 8
# A frame is black where so much of it is.
_BLACK_SHARE = 0.98
# A frame is in focus whose contrast is at least this share of the highest that more than one frame
# has: a flash is no vessel.
_FOCUS = 0.5
# Side of the box that grey levels are averaged in before light is looked for, px: noise goes, and
# a capillary (4 to 8 px, docs/facts.md 5) stays.
_LIGHT_PX = 5
# Percentile of a region that a vessel is brighter than, however little of the region it fills.
_BRIGHT = 97

# All chosen, far from what was seen: of 400 simulated recordings (and five real ones) light 106
# and more (178), contrast 45 and more (15), frames in focus 5 and more (13), never lit at most 0.44
# (0.02), black in between at most 0.30 (0).
DARKEST_LIGHT = 30
FAINTEST_CONTRAST = 6
FEWEST_IN_FOCUS = 3
MOST_NEVER_LIT = 0.7
MOST_BLACK_BETWEEN = 0.5


class Traits(NamedTuple):
    """Of one recording, inside its outline.

    Attributes
    ----------
    rows_px, cols_px : float
        Size of the outline's box.
    frames : float
        How many.
    grey_low, grey_middle, grey_high : float
        5th, 50th and 95th percentile of the grey levels, 0..255.
    change : float
        Median change of a pixel from frame to frame, grey levels.
    likeness : float
        Median correlation of neighbouring frames, -1..1.
    light : float
        How bright the brightest 3 % of the region get in any frame, grey levels.
    contrast : float
        How far the vessel stands out of its surroundings where it does so best, grey levels.
    frames_in_focus : float
        Frames with at least half of that contrast.
    never_lit : float
        Share of the region that is black in every frame, 0..1.
    black_between : float
        Share of black frames between the first and the last in focus, 0..1.
    """

    rows_px: float
    cols_px: float
    frames: float
    grey_low: float
    grey_middle: float
    grey_high: float
    change: float
    likeness: float
    light: float
    contrast: float
    frames_in_focus: float
    never_lit: float
    black_between: float


class Gatherer:
    """Measures the traits of a recording whose frames come some at a time.

    Parameters
    ----------
    mask : ndarray
        bool (h, w): what the outline encloses, in the crop that `add` is given.
    size : tuple of int
        Rows and columns of the outline's box.
    """

    def __init__(self, mask: NDArray[np.bool_], size: tuple[int, int]) -> None:
        # The contour's ringing reaches a pixel inside, and the blur as far again as its own reach.
        self._mask = _inner(mask, 1)
        self._deep = _inner(self._mask, _LIGHT_PX // 2)
        self._size = size
        self._levels = np.zeros(256, np.int64)
        self._changes = np.zeros(256, np.int64)
        self._likeness: list[float] = []
        self._contrast: list[Floats] = []
        self._black: list[Floats] = []
        self._last: NDArray[np.uint8] | None = None
        self._brightest = np.zeros(int(self._mask.sum()), np.uint8)
        self._lightest = np.zeros(int(self._deep.sum()), np.uint8)

    def add(self, grey: Frames) -> None:
        """Take the next frames, uint8 (n, h, w)."""
        inside = grey[:, self._mask]
        blurred = np.stack([cv2.blur(frame, (_LIGHT_PX, _LIGHT_PX)) for frame in grey])
        light = blurred[:, self._deep]
        self._levels += np.bincount(inside.ravel(), minlength=256)
        self._black.append((inside <= BLACK).mean(axis=1))
        middle, high = np.percentile(light, [50, _BRIGHT], axis=1)
        self._contrast.append(high - middle)
        self._brightest = np.maximum(self._brightest, inside.max(axis=0))
        self._lightest = np.maximum(self._lightest, light.max(axis=0))
        run = inside if self._last is None else np.concatenate([self._last[np.newaxis], inside])
        self._last = inside[-1]
        if len(run) > 1:
            changes = cv2.absdiff(run[1:], run[:-1])
            self._changes += np.bincount(changes.ravel(), minlength=256)
            self._likeness += _correlations(run).tolist()

    def traits(self) -> Traits:
        """Give the traits of all that was added: two frames at least."""
        contrast, black = np.concatenate(self._contrast), np.concatenate(self._black)
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
    """Say whether a recording can be judged.

    Returns
    -------
    status : str
        ``ok``, ``too_dark``, ``out_of_view`` or ``out_of_focus``.
    reason : str
        What is wrong and what to do, the end of a sentence; empty if nothing is.
    """
    if traits.light < DARKEST_LIGHT:
        return "too_dark", (
            f"nothing inside the outline gets brighter than grey level {traits.light:.0f} of 255; "
            "raise the contrast of the export, or leave this vessel out"
        )
    if traits.never_lit > MOST_NEVER_LIT:
        return "out_of_view", (
            f"{traits.never_lit:.0%} of the outlined region is black in every frame; outline what "
            "lies inside the field of view"
        )
    if traits.black_between > MOST_BLACK_BETWEEN:
        return "out_of_view", (
            f"the outlined region is black in {traits.black_between:.0%} of the frames between the "
            "first and the last that show it; register the stack anew, or leave this vessel out"
        )
    if traits.contrast < FAINTEST_CONTRAST:
        return "out_of_focus", (
            "no vessel stands out of its surroundings inside the outline for more than a frame; "
            "outline one that does, or leave this one out"
        )
    if traits.frames_in_focus < FEWEST_IN_FOCUS:
        return "out_of_focus", (
            f"the outlined region is in focus in {traits.frames_in_focus:.0f} frames, at least "
            f"{FEWEST_IN_FOCUS} are needed; export more planes above and below the vessel"
        )
    return "ok", ""


def _inner(mask: NDArray[np.bool_], px: int) -> NDArray[np.bool_]:
    """Take the rim off a mask, unless nothing is left; one that is empty is taken whole."""
    square = np.ones((2 * px + 1, 2 * px + 1), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), square) > 0
    return next((each for each in (inner, mask) if each.any()), np.ones_like(mask))


def _correlations(frames: NDArray[np.uint8]) -> Floats:
    """Correlate each frame (n, pixels) with the next; even ones are like each other."""
    centred = frames - frames.mean(axis=1, keepdims=True, dtype=np.float32)
    spread = np.sqrt(np.einsum("ij,ij->i", centred, centred))
    together = np.einsum("ij,ij->i", centred[1:], centred[:-1])
    product = (spread[1:] * spread[:-1]).astype(np.float64)
    alike = np.ones(len(product))
    np.divide(together, product, out=alike, where=product > 0)
    return alike


def _percentiles(counts: NDArray[np.int64], wanted: tuple[int, ...]) -> list[float]:
    """Percentiles of grey levels of which the counts are known."""
    total = np.cumsum(counts)
    if total[-1] == 0:
        return [0.0] * len(wanted)
    return [float(np.searchsorted(total, total[-1] * each / 100)) for each in wanted]
