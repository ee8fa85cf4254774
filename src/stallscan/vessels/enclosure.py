"""What drawn lines enclose: closed contours, contours of dashes, and open ones.

Text, scale bars, arrows and dots enclose nothing, or far less than a vessel segment.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.recordings.recording import Box

Mask = NDArray[np.bool_]
Ints = NDArray[np.integer[Any]]

# A contour that crosses fewer pixels than this is a speck (the real ones cross more than 140).
MIN_CONTOUR_PX = 40
# The smallest region, in pixels, that a contour cuts off.
MIN_ENCLOSED_PX = 100
# The smallest enclosed area that can be a segment (real ones enclose more than 1,150; a 320 x 240
# copy of one more than 400). Letters enclose less unless they are very large.
MIN_SEGMENT_PX = 200
# A region below this share of the largest one is a letter or a loop of the pen, no segment: areas
# of real segments differ by a factor of 6.
MIN_SHARE = 0.1
# What covers more of the image may be a frame around a segment: then all that is enclosed counts.
MAX_SEGMENT_SHARE = 0.33
# A line may cover this many times the area that it encloses (a line of 12 px around a real
# segment: 1.6); what covers more is filled, or text.
MAX_LINE_TO_AREA = 4.0
# Corners of real lines, 4 px wide, reach this far from what they enclose.
CORNER_PX = 7
# Dashes are joined over gaps up to this many pixels, dots included.
MAX_DASH_GAP_PX = 24
# Joined dashes must enclose this many times the pixels that they cover (drawn ones: 6 and more);
# letters that happen to form a ring do not.
MIN_DASHED_AREA = 3.0
MIN_DASH_PX = 6
MAX_DASHES = 400
# An open contour stands for its convex hull if it runs along this share of the hull's edge, and
# the hull is large enough not to be that of a letter.
MIN_HULL_DRAWN = 0.7
MIN_HULL_PX = 400
# Pixels around a piece that are looked at with it: more than the widest gap that is closed.
AROUND_PX = 12


class Enclosure(NamedTuple):
    """One contour and what it encloses.

    Attributes
    ----------
    line : ndarray
        bool (h, w): pixels of the contour, without what merely touches it.
    mask : ndarray
        bool (h, w): what it encloses, itself excluded.
    is_closed : bool
        Whether contour (and image border) enclose the mask. If not, it is the convex hull.
    area : int
        Pixels of the mask.
    """

    line: Mask
    mask: Mask
    is_closed: bool
    area: int


def find(drawn: Mask, beyond: int) -> tuple[Mask, list[Enclosure]]:
    """Find all contours that enclose as much as a vessel segment, the largest first.

    Parameters
    ----------
    drawn : ndarray
        bool (h, w): all pixels in the colour of an outline.
    beyond : int
        Pixels by which the image is larger than this part; 0 for the whole image. The border of a
        part is not that of the image: nothing drawn may reach either.

    Returns
    -------
    kept, found
        bool (h, w): what was drawn without specks; and the contours, none if nothing encloses
        anything. Nested and adjoining ones count separately.
    """
    labels, sizes = _labelled(drawn)
    sizes[sizes < MIN_CONTOUR_PX] = 0
    kept = drawn & (sizes > 0)[labels]
    pieces = list(_pieces(kept, labels, sizes))
    found = [each for piece in pieces for each in _of_piece(piece, beyond, len(pieces) == 1)]
    if not found and len(pieces) > 1:
        found = [each for each in _of_piece(kept, beyond, True) if each.area >= kept.sum()]
    found = found or _of_dashes(drawn, beyond)
    found = found or [hull for piece in pieces for hull in _open(piece)]
    largest = max((each.area for each in found), default=0)
    if largest <= MAX_SEGMENT_SHARE * (drawn.size + beyond):
        found = [each for each in found if each.area >= MIN_SHARE * largest]
    return kept, sorted(found, key=lambda each: -each.area)


def enclosed(drawn: Mask, beyond: int, cuts_corners: bool = True) -> tuple[Mask, bool]:
    """Fill the contour, with the image border closing it where it leaves the image.

    Parameters
    ----------
    drawn : ndarray
        bool (h, w): the contour.
    beyond : int
        As for `find`.
    cuts_corners : bool
        Whether a line from border to border encloses the smaller side.

    Returns
    -------
    mask, is_closed
        bool (h, w) without the contour itself, and whether anything was enclosed; if not, even
        over gaps of a few pixels, the mask is the convex hull.
    """
    hull = _hull(drawn)
    mask, regions = _filled(drawn, hull, beyond, cuts_corners)
    return (mask, True) if regions else (hull & ~drawn, False)


def _filled(drawn: Mask, hull: Mask, beyond: int, cuts_corners: bool) -> tuple[Mask, int]:
    """Return what is enclosed, bool (h, w), and in how many regions; none if nothing is."""
    for gap in (1, 3, 5, 9):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
        # Pad by repetition so that closing works at the image border, too.
        padded = np.pad(drawn, gap, mode="edge").astype(np.uint8)
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[gap:-gap, gap:-gap] > 0
        holes, regions = _holes(closed, hull, beyond, cuts_corners)
        mask = holes & ~drawn
        if mask.any():
            return mask, regions
    return np.zeros_like(drawn), 0


def box(pixels: Mask) -> Box:
    """Return the smallest box around the pixels, one at least."""
    col, row, width, height = cv2.boundingRect(pixels.astype(np.uint8))
    return Box(row, row + height, col, col + width)


def _labelled(drawn: Mask, bridge: int = 5) -> tuple[Ints, Ints]:
    """Label the pieces of the drawing from 1, int (h, w), and count the pixels of each."""
    # Pieces of a contour with small gaps belong together: connect them before counting.
    bridged = cv2.dilate(drawn.astype(np.uint8), np.ones((bridge, bridge), np.uint8))
    count, labels = cv2.connectedComponents(bridged, connectivity=8)
    numbers = np.asarray(labels, dtype=np.int32)
    return numbers, np.bincount(numbers[drawn], minlength=count)


def _pieces(drawn: Mask, labels: Ints, sizes: Ints) -> Iterator[Mask]:
    """Yield the pieces, bool (h, w), that have pixels.

    All pieces at the border of the image come together: it may have cut one contour.
    """
    if np.count_nonzero(sizes) < 2:
        if drawn.any():
            yield drawn
        return
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    at_border = (np.bincount(edge, minlength=len(sizes)) > 0) & (sizes > 0)
    if at_border.any():
        yield drawn & at_border[labels]
    for label in np.flatnonzero(~at_border & (sizes > 0)):
        yield drawn & (labels == label)


def _of_piece(piece: Mask, beyond: int, cuts_corners: bool) -> list[Enclosure]:
    """Find what one piece of the drawing encloses: more than one region if contours touch."""
    part = box(piece).grown(AROUND_PX)
    if part.grown(0, piece.shape) != part:  # near the border: how regions lie to it counts
        return _regions(piece, beyond, cuts_corners)
    rest = beyond + piece.size - part.shape[0] * part.shape[1]
    found = []
    for each in _regions(piece[part.slices], rest, cuts_corners):
        line, mask = np.zeros_like(piece), np.zeros_like(piece)
        line[part.slices], mask[part.slices] = each.line, each.mask
        found.append(each._replace(line=line, mask=mask))
    return found


def _regions(piece: Mask, beyond: int, cuts_corners: bool) -> list[Enclosure]:
    mask, regions = _filled(piece, _hull(piece), beyond, cuts_corners)
    if not regions:
        return []
    masks = [mask] if regions == 1 else _segments(piece, mask)
    found = [Enclosure(_line(piece, each), each, True, int(each.sum())) for each in masks]
    return [each for each in found if _is_contour(each)]


def _segments(piece: Mask, mask: Mask) -> list[Mask]:
    """Divide what one piece encloses in several regions into segments."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=4
    )
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    at_border = np.bincount(border, minlength=count) > 0
    large = areas >= max(MIN_ENCLOSED_PX, MIN_SHARE * areas.max())
    # The image border cuts a contour that leaves it and comes back into regions of one segment.
    _, together = cv2.connectedComponents(
        cv2.dilate((piece | mask).astype(np.uint8), np.ones((3, 3), np.uint8)), connectivity=8
    )
    group = np.zeros(count, np.int64)
    group[labels.ravel()] = together.ravel()
    segments = [labels == label for label in np.flatnonzero(large & ~at_border)]
    for each in np.unique(group[large & at_border]):
        segments.append((at_border & (group == each))[labels] & mask)
    if len(segments) == 1:
        # Letters that touch the contour are no part of the segment, crumbs of its mask are.
        letters = ~large & ~at_border & (areas >= MIN_ENCLOSED_PX)
        return [mask & ~letters[labels]]
    return segments


