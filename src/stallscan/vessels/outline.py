"""The outline: the contour that was drawn around one vessel segment, its box and its mask.

Recordings are grey, the outline is orange (drawn (255, 102, 0), decoded on average (245, 102, 10);
docs/facts.md 5), so colour finds it: any warm hue from red over orange to yellow. What is drawn in
such a colour and encloses no segment is no outline. It must be found before any resizing: scaled
down, it opens.
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

# Every n-th frame enters the mean picture: the outline stands still, noise in 1/n suffices.
MEAN_STRIDE = 4
# Pixels around the contour that are looked at with it: more than the widest gap that is closed
# reaches, and than most clips show beyond it.
AROUND_PX = enclosure.AROUND_PX
# Pixels of the contour in each frame that tell whether it is there, and frames that tell where.
LOOKED_AT_PX = 60
# How far the box of the published colour may lie from that of the contour, pixels.
STRONG_AWAY_PX = 4
# Red minus blue that what is enclosed has beyond its surroundings: a translucent filling.
FILLED_RED_OVER_BLUE = 15.0
# A pixel is coloured if its highest channel exceeds its lowest by this share of the highest (a warm
# white balance: 0.35, a colour table: 1), and visible from this grey level on.
COLOURED_SATURATION = 0.5
VISIBLE_LEVEL = 24
# The darkest colour in which outlines are drawn (dark red: 139), less the blur of resizing; and the
# share of a frame above which that is no line.
LINE_LEVEL = 120
MOST_LINE = 0.6
# Blocks of the frame, in rows and columns, in which that is counted; the outline is in few of them.
BLOCKS = 8
# What decoded recordings show of the line (docs/facts.md 5); drawn around a region given as data.
# Of lines of 3, 4 and 5 px one of 4 changes the shipped bundle's logits least, by 0.2 on average
# (14 simulated recordings with and without their own line).
DECODED_COLOUR = (245, 102, 10)
LINE_PX = 4


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
        bool (H, W): pixels coloured by the contour, its blurred edge included, and by whatever else
        is drawn in such a colour.
    mask : ndarray
        bool (H, W): pixels enclosed by the contour, itself excluded.
    is_closed : bool
        Whether contour (and image border) enclose the segment. If not, the mask is the convex
        hull of what was drawn.
    frames_outlined : int
        Frames in which the published colour was seen, there or near it.
    remark : str
        What a person should know of it, a clause without a full stop; empty if nothing.
    """

    box: Box
    contour: Mask
    mask: Mask
    is_closed: bool
    frames_outlined: int
    remark: str = ""


def find_outline(recording: Recording, settings: OutlineSettings | None = None) -> Outline:
    """Find the one outline in a recording.

    Raises
    ------
    NoOutlineError
        If no contour in a warm colour encloses a segment in the recording; with the rule
        ``contour`` also if the recording itself is coloured, or the outline is filled or moves.
    SeveralOutlinesError
        If more than one segment is outlined (rule ``contour`` only; the published rules take all
        that is orange together).
    """
    settings = settings or OutlineSettings()
    if len(recording.shape) != 4:
        raise NoOutlineError(
            f"{recording.path}: the recording is grey, so no outline is drawn in it. "
            "Draw a closed orange contour, RGB (255, 102, 0), around the segment to be judged"
        )
    if settings.rule == "contour":
        return _find_contour(recording)
    rule = RULES[settings.rule]
    # Outside of this part no frame follows the rule.
    part = recording.coloured(rule.low[0] - rule.high[2])
    if part is None:
        raise _nothing_drawn(recording)
    seen = _look(recording, rule, part)
    pixels = seen.first if rule.frames == "first" else seen.hit
    if not pixels.any():
        raise _nothing_drawn(recording)
    mask, is_closed = enclosure.enclosed(pixels, seen.beyond)
    return seen.outline(enclosure.box(pixels), pixels, mask, is_closed)


