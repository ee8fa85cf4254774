"""The outline: the contour that was drawn around one vessel segment, its box and its mask.

Recordings are grey, the outline is orange (drawn (255, 102, 0), decoded on average (245, 102, 10);
FACTS 5), so colour finds it. It must be found before any resizing: scaled down, it opens.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.errors import NoOutlineError, SeveralOutlinesError, UnreadableError
from stallscan.recording import Frames, Recording
from stallscan.settings import Settings

Mask = NDArray[np.bool_]

# Mean red minus mean blue of a pixel that belongs to the contour, blurred by chroma subsampling or
# resizing as it may be: at least a quarter of the drawn 255. Grey pixels have 0.
MEAN_RED_OVER_BLUE = 60.0
# Every n-th frame enters the mean picture: the outline stands still, noise in 1/n suffices.
MEAN_STRIDE = 4
# A contour that crosses fewer pixels than this is a speck (the real ones cross more than 140).
MIN_CONTOUR_PX = 40
# The smallest enclosed area, in pixels, that counts as outlined (real ones enclose more than
# 1,150; a 320 x 240 copy of one more than 400).
MIN_ENCLOSED_PX = 100


class ColourRule(NamedTuple):
    """A published search for the outline: bounds (inclusive) of R, G, B, and in which frames."""

    low: tuple[int, int, int]
    high: tuple[int, int, int]
    frames: Literal["first", "all"]


# FACTS 2 and 3; the first place writes its bounds in B, G, R order.
RULES: dict[str, ColourRule] = {
    "third-place": ColourRule((200, 0, 0), (255, 150, 150), "first"),
    "first-place": ColourRule((104, 13, 9), (255, 143, 98), "all"),
}


class OutlineSettings(Settings):
    """How the outline is found.

    Attributes
    ----------
    rule : str
        ``contour`` finds the drawn contour as a shape and is robust to resizing, specks and open
        ends; ``third-place`` and ``first-place`` are the published searches for its colour.
    """

    rule: Literal["contour", "third-place", "first-place"] = "contour"


class Box(NamedTuple):
    """A rectangle of pixels, half-open, rows before columns."""

    row0: int
    row1: int
    col0: int
    col1: int


@dataclass(frozen=True)
class Outline:
    """Where a segment is outlined.

    Attributes
    ----------
    box : Box
        The smallest rectangle around the contour's pixels.
    contour : ndarray
        bool (H, W): pixels coloured by the contour, its blurred edge included.
    mask : ndarray
        bool (H, W): pixels enclosed by the contour, itself excluded.
    is_closed : bool
        Whether contour (and image border) enclose the segment. If not, the mask is the convex
        hull of what was drawn.
    frames_outlined : int
        Frames in which the contour was seen.
    """

    box: Box
    contour: Mask
    mask: Mask
    is_closed: bool
    frames_outlined: int


def find(recording: Recording, settings: OutlineSettings | None = None) -> Outline:
    """Find the one outline in a recording.

    Raises
    ------
    NoOutlineError
        If nothing orange is drawn in the recording.
    SeveralOutlinesError
        If more than one segment is outlined (rule ``contour`` only; the published rules take all
        that is orange together).
    """
    settings = settings or OutlineSettings()
    if len(recording.shape) != 4:
        raise NoOutlineError(
            f"{recording.path}: the recording is grey, so no outline is drawn in it; "
            "draw a closed orange contour, RGB (255, 102, 0), around the segment to be judged"
        )
    rule = RULES["third-place" if settings.rule == "contour" else settings.rule]
    seen = _look(recording, rule)
    if settings.rule == "contour":
        return _contour_outline(recording, seen)
    pixels = seen.first if rule.frames == "first" else seen.hits > 0
    if not pixels.any():
        raise _nothing_drawn(recording)
    mask, is_closed = _enclosed(pixels)
    return Outline(_box(pixels), pixels, mask, is_closed, seen.frames_outlined)


class _Seen(NamedTuple):
    hits: NDArray[np.uint32]  # (H, W): frames in which the pixel follows the colour rule
    first: Mask  # (H, W): pixels that follow it in the first frame
    mean: NDArray[np.float32]  # (H, W, 3): mean picture
    frames_outlined: int


def _look(recording: Recording, rule: ColourRule) -> _Seen:
    """Go through all frames once."""
    _, height, width, _ = recording.shape
    hits = np.zeros((height, width), np.uint32)
    total = np.zeros((height, width, 3), np.uint32)
    first: Mask | None = None
    summed = position = frames_outlined = 0
    for chunk in recording.chunks():
        follows = _in_range(chunk, rule)
        if first is None:
            first = follows[0]
        hits += follows.sum(axis=0, dtype=np.uint32)
        frames_outlined += int((follows.sum(axis=(1, 2)) >= MIN_CONTOUR_PX).sum())
        sample = chunk[-position % MEAN_STRIDE :: MEAN_STRIDE]
        total += sample.sum(axis=0, dtype=np.uint32)
        summed += len(sample)
        position += len(chunk)
    if first is None:
        raise UnreadableError(f"{recording.path}: the file changed while it was read; try again")
    return _Seen(hits, first, (total / summed).astype(np.float32), frames_outlined)


def _in_range(frames: Frames, rule: ColourRule) -> Mask:
    count, height, width, _ = frames.shape
    tall = cv2.inRange(frames.reshape(count * height, width, 3), rule.low, rule.high)
    return np.asarray(tall, dtype=bool).reshape(count, height, width)


def _contour_outline(recording: Recording, seen: _Seen) -> Outline:
    red, green, blue = np.moveaxis(seen.mean, -1, 0)
    drawn = (red - blue >= MEAN_RED_OVER_BLUE) & (red > green) & (green >= blue)
    drawn = _without_specks(drawn)
    if not drawn.any():
        raise _nothing_drawn(recording)
    mask, is_closed = _enclosed(drawn)
    outlines = _count_enclosures(drawn, mask) if is_closed else 1
    if outlines > 1:
        raise SeveralOutlinesError(
            f"{recording.path}: {outlines} segments are outlined, expected one; "
            "make one recording for each outlined segment"
        )
    # The published colour where it is seen in any frame, so that boxes agree with the published
    # ones; the blurred colour where resizing has left nothing else.
    near = cv2.dilate(drawn.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    strong = near & (seen.hits > 0)
    box = _box(strong if strong.sum() >= MIN_CONTOUR_PX else drawn)
    return Outline(box, drawn, mask, is_closed, seen.frames_outlined)


def _nothing_drawn(recording: Recording) -> NoOutlineError:
    return NoOutlineError(
        f"{recording.path}: no outline found in any of its {len(recording)} frames; "
        "expected an orange contour, RGB (255, 102, 0), around the segment to be judged"
    )


def _without_specks(drawn: Mask) -> Mask:
    """Drop connected pieces that are too small to be part of a contour."""
    # Pieces of a contour with small gaps belong together: connect them before counting.
    bridged = cv2.dilate(drawn.astype(np.uint8), np.ones((5, 5), np.uint8))
    _, labels, _, _ = cv2.connectedComponentsWithStats(bridged, connectivity=8)
    sizes = np.bincount(labels[drawn], minlength=int(labels.max()) + 1)
    keep = sizes >= MIN_CONTOUR_PX
    keep[0] = False
    return np.asarray(drawn & keep[labels])


def _enclosed(drawn: Mask) -> tuple[Mask, bool]:
    """Fill the contour, with the image border closing it where it leaves the image.

    Returns
    -------
    mask, is_closed
        bool (H, W) without the contour itself, and whether anything was enclosed; if not, even
        over gaps of a few pixels, the mask is the convex hull.
    """
    hull = _hull(drawn)
    for gap in (1, 3, 5, 9):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
        # Pad by repetition so that closing works at the image border, too.
        padded = np.pad(drawn, gap, mode="edge").astype(np.uint8)
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[gap:-gap, gap:-gap] > 0
        mask = _holes(closed, hull) & ~drawn
        if mask.any():
            return mask, True
    return hull & ~drawn, False


def _holes(contour: Mask, hull: Mask) -> Mask:
    """Regions that the contour, together with the image border, cuts off from the rest."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        (~contour).astype(np.uint8), connectivity=4
    )
    areas = stats[:, cv2.CC_STAT_AREA]
    inside_hull = np.bincount(labels[hull], minlength=len(areas))
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    at_border = np.bincount(border, minlength=len(areas)) > 0
    regions = areas >= MIN_ENCLOSED_PX
    regions[0] = False
    # A region at the border is enclosed if the contour bends around it, which its convex hull
    # shows: the corners outside a tightly cropped outline lie mostly outside the hull.
    enclosed = regions & (~at_border | (inside_hull >= 0.9 * areas))
    if not enclosed.any():
        # An arc across a corner of the image: the region it cuts off is not in its hull.
        enclosed = regions & (areas < areas[regions].max(initial=0))
    return np.asarray(enclosed[labels])


def _hull(drawn: Mask) -> Mask:
    rows, cols = np.nonzero(drawn)
    points = np.stack([cols, rows], axis=1).astype(np.int32)
    filled: Any = np.zeros(drawn.shape, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return np.asarray(filled > 0)


def _count_enclosures(drawn: Mask, mask: Mask) -> int:
    """Count outlines: separate groups of contour and enclosed region."""
    together = cv2.dilate((drawn | mask).astype(np.uint8), np.ones((3, 3), np.uint8))
    count, labels = cv2.connectedComponents(together, connectivity=8)
    enclosed = np.bincount(labels[mask], minlength=count)
    return int((enclosed[1:] >= MIN_ENCLOSED_PX).sum())


def _box(pixels: Mask) -> Box:
    rows = np.flatnonzero(pixels.any(axis=1))
    cols = np.flatnonzero(pixels.any(axis=0))
    return Box(int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1)