def _is_contour(found: Enclosure) -> bool:
    covered = cv2.countNonZero(found.line.view(np.uint8))
    return found.area >= MIN_SEGMENT_PX and covered <= MAX_LINE_TO_AREA * found.area


def _line(piece: Mask, mask: Mask) -> Mask:
    """Drop from a contour what sticks out of it: a label, an arrow, a scale bar that touches it."""
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((2 * CORNER_PX + 1,) * 2, np.uint8)) > 0
    if not (piece & ~wide).any():
        return piece
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    # Half of a line's pixels lie within half its width of what it encloses; corners reach further
    # out than the width.
    reach = 2.5 * float(np.median(away[piece])) + 2
    return np.asarray(piece & (away <= reach))


def _of_dashes(drawn: Mask, beyond: int) -> list[Enclosure]:
    """Join dashes or dots, each to its two nearest neighbours, and keep the ring that results."""
    # Only gaps that are closed anyhow lie inside of a dash.
    labels, sizes = _labelled(drawn, bridge=3)
    sizes[sizes < MIN_DASH_PX] = 0
    drawn = drawn & (sizes > 0)[labels]
    if not 3 <= np.count_nonzero(sizes[1:]) <= MAX_DASHES:
        return []
    labels = np.where(drawn, labels, 0)
    rings = _rings(_gaps(labels))
    found = []
    for ring in rings:
        dashes = np.isin(labels, [label for gap in ring for label in gap.pair])
        joined: Any = dashes.astype(np.uint8)
        for gap in ring:
            cv2.line(joined, gap.start, gap.end, 1, 2)
        for each in _of_piece(joined > 0, beyond, True):
            if each.area >= MIN_DASHED_AREA * np.count_nonzero(dashes):
                found.append(each._replace(line=dashes, mask=each.mask & ~dashes))
    return found


