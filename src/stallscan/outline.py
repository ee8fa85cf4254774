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
from stallscan.recording import Box, Frames, Recording, whole
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
# Pixels around the contour that are looked at with it: more than the widest gap that is closed
# reaches, and than most clips show beyond it.
AROUND_PX = 12


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
        Frames in which the contour was seen, there or near it.
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
    # Outside of this part the mean of the frames is no contour, or no frame follows the rule.
    if settings.rule == "contour":
        part = recording.coloured(MEAN_RED_OVER_BLUE, MEAN_STRIDE)
    else:
        part = recording.coloured(rule.low[0] - rule.high[2])
    if part is None:
        raise _nothing_drawn(recording)
    seen = _look(recording, rule, part)
    if settings.rule == "contour":
        return _contour_outline(recording, seen)
    pixels = seen.first if rule.frames == "first" else seen.hit
    if not pixels.any():
        raise _nothing_drawn(recording)
    mask, is_closed = _enclosed(pixels, seen.beyond)
    return seen.outline(_box(pixels), pixels, mask, is_closed)


@dataclass
class _Seen:
    """What all frames show where there may be an outline.

    Attributes
    ----------
    frame : tuple of int
        (H, W) of the recording.
    where : Box
        What was looked at: all that may be outline with room around it, which may reach beyond the
        frame; or, where the outline may reach its border, the whole frame. All arrays have its
        shape (h, w).
    hit : ndarray
        bool (h, w): pixels that follow the colour rule in any frame.
    first : ndarray
        bool (h, w): pixels that follow it in the first frame.
    mean : ndarray
        float32 (h, w, 3): mean picture.
    frames_outlined : int
        Frames with enough pixels that follow it.
    """

    frame: tuple[int, int]
    where: Box
    hit: Mask
    first: Mask
    mean: NDArray[np.float32]
    frames_outlined: int = 0

    @property
    def beyond(self) -> int:
        """Pixels by which the frame is larger than `where`."""
        return self.frame[0] * self.frame[1] - self.hit.size

    def outline(self, box: Box, contour: Mask, mask: Mask, is_closed: bool) -> Outline:
        """Say of what was found in `where` what it is in the frame."""
        row, col = self.where.row0, self.where.col0
        in_frame = Box(box.row0 + row, box.row1 + row, box.col0 + col, box.col1 + col)
        contour, mask = self._in_frame(contour), self._in_frame(mask)
        return Outline(in_frame, contour, mask, is_closed, self.frames_outlined)

    def _in_frame(self, pixels: Mask) -> Mask:
        shown = self.where.grown(0, self.frame)
        made = np.zeros(self.frame, bool)
        made[shown.slices] = pixels[shown.seen_from(self.where).slices]
        return made


def _look(recording: Recording, rule: ColourRule, part: Box) -> _Seen:
    """Go through all frames once; nothing is outlined outside of `part`."""
    height, width = recording.shape[1:3]
    around = part.grown(AROUND_PX, (height, width))
    where = part.grown(AROUND_PX)
    # How regions lie to the border of the image counts where the contour may reach it.
    if part.grown(1, (height, width)) != part.grown(1):
        where = whole((height, width))
    seen = _Seen(
        (height, width),
        where,
        np.zeros(where.shape, bool),
        np.zeros(where.shape, bool),
        np.zeros((*where.shape, 3), np.float32),
    )
    inside = around.seen_from(where)
    hit = seen.hit[inside.slices]
    total = np.zeros((*around.shape, 3))
    summed = position = 0
    for chunk in recording.chunks(around):
        follows = _in_range(chunk, rule)
        if position == 0:
            seen.first[inside.slices] = follows[0]
        hit |= follows.any(axis=0)
        count = (cv2.countNonZero(each) for each in follows.view(np.uint8))
        seen.frames_outlined += sum(pixels >= MIN_CONTOUR_PX for pixels in count)
        sample = chunk[-position % MEAN_STRIDE :: MEAN_STRIDE]
        if len(sample):
            flat = sample.reshape(len(sample), -1)
            total += cv2.reduce(flat, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).reshape(total.shape)
        summed += len(sample)
        position += len(chunk)
    if not summed:
        raise UnreadableError(f"{recording.path}: the file changed while it was read; try again")
    seen.mean[inside.slices] = total / summed
    return seen


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
    mask, is_closed = _enclosed(drawn, seen.beyond)
    outlines = _count_enclosures(drawn, mask) if is_closed else 1
    if outlines > 1:
        raise SeveralOutlinesError(
            f"{recording.path}: {outlines} segments are outlined, expected one; "
            "make one recording for each outlined segment"
        )
    # The published colour where it is seen in any frame, so that boxes agree with the published
    # ones; the blurred colour where resizing has left nothing else.
    near = cv2.dilate(drawn.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    strong = near & seen.hit
    box = _box(strong if strong.sum() >= MIN_CONTOUR_PX else drawn)
    return seen.outline(box, drawn, mask, is_closed)


def _nothing_drawn(recording: Recording) -> NoOutlineError:
    return NoOutlineError(
        f"{recording.path}: no outline found in any of its {len(recording)} frames; "
        "expected an orange contour, RGB (255, 102, 0), around the segment to be judged"
    )


def _without_specks(drawn: Mask) -> Mask:
    """Drop connected pieces that are too small to be part of a contour."""
    # Pieces of a contour with small gaps belong together: connect them before counting.
    bridged = cv2.dilate(drawn.astype(np.uint8), np.ones((5, 5), np.uint8))
    _, labels = cv2.connectedComponents(bridged, connectivity=8)
    sizes = np.bincount(labels[drawn], minlength=int(labels.max()) + 1)
    keep = sizes >= MIN_CONTOUR_PX
    keep[0] = False
    return np.asarray(drawn & keep[labels])


def _enclosed(drawn: Mask, beyond: int) -> tuple[Mask, bool]:
    """Fill the contour, with the image border closing it where it leaves the image.

    Parameters
    ----------
    drawn : ndarray
        bool (h, w): the contour.
    beyond : int
        Pixels by which the image is larger than this part; 0 for the whole image. The border of a
        part is not that of the image: the contour does not reach either.

    Returns
    -------
    mask, is_closed
        bool (h, w) without the contour itself, and whether anything was enclosed; if not, even
        over gaps of a few pixels, the mask is the convex hull.
    """
    hull = _hull(drawn)
    for gap in (1, 3, 5, 9):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
        # Pad by repetition so that closing works at the image border, too.
        padded = np.pad(drawn, gap, mode="edge").astype(np.uint8)
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[gap:-gap, gap:-gap] > 0
        mask = _holes(closed, hull, beyond) & ~drawn
        if mask.any():
            return mask, True
    return hull & ~drawn, False


def _holes(contour: Mask, hull: Mask, beyond: int) -> Mask:
    """Regions that the contour, together with the image border, cuts off from the rest."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        (~contour).astype(np.uint8), connectivity=4
    )
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[labels[0, 0]] += beyond
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