def draw(frames: Frames, region: Mask) -> tuple[Frames, Outline]:
    """Draw an outline around a region that is given as data, as the recordings have it.

    Nets have learned from outlined recordings: they are shown the same here, line included, and
    what they leave out of those they leave out of these.

    Parameters
    ----------
    frames : ndarray
        uint8 (T, H, W, 3) RGB or (T, H, W).
    region : ndarray
        bool (H, W), not empty: the segment and a few pixels around it.

    Returns
    -------
    frames, outline
        A copy, uint8 (T, H, W, 3), and the outline, whose mask is the region.
    """
    colour = np.repeat(frames[..., None], 3, axis=-1) if frames.ndim == 3 else frames.copy()
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * LINE_PX + 1,) * 2)
    line = (cv2.dilate(region.astype(np.uint8), disc) > 0) & ~region
    colour[:, line] = DECODED_COLOUR
    # A region that fills the frame has no room for a line.
    box = enclosure.box(line | region)
    return colour, Outline(box, line, region, bool(line.any()), len(frames))


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
    def around(self) -> Box:
        """The part of `where` that lies in the frame."""
        return self.where.grown(0, self.frame)

    @property
    def beyond(self) -> int:
        """Pixels by which the frame is larger than `where`."""
        return self.frame[0] * self.frame[1] - self.hit.size

    def outline(
        self, box: Box, contour: Mask, mask: Mask, is_closed: bool, remark: str = ""
    ) -> Outline:
        """Say of what was found in `where` what it is in the frame."""
        contour, mask = self._in_frame(contour), self._in_frame(mask)
        return Outline(self.in_frame(box), contour, mask, is_closed, self.frames_outlined, remark)

    def in_frame(self, box: Box) -> Box:
        """Count the rows and columns of a box in `where` from those of the frame."""
        row, col = self.where.row0, self.where.col0
        return Box(box.row0 + row, box.row1 + row, box.col0 + col, box.col1 + col)

    def _in_frame(self, pixels: Mask) -> Mask:
        made = np.zeros(self.frame, bool)
        made[self.around.slices] = pixels[self.around.seen_from(self.where).slices]
        return made


def _look(
    recording: Recording, rule: ColourRule, part: Box, outlined: NDArray[np.bool_] | None = None
) -> _Seen:
    """Go through all frames once; nothing is outlined outside of `part`.

    The mean is that of the frames `outlined`, bool (T,), or of every few.
    """
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
        follows = in_range(chunk, rule)
        if position == 0:
            seen.first[inside.slices] = follows[0].reshape(around.shape) > 0
        hit |= follows.astype(bool).any(axis=0).reshape(around.shape)
        pixels = cv2.reduce(follows, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S) // 255
        seen.frames_outlined += int(np.count_nonzero(pixels >= enclosure.MIN_CONTOUR_PX))
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
        raise UnreadableError(f"{recording.path}: the file changed while it was read; try again")
    seen.mean[inside.slices] = total / summed
    return seen


def _find_contour(recording: Recording) -> Outline:
    if _is_coloured(recording):
        raise NoOutlineError(
            f"{recording.path}: the recording itself is coloured, so an outline cannot be told "
            "from it. Export it in grey and draw the outline in orange, RGB (255, 102, 0)"
        )
    rule = RULES["third-place"]
    # Outside of this part the mean of the frames is no contour.
    part = recording.coloured(MEAN_RED_OVER_BLUE, MEAN_STRIDE)
    error = _nothing_drawn(recording)
    if part is not None:
        try:
            return _contour_outline(recording, _look(recording, rule, part))
        except NoOutlineError as reason:
            error = reason
    # It may be drawn in a few frames, too few for their mean.
    part = recording.coloured(MEAN_RED_OVER_BLUE)
    outlined = frames_drawn_in(recording, part) if part else np.zeros(len(recording), bool)
    if part is None or not outlined.any():
        raise error
    if outlined.all():
        moved = displacement(recording) or 0.0
        raise moving_outline(recording, moved) if moved > MATCHED_PX else error
    return _contour_outline(recording, _look(recording, rule, part, outlined))