class _Gap(NamedTuple):
    """Where two dashes are nearest: their labels, and a point (column, row) of each."""

    pair: tuple[int, int]
    start: tuple[int, int]
    end: tuple[int, int]


def _gaps(labels: Ints) -> list[_Gap]:
    """Find the gaps between neighbouring dashes, int (h, w), the narrowest first."""
    away, nearest = cv2.distanceTransformWithLabels(
        (labels == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    place = np.zeros(int(nearest.max()) + 1, np.int64)
    inside = np.flatnonzero(labels)
    place[nearest.ravel()[inside]] = inside
    owner = labels.ravel()[place][nearest]
    # Neighbouring pixels that are nearest to different dashes lie in the middle between the two.
    found = []
    for step in ((slice(1, None), slice(None)), (slice(None), slice(1, None))):
        back = tuple(slice(None, -1) if each.start else each for each in step)
        differ = owner[step] != owner[back]
        found.append(
            np.stack(
                [
                    nearest[back][differ],
                    nearest[step][differ],
                    10 * (away[back][differ] + away[step][differ]),
                ]
            )
        )
    first, second, width = np.concatenate(found, axis=1).astype(np.int64)
    order = np.argsort(width, kind="stable")
    order = order[width[order] <= 10 * MAX_DASH_GAP_PX]
    ends = place[np.stack([first[order], second[order]])]
    pairs = np.sort(labels.ravel()[ends], axis=0)
    _, kept = np.unique(pairs, axis=1, return_index=True)
    width_px = labels.shape[1]
    return [
        _Gap(
            (int(pairs[0, each]), int(pairs[1, each])),
            (int(ends[0, each] % width_px), int(ends[0, each] // width_px)),
            (int(ends[1, each] % width_px), int(ends[1, each] // width_px)),
        )
        for each in np.sort(kept)
    ]


def _rings(gaps: Sequence[_Gap]) -> list[list[_Gap]]:
    """Bridge narrow gaps first, two at each dash; return the closed rings of three or more."""
    bridged: dict[int, list[_Gap]] = {}
    for gap in gaps:
        if all(len(bridged.get(dash, [])) < 2 for dash in gap.pair):
            for dash in gap.pair:
                bridged.setdefault(dash, []).append(gap)
    rings, seen = [], set[int]()
    for dash in bridged:
        ring: list[_Gap] = []
        waiting = [dash]
        members = set[int]()
        while waiting:
            at = waiting.pop()
            if at not in seen:
                seen.add(at)
                members.add(at)
                ring += [gap for gap in bridged[at] if gap not in ring]
                waiting += [other for gap in bridged[at] for other in gap.pair]
        if len(members) >= 3 and len(ring) == len(members):
            rings.append(ring)
    return rings


def _open(piece: Mask) -> list[Enclosure]:
    """Take a contour that is nearly closed for its convex hull."""
    hull = _hull(piece)
    edge = hull & ~(cv2.erode(np.pad(hull, 1).astype(np.uint8), np.ones((3, 3)))[1:-1, 1:-1] > 0)
    near = cv2.dilate(piece.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    found = Enclosure(piece, hull & ~piece, False, int((hull & ~piece).sum()))
    drawn = np.count_nonzero(edge & near) / np.count_nonzero(edge)
    is_outline = drawn >= MIN_HULL_DRAWN and found.area >= MIN_HULL_PX
    return [found] if is_outline and found.area >= np.count_nonzero(piece) else []


def _holes(contour: Mask, hull: Mask, beyond: int, cuts_corners: bool) -> tuple[Mask, int]:
    """Return what contour and image border cut off from the rest, and in how many regions."""
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
    enclosed_ones = regions & (~at_border | (inside_hull >= 0.9 * areas))
    if not enclosed_ones.any() and cuts_corners:
        # An arc across a corner of the image: the region it cuts off is not in its hull.
        enclosed_ones = regions & (areas < areas[regions].max(initial=0))
    return np.asarray(enclosed_ones[labels]), int(np.count_nonzero(enclosed_ones))


def _hull(drawn: Mask) -> Mask:
    rows, cols = np.nonzero(drawn)
    points = np.stack([cols, rows], axis=1).astype(np.int32)
    filled: Any = np.zeros(drawn.shape, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return np.asarray(filled > 0)
