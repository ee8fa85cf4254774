"""The outline: the contour drawn around one vessel segment, with its box and mask.

Recordings are grey and the outline is orange (drawn (255, 102, 0), decoded on average
(245, 102, 10); docs/facts.md 5), so it is found by its colour: any hue from red to yellow. A
drawing in such a colour is an outline only if it encloses a segment. Outlines must be found before
resizing, because downscaling opens them.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.errors import NoOutlineError, SeveralOutlinesError, UnreadableError
from stallscan.recordings.recording import Box, Frames, Recording, whole
from stallscan.settings import Settings
from stallscan.vessels import enclosure
from stallscan.vessels.colours import MEAN_RED_OVER_BLUE, RULES, ColourRule, in_range, warmth
from stallscan.vessels.enclosure import Enclosure, Mask
from stallscan.vessels.movement import (
    MATCHED_PX,
    MOST_MOVED_SHARE,
    MOVED_PX,
    displacement,
    frames_drawn_in,
    moved_px,
    moving_outline,
)

# Only every n-th frame enters the mean: the outline does not move, and noise averages out anyway.
MEAN_STRIDE = 4
# Margin around the contour that is processed with it: more than the widest gap that is closed, and
# than most clips show around the outline.
AROUND_PX = enclosure.AROUND_PX
# About this many pixels of the contour are checked in each frame, to see whether it is drawn there.
LOOKED_AT_PX = 60
# How far the box of the published colour may differ from that of the contour, in pixels.
STRONG_AWAY_PX = 4
# A translucent filling raises red minus blue of the inside above the outside by at least this.
FILLED_RED_OVER_BLUE = 15.0
# A pixel is coloured if its highest and lowest channels differ by this share of the highest (warm
# white balance: 0.35, colour table: 1), and visible from this grey level.
COLOURED_SATURATION = 0.5
VISIBLE_LEVEL = 24
# Coloured pixels of this level or above may be outline: its darkest colour (dark red: 139), less
# the blur of resizing. If they cover more than this share of a frame, they are not.
LINE_LEVEL = 120
MOST_LINE = 0.6
# Coloured pixels are counted in blocks, this many rows by columns; the outline covers few of them.
BLOCKS = 8
# Colour (docs/facts.md 5) and width of decoded outlines, drawn around a region given as data. Of 3,
# 4 and 5 px, 4 px change the logits of the shipped bundle least, by 0.2 on average (14 simulated
# recordings with and without their own outline).
DECODED_COLOUR = (245, 102, 10)
LINE_PX = 4


class OutlineSettings(Settings):
    """How to find the outline.

    Attributes
    ----------
    rule : str
        ``contour`` finds the contour as a shape, despite resizing, specks and gaps;
        ``third-place`` and ``first-place`` are the published searches for its colour.
    """

    rule: Literal["contour", "third-place", "first-place"] = "contour"


@dataclass(frozen=True)
class Outline:
    """The outline of a segment.

    Attributes
    ----------
    box : Box
        Bounding box of the contour.
    contour : ndarray
        bool (H, W): pixels of the contour with its blurred edge, and of anything else drawn in the
        same colours.
    mask : ndarray
        bool (H, W): pixels enclosed by the contour, without the contour.
    is_closed : bool
        Whether the contour, possibly with the image border, encloses the segment. If not, the mask
        is the convex hull of the contour.
    frames_outlined : int
        Frames that show the published colour of an outline.
    remark : str
        Anything that a person should know about the outline, as a clause; may be empty.
    """

    box: Box
    contour: Mask
    mask: Mask
    is_closed: bool
    frames_outlined: int
    remark: str = ""


def find_outline(recording: Recording, settings: OutlineSettings | None = None) -> Outline:
    """Find the outline in a recording.

    Raises
    ------
    NoOutlineError
        If no contour in a warm colour encloses a segment. With the rule ``contour`` also if the
        recording itself is coloured, or the outline is filled or moves.
    SeveralOutlinesError
        If several segments are outlined. With a published rule, all orange pixels are one outline.
    """
    settings = settings or OutlineSettings()
    if len(recording.shape) != 4:
        raise NoOutlineError(
            f"{recording.path}: the recording is grey, so it has no outline. "
            "Draw a closed orange contour, RGB (255, 102, 0), around the segment, or call the "
            "vessels of a raw stack with 'stallscan stack'"
        )
    if settings.rule == "contour":
        return _find_contour(recording)
    rule = RULES[settings.rule]
    # Outside of this box, no pixel follows the rule in any frame.
    box = recording.coloured(rule.low[0] - rule.high[2])
    if box is None:
        raise _nothing_drawn(recording)
    scan = _scan(recording, rule, box)
    pixels = scan.first if rule.frames == "first" else scan.hit
    if not pixels.any():
        raise _nothing_drawn(recording)
    mask, is_closed = enclosure.enclosed(pixels, scan.beyond)
    return scan.outline(enclosure.box(pixels), pixels, mask, is_closed)


def draw(frames: Frames, region: Mask, line_px: int = LINE_PX) -> tuple[Frames, Outline]:
    """Draw the outline of a region that is given as data.

    Nets are trained on recordings with a drawn outline, so they need the same here.

    Parameters
    ----------
    frames : ndarray
        uint8 (T, H, W, 3) RGB or (T, H, W) grey.
    region : ndarray
        bool (H, W), not empty: the segment and a few pixels around it.
    line_px : int
        Width of the line, which is drawn around the region.

    Returns
    -------
    frames, outline
        A copy, uint8 (T, H, W, 3), and the outline, whose mask is the region.
    """
    colour = np.repeat(frames[..., None], 3, axis=-1) if frames.ndim == 3 else frames.copy()
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * line_px + 1,) * 2)
    line = (cv2.dilate(region.astype(np.uint8), disc) > 0) & ~region
    colour[:, line] = DECODED_COLOUR
    # A region that fills the frame has no room for a line.
    box = enclosure.box(line | region)
    return colour, Outline(box, line, region, bool(line.any()), len(frames))


@dataclass
class _Scan:
    """Statistics over all frames, for the part of the frame that may hold the outline.

    Attributes
    ----------
    frame : tuple of int
        (H, W).
    where : Box
        The part of the frame: anything that may be outline, with a margin that may exceed the
        frame; or the whole frame if the outline may touch its border. All arrays have the shape
        of this box, (h, w).
    hit : ndarray
        bool (h, w): pixels that follow the colour rule in any frame.
    first : ndarray
        bool (h, w): pixels that follow the colour rule in the first frame.
    mean : ndarray
        float32 (h, w, 3): mean of the frames.
    frames_outlined : int
        Frames in which enough pixels follow the colour rule.
    """

    frame: tuple[int, int]
    where: Box
    hit: Mask
    first: Mask
    mean: NDArray[np.float32]
    frames_outlined: int = 0

    @property
    def around(self) -> Box:
        """The part of `where` that is inside the frame."""
        return self.where.grown(0, self.frame)

    @property
    def beyond(self) -> int:
        """Pixels by which the frame is larger than `where`."""
        return self.frame[0] * self.frame[1] - self.hit.size

    def outline(
        self, box: Box, contour: Mask, mask: Mask, is_closed: bool, remark: str = ""
    ) -> Outline:
        """Return an outline found in `where` in the coordinates of the frame."""
        contour, mask = self._in_frame(contour), self._in_frame(mask)
        return Outline(self.in_frame(box), contour, mask, is_closed, self.frames_outlined, remark)

    def in_frame(self, box: Box) -> Box:
        """Return a box relative to `where` in the coordinates of the frame."""
        row, col = self.where.row0, self.where.col0
        return Box(box.row0 + row, box.row1 + row, box.col0 + col, box.col1 + col)

    def _in_frame(self, pixels: Mask) -> Mask:
        framed = np.zeros(self.frame, bool)
        framed[self.around.slices] = pixels[self.around.seen_from(self.where).slices]
        return framed


def _scan(
    recording: Recording, rule: ColourRule, box: Box, outlined: NDArray[np.bool_] | None = None
) -> _Scan:
    """Read all frames once, restricted to a box that contains everything outlined.

    The mean is that of the frames `outlined`, bool (T,), by default of every `MEAN_STRIDE`-th.
    """
    height, width = recording.shape[1:3]
    around = box.grown(AROUND_PX, (height, width))
    where = box.grown(AROUND_PX)
    # The border of the image closes contours that touch it, so it must not be moved.
    if box.grown(1, (height, width)) != box.grown(1):
        where = whole((height, width))
    scan = _Scan(
        (height, width),
        where,
        np.zeros(where.shape, bool),
        np.zeros(where.shape, bool),
        np.zeros((*where.shape, 3), np.float32),
    )
    inside = around.seen_from(where)
    hit = scan.hit[inside.slices]  # a view
    total = np.zeros((*around.shape, 3))
    summed = position = 0
    for chunk in recording.chunks(around):  # (n, h, w, 3) uint8
        follows = in_range(chunk, rule)  # (n, h * w), 0 or 255
        if position == 0:
            scan.first[inside.slices] = follows[0].reshape(around.shape) > 0
        hit |= follows.astype(bool).any(axis=0).reshape(around.shape)
        pixels = cv2.reduce(follows, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S) // 255  # (n, 1)
        scan.frames_outlined += int(np.count_nonzero(pixels >= enclosure.MIN_CONTOUR_PX))
        if outlined is None:
            sample = chunk[-position % MEAN_STRIDE :: MEAN_STRIDE]
        else:
            sample = chunk[outlined[position : position + len(chunk)]]
        if len(sample):
            flat = sample.reshape(len(sample), -1)
            total += cv2.reduce(flat, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).reshape(total.shape)
        summed += len(sample)
        position += len(chunk)
    if not summed:
        raise UnreadableError(
            f"{recording.path}: the file changed while it was read. Run the command again"
        )
    scan.mean[inside.slices] = total / summed
    return scan


def _find_contour(recording: Recording) -> Outline:
    if _is_coloured(recording):
        raise NoOutlineError(
            f"{recording.path}: the recording itself is coloured, so an outline cannot be detected "
            "in it. Export it in grey and draw the outline in orange, RGB (255, 102, 0)"
        )
    rule = RULES["third-place"]
    # Outside of this box, the mean of the frames has no contour.
    box = recording.coloured(MEAN_RED_OVER_BLUE, MEAN_STRIDE)
    error = _nothing_drawn(recording)
    if box is not None:
        try:
            return _contour_outline(recording, _scan(recording, rule, box))
        except NoOutlineError as reason:
            error = reason
    # The outline may be drawn in too few frames to show in the mean of all.
    box = recording.coloured(MEAN_RED_OVER_BLUE)
    outlined = frames_drawn_in(recording, box) if box else np.zeros(len(recording), bool)
    if box is None or not outlined.any():
        raise error
    if outlined.all():
        moved = displacement(recording) or 0.0
        raise moving_outline(recording, moved) if moved > MATCHED_PX else error
    return _contour_outline(recording, _scan(recording, rule, box, outlined))


def _is_coloured(recording: Recording) -> bool:
    """Return whether the recording is coloured by a colour table, not only by an outline."""
    frames = recording.thumbnails(len(recording) // 4, len(recording) // 2)  # (2, h, w, 3)
    red, green, blue = cv2.split(frames.reshape(-1, *frames.shape[2:]))  # (2 * h, w) each
    high = cv2.max(cv2.max(red, green), blue)
    low = cv2.min(cv2.min(red, green), blue)
    bright = high >= VISIBLE_LEVEL
    vivid = bright & (high - low >= COLOURED_SATURATION * high)
    # A small dark field shows little but the outline, so ignore possible lines and their blur,
    # unless they cover most of it.
    line = (vivid & (high >= LINE_LEVEL)).astype(np.uint8)
    near = cv2.dilate(line, np.ones((5, 5), np.uint8)) > 0
    if near.mean() < MOST_LINE:
        bright, vivid = bright & ~near, vivid & ~near
    # Share of bright and of vivid pixels in each block: (2 * BLOCKS, BLOCKS).
    size = (BLOCKS, len(frames) * BLOCKS)
    visible, coloured = (
        cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        for pixels in (bright, vivid)
    )
    blocks = np.count_nonzero(coloured > 0.5 * visible)
    return bool(blocks > visible.size / 3 and blocks > 0.5 * np.count_nonzero(visible))


def _contour_outline(recording: Recording, scan: _Scan) -> Outline:
    drawn = warmth(scan.mean)
    if cv2.countNonZero(drawn.view(np.uint8)) < enclosure.MIN_CONTOUR_PX:
        raise _nothing_drawn(recording)
    kept, segments = enclosure.find(drawn, scan.beyond)
    if not segments:
        raise NoOutlineError(
            f"{recording.path}: no contour in a warm colour encloses a segment. Draw one closed, "
            "unfilled contour around the segment, with at least "
            f"{enclosure.MIN_SEGMENT_PX} pixels inside"
        )
    # Another outline may be drawn in too few frames to show in the mean.
    far = cv2.dilate(drawn.astype(np.uint8), np.ones((17, 17), np.uint8)) == 0
    elsewhere = scan.hit & far
    if cv2.countNonZero(elsewhere.view(np.uint8)) >= enclosure.MIN_CONTOUR_PX:
        others = enclosure.find(elsewhere, scan.beyond)[1]
        segments += [each for each in others if each.area >= enclosure.MIN_SHARE * segments[0].area]
    if len(segments) > 1:
        raise SeveralOutlinesError(
            f"{recording.path}: {len(segments)} segments are outlined, expected one. "
            "Make a separate recording for each segment"
        )
    segment = segments[0]
    _refuse_filled(recording, scan.mean, segment)
    remarks = _remarks(recording, scan, segment)
    contour = kept | segment.line
    box = _box(scan, kept, segment.line)
    mask = segment.mask & ~contour
    return scan.outline(box, contour, mask, segment.is_closed, "; ".join(remarks))


def _box(scan: _Scan, kept: Mask, line: Mask) -> Box:
    """Return the bounding box of the contour.

    It is that of the published colour near the contour, to agree with published boxes. If resizing
    or another colour leaves too little of that, or something touches the contour, it is the box of
    the line itself.
    """
    near = cv2.dilate(line.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    strong = near & scan.hit
    of_line = enclosure.box(line)
    is_touched = bool((near & kept & ~line).any())
    if is_touched or strong.sum() < enclosure.MIN_CONTOUR_PX:
        return of_line
    of_strong = enclosure.box(strong)
    # A few pixels of a line in another colour may follow the published rule by chance.
    is_whole = max(abs(a - b) for a, b in zip(of_strong, of_line, strict=True)) <= STRONG_AWAY_PX
    return of_strong if is_whole else of_line


def _refuse_filled(recording: Recording, mean: NDArray[np.float32], segment: Enclosure) -> None:
    """Raise NoOutlineError if the mean of the frames (h, w, 3) is warmer inside than outside."""
    every = (slice(None, None, 2), slice(None, None, 2))  # half the resolution suffices
    excess = mean[*every, 0] - mean[*every, 2]
    # Stay away from the contour, whose colour the codec spreads over blocks.
    off = cv2.dilate(segment.line[every].astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    inside = np.sort(excess[segment.mask[every] & off])
    # Use dark pixels, the 10th percentile: a filling colours them, a white balance does not.
    if not inside.size or inside[inside.size // 10] < FILLED_RED_OVER_BLUE:
        return
    outside = excess[~segment.mask[every] & off]
    if inside[inside.size // 10] - np.median(outside) >= FILLED_RED_OVER_BLUE:
        raise NoOutlineError(
            f"{recording.path}: the outline is filled with colour, which hides the vessel. "
            "Draw only the contour"
        )


def _remarks(recording: Recording, scan: _Scan, segment: Enclosure) -> list[str]:
    """Return remarks if the outline is open, missing from some frames, or moves.

    Raises
    ------
    NoOutlineError
        If it moves too far to enclose the same segment in all frames.
    """
    # Large enough for the movement that is measured; `Recording` caches it for cutting the clip.
    around = scan.in_frame(enclosure.box(segment.line)).grown(AROUND_PX, scan.frame)
    line = segment.line[around.seen_from(scan.where).slices]
    rows, cols = np.nonzero(line)
    step = max(len(rows) // LOOKED_AT_PX, 1)
    rows, cols = rows[::step], cols[::step]
    counts = []
    for chunk in recording.chunks(around):
        colours = chunk[:, rows, cols]  # (n, about LOOKED_AT_PX, 3)
        excess = cv2.subtract(colours[..., 0], colours[..., 2])
        counts.append(np.count_nonzero(excess >= MEAN_RED_OVER_BLUE, axis=1))
    count = np.concatenate(counts)
    shown = count >= max(0.5 * count.max(), 1)
    moved = moved_px(recording, around, line, np.flatnonzero(shown))
    if moved > MATCHED_PX:
        moved = displacement(recording) or moved
    if moved > MOST_MOVED_SHARE * min(enclosure.box(segment.line).shape):
        raise moving_outline(recording, moved)
    remarks = []
    if not segment.is_closed:
        remarks.append("the outline is open, so its convex hull is used")
    if not shown.all():
        remarks.append(f"the outline is visible in only {shown.sum()} of {len(shown)} frames")
    if moved >= MOVED_PX:
        remarks.append(f"the outline moves by {moved:.0f} pixels")
    return remarks


def _nothing_drawn(recording: Recording) -> NoOutlineError:
    return NoOutlineError(
        f"{recording.path}: no outline found in any of its {len(recording)} frames. "
        "Draw a closed contour around the segment in orange, RGB (255, 102, 0), or another colour "
        "from red to yellow"
    )