def _is_coloured(recording: Recording) -> bool:
    """Whether a colour table, and not only what is drawn, makes the recording coloured."""
    few = recording.thumbnails(len(recording) // 4, len(recording) // 2)
    red, green, blue = cv2.split(few.reshape(-1, *few.shape[2:]))
    high = cv2.max(cv2.max(red, green), blue)
    low = cv2.min(cv2.min(red, green), blue)
    seen = high >= VISIBLE_LEVEL
    vivid = seen & (high - low >= COLOURED_SATURATION * high)
    # In a small dark field there is little to see but the outline: what may be line, and its blur,
    # does not count, unless that is nearly all.
    line = (vivid & (high >= LINE_LEVEL)).astype(np.uint8)
    near = cv2.dilate(line, np.ones((5, 5), np.uint8)) > 0
    if near.mean() < MOST_LINE:
        seen, vivid = seen & ~near, vivid & ~near
    size = (BLOCKS, len(few) * BLOCKS)
    visible, coloured = (
        cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        for pixels in (seen, vivid)
    )
    blocks = np.count_nonzero(coloured > 0.5 * visible)
    return bool(blocks > visible.size / 3 and blocks > 0.5 * np.count_nonzero(visible))


def _contour_outline(recording: Recording, seen: _Seen) -> Outline:
    drawn = warmth(seen.mean)
    if cv2.countNonZero(drawn.view(np.uint8)) < enclosure.MIN_CONTOUR_PX:
        raise _nothing_drawn(recording)
    kept, found = enclosure.find(drawn, seen.beyond)
    if not found:
        raise NoOutlineError(
            f"{recording.path}: nothing drawn in a warm colour encloses a segment. Draw one closed "
            f"contour around it, not filled, with at least {enclosure.MIN_SEGMENT_PX} pixels inside"
        )
    # Another one may be drawn in frames too few for the mean.
    far = cv2.dilate(drawn.astype(np.uint8), np.ones((17, 17), np.uint8)) == 0
    elsewhere = seen.hit & far
    if cv2.countNonZero(elsewhere.view(np.uint8)) >= enclosure.MIN_CONTOUR_PX:
        others = enclosure.find(elsewhere, seen.beyond)[1]
        found += [each for each in others if each.area >= enclosure.MIN_SHARE * found[0].area]
    if len(found) > 1:
        raise SeveralOutlinesError(
            f"{recording.path}: {len(found)} segments are outlined, expected one. "
            "Make one recording for each outlined segment"
        )
    segment = found[0]
    _refuse_filled(recording, seen.mean, segment)
    remarks = _remarks(recording, seen, segment)
    contour = kept | segment.line
    box = _box(seen, kept, segment.line)
    mask = segment.mask & ~contour
    return seen.outline(box, contour, mask, segment.is_closed, "; ".join(remarks))


def _box(seen: _Seen, kept: Mask, line: Mask) -> Box:
    """Return the box of the contour.

    Of the published colour where it is seen in any frame, so that boxes agree with the published
    ones; of the blurred colour where resizing or another colour has left nothing else, or where
    something else touches the contour.
    """
    near = cv2.dilate(line.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    strong = near & seen.hit
    of_line = enclosure.box(line)
    is_touched = bool((near & kept & ~line).any())
    if is_touched or strong.sum() < enclosure.MIN_CONTOUR_PX:
        return of_line
    of_strong = enclosure.box(strong)
    # A few pixels of another colour follow the published rule by chance.
    is_whole = max(abs(a - b) for a, b in zip(of_strong, of_line, strict=True)) <= STRONG_AWAY_PX
    return of_strong if is_whole else of_line


def _refuse_filled(recording: Recording, mean: NDArray[np.float32], segment: Enclosure) -> None:
    every = (slice(None, None, 2), slice(None, None, 2))
    excess = mean[*every, 0] - mean[*every, 2]
    # Keep off the contour, whose colour the codec spreads over blocks.
    off = cv2.dilate(segment.line[every].astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    inside = np.sort(excess[segment.mask[every] & off])
    # The darkest pixels tell: a filling adds to them as to all others, a white balance does not.
    if not inside.size or inside[inside.size // 10] < FILLED_RED_OVER_BLUE:
        return
    outside = excess[~segment.mask[every] & off]
    if inside[inside.size // 10] - np.median(outside) >= FILLED_RED_OVER_BLUE:
        raise NoOutlineError(
            f"{recording.path}: the outline is filled with colour, which hides the vessel. "
            "Draw only its contour"
        )


def _remarks(recording: Recording, seen: _Seen, segment: Enclosure) -> list[str]:
    """Say in how many frames the outline is seen, by how far it moves, and whether it is open.

    Raises
    ------
    NoOutlineError
        If it moves too far to enclose the same segment in all frames.
    """
    # As far as an outline may move; clips are cut from this part, too.
    around = seen.in_frame(enclosure.box(segment.line)).grown(AROUND_PX, seen.frame)
    line = segment.line[around.seen_from(seen.where).slices]
    rows, cols = np.nonzero(line)
    step = max(len(rows) // LOOKED_AT_PX, 1)
    rows, cols = rows[::step], cols[::step]
    counts = []
    for chunk in recording.chunks(around):
        colours = chunk[:, rows, cols]
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
        remarks.append("the outline is open, so its convex hull was taken")
    if not shown.all():
        remarks.append(f"the outline is seen in {shown.sum()} of {len(shown)} frames")
    if moved >= MOVED_PX:
        remarks.append(f"the outline moves by {moved:.0f} pixels")
    return remarks


def _nothing_drawn(recording: Recording) -> NoOutlineError:
    return NoOutlineError(
        f"{recording.path}: no outline found in any of its {len(recording)} frames. "
        "Draw a closed contour in orange, RGB (255, 102, 0), or another colour from red to yellow "
        "around the segment to be judged"
    )
